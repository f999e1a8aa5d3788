// Row-major matrix products on cuBLASLt with f32 accumulation: f32 (optionally in TF32), bf16 and f16, alone or with
// what comes before or after them fused in. Where cuBLASLt has no kernel for a fusion, or a slower one than two kernels
// are, the parts run one after the other: results differ by rounding alone. Any size and alignment works.
//
// The algorithm for a shape is chosen by timing cuBLASLt's proposals when the shape is first seen (CudaOptions::tune),
// and kept in ~/.cache/trireme/matmul-<GPU>-<cuBLASLt version>.json (or under $XDG_CACHE_HOME). Every algorithm gives
// the same bits each time it runs, but two algorithms need not agree in the last bits: two runs agree bit for bit when
// both found the file, or neither tuned. Shapes first seen while a stream is captured are not timed.
#pragma once

#include "core/context.h"

namespace trireme::cuda {

/// c [M, N] = a [M, K] b^T (+ bias [N], when defined), b [N, K]. c is f32 or of a's type.
void multiply_nt(Context& ctx, const Tensor& a, const Tensor& b, const Tensor& bias, Tensor& c);
/// c [M, N] = a [M, K] b [K, N]. c is f32 or of a's type.
void multiply_nn(Context& ctx, const Tensor& a, const Tensor& b, Tensor& c);
/// c [M, N] = a^T b, or c += a^T b when `accumulate`; a [K, M], b [K, N]. c is f32.
void multiply_tn(Context& ctx, const Tensor& a, const Tensor& b, bool accumulate, Tensor& c);

/// h [M, N] = a b^T (+ bias), c = gelu(h), both of a's type; h undefined: not kept. gelu sees h before it is rounded
/// where it is fused.
void multiply_nt_gelu(Context& ctx, const Tensor& a, const Tensor& b, const Tensor& bias, Tensor& h, Tensor& c);
/// c [M, N] = (a b) * gelu'(h), h [M, N]; c, which is not h, and h are of a's type. Where `sums` is
/// defined, sums f32 [N] = the sum of c's rows, rounded to c's type where it is fused.
void multiply_nn_gelu_backward(Context& ctx, const Tensor& a, const Tensor& b, const Tensor& h, Tensor& c, Tensor& sums);
/// multiply_tn() together with sums [M] = the sum of a's rows, or sums += when `accumulate_sums`; both f32.
void multiply_tn_and_sum(Context& ctx, const Tensor& a, const Tensor& b, bool accumulate, Tensor& c, bool accumulate_sums,
                         Tensor& sums);

}  // namespace trireme::cuda
