// embedding: rows of a table by token, plus rows of a second table by position.
#pragma once

#include "core/op.h"

namespace trireme {

/// y[b, t] = w[tokens[b, t]] (+ positions[first_position + t]). tokens i32 [B, T], w [V, C], positions [T', C] or
/// null -> [B*T, C]. A token outside [0, V) is a ConfigError that names it.
Tensor embedding(Context& ctx, const Tensor& tokens, Parameter& w, Parameter* positions, int64_t first_position = 0);

}  // namespace trireme
