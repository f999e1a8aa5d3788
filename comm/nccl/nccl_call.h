// The call of NCCL's that an operation of a group is.
#pragma once

#include <nccl.h>

#include "comm/device_operation.h"

namespace trireme::comm {

/// `zero` is device memory of one i32, 0, for barriers. A message goes by a communicator of two ranks: 0, which sends, and 1. What
/// is only moved is moved as bytes. InternalError for a type that NCCL can't reduce.
ncclResult_t call_nccl(const DeviceCall& call, int num_ranks, void* zero, ncclComm_t comm, cudaStream_t stream);

}  // namespace trireme::comm
