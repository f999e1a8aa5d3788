// Attention in blocks against attention() of the whole: outputs and gradients, in f32 and bf16. (Finite
// differences, threads, and GPUs: the op table.)
#include <gtest/gtest.h>

#include "tests/core/attention_in_blocks.h"
#include "tests/core/op_table.h"

namespace trireme {
namespace {

struct Case {
  AttentionShape shape;
  int64_t cut;
};

class AttentionBlocks : public testing::TestWithParam<Case> {
 protected:
  OpResult whole(DType dtype) const {
    return run(dtype, [s = GetParam().shape](Context& ctx, std::span<const Tensor> x, std::span<Parameter>) {
      return Tensors{attention(ctx, x[0], s)};
    });
  }
  OpResult in_blocks(DType dtype) const {
    return run(dtype, [c = GetParam()](Context& ctx, std::span<const Tensor> x, std::span<Parameter>) {
      return Tensors{attention_in_blocks(ctx, x[0], c.shape, c.cut)};
    });
  }

 private:
  OpResult run(DType dtype, OpRow::Run body) const {
    const AttentionShape& s = GetParam().shape;
    const OpRow row{"attention", {{s.batch * s.tokens, s.qkv_width()}}, {}, std::move(body)};
    return OpRun(row, dtype, 2).backward(Passes::together);
  }
};

TEST_P(AttentionBlocks, EqualTheWhole) {
  expect_close(in_blocks(DType::f32), whole(DType::f32), 5e-7);
}

// Partial results are f32: cutting costs nothing in bf16 beyond the rounding of the results themselves.
TEST_P(AttentionBlocks, AreAsExactAsTheWholeInBf16) {
  const OpResult exact = whole(DType::f32);
  const auto compare = [](const OpResult& got, const OpResult& want, const OpResult& f32) {
    EXPECT_LE(relative_difference(got.outputs[0], f32.outputs[0]),
              1.02 * relative_difference(want.outputs[0], f32.outputs[0]));
    EXPECT_LE(relative_difference(got.input_grads[0], f32.input_grads[0]),
              1.02 * relative_difference(want.input_grads[0], f32.input_grads[0]));
  };
  compare(in_blocks(DType::bf16), whole(DType::bf16), exact);
}

INSTANTIATE_TEST_SUITE_P(Shapes, AttentionBlocks,
                         testing::Values(Case{{2, 37, 3, 3, 19, true}, 11},
                                         Case{{1, 300, 2, 2, 64, true}, 129},
                                         Case{{2, 131, 4, 2, 40, true}, 1},
                                         Case{{1, 70, 6, 2, 16, false}, 69},
                                         Case{{2, 200, 2, 1, 64, false}, 64}));

}  // namespace
}  // namespace trireme
