// `trireme import` and `trireme export`: Hugging Face's GPT-2 to a checkpoint, and a checkpoint to Hugging
// Face's.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <memory>

#include "launcher/commands.h"
#include "launcher/loaded_model.h"
#include "launcher/option_check.h"
#include "models/hf_gpt2.h"

namespace trireme {
namespace {

struct ImportOptions {
  std::string folder;
  std::string out;
  int64_t vocab = 0;
};

struct ExportOptions {
  std::string checkpoint;
  std::string out;
  std::string dtype = "f32";
};

void import_model(const ImportOptions& options) {
  if (!std::filesystem::exists(std::filesystem::path(options.folder) / "config.json"))
    throw ConfigError(options.folder + ": no config.json there; wanted the folder of a Hugging Face GPT-2");
  const ModelConfig c = import_hf_gpt2(options.folder, options.out, options.vocab);
  fmt::print("{}: {} layers, {} heads, width {}, context {}, vocabulary {} in {} rows\n", options.out,
             c.layers, c.heads, c.width, c.context, c.true_vocab, c.vocab);
  fmt::print("train from it:  trireme train CONFIG --set checkpoint.init_from={} --set model.vocab={}\n", options.out, c.vocab);
}

void export_model(const ExportOptions& options) {
  const std::filesystem::path checkpoint = find_checkpoint(options.checkpoint);
  export_hf_gpt2(checkpoint, options.out, parse_dtype(options.dtype));
  fmt::print("{}: config.json and model.safetensors of {}\n", options.out, checkpoint.string());
  fmt::print("load it:  transformers.GPT2LMHeadModel.from_pretrained(\"{}\")\n", options.out);
}

}  // namespace

void add_import_command(CLI::App& app) {
  auto options = std::make_shared<ImportOptions>();
  CLI::App* command = app.add_subcommand("import", "Makes a checkpoint of a Hugging Face GPT-2");
  command->add_option("DIR", options->folder, "Folder with config.json and model.safetensors (or its index)")
      ->required();
  command->add_option("--out", options->out, "The checkpoint's folder")->required();
  command
      ->add_option(
          "--vocab", options->vocab,
          "Rows of the embedding, the ones after the model's own zero (50304 is fast for GPT-2); 0: no more")
      ->check(at_least_option(0));
  command->footer("Example:\n  trireme import models/gpt2 --out checkpoints/gpt2 --vocab 50304");
  command->callback([options] { import_model(*options); });
}

void add_export_command(CLI::App& app) {
  auto options = std::make_shared<ExportOptions>();
  CLI::App* command = app.add_subcommand("export", "Makes a Hugging Face GPT-2 of a checkpoint");
  command->add_option("CHECKPOINT", options->checkpoint, "A checkpoint, a folder of them, or a run's folder")
      ->required();
  command->add_option("--out", options->out, "Folder for config.json and model.safetensors")->required();
  command->add_option("--dtype", options->dtype, "Type of the weights: f32, bf16 or f16")
      ->capture_default_str();
  command->footer("Example:\n  trireme export runs/gpt2 --out models/mine");
  command->callback([options] { export_model(*options); });
}

}  // namespace trireme
