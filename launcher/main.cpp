// The `trireme` command: its subcommands, and the one place where exceptions are caught and turned into an
// exit status: 0 done, 1 failed, 2 wrong use.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <exception>
#include <new>

#include "core/error.h"
#include "launcher/commands.h"

namespace {

constexpr int kFailed = 1;
constexpr int kWrongUse = 2;

void add_commands(CLI::App& app) {
  using namespace trireme;
  add_train_command(app);
  add_launch_command(app);
  add_prepare_command(app);
  add_generate_command(app);
  add_eval_command(app);
  add_inspect_command(app);
  add_import_command(app);
  add_export_command(app);
  add_bench_command(app);
  add_config_reference_command(app);
}

int report(int status, const std::string& message) {
  fmt::print(stderr, "trireme: error: {}\n", message);
  return status;
}

int run(int argc, char** argv) {
  CLI::App app{"Trains neural networks on many machines and on one.", "trireme"};
  app.footer(
      "Example:\n  trireme train configs/char.yaml --set optim.lr=1e-3\n"
      "`trireme COMMAND --help` tells more. docs/commands.md and docs/config.md tell all.");
  app.set_version_flag("--version", "trireme " TRIREME_VERSION);
  app.require_subcommand(1);
  add_commands(app);
  try {
    app.parse(argc, argv);
    return 0;
  } catch (const CLI::RuntimeError& e) {  // a command's own exit status; its message is already out
    return e.get_exit_code();
  } catch (const CLI::ParseError& e) {
    if (e.get_exit_code() == 0) return app.exit(e);  // --help, --version
    return report(kWrongUse, fmt::format("{}; see `trireme --help`", e.what()));
  } catch (const trireme::ConfigError& e) {
    return report(kWrongUse, e.what());
  } catch (const std::bad_alloc&) {
    return report(kFailed, "out of memory");
  } catch (const std::exception& e) {
    return report(kFailed, e.what());
  }
}

}  // namespace

int main(int argc, char** argv) {
  return run(argc, argv);
}
