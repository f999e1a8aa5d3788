// Backend: everything that is special to one kind of device, behind one interface. Memory, copies, streams and
// events are virtual functions; operations are a table of kernels, to which users add their own.
//
// A kernel is named by a struct with a function type, declared beside its operation:
//   struct GeluForward { using Fn = void(Context&, const Tensor& x, Tensor& y); };
//   backend.add_kernel<GeluForward>(&gelu_forward);            // once, in the backend's own folder
//   ctx.kernel<GeluForward>()(ctx, x, y);                       // in the operation
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <typeindex>
#include <unordered_map>
#include <vector>

#include "core/device.h"

namespace trireme {

class Recorder;

/// An in-order queue of device work. The host's is always empty: work is done when the call returns.
class Stream {
 public:
  virtual ~Stream() = default;
  virtual void synchronize() {}  // waits until all queued work is done
  /// The same, before what the work uses goes: a device that is lost does none any longer.
  void finish() noexcept;
  /// Who records what is queued here instead of having it run (core/recorder.h); null: nobody.
  Recorder* recorder() const { return recorder_; }

 private:
  friend class Recorder;
  Recorder* recorder_ = nullptr;
};

/// A point in a stream that the host or another stream can wait for.
class Event {
 public:
  virtual ~Event() = default;
  virtual void record(Stream&) {}
  virtual void wait(Stream&) {}   // later work of the stream starts after this point
  virtual void synchronize() {}  // the host waits
  virtual bool done() const { return true; }
  /// Seconds from `earlier` to this point, by the clock of who did the work. Both are done, and of make_timed_event().
  virtual double seconds_since(const Event& earlier) const;
};

/// Device work that was recorded once and can be queued again as a whole (a CUDA graph).
class Recording {
 public:
  virtual ~Recording() = default;
  virtual void replay(Stream& stream) = 0;
};

class DeviceProfiler;

class Backend {
 public:
  virtual ~Backend() = default;
  virtual Device device() const = 0;

  /// Memory of this device, aligned to 64 bytes or more; nullptr when there is none left.
  virtual void* allocate(size_t bytes) = 0;
  virtual void deallocate(void* data, size_t bytes) = 0;
  /// Copies in stream order; either side may lie in host memory. What is read there is not needed when this returns;
  /// what is written there is whole after stream.synchronize().
  virtual void copy(void* to, const void* from, size_t bytes, Stream& stream) = 0;
  virtual void fill_zero(void* data, size_t bytes, Stream& stream) = 0;
  virtual std::unique_ptr<Stream> make_stream() = 0;
  virtual std::unique_ptr<Event> make_event() = 0;
  /// One that also keeps the time at which it was reached; to wait for it takes longer.
  virtual std::unique_ptr<Event> make_timed_event() = 0;
  /// Host memory that copies to and from this device need no staging for.
  virtual std::shared_ptr<void> allocate_host(size_t bytes);
  /// Whether work is queued and done later; otherwise it is done when a kernel returns.
  virtual bool is_asynchronous() const { return false; }
  /// From here on what is queued on `stream` is recorded and not run. False where the device can't.
  virtual bool begin_recording(Stream&) { return false; }
  /// What was queued since; null when that was nothing.
  virtual std::unique_ptr<Recording> end_recording(Stream&) { return nullptr; }
  /// The same where nobody wants it.
  virtual void drop_recording(Stream& stream) { end_recording(stream); }
  /// Tells what the device did and when; null where the host does the work itself.
  virtual std::unique_ptr<DeviceProfiler> make_profiler();
  /// How many threads the host side of this backend computes with.
  virtual int num_threads() const { return 1; }
  /// All memory of the device; 0: not known.
  virtual size_t memory_bytes() const { return 0; }
  /// What people call the device, "NVIDIA H200"; empty for the host.
  virtual std::string model_name() const { return {}; }
  /// What of memory_bytes() nobody holds now, in this process or another; known where model_name() is.
  virtual size_t free_bytes() const { return 0; }

  /// Keeps a text for the user: something works, but not as well as it could. Each text counts once. From any thread.
  void add_note(std::string text);
  /// Those that were not taken yet.
  std::vector<std::string> take_notes();

  template <class K>
  void add_kernel(typename K::Fn* fn) {
    kernels_[typeid(K)] = reinterpret_cast<void (*)()>(fn);
  }
  template <class K>
  typename K::Fn* kernel() const {
    return reinterpret_cast<typename K::Fn*>(find_kernel(typeid(K)));
  }

  /// What kernels keep between calls (a library's handle, a cache of primitives): one T, as old as the backend.
  template <class T>
  void add_state(std::shared_ptr<T> state) {
    states_[typeid(T)] = std::move(state);
  }
  template <class T>
  T& state() const {
    return *static_cast<T*>(states_.at(typeid(T)).get());
  }

 private:
  void (*find_kernel(std::type_index kernel) const)();  // InternalError when there is none
  std::unordered_map<std::type_index, void (*)()> kernels_;
  std::unordered_map<std::type_index, std::shared_ptr<void>> states_;
  std::mutex notes_mutex_;
  std::vector<std::string> notes_;
  size_t notes_taken_ = 0;
};

/// The host. `num_threads` 0 takes OpenMP's default (OMP_NUM_THREADS, or all cores). ConfigError for more than 4096.
std::unique_ptr<Backend> make_cpu_backend(int num_threads = 0);

struct CudaOptions {
  int index = 0;      // of the device, among those that CUDA shows
  bool tf32 = false;  // products of f32 in TF32: 10 bits of mantissa
  bool deterministic = true;  // the same bits each time; attention is faster without
  bool tune = true;   // matrix products are timed once a shape, and the fastest algorithm kept: backend/cuda/matmul.h
};
/// A GPU; ConfigError where this build or machine has none of that index.
std::unique_ptr<Backend> make_cuda_backend(const CudaOptions& options = {});
/// Whether this build has CUDA.
bool built_with_cuda();
/// How many GPUs this process can use; 0 where this build or machine has none.
int num_cuda_devices();
/// Where GPU `index` sits on this machine's PCI bus, "0000:1b:00.0": the same for all processes, whatever each calls it.
std::string cuda_device_address(int index);

}  // namespace trireme
