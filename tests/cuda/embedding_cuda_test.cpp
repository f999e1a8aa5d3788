// The embedding's gradients on a GPU where their sums change hands: runs of a token that fill chunks exactly, reach over
// many of them, or begin and end at their borders. The rows are small whole numbers, so that every sum is exact.
#include "core/ops/embedding.h"

#include <numeric>

#include "core/ops/elementwise.h"
#include "core/rng.h"
#include "tests/cuda/gpu.h"

namespace trireme {
namespace {

constexpr int64_t kVocab = 700;

/// Whole numbers from -8 to 8.
std::vector<float> whole_numbers(int64_t count, uint64_t purpose) {
  const RandomStream stream = make_stream(5, purpose);
  std::vector<float> values(static_cast<size_t>(count));
  for (size_t i = 0; i < values.size(); ++i)
    values[i] = static_cast<float>(static_cast<int>(stream.block(i / 4)[i % 4] % 17u) - 8);
  return values;
}

/// Tokens whose runs, once in order, have the given lengths over and over; scattered over the places.
std::vector<int32_t> tokens_in_runs(int64_t count, const std::vector<int64_t>& lengths) {
  std::vector<int32_t> in_order;
  for (size_t i = 0; static_cast<int64_t>(in_order.size()) < count; ++i)
    in_order.insert(in_order.end(), static_cast<size_t>(lengths[i % lengths.size()]), static_cast<int32_t>(i % kVocab));
  in_order.resize(static_cast<size_t>(count));
  int64_t step = count / 2 | 1;  // without a divisor in common with the count, it visits every place
  while (std::gcd(step, count) != 1) step += 2;
  std::vector<int32_t> tokens(in_order.size());
  for (int64_t i = 0; i < count; ++i) tokens[static_cast<size_t>(i * step % count)] = in_order[static_cast<size_t>(i)];
  return tokens;
}

class EmbeddingCuda : public testing::Test {
 protected:
  void SetUp() override {
    TRIREME_NEEDS_GPUS(1);
    engine_ = std::make_unique<Engine>(make_cuda_backend({.tune = false}));
    ctx_ = engine_->context();
  }
  Tensor to_device(const std::vector<float>& values, const Shape& shape, DType dtype) {
    return cast(ctx_, ctx_.from_host<float>(values, shape), dtype);
  }
  std::vector<float> to_host(const Tensor& t) {
    std::vector<float> values(static_cast<size_t>(t.numel()));
    ctx_.backend->copy(values.data(), t.raw(), t.bytes(), *ctx_.stream);
    ctx_.stream->synchronize();
    return values;
  }
  /// dw of the kernel, rows [first, end) of the table, against dw added up here.
  void expect_sums(const std::vector<int32_t>& tokens, int64_t width, DType dtype, int64_t first = 0, int64_t end = kVocab) {
    const auto count = static_cast<int64_t>(tokens.size());
    const TableRows rows = end - first == kVocab ? TableRows{} : TableRows{first, kVocab};
    const std::vector<float> dy = whole_numbers(count * width, 1);
    std::vector<float> want = whole_numbers((end - first) * width, 2);
    Tensor dw = to_device(want, {end - first, width}, DType::f32);
    ctx_.kernel<EmbeddingBackwardTokens>()(ctx_, ctx_.from_host<int32_t>(tokens, {1, count}), to_device(dy, {count, width}, dtype), rows, dw);
    for (int64_t n = 0; n < count; ++n) {
      const int64_t token = tokens[static_cast<size_t>(n)];
      if (token < first || token >= end) continue;
      for (int64_t c = 0; c < width; ++c)
        want[static_cast<size_t>((token - first) * width + c)] += dy[static_cast<size_t>(n * width + c)];
    }
    EXPECT_TRUE(to_host(dw) == want) << count << " tokens, width " << width << ", " << name_of(dtype) << ", rows from " << first;
  }

  std::unique_ptr<Engine> engine_;
  Context ctx_;
};

TEST_F(EmbeddingCuda, AddsUpRunsOfAnyLength) {
  const std::vector<std::vector<int64_t>> lengths{{1},       {2},           {31},      {32},          {33},    {64},
                                                  {1, 31},   {31, 1},       {16, 32},  {1, 62, 1},    {7, 300, 5},
                                                  {1, 1023}, {40, 1000, 3}, {1000000}, {5, 1, 1, 90}, {32, 31, 33}};
  for (const auto& run_lengths : lengths)
    for (const int64_t count : {1, 31, 32, 33, 64, 65, 2048, 4099}) {
      const auto tokens = tokens_in_runs(count, run_lengths);
      expect_sums(tokens, 8, DType::bf16);
      expect_sums(tokens, 5, DType::f32);
    }
}

TEST_F(EmbeddingCuda, LeavesTokensOfOtherRowsOut) {
  for (const auto& run_lengths : std::vector<std::vector<int64_t>>{{1}, {32}, {7, 300, 5}, {1, 31}, {40, 1000, 3}, {1000000}})
    for (const int64_t count : {1, 32, 65, 2048, 4099}) {
      const auto tokens = tokens_in_runs(count, run_lengths);
      for (const auto& [first, end] : {std::pair<int64_t, int64_t>{0, 1}, {0, 5}, {1, 2}, {3, 90}, {600, kVocab}}) {
        expect_sums(tokens, 8, DType::bf16, first, end);
        expect_sums(tokens, 5, DType::f32, first, end);
      }
    }
}

TEST_F(EmbeddingCuda, AddsUpRowsOfAnyWidth) {
  const auto tokens = tokens_in_runs(3001, {1, 2, 40, 3, 500, 32});
  for (const DType dtype : {DType::f32, DType::bf16, DType::f16})
    for (const int64_t width : {1, 4, 8, 30, 32, 127, 128, 253, 768, 1024, 1600, 4100}) expect_sums(tokens, width, dtype);
}

TEST_F(EmbeddingCuda, AddsUpPositions) {
  for (const DType dtype : {DType::f32, DType::bf16, DType::f16})
    for (const int64_t width : {1, 8, 253, 768, 1600}) {
      constexpr int64_t kSamples = 7, kLength = 21, kPositions = 40;
      for (const TokenPositions at : {TokenPositions(3), TokenPositions(29, 8, 2)}) {
        const std::vector<float> dy = whole_numbers(kSamples * kLength * width, 3);
        std::vector<float> want = whole_numbers(kPositions * width, 4);
        Tensor dpositions = to_device(want, {kPositions, width}, DType::f32);
        ctx_.kernel<EmbeddingBackwardPositions>()(ctx_, to_device(dy, {kSamples * kLength, width}, dtype), kLength, at, dpositions);
        for (int64_t n = 0; n < kSamples * kLength; ++n)
          for (int64_t c = 0; c < width; ++c)
            want[static_cast<size_t>(at.at(n % kLength) * width + c)] += dy[static_cast<size_t>(n * width + c)];
        EXPECT_TRUE(to_host(dpositions) == want) << "width " << width << ", " << name_of(dtype) << ", from " << at.first;
      }
    }
}

}  // namespace
}  // namespace trireme
