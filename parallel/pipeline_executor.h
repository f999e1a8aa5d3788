// PipelineExecutor: runs this rank's part of a schedule: forward and backward of its stages, with what is
// sent and received in between. One rank and one stage is the special case that sends nothing.
#pragma once

#include <deque>
#include <functional>
#include <limits>
#include <map>
#include <memory>
#include <optional>

#include "comm/group.h"
#include "core/tape.h"
#include "parallel/schedule/schedule.h"

namespace trireme {

/// Runs a stage on a micro-batch. `received` is what the stage before returned, undefined for the first.
/// Returns what the next stage takes, of the shape that the executor was made for, or the last stage's loss
/// f32 [1].
using StageForward =
    std::function<Tensor(Context& ctx, int64_t stage, int64_t micro_batch, const Tensor& received)>;

class PipelineExecutor {
 public:
  /// Collective over `pipeline`, the ranks of the schedule for tensors of the context's device, which
  /// outlives this.
  PipelineExecutor(Schedule schedule, Group& pipeline);

  const Schedule& schedule() const { return schedule_; }
  /// This rank's stages, ascending.
  const std::vector<int64_t>& stages() const { return stages_; }
  bool has_stage(int64_t stage) const { return rank_of(stage) == rank_; }
  int64_t num_stages() const { return static_cast<int64_t>(schedule_.rank_of_stage.size()); }

  /// To be called before connect() on a device that works on its own, whose groups are to rehearse too (CallMode): runs this
  /// rank's actions, of one stage those of the first two micro-batches, with zeros for what stages hand over. It leaves
  /// gradients behind.
  void rehearse(const Context& ctx, const Shape& shape, DType dtype, const StageForward& forward);
  /// To be called before the first run(); collective. Connects the ranks that exchange something.
  void connect(const Context& ctx);

  /// Every action of this rank. `shape` and `dtype` are those of what stages exchange. `sink` hears of the
  /// gradients that the last micro-batch of each stage completes; a parameter that several stages use is told
  /// of by each.
  void run(const Context& ctx, const Shape& shape, DType dtype, const StageForward& forward,
           GradientSink* sink);

  /// Forward alone of one micro-batch through all stages: the last stage's result on its rank, undefined
  /// elsewhere.
  Tensor run_forward(const Context& ctx, const Shape& shape, DType dtype, const StageForward& forward);

 private:
  static constexpr int64_t kAllMicroBatches = std::numeric_limits<int64_t>::max();
  static constexpr int64_t kUnlikeMicroBatches = 2;  // the first overwrites gradients, the second and all others add to them

  /// What one stage hands to a neighbour, in the order in which it is made.
  struct Channel {
    int peer = 0;  // the rank at the other end; this one where both stages are here
    int tag = 0;
    std::vector<size_t> peer_actions;  // by micro-batch: which of the peer's makes or takes the message
    std::vector<uint16_t> order;                          // micro-batches, as the maker has them
    std::vector<size_t> own_before;  // of each: the actions of this rank that it waits for, where it is received
    size_t posted = 0;                                    // receives
    std::map<int64_t, std::pair<Tensor, Work>> arriving;  // by micro-batch
  };
  struct InFlight {  // a micro-batch between its forward and the end of its backward
    std::unique_ptr<Tape> tape;
    Tensor input;   // watched
    Tensor output;  // the root of the backward pass
  };
  struct Step {  // what one run() is about
    Context ctx;
    Shape shape;
    DType dtype;
    const StageForward& forward;
    GradientSink* sink;
    bool exchanges = true;  // else what others would send is zeros
    int64_t num_micro_batches = kAllMicroBatches;
  };

  struct Sent {  // a message, which may be under way
    Work work;
    int peer = 0;
    size_t taken_by = 0;  // which of the peer's actions
  };

  int rank_of(int64_t stage) const { return schedule_.rank_of_stage[static_cast<size_t>(stage)]; }
  Channel& channel(int64_t maker, Direction direction) { return channels_.at({maker, direction}); }
  void plan_channels();
  void plan_channel(int64_t maker, int64_t taker, Direction direction);
  void run_actions(const Step& step);
  void post_receive(Channel& channel, const Step& step);
  void post_receives(const Step& step);
  Tensor take(Channel& channel, int64_t micro_batch, const Step& step);
  void hand_over(Channel& channel, int64_t micro_batch, const Tensor& value, const Step& step);
  void drop_finished_sends();
  void release_sends(int peer, size_t action);
  std::string span_name(const Action& action) const;

  void run_forward_action(const Action& action, const Step& step);
  void run_backward_action(const Action& action, const Step& step, bool last_of_stage);

  Schedule schedule_;
  std::unique_ptr<Group> group_;  // null with one rank
  int rank_ = 0;
  std::vector<int64_t> stages_;
  std::vector<bool>
      completes_gradients_;  // by action of this rank: the last that adds to its stage's gradients
  std::map<std::pair<int64_t, Direction>, Channel> channels_;  // by the stage that makes what goes through
  std::map<std::pair<int64_t, int64_t>, InFlight> in_flight_;  // by stage and micro-batch
  std::deque<Sent> sends_;
  size_t done_ = 0;  // actions of this run
};

}  // namespace trireme
