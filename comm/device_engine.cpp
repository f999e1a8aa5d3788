#include "comm/device_engine.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <sched.h>

#include <algorithm>

#include "comm/monitor.h"
#include "core/trace.h"

namespace trireme::comm {
namespace {

using std::chrono::microseconds;
constexpr microseconds kCheckPeriod{1000};        // of the link and the host group
constexpr microseconds kUnissuedPeriod{50};       // something is about to be issued: a stream may wait for it
constexpr microseconds kTracedPeriod{100};        // spans end as exactly as this
constexpr microseconds kIssuedPeriod{1000};       // tensors are given back as late as this
constexpr microseconds kSpin{1000}, kSleep{50};   // of a caller that waits
constexpr auto kPatience = std::chrono::seconds(1);
/// Operations of one queue that the device has and has not done. A device takes about a thousand commands of a stream;
/// then it would hold up the thread that has to notice when a peer is gone.
constexpr size_t kMaxIssued = 64;

}  // namespace

DeviceEngine::DeviceEngine(Group& host, std::unique_ptr<DeviceLink> link)
    : host_(host),
      world_rank_(host.world_rank(host.rank())),
      name_(host.name()),
      link_(std::move(link)),
      next_check_(Clock::now()),
      thread_([this] { run_thread(); }) {}

void DeviceEngine::submit(std::shared_ptr<DeviceOperation> operation) {
  {
    Lock lock(mutex_);
    operation->engine_ = shared_from_this();
    if (!failure_)
      if (const auto reason = host_.failure()) give_up_all(*reason);
    if (failure_) return mark_failed(*operation, given_up(*operation, *failure_));
    queues_[operation->queue].operations.push_back(std::move(operation));
    progress();
  }
  changed_.notify_one();
}

void DeviceEngine::use_idle(const QueueKey& queue, const std::function<void()>& use) {
  const Lock lock(mutex_);
  if (!failure_ && is_issued(queue)) use();
}

void DeviceEngine::drive_until_issued(const QueueKey& queue) {
  drive_until([&] { return is_issued(queue); });
}

bool DeviceEngine::is_issued(const QueueKey& queue) const {
  const auto found = queues_.find(queue);
  return found == queues_.end() || found->second.num_issued == found->second.operations.size();
}

void DeviceEngine::run_thread() {
  Lock lock(mutex_);
  try {
    link_->enter_thread();
  } catch (const std::exception& e) {
    take_failure(e, nullptr);
  }
  while (!stopping_) {
    if (queues_.empty()) {
      changed_.wait(lock);
    } else if (!progress()) {
      changed_.wait_for(lock, pause());
    }
  }
}

microseconds DeviceEngine::pause() const {
  microseconds period = kIssuedPeriod;
  for (const auto& [key, queue] : queues_) {
    if (queue.num_issued < std::min(queue.operations.size(), kMaxIssued)) return kUnissuedPeriod;
    const Tracer* tracer = queue.operations.front()->options.tracer;
    if ((tracer && tracer->recording()) || queue.num_issued < queue.operations.size()) period = kTracedPeriod;
  }
  return period;
}

void DeviceEngine::drive_until(const std::function<bool()>& over) {
  const Clock::time_point begin = Clock::now();
  Lock lock(mutex_);
  while (!over()) {
    if (progress()) continue;
    lock.unlock();
    if (Clock::now() - begin < kSpin) {
      sched_yield();
    } else {
      std::this_thread::sleep_for(kSleep);
    }
    lock.lock();
  }
}

std::optional<std::string> DeviceEngine::failure() const {
  Lock lock(mutex_);
  if (!failure_ && !link_->has_results()) return "a peer gave up what ran on the device";
  return failure_;
}

void DeviceEngine::drop_tensors(DeviceOperation& operation) {
  Tensor input, output;  // given back without the mutex
  Lock lock(mutex_);
  std::swap(input, operation.call_.input);
  std::swap(output, operation.call_.output);
  lock.unlock();
}

/// Looks at everything once; true when something moved.
bool DeviceEngine::progress() {
  if (queues_.empty()) return false;
  const Clock::time_point now = Clock::now();
  bool moved = false;
  const DeviceOperation* looked_at = queues_.begin()->second.operations.front().get();
  try {
    if (now >= next_check_) {
      next_check_ = now + kCheckPeriod;
      if (const auto reason = host_.failure()) {
        give_up_all(*reason);
        return true;
      }
      link_->check();
    }
    for (auto it = queues_.begin(); it != queues_.end();) {
      Queue& queue = it->second;
      looked_at = queue.operations.front().get();
      moved |= take_finished(queue, now);
      if (queue.num_issued < queue.operations.size()) {
        looked_at = queue.operations[queue.num_issued].get();
        moved |= issue_next(queue);
      }
      if (!queue.operations.empty()) {
        DeviceOperation& oldest = *queue.operations.front();
        looked_at = &oldest;
        check_time(oldest, now);
      }
      it = queue.operations.empty() ? queues_.erase(it) : std::next(it);
    }
  } catch (const std::exception& e) {
    take_failure(e, looked_at);
    return true;
  }
  return moved;
}

/// One operation begins when the one before it is issued, or, behind a replay, is done.
bool DeviceEngine::issue_next(Queue& queue) {
  auto& operations = queue.operations;
  const auto must_wait = [&] {
    return queue.num_issued > 0 && operations[queue.num_issued - 1]->is_replay() && !operations[queue.num_issued]->is_replay();
  };
  bool moved = false;
  while (queue.num_issued < std::min(operations.size(), kMaxIssued) && !must_wait() && operations[queue.num_issued]->issue()) {
    operations[queue.num_issued++]->stage_.store(DeviceOperation::Stage::issued, std::memory_order_release);
    moved = true;
  }
  return moved;
}

bool DeviceEngine::take_finished(Queue& queue, Clock::time_point now) {
  auto& operations = queue.operations;
  bool moved = false;
  for (; !operations.empty(); operations.pop_front(), moved = true) {
    DeviceOperation& operation = *operations.front();
    if (!operation.begun_at_ && operation.begin_ && operation.begin_->done()) operation.note_begin(now);
    if (queue.num_issued == 0 || !operation.end_->done() || !link_->has_results()) break;
    finish(operation);
    --queue.num_issued;
  }
  return moved;
}

/// `operation` is the oldest of its queue, and not done.
void DeviceEngine::check_time(DeviceOperation& operation, Clock::time_point now) const {
  if (operation.begun_at_ && operation.has_moved()) operation.begun_at_ = now;
  const std::chrono::milliseconds timeout(operation.options.timeout_ms);
  if (!operation.limited_ || !operation.begun_at_ || now - *operation.begun_at_ <= timeout) return;
  const std::vector<int> silent = host_.silent_ranks();
  throw CommError(fmt::format("{} in group '{}' was not done within {}: {}", operation.text(), name_, seconds_text(timeout),
                              silent.empty() ? "its ranks are alive, so one does not take part or calls something else"
                                             : fmt::format("nothing is heard of rank{} {}", silent.size() > 1 ? "s" : "",
                                                           fmt::join(silent, ", "))));
}

void DeviceEngine::finish(DeviceOperation& operation) {
  operation.release();
  if (Tracer* tracer = operation.options.tracer; tracer && tracer->recording() && operation.is_traced())
    tracer->add(Tracer::Lane::communication, operation.text(), operation.begun_us_, Tracer::now_us(),
                static_cast<int64_t>(operation.bytes));
  operation.stage_.store(DeviceOperation::Stage::finished, std::memory_order_release);
}

void DeviceEngine::mark_failed(DeviceOperation& operation, Failure failure) {
  operation.leave();
  operation.failure_ = std::move(failure);
  operation.stage_.store(DeviceOperation::Stage::failed, std::memory_order_release);
}

Failure DeviceEngine::given_up(const DeviceOperation& operation, const std::string& reason) const {
  return {fmt::format("rank {}: {} was given up: {}", world_rank_, operation.text(), reason), /*is_consequence=*/true};
}

/// Where the host group has failed, `error` is that failure, in its words.
void DeviceEngine::take_failure(const std::exception& error, const DeviceOperation* culprit) {
  if (const auto reason = host_.failure()) {
    give_up_all(*reason, culprit, {error.what(), dynamic_cast<const GivenUp*>(&error) != nullptr});
  } else {
    give_up_all(error.what(), culprit, {fmt::format("rank {}: {}", world_rank_, error.what())});
  }
}

/// The host group is told before the device's work is aborted: who waits for that work must not take what it left behind
/// for a result, and the next operation of the host group throws already.
void DeviceEngine::give_up_all(const std::string& reason, const DeviceOperation* culprit, Failure of_culprit) {
  failure_ = reason;
  host_.fail(reason);
  for (auto& [key, queue] : queues_) {  // what was done before is done
    try {
      take_finished(queue, Clock::now());
    } catch (const Error&) {  // the device is lost
    }
  }
  link_->abort();
  for (auto& [key, queue] : std::exchange(queues_, {}))
    for (auto& operation : queue.operations) {
      std::optional<Failure> own = operation->host_failure();
      if (!own && operation.get() == culprit) own = of_culprit;
      mark_failed(*operation, own ? std::move(*own) : given_up(*operation, reason));
    }
}

/// Whether the device has some of it: an operation may be issued in part.
bool DeviceEngine::has_begun() const {
  return std::ranges::any_of(queues_, [](const auto& entry) {
    const Queue& queue = entry.second;
    return queue.num_issued > 0 || (!queue.operations.empty() && queue.operations.front()->begin_);
  });
}

void DeviceEngine::close() {
  if (std::uncaught_exceptions() == 0) {
    const Clock::time_point deadline = Clock::now() + kPatience;
    drive_until([&] { return !has_begun() || Clock::now() >= deadline; });
  }
  {
    Lock lock(mutex_);
    stopping_ = true;
    if (!queues_.empty()) link_->abort();
    for (auto& [key, queue] : std::exchange(queues_, {}))
      for (auto& operation : queue.operations) mark_failed(*operation, given_up(*operation, "its group is gone"));
    if (!failure_) failure_ = "its group is gone";
  }
  changed_.notify_all();
  thread_.join();
  link_.reset();
}

}  // namespace trireme::comm
