// What a step says of itself.
#include "launcher/train_step.h"

#include <gmock/gmock.h>

#include "tests/launcher/late_steps.h"

namespace trireme {
namespace {

using ::testing::AllOf;
using ::testing::Each;
using ::testing::Gt;
using ::testing::Lt;
using std::chrono_literals::operator""ms;
using std::chrono_literals::operator""s;

TEST(RecordModeTest, IsInPiecesOverNetworks) {
  EXPECT_EQ(record_mode("auto", /*on_one_machine=*/true), RecordMode::in_one);
  EXPECT_EQ(record_mode("auto", false), RecordMode::pieces);
  EXPECT_EQ(record_mode("whole", true), RecordMode::in_one);
  EXPECT_EQ(record_mode("whole", false), RecordMode::pieces);
  EXPECT_EQ(record_mode("pieces", true), RecordMode::pieces);
  EXPECT_EQ(record_mode("off", true), RecordMode::none);
}

TEST(RecordModeTest, HasCopiesInTheGraphUnlessTheyAreTensorRanks) {
  EXPECT_TRUE(captures_copies("auto", /*tensor_ranks=*/1));
  EXPECT_FALSE(captures_copies("auto", 2));
  EXPECT_TRUE(captures_copies("whole", 2));
  EXPECT_FALSE(captures_copies("pieces", 1));
  EXPECT_FALSE(captures_copies("off", 1));
}

TEST(TrainStepTest, TakesTheTimeOfTheWorkNotOfTheHostThatComesLate) {
  EXPECT_THAT(times_of_late_steps(make_cpu_backend(1), 1000ms), Each(AllOf(Gt(0s), Lt(500ms))));
}

}  // namespace
}  // namespace trireme
