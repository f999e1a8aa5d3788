// The backend of a fake GPU, and the kernels that comm/nccl/ has: what they compute is computed by the host when the
// stream comes to it.
#include <fmt/format.h>

#include <atomic>
#include <chrono>
#include <cstring>
#include <limits>
#include <new>
#include <span>
#include <vector>

#include "comm/nccl/piece_words.h"
#include "comm/nccl/signals.h"
#include "comm/nccl/sum_parts.h"
#include "comm/nccl/tell.h"
#include "core/backend/cuda/check.h"
#include "core/backend/cuda/cuda_backend.h"
#include "core/error.h"
#include "core/ops/attention_block.h"
#include "core/ops/classifier.h"
#include "core/ops/classifier_part.h"
#include "core/ops/elementwise.h"
#include "core/ops/embedding.h"
#include "core/ops/gelu.h"
#include "core/ops/layer_norm.h"
#include "core/ops/linear.h"
#include "core/ops/mlp.h"
#include "launcher/peak.h"
#include "optim/device_kernels.h"
#include "optim/kernels.h"
#include "tests/fake_gpu/fake_gpu.h"
#include "tests/parallel/queued_kernels.h"

namespace trireme {
namespace {

template <typename T>
void sum_parts_of(const comm::Parts& parts, float scale, T* out, T* copy) {
  for (size_t i = 0; i < parts.count; ++i) {
    float sum = 0;
    for (int rank = 0; rank < parts.num_ranks; ++rank) {
      const auto place = static_cast<size_t>(rank < parts.rank ? rank : rank - 1);
      const void* part = rank == parts.rank ? parts.own : static_cast<const std::byte*>(parts.received) + place * parts.stride;
      sum += static_cast<float>(static_cast<const T*>(part)[i]);
    }
    out[i] = T(scale * sum);
    if (copy) copy[i] = out[i];
  }
}

std::atomic<int> num_recordings = 0;
constexpr int kAllSucceed = std::numeric_limits<int>::max();
std::atomic<int> first_to_fail = kAllSucceed;  // of a backend's recordings
constexpr int kAllGpus = -1;
std::atomic<int> gpu_to_fail = kAllGpus;
std::atomic<bool> memory_is_taken = false;
std::atomic<bool> exchanges_need_host = false;

struct Memory {
  std::atomic<size_t> used_bytes = 0, most_bytes = std::numeric_limits<size_t>::max();
};

class FakeRecording final : public Recording {
 public:
  explicit FakeRecording(Memory& memory) : memory_(memory) {}
  void replay(Stream& stream) override {
    if (memory_is_taken) memory_.most_bytes = memory_.used_bytes.load();
    fake::replay(cuda::raw_stream(stream), tasks);
  }
  fake::Tasks tasks;

 private:
  Memory& memory_;
};

struct OnFakeGpu {
  template <class Kernel>
  static void load() {
    fake::load(typeid(Kernel));
  }
  static void queue(Stream& stream, std::function<void()> task) {
    fake::queue(cuda::raw_stream(stream), std::move(task));
    cuda::check_launch("a kernel");
  }
};

class FakeEvent final : public Event {
 public:
  void record(Stream& stream) override {
    point_ = std::make_shared<Point>();
    stream_ = cuda::raw_stream(stream);
    fake::queue(stream_, [point = point_] {
      point->time = std::chrono::steady_clock::now();
      point->reached = true;
      point->reached.notify_all();
    });
    recorded_to_ = fake::recorded_to(stream_);
    num_recorded_ = recorded_to_ ? recorded_to_->size() : 0;
  }
  void wait(Stream& stream) override {
    if (!point_) return;
    if (recorded_to_) {
      if (fake::recorded_to(stream_) != recorded_to_) throw InternalError("a point of a recording that has ended is waited for");
      fake::record_to(cuda::raw_stream(stream), recorded_to_);
      fake::join(stream_, num_recorded_);
    }
    fake::queue(cuda::raw_stream(stream), [point = point_] { point->reached.wait(false); });
  }
  void synchronize() override {
    if (point_) point_->reached.wait(false);
  }
  bool done() const override { return !point_ || point_->reached; }
  double seconds_since(const Event& earlier) const override {
    const auto& from = static_cast<const FakeEvent&>(earlier).point_;
    return std::chrono::duration<double>(point_->time - from->time).count();
  }

 private:
  struct Point {
    std::atomic<bool> reached = false;
    std::chrono::steady_clock::time_point time;
  };
  std::shared_ptr<Point> point_;
  cudaStream_t stream_ = nullptr;
  fake::Tasks* recorded_to_ = nullptr;  // not null: it is a point of a recording, with so many tasks before it
  size_t num_recorded_ = 0;
};

class FakeBackend final : public Backend {
 public:
  explicit FakeBackend(int index) : index_(index) {
    auto host = make_cpu_backend(1);
    register_optimizer_kernels(*host);
    add_queued_kernels<OnFakeGpu, AddKernel, FillKernel, ScaleKernel, CastKernel, CopyColumnsKernel, SumSquaresKernel,
                       DropoutKernel, LayerNormForward, LayerNormBackward, AttentionForwardKernel, AttentionBackwardKernel,
                       AttentionCachedKernel, AttentionBlockForwardKernel, AttentionMergeKernel,
                       AttentionBlockBackwardKernel, ClassifierForward, ClassifierPartBegin, ClassifierPartLogits,
                       ClassifierPartGradient, GeluForward, GeluBackward, LinearGeluForward, LinearBackwardInputGelu,
                       EmbeddingForward, EmbeddingBackwardTokens, EmbeddingBackwardPositions, LinearForward,
                       LinearBackwardInput, LinearBackwardWeight, CountStepKernel, AdamwKernel, GuardKernel>(*this,
                                                                                                 std::move(host));
  }
  Device device() const override { return {DeviceKind::cuda, index_}; }
  bool is_asynchronous() const override { return true; }
  void* allocate(size_t bytes) override {
    cudaSetDevice(index_);
    void* data = nullptr;
    if (memory_.used_bytes + bytes <= memory_.most_bytes && cudaMalloc(&data, bytes) == cudaSuccess) {
      memory_.used_bytes += bytes;
      return data;
    }
    cudaGetLastError();
    return nullptr;
  }
  void deallocate(void* data, size_t bytes) override {
    cudaSetDevice(index_);
    cudaFree(data);
    memory_.used_bytes -= bytes;
  }
  void copy(void* to, const void* from, size_t bytes, Stream& stream) override {
    cudaStream_t s = cuda::raw_stream(stream);
    if (fake::is_on_device(from)) {
      const auto copy = [=] { std::memcpy(to, from, bytes); };
      return fake::is_on_device(to) ? fake::queue(s, copy) : fake::queue_copy(s, copy);  // a kernel; a copy engine
    }
    if (stream.recorder()) throw IoError("host memory is copied within a step");
    const auto* begin = static_cast<const std::byte*>(from);
    fake::queue_copy(s, [=, values = std::vector<std::byte>(begin, begin + bytes)] {
      std::memcpy(to, values.data(), bytes);
    });
  }
  bool begin_recording(Stream& stream) override {
    recording_ = std::make_unique<FakeRecording>(memory_);
    fake::record_to(cuda::raw_stream(stream), &recording_->tasks);
    ++num_recordings;
    return true;
  }
  std::unique_ptr<Recording> end_recording(Stream& stream) override {
    cuda::check(fake::end_recording(cuda::raw_stream(stream)), "cudaStreamEndCapture");
    std::unique_ptr<FakeRecording> done = std::move(recording_);
    const bool may_fail = gpu_to_fail == kAllGpus || gpu_to_fail == index_;
    if (num_recorded_++ >= first_to_fail && may_fail) cuda::check(fake::failed(cudaErrorMemoryAllocation), "cudaGraphInstantiate");
    if (done && done->tasks.empty()) done.reset();
    return done;
  }
  void fill_zero(void* data, size_t bytes, Stream& stream) override {
    fake::queue(cuda::raw_stream(stream), [=] { std::memset(data, 0, bytes); });
  }
  std::unique_ptr<Stream> make_stream() override {
    cudaSetDevice(index_);
    return std::make_unique<cuda::CudaStream>(index_);
  }
  std::unique_ptr<Event> make_event() override { return std::make_unique<FakeEvent>(); }
  std::unique_ptr<Event> make_timed_event() override { return make_event(); }

 private:
  const int index_;
  Memory memory_;
  std::unique_ptr<FakeRecording> recording_;  // under way
  int num_recorded_ = 0;
};

}  // namespace

/// They are there.
void add_device_kernels(Backend&) {}

std::unique_ptr<Backend> make_cuda_backend(const CudaOptions& options) {
  return std::make_unique<FakeBackend>(options.index);
}
int fake::recordings() { return num_recordings; }
void fake::fail_recordings_after(std::optional<int> pieces, std::optional<int> index) {
  first_to_fail = pieces.value_or(kAllSucceed);
  gpu_to_fail = index.value_or(kAllGpus);
}
void fake::take_what_recordings_leave(bool on) { memory_is_taken = on; }
void fake::have_exchanges_need_the_host(bool on) { exchanges_need_host = on; }

bool built_with_cuda() { return true; }
int num_cuda_devices() { return fake::kNumGpus; }
std::string cuda_device_address(int index) { return fmt::format("fake:{:02}", index); }

/// Measuring it would take minutes.
double peak_flops(Context&, DType, std::string_view, const std::filesystem::path&) { return 1e12; }
double measure_peak_flops(Context&, DType, double) { return 1e12; }
std::filesystem::path default_peak_cache() { return {}; }

namespace cuda {

CudaStream::CudaStream(int device, StreamPriority) : device_(device) {
  check(cudaStreamCreateWithPriority(&stream_, 0, 0), "cudaStreamCreateWithPriority");
}
CudaStream::~CudaStream() { cudaStreamDestroy(stream_); }
void CudaStream::synchronize() { fake::synchronize(stream_); }
bool records_host_work(Stream&) { return exchanges_need_host; }

}  // namespace cuda

namespace comm {

void load_sum_parts() {}
void load_tell() {}
void load_signals() {}
void tell(uint32_t* word, uint32_t value, cudaStream_t stream) {
  fake::queue(stream, [=] { std::atomic_ref<uint32_t>(*word).store(value); });
}

void signal(const Signals& signals, cudaStream_t stream) {
  fake::queue(stream, [s = signals] {
    const uint32_t first = *s.first;
    const auto word = [&](const Signal& signal, int rank) {
      return reinterpret_cast<std::atomic<uint32_t>*>(s.words + word_of_piece(signal.kind, rank, first + signal.number));
    };
    for (const Signal& signal : std::span(s.signals).first(s.count)) {
      const uint32_t number = first + signal.number;
      if (signal.is_told) {
        fake::write_word(*word(signal, s.rank), number);
        continue;
      }
      for (int peer = 0; peer < s.num_ranks; ++peer)
        if (peer != s.rank) fake::await_word(*word(signal, peer), number, reinterpret_cast<std::atomic<uint32_t>*>(s.given_up));
    }
  });
}

void sum_parts(const Parts& parts, float scale, void* out, void* copy, cudaStream_t stream) {
  fake::queue(stream, [=] {
    const auto sum_as = [&]<typename T>(T) { sum_parts_of(parts, scale, static_cast<T*>(out), static_cast<T*>(copy)); };
    switch (parts.dtype) {
      case DType::f32:
        return sum_as(float{});
      case DType::bf16:
        return sum_as(bf16{});
      case DType::f16:
        return sum_as(f16{});
      default:
        throw InternalError("fake GPUs compute with f32, bf16 and f16");
    }
  });
}

}  // namespace comm
}  // namespace trireme
