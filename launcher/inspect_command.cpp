// `trireme inspect`: what a file or folder of Trireme's holds.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <memory>
#include <nlohmann/json.hpp>

#include "launcher/commands.h"
#include "launcher/inspect.h"

namespace trireme {
namespace {

struct InspectCommand {
  std::string path;
  bool json = false;
  bool verify = false;
  bool quick = false;

  void run() const {
    const nlohmann::json found = inspect(path, {.values = !quick, .verify = verify});
    // A token may be a part of a UTF-8 character, which JSON cannot hold.
    const auto replace = nlohmann::json::error_handler_t::replace;
    fmt::print("{}", json ? found.dump(1, ' ', false, replace) + "\n" : inspection_text(found));
  }
};

}  // namespace

void add_inspect_command(CLI::App& app) {
  auto options = std::make_shared<InspectCommand>();
  CLI::App* command =
      app.add_subcommand("inspect", "Tells what a checkpoint, shard, tokenizer or config holds");
  command
      ->add_option(
          "PATH", options->path,
          "A checkpoint, a folder of them or a run's, a .safetensors file, a folder that `trireme prepare` made, "
          "a token shard (.bin, .idx), a tokenizer's .model, or an experiment file (.yaml)")
      ->required();
  command->add_flag("--verify", options->verify, "Compares all checksums of checkpoints");
  command->add_flag("--quick", options->quick, "Reads no values: names, shapes and sizes alone");
  command->add_flag("--json", options->json, "Prints one JSON object");
  command->footer("Example:\n  trireme inspect runs/char/step-00000100");
  command->callback([options] { options->run(); });
}

}  // namespace trireme
