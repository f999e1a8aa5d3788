// FakeDevice: a backend that works on its own time, for tests of what moves device memory on machines without one. Its
// memory is the host's but called a GPU's; each stream is a thread that begins what is queued a little later.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

#include "core/backend.h"
#include "tests/comm/memory_ranges.h"

namespace trireme {

class FakeStream final : public Stream {
 public:
  FakeStream() : thread_([this] { run(); }) {}
  ~FakeStream() override {
    synchronize();
    {
      std::lock_guard lock(mutex_);
      stopping_ = true;
    }
    changed_.notify_all();
    thread_.join();
  }
  void queue(std::function<void()> task) {
    {
      std::lock_guard lock(mutex_);
      if (recorded_) return recorded_->push_back(std::move(task));
      tasks_.push_back(std::move(task));
    }
    changed_.notify_all();
  }
  /// Has tasks put there, and not run; null: ends that.
  void record_to(std::vector<std::function<void()>>* tasks) {
    std::lock_guard lock(mutex_);
    recorded_ = tasks;
  }
  void synchronize() override {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return tasks_.empty(); });
  }

 private:
  void run() {
    std::unique_lock lock(mutex_);
    for (;;) {
      changed_.wait(lock, [&] { return stopping_ || !tasks_.empty(); });
      if (tasks_.empty()) return;
      const auto& task = tasks_.front();
      lock.unlock();
      std::this_thread::sleep_for(std::chrono::microseconds(50));
      task();
      lock.lock();
      tasks_.pop_front();
      changed_.notify_all();
    }
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::function<void()>> tasks_;  // the first one is running
  std::vector<std::function<void()>>* recorded_ = nullptr;
  bool stopping_ = false;
  std::thread thread_;
};

/// As with CUDA, one that was not recorded is done.
class FakeEvent final : public Event {
 public:
  void record(Stream& stream) override {
    point_ = std::make_shared<std::atomic<bool>>(false);
    static_cast<FakeStream&>(stream).queue([point = point_] {
      point->store(true);
      point->notify_all();
    });
  }
  void wait(Stream& stream) override {
    if (point_) static_cast<FakeStream&>(stream).queue([point = point_] { point->wait(false); });
  }
  void synchronize() override {
    if (point_) point_->wait(false);
  }
  bool done() const override { return !point_ || point_->load(); }

 private:
  std::shared_ptr<std::atomic<bool>> point_;
};

class FakeRecording final : public Recording {
 public:
  void replay(Stream& stream) override {
    for (const auto& task : tasks) static_cast<FakeStream&>(stream).queue(task);
  }
  std::vector<std::function<void()>> tasks;
};

class FakeDevice final : public Backend {
 public:
  explicit FakeDevice(int index = 0) : index_(index) {}
  Device device() const override { return {DeviceKind::cuda, index_}; }
  bool is_asynchronous() const override { return true; }
  void* allocate(size_t bytes) override {
    void* data = ::operator new(bytes, std::align_val_t{64});
    late_->add(data, bytes);
    return data;
  }
  void deallocate(void* data, size_t) override {
    late_->remove(data);
    ::operator delete(data, std::align_val_t{64});
  }
  /// Pageable memory is read in the call, pinned memory and the device's when the copy's turn comes.
  void copy(void* to, const void* from, size_t bytes, Stream& stream) override {
    auto& queue = static_cast<FakeStream&>(stream);
    if (late_->contains(from)) {
      queue.queue([=] { std::memcpy(to, from, bytes); });
    } else {
      const auto* begin = static_cast<const std::byte*>(from);
      queue.queue([=, values = std::vector<std::byte>(begin, begin + bytes)] { std::memcpy(to, values.data(), bytes); });
    }
  }
  void fill_zero(void* data, size_t bytes, Stream& stream) override {
    static_cast<FakeStream&>(stream).queue([=] { std::memset(data, 0, bytes); });
  }
  std::unique_ptr<Stream> make_stream() override { return std::make_unique<FakeStream>(); }
  std::unique_ptr<Event> make_event() override { return std::make_unique<FakeEvent>(); }
  std::unique_ptr<Event> make_timed_event() override { return make_event(); }
  bool begin_recording(Stream& stream) override {
    recording_ = std::make_unique<FakeRecording>();
    static_cast<FakeStream&>(stream).record_to(&recording_->tasks);
    return true;
  }
  std::unique_ptr<Recording> end_recording(Stream& stream) override {
    static_cast<FakeStream&>(stream).record_to(nullptr);
    if (recording_->tasks.empty()) recording_.reset();
    return std::move(recording_);
  }
  std::shared_ptr<void> allocate_host(size_t bytes) override {
    void* data = ::operator new(bytes);
    late_->add(data, bytes);
    return {data, [late = late_](void* p) {
              late->remove(p);
              ::operator delete(p);
            }};
  }

 private:
  int index_;
  std::unique_ptr<FakeRecording> recording_;  // under way
  std::shared_ptr<MemoryRanges> late_ = std::make_shared<MemoryRanges>();  // pinned memory and the device's, which copies read late
};

}  // namespace trireme
