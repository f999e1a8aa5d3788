#include "core/backend/cuda/check.h"

#include <fmt/format.h>

#include "core/error.h"

namespace trireme::cuda {

void check(cudaError_t status, std::string_view what) {
  if (status == cudaSuccess) [[likely]]
    return;
  cudaGetLastError();  // told now: the next check_launch() is not to find it. One that cannot be mended comes again
  throw IoError(fmt::format("{}: {} ({})", what, cudaGetErrorString(status), cudaGetErrorName(status)));
}

void check_launch(std::string_view kernel) { check(cudaPeekAtLastError(), kernel); }

}  // namespace trireme::cuda
