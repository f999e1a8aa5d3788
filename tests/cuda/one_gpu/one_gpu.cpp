// To be preloaded: two processes that share a GPU are two GPUs of one machine to Trireme, and two machines to NCCL, which
// takes no GPU twice. So they go through NCCL, by sockets, and through copy engines, where a machine has one GPU.
#include <cuda_runtime_api.h>

#include <cstdio>
#include <cstdlib>

namespace {

const char* rank() { return std::getenv("OMPI_COMM_WORLD_RANK"); }

[[gnu::constructor]] void name_machine() {
  if (rank()) setenv("NCCL_HOSTID", rank(), /*overwrite=*/1);
}

}  // namespace

cudaError_t cudaDeviceGetPCIBusId(char* address, int length, int) {
  std::snprintf(address, static_cast<size_t>(length), "0000:%02x:00.0", rank() ? std::atoi(rank()) : 0);
  return cudaSuccess;
}
cudaError_t cudaDeviceGetByPCIBusId(int* device, const char*) {
  *device = 0;
  return cudaSuccess;
}
