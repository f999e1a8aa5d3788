// The forward pass of attention in tiles, for packed q, k, v and for keys and values that lie elsewhere.
#pragma once

#include <cmath>

#include "core/backend/cpu/attention_tiles.h"
#include "core/context.h"

namespace trireme::cpu {

/// Where the operands lie. Heads of one token are head_dim elements apart. Strides count elements.
template <class T, class Out = T>
struct AttentionOperands {
  const T* queries = nullptr;
  int64_t query_batch_stride = 0, query_stride = 0;
  const T* keys = nullptr;
  const T* values = nullptr;
  int64_t key_batch_stride = 0, key_stride = 0;
  Out* out = nullptr;    // [batch, num_queries, heads * head_dim]
  float* lse = nullptr;  // [batch, heads, num_queries], base 2; not written when null
  int64_t batch = 0, heads = 0, kv_heads = 0, head_dim = 0;
  int64_t num_queries = 0, num_keys = 0;
  int64_t first_position = 0;  // the position of query 0 among the keys
  bool causal = true;
};

/// What turns a product q k into a score whose exponential is 2^score: 1 / sqrt(D), and log2(e).
inline float score_factor(int64_t head_dim) {
  return static_cast<float>(M_LOG2E / std::sqrt(static_cast<double>(head_dim)));
}

template <class T, class Out>
void attend(Context& ctx, const AttentionOperands<T, Out>& x);

void add_attention_forward(Backend& backend);
void add_attention_backward(Backend& backend);
void add_attention_block(Backend& backend);
void add_attention_decode(Backend& backend);

}  // namespace trireme::cpu
