#include "comm/local/local_transport.h"

#include <algorithm>
#include <cstring>

#include "core/error.h"

namespace trireme::comm {
namespace {

constexpr size_t kEagerBytes = 8192;  // a send up to this size is done at once: the message is copied
constexpr auto kLongestPause = std::chrono::milliseconds(5);

}  // namespace

struct LocalFabric::Post {
  Route route;
  std::vector<std::byte> copy;      // of an eager send
  std::span<const std::byte> from;  // of a send
  std::span<std::byte> to;          // of a receive
  bool done = false;
};

class LocalRequest final : public Request {
 public:
  LocalRequest(LocalFabric& fabric, std::shared_ptr<LocalFabric::Post> post)
      : fabric_(fabric), post_(std::move(post)) {}
  ~LocalRequest() override {
    std::lock_guard lock(fabric_.mutex_);
    if (post_->done) return;
    for (auto* posts : {&fabric_.sends_, &fabric_.recvs_}) {
      const auto found = posts->find(post_->route);
      if (found != posts->end()) std::erase(found->second, post_);
    }
  }
  bool done() override {
    std::lock_guard lock(fabric_.mutex_);
    return post_->done;
  }

 private:
  LocalFabric& fabric_;
  std::shared_ptr<LocalFabric::Post> post_;
};

void LocalFabric::notify(int rank) {
  ++ranks_[static_cast<size_t>(rank)].num_events;
  ranks_[static_cast<size_t>(rank)].changed.notify_all();
}

/// With mutex_ held: completes the oldest send and receive of the route when both are there.
void LocalFabric::match(const Route& route) {
  auto sends = sends_.find(route), recvs = recvs_.find(route);
  if (sends == sends_.end() || recvs == recvs_.end()) return;
  while (!sends->second.empty() && !recvs->second.empty()) {
    Post& send = *sends->second.front();
    Post& recv = *recvs->second.front();
    TRIREME_ASSERT(send.from.size() <= recv.to.size(), "a message is longer than its receiver expects");
    if (!send.from.empty()) std::memcpy(recv.to.data(), send.from.data(), send.from.size());
    send.done = recv.done = true;
    sends->second.pop_front();
    recvs->second.pop_front();
    notify(std::get<0>(route));
    notify(std::get<1>(route));
  }
  if (sends->second.empty()) sends_.erase(sends);
  if (recvs->second.empty()) recvs_.erase(recvs);
}

std::unique_ptr<Request> LocalTransport::send(int to, uint32_t tag, std::span<const std::byte> data) {
  auto post = std::make_shared<LocalFabric::Post>();
  post->route = {rank_, to, tag};
  post->from = data;
  const bool eager = data.size() <= kEagerBytes;
  if (eager) {
    post->copy.assign(data.begin(), data.end());
    post->from = post->copy;
  }
  std::lock_guard lock(fabric_.mutex_);
  fabric_.sends_[post->route].push_back(post);
  fabric_.match(post->route);
  if (eager) post->done = true;
  return std::make_unique<LocalRequest>(fabric_, std::move(post));
}

std::unique_ptr<Request> LocalTransport::recv(int from, uint32_t tag, std::span<std::byte> data) {
  auto post = std::make_shared<LocalFabric::Post>();
  post->route = {from, rank_, tag};
  post->to = data;
  std::lock_guard lock(fabric_.mutex_);
  fabric_.recvs_[post->route].push_back(post);
  fabric_.match(post->route);
  return std::make_unique<LocalRequest>(fabric_, std::move(post));
}

void LocalTransport::pause(std::chrono::microseconds) {
  std::unique_lock lock(fabric_.mutex_);
  auto& mine = fabric_.ranks_[static_cast<size_t>(rank_)];
  mine.changed.wait_for(lock, kLongestPause, [&] { return mine.num_events != num_seen_; });
  num_seen_ = mine.num_events;
}

void LocalTransport::wake() {
  std::lock_guard lock(fabric_.mutex_);
  fabric_.notify(rank_);
}

}  // namespace trireme::comm
