// MessageGate: keeps both ends of a channel of messages from launching their kernels before either can go on.
// NCCL's kernels hold multiprocessors while they wait for their peer; streams that wait here hold none. It is
// a hint: NCCL still sees to it that what is received was sent.
//
// Both ends write and await numbers in memory that two processes of a machine share. Where they can't share
// any, as on two machines, there is no gate.
#pragma once

#include <nccl.h>

#include <atomic>
#include <memory>

#include "comm/nccl/shared_words.h"

namespace trireme::comm {

class MessageGate {
 public:
  /// Of the channel whose ends meet by `id`, by the sender, before the receiver knows the id; null where it
  /// can't be made. The present device is the channel's, and takes no more than kMost at a time.
  static std::unique_ptr<MessageGate> make(const ncclUniqueId& id);
  /// By the receiver; null where there is none to be found.
  static std::unique_ptr<MessageGate> join(const ncclUniqueId& id);
  /// Streams that wait must not share one of the GPU's 32 queues with each other, nor with what computes.
  static constexpr int kMost = 16;
  ~MessageGate();
  MessageGate(const MessageGate&) = delete;
  MessageGate& operator=(const MessageGate&) = delete;

  /// Whether the receiver has joined; known once the channel is connected. Else the sender must not use it.
  bool joined() const;
  /// What `stream` does next sends, or receives, the next message: it waits for the peer's stream to come as
  /// far.
  void pass(cudaStream_t stream);
  /// Nobody waits here any longer.
  void open() noexcept;

 private:
  enum class End : uint8_t { sender, receiver };
  MessageGate(End end, std::shared_ptr<void> place, std::unique_ptr<SharedWords> words);
  static std::shared_ptr<void> take_place();

  const End end_;
  const std::shared_ptr<void> place_;  // of kMost
  std::unique_ptr<SharedWords> words_;
  std::atomic<bool> opened_ = false;  // perhaps by a thread that gives the messages up
  uint32_t messages_ = 0;
};

}  // namespace trireme::comm
