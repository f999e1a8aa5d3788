// What the host's kernels of classifiers share.
#pragma once

#include "core/tensor.h"

namespace trireme::cpu {

/// ConfigError that names the first of `targets` i32 [n] outside [-1, vocab).
void check_targets(const Tensor& targets, int64_t vocab);

}  // namespace trireme::cpu
