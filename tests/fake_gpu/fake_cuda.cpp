// CUDA's functions, on the host.
#include <cuda.h>
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <memory>
#include <mutex>
#include <new>
#include <set>
#include <thread>
#include <utility>

#include "core/error.h"
#include "tests/comm/memory_ranges.h"
#include "tests/fake_gpu/fake_gpu.h"

namespace trireme::fake {
namespace {

class Stream {
 public:
  explicit Stream(int device) : device(device) {}
  const int device;

  /// False where it is not recorded.
  bool record(const Task& task) {
    const std::lock_guard lock(mutex_);
    if (!recorded_) return false;
    if (recorder_ != std::this_thread::get_id()) throw InternalError("a thread uses a stream that another one records");
    recorded_->push_back(task);
    num_recorded_ = recorded_->size();
    return true;
  }
  void queue(std::function<void()> task) {
    if (record({task})) return;
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return tasks_.size() < kMaxQueued; });
    tasks_.push_back(std::move(task));
    changed_.notify_all();
  }
  void record_to(Tasks* tasks) {
    const std::lock_guard lock(mutex_);
    if (recorded_ == tasks) return;
    recorded_ = tasks;
    recorder_ = std::this_thread::get_id();
    num_recorded_ = num_joined_ = 0;
  }
  Tasks* recorded_to() {
    const std::lock_guard lock(mutex_);
    return recorded_;
  }
  /// Another one that is recorded to the same place waits for the first `count` that are there.
  void join(size_t count) {
    const std::lock_guard lock(mutex_);
    num_joined_ = std::max(num_joined_, count);
  }
  bool is_joined() {
    const std::lock_guard lock(mutex_);
    return num_joined_ >= num_recorded_;
  }
  bool is_empty() {
    const std::lock_guard lock(mutex_);
    return tasks_.empty();
  }
  void synchronize() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return tasks_.empty(); });
  }
  void end() {
    const std::lock_guard lock(mutex_);
    ending_ = true;
    changed_.notify_all();
  }
  void run() {
    std::unique_lock lock(mutex_);
    for (;;) {
      changed_.wait(lock, [&] { return ending_ || !tasks_.empty(); });
      if (tasks_.empty()) return;
      auto task = std::move(tasks_.front());
      lock.unlock();
      task();
      task = {};  // what it holds goes before it counts as done
      lock.lock();
      tasks_.pop_front();
      changed_.notify_all();
    }
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::function<void()>> tasks_;  // the first one is running
  bool ending_ = false;
  Tasks* recorded_ = nullptr;
  std::thread::id recorder_;
  size_t num_recorded_ = 0, num_joined_ = 0;  // of what is recorded, up to this one's last task
};

/// All whose work is not over.
class Streams {
 public:
  void add(const std::shared_ptr<Stream>& stream) {
    const std::lock_guard lock(mutex_);
    std::erase_if(all_, [](const auto& one) { return one.expired(); });
    all_.push_back(stream);
  }
  void synchronize(int device) {
    for (const auto& one : all())
      if (const auto stream = one.lock(); stream && stream->device == device) stream->synchronize();
  }
  void synchronize() {
    for (const auto& one : all())
      if (const auto stream = one.lock()) stream->synchronize();
  }
  std::vector<std::weak_ptr<Stream>> all() {
    const std::lock_guard lock(mutex_);
    return all_;
  }

 private:
  std::mutex mutex_;
  std::vector<std::weak_ptr<Stream>> all_;
};
Streams& streams() {
  static auto& all = *new Streams;
  return all;
}

/// Its thread goes on when it is destroyed, as a GPU's work does; what such threads share is never destroyed, since
/// some may still run when the process ends.
struct Handle {
  explicit Handle(int device) : stream(std::make_shared<Stream>(device)) {
    streams().add(stream);
    std::thread([stream = stream] { stream->run(); }).detach();
  }
  std::shared_ptr<Stream> stream;
};

Stream& of(cudaStream_t stream) { return *reinterpret_cast<Handle*>(stream)->stream; }

/// The copies of a device, by the number that each has when it is queued.
struct CopyEngine {
  std::mutex mutex;
  std::condition_variable changed;
  uint64_t queued = 0, done = 0;
  std::atomic<std::chrono::milliseconds> time{};
};
CopyEngine& copy_engine(int device) {
  static auto& engines = *new std::array<CopyEngine, kNumGpus>;
  return engines[static_cast<size_t>(device)];
}

/// Of all devices.
MemoryRanges& memory() {
  static auto& all = *new MemoryRanges;
  return all;
}

void release(void* data) {
  memory().remove(data);
  ::operator delete(data, std::align_val_t{256});
}

thread_local int current_device = 0;
thread_local cudaError_t last_error = cudaSuccess;

}  // namespace

cudaError_t failed(cudaError_t error) { return last_error = error; }
void load(std::type_index kernel) {
  static auto& mutex = *new std::mutex;
  static auto& loaded = *new std::set<std::pair<int, std::type_index>>;
  {
    const std::lock_guard lock(mutex);
    if (!loaded.emplace(current_device, kernel).second) return;
  }
  streams().synchronize();
}
void record_to(cudaStream_t stream, Tasks* tasks) { of(stream).record_to(tasks); }
Tasks* recorded_to(cudaStream_t stream) { return of(stream).recorded_to(); }
void join(cudaStream_t stream, size_t count) { of(stream).join(count); }
cudaError_t end_recording(cudaStream_t stream) {
  const Tasks* const tasks = of(stream).recorded_to();
  if (!tasks) return failed(cudaErrorIllegalState);
  bool joined = true;
  for (const auto& one : streams().all())  // others are recorded meanwhile, by other threads
    if (const auto other = one.lock(); other && other->recorded_to() == tasks) {
      joined &= other.get() == &of(stream) || other->is_joined();
      other->record_to(nullptr);
    }
  return joined ? cudaSuccess : failed(cudaErrorStreamCaptureUnjoined);
}
void queue(cudaStream_t stream, std::function<void()> task) { of(stream).queue(std::move(task)); }
namespace {

/// The copy, in the place that it has from now on.
std::function<void()> in_turn(int device, std::function<void()> copy) {
  CopyEngine& engine = copy_engine(device);
  uint64_t number = 0;
  {
    const std::lock_guard lock(engine.mutex);
    number = engine.queued++;
  }
  return [number, copy = std::move(copy), &engine] {
    std::unique_lock lock(engine.mutex);
    engine.changed.wait(lock, [&] { return engine.done == number; });
    std::this_thread::sleep_for(engine.time.load());
    copy();
    ++engine.done;
    engine.changed.notify_all();
  };
}

}  // namespace

void queue_copy(cudaStream_t stream, std::function<void()> copy) {
  if (of(stream).record({copy, /*copies=*/true})) return;
  queue(stream, in_turn(of(stream).device, std::move(copy)));
}
void replay(cudaStream_t stream, const Tasks& tasks) {
  std::vector<std::function<void()>> all;
  for (const auto& [run, copies] : tasks) all.push_back(copies ? in_turn(of(stream).device, run) : run);
  queue(stream, [all = std::move(all)] {
    for (const auto& run : all) run();
  });
}
void slow_copies(int device, std::chrono::milliseconds time) { copy_engine(device).time = time; }
void synchronize(cudaStream_t stream) {
  if (of(stream).recorded_to()) throw InternalError("a stream that is recorded is waited for");
  of(stream).synchronize();
}
bool is_on_device(const void* data) { return memory().contains(data); }

namespace {

/// Those who wait for some words. Ranks map a word at different pages, and at the same place of them.
struct Words {
  std::mutex mutex;
  std::condition_variable changed;
};
Words& words_at(CUdeviceptr address) {
  static auto& all = *new std::array<Words, 1024>;
  return all[address / sizeof(uint32_t) % all.size()];
}

std::atomic<uint32_t>* word_at(CUdeviceptr address) { return reinterpret_cast<std::atomic<uint32_t>*>(address); }

CUresult wait_value(CUstream stream, CUdeviceptr address, cuuint32_t value, unsigned) {
  queue(stream, [=] { await_word(*word_at(address), value); });
  return CUDA_SUCCESS;
}

CUresult write_value(CUstream stream, CUdeviceptr address, cuuint32_t value, unsigned) {
  queue(stream, [=] { write_word(*word_at(address), value); });
  return CUDA_SUCCESS;
}

}  // namespace

void await_word(const std::atomic<uint32_t>& word, uint32_t value, const std::atomic<uint32_t>* end) {
  Words& words = words_at(reinterpret_cast<CUdeviceptr>(&word));
  std::unique_lock lock(words.mutex);
  while (static_cast<int32_t>(word.load() - value) < 0 && !(end && *end != 0))  // the host writes some too, and tells nobody
    words.changed.wait_for(lock, std::chrono::milliseconds(2));
}

void write_word(std::atomic<uint32_t>& word, uint32_t value) {
  Words& words = words_at(reinterpret_cast<CUdeviceptr>(&word));
  const std::lock_guard lock(words.mutex);
  word = value;
  words.changed.notify_all();
}

}  // namespace trireme::fake

using namespace trireme::fake;

cudaError_t cudaGetDevice(int* device) {
  *device = current_device;
  return cudaSuccess;
}
cudaError_t cudaSetDevice(int device) {
  if (device < 0 || device >= kNumGpus) return failed(cudaErrorInvalidDevice);
  current_device = device;
  return cudaSuccess;
}
cudaError_t cudaGetLastError() { return std::exchange(last_error, cudaSuccess); }
cudaError_t cudaPeekAtLastError() { return last_error; }
const char* cudaGetErrorString(cudaError_t error) { return error == cudaSuccess ? "no error" : "an error of a fake GPU"; }
const char* cudaGetErrorName(cudaError_t error) { return error == cudaSuccess ? "cudaSuccess" : "cudaError"; }

cudaError_t cudaDeviceGetPCIBusId(char* address, int length, int device) {
  const std::string text = fmt::format("fake:{:02}", device);
  std::memset(address, 0, static_cast<size_t>(length));
  std::memcpy(address, text.c_str(), text.size());
  return cudaSuccess;
}
cudaError_t cudaDeviceGetByPCIBusId(int* device, const char* address) {
  *device = std::atoi(address + std::strlen("fake:"));
  return cudaSuccess;
}
cudaError_t cudaDeviceGetP2PAttribute(int* value, cudaDeviceP2PAttr, int, int) {
  *value = 1;
  return cudaSuccess;
}
cudaError_t cudaDeviceEnablePeerAccess(int, unsigned) { return cudaSuccess; }
cudaError_t cudaIpcGetMemHandle(cudaIpcMemHandle_t*, void*) { return cudaSuccess; }
cudaError_t cudaIpcOpenMemHandle(void**, cudaIpcMemHandle_t, unsigned) { return failed(cudaErrorInvalidValue); }
cudaError_t cudaIpcCloseMemHandle(void*) { return cudaSuccess; }

cudaError_t cudaMalloc(void** data, size_t bytes) {
  *data = ::operator new(bytes, std::align_val_t{256}, std::nothrow);
  if (!*data) return failed(cudaErrorMemoryAllocation);
  memory().add(*data, bytes);
  return cudaSuccess;
}
/// Waits for the device, as CUDA's does.
cudaError_t cudaFree(void* data) {
  streams().synchronize(current_device);
  release(data);
  return cudaSuccess;
}
cudaError_t cudaMallocAsync(void** data, size_t bytes, cudaStream_t) { return cudaMalloc(data, bytes); }
cudaError_t cudaFreeAsync(void* data, cudaStream_t stream) {
  queue(stream, [=] { release(data); });
  return cudaSuccess;
}
cudaError_t cudaMemsetAsync(void* data, int value, size_t bytes, cudaStream_t stream) {
  queue(stream, [=] { std::memset(data, value, bytes); });
  return cudaSuccess;
}
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind, cudaStream_t stream) {
  queue_copy(stream, [=] { std::memcpy(to, from, bytes); });
  return cudaSuccess;
}
cudaError_t cudaHostRegister(void*, size_t, unsigned) { return cudaSuccess; }
cudaError_t cudaHostUnregister(void*) { return cudaSuccess; }
cudaError_t cudaHostGetDevicePointer(void** on_device, void* data, unsigned) {
  *on_device = data;
  return cudaSuccess;
}

cudaError_t cudaStreamCreateWithPriority(cudaStream_t* stream, unsigned, int) {
  *stream = reinterpret_cast<cudaStream_t>(new Handle(current_device));
  return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  of(stream).end();
  delete reinterpret_cast<Handle*>(stream);
  return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  synchronize(stream);
  return cudaSuccess;
}
cudaError_t cudaStreamQuery(cudaStream_t stream) { return of(stream).is_empty() ? cudaSuccess : cudaErrorNotReady; }

cudaError_t cudaGetDriverEntryPointByVersion(const char* name, void** function, unsigned, unsigned long long,
                                             cudaDriverEntryPointQueryResult* found) {
  const std::string_view wanted(name);
  *function = wanted == "cuStreamWaitValue32"    ? reinterpret_cast<void*>(&wait_value)
              : wanted == "cuStreamWriteValue32" ? reinterpret_cast<void*>(&write_value)
                                                 : nullptr;
  if (found) *found = *function ? cudaDriverEntryPointSuccess : cudaDriverEntryPointSymbolNotFound;
  return cudaSuccess;
}
