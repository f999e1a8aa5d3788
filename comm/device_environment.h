// What CUDA and NCCL read of the environment when they start.
#pragma once

namespace trireme {

/// Sets it as groups of GPUs need it; to be called before anything of CUDA is. What users set of NCCL's stays.
void set_device_environment();

}  // namespace trireme
