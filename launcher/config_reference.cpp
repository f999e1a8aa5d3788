// The reference page: a visitor that puts every key, its default, its values and its help into Markdown
// tables.
#include <fmt/format.h>

#include "launcher/config.h"
#include "launcher/config_fields.h"

namespace trireme {
namespace {

constexpr const char* kIntroduction = R"(# Configuration reference

<!-- Written by `trireme config-reference > docs/config.md` from launcher/config_fields.h; edit there. -->

An experiment is one YAML file of the sections below. Every key may be left out. Reading is strict: an unknown or
misspelt key, a wrong type or a value out of range ends the command with the file, the line and the way out.
`--set section.key=VALUE` (VALUE in YAML, any number of times) replaces a value; there is no other override. Paths
are relative to the current directory. The resolved config is saved with the run.
)";

class Reference {
 public:
  template <class T>
  void field(const char* key, const T& value, const char* help, const Rule& rule) {
    rows_ += fmt::format("| `{}{}` | {} | {} | {} |\n", prefix_, key, values_of(value, rule),
                         default_of(value, rule), help);
  }

  template <class T>
  void section(const char* key, T& value, const char* help) {
    if (!in_section_) {
      in_section_ = true;
      rows_ += fmt::format("\n## {}\n\n{}.\n\n| key | values | default | meaning |\n|---|---|---|---|\n", key,
                           capital(help));
      describe(*this, value);
      in_section_ = false;
    } else {  // a map in a section: its keys follow as `schedule.kind`
      prefix_ = key + std::string(".");
      describe(*this, value);
      prefix_.clear();
    }
  }

  std::string text() const { return kIntroduction + rows_; }

 private:
  static std::string capital(std::string text) {
    text[0] = static_cast<char>(std::toupper(text[0]));
    return text;
  }

  static std::string limits(const Rule& rule) {
    std::string text;
    const auto add = [&](const char* sign, const std::optional<double>& bound) {
      if (bound) text += fmt::format("{}{} {}", text.empty() ? " " : ", ", sign, *bound);
    };
    add("≥", rule.at_least), add(">", rule.above), add("≤", rule.at_most), add("<", rule.below);
    if (!rule.zero_word.empty()) text += fmt::format(", or `{}`", rule.zero_word);
    return text;
  }

  static std::string values_of(int64_t, const Rule& rule) { return "integer" + limits(rule); }
  static std::string values_of(int, const Rule& rule) { return "integer" + limits(rule); }
  static std::string values_of(double, const Rule& rule) { return "number" + limits(rule); }
  static std::string values_of(bool, const Rule&) { return "`true`, `false`"; }
  template <class T>
  static std::string values_of(const std::array<T, 2>&, const Rule& rule) {
    return (std::is_same_v<T, double> ? "two numbers" : "two integers") + limits(rule);
  }
  static std::string values_of(const std::vector<std::string>&, const Rule&) { return "list of texts"; }
  static std::string values_of(const std::vector<int64_t>&, const Rule& rule) { return "list of integers" + limits(rule); }
  static std::string values_of(const std::vector<DataSource>&, const Rule&) { return "glob or list"; }
  static std::string values_of(const std::string&, const Rule& rule) {
    std::vector<std::string> quoted;
    for (const std::string& choice : rule.choices)
      if (!choice.empty()) quoted.push_back('`' + choice + '`');
    return quoted.empty() ? "text" : fmt::format("{}", fmt::join(quoted, ", "));
  }

  template <class T>
  static std::string default_of(const T& value, const Rule& rule) {
    return value == 0 && !rule.zero_word.empty() ? '`' + rule.zero_word + '`' : fmt::format("`{}`", value);
  }
  static std::string default_of(const std::string& value, const Rule&) {
    return value.empty() ? "" : '`' + value + '`';
  }
  template <class T>
  static std::string default_of(const std::array<T, 2>& v, const Rule&) {
    return fmt::format("`[{}, {}]`", v[0], v[1]);
  }
  static std::string default_of(const std::vector<std::string>& v, const Rule&) { return fmt::format("`[{}]`", fmt::join(v, ", ")); }
  static std::string default_of(const std::vector<int64_t>& v, const Rule&) { return fmt::format("`[{}]`", fmt::join(v, ", ")); }
  static std::string default_of(const std::vector<DataSource>&, const Rule&) { return "`[]`"; }

  std::string rows_;
  std::string prefix_;
  bool in_section_ = false;
};

}  // namespace

std::string config_reference() {
  Config defaults;
  Reference reference;
  describe(reference, defaults);
  return reference.text();
}

}  // namespace trireme
