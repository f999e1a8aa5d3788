// CheckpointRequest: one signal that reaches ranks at different steps asks for one checkpoint, and no signal
// is lost.
#include "launcher/checkpoint_request.h"

#include <gtest/gtest.h>

namespace trireme {
namespace {

using std::chrono::seconds;

class CheckpointRequestTest : public testing::Test {
 protected:
  CheckpointRequest request_;
  CheckpointRequest::Clock::time_point now_ = CheckpointRequest::Clock::now();
};

TEST_F(CheckpointRequestTest, EverySignalAsksOnce) {
  for (int i = 0; i < 2; ++i) {
    EXPECT_FALSE(request_.ask(false, now_));
    EXPECT_TRUE(request_.ask(true, now_));
    EXPECT_FALSE(request_.ask(false, now_));
    request_.served(now_);
  }
}

TEST_F(CheckpointRequestTest, SignalAfterTheCheckpointThatAnotherRankAskedForIsTheSameOne) {
  request_.served(now_);
  EXPECT_FALSE(request_.ask(true, now_ + seconds(1)));
  EXPECT_TRUE(request_.ask(true, now_ + seconds(2))) << "the next signal is a new one";
}

TEST_F(CheckpointRequestTest, MuchLaterSignalIsANewOne) {
  request_.served(now_);
  EXPECT_TRUE(request_.ask(true, now_ + CheckpointRequest::kSpread));
}

TEST_F(CheckpointRequestTest, AskedWhileAnotherRanksRequestWasBeingServed) {
  EXPECT_TRUE(request_.ask(true, now_));  // for the next step already
  request_.served(now_);
  EXPECT_TRUE(request_.ask(true, now_ + seconds(1)));
}

}  // namespace
}  // namespace trireme
