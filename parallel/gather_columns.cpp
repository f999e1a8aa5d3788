#include "parallel/gather_columns.h"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>

namespace trireme {
namespace {

/// `count` elements of a row of `from` [rows, ...] to columns of a row of `to`.
void copy_row(Context& ctx, const Tensor& from, int64_t from_at, const Tensor& to, int64_t to_at,
              int64_t count) {
  const Tensor target = to.flat_view(to_at, {count}), source = from.flat_view(from_at, {count});
  ctx.backend->copy(target.raw(), source.raw(), source.bytes(), *ctx.stream);
}

/// local [B, n] with rows of `width`; what is behind n is zeros.
Tensor padded(Context& ctx, const Tensor& local, int64_t width) {
  if (local.dim(1) == width) return local;
  Tensor t = ctx.zeros({local.dim(0), width}, DType::f32, MemoryClass::workspace);
  for (int64_t b = 0; b < local.dim(0); ++b)
    copy_row(ctx, local, b * local.dim(1), t, b * width, local.dim(1));
  return t;
}

}  // namespace

Tensor gather_columns(Context& ctx, const Tensor& tensor, std::span<const int64_t> columns, Group& group) {
  const Tensor local = tensor.detach();
  TRIREME_ASSERT(static_cast<int>(columns.size()) == group.size() && local.rank() == 2 &&
                     local.dtype() == DType::f32 &&
                     local.dim(1) == columns[static_cast<size_t>(group.rank())],
                 fmt::format("gather_columns: {} of {} for rank {} of {}", to_string(local.shape()),
                             name_of(local.dtype()), group.rank(), group.size()));
  if (group.size() == 1) return local;
  const int64_t rows = local.dim(0), widest = std::ranges::max(columns);
  const int64_t total = std::accumulate(columns.begin(), columns.end(), int64_t{0});
  const Tensor parts = ctx.empty({group.size(), rows, widest}, DType::f32, MemoryClass::workspace);
  group.all_gather(padded(ctx, local, widest), parts, "columns", ctx.stream).wait(*ctx.stream);
  Tensor whole = ctx.empty({rows, total});
  int64_t first = 0;
  for (int64_t part = 0; part < group.size(); ++part) {
    const int64_t count = columns[static_cast<size_t>(part)];
    for (int64_t b = 0; b < rows; ++b)
      copy_row(ctx, parts, (part * rows + b) * widest, whole, b * total + first, count);
    first += count;
  }
  return whole;
}

}  // namespace trireme
