// Stands in for cuda/ in a build without CUDA.
#include "core/backend.h"
#include "core/error.h"

namespace trireme {

std::unique_ptr<Backend> make_cuda_backend(const CudaOptions&) {
  throw ConfigError("run.device: this build has no CUDA; set run.device to cpu, or build where nvcc is installed");
}

bool built_with_cuda() { return false; }

int num_cuda_devices() { return 0; }

std::string cuda_device_address(int) { throw InternalError("this build has no CUDA"); }

}  // namespace trireme
