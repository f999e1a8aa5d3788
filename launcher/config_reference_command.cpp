// trireme config-reference: prints docs/config.md. For who changes the config structs; not shown by --help.
#include <CLI/CLI.hpp>
#include <iostream>

#include "launcher/commands.h"
#include "launcher/config.h"

namespace trireme {

void add_config_reference_command(CLI::App& app) {
  CLI::App* command =
      app.add_subcommand("config-reference", "Prints the reference of all config keys (docs/config.md)");
  command->group("");  // hidden
  command->footer("Example:\n  trireme config-reference > docs/config.md");
  command->callback([] { std::cout << config_reference() << std::flush; });
}

}  // namespace trireme
