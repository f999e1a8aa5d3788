// A number that a stream writes for the host.
#include "comm/nccl/tell.h"

#include "core/backend/cuda/check.h"

namespace trireme::comm {
namespace {

__global__ void tell_kernel(volatile uint32_t* word, uint32_t value) { *word = value; }

}  // namespace

void load_tell() {
  cudaFuncAttributes attributes;
  cuda::check(cudaFuncGetAttributes(&attributes, &tell_kernel), "cudaFuncGetAttributes");
}

void tell(std::atomic<uint32_t>* word, uint32_t value, cudaStream_t stream) {
  static_assert(sizeof(*word) == sizeof(value) && std::atomic<uint32_t>::is_always_lock_free);
  tell_kernel<<<1, 1, 0, stream>>>(reinterpret_cast<uint32_t*>(word), value);
  cuda::check_launch("tell");
}

}  // namespace trireme::comm
