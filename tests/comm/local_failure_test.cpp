// What a rank is told when another one throws, stays away or does something else; and what operations promise
// besides their results. Ranks are threads; mpi/failure_test.sh does the same to processes.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <fstream>
#include <latch>
#include <nlohmann/json.hpp>
#include <thread>

#include "comm/local/local_world.h"
#include "core/trace.h"
#include "tests/comm/test_tensor.h"
#include "tests/temporary_folder.h"

namespace trireme {
namespace {

using testing::AllOf;
using testing::HasSubstr;

using Seconds = std::chrono::duration<double>;

/// The message of the E that a world of `size` ranks ends with, and how long it took.
template <class E>
std::pair<std::string, Seconds> failure_of(int size, int64_t timeout_ms,
                                           const std::function<void(Group&)>& body) {
  const auto begin = std::chrono::steady_clock::now();
  const std::string text = message_of<E>([&] { LocalWorld(size, {.timeout_ms = timeout_ms}).run(body); });
  return {text, std::chrono::steady_clock::now() - begin};
}

Tensor ones(int64_t n) {
  return make_tensor<float>(n, [](int64_t) { return 1; });
}

TEST(LocalFailure, AnExceptionInOneRankEndsTheOthersAtOnce) {
  std::atomic<int> num_told = 0;
  std::latch started(4);  // all have left the barrier: a failure overtakes messages
  const auto [text, elapsed] = failure_of<std::runtime_error>(4, 60'000, [&](Group& world) {
    world.barrier("start").wait();
    started.arrive_and_wait();
    if (world.rank() == 2) throw std::runtime_error("the disk is full");
    try {
      world.all_reduce(ones(10'000), ReduceOp::sum, "gradients, bucket 3").wait();
    } catch (const CommError& e) {
      EXPECT_EQ(e.what(),
                fmt::format(
                    "rank {}: all_reduce 'gradients, bucket 3' was given up: rank 2 failed: the disk is full",
                    world.rank()));
      ++num_told;
      throw;
    }
  });
  EXPECT_EQ(text, "the disk is full");
  EXPECT_EQ(num_told, 3);
  EXPECT_LT(elapsed, Seconds(5));
}

TEST(LocalFailure, ARankThatStaysAwayIsNamed) {
  std::atomic<bool> over = false;
  const auto [text, elapsed] = failure_of<CommError>(3, 700, [&](Group& world) {
    world.barrier("start").wait();
    if (world.rank() == 1) {  // in a loop of its own until the others have given up
      while (!over) std::this_thread::sleep_for(std::chrono::milliseconds(5));
      return;
    }
    try {
      world.all_reduce(ones(3), ReduceOp::sum, "gradients, bucket 3").wait();
    } catch (const CommError&) {
      over = true;
      throw;
    }
  });
  EXPECT_THAT(text, testing::ContainsRegex(
                        "rank [02]: all_reduce 'gradients, bucket 3' was not joined by rank 1 within 0.7 s: "
                        "rank 1 last took part in barrier 'start' [0-9.]+ s ago and is alive"));
  EXPECT_GE(elapsed, Seconds(0.7));
  EXPECT_LT(elapsed, Seconds(5));
}

TEST(LocalFailure, SizesThatDifferAreNoticed) {
  for (const auto& [n_0, n_1] : {std::pair{3, 4}, {3, 50'000}, {60'000, 50'000}}) {
    const auto [text, elapsed] = failure_of<CommError>(2, 60'000, [&, n_0 = n_0, n_1 = n_1](Group& world) {
      world.all_reduce(ones(world.rank() == 0 ? n_0 : n_1), ReduceOp::sum, "x").wait();
    });
    EXPECT_THAT(text, AllOf(HasSubstr(fmt::format("all_reduce 'x' ({} bytes of f32, sum)", 4 * n_0)),
                            HasSubstr(fmt::format("all_reduce 'x' ({} bytes of f32, sum)", 4 * n_1)),
                            HasSubstr("does not fit")));
    EXPECT_LT(elapsed, Seconds(5));
  }
}

TEST(LocalFailure, OperationsThatDifferAreNoticed) {
  const auto differ = [](const std::function<Work(Group&)>& call_0,
                         const std::function<Work(Group&)>& call_1) {
    return failure_of<CommError>(2, 60'000,
                                 [&](Group& world) { (world.rank() == 0 ? call_0 : call_1)(world).wait(); })
        .first;
  };
  const auto all_reduce = [](Group& g) { return g.all_reduce(ones(2), ReduceOp::sum, "a"); };
  EXPECT_THAT(differ(all_reduce, [](Group& g) { return g.barrier("b"); }),
              AllOf(HasSubstr("all_reduce 'a'"), HasSubstr("barrier 'b'")));
  EXPECT_THAT(differ(all_reduce, [](Group& g) { return g.all_reduce(ones(2), ReduceOp::max, "b"); }),
              AllOf(HasSubstr("f32, sum)"), HasSubstr("f32, max)")));
  EXPECT_THAT(differ(all_reduce,
                     [](Group& g) {
                       return g.all_reduce(make_tensor<int32_t>({1, 2}), ReduceOp::sum, "b");
                     }),
              AllOf(HasSubstr("bytes of f32"), HasSubstr("bytes of i32")));
  EXPECT_THAT(differ([](Group& g) { return g.broadcast(ones(9000), 0, "b"); },
                     [](Group& g) { return g.broadcast(ones(9000), 1, "b"); }),
              AllOf(HasSubstr("root 0"), HasSubstr("root 1")));
  EXPECT_THAT(differ([](Group& g) { return g.send(ones(9000), 1, 5, "s"); },
                     [](Group& g) { return g.recv(ones(8000), 0, 5, "r"); }),
              AllOf(HasSubstr("send 's' (36000 bytes of f32)"), HasSubstr("recv 'r' (32000 bytes of f32)")));
}

TEST(LocalFailure, MessagesThatNobodyTakesOrSendsTimeOut) {
  std::atomic<bool> over = false;
  const auto alone = [&](const std::function<Work(Group&)>& call) {
    over = false;
    return failure_of<CommError>(2, 100,
                                 [&](Group& world) {
                                   if (world.rank() == 0) {
                                     const std::string text =
                                         message_of<CommError>([&] { call(world).wait(); });
                                     over = true;
                                     throw CommError(text);
                                   }
                                   while (!over) std::this_thread::sleep_for(std::chrono::milliseconds(5));
                                 })
        .first;
  };
  EXPECT_THAT(alone([](Group& g) { return g.send(ones(9000), 1, 0, "x"); }),
              HasSubstr("send 'x' was not received by rank 1 within 0.1 s"));
  EXPECT_THAT(alone([](Group& g) { return g.recv(ones(1), 1, 0, "x"); }),
              HasSubstr("recv 'x' was not sent by rank 1 within 0.1 s"));
}

TEST(LocalFailure, AfterAFailureEveryOperationFails) {
  LocalWorld(2, {.timeout_ms = 60'000}).run([](Group& world) {
    const auto other = world.duplicate("other");
    const Work pending = world.rank() == 0 ? other->all_reduce(ones(3), ReduceOp::sum, "pending") : Work();
    const Work bad = world.all_reduce(ones(world.rank() + 1), ReduceOp::sum, "bad");
    EXPECT_THROW(bad.wait(), CommError);
    EXPECT_TRUE(bad.done());
    EXPECT_THROW(bad.wait(), CommError) << "a second time";
    if (world.rank() == 0) {
      EXPECT_THROW(pending.wait(), CommError) << "of another group";
    }
    EXPECT_THROW(world.barrier("after").wait(), CommError);
  });
}

// As 7 ranks, so that the two that stay away are told apart from the four that came.
TEST(LocalFailure, AllMissingRanksAreNamed) {
  std::atomic<int> num_over = 0;
  const auto [text, elapsed] = failure_of<CommError>(7, 2000, [&](Group& world) {
    if (world.rank() == 3 || world.rank() == 5) {
      while (num_over < 5) std::this_thread::sleep_for(std::chrono::milliseconds(5));
      return;
    }
    try {
      world.barrier("start").wait();
    } catch (...) {
      ++num_over;
      throw;
    }
  });
  EXPECT_THAT(text, HasSubstr("barrier 'start' was not joined by ranks 3, 5 within 2 s: rank 3 "));
  EXPECT_THAT(text, HasSubstr("; rank 5 "));
}

TEST(LocalGroup, OperationsRunWhileTheCallerComputes) {
  LocalWorld(3).run([](Group& world) {
    ASSERT_GT(world.size(), 1);
    const Work work = world.all_reduce(ones(100'000), ReduceOp::sum, "overlapped");
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(20);
    while (!work.done() && std::chrono::steady_clock::now() < deadline)
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    EXPECT_TRUE(work.done()) << "without a wait()";
  });
}

TEST(LocalGroup, TensorsAreGivenBackWhenTheWorkIsDone) {
  LocalWorld(2).run([](Group& world) {
    const Tensor t = ones(10'000);
    const Work work = world.all_reduce(t, ReduceOp::sum, "x");
    work.wait();
    EXPECT_TRUE(t.unique());
  });
}

// An exception on its way up destroys the group before the tensors that a message may still be written to.
TEST(LocalGroup, WhatIsNotDoneIsGivenUpWithTheGroup) {
  LocalWorld(2).run([](Group& world) {
    auto group = world.duplicate("short-lived");
    const Tensor t = ones(10'000);
    Work work, queued;
    if (world.rank() == 0) {  // rank 1 never comes
      work = group->all_reduce(t, ReduceOp::sum, "x");
      queued = group->all_reduce(t, ReduceOp::sum, "y");
    }
    group.reset();
    EXPECT_TRUE(t.unique());
    if (world.rank() == 0) {
      EXPECT_THROW(work.wait(), CommError);
      EXPECT_THROW(queued.wait(), CommError);
    }
    world.barrier("the world goes on").wait();
  });
}

TEST(LocalGroup, EveryOperationIsASpanOfTheTrace) {
  const TemporaryFolder folder;
  const std::filesystem::path file = folder / "trace.json";
  Tracer tracer(0, "rank 0");
  tracer.set_recording(true);
  LocalWorld(2).run([&](Group& world) {
    if (world.rank() == 0) world.set_options({.tracer = &tracer});
    world.all_reduce(ones(1000), ReduceOp::sum, "bucket 0").wait();
    world.duplicate("named")->all_gather(ones(1), ones(2), "all").wait();
  });
  tracer.write(file);
  const nlohmann::json trace = nlohmann::json::parse(std::ifstream(file));
  std::vector<std::string> spans;
  for (const auto& event : trace["traceEvents"]) {
    if (event["ph"] != "X") continue;
    EXPECT_EQ(event["cat"], "communication");
    EXPECT_GE(event["dur"], 0);
    spans.push_back(
        fmt::format("{} {}", event["name"].get<std::string>(), event["args"]["bytes"].get<int64_t>()));
  }
  EXPECT_THAT(spans, testing::ElementsAre("all_reduce 'bucket 0' 4000", testing::HasSubstr("split 'named'"),
                                          "all_gather 'all' 8"));
}

}  // namespace
}  // namespace trireme
