// Inspection of data sets, token shards, tokenizers and experiment files.
#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <nlohmann/json.hpp>
#include <vector>

#include "core/data/dataset_info.h"
#include "core/data/token_shard.h"
#include "core/data/tokenizer.h"
#include "core/error.h"
#include "launcher/config.h"
#include "launcher/data_info.h"
#include "launcher/inspect.h"
#include "launcher/run_plan.h"
#include "models/model.h"
#include "models/presets.h"

namespace trireme {

using nlohmann::json;
namespace fs = std::filesystem;

namespace {

constexpr int64_t kPieceTokens = 1 << 20;
constexpr int64_t kShownTokens = 16;

json token_statistics(const TokenShard& shard) {
  int32_t min = std::numeric_limits<int32_t>::max(), max = std::numeric_limits<int32_t>::min();
  std::vector<bool> seen;
  std::vector<int32_t> tokens;
  for (int64_t begin = 0; begin < shard.num_tokens(); begin += kPieceTokens) {
    tokens.resize(static_cast<size_t>(std::min(kPieceTokens, shard.num_tokens() - begin)));
    shard.read(begin, tokens);
    for (int32_t token : tokens) {
      min = std::min(min, token);
      max = std::max(max, token);
      // An id beyond every vocabulary is told by `max`; it must not cost its own size in memory.
      if (token < 0 || token >= (1 << 24)) continue;
      if (static_cast<size_t>(token) >= seen.size()) seen.resize(static_cast<size_t>(token) + 1);
      seen[static_cast<size_t>(token)] = true;
    }
  }
  return {{"min", min}, {"max", max}, {"distinct", std::ranges::count(seen, true)}};
}

}  // namespace

json inspect_dataset(const fs::path& folder) {
  const std::optional<DatasetInfo> info = read_dataset_info(folder);
  if (!info) throw ConfigError(fmt::format("{}: there is no {}", folder.string(), kDatasetInfoFile));
  json result{{"kind", "dataset"},
              {"path", folder.string()},
              {"complete", info->complete},
              {"tokenizer", info->tokenizer},
              {"vocab", info->vocab},
              {"end_of_text", info->end_of_text},
              {"inputs", json::array()},
              {"settings", json::parse(info->settings)}};
  for (const InputInfo& input : info->inputs) result["inputs"].push_back(input.path);
  for (const auto& [name, split] : {std::pair("train", &info->train), std::pair("valid", &info->valid)}) {
    json files = json::array();
    for (const ShardFile& file : split->files) files.push_back(file.name);
    result[name] = {{"tokens", split->tokens},
                    {"documents", split->documents},
                    {"text_bytes", split->text_bytes},
                    {"files", files}};
  }
  return result;
}

json inspect_shard(const fs::path& bin_file, const InspectOptions& options) {
  const TokenShard shard = open_token_shard(bin_file);
  json result{{"kind", "shard"},
              {"path", shard.name()},
              {"layout", fs::exists(index_file_of(bin_file)) ? "megatron" : "llm.c"},
              {"token_type", name_of(shard.type())},
              {"tokens", shard.num_tokens()},
              {"bytes", fs::file_size(bin_file)}};
  if (shard.num_documents > 0) result["documents"] = shard.num_documents;
  std::vector<int32_t> first(static_cast<size_t>(std::min(kShownTokens, shard.num_tokens())));
  shard.read(0, first);
  result["first"] = first;
  if (options.values && shard.num_tokens() > 0) result["ids"] = token_statistics(shard);
  return result;
}

json inspect_tokenizer(const fs::path& model_file) {
  const auto tokenizer = make_tokenizer(model_file.string());
  const DataInfo info = read_tokenizer_info(model_file.string());
  int64_t bytes = 0;
  int32_t longest = 0;
  for (size_t id = 0; id < info.token_bytes.size(); ++id) {
    bytes += info.token_bytes[id];
    if (info.token_bytes[id] > info.token_bytes[static_cast<size_t>(longest)])
      longest = static_cast<int32_t>(id);
  }
  const int64_t vocab = tokenizer->vocab_size();
  return {{"kind", "tokenizer"},
          {"path", model_file.string()},
          {"name", tokenizer->name()},
          {"vocab", vocab},
          {"end_of_text", tokenizer->end_of_text()},
          {"mean_token_bytes", vocab == 0 ? 0.0 : static_cast<double>(bytes) / static_cast<double>(vocab)},
          {"longest_token", tokenizer->decode(std::vector<int32_t>{longest})},
          {"bytes", fs::file_size(model_file)}};
}

json inspect_config(const fs::path& yaml_file) {
  Config config = load_config(yaml_file);
  const int64_t sequence = config.batch.sequence > 0 ? config.batch.sequence : config.model.context;
  json result{{"kind", "config"},
              {"path", yaml_file.string()},
              {"tokens_per_step", config.batch.global * sequence},
              {"tokens", config.batch.global * sequence * config.run.steps}};
  // The model's size is known once its vocabulary is: from the file, or from the data's tokenizer.
  try {
    take_vocab(config.model, read_data_info(config.data));
  } catch (const ConfigError& error) {
    result["problem"] = error.what();  // data that is not there yet, for one; the config can be shown all the same
  }
  if (config.model.vocab > 0) {
    config.model = resolve_model(config.model);
    result["parameters"] = make_model(config.model)->num_parameters();
  }
  result["resolved"] = to_yaml(config);
  return result;
}

}  // namespace trireme
