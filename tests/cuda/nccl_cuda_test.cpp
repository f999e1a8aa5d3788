// Groups of GPU memory: through host memory where ranks share a GPU, by NCCL where each has its own. Ranks are threads.
#include <gmock/gmock.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <limits>
#include <thread>

#include "comm/device_group.h"
#include "comm/local/local_world.h"
#include "comm/solo_group.h"
#include "comm/staged_group.h"
#include "core/context.h"
#include "core/nn/module.h"
#include "core/recorder.h"
#include "parallel/all_reduce_reducer.h"
#include "parallel/mesh.h"
#include "tests/comm/conformance.h"
#include "tests/comm/host_view.h"
#include "tests/comm/test_tensor.h"
#include "tests/cuda/gpu_rank.h"

namespace trireme {
namespace {

using std::chrono::steady_clock;
using ::testing::AllOf;
using ::testing::Each;
using ::testing::HasSubstr;

/// The conformance table but for `left_out`, on a group made of the rank's.
void check_conformance(GpuRank& rank, std::initializer_list<std::string_view> left_out) {
  const auto view = view_from_host(rank.group->duplicate("conformance"), rank.engine.backend());
  for (const ConformanceCase& conformance_case : conformance_cases()) {
    if (std::ranges::count(left_out, conformance_case.name) > 0) continue;
    SCOPED_TRACE(std::string(conformance_case.name));
    ASSERT_NO_THROW(conformance_case.run(*view)) << conformance_case.name;
  }
}

class SharedGpu : public ::testing::Test {
 protected:
  void SetUp() override {
    if (num_cuda_devices() == 0) GTEST_SKIP() << "not run: this machine shows no NVIDIA GPU";
  }
};

/// More ranks than GPUs.
int many() { return num_cuda_devices() + 1; }

TEST_F(SharedGpu, RanksThatShareAGpuConform) {
  LocalWorld(many(), {.timeout_ms = 60'000}).run([](Group& world) {
    ASSERT_GT(world.size(), 1);
    GpuRank rank(world);
    ASSERT_TRUE(rank.is_staged());
    check_conformance(rank, {});
  });
}

TEST_F(SharedGpu, StreamsWaitForResultsAndOperationsForStreams) {
  LocalWorld(many(), {.timeout_ms = 60'000}).run([](Group& world) {
    GpuRank rank(world);
    const Tensor t = rank.filled(1'000'000, 1);
    float wanted = 1;
    for (int i = 0; i < 4; ++i, wanted *= static_cast<float>(world.size()))
      rank.all_reduce(t, "again").wait(*rank.ctx.stream);
    EXPECT_EQ(std::ranges::count(rank.read(t), wanted), t.numel());
  });
}

TEST_F(SharedGpu, AGroupOfOneCopies) {
  Engine engine(make_cuda_backend());
  SoloGroup solo;
  const auto group = make_device_group(solo, engine.backend(), "alone");
  const auto view = view_from_host(make_device_group(solo, engine.backend(), "view"), engine.backend());
  for (const ConformanceCase& conformance_case : conformance_cases())
    ASSERT_NO_THROW(conformance_case.run(*view)) << conformance_case.name;
  // In recorded work nothing may wait.
  Context ctx = engine.context();
  const std::vector<float> ones(100, 1.0f);
  const Tensor from = ctx.from_host<float>(ones, {100}), to = ctx.zeros({100});
  ctx.stream->synchronize();
  const auto recording = ctx.recorder->record([&] {
    group->all_reduce(from, ReduceOp::sum, "recorded", ctx.stream).wait(*ctx.stream);
    group->all_gather(from, to, "recorded", ctx.stream).wait(*ctx.stream);
  });
  recording->replay(*ctx.stream);
  std::vector<float> values(100);
  ctx.backend->copy(values.data(), to.raw(), to.bytes(), *ctx.stream);
  ctx.stream->synchronize();
  EXPECT_THAT(values, Each(1.0f));
}

struct Weights : Module {
  Parameter& a = add_parameter("a", {4000}, Init::ones());
  Parameter& b = add_parameter("b", {7}, Init::ones());
};

void check_reducer(Group& world, DType reduce_type, float wanted) {
  Engine engine(make_cuda_backend({.index = world.rank() % num_cuda_devices()}));
  Context ctx = engine.context();
  Mesh mesh({}, world, engine.backend());
  Weights weights;
  std::vector<Bucket> buckets = plan_buckets(weights.parameters(), 4000 * sizeof(float));
  allocate_buckets(ctx, buckets);
  ASSERT_EQ(buckets.size(), 2u);
  AllReduceReducer reducer(ctx, buckets, {.batch = &mesh.group(Axis::data)}, true, reduce_type);
  for (int step = 0; step < 3; ++step) {
    reducer.begin_step();
    for (Parameter* p : weights.parameters()) {
      p->begin_accumulate();
      const std::vector<float> values(static_cast<size_t>(p->grad.numel()), 257.0f);
      ctx.backend->copy(p->grad.raw(), values.data(), p->grad.bytes(), *ctx.stream);
      reducer.grad_ready(*p);
    }
    reducer.finish();
    for (Parameter* p : weights.parameters()) {
      std::vector<float> values(static_cast<size_t>(p->grad.numel()));
      ctx.backend->copy(values.data(), p->grad.raw(), p->grad.bytes(), *ctx.stream);
      ctx.stream->synchronize();
      EXPECT_THAT(values, Each(wanted)) << p->name << " in step " << step;
    }
  }
}

// 257 is 256 in bf16.
TEST_F(SharedGpu, GradientsAreReduced) {
  for (const auto& [dtype, each] : {std::pair{DType::f32, 257.0f}, {DType::bf16, 256.0f}})
    LocalWorld(many(), {.timeout_ms = 60'000}).run([dtype = dtype, each = each](Group& world) {
      const float sum = static_cast<float>(world.size()) * each;
      check_reducer(world, dtype, dtype == DType::bf16 ? static_cast<float>(bf16(sum)) : sum);
    });
}

class Nccl : public ::testing::Test {
 protected:
  void SetUp() override {
    if (num_cuda_devices() == 0) GTEST_SKIP() << "not run: this machine shows no NVIDIA GPU";
    if (num_cuda_devices() < 2) GTEST_SKIP() << "not run: NCCL needs two GPUs, and this machine shows one";
  }
};

// All types and collectives, messages included. Left out is what NCCL does not promise (comm/nccl/nccl_group.h).
TEST_F(Nccl, RanksWithGpusOfTheirOwnConform) {
  LocalWorld(2, {.timeout_ms = 60'000}).run([](Group& world) {
    ASSERT_EQ(world.size(), 2);
    GpuRank rank(world);
    ASSERT_FALSE(rank.is_staged());
    check_conformance(rank, {"not_a_number_stays", "groups_are_independent"});
    for (const ReduceOp op : {ReduceOp::sum, ReduceOp::average}) {
      const Tensor t = rank.filled(1, world.rank() == 0 ? std::numeric_limits<float>::quiet_NaN() : 1.0f);
      rank.group->all_reduce(t, op, "not a number", rank.ctx.stream).wait(*rank.ctx.stream);
      EXPECT_TRUE(std::isnan(rank.read(t)[0])) << name_of(op);
    }
  });
}

TEST_F(Nccl, StreamsWaitForResultsAndOperationsForStreams) {
  LocalWorld(2, {.timeout_ms = 60'000}).run([](Group& world) {
    GpuRank rank(world);
    const Tensor large = rank.filled(32 << 20, 1), small = rank.filled(3, 1);
    float wanted = 1;
    for (int i = 0; i < 4; ++i, wanted *= 2) {
      const Work work = rank.all_reduce(large, "large");
      rank.all_reduce(small, "small").wait(*rank.ctx.stream);
      work.wait(*rank.ctx.stream);
    }
    EXPECT_THAT(rank.read(small), Each(wanted));
    EXPECT_EQ(std::ranges::count(rank.read(large), wanted), large.numel());
  });
}

TEST_F(Nccl, GradientsAreReduced) {
  for (const auto& [dtype, wanted] : {std::pair{DType::f32, 514.0f}, {DType::bf16, 512.0f}})
    LocalWorld(2, {.timeout_ms = 60'000}).run([dtype = dtype, wanted = wanted](Group& world) {
      check_reducer(world, dtype, wanted);
    });
}

TEST_F(Nccl, FewerThreadBlocksGiveTheSameSums) {
  LocalWorld(2, {.timeout_ms = 60'000}).run([](Group& world) {
    GpuRank rank(world);
    const auto group = make_device_group(world, rank.engine.backend(), "few", {.nccl_ctas = 2});
    const Tensor t = rank.filled(1 << 20, 1);
    group->all_reduce(t, ReduceOp::sum, "few", rank.ctx.stream).wait(*rank.ctx.stream);
    EXPECT_EQ(std::ranges::count(rank.read(t), 2.0f), t.numel());
  });
}

TEST_F(Nccl, AnOperationThatARankStaysAwayFromIsAborted) {
  const auto [text, elapsed] = failure_of<CommError>(1000, true, [](Group& world, GpuRank& rank) {
    if (world.rank() == 1) return stay_away(world);
    const Tensor t = rank.filled(1 << 20, 1);
    const Work work = rank.all_reduce(t, "bucket 3");
    work.wait(*rank.ctx.stream);
    rank.ctx.stream->synchronize();  // until the kernel was aborted
    EXPECT_TRUE(world.failure());
    EXPECT_THROW(rank.all_reduce(t, "bucket 4").wait(*rank.ctx.stream), CommError);
    work.wait();
  });
  EXPECT_THAT(text, AllOf(HasSubstr("rank 0: all_reduce 'bucket 3' in group 'gradients' was not done within 1 s"),
                          HasSubstr("its ranks are alive")));
  EXPECT_GE(elapsed, Seconds(1));
  EXPECT_LT(elapsed, Seconds(10));
}

TEST_F(Nccl, ARankThatStaysAwayFromTheFirstOperationIsNamed) {
  const auto [text, elapsed] = failure_of<CommError>(1000, false, [](Group& world, GpuRank& rank) {
    if (world.rank() == 0) return stay_away(world);
    rank.all_reduce(rank.filled(100, 1), "bucket 0").wait(*rank.ctx.stream);
  });
  EXPECT_THAT(text, AllOf(HasSubstr("'bucket 0, connecting GPUs' was not joined by rank 0 within 1 s"), HasSubstr("is alive")));
  EXPECT_LT(elapsed, Seconds(10));
}

TEST_F(Nccl, AnExceptionInOneRankEndsTheOthersKernels) {
  const auto [text, elapsed] = failure_of<std::runtime_error>(60'000, true, [](Group& world, GpuRank& rank) {
    if (world.rank() == 1) throw std::runtime_error("the disk is full");
    const Work work = rank.all_reduce(rank.filled(1 << 20, 1), "bucket 3");
    work.wait(*rank.ctx.stream);
    rank.ctx.stream->synchronize();
    EXPECT_EQ(message_of<CommError>([&] { work.wait(); }),
              "rank 0: all_reduce 'bucket 3' was given up: rank 1 failed: the disk is full");
  });
  EXPECT_EQ(text, "the disk is full");
  EXPECT_LT(elapsed, Seconds(10));
}

TEST_F(Nccl, MessagesThatNobodySendsTimeOut) {
  const auto [text, elapsed] = failure_of<CommError>(500, false, [](Group& world, GpuRank& rank) {
    if (world.rank() == 1) return stay_away(world);
    rank.group->recv(rank.filled(10, 0), 1, 0, "x", rank.ctx.stream).wait();
  });
  EXPECT_THAT(text, HasSubstr("was not sent by rank 1 within 0.5 s"));
  EXPECT_LT(elapsed, Seconds(10));
}

// Communicators are freed by a thread a rank, and threads of NCCL's end then.
TEST_F(Nccl, GroupsComeAndGo) {
  for (int round = 0; round < 5; ++round)
    LocalWorld(2, {.timeout_ms = 60'000}).run([](Group& world) {
      GpuRank rank(world);
      Stream* const stream = rank.ctx.stream;
      const int peer = 1 - world.rank();
      const Tensor sent = rank.filled(1000, 1), received = rank.filled(1000, 0);
      const Work sending = rank.group->send(sent, peer, 0, "there", stream);
      rank.group->recv(received, peer, 0, "here", stream).wait(*stream);
      sending.wait(*stream);
      rank.all_reduce(received, "sum").wait(*stream);
      EXPECT_THAT(rank.read(received), Each(2.0f));
    });
}

TEST_F(Nccl, WhatHangsIsGivenUpWithTheGroup) {
  LocalWorld(2, {.timeout_ms = 60'000}).run([](Group& world) {
    GpuRank rank(world);
    rank.group->barrier("start").wait();
    const Tensor t = rank.filled(1 << 20, 1);
    Work work;
    if (world.rank() == 0) work = rank.all_reduce(t, "alone");
    const auto begin = steady_clock::now();
    rank.group.reset();
    EXPECT_LT(steady_clock::now() - begin, Seconds(10));
    if (world.rank() == 0) {
      EXPECT_THROW(work.wait(), CommError);
    }
    rank.ctx.stream->synchronize();
    world.barrier("the world goes on").wait();
    const auto again = make_device_group(world, rank.engine.backend(), "again");
    const Tensor ones = rank.filled(1000, 1);
    again->all_reduce(ones, ReduceOp::sum, "again", rank.ctx.stream).wait(*rank.ctx.stream);
    EXPECT_THAT(rank.read(ones), Each(2.0f));
  });
}

}  // namespace
}  // namespace trireme
