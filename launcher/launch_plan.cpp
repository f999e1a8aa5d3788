#include "launcher/launch_plan.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/error.h"

namespace trireme {
namespace {

std::string shell_quote(const std::string& text) {
  const auto is_plain = [](char c) {
    return std::isalnum(static_cast<unsigned char>(c)) ||
           std::string_view("_-./:=,+@%").find(c) != std::string_view::npos;
  };
  if (!text.empty() && std::all_of(text.begin(), text.end(), is_plain)) return text;
  std::string quoted = "'";
  for (char c : text) quoted += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return quoted + "'";
}

void append(std::vector<std::string>& to, std::vector<std::string> words) {
  std::move(words.begin(), words.end(), std::back_inserter(to));
}

/// mpirun and its options, for `ranks` ranks of `threads` threads.
std::vector<std::string> mpirun_words(int ranks, int threads, const Machine& machine,
                                      std::vector<std::string>& notes) {
  std::vector<std::string> words{machine.mpirun->string()};
  if (machine.is_root) {
    words.push_back("--allow-run-as-root");
    notes.push_back("running as root: mpirun is told to allow it");
  }
  append(words, {"-n", std::to_string(ranks), "--host", fmt::format("localhost:{}", ranks)});
  const int used = ranks * threads;
  if (machine.may_bind && used <= machine.cores && used + ranks > machine.cores) {
    append(words, {"--map-by", fmt::format("slot:PE={}", threads), "--bind-to", "core"});
  } else {
    append(words, {"--bind-to", "none"});
  }
  if (ranks > machine.cores) append(words, {"--mca", "mpi_yield_when_idle", "1"});
  return words;
}

}  // namespace

LaunchPlan plan_launch(const LaunchRequest& request, const Machine& machine) {
  if (request.ranks > 1 && !machine.mpirun)
    throw ConfigError(
        "launch: mpirun is not in PATH; install it (Debian: apt-get install openmpi-bin), or use one rank: "
        "-n 1");
  const int threads = request.threads > 0 ? request.threads : std::max(1, machine.cores / request.ranks);
  LaunchPlan plan;
  plan.ranks = request.ranks;
  plan.environment = {{"OMP_NUM_THREADS", std::to_string(threads)},
                      {"TRIREME_TERMINAL", machine.has_terminal ? "1" : "0"}};
  if (machine.terminal_columns > 0)
    plan.environment.emplace_back("COLUMNS", std::to_string(machine.terminal_columns));
  if (request.ranks * threads > machine.cores) {
    plan.environment.emplace_back("OMP_WAIT_POLICY", "passive");
    plan.notes.push_back(fmt::format("{} ranks x {} threads share {} cores: slower than one thread a core",
                                     request.ranks, threads, machine.cores));
  }
  if (request.ranks > 1) plan.command = mpirun_words(request.ranks, threads, machine, plan.notes);
  append(plan.command, {machine.executable.string(), "train"});
  append(plan.command, request.train_arguments);
  return plan;
}

std::string to_shell_line(const LaunchPlan& plan) {
  std::string line;
  for (const auto& [name, value] : plan.environment) line += name + '=' + shell_quote(value) + ' ';
  for (const std::string& word : plan.command) line += shell_quote(word) + ' ';
  line.pop_back();
  return line;
}

}  // namespace trireme
