// The backward pass of attention in tiles, for gradients that are written beside one another and for those
// that are summed up elsewhere.
#pragma once

#include "core/backend/cpu/attention_tiles.h"
#include "core/context.h"

namespace trireme::cpu {

/// Where the operands lie; kResult says whether the gradients, of type Grad, are written or added to.
template <class T, class Grad = T, Result kResult = Result::write>
struct AttentionGradients {
  Heads<const T> queries, keys, values, out, d_out;
  Heads<Grad> d_queries, d_keys, d_values;
  const float* lse = nullptr;  // base 2; of head h of sample b at (b * heads + h) * lse_stride
  int64_t lse_stride = 0;
  int64_t batch = 0, heads = 0, kv_heads = 0, head_dim = 0;
  int64_t num_queries = 0, num_keys = 0;
  bool causal = true;  // then num_queries = num_keys
};

template <class T, class Grad, Result kResult>
void attend_backward(Context& ctx, const AttentionGradients<T, Grad, kResult>& x);

}  // namespace trireme::cpu
