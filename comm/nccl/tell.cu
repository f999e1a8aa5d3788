// A number that a stream writes.
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

void tell(uint32_t* word, uint32_t value, cudaStream_t stream) {
  tell_kernel<<<1, 1, 0, stream>>>(word, value);
  cuda::check_launch("tell");
}

}  // namespace trireme::comm
