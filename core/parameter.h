// Parameter: one trained array. Its data and its gradient are views into flat buckets (core/nn/buckets.h), so a
// gradient needs no copy before it is sent, and an optimizer runs over long contiguous ranges.
#pragma once

#include <string>
#include <utility>

#include "core/rng.h"
#include "core/tensor.h"

namespace trireme {

/// Which part of the global array this rank holds: all of it, or the `index`-th of `count` equal parts of `dim`.
struct Placement {
  int dim = -1;  // -1: replicated
  int64_t index = 0;
  int64_t count = 1;
  bool is_split() const { return dim >= 0 && count > 1; }
};

/// How a parameter starts. Element e of the global array is a function of (seed, name, e) alone.
struct Init {
  enum class Kind : uint8_t { zeros, ones, normal, uniform };
  Kind kind = Kind::zeros;
  float scale = 0.0f;  // standard deviation, or the half-width of the uniform range

  static Init zeros() { return {Kind::zeros, 0.0f}; }
  static Init ones() { return {Kind::ones, 0.0f}; }
  static Init normal(float std_deviation) { return {Kind::normal, std_deviation}; }
  static Init uniform(float half_width) { return {Kind::uniform, half_width}; }
};

struct Parameter {
  std::string name;  // full: "h.3.attn.qkv.weight"
  Shape shape;       // of what this rank holds
  Placement placement;
  Init init;
  bool decay = true;  // weight decay applies (by default to arrays of two or more dimensions)

  Tensor data;  // [shape], in the compute type
  Tensor grad;  // [shape], f32; holds nothing meaningful until grad_written

  bool grad_written = false;
  /// To be called before a kernel writes the gradient: false means "overwrite", true "add to it".
  bool begin_accumulate() { return std::exchange(grad_written, true); }

  Shape global_shape() const {
    Shape global = shape;
    if (placement.is_split()) global[placement.dim] *= placement.count;
    return global;
  }
};

/// Fills host memory `values` (the local part, row-major) as `parameter.init` says.
void init_values(const Parameter& parameter, uint64_t seed, std::span<float> values);

}  // namespace trireme
