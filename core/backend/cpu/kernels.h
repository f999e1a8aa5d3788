// The kernels of the host, one function a file of this folder; cpu_backend.cpp calls them all.
#pragma once

#include "core/backend.h"

namespace trireme::cpu {

void add_elementwise_kernels(Backend& backend);
void add_linear_kernels(Backend& backend);
void add_gelu_kernels(Backend& backend);
void add_mlp_kernels(Backend& backend);
void add_layer_norm_kernels(Backend& backend);
void add_attention_kernels(Backend& backend);
void add_embedding_kernels(Backend& backend);
void add_classifier_kernels(Backend& backend);
void add_classifier_part_kernels(Backend& backend);

}  // namespace trireme::cpu
