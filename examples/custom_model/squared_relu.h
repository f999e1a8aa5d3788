// squared_relu: max(0, x)^2 (So et al., "Primer", 2021). An operation written outside of Trireme: this header
// is what users of it see, and names its kernels; squared_relu_cpu.cpp has the kernels of the host.
#pragma once

#include "core/op.h"

namespace custom {

struct SquaredReluForward {
  using Fn = void(trireme::Context&, const trireme::Tensor& x, trireme::Tensor& y);  // y = max(0, x)^2
};
struct SquaredReluBackward {  // dx = 2 max(0, x) dy ; dx may be dy
  using Fn = void(trireme::Context&, const trireme::Tensor& x, const trireme::Tensor& dy,
                  trireme::Tensor& dx);
};

/// Gives the host's kernels to `backend`. Once, before the first use.
void add_squared_relu_kernels(trireme::Backend& backend);

/// x f32 of any shape -> the same shape.
trireme::Tensor squared_relu(trireme::Context& ctx, const trireme::Tensor& x);

}  // namespace custom
