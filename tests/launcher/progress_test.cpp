// The progress line's words, and when it is printed.
#include "launcher/progress.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>

namespace trireme {
namespace {

using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr Progress kProgress{.step = 120,
                             .steps = 1000,
                             .loss = 3.21449,
                             .valid_loss = 3.3,
                             .lr = 6e-4,
                             .grad_norm = 0.98123,
                             .tokens_per_s = 12345,
                             .peak_share = 0.451,
                             .memory_bytes = size_t{5} << 28,
                             .left_s = 200.2,
                             .skipped_steps = 0};

TEST(Progress, FormatsEveryNumber) {
  EXPECT_EQ(format_progress(kProgress),
            "step 120/1000  loss 3.2145  valid 3.3000  lr 6.00e-04  grad 0.981  12.3k tok/s  45% of peak  "
            "1.2 GiB  3m20s left");
  Progress p = kProgress;
  p.valid_loss.reset(), p.peak_share.reset(), p.left_s.reset(), p.skipped_steps = 2;
  EXPECT_EQ(format_progress(p),
            "step 120/1000  loss 3.2145  lr 6.00e-04  grad 0.981  12.3k tok/s  1.2 GiB  2 skipped");
  p.loss_scale = 65536.0;
  EXPECT_THAT(format_progress(p), HasSubstr("grad 0.981  scale 65536  12.3k tok/s"));
}

TEST(Progress, FormatsUnits) {
  EXPECT_EQ(format_count(7), "7");
  EXPECT_EQ(format_count(999.4), "999");
  EXPECT_EQ(format_count(999.6), "1.0k");
  EXPECT_EQ(format_count(123456), "123k");
  EXPECT_EQ(format_count(2.5e9), "2.5G");
  EXPECT_EQ(format_bytes(0), "0 B");
  EXPECT_EQ(format_bytes(1536), "1.5 KiB");
  EXPECT_EQ(format_bytes(size_t{200} << 20), "200 MiB");
  EXPECT_EQ(format_duration(59.4), "59s");
  EXPECT_EQ(format_duration(59.6), "1m00s");
  EXPECT_EQ(format_duration(3725), "1h02m");
  EXPECT_EQ(format_duration(90000), "1d01h");
}

/// What a printer writes for steps 1 to 10 of 10, with a note after the second and one after the end.
std::string printed(bool terminal, int64_t log_every) {
  char* text = nullptr;
  size_t size = 0;
  std::FILE* out = open_memstream(&text, &size);
  {
    ProgressPrinter printer(out, terminal, log_every);
    for (int64_t step = 1; step <= 10; ++step) {
      Progress p = kProgress;
      p.step = step, p.steps = 10;
      printer.show(p);
      if (step == 2) printer.note("a note");
    }
    printer.end();
    printer.note("the last words");
  }
  std::fclose(out);
  const std::string result(text, size);
  std::free(text);
  return result;
}

TEST(Progress, PlainLinesComeEveryLogEverySteps) {
  const std::string text = printed(false, 4);
  for (int step : {1, 4, 8, 10}) EXPECT_THAT(text, HasSubstr("step " + std::to_string(step) + "/10 "));
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 6);
  EXPECT_THAT(text, HasSubstr("\na note\n"));
  EXPECT_THAT(text, Not(HasSubstr("\r")));
  EXPECT_THAT(text, Not(HasSubstr("\x1b")));
}

TEST(Progress, ATerminalHasOneLineAndNotesAboveIt) {
  const std::string text = printed(true, 4);
  EXPECT_THAT(text, HasSubstr("\rstep 1/10"));
  EXPECT_THAT(text,
              HasSubstr("\ra note\x1b[K\nstep 2/10"));  // the note in place of the line, which then follows
  EXPECT_THAT(text, Not(HasSubstr("step 3/10")));       // too soon after the first to be read
  EXPECT_THAT(text, HasSubstr("\rstep 10/10"));         // the last step is always shown
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 3);
  EXPECT_THAT(text, EndsWith("\x1b[K\nthe last words\n"));  // the line is not shown again
}

TEST(Progress, TheNewestLineIsTheOneThatStays) {
  char* text = nullptr;
  size_t size = 0;
  std::FILE* out = open_memstream(&text, &size);
  {
    ProgressPrinter printer(out, true, 1);
    Progress p = kProgress;
    for (p.step = 1; p.step <= 5; ++p.step) printer.show(p);  // a run of 1000 steps that is stopped
  }
  std::fclose(out);
  EXPECT_THAT(std::string(text, size), HasSubstr("\rstep 5/1000"));
  std::free(text);
}

TEST(Progress, TheLauncherSaysWhetherSomebodyWatches) {
  setenv("TRIREME_TERMINAL", "1", 1);
  EXPECT_TRUE(output_is_terminal());
  setenv("TRIREME_TERMINAL", "0", 1);
  EXPECT_FALSE(output_is_terminal());
  unsetenv("TRIREME_TERMINAL");
}

TEST(Progress, TimeLeftFollowsTheMeanStep) {
  RemainingTime time;
  EXPECT_FALSE(time.left_s(10));
  time.add_step(100);
  EXPECT_DOUBLE_EQ(*time.left_s(10), 1.0);
  time.add_step(200);
  EXPECT_DOUBLE_EQ(*time.left_s(10), 1.1);
}

}  // namespace
}  // namespace trireme
