// `trireme generate`: continues a text with a checkpoint's model.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <memory>

#include "comm/world.h"
#include "core/data/tokenizer.h"
#include "launcher/agree.h"
#include "launcher/commands.h"
#include "launcher/loaded_model.h"
#include "launcher/notes.h"
#include "launcher/option_check.h"
#include "launcher/sampling.h"

namespace trireme {
namespace {

struct GenerateOptions {
  std::string checkpoint;
  std::string prompt = "\n";
  std::string tokenizer;
  DeviceOptions device;
  LayoutOptions layout;
  SamplingConfig sampling;
};

/// The one that is wanted, or the checkpoint's.
std::shared_ptr<const Tokenizer> choose_tokenizer(std::string wanted, const LoadedModel& loaded) {
  if (wanted.empty()) wanted = tokenizer_of(loaded.checkpoint);
  if (wanted.empty())
    throw ConfigError(loaded.checkpoint.string() +
                      ": the checkpoint does not tell its tokenizer; give one with --tokenizer (bytes, or a .model file)");
  auto tokenizer = make_tokenizer(wanted);
  if (tokenizer->vocab_size() > loaded.config().vocab)
    throw ConfigError(fmt::format("--tokenizer {}: has {} tokens, the model knows {}; give the one it was trained with", wanted,
                                  tokenizer->vocab_size(), loaded.config().vocab));
  return tokenizer;
}

void generate_text(GenerateOptions options, Group& world) {
  agree(world, "sampling checked", [&] { check_sampling(options.sampling); });
  LoadedModel loaded = load_model(options.checkpoint, options.device, options.layout, InferenceUse::generation, 0, world);
  const auto tokenizer = agree(world, "tokenizer read", [&] { return choose_tokenizer(options.tokenizer, loaded); });
  const std::vector<int32_t> prompt = tokenizer->encode(options.prompt);
  agree(world, "prompt read", [&] { check_prompt(prompt); });
  options.sampling.stop = tokenizer->end_of_text();
  options.sampling.vocab = tokenizer->vocab_size();
  Context ctx = loaded.context();
  const bool prints = world.rank() == 0;
  // Bytes of one token may be part of a character: they are written as they come.
  const auto print = [&](int32_t token) {
    if (!prints) return;
    const std::string text = tokenizer->decode(std::span(&token, 1));
    std::fwrite(text.data(), 1, text.size(), stdout);
    std::fflush(stdout);
  };
  if (prints) std::fwrite(options.prompt.data(), 1, options.prompt.size(), stdout);
  generate(ctx, *loaded.model, prompt, options.sampling, print);
  if (prints) std::fputc('\n', stdout);
  print_notes(loaded.engine->backend(), world);
}

}  // namespace

void add_generate_command(CLI::App& app) {
  auto options = std::make_shared<GenerateOptions>();
  SamplingConfig& s = options->sampling;
  CLI::App* command = app.add_subcommand("generate", "Continues a text with a trained model");
  command->add_option("CHECKPOINT", options->checkpoint, "A checkpoint, or a run's folder")->required();
  command->add_option("--prompt", options->prompt, "The text to continue; by default a line break");
  command->add_option("--tokens", s.tokens, "Tokens to make at most")->capture_default_str();
  command->add_option("--temperature", s.temperature, "Below 1 safer, above 1 wilder; 0: always the likeliest")
      ->capture_default_str();
  command->add_option("--top-k", s.top_k, "Draw from the k likeliest tokens; 0: all")->capture_default_str();
  command->add_option("--top-p", s.top_p, "Draw from the likeliest tokens of this total probability")->capture_default_str();
  command->add_option("--seed", s.seed, "The same seed gives the same text")
      ->check(at_least_option(0))
      ->capture_default_str();
  command->add_option("--tokenizer", options->tokenizer, "bytes, or a sentencepiece .model; by default the checkpoint's");
  add_device_options(*command, options->device);
  add_layout_options(*command, options->layout);
  command->footer("Example:\n  trireme generate runs/char --prompt 'In the beginning' --temperature 0.8 --top-k 50 --seed 1\n"
                  "  mpirun -n 2 trireme generate runs/gpt2 --tensor 2");
  command->callback([options] { run_world({}, [&](Group& world) { generate_text(*options, world); }); });
}

}  // namespace trireme
