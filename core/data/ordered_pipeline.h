// run_in_order: work done by several threads, its results taken in order by one.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <exception>
#include <memory>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

namespace trireme {

/// Calls take(result of i) for i = 0, 1, ... count-1 on the calling thread. Results are made by `threads`
/// threads, each with a function `Result(int64_t i)` of its own that make_worker() gives; at most 2*threads
/// are made and not taken yet. The first exception in the order of i, or one of take(), ends it and is
/// rethrown.
template <class Result, class MakeWorker, class Take>
void run_in_order(int64_t count, int threads, MakeWorker make_worker, Take take) {
  struct Slot {
    std::unique_ptr<Result> result;
    std::exception_ptr error;
    bool full = false;
  };
  const int64_t window = 2 * int64_t{threads};
  std::vector<Slot> slots(static_cast<size_t>(window));
  std::mutex mutex;
  std::condition_variable changed;
  int64_t next = 0, taken = 0;
  bool stop = false;

  const auto work = [&] {
    auto make = make_worker();
    std::unique_lock lock(mutex);
    for (;;) {
      changed.wait(lock, [&] { return stop || next == count || next < taken + window; });
      if (stop || next == count) return;
      const int64_t i = next++;
      lock.unlock();
      Slot made;
      try {
        made.result = std::make_unique<Result>(make(i));
      } catch (...) {
        made.error = std::current_exception();
      }
      made.full = true;
      lock.lock();
      slots[static_cast<size_t>(i % window)] = std::move(made);
      changed.notify_all();
    }
  };
  struct StopAtEnd {
    std::mutex& mutex;
    std::condition_variable& changed;
    bool& stop;
    std::vector<std::jthread> pool{};
    ~StopAtEnd() {
      {
        std::lock_guard lock(mutex);
        stop = true;
      }
      changed.notify_all();
    }  // then the threads are joined
  } end{mutex, changed, stop};
  for (int t = 0; t < threads; ++t) end.pool.emplace_back(work);

  for (int64_t i = 0; i < count; ++i) {
    Slot slot;
    {
      std::unique_lock lock(mutex);
      Slot& made = slots[static_cast<size_t>(i % window)];
      changed.wait(lock, [&] { return made.full; });
      slot = std::exchange(made, Slot());
      ++taken;
    }
    changed.notify_all();
    if (slot.error) std::rethrow_exception(slot.error);
    take(std::move(*slot.result));
  }
}

}  // namespace trireme
