// TrainStep: the work of one optimizer step on this rank. launch() queues it, collect() waits for its numbers: on a
// device that works on its own the host is a step ahead, and nothing in between waits for it.
#pragma once

#include <array>
#include <memory>
#include <span>

#include "comm/group.h"
#include "core/data/batch.h"
#include "models/parallel_model.h"
#include "optim/clip.h"
#include "optim/optimizer.h"
#include "parallel/reducer.h"

namespace trireme {

/// What a step works with; all outlive it.
struct TrainStepParts {
  ParallelModel& model;
  Reducer& reducer;
  std::span<Shard> shards;
  Optimizer& optimizer;
  UpdateGuard& guard;
  Group& stats;  // of all ranks; of its own, for the step's few numbers
};

/// Wishes of one rank that all must hear of: they travel with the step's numbers.
struct StepRequests {
  bool stop = false;
  bool checkpoint = false;
};

/// One finished step; the same on all ranks but for the time.
struct StepResult {
  int64_t step = 0;
  float loss = 0.0f;    // mean over the targets of all ranks
  StepControl control;
  StepRequests requests;  // of any rank
  bool first_recorded = false;  // or the first for which that was tried
  /// On the device: since the step before was done, or, when that one had been collected, since this one was launched.
  double seconds = 0.0;
};

enum class RecordMode : uint8_t {
  none,
  pieces,  // collectives are called between them
  in_one,  // or in pieces, where something is to be called between
};
/// What `run.cuda_graph` stands for. What networks move is called, so where ranks are on several machines there are pieces.
RecordMode record_mode(const std::string& cuda_graph, bool on_one_machine);
/// Whether what copy engines move becomes part of a recording. Not, unless that is asked for, with tensor ranks,
/// whose steps were longer so (docs/performance.md).
bool captures_copies(const std::string& cuda_graph, int64_t tensor_ranks);

class TrainStep {
 public:
  static constexpr size_t kMaxInFlight = 2;
  static constexpr int64_t kFirstRecorded = 3;  // launches before: memory is found, algorithms are chosen

  /// `seed` is the run's. Batches hold micro_batches micro-batches of geometry.micro samples.
  /// Unless `record` is none, a device that can replays the step from the third one on instead of queueing its work one by one.
  TrainStep(const Context& ctx, const TrainStepParts& parts, const BatchGeometry& geometry, int64_t micro_batches,
            uint64_t seed, RecordMode record = RecordMode::none);
  ~TrainStep();

  /// Forward, backward, reduction and update of `batch`, queued. At most kMaxInFlight may be in flight.
  void launch(const Batch& batch, double lr, StepRequests requests);
  /// The oldest step in flight, waited for. CommError when a peer failed meanwhile.
  StepResult collect();
  bool replays() const { return recording_ != nullptr; }
  /// Whether what it replays has collectives in it.
  bool has_captured() const;
  size_t in_flight() const { return static_cast<size_t>(launched_ - collected_); }

 private:
  /// The step's numbers, f32 [kStats] on the device, summed over all ranks: of what several ranks have alike, one counts.
  /// The first ones are what the guard decides by.
  enum Stat : int64_t {
    sum_squares = UpdateGuard::sum_squares,
    not_finite = UpdateGuard::not_finite,
    loss = UpdateGuard::loss,
    stop = UpdateGuard::kStats,
    checkpoint,
    kStats
  };
  struct Slot {  // of one step in flight
    int64_t step = 0;
    bool first_recorded = false;
    std::shared_ptr<void> host;  // f32 [kStats + StepControl::kSize]
    std::unique_ptr<Event> done;
  };

  Slot& slot_of(int64_t i) { return slots_[static_cast<size_t>(i + std::ssize(slots_)) % slots_.size()]; }
  void prepare();  // before the first step
  void put_inputs(const Batch& batch, double lr, StepRequests requests);
  void compute();  // all work on the device, from the inputs to the updated weights
  bool replay();   // the same, recorded; false when there is no recording
  void record();
  void record_once();
  void agree_to_capture();
  MicroBatch micro_batch(int64_t i) const;
  void run_micro_batches();
  void sum_gradient_squares(Tensor& norms);
  void update();
  void read_back(Slot& slot);

  Context ctx_;
  TrainStepParts parts_;
  BatchGeometry geometry_;
  int64_t micro_batches_;
  int64_t first_sample_ = 0;  // of every batch of this rank
  bool record_, has_recorded_ = false;
  bool may_capture_;  // collectives
  std::unique_ptr<Recording> recording_;
  /// Kernels of the update may still be loaded: its sums are waited for, and all ranks meet after it. A recording then
  /// begins when no sum is under way.
  bool first_times_ = false;

  Tensor tokens_, targets_;  // i32 [samples, T of this rank]
  Tensor step_;              // i64 [1]
  Tensor stats_;             // f32 [kStats]
  std::array<Slot, kMaxInFlight + 1> slots_;  // and of the step before them, for its end is where a step's time begins
  int64_t launched_ = 0;   // steps
  int64_t collected_ = 0;
};

}  // namespace trireme
