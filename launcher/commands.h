// The subcommands of `trireme`. Each function adds one to the program, with its options, an example and a
// callback that runs it. A callback reports failure by throwing: ConfigError for wrong use (exit status 2),
// any other exception for a failure (1), CLI::RuntimeError for a given exit status without a message.
#pragma once

namespace CLI {
class App;
}

namespace trireme {

void add_train_command(CLI::App& app);
void add_launch_command(CLI::App& app);
void add_prepare_command(CLI::App& app);
void add_generate_command(CLI::App& app);
void add_eval_command(CLI::App& app);
void add_inspect_command(CLI::App& app);
void add_import_command(CLI::App& app);
void add_export_command(CLI::App& app);
void add_bench_command(CLI::App& app);
void add_plan_command(CLI::App& app);
void add_config_reference_command(CLI::App& app);

}  // namespace trireme
