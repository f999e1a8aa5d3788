// The optimizers' kernels of NVIDIA GPUs, one function a file of this folder; kernels.cpp calls them all.
#pragma once

#include "core/backend.h"

namespace trireme::cuda {

void add_adamw_kernel(Backend& backend);
void add_sgd_kernel(Backend& backend);
void add_lion_kernel(Backend& backend);
void add_adafactor_kernel(Backend& backend);
void add_guard_kernel(Backend& backend);  // and the count of applied steps

}  // namespace trireme::cuda
