// To be preloaded: two processes that share a GPU are two GPUs of one machine, to Trireme and to NCCL, which takes no GPU twice. So
// they go through NCCL, by the host's memory, and through copy engines. With ONE_GPU_MACHINES=2 they are two machines to NCCL, which
// goes by sockets then. Both are for machines that have one GPU.
//
// What CUDA's runtime and NCCL call of the driver and of NVML, they look up by name: of that, this library changes the address on the
// PCI bus.
#include <cuda.h>
#include <dlfcn.h>

#include <cstdio>
#include <cstdlib>
#include <string_view>

namespace {

const char* rank() { return std::getenv("OMPI_COMM_WORLD_RANK"); }

[[gnu::constructor]] void name_machine() {
  const char* machines = std::getenv("ONE_GPU_MACHINES");
  if (rank() && machines && std::string_view(machines) == "2") setenv("NCCL_HOSTID", rank(), /*overwrite=*/1);
}

using Find = void* (*)(void*, const char*);

Find real_find() {
  static const auto found = [] {
    for (const char* version : {"GLIBC_2.34", "GLIBC_2.17", "GLIBC_2.2.5"})
      if (void* const function = dlvsym(RTLD_NEXT, "dlsym", version)) return reinterpret_cast<Find>(function);
    std::abort();
  }();
  return found;
}

CUresult address_of(char* address, int length, CUdevice) {
  std::snprintf(address, static_cast<size_t>(length), "0000:%02x:00.0", rank() ? 1 + std::atoi(rank()) : 0);
  return CUDA_SUCCESS;
}

CUresult device_at(CUdevice* device, const char*) {
  *device = 0;
  return CUDA_SUCCESS;
}

int nvml_device_at(const char*, void** device) {
  static void* library = dlopen("libnvidia-ml.so.1", RTLD_NOW);
  static const auto by_index = reinterpret_cast<int (*)(unsigned, void**)>(real_find()(library, "nvmlDeviceGetHandleByIndex_v2"));
  return by_index(0, device);
}

using GetAddress = CUresult (*)(const char*, void**, int, cuuint64_t, CUdriverProcAddressQueryResult*);
GetAddress get_address = nullptr;
using GetAddressV1 = CUresult (*)(const char*, void**, int, cuuint64_t);
GetAddressV1 get_address_v1 = nullptr;

CUresult find_of_driver(const char* name, void** function, int version, cuuint64_t flags, CUdriverProcAddressQueryResult* status);
CUresult find_of_driver_v1(const char* name, void** function, int version, cuuint64_t flags);

/// What takes the place of a function that was found; that itself, mostly.
void* in_place_of(std::string_view name, void* found, int version) {
  if (!found) return found;
  if (name == "cuDeviceGetPCIBusId") return reinterpret_cast<void*>(&address_of);
  if (name == "cuDeviceGetByPCIBusId") return reinterpret_cast<void*>(&device_at);
  if (name == "nvmlDeviceGetHandleByPciBusId" || name == "nvmlDeviceGetHandleByPciBusId_v2")
    return reinterpret_cast<void*>(&nvml_device_at);
  if (name == "cuGetProcAddress_v2" || (name == "cuGetProcAddress" && version >= 12000)) {
    get_address = reinterpret_cast<GetAddress>(found);
    return reinterpret_cast<void*>(&find_of_driver);
  }
  if (name == "cuGetProcAddress") {
    get_address_v1 = reinterpret_cast<GetAddressV1>(found);
    return reinterpret_cast<void*>(&find_of_driver_v1);
  }
  return found;
}

CUresult find_of_driver(const char* name, void** function, int version, cuuint64_t flags, CUdriverProcAddressQueryResult* status) {
  const CUresult result = get_address(name, function, version, flags, status);
  if (result == CUDA_SUCCESS && function) *function = in_place_of(name, *function, version);
  return result;
}

CUresult find_of_driver_v1(const char* name, void** function, int version, cuuint64_t flags) {
  const CUresult result = get_address_v1(name, function, version, flags);
  if (result == CUDA_SUCCESS && function) *function = in_place_of(name, *function, version);
  return result;
}

}  // namespace

/// `RTLD_NEXT` means what comes after the library that calls, so this one must not be seen to: it jumps there, which takes optimization.
#ifndef __clang__
#pragma GCC optimize("O2")
#endif
extern "C" void* dlsym(void* library, const char* name) {
  const Find real = real_find();
  if (library == RTLD_NEXT || library == RTLD_DEFAULT) {
    asm volatile("");  // not to be merged with the call below
#ifdef __clang__
    [[clang::musttail]]
#endif
    return real(library, name);
  }
  return in_place_of(name, real(library, name), /*version=*/0);
}
