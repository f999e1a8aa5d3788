// Recorded steps on any layout: recorded once and then replayed; where recording fails, steps are launched one by one, with
// the same results; and what comes between them changes nothing.
#include <gmock/gmock.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "core/backend/cuda/cuda_backend.h"
#include "core/recorder.h"
#include "tests/cuda/gpu_rank.h"
#include "tests/fake_gpu/fake_gpu.h"
#include "tests/launcher/trainer_fixture.h"

namespace trireme {
namespace {

using ::testing::AllOf;
using ::testing::Each;
using ::testing::HasSubstr;
using ::testing::Not;

struct Ranks {
  int count;
  ParallelConfig parallel;
  bool in_one = false;  // all that they exchange is NCCL's, and no messages: their step is recorded as one piece
};

class RecordedSteps : public TrainerTest {
 protected:
  void TearDown() override {
    fake::fail_recordings_after(std::nullopt);
    fake::take_what_recordings_leave(false);
  }

  Config config_of(const std::string& cuda_graph, const Ranks& ranks) const {
    Config c = config(cuda_graph);
    c.run.device = "cuda";
    c.run.cuda_graph = cuda_graph;
    c.run.steps = 6;
    c.parallel = ranks.parallel;
    return c;
  }
  static void on(const Ranks& ranks, const std::function<void(Group&)>& body) {
    if (ranks.count > 1) return LocalWorld(ranks.count).run(body);
    SoloGroup solo;
    body(solo);
  }

  /// Of six steps, the third of which is recorded; and how often the backends were asked for a recording, by the end of the
  /// fourth and of the last.
  struct Outcome {
    std::vector<double> losses;
    int pieces = 0, asked = 0;
  };
  Outcome run(const char* cuda_graph, const Ranks& ranks) const {
    const Config c = config_of(cuda_graph, ranks);
    const int before = fake::recordings();
    Outcome outcome;
    on(ranks, [&](Group& world) {
      Trainer trainer(c, world);
      for (int i = 0; i < 6; ++i) {
        const StepMetrics m = trainer.step();
        if (world.rank() == 0) outcome.losses.push_back(m.loss);
        world.barrier("step").wait();
        if (world.rank() == 0 && i == 3) outcome.pieces = fake::recordings() - before;
        world.barrier("counted").wait();
      }
    });
    outcome.asked = fake::recordings() - before;
    return outcome;
  }

  /// A whole run that evaluates, saves and looks at some steps: the losses in its metrics, by step, of training and of
  /// validation; and how often the backends were asked for a recording.
  struct Run {
    std::vector<std::pair<int64_t, double>> losses;
    int asked = 0;
  };
  Run whole_run(const char* cuda_graph, const Ranks& ranks) const {
    Config c = config_of(cuda_graph, ranks);
    c.data.valid = c.data.train;
    c.run.steps = 9;
    c.run.eval_every = 4;  // not before the recording
    c.run.eval_batches = 2;
    c.run.profile.steps = {5, 6};
    c.checkpoint.every = 3;
    fs::remove_all(c.run.out);
    const int before = fake::recordings();
    on(ranks, [&](Group& world) { Trainer(c, world).run(); });
    Run run{{}, fake::recordings() - before};
    std::ifstream lines(fs::path(c.run.out) / "metrics.jsonl");
    for (std::string line; std::getline(lines, line);) {
      const auto json = nlohmann::json::parse(line);
      for (const char* loss : {"loss", "valid_loss"})
        if (json.contains(loss)) run.losses.emplace_back(json.at("step"), json.at(loss));
    }
    return run;
  }

  const std::vector<Ranks> layouts_{{1, {}},
                                    {2, {}, true},
                                    {2, {.tensor = 2}, true},
                                    {2, {.tensor = 2, .sequence = true}, true},
                                    {2, {.context = 2}},
                                    {2, {.pipeline = 2, .schedule = "1f1b"}},
                                    {2, {.pipeline = 2, .schedule = "zb-v"}}};
};

TEST_F(RecordedSteps, AreRecordedOnce) {
  for (const Ranks& ranks : layouts_) {
    const Outcome launched = run("off", ranks), replayed = run("pieces", ranks);
    EXPECT_EQ(launched.asked, 0);
    EXPECT_GE(replayed.pieces, ranks.count == 1 ? 1 : 2 * ranks.count) << "the work between exchanges";
    EXPECT_EQ(replayed.asked, replayed.pieces);
    EXPECT_EQ(replayed.losses, launched.losses);
  }
}

TEST_F(RecordedSteps, AreOnePieceWhereTheyCan) {
  for (const Ranks& ranks : layouts_) {
    const Outcome in_pieces = run("pieces", ranks), replayed = run("auto", ranks);
    EXPECT_EQ(replayed.pieces, ranks.in_one || ranks.count == 1 ? ranks.count : in_pieces.pieces);
    EXPECT_EQ(replayed.asked, replayed.pieces);
    EXPECT_EQ(replayed.losses, in_pieces.losses);
  }
}

/// The first stage exchanges tensors, which could be part of a recording in one, before it has a message to send.
TEST_F(RecordedSteps, BeginAnewWhereTheyTurnOutToNeedPieces) {
  const Ranks ranks{4, {.pipeline = 2, .tensor = 2, .schedule = "zb-h1"}};
  const Outcome in_pieces = run("pieces", ranks), replayed = run("auto", ranks);
  EXPECT_GE(in_pieces.pieces, 2 * ranks.count);
  EXPECT_EQ(replayed.pieces, in_pieces.pieces + ranks.parallel.tensor) << "that of each rank of the stage";
  EXPECT_EQ(replayed.losses, in_pieces.losses);
}

TEST_F(RecordedSteps, AreInPiecesWhereExchangesNeedTheHost) {
  const Ranks ranks{2, {.tensor = 2}};
  const Outcome in_pieces = run("pieces", ranks);
  fake::have_exchanges_need_the_host(true);
  const Outcome replayed = run("auto", ranks);
  fake::have_exchanges_need_the_host(false);
  EXPECT_EQ(replayed.pieces, in_pieces.pieces + ranks.count) << "and those that were tried in one";
  EXPECT_EQ(replayed.losses, in_pieces.losses);
}

TEST_F(RecordedSteps, ThatFailedChangeNoResultAndAreTold) {
  for (const int pieces : {0, 1, 4}) {  // the last ones in the middle of exchanges
    fake::fail_recordings_after(pieces);
    for (const Ranks& ranks : layouts_) {
      if (ranks.count == 1 && pieces > 0) continue;  // whose step is one piece
      const Outcome launched = run("off", ranks);
      for (const char* mode : {"pieces", "auto"}) {
        if (mode == std::string("auto") && (pieces > 0 || !ranks.in_one)) continue;
        ::testing::internal::CaptureStdout();
        const Outcome tried = run(mode, ranks);
        const std::string output = ::testing::internal::GetCapturedStdout();
        EXPECT_EQ(tried.asked, ranks.count * (pieces + 1)) << "each rank tries once";
        EXPECT_EQ(tried.losses, launched.losses);
        EXPECT_THAT(output, AllOf(HasSubstr("note: run.cuda_graph: steps are launched one by one, for recording one failed: "),
                                  HasSubstr("cudaGraphInstantiate")));
      }
    }
  }
}

TEST_F(RecordedSteps, OfOneRankAloneThatCannotChangeNoResult) {
  for (const int pieces : {0, 1, 4}) {
    for (const Ranks& ranks : layouts_) {
      if (ranks.count == 1) continue;
      const Outcome launched = run("off", ranks);
      const int one_rank_asks = run("pieces", ranks).asked / ranks.count;
      for (const char* mode : {"pieces", "auto"}) {
        const bool in_one = mode == std::string("auto");
        if (in_one && (pieces > 0 || !ranks.in_one)) continue;
        fake::fail_recordings_after(pieces, /*index=*/1);
        ::testing::internal::CaptureStdout();
        const Outcome mixed = run(mode, ranks);
        EXPECT_THAT(::testing::internal::GetCapturedStdout(), HasSubstr("steps are launched one by one"));
        fake::fail_recordings_after(std::nullopt);
        EXPECT_GT(mixed.asked, pieces + 1) << "the other one replays";
        EXPECT_LE(mixed.asked, one_rank_asks + pieces + 1 + (in_one ? 1 : 0));
        EXPECT_EQ(mixed.losses, launched.losses)
            << mode << ", " << pieces << " pieces, tensor " << ranks.parallel.tensor << ", pipeline " << ranks.parallel.pipeline
            << ", context " << ranks.parallel.context << ", sequence " << ranks.parallel.sequence;
      }
    }
  }
}

TEST_F(RecordedSteps, AreThoseThatValidationCheckpointsAndProfilesInterrupt) {
  for (const Ranks& ranks : layouts_) {
    const Run launched = whole_run("off", ranks);
    for (const char* mode : {"pieces", "auto"}) {
      const Run replayed = whole_run(mode, ranks);
      EXPECT_EQ(replayed.asked, run(mode, ranks).asked) << "recorded once";
      EXPECT_EQ(replayed.losses.size(), 9u + 3u);  // and of validation after steps 4, 8 and 9
      EXPECT_EQ(replayed.losses, launched.losses);
    }
  }
}

/// Validation takes whole micro-batches, training in halves: its blocks are larger than those that were recorded.
TEST_F(RecordedSteps, GiveUpTheirMemoryWhereThereIsNoOther) {
  const Ranks in_halves{2, {.tensor = 2, .overlap = "on"}};
  const Run launched = whole_run("off", in_halves);
  for (const char* mode : {"pieces", "auto"}) {
    const int once = run(mode, in_halves).asked;
    fake::take_what_recordings_leave(true);
    ::testing::internal::CaptureStdout();
    const Run replayed = whole_run(mode, in_halves);
    fake::take_what_recordings_leave(false);
    EXPECT_THAT(::testing::internal::GetCapturedStdout(), Not(HasSubstr("launched one by one")));
    EXPECT_GT(replayed.asked, once) << "recorded anew";
    EXPECT_EQ(replayed.losses, launched.losses);
  }
}

/// A replay as a whole takes five times as long as one of its exchanges may, and the work between two of them longer, too.
TEST(RecordedExchanges, HaveTheirTimeEach) {
  LocalWorld(2, {.timeout_ms = 60'000}).run([](Group& world) {
    GpuRank rank(world);
    const Tensor t = rank.filled(100, 1);
    rank.all_reduce(t, "connects").wait(*rank.ctx.stream);
    rank.ctx.stream->synchronize();
    rank.group->set_options({.timeout_ms = 200});
    const auto recording = rank.record(world, [&] {
      for (const int pause_ms : {100, 300, 100, 400, 100}) {
        fake::queue(cuda::raw_stream(*rank.ctx.stream), [=] { std::this_thread::sleep_for(std::chrono::milliseconds(pause_ms)); });
        rank.all_reduce(t, "sum").wait(*rank.ctx.stream);
      }
    });
    EXPECT_TRUE(rank.ctx.recorder->has_branches());
    recording->replay(*rank.ctx.stream);
    EXPECT_THAT(rank.read(t), Each(64.0f));
    EXPECT_EQ(rank.group->failure(), std::nullopt);
  });
}

/// NCCL's guide forbids it, whatever the order of streams.
TEST(RecordedExchanges, AreOverBeforeTheNextOneIsCalled) {
  std::atomic<bool> may_go_on = false;
  LocalWorld(2, {.timeout_ms = 60'000}).run([&](Group& world) {
    GpuRank rank(world);
    const Tensor t = rank.filled(100, 1);
    rank.all_reduce(t, "connects").wait(*rank.ctx.stream);
    const auto recording = rank.record(world, [&] {
      fake::queue(cuda::raw_stream(*rank.ctx.stream), [&] { may_go_on.wait(false); });
      rank.all_reduce(t, "recorded").wait(*rank.ctx.stream);
    });
    EXPECT_TRUE(rank.ctx.recorder->has_branches());
    const int before = fake::called_collectives();
    world.barrier("counted").wait();
    for (int i = 0; i < 2; ++i) recording->replay(*rank.ctx.stream);  // which may be queued together
    const Work called = rank.all_reduce(t, "called");
    world.barrier("queued").wait();
    EXPECT_EQ(fake::called_collectives(), before);
    world.barrier("looked").wait();
    may_go_on = true;
    may_go_on.notify_all();
    called.wait(*rank.ctx.stream);
    EXPECT_THAT(rank.read(t), Each(16.0f));
    world.barrier("read").wait();
    EXPECT_EQ(fake::called_collectives(), before + world.size());
  });
}

}  // namespace
}  // namespace trireme
