// The profiler of NVIDIA GPUs: CUPTI's activity records, and NVTX ranges for Nsight's tools.
#pragma once

#include <memory>

#include "core/profiler.h"

namespace trireme::cuda {

/// Always gives NVTX ranges. start() is an IoError where libcupti is not found or refuses.
std::unique_ptr<DeviceProfiler> make_cupti_profiler();

}  // namespace trireme::cuda
