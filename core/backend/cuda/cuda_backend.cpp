// The backend of one NVIDIA GPU: memory, streams and events of the CUDA runtime.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <memory>
#include <mutex>
#include <type_traits>
#include <vector>

#include "core/backend/cuda/check.h"
#include "core/backend/cuda/cuda_backend.h"
#include "core/backend/cuda/kernels.h"
#include "core/backend/cuda/profiler.h"
#include "core/error.h"

namespace trireme {
namespace cuda {

namespace {

/// An operation that failed on the device is noticed when the host waits for it.
constexpr std::string_view kWaiting =
    "waiting for the GPU (work that was queued before failed; to see which, run with CUDA_LAUNCH_BLOCKING=1 and run.cuda_graph: off)";

/// Makes `index` the current device for its lifetime: ranks that are threads of one process may have others.
class DeviceScope {
 public:
  explicit DeviceScope(int index) { check(cudaSetDevice(index), "cudaSetDevice"); }
};

class CudaEvent : public Event {
 public:
  explicit CudaEvent(int device, unsigned flags = cudaEventDisableTiming) : device_(device) {
    DeviceScope scope(device_);
    check(cudaEventCreateWithFlags(&event_, flags), "cudaEventCreate");
  }
  ~CudaEvent() override { cudaEventDestroy(event_); }
  void record(Stream& stream) override { check(cudaEventRecord(event_, raw_stream(stream)), "cudaEventRecord"); }
  void wait(Stream& stream) override { check(cudaStreamWaitEvent(raw_stream(stream), event_), "cudaStreamWaitEvent"); }
  void synchronize() override { check(cudaEventSynchronize(event_), kWaiting); }
  bool done() const override {
    const cudaError_t status = cudaEventQuery(event_);
    if (status == cudaErrorNotReady) return false;
    check(status, kWaiting);
    return true;
  }
  double seconds_since(const Event& earlier) const override {
    float ms = 0.0f;
    check(cudaEventElapsedTime(&ms, static_cast<const CudaEvent&>(earlier).event_, event_), "cudaEventElapsedTime");
    return ms * 1e-3;
  }

 private:
  int device_;
  cudaEvent_t event_ = nullptr;
};

/// Pinned host memory that copies to the device go through, so that the caller's memory is free at once and nobody
/// waits. A buffer is used again when the copy out of it is done.
class Staging {
 public:
  ~Staging() {
    for (Buffer& b : buffers_) {
      cudaEventDestroy(b.copied);
      cudaFreeHost(b.data);
    }
  }
  void copy(void* to, const void* from, size_t bytes, cudaStream_t stream) {
    std::lock_guard lock(mutex_);
    Buffer& b = free_buffer(bytes);
    std::memcpy(b.data, from, bytes);
    check(cudaMemcpyAsync(to, b.data, bytes, cudaMemcpyHostToDevice, stream), "copy to the GPU");
    check(cudaEventRecord(b.copied, stream), "cudaEventRecord");
  }

 private:
  struct Buffer {
    void* data;
    size_t bytes;
    cudaEvent_t copied;
  };
  Buffer& free_buffer(size_t bytes) {
    for (Buffer& b : buffers_)
      if (b.bytes >= bytes && b.bytes <= 4 * bytes + 4096 && cudaEventQuery(b.copied) == cudaSuccess) return b;
    Buffer b{nullptr, bytes, nullptr};
    check(cudaMallocHost(&b.data, bytes), "pinned host memory");
    check(cudaEventCreateWithFlags(&b.copied, cudaEventDisableTiming), "cudaEventCreate");
    return buffers_.emplace_back(b);
  }
  std::mutex mutex_;
  std::vector<Buffer> buffers_;
};

class CudaRecording : public Recording {
 public:
  /// On the device from the start: the first replay of a piece should not wait for that while peers' messages are under way.
  /// What was recorded of a stream keeps its priority.
  CudaRecording(cudaGraph_t graph, cudaStream_t stream) {
    cudaGraphExec_t executable = nullptr;
    check(cudaGraphInstantiate(&executable, graph, cudaGraphInstantiateFlagUseNodePriority), "cudaGraphInstantiate");
    executable_.reset(executable);
    check(cudaGraphUpload(executable, stream), "cudaGraphUpload");
  }
  void replay(Stream& stream) override {
    check(cudaGraphLaunch(executable_.get(), raw_stream(stream)), "cudaGraphLaunch");
  }

 private:
  struct Destroy {
    void operator()(cudaGraphExec_t executable) const { cudaGraphExecDestroy(executable); }
  };
  std::unique_ptr<std::remove_pointer_t<cudaGraphExec_t>, Destroy> executable_;
};

class CudaBackend : public Backend {
 public:
  explicit CudaBackend(int index) : index_(index) { DeviceScope scope(index_); }

  Device device() const override { return {DeviceKind::cuda, index_}; }
  bool is_asynchronous() const override { return true; }
  size_t memory_bytes() const override {
    return memory().second;
  }
  size_t free_bytes() const override { return memory().first; }
  std::string model_name() const override {
    cudaDeviceProp properties{};
    check(cudaGetDeviceProperties(&properties, index_), "cudaGetDeviceProperties");
    return properties.name;
  }

  void* allocate(size_t bytes) override {
    DeviceScope scope(index_);
    void* data = nullptr;
    const cudaError_t status = cudaMalloc(&data, bytes);
    if (status == cudaErrorMemoryAllocation) {
      cudaGetLastError();  // not sticky: the caller frees what it can and asks again
      return nullptr;
    }
    check(status, "cudaMalloc");
    return data;
  }
  void deallocate(void* data, size_t) override { cudaFree(data); }

  std::shared_ptr<void> allocate_host(size_t bytes) override {
    DeviceScope scope(index_);
    void* data = nullptr;
    check(cudaMallocHost(&data, bytes), "pinned host memory");
    return {data, [](void* p) { cudaFreeHost(p); }};
  }

  void copy(void* to, const void* from, size_t bytes, Stream& stream) override {
    if (bytes == 0) return;
    DeviceScope scope(index_);
    const cudaPointerAttributes source = attributes_of(from);
    if (stream.recorder() && source.type == cudaMemoryTypeUnregistered)
      throw IoError("host memory is copied within a step, which can't be recorded: copy it before, or set run.cuda_graph to off");
    if (bytes <= kMaxStagedBytes && source.type == cudaMemoryTypeUnregistered)
      return staging_.copy(to, from, bytes, raw_stream(stream));
    if (is_here(source) && is_here(attributes_of(to))) return copy_on_device(to, from, bytes, raw_stream(stream));
    check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, raw_stream(stream)), "copy");
  }
  void fill_zero(void* data, size_t bytes, Stream& stream) override {
    if (bytes == 0) return;
    check(cudaMemsetAsync(data, 0, bytes, raw_stream(stream)), "fill with zeros");
  }

  // Relaxed: memory may be asked for while a step is recorded.
  bool begin_recording(Stream& stream) override {
    DeviceScope scope(index_);
    check(cudaStreamBeginCapture(raw_stream(stream), cudaStreamCaptureModeRelaxed), "cudaStreamBeginCapture");
    return true;
  }
  std::unique_ptr<Recording> end_recording(Stream& stream) override {
    DeviceScope scope(index_);
    const Graph graph = end_capture(stream);
    size_t num_nodes = 0;
    check(cudaGraphGetNodes(graph.get(), nullptr, &num_nodes), "cudaGraphGetNodes");
    return num_nodes > 0 ? std::make_unique<CudaRecording>(graph.get(), raw_stream(stream)) : nullptr;
  }
  /// It never takes memory of the device.
  void drop_recording(Stream& stream) override {
    DeviceScope scope(index_);
    end_capture(stream);
  }

  std::unique_ptr<DeviceProfiler> make_profiler() override { return make_cupti_profiler(); }

  std::unique_ptr<Stream> make_stream() override {
    DeviceScope scope(index_);
    return std::make_unique<CudaStream>(index_);
  }
  std::unique_ptr<Event> make_event() override { return std::make_unique<CudaEvent>(index_); }
  std::unique_ptr<Event> make_timed_event() override { return std::make_unique<CudaEvent>(index_, cudaEventDefault); }

 private:
  static constexpr size_t kMaxStagedBytes = size_t{64} << 20;  // more than that waits for the copy
  using Graph = std::unique_ptr<std::remove_pointer_t<cudaGraph_t>, decltype(&cudaGraphDestroy)>;
  static Graph end_capture(Stream& stream) {
    cudaGraph_t graph = nullptr;
    check(cudaStreamEndCapture(raw_stream(stream), &graph), "cudaStreamEndCapture");
    return {graph, &cudaGraphDestroy};
  }
  static cudaPointerAttributes attributes_of(const void* data) {
    cudaPointerAttributes attributes{};
    check(cudaPointerGetAttributes(&attributes, data), "cudaPointerGetAttributes");
    return attributes;
  }
  /// Bytes that are free, and all.
  std::pair<size_t, size_t> memory() const {
    DeviceScope scope(index_);
    size_t free = 0, total = 0;
    check(cudaMemGetInfo(&free, &total), "cudaMemGetInfo");
    return {free, total};
  }
  bool is_here(const cudaPointerAttributes& data) const {
    return data.type == cudaMemoryTypeDevice && data.device == index_;
  }
  int index_;
  Staging staging_;
};

}  // namespace

CudaStream::CudaStream(int device, StreamPriority priority) : device_(device) {
  int least = 0, greatest = 0;
  check(cudaDeviceGetStreamPriorityRange(&least, &greatest), "cudaDeviceGetStreamPriorityRange");
  check(cudaStreamCreateWithPriority(&stream_, cudaStreamNonBlocking, priority == StreamPriority::low ? least : greatest),
        "cudaStreamCreate");
}

CudaStream::~CudaStream() { cudaStreamDestroy(stream_); }

bool records_host_work(Stream& stream) {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  cudaGraph_t graph = nullptr;
  check(cudaStreamGetCaptureInfo(raw_stream(stream), &status, nullptr, &graph), "cudaStreamGetCaptureInfo");
  if (status != cudaStreamCaptureStatusActive) return false;
  size_t count = 0;
  check(cudaGraphGetNodes(graph, nullptr, &count), "cudaGraphGetNodes");
  std::vector<cudaGraphNode_t> nodes(count);
  check(cudaGraphGetNodes(graph, nodes.data(), &count), "cudaGraphGetNodes");
  return std::ranges::any_of(nodes, [](cudaGraphNode_t node) {
    cudaGraphNodeType type{};
    check(cudaGraphNodeGetType(node, &type), "cudaGraphNodeGetType");
    return type == cudaGraphNodeTypeHost;
  });
}

void CudaStream::synchronize() { check(cudaStreamSynchronize(stream_), kWaiting); }

}  // namespace cuda

bool built_with_cuda() { return true; }

int num_cuda_devices() {
  int count = 0;
  if (cudaGetDeviceCount(&count) != cudaSuccess) {
    cudaGetLastError();
    return 0;
  }
  return count;
}

std::string cuda_device_address(int index) {
  std::array<char, 32> address{};
  cuda::check(cudaDeviceGetPCIBusId(address.data(), static_cast<int>(address.size()), index), "cudaDeviceGetPCIBusId");
  return address.data();
}

std::unique_ptr<Backend> make_cuda_backend(const CudaOptions& options) {
  const int count = num_cuda_devices();
  if (count == 0)
    throw ConfigError("run.device: this machine shows no NVIDIA GPU (nvidia-smi lists those that the driver sees); "
                      "set run.device to cpu");
  if (options.index < 0 || options.index >= count)
    throw ConfigError(fmt::format("run.device: GPU {} was asked for, and this process sees {}; start no more ranks on a "
                                  "machine than it has GPUs, or widen CUDA_VISIBLE_DEVICES",
                                  options.index, count));
  auto backend = std::make_unique<cuda::CudaBackend>(options.index);
  cuda::add_elementwise_kernels(*backend);
  cuda::add_linear_kernels(*backend, options);
  cuda::add_gelu_kernels(*backend);
  cuda::add_mlp_kernels(*backend);
  cuda::add_layer_norm_kernels(*backend);
  cuda::add_attention_kernels(*backend, options.deterministic);
  cuda::add_embedding_kernels(*backend);
  cuda::add_classifier_kernels(*backend);
  cuda::add_classifier_part_kernels(*backend);
  return backend;
}

}  // namespace trireme
