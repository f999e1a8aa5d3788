// The host backend: memory on huge pages, first touched by the threads that use it; work is done at once.
#include <fmt/format.h>
#include <omp.h>
#include <sys/mman.h>

#include <chrono>
#include <cstring>

#include "core/backend/cpu/kernels.h"
#include "core/error.h"
#include "core/host_memory.h"

namespace trireme {
namespace {

constexpr size_t kHugePageBytes = size_t{2} << 20;

constexpr int kMostThreads = 4096;  // OpenMP crashes where the system grants it fewer than it is told to start

class CpuTimedEvent : public Event {
 public:
  void record(Stream&) override { reached_ = std::chrono::steady_clock::now(); }
  double seconds_since(const Event& earlier) const override {
    return std::chrono::duration<double>(reached_ - static_cast<const CpuTimedEvent&>(earlier).reached_).count();
  }

 private:
  std::chrono::steady_clock::time_point reached_;
};

class CpuBackend : public Backend {
 public:
  explicit CpuBackend(int num_threads) : num_threads_(num_threads > 0 ? num_threads : omp_get_max_threads()) {
    if (num_threads_ > kMostThreads)
      throw ConfigError(fmt::format("threads: up to {} can compute, got {}; set run.threads, --threads or OMP_NUM_THREADS",
                                    kMostThreads, num_threads_));
  }

  Device device() const override { return {DeviceKind::cpu, 0}; }

  void* allocate(size_t bytes) override {
    const bool huge = bytes >= kHugePageBytes;
    void* data = std::aligned_alloc(huge ? kHugePageBytes : 64, bytes);
    if (data && huge) madvise(data, bytes, MADV_HUGEPAGE);
    return data;
  }
  void deallocate(void* data, size_t) override { std::free(data); }

  void copy(void* to, const void* from, size_t bytes, Stream&) override { std::memcpy(to, from, bytes); }
  void fill_zero(void* data, size_t bytes, Stream&) override {
    const auto total = static_cast<int64_t>(bytes);
    constexpr int64_t kChunk = int64_t{1} << 20;
#pragma omp parallel for schedule(static) num_threads(num_threads_) if (total > kChunk)
    for (int64_t begin = 0; begin < total; begin += kChunk)
      std::memset(static_cast<char*>(data) + begin, 0, static_cast<size_t>(std::min(kChunk, total - begin)));
  }

  std::unique_ptr<Stream> make_stream() override { return std::make_unique<Stream>(); }
  std::unique_ptr<Event> make_event() override { return std::make_unique<Event>(); }
  std::unique_ptr<Event> make_timed_event() override { return std::make_unique<CpuTimedEvent>(); }
  int num_threads() const override { return num_threads_; }
  size_t memory_bytes() const override { return host_memory_bytes(); }

 private:
  int num_threads_;
};

}  // namespace

std::unique_ptr<Backend> make_cpu_backend(int num_threads) {
  auto backend = std::make_unique<CpuBackend>(num_threads);
  cpu::add_elementwise_kernels(*backend);
  cpu::add_linear_kernels(*backend);
  cpu::add_gelu_kernels(*backend);
  cpu::add_mlp_kernels(*backend);
  cpu::add_layer_norm_kernels(*backend);
  cpu::add_attention_kernels(*backend);
  cpu::add_embedding_kernels(*backend);
  cpu::add_classifier_kernels(*backend);
  cpu::add_classifier_part_kernels(*backend);
  return backend;
}

}  // namespace trireme
