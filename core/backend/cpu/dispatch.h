// From a tensor's element type at run time to a template's at compile time.
#pragma once

#include <string>

#include "core/tensor.h"

namespace trireme::cpu {

[[noreturn]] inline void unsupported(const char* kernel, DType dtype) {
  throw InternalError(std::string(kernel) + " has no host kernel for " + std::string(name_of(dtype)) +
                      ": cast to f32 or bf16");
}

/// f(T{}) with T float or bf16, the types that are computed with.
template <class F>
void dispatch_compute(const char* kernel, DType dtype, const F& f) {
  switch (dtype) {
    case DType::f32:
      return f(float{});
    case DType::bf16:
      return f(bf16{});
    default:
      unsupported(kernel, dtype);
  }
}

/// f(T{}) with T float, bf16 or f16: also the types that are only stored.
template <class F>
void dispatch_float(const char* kernel, DType dtype, const F& f) {
  if (dtype == DType::f16) return f(f16{});
  dispatch_compute(kernel, dtype, f);
}

}  // namespace trireme::cpu
