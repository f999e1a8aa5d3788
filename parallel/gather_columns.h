// gather_columns: a matrix whose columns lie on several ranks, whole on each: the logits of generation.
#pragma once

#include <span>

#include "comm/group.h"
#include "core/context.h"

namespace trireme {

/// [B, V] f32 from each rank's local [B, n] f32, side by side in the order of the ranks, where `columns[r]`
/// is rank r's n (it may differ) and V their sum. Collective; one all-gather. Meant for a few rows: it copies
/// row by row. Not differentiable.
Tensor gather_columns(Context& ctx, const Tensor& local, std::span<const int64_t> columns, Group& group);

}  // namespace trireme
