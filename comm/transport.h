// Transport: messages between two ranks, without blocking. What every group of messages (comm/direct_group.h)
// is built on; implemented by comm/local (threads) and comm/mpi (processes).
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

namespace trireme::comm {

/// A message on its way. The memory it reads or writes must stay until it is done, or destroyed where the
/// transport can_cancel().
class Request {
 public:
  virtual ~Request() = default;
  virtual bool done() = 0;
};

/// Messages from one rank to another with one tag match in the order of the calls. Not thread-safe:
/// CommEngine sees to it that one thread at a time calls.
class Transport {
 public:
  virtual ~Transport() = default;
  virtual int rank() const = 0;
  virtual int size() const = 0;

  virtual std::unique_ptr<Request> send(int to, uint32_t tag, std::span<const std::byte> data) = 0;
  /// The message must not be longer than `data`.
  virtual std::unique_ptr<Request> recv(int from, uint32_t tag, std::span<std::byte> data) = 0;

  /// Whether destroying a request that is not done leaves its memory alone from then on.
  virtual bool can_cancel() const = 0;
  /// Waits a little for messages to move; `idle` is how long none has.
  virtual void pause(std::chrono::microseconds idle) = 0;
  /// Ends a pause() at once; the one function that any thread may call.
  virtual void wake() {}
};

}  // namespace trireme::comm
