// Kernel: a number that a stream writes: for the host to read while it goes on, or for what comes next.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace trireme::comm {

/// Makes the next call launch at once, as load_sum_parts() does. IoError when it can't be loaded.
void load_tell();

/// Writes `value` to `word`, which lies in device memory or page-locked host memory, in the order of the stream. (In a graph, that
/// takes a kernel 1 us and cuStreamWriteValue32 5 us: H200, CUDA 13.0.) IoError when it can't be launched.
void tell(uint32_t* word, uint32_t value, cudaStream_t stream);

}  // namespace trireme::comm
