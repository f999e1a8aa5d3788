// Matrix products on oneDNN, row-major, f32 or bf16 with f32 accumulation. Which of oneDNN's two ways is used
// for which form was measured: docs/performance.md.
#pragma once

#include <map>
#include <mutex>
#include <tuple>

#include <oneapi/dnnl/dnnl.hpp>

#include "core/context.h"

namespace trireme::cpu {

/// c [M, N] = a [M, K] b^T (+ bias [N], when defined), b [N, K]. c is f32 or of a's type.
void multiply_nt(Context& ctx, const Tensor& a, const Tensor& b, const Tensor& bias, Tensor& c);
/// c [M, N] = a [M, K] b [K, N]. c is f32 or of a's type.
void multiply_nn(Context& ctx, const Tensor& a, const Tensor& b, Tensor& c);
/// c [M, N] = a^T b, or c += a^T b when `accumulate`; a [K, M], b [K, N]. c is f32.
void multiply_tn(Context& ctx, const Tensor& a, const Tensor& b, bool accumulate, Tensor& c);

/// oneDNN's primitives by what they compute; one cache a backend. Thread-safe.
class MatmulCache {
 public:
  struct Key {
    int64_t m = 0, n = 0, k = 0;
    bool transpose_a = false, transpose_b = false, accumulate = false, has_bias = false;
    DType input = DType::f32, bias = DType::f32, output = DType::f32;
    int num_threads = 1;
    auto operator<=>(const Key&) const = default;
  };
  struct Entry {
    dnnl::matmul primitive;
    dnnl::memory::desc a, b, bias, c, scratchpad;
  };

  MatmulCache();
  Entry find_or_make(const Key& key);
  const dnnl::engine& engine() const { return engine_; }
  bool has_native_bf16() const { return has_native_bf16_; }

 private:
  Entry make(const Key& key) const;

  dnnl::engine engine_;
  bool has_native_bf16_;
  std::mutex mutex_;
  std::map<Key, Entry> entries_;
};

}  // namespace trireme::cpu
