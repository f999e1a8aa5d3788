// The named schedules, each a rule for the order of one rank's actions.
// Where a rule wants a certain number of micro-batches it is given more of them, and those that don't exist
// are left out: nothing depends on another micro-batch, so what remains can still be run in its order.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <limits>

#include "core/error.h"
#include "core/text.h"
#include "parallel/schedule/schedule.h"
#include "parallel/schedule/schedule_csv.h"

namespace trireme {
namespace {

using Order = std::vector<Action>;

Action action(ActionKind kind, int64_t stage, int64_t micro_batch) {
  return {kind, static_cast<uint16_t>(stage), static_cast<uint16_t>(micro_batch)};
}

struct Size {
  int64_t ranks, chunks, micro_batches;
};

/// Micro-batches 0, 1, ... of one stage.
Order passes(ActionKind kind, int64_t stage, int64_t micro_batches) {
  Order order;
  for (int64_t m = 0; m < micro_batches; ++m) order.push_back(action(kind, stage, m));
  return order;
}

/// `warmup` forwards, then a forward and a backward by turns, then the backwards that are left.
Order one_forward_one_backward(const Order& forwards, const Order& backwards, size_t warmup) {
  warmup = std::min(warmup, forwards.size());
  Order order(forwards.begin(), forwards.begin() + static_cast<std::ptrdiff_t>(warmup));
  for (size_t i = 0; i < backwards.size(); ++i) {
    if (warmup + i < forwards.size()) order.push_back(forwards[warmup + i]);
    order.push_back(backwards[i]);
  }
  return order;
}

/// Forwards are enough to fill the ranks behind this one.
size_t warmup_1f1b(const Size& size, int64_t rank) {
  return static_cast<size_t>(size.ranks - 1 - rank);
}

Order gpipe(const Size& size, int64_t rank) {
  const Order forwards = passes(ActionKind::forward, rank, size.micro_batches);
  return one_forward_one_backward(forwards, passes(ActionKind::backward, rank, size.micro_batches),
                                  forwards.size());
}

Order one_f_one_b(const Size& size, int64_t rank) {
  return one_forward_one_backward(passes(ActionKind::forward, rank, size.micro_batches),
                                  passes(ActionKind::backward, rank, size.micro_batches),
                                  warmup_1f1b(size, rank));
}

/// Micro-batches go in groups of as many as ranks: a group through the first chunk, the same through the next
/// one, ... The warm-up is that of Megatron-LM's forward_backward_pipelining_with_interleaving.
Order interleaved(const Size& size, int64_t rank) {
  if (size.chunks == 1) return one_f_one_b(size, rank);
  Order forwards, backwards;
  for (int64_t group = 0; group * size.ranks < size.micro_batches; ++group)
    for (int64_t chunk = 0; chunk < size.chunks; ++chunk)
      for (int64_t m = group * size.ranks; m < (group + 1) * size.ranks; ++m) {
        forwards.push_back(action(ActionKind::forward, chunk * size.ranks + rank, m));
        backwards.push_back(action(ActionKind::backward, (size.chunks - 1 - chunk) * size.ranks + rank, m));
      }
  const int64_t warmup = 2 * (size.ranks - 1 - rank) + (size.chunks - 1) * size.ranks;
  return one_forward_one_backward(forwards, backwards, static_cast<size_t>(warmup));
}

/// 1f1b with each W put off by `rank` micro-batches: the ranks at the end, whose first I comes early, hand
/// gradients on before they turn to W, and the W's left over fill the time in which they would wait at the
/// end.
Order zb_h1(const Size& size, int64_t rank) {
  const Order whole = one_forward_one_backward(passes(ActionKind::forward, rank, size.micro_batches),
                                               passes(ActionKind::backward_input, rank, size.micro_batches),
                                               warmup_1f1b(size, rank));
  Order order;
  for (const Action& a : whole) {
    order.push_back(a);
    if (a.makes_input_gradient() && a.micro_batch >= rank)
      order.push_back(action(ActionKind::backward_weight, rank, a.micro_batch - rank));
  }
  for (int64_t m = std::max<int64_t>(0, size.micro_batches - rank); m < size.micro_batches; ++m)
    order.push_back(action(ActionKind::backward_weight, rank, m));
  return order;
}

/// The actions of a rank with two stages, each kind and stage counting its own micro-batches.
class VOrder {
 public:
  VOrder(const Size& size, int64_t rank) : stages_{rank, 2 * size.ranks - 1 - rank} {}
  void forward(size_t chunk) { add(ActionKind::forward, chunk); }
  void input(size_t chunk) { add(ActionKind::backward_input, chunk); }
  void weight(size_t chunk) { add(ActionKind::backward_weight, chunk); }
  void both(size_t chunk) { input(chunk), weight(chunk); }
  int64_t done(ActionKind kind, size_t chunk) const { return done_[static_cast<size_t>(kind)][chunk]; }
  Order take() { return std::move(order_); }

 private:
  void add(ActionKind kind, size_t chunk) {
    order_.push_back(action(kind, stages_[chunk], done_[static_cast<size_t>(kind)][chunk]++));
  }
  std::array<int64_t, 2> stages_;
  std::array<std::array<int64_t, 2>, 4> done_{};
  Order order_;
};

/// Forward runs down the ranks (chunk 0) and up again (chunk 1), so the last stage is on rank 0, where
/// backward starts its own way down and up. At most 2 * ranks micro-batches of a stage are alive on each
/// rank: 1f1b's memory, as a stage is half as large.
Order zb_v(const Size& size, int64_t rank) {
  const int64_t micro_batches = std::max(size.micro_batches, 2 * size.ranks - 1);
  const int64_t behind = size.ranks - rank;  // ranks from here to where the V turns
  VOrder v(size, rank);
  for (int64_t i = 0; i < 2 * behind - 1; ++i) v.forward(0);
  for (int64_t i = 0; i < rank; ++i) v.forward(1), v.forward(0);
  for (int64_t i = 0; i < behind; ++i) v.forward(1), v.both(1);
  while (v.done(ActionKind::forward, 1) < micro_batches) {  // steady: all three passes of both chunks
    if (v.done(ActionKind::forward, 0) < micro_batches) v.forward(0);
    v.both(0);
    v.forward(1);
    v.both(1);
  }
  for (int64_t i = 0; i < rank; ++i) v.input(0), v.input(1);
  for (int64_t i = 0; i < behind; ++i) v.both(0);
  while (v.done(ActionKind::backward_weight, 1) < micro_batches) v.weight(1);
  while (v.done(ActionKind::backward_weight, 0) < micro_batches) v.weight(0);
  return v.take();
}

struct Rule {
  std::string name;
  int64_t chunks;  // 0: any number
  Order (*order)(const Size&, int64_t rank);
};

const std::array<Rule, 5>& rules() {
  static const std::array<Rule, 5> kRules{{{"gpipe", 1, gpipe},
                                           {"1f1b", 1, one_f_one_b},
                                           {"interleaved", 0, interleaved},
                                           {"zb-h1", 1, zb_h1},
                                           {"zb-v", 2, zb_v}}};
  return kRules;
}

const Rule& rule_of(std::string_view name) {
  for (const Rule& rule : rules())
    if (rule.name == name) return rule;
  const std::string near = nearest_name(name, schedule_names());
  throw ConfigError(fmt::format(
      "parallel.schedule: no schedule '{}'{}; the schedules are {}, or a file of your own, *.csv", name,
      near.empty() ? "" : " (did you mean " + near + "?)", fmt::join(schedule_names(), ", ")));
}

void check_size(const Size& size) {
  constexpr int64_t kMost = std::numeric_limits<uint16_t>::max();
  if (size.ranks < 1 || size.chunks < 1 || size.micro_batches < 1)
    throw ConfigError(fmt::format(
        "a pipeline schedule needs 1 or more ranks, stages a rank and micro-batches; got {}, {} and {}",
        size.ranks, size.chunks, size.micro_batches));
  // Also the micro-batches that a rule makes up and leaves out again must have numbers.
  if (size.ranks > kMost / 4 || size.chunks > kMost / size.ranks ||
      size.micro_batches > kMost - 2 * size.ranks)
    throw ConfigError(
        fmt::format("a step has {} pipeline stages and {} micro-batches a rank at the most; got {} ranks of {} "
                    "stages and {} micro-batches; make batch.micro larger, or batch.global or parallel.pipeline "
                    "smaller",
                    kMost, kMost - 2 * size.ranks, size.ranks, size.chunks, size.micro_batches));
}

/// Rank by rank from the first, for each chunk; in a V every other chunk runs back.
std::vector<int> place_stages(const Size& size, bool v) {
  std::vector<int> rank_of_stage;
  for (int64_t chunk = 0; chunk < size.chunks; ++chunk)
    for (int64_t i = 0; i < size.ranks; ++i)
      rank_of_stage.push_back(static_cast<int>(v && chunk % 2 == 1 ? size.ranks - 1 - i : i));
  return rank_of_stage;
}

Schedule from_file(std::string_view path, const Size& size) {
  Schedule schedule = read_schedule(path);
  const Size got{schedule.num_ranks(), schedule.max_stages_of_a_rank(), schedule.micro_batches};
  if (got.ranks != size.ranks || got.chunks != size.chunks || got.micro_batches != size.micro_batches)
    throw ConfigError(fmt::format(
        "{}: the schedule is for {} ranks, {} stages a rank and {} micro-batches; the run has {}, {} and "
        "{}; change parallel.pipeline, parallel.chunks and batch, or the file",
        path, got.ranks, got.chunks, got.micro_batches, size.ranks, size.chunks, size.micro_batches));
  return schedule;
}

}  // namespace

const std::vector<std::string>& schedule_names() {
  static const std::vector<std::string> kNames = [] {
    std::vector<std::string> names;
    for (const Rule& rule : rules()) names.push_back(rule.name);
    return names;
  }();
  return kNames;
}

int64_t chunks_of_schedule(std::string_view name) {
  return rule_of(name).chunks;
}

Schedule make_schedule(std::string_view name, int64_t ranks, int64_t chunks, int64_t micro_batches) {
  const Size size{ranks, chunks, micro_batches};
  check_size(size);
  if (name.ends_with(".csv")) return from_file(name, size);
  const Rule& rule = rule_of(name);
  if (rule.chunks != 0 && chunks != rule.chunks)
    throw ConfigError(
        fmt::format("parallel.schedule {} has {} a rank; got parallel.chunks = {}; set it to {}{}", name,
                    rule.chunks == 1 ? "one stage" : "two stages", chunks, rule.chunks,
                    rule.chunks == 1 ? ", or take interleaved or zb-v" : ""));
  Schedule schedule{rule.name, micro_batches, place_stages(size, rule.order == zb_v), {}};
  for (int64_t rank = 0; rank < ranks; ++rank) {
    Order order = rule.order(size, rank);
    std::erase_if(order, [&](const Action& a) { return a.micro_batch >= micro_batches; });
    schedule.ranks.push_back(std::move(order));
  }
  return schedule;
}

}  // namespace trireme
