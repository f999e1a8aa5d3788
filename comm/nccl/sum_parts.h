// Kernel: the sum of several ranks' parts of an array.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>

#include "core/dtype.h"

namespace trireme::comm {

/// Of `own`, this rank's part, and the others', which lie in the order of their ranks at `received` and every
/// `stride` bytes from there: `count` elements each.
struct Parts {
  const void* own;
  const void* received;
  size_t stride;
  int rank, num_ranks;
  DType dtype;  // f32, bf16 or f16
  size_t count;
};

/// Makes the next call launch at once: code that is loaded later may wait for the device, on which a stream
/// may wait for a peer. IoError when it can't be loaded.
void load_sum_parts();

/// scale times the sum, formed in f32 in the order of the ranks, goes to `out` and, unless it is null, to
/// `copy`; `out` may be `own`. IoError when it can't be launched.
void sum_parts(const Parts& parts, float scale, void* out, void* copy, cudaStream_t stream);

}  // namespace trireme::comm
