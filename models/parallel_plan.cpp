#include "models/parallel_plan.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "core/error.h"
#include "parallel/context_chunks.h"
#include "parallel/layers/head_split.h"
#include "parallel/schedule/schedule_csv.h"
#include "parallel/schedule/stages.h"
#include "parallel/vocab_split.h"

namespace trireme {
namespace {

Schedule plan_schedule(const ParallelConfig& config, int64_t micro_batches) {
  constexpr int64_t kInterleavedChunks = 2;
  int64_t chunks = config.chunks;
  if (chunks == 0 && config.schedule == "interleaved") chunks = kInterleavedChunks;
  if (chunks == 0)
    chunks = config.schedule.ends_with(".csv") ? read_schedule(config.schedule).max_stages_of_a_rank()
                                               : chunks_of_schedule(config.schedule);
  return make_schedule(config.schedule, config.pipeline, chunks, micro_batches);
}

/// Whether each tensor rank has as many rows of a micro-batch under sequence parallelism.
bool has_even_rows(const ParallelConfig& config, int64_t micro, int64_t sequence) {
  const bool even_chunks = config.context == 1 || sequence % (2 * config.context) == 0;
  return even_chunks && micro * sequence / config.context % config.tensor == 0;
}

/// Whether `ranks` make the axes of `config` with another number of context ranks.
bool takes_context(ParallelConfig config, int64_t context, int64_t ranks) {
  config.context = context;
  try {
    plan_mesh(config, ranks);
  } catch (const ConfigError&) {
    return false;
  }
  return true;
}

/// The nearest number of samples of a micro-batch, above first, that gives even rows and divides what a data rank has of a
/// batch; 0: there is none.
int64_t nearest_micro(const ParallelConfig& config, const BatchSizes& batch) {
  const int64_t samples = batch.micro * batch.micro_batches;
  const auto takes = [&](int64_t micro) { return samples % micro == 0 && has_even_rows(config, micro, batch.sequence); };
  for (int64_t micro = batch.micro + 1; micro <= samples; ++micro)
    if (takes(micro)) return micro;
  for (int64_t micro = batch.micro - 1; micro > 0; --micro)
    if (takes(micro)) return micro;
  return 0;
}

void check_tokens(const ModelConfig& model, const ParallelConfig& config, const BatchSizes& batch, int64_t ranks) {
  if (config.context > 1)
    check_context_chunks(batch.sequence, config.context,
                         {model.context, [&](int64_t context) { return takes_context(config, context, ranks); }});
  if (!config.sequence || config.tensor == 1 || has_even_rows(config, batch.micro, batch.sequence)) return;
  const int64_t micro = nearest_micro(config, batch);
  int64_t sequence = batch.sequence;
  while (sequence > 0 && !has_even_rows(config, batch.micro, sequence)) --sequence;
  std::vector<std::string> ways;
  if (micro > 0) ways.push_back(fmt::format("batch.micro to {}", micro));
  if (sequence > 0) ways.push_back(fmt::format("batch.sequence to {}", sequence));
  ways.emplace_back("parallel.sequence to false");
  throw ConfigError(fmt::format(
      "parallel.sequence: {} rows (batch.micro x batch.sequence{}) do not divide among parallel.tensor = {} "
      "ranks; set {}",
      batch.micro * batch.sequence / config.context, config.context > 1 ? " / parallel.context" : "",
      config.tensor, fmt::join(ways, " or ")));
}

}  // namespace

std::vector<double> model_unit_costs(const ModelConfig& m, int64_t sequence) {
  return unit_costs({.layers = m.layers,
                     .width = m.width,
                     .ffn = m.ffn,
                     .heads = m.heads,
                     .kv_heads = m.kv_heads,
                     .vocab = m.vocab,
                     .tokens = sequence});
}

ParallelPlan plan_parallel(const ModelConfig& model, const ParallelConfig& config, const BatchSizes& batch,
                           int64_t ranks) {
  ParallelPlan plan;
  plan.mesh = plan_mesh(config, ranks);
  check_tokens(model, config, batch, ranks);
  for (int64_t rank = 0; rank < config.tensor; ++rank)
    split_heads(model.heads, model.kv_heads, config.tensor, rank);
  split_vocab(model.vocab, config.tensor);
  if (model.ffn < config.tensor)
    throw ConfigError(
        fmt::format("parallel.tensor = {}: model.ffn = {} does not give each rank a column; set "
                    "parallel.tensor to {} or less",
                    config.tensor, model.ffn, model.ffn));
  plan.schedule = plan_schedule(config, batch.micro_batches);
  const auto num_stages = plan.num_stages();
  plan.first_unit = config.stages.empty() ? cut_stages_of_ranks(model_unit_costs(model, batch.sequence), plan.schedule.rank_of_stage)
                                          : cut_stages_by_layers(config.stages, num_stages, model.layers);
  return plan;
}

}  // namespace trireme
