#include "launcher/config_rule.h"

#include <fmt/format.h>

#include <cmath>

namespace trireme {

Rule at_least(double low) {
  Rule rule;
  rule.at_least = low;
  return rule;
}

Rule above(double low) {
  Rule rule;
  rule.above = low;
  return rule;
}

Rule within(double low, double high) {
  Rule rule = at_least(low);
  rule.at_most = high;
  return rule;
}

Rule between(double low, double high) {
  Rule rule = above(low);
  rule.below = high;
  return rule;
}

Rule half_open(double low, double end) {
  Rule rule = at_least(low);
  rule.below = end;
  return rule;
}

Rule auto_or_at_least(double low) {
  Rule rule = at_least(low);
  rule.zero_word = "auto";
  return rule;
}

bool in_range(double value, const Rule& rule) {
  return std::isfinite(value) && !(rule.at_least && value < *rule.at_least) &&
         !(rule.above && value <= *rule.above) && !(rule.at_most && value > *rule.at_most) &&
         !(rule.below && value >= *rule.below);
}

std::string wanted_number(bool whole, const Rule& rule) {
  std::vector<std::string> limits;
  if (rule.at_least) limits.push_back(fmt::format("of at least {}", *rule.at_least));
  if (rule.above) limits.push_back(fmt::format("above {}", *rule.above));
  if (rule.at_most) limits.push_back(fmt::format("at most {}", *rule.at_most));
  if (rule.below) limits.push_back(fmt::format("below {}", *rule.below));
  std::string text = whole ? "a whole number" : "a number";
  if (!limits.empty()) text += fmt::format(" {}", fmt::join(limits, " and "));
  if (!rule.zero_word.empty()) text += ", or " + rule.zero_word;
  return text;
}

std::string wanted_choice(const Rule& rule) {
  std::string text;
  for (const std::string& choice : rule.choices) {
    if (choice.empty()) continue;
    if (!text.empty()) text += &choice == &rule.choices.back() ? " or " : ", ";
    text += choice;
  }
  return text;
}

}  // namespace trireme
