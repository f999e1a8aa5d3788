// How far ranks are with the pieces that they copy: told, and awaited.
#include "comm/nccl/signals.h"

#include <cuda/atomic>

#include "comm/nccl/piece_words.h"
#include "core/backend/cuda/check.h"

namespace trireme::comm {
namespace {

constexpr int kWarp = 32;
static_assert(Signals::kMost <= kWarp);
constexpr uint32_t kLooks = 64;  // at a word, each a microsecond, before one at whether all is given up

using SystemWord = ::cuda::atomic_ref<uint32_t, ::cuda::thread_scope_system>;

/// A word of the host's memory takes a microsecond or more to be read, so what is awaited together is looked at at once.
__global__ void __launch_bounds__(kWarp) signal_kernel(const Signals s) {
  const uint32_t first = *s.first;
  const uint32_t lane = threadIdx.x, num_ranks = static_cast<uint32_t>(s.num_ranks);
  const SystemWord given_up(*s.given_up);
  for (uint32_t begin = 0, end = 0; begin < s.count; begin = end) {
    while (end < s.count && s.signals[end].is_told) ++end;
    if (const uint32_t i = begin + lane; i < end) {
      const uint32_t number = first + s.signals[i].number;
      SystemWord(s.words[word_of_piece(s.signals[i].kind, s.rank, number)]).store(number, ::cuda::memory_order_release);
    }
    begin = end;
    while (end < s.count && !s.signals[end].is_told) ++end;
    for (uint32_t i = lane; i < (end - begin) * num_ranks; i += kWarp) {
      const Signal& signal = s.signals[begin + i / num_ranks];
      const int peer = static_cast<int>(i % num_ranks);
      if (peer == s.rank) continue;
      const uint32_t number = first + signal.number;
      const SystemWord word(s.words[word_of_piece(signal.kind, peer, number)]);
      for (uint32_t looks = 1; static_cast<int32_t>(word.load(::cuda::memory_order_relaxed) - number) < 0; ++looks)
        if (looks % kLooks == 0 && given_up.load(::cuda::memory_order_relaxed) != 0) break;
    }
    if (begin < end) ::cuda::atomic_thread_fence(::cuda::memory_order_acquire, ::cuda::thread_scope_system);
    __syncwarp();
  }
}

}  // namespace

void load_signals() {
  cudaFuncAttributes attributes;
  cuda::check(cudaFuncGetAttributes(&attributes, &signal_kernel), "cudaFuncGetAttributes");
}

void signal(const Signals& signals, cudaStream_t stream) {
  signal_kernel<<<1, kWarp, 0, stream>>>(signals);
  cuda::check_launch("signal");
}

}  // namespace trireme::comm
