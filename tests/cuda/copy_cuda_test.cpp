// Copies between the host and a GPU, and within its memory.
#include <gmock/gmock.h>

#include <cstring>
#include <numeric>
#include <vector>

#include "core/context.h"
#include "core/error.h"
#include "core/tape.h"
#include "tests/cuda/gpu.h"

namespace trireme {
namespace {

class CopyCuda : public ::testing::Test {
 protected:
  void SetUp() override {
    TRIREME_NEEDS_GPUS(1);
    engine_ = std::make_unique<Engine>(make_cuda_backend());
    ctx_ = engine_->context();
  }
  std::vector<uint8_t> read(const Tensor& t) {
    std::vector<uint8_t> host(t.bytes());
    ctx_.backend->copy(host.data(), t.raw(), host.size(), *ctx_.stream);
    ctx_.stream->synchronize();
    return host;
  }

  std::unique_ptr<Engine> engine_;
  Context ctx_;
};

TEST_F(CopyCuda, WithinTheDeviceWhateverTheAlignment) {
  constexpr size_t kBytes = 5000;
  std::vector<uint8_t> values(kBytes);
  for (size_t i = 0; i < kBytes; ++i) values[i] = static_cast<uint8_t>(i * 31 + i / 256);
  const Tensor from = ctx_.from_host<uint8_t>(values, {kBytes});
  for (const size_t begin : {0, 1, 2, 4, 6, 16, 17})
    for (const size_t target : {0, 1, 2, 4, 12, 16, 35})
      for (const size_t count : {1, 2, 3, 4, 15, 16, 17, 64, 1000, 4096, 4099}) {
        const Tensor to = ctx_.zeros({kBytes}, DType::u8);
        ctx_.backend->copy(static_cast<std::byte*>(to.raw()) + target, static_cast<std::byte*>(from.raw()) + begin, count,
                           *ctx_.stream);
        std::vector<uint8_t> wanted(kBytes);
        std::memcpy(wanted.data() + target, values.data() + begin, count);
        ASSERT_EQ(read(to), wanted) << count << " bytes from " << begin << " to " << target;
      }
}

TEST_F(CopyCuda, AfterACallThatFailed) {
  EXPECT_THROW(ctx_.backend->end_recording(*ctx_.stream), IoError) << "none was begun";
  const std::vector<uint8_t> values{1, 2, 3};
  const Tensor from = ctx_.from_host<uint8_t>(values, {3}), to = ctx_.zeros({3}, DType::u8);
  ctx_.backend->copy(to.raw(), from.raw(), 3, *ctx_.stream);
  EXPECT_EQ(read(to), values);
}

/// Ends a recording that was not begun, which CUDA refuses.
class RefusedOp : public Op {
 public:
  std::string_view name() const override { return "refused"; }
  Tensors forward(Context& ctx, std::span<const Tensor>, Saved&) const override {
    ctx.backend->end_recording(*ctx.stream);
    return {};
  }
  Tensors backward_input(Context&, Saved&, Tensors) const override { return {}; }
};

TEST_F(CopyCuda, WhatAnOperationCannotDoIsToldWithItsShapesAndInTheWordsOfCuda) {
  try {
    apply(ctx_, std::make_shared<RefusedOp>(), {ctx_.zeros({3, 5}, DType::bf16)});
    FAIL() << "wanted an error";
  } catch (const IoError& e) {
    EXPECT_THAT(e.what(), ::testing::HasSubstr("refused forward of bf16[3, 5]: cudaStreamEndCapture: "));
    EXPECT_THAT(e.what(), ::testing::HasSubstr("the operation cannot be performed in the present state (cudaErrorIllegalState)"));
  }
}

TEST_F(CopyCuda, OfMoreThanAGridAtOnce) {
  std::vector<int32_t> values(size_t{3} << 24);
  std::iota(values.begin(), values.end(), 7);
  const auto n = static_cast<int64_t>(values.size());
  const Tensor from = ctx_.from_host<int32_t>(values, {n});
  const Tensor to = ctx_.empty({n}, DType::i32);
  ctx_.backend->copy(to.raw(), from.raw(), to.bytes(), *ctx_.stream);
  std::vector<int32_t> found(values.size());
  ctx_.backend->copy(found.data(), to.raw(), to.bytes(), *ctx_.stream);
  ctx_.stream->synchronize();
  EXPECT_TRUE(found == values);
}

}  // namespace
}  // namespace trireme
