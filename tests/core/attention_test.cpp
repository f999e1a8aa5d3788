// attention against a plain double-precision reference: outputs, gradients, generation with a cache, and that
// neither the number of threads nor huge scores change what is right. (Finite differences:
// op_table_test.cpp.)
#include "core/ops/attention.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "core/rng.h"
#include "core/tape.h"

namespace trireme {
namespace {

using testing::HasSubstr;
using testing::ThrowsMessage;

std::vector<float> normal_numbers(int64_t count, uint64_t seed, float deviation = 1.0f) {
  std::vector<float> values(static_cast<size_t>(count));
  const RandomStream stream = make_stream(seed, hash_name("attention_test"));
  for (size_t i = 0; i < values.size(); ++i) values[i] = deviation * to_normal(stream.block(i / 4))[i % 4];
  return values;
}

std::vector<double> to_double(std::span<const float> x) {
  return {x.begin(), x.end()};
}

/// The largest difference, relative to the largest element of `want`.
template <class T>
double relative_error(std::span<const T> got, const std::vector<double>& want) {
  EXPECT_EQ(got.size(), want.size());
  double largest = 0, difference = 0;
  for (size_t i = 0; i < want.size(); ++i) {
    largest = std::max(largest, std::abs(want[i]));
    const double d = std::abs(static_cast<double>(static_cast<float>(got[i])) - want[i]);
    difference = std::isfinite(d) ? std::max(difference, d) : INFINITY;
  }
  return difference / largest;
}

/// Attention as the formula says, in double precision, with full matrices.
class Reference {
 public:
  Reference(const AttentionShape& shape, std::vector<double> qkv) : s_(shape), qkv_(std::move(qkv)) {}

  std::vector<double> forward() const {
    std::vector<double> out(static_cast<size_t>(s_.batch * s_.tokens * s_.heads * s_.head_dim));
    for_rows([&](int64_t b, int64_t h, int64_t t, const std::vector<double>& p) {
      for (size_t k = 0; k < p.size(); ++k)
        for (int64_t d = 0; d < s_.head_dim; ++d)
          out[out_at(b, t, h) + d] += p[k] * qkv_[value_at(b, k, h) + d];
    });
    return out;
  }

  std::vector<double> backward(const std::vector<double>& d_out) const {
    std::vector<double> d_qkv(qkv_.size());
    const double factor = 1 / std::sqrt(static_cast<double>(s_.head_dim));
    for_rows([&](int64_t b, int64_t h, int64_t t, const std::vector<double>& p) {
      const double* d_row = &d_out[out_at(b, t, h)];
      std::vector<double> dp(p.size());
      double delta = 0;
      for (size_t k = 0; k < p.size(); ++k) {
        for (int64_t d = 0; d < s_.head_dim; ++d) {
          dp[k] += d_row[d] * qkv_[value_at(b, k, h) + d];
          d_qkv[value_at(b, k, h) + d] += p[k] * d_row[d];
        }
        delta += p[k] * dp[k];
      }
      for (size_t k = 0; k < p.size(); ++k)
        for (int64_t d = 0; d < s_.head_dim; ++d) {
          const double d_score = factor * p[k] * (dp[k] - delta);
          d_qkv[query_at(b, t, h) + d] += d_score * qkv_[key_at(b, k, h) + d];
          d_qkv[key_at(b, k, h) + d] += d_score * qkv_[query_at(b, t, h) + d];
        }
    });
    return d_qkv;
  }

 private:
  /// f(sample, head, query, its probabilities).
  template <class F>
  void for_rows(const F& f) const {
    for (int64_t b = 0; b < s_.batch; ++b)
      for (int64_t h = 0; h < s_.heads; ++h)
        for (int64_t t = 0; t < s_.tokens; ++t) {
          std::vector<double> p(static_cast<size_t>(s_.causal ? t + 1 : s_.tokens));
          for (size_t k = 0; k < p.size(); ++k) {
            for (int64_t d = 0; d < s_.head_dim; ++d)
              p[k] += qkv_[query_at(b, t, h) + d] * qkv_[key_at(b, k, h) + d];
            p[k] /= std::sqrt(static_cast<double>(s_.head_dim));
          }
          const double maximum = *std::max_element(p.begin(), p.end());
          double sum = 0;
          for (double& x : p) sum += x = std::exp(x - maximum);
          for (double& x : p) x /= sum;
          f(b, h, t, p);
        }
  }
  size_t packed_at(int64_t b, int64_t t, int64_t head) const {
    return static_cast<size_t>((b * s_.tokens + t) * s_.qkv_width() + head * s_.head_dim);
  }
  size_t query_at(int64_t b, int64_t t, int64_t h) const { return packed_at(b, t, h); }
  size_t key_at(int64_t b, int64_t t, int64_t h) const {
    return packed_at(b, t, s_.heads + h / (s_.heads / s_.kv_heads));
  }
  size_t value_at(int64_t b, int64_t t, int64_t h) const {
    return key_at(b, t, h) + s_.kv_heads * s_.head_dim;
  }
  size_t out_at(int64_t b, int64_t t, int64_t h) const {
    return static_cast<size_t>(((b * s_.tokens + t) * s_.heads + h) * s_.head_dim);
  }

  AttentionShape s_;
  std::vector<double> qkv_;
};

struct Results {
  Tensor out, d_qkv;
};

/// Forward and backward; inputs are given as f32 and stored as T.
template <class T = float>
Results run(Context ctx, const AttentionShape& shape, std::span<const float> qkv,
            std::span<const float> d_out) {
  const std::vector<T> qkv_stored(qkv.begin(), qkv.end()), d_out_stored(d_out.begin(), d_out.end());
  const int64_t rows = shape.batch * shape.tokens;
  Tape tape;
  ctx.tape = &tape;
  const Tensor x = tape.watch(ctx.from_host(std::span(qkv_stored), {rows, shape.qkv_width()}));
  const Tensor y = attention(ctx, x, shape);
  const Tensor dy = ctx.from_host(std::span(d_out_stored), {rows, shape.heads * shape.head_dim});
  tape.backward(ctx, std::span(&y, 1), {dy});
  return {y, tape.take_grad(x)};
}

struct Inputs {
  explicit Inputs(const AttentionShape& s, float deviation = 1.0f)
      : qkv(normal_numbers(s.batch * s.tokens * s.qkv_width(), 1, deviation)),
        d_out(normal_numbers(s.batch * s.tokens * s.heads * s.head_dim, 2)) {}
  std::vector<float> qkv, d_out;
};

std::string describe(const AttentionShape& s) {
  return fmt::format("B{}_T{}_H{}_K{}_D{}_{}", s.batch, s.tokens, s.heads, s.kv_heads, s.head_dim,
                     s.causal ? "causal" : "bidirectional");
}

class AttentionShapes : public testing::TestWithParam<AttentionShape> {};

TEST_P(AttentionShapes, EqualsReference) {
  const AttentionShape shape = GetParam();
  const Inputs in(shape);
  const Reference reference(shape, to_double(in.qkv));
  Engine engine(make_cpu_backend(1));
  const Results got = run(engine.context(), shape, in.qkv, in.d_out);
  EXPECT_LT(relative_error<float>(got.out.span<float>(), reference.forward()), 2e-6);
  EXPECT_LT(relative_error<float>(got.d_qkv.span<float>(), reference.backward(to_double(in.d_out))), 4e-6);
}

INSTANTIATE_TEST_SUITE_P(
    Table, AttentionShapes,
    testing::Values(AttentionShape{2, 1, 2, 2, 64, true}, AttentionShape{1, 1, 1, 1, 8, false},
                    AttentionShape{1, 17, 3, 3, 20, true}, AttentionShape{2, 17, 2, 1, 64, false},
                    AttentionShape{2, 65, 2, 2, 8, true}, AttentionShape{1, 65, 4, 2, 128, true},
                    AttentionShape{1, 65, 3, 3, 20, false}, AttentionShape{2, 130, 2, 2, 64, true},
                    AttentionShape{1, 130, 4, 1, 8, false}, AttentionShape{1, 130, 2, 2, 128, false},
                    AttentionShape{1, 130, 6, 2, 20, true}, AttentionShape{1, 257, 2, 2, 32, true},
                    AttentionShape{1, 64, 1, 1, 1, true}, AttentionShape{1, 70, 1, 1, 256, true},
                    AttentionShape{1, 128, 2, 1, 80, true}, AttentionShape{2, 192, 2, 1, 64, true},
                    AttentionShape{1, 192, 2, 2, 32, false}),
    [](const auto& info) { return describe(info.param); });

TEST(Attention, Bf16StorageIsCloseToReference) {
  const AttentionShape shape{2, 100, 4, 2, 40, true};
  Inputs in(shape);
  for (float& x : in.qkv) x = static_cast<float>(bf16(x));
  for (float& x : in.d_out) x = static_cast<float>(bf16(x));
  const Reference reference(shape, to_double(in.qkv));
  Engine engine(make_cpu_backend(1));
  const Results got = run<bf16>(engine.context(), shape, in.qkv, in.d_out);
  EXPECT_LT(relative_error<bf16>(got.out.span<bf16>(), reference.forward()), 0x1p-8);
  EXPECT_LT(relative_error<bf16>(got.d_qkv.span<bf16>(), reference.backward(to_double(in.d_out))), 0x1p-7);
}

TEST(Attention, NumberOfThreadsChangesNothing) {
  for (const AttentionShape& shape :
       {AttentionShape{2, 200, 3, 3, 64, true}, AttentionShape{1, 150, 4, 2, 24, false}}) {
    const Inputs in(shape);
    Engine one(make_cpu_backend(1)), two(make_cpu_backend(2));
    const Results a = run(one.context(), shape, in.qkv, in.d_out),
                  b = run(two.context(), shape, in.qkv, in.d_out);
    EXPECT_THAT(a.out.span<float>(), testing::ElementsAreArray(b.out.span<float>()));
    EXPECT_THAT(a.d_qkv.span<float>(), testing::ElementsAreArray(b.d_qkv.span<float>()));
  }
}

// Here heads are split over tasks, so sums are in another order.
TEST(Attention, MoreThreadsThanHeadsEqualsReference) {
  for (const AttentionShape& shape :
       {AttentionShape{1, 200, 1, 1, 64, true}, AttentionShape{1, 150, 4, 2, 24, false}}) {
    const Inputs in(shape);
    const Reference reference(shape, to_double(in.qkv));
    Engine engine(make_cpu_backend(3));
    const Results got = run(engine.context(), shape, in.qkv, in.d_out),
                  again = run(engine.context(), shape, in.qkv, in.d_out);
    EXPECT_LT(relative_error<float>(got.out.span<float>(), reference.forward()), 2e-6);
    EXPECT_LT(relative_error<float>(got.d_qkv.span<float>(), reference.backward(to_double(in.d_out))), 4e-6);
    EXPECT_THAT(got.d_qkv.span<float>(), testing::ElementsAreArray(again.d_qkv.span<float>()));
  }
}

TEST(Attention, HugeScoresStayFinite) {
  const AttentionShape shape{1, 150, 2, 2, 64, true};
  const Inputs in(shape, 100.0f);  // scores of 1e4 and more
  const Reference reference(shape, to_double(in.qkv));
  Engine engine(make_cpu_backend(1));
  const Results got = run(engine.context(), shape, in.qkv, in.d_out);
  // One key takes all in nearly every row; an f32 score of 1e4 is right to about 1e-3.
  EXPECT_LT(relative_error<float>(got.out.span<float>(), reference.forward()), 1e-2);
  for (float x : got.d_qkv.span<float>()) ASSERT_TRUE(std::isfinite(x));
}

TEST(Attention, NotANumberIsNotHidden) {
  const AttentionShape shape{1, 80, 1, 1, 16, true};
  Inputs in(shape);
  in.qkv[static_cast<size_t>(70 * shape.qkv_width() + 16)] = NAN;  // a key: only queries from 70 on see it
  Engine engine(make_cpu_backend(1));
  const Results got = run(engine.context(), shape, in.qkv, in.d_out);
  for (int64_t t = 0; t < shape.tokens; ++t)
    EXPECT_EQ(std::isnan(got.out.data<float>()[t * 16]), t >= 70) << "token " << t;
}

/// Rows [begin, end) of each sample of `x`, which holds `batch` samples of `tokens` rows.
template <class T>
std::vector<T> rows_of_samples(const std::vector<T>& x, int64_t batch, int64_t tokens, int64_t begin,
                               int64_t end) {
  const int64_t width = static_cast<int64_t>(x.size()) / (batch * tokens);
  std::vector<T> rows;
  for (int64_t b = 0; b < batch; ++b)
    rows.insert(rows.end(), x.begin() + (b * tokens + begin) * width, x.begin() + (b * tokens + end) * width);
  return rows;
}

KvCache make_cache(const Context& ctx, const AttentionShape& shape, int64_t capacity, DType dtype) {
  const Shape cache_shape{shape.batch, capacity, shape.kv_heads, shape.head_dim};
  return {ctx.empty(cache_shape, dtype), ctx.empty(cache_shape, dtype), 0};
}

/// Feeds the sequence to attention_cached() in `pieces` and compares every piece with the rows of the
/// reference.
template <class T>
void expect_cached_equals_full(const AttentionShape& full, const std::vector<int64_t>& pieces,
                               int num_threads, double tolerance) {
  const Inputs in(full);
  const std::vector<T> qkv(in.qkv.begin(), in.qkv.end());
  std::vector<double> rounded;
  for (const T& x : qkv) rounded.push_back(static_cast<double>(static_cast<float>(x)));
  const std::vector<double> want = Reference(full, rounded).forward();
  Engine engine(make_cpu_backend(num_threads));
  Context ctx = engine.context();
  KvCache cache = make_cache(ctx, full, full.tokens + 5, DTypeOf<T>::value);
  for (int64_t tokens : pieces) {
    AttentionShape shape = full;
    shape.tokens = tokens;
    const int64_t begin = cache.length, end = begin + tokens;
    const std::vector<T> rows = rows_of_samples(qkv, full.batch, full.tokens, begin, end);
    const Tensor x = ctx.from_host(std::span(rows), {full.batch * tokens, full.qkv_width()});
    const Tensor y = attention_cached(ctx, x, shape, cache);
    EXPECT_EQ(cache.length, end);
    EXPECT_LT(relative_error<T>(y.span<T>(), rows_of_samples(want, full.batch, full.tokens, begin, end)),
              tolerance)
        << describe(full) << ", tokens " << begin << " to " << end;
  }
  EXPECT_EQ(cache.length, full.tokens);
}

TEST(AttentionCached, EqualsFullForwardRowByRow) {
  expect_cached_equals_full<float>({1, 6, 2, 2, 64, true}, {1, 1, 1, 1, 1, 1}, 1, 2e-6);
  expect_cached_equals_full<float>({2, 47, 4, 2, 20, true}, {13, 1, 1, 3, 20, 2, 7}, 1, 2e-6);
  expect_cached_equals_full<float>({1, 200, 3, 3, 64, true}, {150, 1, 1, 48}, 2, 2e-6);
  expect_cached_equals_full<float>({1, 90, 5, 1, 128, true}, {1, 70, 4, 15}, 2, 2e-6);
  expect_cached_equals_full<bf16>({2, 60, 4, 2, 40, true}, {30, 1, 29}, 1, 0x1p-8);
}

TEST(AttentionCached, NamesTheContextLengthWhenItIsExceeded) {
  Engine engine(make_cpu_backend(1));
  Context ctx = engine.context();
  const AttentionShape shape{1, 3, 1, 1, 8, true};
  KvCache cache = make_cache(ctx, shape, 8, DType::f32);
  cache.length = 6;
  const Tensor qkv = ctx.zeros({3, shape.qkv_width()});
  EXPECT_THAT([&] { attention_cached(ctx, qkv, shape, cache); },
              ThrowsMessage<ConfigError>(HasSubstr("context length of 8")));
  EXPECT_EQ(cache.length, 6);
}

TEST(Attention, RefusesShapesItCannotDo) {
  Engine engine(make_cpu_backend(1));
  Context ctx = engine.context();
  const auto attend = [&](const AttentionShape& shape, DType dtype) {
    return [&ctx, shape, dtype] {
      attention(ctx, ctx.zeros({shape.batch * shape.tokens, shape.qkv_width()}, dtype), shape);
    };
  };
  EXPECT_THAT(attend({1, 2, 6, 4, 8, true}, DType::f32),
              ThrowsMessage<ConfigError>(HasSubstr("6 query heads")));
  EXPECT_THAT(attend({1, 2, 1, 1, 320, true}, DType::f32), ThrowsMessage<ConfigError>(HasSubstr("got 320")));
  EXPECT_THROW(attend({1, 2, 1, 1, 8, true}, DType::f16)(), InternalError);
  EXPECT_THROW(attention(ctx, ctx.zeros({2, 20}), {1, 2, 1, 1, 8, true}), InternalError);
}

}  // namespace
}  // namespace trireme
