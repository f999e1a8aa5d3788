// Streams that wait for one another at the gate of a channel of messages.
#include "comm/nccl/message_gate.h"

#include <gtest/gtest.h>

#include <chrono>
#include <thread>
#include <vector>

#include "comm/nccl/communicator.h"
#include "core/backend/cuda/cuda_backend.h"
#include "tests/cuda/gpu.h"

namespace trireme::comm {
namespace {

class MessageGateCuda : public ::testing::Test {
 protected:
  void SetUp() override {
    TRIREME_NEEDS_GPUS(1);
    backend_ = make_cuda_backend();
    a_ = backend_->make_stream(), b_ = backend_->make_stream();
    id_ = new_nccl_id();
    sender_ = MessageGate::make(id_);
    ASSERT_TRUE(sender_);
  }

  /// Is done when `stream` has passed the gate.
  std::unique_ptr<Event> pass(MessageGate& gate, Stream& stream) {
    gate.pass(cuda::raw_stream(stream));
    auto passed = backend_->make_event();
    passed->record(stream);
    return passed;
  }

  static void expect_waiting(const Event& passed) {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    EXPECT_FALSE(passed.done());
  }

  std::unique_ptr<Backend> backend_;
  std::unique_ptr<Stream> a_, b_;
  ncclUniqueId id_;
  std::unique_ptr<MessageGate> sender_;
};

TEST_F(MessageGateCuda, EachEndWaitsForTheOther) {
  const auto receiver = MessageGate::join(id_);
  ASSERT_TRUE(receiver);
  EXPECT_TRUE(sender_->joined());
  for (int message = 0; message < 1500; ++message) {  // more than there are words
    const bool receiver_first = message % 2 == 0;
    const auto passed = pass(receiver_first ? *receiver : *sender_, *a_);
    if (message % 500 < 2) expect_waiting(*passed);
    pass(receiver_first ? *sender_ : *receiver, *b_);
    a_->synchronize();
    b_->synchronize();
  }
}

TEST_F(MessageGateCuda, ADeviceHasNoMoreThanItHasQueuesFor) {
  std::vector<std::unique_ptr<MessageGate>> gates;
  for (int i = 1; i < MessageGate::kMost; ++i) {  // the sender is one
    gates.push_back(MessageGate::make(new_nccl_id()));
    EXPECT_TRUE(gates.back());
  }
  EXPECT_FALSE(MessageGate::make(new_nccl_id()));
  EXPECT_FALSE(MessageGate::join(id_));
  EXPECT_FALSE(sender_->joined());
  gates.pop_back();
  EXPECT_TRUE(MessageGate::join(id_));
}

TEST_F(MessageGateCuda, OneEndMayBeMessagesAhead) {
  const auto receiver = MessageGate::join(id_);
  const auto first = pass(*sender_, *a_), second = pass(*sender_, *a_);
  pass(*receiver, *b_);
  b_->synchronize();
  first->synchronize();
  expect_waiting(*second);
  pass(*receiver, *b_);
  a_->synchronize();
  b_->synchronize();  // it reads the gate's words too
}

TEST_F(MessageGateCuda, NobodyWaitsAtAnOpenOne) {
  const auto receiver = MessageGate::join(id_);
  const auto waiting = pass(*receiver, *a_);
  expect_waiting(*waiting);
  receiver->open();
  a_->synchronize();
  pass(*sender_, *b_);  // what it writes does not close the gate to the messages after it
  b_->synchronize();
  pass(*receiver, *a_);
  a_->synchronize();
}

TEST_F(MessageGateCuda, ASenderKnowsThatNobodyJoined) {
  EXPECT_FALSE(sender_->joined());
  EXPECT_FALSE(MessageGate::join(new_nccl_id()));
  EXPECT_FALSE(MessageGate::make(id_)) << "there is one of this id";
  sender_.reset();
  EXPECT_FALSE(MessageGate::join(id_));
}

}  // namespace
}  // namespace trireme::comm
