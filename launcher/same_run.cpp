#include "launcher/same_run.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <sstream>

#include "launcher/agree.h"

namespace trireme {
namespace {

std::string text_of(Config config) {
  for (auto* sources : {&config.data.train, &config.data.valid})
    for (DataSource& source : *sources) source.files.clear();
  config.data.tokenizer.clear();
  config.run.threads = 0;
  return to_yaml(config);
}

/// A line a rank, a word an action.
std::string text_of(const Schedule& schedule) {
  std::string text;
  for (const auto& actions : schedule.ranks) {
    for (const Action& action : actions) text += to_string(action) + " ";
    text += '\n';
  }
  return text;
}

/// The first line in which `mine` differs from `first`, as "theirs for ours"; nothing when they are equal.
std::optional<std::string> difference(const std::string& first, const std::string& mine) {
  if (first == mine) return std::nullopt;
  std::istringstream a(first), b(mine);
  std::string wanted, found;
  do {
    if (!std::getline(a, wanted)) wanted.clear();
    if (!std::getline(b, found)) found.clear();
  } while (wanted == found && (a || b));
  const auto trimmed = [](const std::string& line) { return line.substr(std::min(line.size(), line.find_first_not_of(' '))); };
  return fmt::format("`{}` where rank 0 has `{}`", trimmed(found), trimmed(wanted));
}

}  // namespace

void check_same_run(const RunPlan& plan, Group& world) {
  if (world.size() == 1) return;
  const std::string config = text_of(plan.config), schedule = text_of(plan.layout.schedule);
  std::string problem;
  if (const auto found = difference(share_text(config, 0, world, "experiment"), config))
    problem = fmt::format("it has another experiment: {}; give all ranks the same file and the same --set", *found);
  if (share_text(schedule, 0, world, "schedule") != schedule && problem.empty())
    problem = fmt::format("it has another schedule in {}; give all hosts the same file", plan.config.parallel.schedule);
  refuse_together(problem, world, "experiments compared");
}

}  // namespace trireme
