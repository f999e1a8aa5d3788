#include "comm/device_environment.h"

#include <cstdlib>

namespace trireme {

void set_device_environment() {
  // What waits for other ranks must not stand before what they wait for in one of the GPU's queues: of the default 8, streams
  // share them. Job scripts of other programs ask for 1, with which ranks would wait for one another.
  setenv("CUDA_DEVICE_MAX_CONNECTIONS", "32", /*overwrite=*/1);
  // NCCL connects all that a communicator may need when it is made, not between a step's kernels.
  setenv("NCCL_RUNTIME_CONNECT", "0", /*overwrite=*/0);
  // Recorded exchanges use memory as others do: else ranks would have to meet while they record.
  setenv("NCCL_GRAPH_REGISTER", "0", /*overwrite=*/0);
  // Recorded exchanges need not tell others of their communicator where they are: nothing is called beside a replay
  // (DeviceEngine::issue_next).
  setenv("NCCL_GRAPH_MIXING_SUPPORT", "0", /*overwrite=*/0);
}

}  // namespace trireme
