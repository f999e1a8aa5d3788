// Schedule: which forward and backward passes each rank of a pipeline runs, in which order. Pure data: the
// executor obeys it, the simulator times it, a CSV file can hold it. Sends and receives are no actions, they
// follow from the order: what a stage makes goes to its neighbour's rank when it is made, and a receiver
// takes the messages of one channel in the order in which they were sent.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace trireme {

/// `backward` is both halves in one. Apart: `backward_input` makes the gradient that the stage before waits
/// for, and `backward_weight` those of the parameters, which nobody waits for.
enum class ActionKind : uint8_t { forward, backward, backward_input, backward_weight };

struct Action {
  ActionKind kind;
  uint16_t stage;  // of the whole model
  uint16_t micro_batch;

  bool operator==(const Action&) const = default;
  bool is_forward() const { return kind == ActionKind::forward; }
  /// Makes the gradient of the stage's input.
  bool makes_input_gradient() const {
    return kind == ActionKind::backward || kind == ActionKind::backward_input;
  }
  /// Makes the parameters' gradients, after which nothing of the micro-batch is needed at this stage.
  bool makes_weight_gradient() const {
    return kind == ActionKind::backward || kind == ActionKind::backward_weight;
  }
};

/// "F0.3": forward of stage 0, micro-batch 3; likewise B (backward), I (its input half) and W (its weight
/// half). Traces and CSV files have the same names.
std::string to_string(const Action& action);
/// The inverse; nothing when `text` is not the name of an action.
std::optional<Action> parse_action(std::string_view text);

/// Activations go to the next stage, gradients to the one before.
enum class Direction : uint8_t { forward, backward };

struct Schedule {
  std::string name;
  int64_t micro_batches = 0;
  std::vector<int> rank_of_stage;
  std::vector<std::vector<Action>> ranks;  // [pipeline rank][i]

  bool operator==(const Schedule&) const = default;
  int num_ranks() const { return static_cast<int>(ranks.size()); }
  int num_stages() const { return static_cast<int>(rank_of_stage.size()); }
  /// Ascending.
  std::vector<int> stages_of(int rank) const;
  int max_stages_of_a_rank() const;
  /// Whether what `stage` makes in this direction is a message: there is a neighbour, on another rank.
  bool sends(int stage, Direction direction) const;
  /// The micro-batches in the order in which `stage` makes what it hands on: the order of the channel's
  /// messages.
  std::vector<uint16_t> channel_order(int stage, Direction direction) const;
};

/// The schedules that make_schedule knows.
const std::vector<std::string>& schedule_names();

/// How many stages a rank must have under the schedule `name`: 1, 2 for zb-v; 0 for any number. ConfigError
/// for an unknown name, with the nearest one.
int64_t chunks_of_schedule(std::string_view name);

/// One of schedule_names(), or the path of a CSV file, which must be for these numbers of ranks, stages a
/// rank and micro-batches. Any number of ranks and micro-batches from 1 on works with each name; only
/// `interleaved` takes any number of `chunks` (stages a rank), zb-v takes 2, the others 1. ConfigError
/// otherwise. The names:
///   gpipe        all forward, then all backward (Huang et al., GPipe, 2019)
///   1f1b         PipeDream-flush (Narayanan et al., Efficient Large-Scale Language Model Training on GPU
///   Clusters
///                Using Megatron-LM, 2021, section 2.2.1)
///   interleaved  1f1b where rank r has stages r, p+r, 2p+r, ... (the same, section 2.2.2)
///   zb-h1        1f1b's memory, weight gradients where 1f1b would wait (Qi et al., Zero Bubble Pipeline
///   Parallelism,
///                2023, section 3.1)
///   zb-v         rank r has stages r and 2p-1-r, 1f1b's memory, no bubble in the steady state where a
///   forward and
///                both halves of a backward take as long (Qi et al. 2023, section 6; Pipeline Parallelism
///                with Controllable Memory, 2024)
Schedule make_schedule(std::string_view name, int64_t ranks, int64_t chunks, int64_t micro_batches);

}  // namespace trireme
