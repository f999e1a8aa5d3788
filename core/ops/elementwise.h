// Operations element by element: add, scale, cast, dropout; and the small kernels that the tape and the
// optimizers' bookkeeping need.
#pragma once

#include "core/op.h"

namespace trireme {

/// out = a + b. out may be a or b.
struct AddKernel {
  using Fn = void(Context&, const Tensor& a, const Tensor& b, Tensor& out);
};
struct FillKernel {
  using Fn = void(Context&, float value, Tensor& out);
};
/// out = factor * x. out may be x.
struct ScaleKernel {
  using Fn = void(Context&, float factor, const Tensor& x, Tensor& out);
};
/// Between f32, bf16 and f16.
struct CastKernel {
  using Fn = void(Context&, const Tensor& x, Tensor& out);
};
/// to[:, to_column + i] = from[:, from_column + i] for i < count. Matrices of as many rows, each of f32, bf16 or f16.
struct CopyColumnsKernel {
  using Fn = void(Context&, const Tensor& from, int64_t from_column, int64_t count, Tensor& to, int64_t to_column);
};
/// out[0] += sum of x^2 ; out[1] += number of elements that are not finite. x of any float type, out f32 [2].
struct SumSquaresKernel {
  using Fn = void(Context&, const Tensor& x, Tensor& out);
};
/// y = keep ? x / (1 - p) : 0, the mask being a function of (stream at `step`, first_element + i). y may be x. step is
/// i64 [1], or undefined for 0.
struct DropoutKernel {
  using Fn = void(Context&, const Tensor& x, float p, RandomStream stream, const Tensor& step, int64_t first_element, Tensor& y);
};

/// a + b, of one shape and type.
Tensor add(Context& ctx, const Tensor& a, const Tensor& b);
Tensor scale(Context& ctx, const Tensor& x, float factor);
Tensor cast(Context& ctx, const Tensor& x, DType dtype);  // x itself when it has that type

/// p.grad (+)= `sum`, f32 of the gradient's size: what B made beside its own work, in W.
void add_to_grad(Context& ctx, Parameter& p, const Tensor& sum);

/// Inverted dropout of x [samples * rows, C]; identity unless ctx.training and p > 0. The mask is a function
/// of (seed, step, `id`, sample, place in the sample): never of the rank. `id` is hash_name() of the layer's
/// name, `samples` how many samples x holds; where it holds parts of samples, ctx.random.rows says which.
Tensor dropout(Context& ctx, const Tensor& x, float p, uint64_t id, int64_t samples);

}  // namespace trireme
