// The `trireme` command: its subcommands, and the one place where exceptions are caught and turned into an
// exit status: 0 done, 1 failed, 2 wrong use.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <csignal>
#include <cstdio>
#include <exception>
#include <new>
#include <string>
#include <vector>

#include "comm/device_environment.h"
#include "core/error.h"
#include "core/text.h"
#include "launcher/agree.h"
#include "launcher/commands.h"
#include "launcher/crash_report.h"

namespace {

constexpr int kFailed = 1;
constexpr int kWrongUse = 2;

void add_commands(CLI::App& app) {
  using namespace trireme;
  add_train_command(app);
  add_launch_command(app);
  add_plan_command(app);
  add_prepare_command(app);
  add_generate_command(app);
  add_eval_command(app);
  add_inspect_command(app);
  add_import_command(app);
  add_export_command(app);
  add_bench_command(app);
  add_config_reference_command(app);
}

/// A first argument that is no command: says which is the nearest. (CLI11 would only say that one is
/// required.)
void check_command(const CLI::App& app, const std::string& name) {
  std::vector<std::string> names;
  for (const CLI::App* command : app.get_subcommands([](const CLI::App*) { return true; }))
    names.push_back(command->get_name());
  if (name.starts_with('-') || std::find(names.begin(), names.end(), name) != names.end()) return;
  const std::string near = trireme::nearest_name(name, names);
  throw trireme::ConfigError(fmt::format(
      "{} is not a command; {}", name, near.empty() ? "see `trireme --help`" : "did you mean " + near + "?"));
}

int report(int status, const std::string& message) {
  trireme::tell_error(message);
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
    if (argc > 1) check_command(app, argv[1]);
    app.parse(argc, argv);
    return std::fflush(stdout) == 0 && std::ferror(stdout) == 0
               ? 0
               : report(kFailed, "standard output cannot be written");
  } catch (const CLI::RuntimeError& e) {  // a command's own exit status; its message is already out
    return e.get_exit_code();
  } catch (const CLI::ParseError& e) {
    if (e.get_exit_code() == 0) return app.exit(e);  // --help, --version
    const auto command = app.get_subcommands();
    return report(kWrongUse, fmt::format("{}; see `trireme {}--help`", e.what(), command.empty() ? "" : command[0]->get_name() + " "));
  } catch (const trireme::AlreadyTold&) {
    return kWrongUse;
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
  trireme::set_device_environment();
  std::signal(SIGXFSZ, SIG_IGN);  // a file that gets larger than it may: the write says so
  trireme::report_crashes(argv[0]);
  return run(argc, argv);
}
