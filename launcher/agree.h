// What the ranks of a run find wrong with what the user gave, told once.
//
// Rank 0 tells it before any rank ends: the launcher ends all with the first one.
#pragma once

#include <optional>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "comm/world.h"

namespace trireme {

/// Tells the user, on standard error.
void tell_error(const std::string& message);

/// Rank `root`'s text on all ranks. Collective.
std::string share_text(std::string text, int root, Group& group, const std::string& label);

/// Each rank's text, on all ranks. Collective.
std::vector<std::string> gather_texts(const std::string& text, Group& group, const std::string& label);

/// Nothing when no rank has a `problem` (""); else rank 0 tells that of the first one that has any, and then all throw it as
/// AlreadyTold. A single rank throws a ConfigError. Collective.
void refuse_together(const std::string& problem, Group& world, const std::string& label);

/// What `work` gives, in which no other rank takes part. When it throws ConfigError on some rank, all refuse_together().
/// Collective.
template <class Work>
auto agree(Group& world, const std::string& label, Work&& work) {
  using Result = std::invoke_result_t<Work>;
  std::conditional_t<std::is_void_v<Result>, std::optional<char>, std::optional<Result>> result;
  std::string problem;
  try {
    if constexpr (std::is_void_v<Result>)
      work();
    else
      result.emplace(work());
  } catch (const ConfigError& error) {
    problem = error.what();
  }
  refuse_together(problem, world, label);
  if constexpr (!std::is_void_v<Result>) return std::move(*result);
}

}  // namespace trireme
