// Parameter: one trained array. Its data and its gradient are views into flat buckets (core/nn/buckets.h), so a
// gradient needs no copy before it is sent, and an optimizer runs over long contiguous ranges.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "core/rng.h"
#include "core/tensor.h"

namespace trireme {

/// Which part of the global array this rank holds: all of it, or ranges of one dim.
struct Placement {
  /// Of the global array's `dim`. Of the ranks that hold a range, one is its `primary`: that one writes it to
  /// checkpoints, and counts it in sums over all parameters.
  struct Range {
    int64_t begin = 0, end = 0;
    bool primary = true;
    bool shared = false;  // several hold it, and each has a part of its gradient; such ranges are the last
  };
  int dim = -1;               // -1: the array is whole here
  int64_t global = 0;         // how long `dim` is in the global array
  std::vector<Range> ranges;  // ascending, and in this order in the local array; more than one of dim 0 alone
  bool primary = true;        // of an array that is whole here

  bool is_split() const { return dim >= 0; }
  static Placement split(int dim, int64_t global, int64_t begin, int64_t end) { return {dim, global, {{.begin = begin, .end = end}}}; }
  /// The length of `dim` in the local array.
  int64_t local() const {
    int64_t n = 0;
    for (const Range& r : ranges) n += r.end - r.begin;
    return n;
  }
};

/// Whose gradients of a parameter add up to the whole: those of the ranks that see other samples or tokens of the
/// batch; of tensor ranks too, where each sees a part of the tokens; or of the pipeline stages that share the parameter.
enum class GradientSum : uint8_t { batch, batch_and_tensor, batch_and_stages };

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
  GradientSum gradient_sum = GradientSum::batch;

  Tensor data;  // [shape], in the compute type
  Tensor grad;  // [shape], f32; holds nothing meaningful until grad_written

  bool grad_written = false;
  /// To be called before a kernel writes the gradient: false means "overwrite", true "add to it".
  bool begin_accumulate() { return std::exchange(grad_written, true); }

  Shape global_shape() const {
    Shape global = shape;
    if (placement.is_split()) global[placement.dim] = placement.global;
    return global;
  }
};

/// `count` runs of `length` neighbours of the global array, which are neighbours here too.
struct PlacedRun {
  int64_t global, local, length;  // elements; where the first run begins
  int64_t count, global_stride, local_stride;
};
/// Which elements of the global array the local one has: all of it, a PlacedRun for each of the placement's ranges.
std::vector<PlacedRun> placed_runs(const Parameter& parameter);

/// Fills host memory `values` (the local part, row-major) as `parameter.init` says.
void init_values(const Parameter& parameter, uint64_t seed, std::span<float> values);

}  // namespace trireme
