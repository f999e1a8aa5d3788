#include "core/checkpoint/slice.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/error.h"
#include "core/parameter.h"

namespace trireme {
namespace {

constexpr int64_t kMaxElements = int64_t{1} << 60;  // bytes still fit an int64

Shape zeros_like(const Shape& shape) {
  Shape zeros = shape;
  for (int d = 0; d < shape.rank(); ++d) zeros[d] = 0;
  return zeros;
}

/// Elements from one index of dim `d` to the next.
int64_t stride(const Shape& size, int d) {
  int64_t n = 1;
  for (int i = d + 1; i < size.rank(); ++i) n *= size[i];
  return n;
}

/// The box that two slices have in common, in global indices.
struct Box {
  Shape begin, end;
};

/// Leaves the rows of dim 0 out that the slice's flat range does not touch.
void narrow_rows(const Slice& slice, Box& box) {
  const int64_t row = stride(slice.size, 0);
  box.begin[0] = std::max(box.begin[0], slice.offset[0] + slice.flat_begin / row);
  box.end[0] = std::min(box.end[0], slice.offset[0] + (slice.flat_end + row - 1) / row);
}

/// Position of a global index in a slice's rectangle.
int64_t position(const Slice& slice, const Shape& index) {
  int64_t p = 0;
  for (int d = 0; d < index.rank(); ++d) p = p * slice.size[d] + index[d] - slice.offset[d];
  return p;
}

}  // namespace

Slice Slice::whole(const Shape& global) {
  return rectangle(global, zeros_like(global), global);
}

Slice Slice::rectangle(const Shape& global, const Shape& offset, const Shape& size) {
  const Slice slice{global, offset, size, 0, size.numel()};
  TRIREME_ASSERT(problem_of(slice).empty(), problem_of(slice));
  return slice;
}

Slice Slice::range(int64_t begin, int64_t end) const {
  Slice slice = *this;
  slice.flat_begin = begin;
  slice.flat_end = end;
  TRIREME_ASSERT(problem_of(slice).empty(), problem_of(slice));
  return slice;
}

std::vector<PlacedSlice> slices_of(const Parameter& parameter, int64_t begin, int64_t end) {
  const Shape global = parameter.global_shape();
  const Placement& p = parameter.placement;
  if (!p.is_split()) return {{Slice::whole(global).range(begin, end), begin, p.primary}};
  TRIREME_ASSERT(p.ranges.size() == 1 || p.dim == 0, "several ranges of a dim that is not the first");
  std::vector<PlacedSlice> slices;
  int64_t local = 0;  // where the range begins in the local array
  for (const Placement::Range& range : p.ranges) {
    Shape offset = zeros_like(global), size = parameter.shape;
    offset[p.dim] = range.begin;
    size[p.dim] = range.end - range.begin;
    const int64_t first = std::max(begin, local), last = std::min(end, local + size.numel());
    if (first < last)
      slices.push_back({Slice::rectangle(global, offset, size).range(first - local, last - local), first, range.primary});
    local += size.numel();
  }
  return slices;
}

std::vector<PlacedSlice> slices_of(const Parameter& parameter) {
  return slices_of(parameter, 0, parameter.shape.numel());
}

std::string to_string(const Slice& slice) {
  if (slice.is_whole()) return to_string(slice.global);
  std::string text = "[";
  for (int d = 0; d < slice.global.rank(); ++d)
    text += fmt::format("{}{}:{}", d ? ", " : "", slice.offset[d], slice.offset[d] + slice.size[d]);
  text += "] of " + to_string(slice.global);
  if (!slice.is_rectangle()) text += fmt::format(", elements {} to {}", slice.flat_begin, slice.flat_end);
  return text;
}

std::string problem_of(const Slice& slice) {
  if (slice.offset.rank() != slice.global.rank() || slice.size.rank() != slice.global.rank())
    return fmt::format("its shape has {} dimensions, its offset {} and its size {}", slice.global.rank(),
                       slice.offset.rank(), slice.size.rank());
  int64_t numel = 1;
  for (int d = 0; d < slice.global.rank(); ++d) {
    const int64_t global = slice.global[d], offset = slice.offset[d], size = slice.size[d];
    if (global < 0 || offset < 0 || size < 0 || offset > global || size > global - offset)
      return fmt::format("dim {}: {} elements at {} do not lie in {}", d, size, offset, global);
    if (global != 0 && numel > kMaxElements / global) return "it has more than 2^60 elements";
    numel *= std::max<int64_t>(global, 1);
  }
  if (slice.flat_begin < 0 || slice.flat_begin > slice.flat_end || slice.flat_end > slice.size.numel())
    return fmt::format("elements {} to {} do not lie in a rectangle of {}", slice.flat_begin, slice.flat_end,
                       slice.size.numel());
  return "";
}

void for_each_common_run(const Slice& source, const Slice& target, const RunVisitor& visit) {
  TRIREME_ASSERT(source.global == target.global, "slices of two arrays");
  const int rank = source.global.rank();
  if (rank == 0) {
    if (source.numel() > 0 && target.numel() > 0) visit(0, 0, 1);
    return;
  }
  if (source.numel() == 0 || target.numel() == 0) return;
  Box box{source.offset, source.offset};
  for (int d = 0; d < rank; ++d) {
    box.begin[d] = std::max(source.offset[d], target.offset[d]);
    box.end[d] = std::min(source.offset[d] + source.size[d], target.offset[d] + target.size[d]);
  }
  narrow_rows(source, box);
  narrow_rows(target, box);
  for (int d = 0; d < rank; ++d)
    if (box.begin[d] >= box.end[d]) return;

  // A run spans part of dim `split` and all of the dims after it, which are as long in both rectangles.
  int split = rank - 1;
  while (split > 0 && source.size[split] == target.size[split] &&
         box.end[split] - box.begin[split] == source.size[split])
    --split;
  const int64_t run = (box.end[split] - box.begin[split]) * stride(source.size, split);

  Shape index = box.begin;
  while (true) {
    const int64_t s = position(source, index), t = position(target, index);
    const int64_t first = std::max({int64_t{0}, source.flat_begin - s, target.flat_begin - t});
    const int64_t last = std::min({run, source.flat_end - s, target.flat_end - t});
    if (first < last) visit(s + first - source.flat_begin, t + first - target.flat_begin, last - first);
    int d = split - 1;
    while (d >= 0 && ++index[d] == box.end[d]) {
      index[d] = box.begin[d];
      --d;
    }
    if (d < 0) return;
  }
}

}  // namespace trireme
