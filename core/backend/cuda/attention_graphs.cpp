#include "core/backend/cuda/attention_graphs.h"

#include <fmt/format.h>

namespace trireme::cuda {
namespace {

using Graph = CudnnGraph;
using Layout = CudnnGraph::Layout;
using Tensor = CudnnGraph::Tensor;

Layout transposed(Layout x) {
  std::swap(x.dims[2], x.dims[3]);
  std::swap(x.strides[2], x.strides[3]);
  return x;
}

/// Where the tensors of a part lie. B batch, H and K heads, T tokens, D head_dim.
struct Layouts {
  explicit Layouts(const AttentionPart& p)
      : B(p.shape.batch), H(p.shape.heads), K(p.shape.kv_heads), T(p.shape.tokens), D(p.shape.head_dim) {
    const int64_t W = p.qkv_width, C = p.total_heads * D;
    queries = {{B, H, T, D}, {T * W, D, W, 1}};
    keys = {{B, K, T, D}, {T * W, D, W, 1}};
    out = {{B, H, T, D}, {T * C, D, C, 1}};
    lse = {{B, H, T, 1}, {p.total_heads * T, T, 1, 1}};
    rows = {{B, H, T, 1}, {H * T, T, 1, 1}};
    scores = {{B, H, T, T}, {H * T * T, T * T, T, 1}};
    head_rows = {{B, H, T, D}, {H * T * D, T * D, D, 1}};
  }
  int64_t B, H, K, T, D;
  Layout queries, keys, out, lse;
  Layout rows, scores, head_rows;  // of temporaries: a number a row, the T x T scores, a vector a row
};

/// Scores of keys behind their query become minus infinity.
Tensor causal_mask(Graph& g, Tensor scores, const Layouts& at) {
  const Tensor row = g.temporary(at.scores, CUDNN_DATA_INT32),
               column = g.temporary(at.scores, CUDNN_DATA_INT32);
  const Tensor visible = g.temporary(at.scores, CUDNN_DATA_BOOLEAN), masked = g.temporary(at.scores);
  g.index("row number", 2, scores, row);
  g.index("column number", 3, scores, column);
  g.pointwise("row >= column", CUDNN_POINTWISE_CMP_GE, row, column, visible);
  g.select("causal mask", scores, g.scalar(kMinusInfinity), visible, masked);
  return masked;
}

std::string name_of(const char* direction, const AttentionPart& p) {
  const AttentionShape& s = p.shape;
  return fmt::format("attention {} {} B{} H{} K{} T{} D{}{}", direction,
                     p.type == CUDNN_DATA_HALF ? "f16" : "bf16", s.batch, s.heads, s.kv_heads, s.tokens,
                     s.head_dim, s.causal ? " causal" : "");
}

}  // namespace

CudnnGraph attention_forward_graph(const AttentionPart& part) {
  const Layouts at(part);
  Graph g(name_of("forward", part));
  const Tensor q = g.tensor(kQueries, at.queries, part.type),
               k_t = g.tensor(kKeys, transposed(at.keys), part.type);
  const Tensor raw = g.temporary(at.scores), scaled = g.temporary(at.scores);
  g.matmul("q k^T", q, k_t, raw);
  g.pointwise("scale", CUDNN_POINTWISE_MUL, raw, g.scalar(kScale), scaled);
  const Tensor scores = part.shape.causal ? causal_mask(g, scaled, at) : scaled;

  const Tensor maximum = g.temporary(at.rows), sum = g.temporary(at.rows), log_sum = g.temporary(at.rows);
  const Tensor shifted = g.temporary(at.scores), exponentials = g.temporary(at.scores);
  const Tensor p = g.temporary(at.scores, part.type);
  g.reduce("maximum", CUDNN_REDUCE_TENSOR_MAX, scores, maximum);
  g.pointwise("scores - maximum", CUDNN_POINTWISE_SUB, scores, maximum, shifted);
  g.pointwise("exponentials", CUDNN_POINTWISE_EXP, shifted, exponentials);
  g.reduce("sum", CUDNN_REDUCE_TENSOR_ADD, exponentials, sum);
  g.pointwise("log of sum", CUDNN_POINTWISE_LOG, sum, log_sum);
  g.pointwise("lse", CUDNN_POINTWISE_ADD, maximum, log_sum, g.tensor(kLse, at.lse, CUDNN_DATA_FLOAT));
  g.pointwise("probabilities", CUDNN_POINTWISE_DIV, exponentials, sum, p);
  g.matmul("p v", p, g.tensor(kValues, at.keys, part.type), g.tensor(kOut, at.out, part.type));
  return g;
}

namespace {

/// y = x^T z by way of a transposed view of x; y has K heads, so those of a group are added.
void transposed_matmul(Graph& g, const char* what, Tensor x, Tensor z, Tensor y, const AttentionPart& part,
                       const Layouts& at) {
  const Tensor x_t =
      g.temporary({{at.B, at.H, at.T, at.T}, {at.H * at.T * at.T, at.T * at.T, 1, at.T}}, part.type);
  g.reshape("transpose", x, x_t);
  if (at.H == at.K) return g.matmul(what, x_t, z, y);
  const Tensor of_every_head = g.temporary(at.head_rows, part.type);
  g.matmul(what, x_t, z, of_every_head);
  g.reduce("sum over a group's heads", CUDNN_REDUCE_TENSOR_ADD, of_every_head, y);
}

}  // namespace

CudnnGraph attention_backward_graph(const AttentionPart& part) {
  const Layouts at(part);
  Graph g(name_of(part.deterministic ? "backward" : "backward (not deterministic)", part));
  const Tensor d_out = g.tensor(kDOut, at.out, part.type);
  const Tensor scale = g.scalar(kScale);

  // sums = rows of sum(d_out * out)
  const Tensor products = g.temporary(at.head_rows), row_sums = g.temporary(at.rows);
  const Tensor sums = g.tensor(kSums, at.rows, CUDNN_DATA_FLOAT);
  g.pointwise("d_out * out", CUDNN_POINTWISE_MUL, d_out, g.tensor(kOut, at.out, part.type), products);
  g.reduce("sum of d_out * out", CUDNN_REDUCE_TENSOR_ADD, products, row_sums);
  g.pointwise("times one", CUDNN_POINTWISE_MUL, row_sums, g.scalar(kOne), sums);

  // p = exp(scale q k^T - lse) ; dv = p^T d_out
  const Tensor q = g.tensor(kQueries, at.queries, part.type),
               k_t = g.tensor(kKeys, transposed(at.keys), part.type);
  const Tensor raw = g.temporary(at.scores), scaled = g.temporary(at.scores),
               shifted = g.temporary(at.scores);
  const Tensor p = g.temporary(at.scores);
  g.matmul("q k^T", q, k_t, raw);
  g.pointwise("scale", CUDNN_POINTWISE_MUL, raw, scale, scaled);
  g.pointwise("scores - lse", CUDNN_POINTWISE_SUB, scaled, g.tensor(kLse, at.lse, CUDNN_DATA_FLOAT), shifted);
  g.pointwise("probabilities", CUDNN_POINTWISE_EXP, part.shape.causal ? causal_mask(g, shifted, at) : shifted,
              p);
  transposed_matmul(g, "p^T d_out", p, d_out, g.tensor(kDValues, at.keys, part.type), part, at);

  // ds = scale p (d_out v^T - sums) ; dk = ds^T q
  const Tensor dp = g.temporary(at.scores), centered = g.temporary(at.scores),
               unscaled = g.temporary(at.scores);
  const Tensor ds = g.temporary(at.scores);
  g.matmul("d_out v^T", d_out, g.tensor(kValues, transposed(at.keys), part.type), dp);
  g.pointwise("dp - sums", CUDNN_POINTWISE_SUB, dp, sums, centered);
  g.pointwise("times p", CUDNN_POINTWISE_MUL, centered, p, unscaled);
  g.pointwise("times scale", CUDNN_POINTWISE_MUL, unscaled, scale, ds);
  transposed_matmul(g, "ds^T q", ds, q, g.tensor(kDKeys, at.keys, part.type), part, at);

  // dq = ds k
  const Tensor k = g.temporary(at.keys), dq = g.tensor(kDQueries, at.queries, part.type);
  g.reshape("k^T^T", k_t, k);
  if (part.deterministic) {
    g.matmul("ds k", ds, k, dq);
  } else {
    const Tensor dq_sum = g.tensor(kDQSum, at.head_rows, CUDNN_DATA_FLOAT);
    g.matmul("ds k", ds, k, dq_sum);
    g.pointwise("rounding", CUDNN_POINTWISE_IDENTITY, dq_sum, dq);
  }
  return g;
}

}  // namespace trireme::cuda
