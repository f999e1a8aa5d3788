// The kernels of NVIDIA GPUs, one function a file of this folder; cuda_backend.cpp calls them all.
#pragma once

#include <cuda_runtime_api.h>

#include "core/backend.h"

namespace trireme::cuda {

/// Within the memory of one device, by a kernel: its copy engines may be waiting for another device.
void copy_on_device(void* to, const void* from, size_t bytes, cudaStream_t stream);

void add_elementwise_kernels(Backend& backend);
void add_linear_kernels(Backend& backend, const CudaOptions& options);
void add_gelu_kernels(Backend& backend);
void add_mlp_kernels(Backend& backend);
void add_layer_norm_kernels(Backend& backend);
void add_layer_norm_backward(Backend& backend);
void add_attention_kernels(Backend& backend, bool deterministic);
void add_embedding_kernels(Backend& backend);
void add_classifier_kernels(Backend& backend);
void add_classifier_part_kernels(Backend& backend);

}  // namespace trireme::cuda
