// Stands in for nccl/ in a build without NCCL: tensors of GPUs travel through host memory.
#include "comm/staged_group.h"

namespace trireme::comm {

std::unique_ptr<Group> make_gpu_group(std::unique_ptr<Group> host, Backend& backend, const DeviceGroupOptions& options) {
  backend.add_note("tensors of GPUs go between ranks through host memory, which is slow: this build has no NCCL");
  return StagedGroup::make(std::move(host), backend, options.mode);
}

bool have_own_gpus(Group&, int) { return false; }

}  // namespace trireme::comm
