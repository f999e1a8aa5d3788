// For tests that need a GPU: to be the first line of each.
#pragma once

#include <gtest/gtest.h>

#include "comm/device_environment.h"
#include "core/backend.h"

namespace trireme {

inline const bool kEnvironmentIsSet = (set_device_environment(), true);  // as in the command

}  // namespace trireme

#define TRIREME_NEEDS_GPUS(count)                                                                   \
  if (num_cuda_devices() < (count))                                                                 \
  GTEST_SKIP() << "not run: this needs " << (count) << " NVIDIA GPUs, and this machine shows " << num_cuda_devices()
