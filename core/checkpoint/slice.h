// Slice: which elements of a global array a piece of memory or of a file holds. Every layout is one of these:
// tensor parallelism holds a rectangle, ZeRO a range of a rectangle's elements in row-major order.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "core/shape.h"

namespace trireme {

struct Parameter;

struct Slice {
  Shape global;            // of the whole array
  Shape offset;            // where the rectangle begins
  Shape size;              // of the rectangle
  int64_t flat_begin = 0;  // the elements [flat_begin, flat_end) of the rectangle, in row-major order
  int64_t flat_end = 0;

  static Slice whole(const Shape& global);
  static Slice rectangle(const Shape& global, const Shape& offset, const Shape& size);
  /// Elements [begin, end) of this slice's rectangle.
  Slice range(int64_t begin, int64_t end) const;

  int64_t numel() const { return flat_end - flat_begin; }
  bool is_rectangle() const { return flat_begin == 0 && flat_end == size.numel(); }
  bool is_whole() const { return size == global && is_rectangle(); }
  bool operator==(const Slice&) const = default;
};

/// What the elements [begin, end) of a parameter's local array are, in their order: one slice for each range of its
/// placement. `begin` is where the slice's elements begin in the local array.
struct PlacedSlice {
  Slice slice;
  int64_t begin = 0;
  bool primary = true;  // this rank writes it to checkpoints (see Placement)
};
std::vector<PlacedSlice> slices_of(const Parameter& parameter, int64_t begin, int64_t end);
std::vector<PlacedSlice> slices_of(const Parameter& parameter);

std::string to_string(const Slice& slice);  // "[0:4, 8:16] of [4, 16], elements 0 to 10"

/// Says what is wrong with a slice that came from a file; "" when nothing is.
std::string problem_of(const Slice& slice);

/// Calls visit(source_begin, target_begin, count) for each run of elements that both slices (of one array)
/// hold contiguously; the positions count from the first element that each slice holds. target_begin ascends.
using RunVisitor = std::function<void(int64_t source_begin, int64_t target_begin, int64_t count)>;
void for_each_common_run(const Slice& source, const Slice& target, const RunVisitor& visit);

}  // namespace trireme
