// A matrix product with what is fused to it, and what the choice of its algorithm depends on.
#pragma once

#include <array>
#include <string>

#include "core/context.h"

namespace trireme::cuda {

/// What is fused with a product.
///   bias           c = a b + bias
///   gelu           aux = a b (+ bias), c = gelu(aux); aux undefined: not kept
///   gelu_backward  c = (a b) * gelu'(aux)
///   sum            bias (+)= the sum over k of a, which is transposed
enum class Fusion : uint8_t { none, bias, gelu, gelu_backward, sum };

/// c [m, n] = op(a) op(b), or c += when `accumulate`. The tensors are matrices as memory holds them: `a` is [k, m]
/// where transposed, `b` is [n, k].
struct Product {
  Tensor a, b, c;
  bool transpose_a = false, transpose_b = false, accumulate = false;
  Fusion fusion = Fusion::none;
  Tensor bias;                   // [n]; of `sum` f32 [m]
  Tensor aux;                    // [m, n], of c's type
  bool accumulate_bias = false;  // of `sum`
  void (*apart)(Context&, Product&) = nullptr;  // the same without this fusion; of `none`: without cuBLASLt

  int64_t m() const { return c.dim(0); }
  int64_t n() const { return c.dim(1); }
  int64_t k() const { return a.dim(transpose_a ? 0 : 1); }
};

/// Whether `accumulate` is set makes no difference: all micro-batches are to use the same algorithm.
struct ProductKey {
  int64_t m = 0, n = 0, k = 0;
  bool transpose_a = false, transpose_b = false;
  DType input = DType::f32, output = DType::f32;
  Fusion fusion = Fusion::none;
  std::array<int, 5> alignments{};  // bytes, of a, b, c, bias and aux; at most 16, 0: not there
  auto operator<=>(const ProductKey&) const = default;
};
ProductKey key_of(const Product& product);
/// "nt 65536 x 2304 x 768 bf16 to bf16, bias, aligned 16 16 16 16 0": its name in the file of algorithms.
std::string to_string(const ProductKey& key, bool tf32);

}  // namespace trireme::cuda
