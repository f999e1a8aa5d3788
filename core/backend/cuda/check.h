// Turns CUDA's error codes into exceptions that carry CUDA's own text.
#pragma once

#include <cuda_runtime_api.h>

#include <string_view>

namespace trireme::cuda {

/// IoError "`what`: <CUDA's text>" unless `status` is success. The error is then over: later launches don't see it.
void check(cudaError_t status, std::string_view what);
/// After a kernel launch: IoError when it was refused. What fails while it runs is seen at the next wait.
void check_launch(std::string_view kernel);

}  // namespace trireme::cuda
