// Rule: which values a config key takes beyond its type, and how error messages and the reference put that in
// words.
#pragma once

#include <optional>
#include <string>
#include <vector>

namespace trireme {

struct Rule {
  std::vector<std::string> choices;  // of a text; none: any. "" may be one: then the key may be left empty
  std::optional<double> at_least, above, at_most, below;
  std::string zero_word;  // a word that stands for 0, such as "auto"
  std::string note;       // added to the error when the value is refused
};

inline Rule any() {
  return {};
}
inline Rule one_of(std::vector<std::string> choices, std::string note = "") {
  Rule rule;
  rule.choices = std::move(choices);
  rule.note = std::move(note);
  return rule;
}
Rule at_least(double low);
Rule above(double low);
Rule within(double low, double high);
Rule between(double low, double high);  // neither of them
Rule half_open(double low, double end);  // at least `low` and below `end`
Rule auto_or_at_least(double low);

/// False for values that are not finite, too.
bool in_range(double value, const Rule& rule);

/// "a whole number of at least 1, or auto".
std::string wanted_number(bool whole, const Rule& rule);
/// "f32 or bf16".
std::string wanted_choice(const Rule& rule);

}  // namespace trireme
