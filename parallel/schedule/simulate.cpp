#include "parallel/schedule/simulate.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "core/error.h"
#include "parallel/schedule/validate.h"

namespace trireme {
namespace {

/// When each stage's outputs and input gradients are made.
class Clock {
 public:
  Clock(const Schedule& schedule, const PassTimes& times)
      : schedule_(schedule), times_(times), free_(schedule.ranks.size(), 0.0) {
    const std::vector<double> none(static_cast<size_t>(schedule.micro_batches), 0.0);
    output_.assign(schedule.rank_of_stage.size(), none);
    input_gradient_ = output_;
  }

  TimedAction run(int rank, const Action& a) {
    double& free = free_[static_cast<size_t>(rank)];
    const double begin = std::max(free, arrival(a));
    free = begin + times_.of(a);
    if (a.is_forward()) output_[a.stage][a.micro_batch] = free;
    if (a.makes_input_gradient()) input_gradient_[a.stage][a.micro_batch] = free;
    return {rank, a, begin, free};
  }

 private:
  using Table = std::vector<std::vector<double>>;  // [stage][micro-batch]

  /// Of what comes from another stage; the rank's own order takes care of the rest.
  double arrival(const Action& a) const {
    if (a.is_forward() && a.stage > 0) return arrival(output_, a.stage - 1, a);
    if (a.makes_input_gradient() && a.stage + 1 < schedule_.num_stages())
      return arrival(input_gradient_, a.stage + 1, a);
    return 0.0;
  }
  double arrival(const Table& made, int from, const Action& to) const {
    const auto sender = static_cast<size_t>(from);
    const bool same_rank = schedule_.rank_of_stage[sender] == schedule_.rank_of_stage[to.stage];
    return made[sender][to.micro_batch] + (same_rank ? 0.0 : times_.transfer);
  }

  const Schedule& schedule_;
  const PassTimes& times_;
  std::vector<double> free_;  // when each rank's last action ended
  Table output_, input_gradient_;
};

double median(std::vector<double> values) {
  if (values.empty()) return 0.0;
  std::sort(values.begin(), values.end());
  const size_t middle = values.size() / 2;
  return values.size() % 2 == 1 ? values[middle] : 0.5 * (values[middle - 1] + values[middle]);
}

}  // namespace

PassTimes PassTimes::uniform(int num_stages, double forward, double backward_input, double backward_weight,
                             double transfer) {
  const auto stages = static_cast<size_t>(num_stages);
  return {std::vector(stages, forward), std::vector(stages, backward_input),
          std::vector(stages, backward_weight), transfer};
}

double PassTimes::of(const Action& a) const {
  switch (a.kind) {
    case ActionKind::forward:
      return forward[a.stage];
    case ActionKind::backward:
      return backward_input[a.stage] + backward_weight[a.stage];
    case ActionKind::backward_input:
      return backward_input[a.stage];
    case ActionKind::backward_weight:
      return backward_weight[a.stage];
  }
  TRIREME_ASSERT(false, "an unknown kind of action");
}

Timeline simulate(const Schedule& schedule, const PassTimes& times) {
  const size_t stages = schedule.rank_of_stage.size();
  TRIREME_ASSERT(times.forward.size() == stages && times.backward_input.size() == stages &&
                     times.backward_weight.size() == stages,
                 fmt::format("times of {} stages wanted", stages));
  Clock clock(schedule, times);
  std::vector<TimedAction> actions;
  for (const ActionPlace& place : execution_order(schedule))
    actions.push_back(clock.run(place.rank, schedule.ranks[static_cast<size_t>(place.rank)][place.index]));
  return make_timeline(std::move(actions), schedule.num_ranks());
}

PassTimes median_times(const Timeline& measured, int num_stages) {
  constexpr size_t kKinds = 4;
  std::vector<std::array<std::vector<double>, kKinds>> durations(static_cast<size_t>(num_stages));
  for (const TimedAction& a : measured.actions) {
    TRIREME_ASSERT(a.action.stage < num_stages, fmt::format("stage {} of {}", a.action.stage, num_stages));
    durations[a.action.stage][static_cast<size_t>(a.action.kind)].push_back(a.end - a.begin);
  }
  PassTimes times;
  for (const auto& of_stage : durations) {
    const auto of = [&](ActionKind kind) { return median(of_stage[static_cast<size_t>(kind)]); };
    const double half = 0.5 * of(ActionKind::backward);
    times.forward.push_back(of(ActionKind::forward));
    times.backward_input.push_back(half + of(ActionKind::backward_input));
    times.backward_weight.push_back(half + of(ActionKind::backward_weight));
  }
  return times;
}

}  // namespace trireme
