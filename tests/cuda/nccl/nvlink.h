// For tests that need GPUs joined by NVLink: to be the first line of each.
#pragma once

#include <cuda_runtime_api.h>

#include "tests/cuda/gpu.h"

namespace trireme {

/// Whether each of the first `count` GPUs reaches the memory of all others over NVLink.
inline bool are_joined_by_nvlink(int count) {
  for (int a = 0; a < count; ++a)
    for (int b = 0; b < count; ++b) {
      int joined = 0;
      if (a != b && (cudaDeviceGetP2PAttribute(&joined, cudaDevP2PAttrNativeAtomicSupported, a, b) != cudaSuccess || joined == 0))
        return false;
    }
  return true;
}

}  // namespace trireme

#define TRIREME_NEEDS_NVLINK(count) \
  TRIREME_NEEDS_GPUS(count);        \
  if (!are_joined_by_nvlink(count)) GTEST_SKIP() << "not run: this needs " << (count) << " GPUs joined by NVLink"
