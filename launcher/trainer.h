// Trainer: one rank's part of a training run, from the config to the last checkpoint.
#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "comm/group.h"
#include "core/data/loader.h"
#include "core/profiler.h"
#include "core/trace.h"
#include "launcher/checkpoint_request.h"
#include "launcher/config.h"
#include "launcher/evaluator.h"
#include "launcher/notes.h"
#include "launcher/run_plan.h"
#include "launcher/run_report.h"
#include "launcher/signals.h"
#include "launcher/start_point.h"
#include "launcher/train_state.h"
#include "launcher/train_step.h"
#include "models/model.h"
#include "optim/clip.h"
#include "optim/optimizer.h"
#include "parallel/mesh.h"
#include "parallel/reducer.h"

namespace trireme {

class Trainer {
 public:
  /// Collective over `world`. Reads data, builds the model, and resumes or starts as the config says. What the
  /// config leaves open (vocabulary, sequence length) is filled in. ConfigError when something doesn't fit.
  /// `signals`, if any, outlives the trainer; run() looks at it after each step.
  Trainer(Config config, Group& world, SignalRequests* signals = nullptr);
  ~Trainer();

  /// Trains until run.steps, or until a signal asks to stop; writes metrics and checkpoints on the way.
  void run();

  /// One step: forward, backward, reduction and update. All ranks return the same numbers but for step_ms.
  StepMetrics step();

  const Model& model() const { return model_->model(); }
  const TrainProgress& progress() const { return progress_; }
  /// What this rank's device memory holds and held.
  MemoryStats memory() { return engine_.allocator().stats(); }
  /// Whether this rank has a recorded step; those that are not traced replay it.
  bool replays() const { return step_->replays(); }
  /// Whether that has the collectives in it.
  bool has_captured() const { return step_->has_captured(); }
  /// Writes a checkpoint of the last step. Collective.
  void save();

 private:
  Trainer(RunPlan plan, Group& world, SignalRequests* signals);
  void open_data(RunPlan plan);
  void build_model();
  void start();
  void take_first_state(const StartPoint& from);
  void resume(const std::filesystem::path& checkpoint);
  OptimizerState resumable_state(const CheckpointReader* reader) const;
  void say(const std::string& line) const;  // rank 0 prints it
  void start_reports();
  void keep_tokenizer();

  Batch next_batch();
  void launch();          // queues the next step
  StepMetrics collect();  // waits for the oldest that is queued, and reports it
  void note_not_finite(const LossScaleSettings& scale, float used);
  void report_notes(bool of_all);
  void evaluate();
  struct Window {
    int64_t first, last;  // steps
  };
  Window traced_steps() const;
  void control_trace();
  void start_profiler();
  void finish_trace();

  Config config_;
  Group& world_;
  SignalRequests* signals_;  // null: none are handled
  CheckpointRequest checkpoint_request_;
  std::unique_ptr<Tracer> tracer_;  // before what may add to it
  std::unique_ptr<DeviceProfiler> profiler_;  // null where the host does the work itself
  Engine engine_;
  Notes notes_;
  Context ctx_;
  Mesh mesh_;
  std::unique_ptr<Group> stats_group_;  // of all ranks

  std::vector<WeightedDataset> train_data_;
  std::vector<WeightedDataset> valid_data_;
  std::string tokenizer_;  // "bytes", or the path of a model; "" when it isn't known
  BatchGeometry geometry_;
  int64_t micro_batches_ = 1;

  ParallelPlan plan_;
  std::string layout_;  // who does what; empty for one rank
  std::unique_ptr<ParallelModel> model_;
  std::vector<Bucket> buckets_;
  std::unique_ptr<Reducer> reducer_;
  std::vector<Shard> shards_;
  std::unique_ptr<Optimizer> optimizer_;
  std::unique_ptr<UpdateGuard> guard_;
  std::unique_ptr<TrainStep> step_;
  std::unique_ptr<Evaluator> evaluator_;  // null without validation data
  std::unique_ptr<Loader> loader_;

  TrainProgress progress_;
  int64_t first_step_ = 1;  // of this process
  int64_t launched_ = 0;    // the last step that was queued
  bool profiling_ = false;
  int64_t trace_first_ = 0;     // the step that recording began with
  int64_t trace_begin_ns_ = 0;
  double peak_flops_ = 0.0;     // of this rank
  bool stop_ = false;       // agreed on by all ranks
  bool save_now_ = false;   // likewise, since the last checkpoint
  std::unique_ptr<RunReport> report_;
};

}  // namespace trireme
