// `trireme eval`: the loss of a checkpoint's model on data.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <memory>
#include <nlohmann/json.hpp>

#include "comm/world.h"
#include "launcher/agree.h"
#include "launcher/commands.h"
#include "launcher/data_info.h"
#include "launcher/evaluator.h"
#include "launcher/loaded_model.h"
#include "launcher/notes.h"
#include "launcher/option_check.h"

namespace trireme {
namespace {

struct EvalOptions {
  std::string checkpoint;
  std::string data;
  int64_t batches = 0;
  int64_t micro = 8;
  int64_t sequence = 0;
  DeviceOptions device;
  LayoutOptions layout;
  bool json = false;
};

void print_text(const Evaluation& e) {
  fmt::print("loss           {:.6f} nats a token\nperplexity     {:.4f}\n", e.loss, e.perplexity());
  if (const auto bits = e.bits_per_byte())
    fmt::print("bits per byte  {:.4f}\n", *bits);
  else
    fmt::print("bits per byte  unknown: no tokenizer lies beside the data\n");
  fmt::print("tokens         {}\n", e.tokens);
}

void print_json(const std::filesystem::path& checkpoint, const Evaluation& e) {
  nlohmann::json json{{"checkpoint", checkpoint.string()}, {"loss", e.loss}, {"perplexity", e.perplexity()}, {"tokens", e.tokens}};
  json["bits_per_byte"] = e.bits_per_byte() ? nlohmann::json(*e.bits_per_byte()) : nlohmann::json();
  fmt::print("{}\n", json.dump());
}

/// Numbers of tokens that mean something else to the model would say nothing of it. "" is a tokenizer that isn't known.
void check_same_tokenizer(const std::string& data, const std::string& data_tokenizer, const std::string& model_tokenizer) {
  if (data_tokenizer.empty() || model_tokenizer.empty() || is_same_tokenizer(data_tokenizer, model_tokenizer)) return;
  throw ConfigError(fmt::format("--data {}: made with another tokenizer ({}) than the model's; make it with "
                                "`trireme prepare --tokenizer {}`",
                                data, data_tokenizer, model_tokenizer));
}

void eval(const EvalOptions& options, Group& world) {
  LoadedModel loaded = load_model(options.checkpoint, options.device, options.layout, InferenceUse::evaluation, options.sequence, world);
  const ModelConfig& model = loaded.config();
  const int64_t sequence = options.sequence > 0 ? options.sequence : model.context;
  DataInfo info;
  const DataSource source{options.data, 1.0};
  const std::vector<WeightedDataset> data = agree(world, "data opened", [&] {
    info = read_glob_info(options.data);
    check_same_tokenizer(options.data, info.tokenizer, tokenizer_of(loaded.checkpoint));
    return open_datasets(std::span(&source, 1));
  });
  // Rows that no sample fills would cost memory and time for nothing.
  const int64_t micro = std::clamp<int64_t>(data.front().dataset->num_samples(sequence), 1, options.micro);
  const BatchGeometry geometry{micro, micro, sequence, model.true_vocab, loaded.mesh->coord(Axis::data),
                               loaded.mesh->shape().size(Axis::data)};
  const auto evaluator = agree(
      world, "data read", [&] { return std::make_unique<Evaluator>(data, geometry, options.batches * options.micro, info.token_bytes); });
  const Evaluation result = evaluator->run(loaded.context(), *loaded.model, world);
  print_notes(loaded.engine->backend(), world);
  if (world.rank() != 0) return;
  options.json ? print_json(loaded.checkpoint, result) : print_text(result);
}

}  // namespace

void add_eval_command(CLI::App& app) {
  auto options = std::make_shared<EvalOptions>();
  CLI::App* command = app.add_subcommand("eval", "Measures a checkpoint on data: loss, perplexity, bits per byte");
  command->add_option("CHECKPOINT", options->checkpoint, "A checkpoint, or a run's folder")->required();
  command->add_option("--data", options->data, "Token files, a glob")->required();
  command->add_option("--batches", options->batches, "How many batches of --micro samples, in all ranks together; 0: all of the data")
      ->check(at_least_option(0));
  command->add_option("--micro", options->micro, "Samples of a batch")->check(at_least_option(1))->capture_default_str();
  command->add_option("--sequence", options->sequence, "Tokens of a sample; 0: the model's context")
      ->check(at_least_option(0));
  add_device_options(*command, options->device);
  add_layout_options(*command, options->layout);
  command->add_flag("--json", options->json, "Prints one JSON object");
  command->footer("Example:\n  trireme eval runs/char --data 'data/kjv/valid*.bin' --json\n"
                  "  mpirun -n 4 trireme eval runs/gpt2 --data 'data/valid*.bin' --tensor 2 --pipeline 2");
  command->callback([options] { run_world({}, [&](Group& world) { eval(*options, world); }); });
}

}  // namespace trireme
