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

}  // namespace

std::optional<std::pair<std::string, std::string>> first_difference(const std::string& a, const std::string& b) {
  if (a == b) return std::nullopt;
  std::istringstream of_a(a), of_b(b);
  std::string first, second;
  do {
    if (!std::getline(of_a, first)) first.clear();
    if (!std::getline(of_b, second)) second.clear();
  } while (first == second && (of_a || of_b));
  const auto trimmed = [](const std::string& line) { return line.substr(std::min(line.size(), line.find_first_not_of(' '))); };
  return std::pair(trimmed(first), trimmed(second));
}

void check_same_run(const RunPlan& plan, Group& world) {
  if (world.size() == 1) return;
  const std::string config = text_of(plan.config), schedule = text_of(plan.layout.schedule);
  std::string problem;
  if (const auto found = first_difference(share_text(config, 0, world, "experiment"), config))
    problem = fmt::format("it has another experiment: `{}` where rank 0 has `{}`; give all ranks the same file and the same --set",
                          found->second, found->first);
  if (share_text(schedule, 0, world, "schedule") != schedule && problem.empty())
    problem = fmt::format("it has another schedule in {}; give all hosts the same file", plan.config.parallel.schedule);
  refuse_together(problem, world, "experiments compared");
}

}  // namespace trireme
