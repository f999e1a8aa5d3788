// Groups of device memory whose tensors travel through host memory, on a device that works on its own time.
#include "comm/staged_group.h"

#include <gmock/gmock.h>

#include <atomic>
#include <filesystem>
#include <fstream>
#include <latch>
#include <nlohmann/json.hpp>

#include "comm/device_solo_group.h"
#include "comm/local/local_world.h"
#include "core/trace.h"
#include "tests/comm/conformance.h"
#include "tests/comm/fake_device.h"
#include "tests/comm/host_view.h"
#include "tests/comm/test_tensor.h"
#include "tests/temporary_folder.h"

namespace trireme {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

std::unique_ptr<Group> make_staged(Group& host, Backend& backend) {
  if (host.size() == 1) return std::make_unique<DeviceSoloGroup>(backend);
  return comm::StagedGroup::make(host.duplicate("staged"), backend);
}

class StagedConformance : public testing::TestWithParam<std::tuple<int, ConformanceCase>> {};

TEST_P(StagedConformance, Holds) {
  const auto& [size, conformance_case] = GetParam();
  LocalWorld(size, {.timeout_ms = 30'000}).run([&, size = size, run = conformance_case.run](Group& world) {
    ASSERT_EQ(world.size(), size);
    FakeDevice device(world.rank());
    const auto group = view_from_host(make_staged(world, device), device);
    run(*group);
  });
}

INSTANTIATE_TEST_SUITE_P(Ranks, StagedConformance,
                         testing::Combine(testing::Values(1, 2, 3),
                                          testing::ValuesIn(conformance_cases().begin(), conformance_cases().end())),
                         [](const auto& info) {
                           return std::string(std::get<1>(info.param).name) + "_" + std::to_string(std::get<0>(info.param));
                         });

/// One rank's device with a group on it.
struct Rank {
  explicit Rank(Group& world) : device(world.rank()), group(make_staged(world, device)) {}
  Tensor ones(int64_t n) {
    const Tensor t(allocator->allocate(static_cast<size_t>(n) * sizeof(float), MemoryClass::workspace), 0, {n}, DType::f32,
                   device.device());
    const std::vector<float> values(static_cast<size_t>(n), 1.0f);
    device.copy(t.raw(), values.data(), t.bytes(), *stream);
    return t;
  }
  std::vector<float> read(const Tensor& t) {
    std::vector<float> values(static_cast<size_t>(t.numel()));
    device.copy(values.data(), t.raw(), t.bytes(), *stream);
    stream->synchronize();
    return values;
  }
  FakeDevice device;
  std::shared_ptr<Allocator> allocator = std::make_shared<Allocator>(device);
  std::unique_ptr<Stream> stream = device.make_stream();
  std::unique_ptr<Group> group;
};

TEST(StagedGroup, CallsMayWaitOrBeRehearsed) {
  LocalWorld(2).run([](Group& world) {
    ASSERT_EQ(world.size(), 2);
    Rank rank(world);
    const auto mode = std::make_shared<std::atomic<CallMode>>(CallMode::rehearses);
    const auto group = comm::StagedGroup::make(world.duplicate("modes"), rank.device, mode);
    const auto part = group->duplicate("part");  // has it too
    const Tensor t = rank.ones(1000), other = rank.ones(1000);
    if (world.rank() == 0) {  // a rehearsal needs no peer
      for (Group* g : std::initializer_list<Group*>{group.get(), part.get()}) {
        EXPECT_TRUE(g->all_reduce(t, ReduceOp::sum, "rehearsed", rank.stream.get()).done());
        EXPECT_TRUE(g->recv(other, 1, 0, "rehearsed", rank.stream.get()).done());
      }
      EXPECT_THAT(rank.read(t), testing::Each(1.0f));
    }
    *mode = CallMode::waits;
    EXPECT_TRUE(group->all_reduce(t, ReduceOp::sum, "waited for", rank.stream.get()).done());
    // Messages don't: each rank sends before it receives, more than fits into a header.
    const Work sent = group->send(t, 1 - world.rank(), 0, "message", rank.stream.get());
    group->recv(other, 1 - world.rank(), 0, "message", rank.stream.get()).wait(*rank.stream);
    EXPECT_THAT(rank.read(other), testing::Each(2.0f));
    sent.wait();
    *mode = CallMode::normal;
    part->all_reduce(t, ReduceOp::sum, "as ever", rank.stream.get()).wait(*rank.stream);
    EXPECT_THAT(rank.read(t), testing::Each(4.0f));
  });
}

TEST(StagedGroup, StreamsWaitForResultsAndOperationsForStreams) {
  LocalWorld(3).run([](Group& world) {
    ASSERT_EQ(world.size(), 3);
    Rank rank(world);
    const Tensor t = rank.ones(10'000);
    for (int i = 0; i < 4; ++i)
      rank.group->all_reduce(t, ReduceOp::sum, "again", rank.stream.get()).wait(*rank.stream);
    EXPECT_THAT(rank.read(t), testing::Each(81.0f));
  });
}

TEST(StagedGroup, TakesHostTensorsToo) {
  LocalWorld(2).run([](Group& world) {
    Rank rank(world);
    const Tensor on_device = rank.ones(5), on_host = make_tensor<float>({3.0f});
    // The ranks take the two kinds in opposite orders: they don't wait for each other.
    std::array<Work, 2> works;
    for (int i = 0; i < 2; ++i)
      works[static_cast<size_t>(i)] =
          rank.group->all_reduce(i == world.rank() ? on_device : on_host, ReduceOp::sum, "either", rank.stream.get());
    for (const Work& work : works) work.wait();
    EXPECT_THAT(rank.read(on_device), testing::Each(2.0f));
    EXPECT_EQ(on_host.item<float>(), 6.0f);
  });
}

TEST(StagedGroup, TensorsOfAnotherDeviceAreRefused) {
  LocalWorld(2).run([](Group& world) {
    Rank rank(world);
    FakeDevice other(7);
    const Tensor t(std::make_shared<Storage>(nullptr, nullptr, 0), 0, {0}, DType::f32, other.device());
    EXPECT_THROW(static_cast<void>(rank.group->all_reduce(t, ReduceOp::sum, "x")), InternalError);
  });
}

TEST(StagedGroup, TensorsAreGivenBackWhenTheWorkIsDone) {
  LocalWorld(2).run([](Group& world) {
    Rank rank(world);
    const Tensor t = rank.ones(10'000);
    rank.group->all_reduce(t, ReduceOp::sum, "x", rank.stream.get()).wait();
    EXPECT_TRUE(t.unique());
  });
}

TEST(StagedGroup, WhatIsNotDoneIsGivenUpWithTheGroup) {
  LocalWorld(2).run([](Group& world) {
    Rank rank(world);
    const Tensor t = rank.ones(10'000);
    Work work, queued;
    if (world.rank() == 0) {  // rank 1 never comes
      work = rank.group->all_reduce(t, ReduceOp::sum, "x", rank.stream.get());
      queued = rank.group->all_reduce(t, ReduceOp::sum, "y", rank.stream.get());
    }
    rank.group.reset();
    if (world.rank() == 0) {
      EXPECT_THAT(message_of<CommError>([&] { work.wait(); }), HasSubstr("all_reduce 'x' was given up: its group is gone"));
      EXPECT_THROW(queued.wait(*rank.stream), CommError);
      EXPECT_TRUE(queued.done());
    }
    world.barrier("the world goes on").wait();
  });
}

TEST(StagedGroup, ARankThatStaysAwayIsNamed) {
  std::atomic<bool> over = false;
  const std::string text = message_of<CommError>([&] {
    LocalWorld(2, {.timeout_ms = 60'000}).run([&](Group& world) {
      Rank rank(world);
      rank.group->set_options({.timeout_ms = 300});
      if (world.rank() == 1) {
        while (!over) std::this_thread::sleep_for(std::chrono::milliseconds(5));
        return;
      }
      const Work work = rank.group->all_reduce(rank.ones(3), ReduceOp::sum, "bucket 3", rank.stream.get());
      const Work queued = rank.group->all_reduce(rank.ones(3), ReduceOp::sum, "bucket 4", rank.stream.get());
      EXPECT_THAT(message_of<CommError>([&] { queued.wait(); }), HasSubstr("all_reduce 'bucket 4' was given up"));
      over = true;
      EXPECT_TRUE(rank.group->failure());
      EXPECT_THROW(rank.group->barrier("after").wait(), CommError);
      work.wait(*rank.stream);
    });
  });
  EXPECT_THAT(text, AllOf(HasSubstr("rank 0: all_reduce 'bucket 3' was not joined by rank 1 within 0.3 s"), HasSubstr("is alive")));
}

TEST(StagedGroup, AnExceptionInOneRankEndsTheOthers) {
  std::atomic<bool> told = false;
  std::latch started(2);  // both have left the barrier: a failure overtakes messages
  const std::string text = message_of<std::runtime_error>([&] {
    LocalWorld(2, {.timeout_ms = 60'000}).run([&](Group& world) {
      Rank rank(world);
      world.barrier("start").wait();
      started.arrive_and_wait();
      if (world.rank() == 1) throw std::runtime_error("the disk is full");
      const Work work = rank.group->all_reduce(rank.ones(3), ReduceOp::sum, "bucket 3", rank.stream.get());
      EXPECT_EQ(message_of<CommError>([&] { work.wait(); }),
                "rank 0: all_reduce 'bucket 3' was given up: rank 1 failed: the disk is full");
      told = true;
    });
  });
  EXPECT_EQ(text, "the disk is full");
  EXPECT_TRUE(told);
}

TEST(StagedGroup, EveryOperationIsOneSpanOfTheTrace) {
  const TemporaryFolder folder;
  const std::filesystem::path file = folder / "trace.json";
  Tracer tracer(0, "rank 0");
  tracer.set_recording(true);
  LocalWorld(2).run([&](Group& world) {
    Rank rank(world);
    if (world.rank() == 0) rank.group->set_options({.tracer = &tracer});
    rank.group->all_reduce(rank.ones(1000), ReduceOp::sum, "bucket 0", rank.stream.get()).wait();
    rank.group->barrier("end").wait();
  });
  tracer.write(file);
  const nlohmann::json trace = nlohmann::json::parse(std::ifstream(file));
  std::vector<std::string> spans;
  for (const auto& event : trace["traceEvents"]) {
    if (event["ph"] != "X") continue;
    EXPECT_GT(event["ts"], 0);
    EXPECT_GE(event["dur"], 0);
    spans.push_back(fmt::format("{} {}", event["name"].get<std::string>(), event["args"]["bytes"].get<int64_t>()));
  }
  EXPECT_THAT(spans, testing::ElementsAre("all_reduce 'bucket 0' 4000", "barrier 'end' 0"));
}

}  // namespace
}  // namespace trireme
