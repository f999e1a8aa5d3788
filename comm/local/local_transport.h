// Messages between threads of one process: what matches is copied from memory to memory, by whoever comes
// second.
#pragma once

#include <condition_variable>
#include <deque>
#include <map>
#include <mutex>
#include <tuple>

#include "comm/transport.h"

namespace trireme::comm {

/// What the ranks of a LocalWorld share. Thread-safe.
class LocalFabric {
 public:
  explicit LocalFabric(int size) : ranks_(static_cast<size_t>(size)) {}
  int size() const { return static_cast<int>(ranks_.size()); }

 private:
  friend class LocalTransport;
  friend class LocalRequest;
  struct Post;                                   // one side of a message
  using Route = std::tuple<int, int, uint32_t>;  // from, to, tag
  struct Rank {
    std::condition_variable changed;
    uint64_t num_events = 0;  // messages that were posted to or taken from this rank
  };
  void match(const Route& route);
  void notify(int rank);

  std::mutex mutex_;
  std::vector<Rank> ranks_;
  std::map<Route, std::deque<std::shared_ptr<Post>>> sends_, recvs_;
};

class LocalTransport final : public Transport {
 public:
  LocalTransport(LocalFabric& fabric, int rank) : fabric_(fabric), rank_(rank) {}
  int rank() const override { return rank_; }
  int size() const override { return fabric_.size(); }
  std::unique_ptr<Request> send(int to, uint32_t tag, std::span<const std::byte> data) override;
  std::unique_ptr<Request> recv(int from, uint32_t tag, std::span<std::byte> data) override;
  bool can_cancel() const override { return true; }
  void pause(std::chrono::microseconds idle) override;
  void wake() override;

 private:
  LocalFabric& fabric_;
  int rank_;
  uint64_t num_seen_ = 0;
};

}  // namespace trireme::comm
