// How far ranks are with the pieces that they copy: told, and awaited.
#include "comm/nccl/signals.h"

#include <cuda/atomic>

#include "comm/nccl/piece_words.h"
#include "core/backend/cuda/check.h"

namespace trireme::comm {
namespace {

constexpr int kWarp = 32;
constexpr uint32_t kLooks = 64;  // at a word, each a microsecond, before one at whether all is given up

using SystemWord = ::cuda::atomic_ref<uint32_t, ::cuda::thread_scope_system>;

__global__ void __launch_bounds__(kWarp) signal_kernel(const Signals s) {
  const uint32_t first = *s.first;
  const int lane = static_cast<int>(threadIdx.x);
  for (uint32_t i = 0; i < s.count; ++i) {
    const Signal& signal = s.signals[i];
    const uint32_t number = first + signal.number;
    if (signal.is_told) {
      if (lane == 0) {
        __threadfence_system();
        SystemWord(s.words[word_of_piece(signal.kind, s.rank, number)]).store(number, ::cuda::memory_order_release);
      }
    } else {
      for (int peer = lane; peer < s.num_ranks; peer += kWarp) {
        if (peer == s.rank) continue;
        const SystemWord word(s.words[word_of_piece(signal.kind, peer, number)]);
        const SystemWord given_up(*s.given_up);
        for (uint32_t looks = 1; static_cast<int32_t>(word.load(::cuda::memory_order_acquire) - number) < 0; ++looks)
          if (looks % kLooks == 0 && given_up.load(::cuda::memory_order_relaxed) != 0) break;
      }
    }
    __syncwarp();
  }
  __threadfence_system();
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
