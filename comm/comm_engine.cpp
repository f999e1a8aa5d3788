#include "comm/comm_engine.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <set>

#include "core/trace.h"

namespace trireme::comm {
namespace {

constexpr auto kIdlePeriod = std::chrono::milliseconds(100);  // how often an idle rank looks for news
constexpr auto kPollPeriod = std::chrono::milliseconds(2);    // how often a busy one does
constexpr auto kStandstill = std::chrono::seconds(1);         // between looks at operations, of which there are thousands a second
constexpr auto kTellPatience = std::chrono::seconds(1);

}  // namespace

CommEngine::CommEngine(std::unique_ptr<Transport> transport)
    : transport_(std::move(transport)),
      rank_(transport_->rank()),
      size_(transport_->size()),
      monitor_(std::make_unique<Monitor>(*transport_)),
      next_poll_(Clock::now()),
      last_moved_(Clock::now()),
      last_pass_(last_moved_),
      thread_([this] { run_thread(); }) {}

CommEngine::~CommEngine() {
  {
    Lock lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
  transport_->wake();
  thread_.join();
  if (!failure_) fail_all("this rank's communication has ended", Origin::elsewhere);
  {
    Lock lock(mutex_);
    take_inbox();
  }
  // Messages that were not received may still be written to memory: it must outlive the transport.
  if (!closed_ && !transport_->can_cancel()) static_cast<void>(monitor_.release());
}

void CommEngine::submit(std::shared_ptr<Operation> operation) {
  bool driven;
  {
    Lock lock(mutex_);
    ++num_unfinished_[operation->queue.group_id];
    inbox_.push_back(std::move(operation));
    if (failure_) take_inbox();
    driven = driving_;
  }
  if (driven) {
    transport_->wake();
  } else {
    changed_.notify_all();
  }
}

/// With mutex_ held. Moves what was submitted to the queues, or gives it up when all is lost.
void CommEngine::take_inbox() {
  for (; !inbox_.empty(); inbox_.pop_front()) {
    std::shared_ptr<Operation>& operation = inbox_.front();
    if (failure_) {
      operation->task = Task();
      mark_finished(*operation, given_up(*operation, *failure_));
    } else {
      queues_[operation->queue].push_back(std::move(operation));
    }
  }
}

/// With mutex_ held. Takes the operations of groups that are gone out of their queues.
void CommEngine::take_abandoned() {
  for (const uint32_t group_id : std::exchange(abandoned_groups_, {})) {
    const auto begin = queues_.lower_bound({.group_id = group_id}),
               end = queues_.lower_bound({.group_id = group_id + 1});
    for (auto it = begin; it != end; ++it)
      abandoned_.insert(abandoned_.end(), it->second.begin(), it->second.end());
    queues_.erase(begin, end);
  }
}

/// Makes progress until `over()`, which is asked with the mutex held.
template <class Over>
void CommEngine::drive(Lock& lock, Over over) {
  driving_ = true;
  last_moved_ = Clock::now();
  while (!over()) {
    take_inbox();
    take_abandoned();
    lock.unlock();
    if (!progress())
      transport_->pause(std::chrono::duration_cast<std::chrono::microseconds>(Clock::now() - last_moved_));
    lock.lock();
  }
  driving_ = false;
  changed_.notify_all();
}

template <class Over>
void CommEngine::drive_or_wait(Over over, Clock::time_point deadline) {
  const auto done = [&] { return over() || Clock::now() >= deadline; };
  Lock lock(mutex_);
  while (!done()) {
    if (driving_) {
      changed_.wait_for(lock, kIdlePeriod);
    } else {
      drive(lock, done);
    }
  }
}

void CommEngine::drive_until_done(const Operation& operation) {
  drive_or_wait([&] { return operation.done(); });
}

void CommEngine::give_up(const Channel& channel) {
  {
    Lock lock(mutex_);
    if (!num_unfinished_.contains(channel.id())) return;
    abandoned_groups_.push_back(channel.id());
  }
  transport_->wake();
  drive_or_wait([&] { return !num_unfinished_.contains(channel.id()); });
}

void CommEngine::run_thread() {
  Lock lock(mutex_);
  while (!stopping_) {
    changed_.wait_for(lock, kIdlePeriod, [&] { return stopping_ || (!driving_ && has_work()); });
    if (stopping_ || driving_) continue;
    bool passed = false;  // at least one pass: it looks for news
    drive(lock, [&] { return std::exchange(passed, true) && (stopping_ || !has_work()); });
  }
}

/// Time in which this process stood still (it was stopped, or its machine slept) is none that peers took.
void CommEngine::forgive_standstill(Clock::time_point now) {
  const Clock::duration gap = now - std::exchange(last_pass_, now);
  if (gap < kStandstill) return;
  for (const auto& [key, queue] : queues_)
    if (queue.front()->started_) queue.front()->start_time_ += std::min(gap, now - queue.front()->start_time_);
}

bool CommEngine::progress() {
  const Clock::time_point now = Clock::now();
  forgive_standstill(now);
  try {
    if (now >= next_poll_) poll_monitor(now);
  } catch (const std::exception& e) {
    fail_all(e.what(), Origin::elsewhere);
  }
  for (const auto& operation : std::exchange(abandoned_, {}))
    finish(operation, given_up(*operation, "its group is gone"));
  bool moved = false;
  for (auto it = queues_.begin(); it != queues_.end();) {
    auto& queue = it->second;
    try {
      while (!queue.empty() && advance(*queue.front(), now)) {
        moved = true;
        if (!queue.front()->task.done()) break;
        const std::shared_ptr<Operation> operation = std::move(queue.front());
        queue.pop_front();
        finish(operation, std::nullopt);
      }
    } catch (const std::exception& e) {
      fail_all(e.what(), Origin::here, queue.front().get());
      return true;
    }
    it = queue.empty() ? queues_.erase(it) : std::next(it);
  }
  if (moved) last_moved_ = now;
  return moved;
}

void CommEngine::poll_monitor(Clock::time_point now) {
  next_poll_ = now + kPollPeriod;
  std::optional<std::string> own_failure;
  std::vector<int> losses;
  {
    Lock lock(mutex_);
    losses = std::exchange(losses_, {});
    own_failure = std::exchange(failure_to_tell_, std::nullopt);
    if (std::exchange(leave_wanted_, false)) monitor_->tell_leaving();
    if (std::exchange(quiet_wanted_, false)) monitor_->stop_beats();
  }
  if (own_failure) fail_all(*own_failure, Origin::here);
  activity_.running.clear();
  for (const auto& [key, queue] : queues_) {
    if (queue.front()->started_) {
      activity_.running = queue.front()->text();
      break;
    }
  }
  take_losses(losses, now);
  if (const auto failure = monitor_->poll(now, activity_)) fail_all(*failure, Origin::elsewhere);
  Lock lock(mutex_);
  all_told_ = monitor_->all_told() && !failure_to_tell_ && !leave_wanted_ && losses_.empty();
  all_leaving_ = monitor_->all_leaving();
  silent_ranks_ = monitor_->silent_ranks(now);
}

void CommEngine::take_losses(const std::vector<int>& ranks, Clock::time_point now) {
  for (const int rank : ranks) {
    const std::string loss = monitor_->lose(rank, now);
    const std::string activity =
        !activity_.running.empty()    ? "in " + activity_.running
        : !activity_.finished.empty() ? fmt::format("in no operation (the last was {}, {} before)", activity_.finished,
                                                    seconds_text(now - activity_.finished_at))
                                      : "in no operation yet";
    {
      Lock lock(mutex_);
      if (loss_report_.empty()) loss_report_ = fmt::format("rank {} was {} when {}", rank_, activity, loss);
    }
    fail_all(loss, Origin::loss);
  }
}

/// True when the operation went on. Throws what it throws, or CommError when its time is over.
bool CommEngine::advance(Operation& operation, Clock::time_point now) {
  if (!operation.started_) {
    operation.started_ = true;
    operation.start_time_ = now;
    operation.start_us_ = Tracer::now_us();
    operation.task.resume();
    return true;
  }
  std::erase_if(operation.awaited_, [](Message& message) { return message.request->done(); });
  if (operation.awaited_.empty()) {
    operation.task.resume();
    return true;
  }
  if (now - operation.start_time_ > std::chrono::milliseconds(operation.options.timeout_ms))
    throw CommError(timeout_text(operation, now));
  return false;
}

std::string CommEngine::timeout_text(const Operation& operation, Clock::time_point now) const {
  std::set<int> missing;  // world ranks
  for (const Message& message : operation.awaited_)
    missing.insert(operation.channel->world_rank(message.peer));
  const std::string_view verb = operation.kind == OpKind::send   ? "received"
                                : operation.kind == OpKind::recv ? "sent"
                                : operation.joined               ? "finished"
                                                                 : "joined";
  std::vector<std::string> descriptions;
  for (const int rank : missing) descriptions.push_back(monitor_->describe(rank, now));
  constexpr size_t kMostDescribed = 4;
  if (descriptions.size() > kMostDescribed) {
    descriptions.resize(kMostDescribed);
    descriptions.push_back("...");
  }
  return fmt::format("{} was not {} by rank{} {} within {}: {}", operation.text(), verb,
                     missing.size() > 1 ? "s" : "", fmt::join(missing, ", "),
                     seconds_text(std::chrono::milliseconds(operation.options.timeout_ms)),
                     fmt::join(descriptions, "; "));
}

Failure CommEngine::given_up(const Operation& operation, const std::string& reason) const {
  return {fmt::format("rank {}: {} was given up: {}", rank_, operation.text(), reason),
          /*is_consequence=*/true};
}

void CommEngine::finish(const std::shared_ptr<Operation>& operation, std::optional<Failure> failure) {
  if (failure && operation->started_ && !transport_->can_cancel()) {
    // Messages may still arrive in its memory: it stays until the process ends.
    static_cast<void>(new std::shared_ptr<Operation>(operation));
  } else {
    operation->awaited_.clear();
    operation->task = Task();  // gives the tensors back
  }
  if (Tracer* tracer = operation->options.tracer; tracer && !failure)
    tracer->add(Tracer::Lane::communication, operation->text(), operation->start_us_, Tracer::now_us(),
                static_cast<int64_t>(operation->bytes));
  if (!failure) {
    activity_.finished = operation->text();
    activity_.finished_at = Clock::now();
    if (operation->joined)
      for (int peer = 0; peer < operation->channel->size(); ++peer)
        monitor_->saw(operation->channel->world_rank(peer), activity_.finished, activity_.finished_at);
  }
  {
    Lock lock(mutex_);
    mark_finished(*operation, std::move(failure));
  }
  changed_.notify_all();
}

void CommEngine::mark_finished(Operation& operation, std::optional<Failure> failure) {
  const auto unfinished = num_unfinished_.find(operation.queue.group_id);
  if (--unfinished->second == 0) num_unfinished_.erase(unfinished);
  operation.failure_ = std::move(failure);
  operation.finished_.store(true, std::memory_order_release);
}

void CommEngine::fail_all(const std::string& reason, Origin origin, const Operation* culprit) {
  {
    Lock lock(mutex_);
    if (failure_) return;  // the first one counts
    failure_ = reason;
    if (origin != Origin::elsewhere) {
      origin == Origin::here ? monitor_->tell_failure(reason) : monitor_->tell_loss(reason);
      all_told_ = false;
      next_poll_ = Clock::now();
    }
  }
  auto queues = std::exchange(queues_, {});
  for (auto& [key, queue] : queues)
    for (auto& operation : queue)
      finish(operation, operation.get() == culprit ? Failure{fmt::format("rank {}: {}", rank_, reason)}
                                                   : given_up(*operation, reason));
}

void CommEngine::fail(const std::string& reason) {
  {
    Lock lock(mutex_);
    if (failure_ || failure_to_tell_) return;
    failure_to_tell_ = reason;
    all_told_ = false;
  }
  drive_or_wait([&] { return all_told_; }, Clock::now() + kTellPatience);
}

void CommEngine::lose(int rank) {
  bool driven;
  {
    Lock lock(mutex_);
    losses_.push_back(rank);
    all_told_ = false;
    driven = driving_;
  }
  if (driven) {
    transport_->wake();
  } else {
    changed_.notify_all();
  }
}

std::string CommEngine::loss_report() const {
  Lock lock(mutex_);
  return loss_report_;
}

std::optional<std::string> CommEngine::failure() const {
  Lock lock(mutex_);
  return failure_;
}

std::vector<int> CommEngine::silent_ranks() const {
  Lock lock(mutex_);
  return silent_ranks_;
}

void CommEngine::leave(std::chrono::milliseconds patience) {
  {
    Lock lock(mutex_);
    leave_wanted_ = true;
    all_told_ = false;
  }
  drive_or_wait([&] { return all_told_ && (all_leaving_ || !loss_report_.empty()); }, Clock::now() + patience);
}

void CommEngine::stop_beats() {
  Lock lock(mutex_);
  quiet_wanted_ = true;
}

void CommEngine::set_first_free_group(uint32_t id) {
  TRIREME_ASSERT(id <= Channel::kMaxGroups, "more than 8192 groups were made");
  first_free_group_ = id;
}

}  // namespace trireme::comm
