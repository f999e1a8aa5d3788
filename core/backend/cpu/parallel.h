// Splitting work over the threads of a host backend: static, contiguous ranges, so the same thread touches
// the same memory in every kernel and results don't depend on timing. Ranks that are threads each have own
// teams.
#pragma once

#include <omp.h>

#include <algorithm>
#include <cstdint>

#include "core/context.h"

namespace trireme::cpu {

inline constexpr int64_t kMinParallelElements = 16384;  // fewer, and waking a thread costs more than it saves

struct Range {
  int64_t begin, end;
};

/// How many ranges `total` items are worth, at least `min_items` each: 1 .. the backend's threads.
inline int num_ranges(const Context& ctx, int64_t total, int64_t min_items) {
  return static_cast<int>(
      std::clamp<int64_t>(total / std::max<int64_t>(min_items, 1), 1, ctx.backend->num_threads()));
}

/// The i-th of `count` ranges of [0, total), each a multiple of `step` items long (but for the last).
inline Range range_of(int i, int count, int64_t total, int64_t step = 1) {
  const int64_t steps = (total + step - 1) / step;
  return {std::min(total, steps * i / count * step), std::min(total, steps * (i + 1) / count * step)};
}

/// body(i) for i in [0, count), at the same time when count > 1. It must not throw.
template <class Body>
void parallel_for(int count, const Body& body) {
  if (count == 1) return body(0);
#pragma omp parallel for schedule(static, 1) num_threads(count)
  for (int i = 0; i < count; ++i) body(i);
}

/// body(begin, end) over [0, elements) in ranges of whole cache lines.
template <class Body>
void for_elements(const Context& ctx, int64_t elements, const Body& body) {
  const int count = num_ranges(ctx, elements, kMinParallelElements);
  parallel_for(count, [&](int i) {
    const Range r = range_of(i, count, elements, 64);
    body(r.begin, r.end);
  });
}

/// How many ranges `rows` rows of `width` elements are worth.
inline int num_row_ranges(const Context& ctx, int64_t rows, int64_t width) {
  return num_ranges(ctx, rows, kMinParallelElements / std::max<int64_t>(width, 1) + 1);
}

/// body(begin, end) over [0, rows) in ranges of rows that hold `width` elements each.
template <class Body>
void for_rows(const Context& ctx, int64_t rows, int64_t width, const Body& body) {
  const int count = num_row_ranges(ctx, rows, width);
  parallel_for(count, [&](int i) {
    const Range r = range_of(i, count, rows);
    body(r.begin, r.end);
  });
}

/// Makes a library that asks OpenMP for its default use this backend's threads, for the current scope.
class OmpThreads {
 public:
  explicit OmpThreads(const Context& ctx) : before_(omp_get_max_threads()) {
    omp_set_num_threads(ctx.backend->num_threads());
  }
  ~OmpThreads() { omp_set_num_threads(before_); }
  OmpThreads(const OmpThreads&) = delete;
  OmpThreads& operator=(const OmpThreads&) = delete;

 private:
  int before_;
};

}  // namespace trireme::cpu
