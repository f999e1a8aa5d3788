// Conversions between element types, dropout's mask, and sums of squares.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/ops/elementwise.h"
#include "core/tape.h"

namespace trireme {
namespace {

class Elementwise : public testing::Test {
 protected:
  Engine engine_{make_cpu_backend(2)};
  Context ctx_ = engine_.context();
};

/// Every value of a 16-bit type, as a tensor.
template <class T>
Tensor all_values(const Context& ctx) {
  std::vector<T> values(65536);
  for (size_t i = 0; i < values.size(); ++i) values[i].bits = static_cast<uint16_t>(i);
  return ctx.from_host<T>(values, {65536});
}

/// Casts every value to f32 and back: the same bits, but for NaNs, which stay NaNs.
template <class T>
void expect_round_trip(Context& ctx) {
  const Tensor start = all_values<T>(ctx);
  const Tensor f32 = cast(ctx, start, DType::f32);
  const Tensor back = cast(ctx, f32, DTypeOf<T>::value);
  for (size_t i = 0; i < 65536; ++i) {
    if (std::isnan(f32.span<float>()[i]))
      EXPECT_TRUE(std::isnan(static_cast<float>(back.span<T>()[i]))) << i;
    else
      EXPECT_EQ(back.span<T>()[i].bits, i);
  }
}

TEST_F(Elementwise, EveryBf16SurvivesTheRoundTripThroughF32) {
  expect_round_trip<bf16>(ctx_);
}
TEST_F(Elementwise, EveryF16SurvivesTheRoundTripThroughF32) {
  expect_round_trip<f16>(ctx_);
}

TEST_F(Elementwise, F16HasTheValuesOfIeee754) {
  const auto value = [](uint16_t bits) {
    f16 h;
    h.bits = bits;
    return static_cast<float>(h);
  };
  EXPECT_EQ(value(0x3c00), 1.0f);
  EXPECT_EQ(value(0xc000), -2.0f);
  EXPECT_EQ(value(0x7bff), 65504.0f);
  EXPECT_EQ(value(0x0001), 0x1p-24f);
  EXPECT_EQ(value(0x0400), 0x1p-14f);
  EXPECT_EQ(value(0x7c00), std::numeric_limits<float>::infinity());
}

/// Between two neighbours of the type, the nearer is taken, and the even one when both are as near.
template <class T>
void expect_nearest_even(uint16_t first, uint16_t last) {
  for (uint32_t bits = first; bits < last; ++bits) {
    T low, high;
    low.bits = static_cast<uint16_t>(bits);
    high.bits = static_cast<uint16_t>(bits + 1);
    const float a = static_cast<float>(low), b = static_cast<float>(high), middle = a + (b - a) / 2;
    const uint16_t even = bits % 2 == 0 ? low.bits : high.bits;
    ASSERT_EQ(T(middle).bits, even) << bits;
    ASSERT_EQ(T(std::nextafter(middle, a)).bits, low.bits) << bits;
    ASSERT_EQ(T(std::nextafter(middle, b)).bits, high.bits) << bits;
  }
}

TEST(Rounding, Bf16RoundsToNearestEven) {
  expect_nearest_even<bf16>(0x0080, 0x7f7f);
}
TEST(Rounding, F16RoundsToNearestEven) {
  expect_nearest_even<f16>(0x0000, 0x7bff);
}
TEST(Rounding, TooLargeForF16IsInfinity) {
  EXPECT_EQ(f16(65519.9f).bits, 0x7bff);
  EXPECT_EQ(f16(65520.0f).bits, 0x7c00);
  EXPECT_EQ(f16(-1e30f).bits, 0xfc00);
}

TEST_F(Elementwise, CastPassesTheGradientBackInItsInputsType) {
  Tape tape;
  ctx_.tape = &tape;
  const Tensor x = tape.watch(ctx_.from_host<float>(std::vector<float>{1.0f, 2.5f, -3.0f}, {3}));
  const Tensor y = cast(ctx_, x, DType::bf16);
  EXPECT_EQ(y.dtype(), DType::bf16);
  tape.backward(ctx_, y);
  const Tensor dx = tape.take_grad(x);
  EXPECT_EQ(dx.dtype(), DType::f32);
  EXPECT_EQ(dx.span<float>()[2], 1.0f);
  EXPECT_EQ(cast(ctx_, x, DType::f32).raw(), x.raw());  // nothing to do
}

TEST_F(Elementwise, SumOfSquaresIsExactAndCountsWhatIsNotFinite) {
  constexpr int64_t n = 200003;  // several chunks, the last one short
  Tensor x = ctx_.empty({n});
  for (int64_t i = 0; i < n; ++i) x.data<float>()[i] = static_cast<float>(i % 7) - 3.0f;
  double expected = 0.0;
  for (float v : x.span<float>()) expected += static_cast<double>(v) * v;
  Tensor out = ctx_.zeros({2});
  ctx_.kernel<SumSquaresKernel>()(ctx_, x, out);
  EXPECT_EQ(out.data<float>()[0], static_cast<float>(expected));
  EXPECT_EQ(out.data<float>()[1], 0.0f);

  x.data<float>()[3] = std::numeric_limits<float>::infinity();
  x.data<float>()[n - 1] = std::numeric_limits<float>::quiet_NaN();
  Tensor bad = ctx_.zeros({2});
  ctx_.kernel<SumSquaresKernel>()(ctx_, x, bad);
  ctx_.kernel<SumSquaresKernel>()(ctx_, x, bad);
  EXPECT_FALSE(std::isfinite(bad.data<float>()[0]));
  EXPECT_EQ(bad.data<float>()[1], 4.0f);  // added to what was there
}

TEST_F(Elementwise, SumOfSquaresDoesNotDependOnTheThreads) {
  Engine other(make_cpu_backend(1));
  Context one = other.context();
  Tensor x = ctx_.empty({300001});
  for (int64_t i = 0; i < x.numel(); ++i) x.data<float>()[i] = std::sin(static_cast<float>(i));
  Tensor a = ctx_.zeros({2}), b = one.zeros({2});
  ctx_.kernel<SumSquaresKernel>()(ctx_, x, a);
  one.kernel<SumSquaresKernel>()(one, x, b);
  EXPECT_EQ(a.data<float>()[0], b.data<float>()[0]);
}

TEST_F(Elementwise, AddOfDifferentShapesIsRefused) {
  EXPECT_THROW(add(ctx_, ctx_.zeros({2, 3}), ctx_.zeros({3, 2})), InternalError);
}

class Dropout : public Elementwise {
 protected:
  static constexpr int64_t kSamples = 6, kRows = 37,
                           kWidth = 129;  // a sample is not a multiple of 4 elements
  Dropout() {
    ctx_.training = true;
    set_key(3, 11);
  }
  void set_key(uint64_t seed, int64_t step) {
    ctx_.random = {.seed = seed, .step = ctx_.from_host<int64_t>(std::array{step}, {1}), .first_sample = 0};
  }
  std::vector<float> ones_dropped(float p, uint64_t id, int64_t first_sample, int64_t samples) {
    Tensor x = ctx_.empty({samples * kRows, kWidth});
    ctx_.kernel<FillKernel>()(ctx_, 1.0f, x);
    Context ctx = ctx_;
    ctx.random.first_sample = first_sample;
    const Tensor y = dropout(ctx, x, p, id, samples);
    return {y.span<float>().begin(), y.span<float>().end()};
  }
};

TEST_F(Dropout, DropsAtItsRateAndKeepsTheMean) {
  for (float p : {0.1f, 0.5f, 0.9f}) {
    const std::vector<float> y = ones_dropped(p, 1, 0, kSamples);
    const double n = static_cast<double>(y.size());
    const double dropped = static_cast<double>(std::count(y.begin(), y.end(), 0.0f)) / n;
    EXPECT_NEAR(dropped, p, 4.0 * std::sqrt(p * (1.0 - p) / n));  // 4 standard deviations
    for (float v : y) ASSERT_TRUE(v == 0.0f || v == 1.0f / (1.0f - p));
  }
}

TEST_F(Dropout, MaskIsThePhiloxStreamOfTheGlobalElement) {
  const std::vector<float> y = ones_dropped(0.4f, 9, 3, 2);
  const RandomStream stream = make_stream(3, 9, 11);
  for (size_t i = 0; i < y.size(); ++i) {
    const size_t element = 3 * kRows * kWidth + i;
    const bool keep = to_uniform(stream.block(element / 4)[element % 4]) >= 0.4f;
    ASSERT_EQ(y[i] != 0.0f, keep) << i;
  }
}

TEST_F(Dropout, DependsOnSeedStepLayerAndSample) {
  const std::vector<float> base = ones_dropped(0.5f, 1, 0, 2);
  EXPECT_EQ(base, ones_dropped(0.5f, 1, 0, 2));
  EXPECT_NE(base, ones_dropped(0.5f, 2, 0, 2));
  EXPECT_NE(base, ones_dropped(0.5f, 1, 1, 2));
  set_key(3, 12);
  EXPECT_NE(base, ones_dropped(0.5f, 1, 0, 2));
  set_key(4, 11);
  EXPECT_NE(base, ones_dropped(0.5f, 1, 0, 2));
}

TEST_F(Dropout, IsTheSameHoweverSamplesAreSplitIntoMicroBatches) {
  const std::vector<float> whole = ones_dropped(0.3f, 5, 0, kSamples);
  for (int64_t micro : {1, 2, 3}) {
    std::vector<float> joined;
    for (int64_t first = 0; first < kSamples; first += micro) {
      const std::vector<float> part = ones_dropped(0.3f, 5, first, micro);
      joined.insert(joined.end(), part.begin(), part.end());
    }
    EXPECT_EQ(joined, whole) << micro << " samples a micro-batch";
  }
}

/// The mask of the whole samples, against those of ranks that hold rows of them, placed by `places`; `row_of(n)` is the row of
/// all samples that row n of the rank is.
template <class RowOf>
void expect_part(Context ctx, const std::vector<float>& whole, const RowPlaces& places, int64_t rows, int64_t samples,
                 const RowOf& row_of) {
  const int64_t width = 129;
  Tensor x = ctx.empty({rows, width});
  ctx.kernel<FillKernel>()(ctx, 1.0f, x);
  ctx.random.rows = places;
  const Tensor y = dropout(ctx, x, 0.3f, 5, samples);
  for (int64_t n = 0; n < rows; ++n)
    for (int64_t c = 0; c < width; ++c)
      ASSERT_EQ(y.data<float>()[n * width + c], whole[static_cast<size_t>(row_of(n) * width + c)]) << "row " << n;
}

TEST_F(Dropout, RowsOfTwoRunsOfPositionsHaveTheMaskOfTheWhole) {
  const std::vector<float> whole = ones_dropped(0.3f, 5, 0, kSamples);
  // As a context rank has them: positions 3 to 8 and 20 to 31 of each sample, here from the third sample on.
  const RowPlaces places{.sequence = kRows, .tokens = 18, .first = 3, .half = 6, .second = 20};
  ctx_.random.first_sample = 2;
  expect_part(ctx_, whole, places, 4 * 18, 4, [](int64_t n) {
    const int64_t t = n % 18;
    return (2 + n / 18) * kRows + (t < 6 ? 3 + t : 14 + t);
  });
}

TEST_F(Dropout, RowsDividedOverTensorRanksHaveTheMaskOfTheWhole) {
  const std::vector<float> whole = ones_dropped(0.3f, 5, 0, kSamples);
  // All rows of three samples in ranges of 37 rows and of 24, which begin and end within samples.
  for (const int64_t part : {37, 24}) {
    for (int64_t first = 0; first < 3 * kRows; first += part) {
      const RowPlaces places{.sequence = kRows, .tokens = kRows, .half = kRows, .first_row = first};
      ctx_.random.first_sample = 1;
      expect_part(ctx_, whole, places, std::min(part, 3 * kRows - first), 3, [&](int64_t n) { return kRows + first + n; });
    }
  }
}

TEST_F(Dropout, RowsOfBothHaveTheMaskOfTheWhole) {
  const std::vector<float> whole = ones_dropped(0.3f, 5, 0, kSamples);
  // Two runs of positions in each of three samples, and of these 3 * 18 rows the second quarter or so.
  const RowPlaces places{.sequence = kRows, .tokens = 18, .first = 3, .half = 6, .second = 20, .first_row = 14};
  expect_part(ctx_, whole, places, 27, 3, [](int64_t n) {
    const int64_t t = (14 + n) % 18;
    return (14 + n) / 18 * kRows + (t < 6 ? 3 + t : 14 + t);
  });
}

TEST_F(Dropout, IsTheInputItselfWhenNotTrainingOrZero) {
  const Tensor x = ctx_.zeros({4, 4});
  EXPECT_EQ(dropout(ctx_, x, 0.0f, 1, 2).raw(), x.raw());
  ctx_.training = false;
  EXPECT_EQ(dropout(ctx_, x, 0.5f, 1, 2).raw(), x.raw());
  EXPECT_THROW(dropout(ctx_, x, 1.0f, 1, 2), ConfigError);
}

}  // namespace
}  // namespace trireme
