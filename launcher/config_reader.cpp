// Reading: a visitor that fills the config's structs from a ConfigNode tree and refuses whatever it does not
// know.
#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <fstream>
#include <iterator>
#include <limits>

#include "core/error.h"
#include "core/text.h"
#include "launcher/config.h"
#include "launcher/config_fields.h"
#include "launcher/config_rule.h"
#include "launcher/config_tree.h"

namespace trireme {
namespace {

/// "gpt.yaml:12: optim.lr: wanted a number above 0, got -1".
[[noreturn]] void refuse(const ConfigNode& node, const std::string& path, const std::string& wanted,
                         const Rule& rule) {
  throw ConfigError(fmt::format("{}: {}: wanted {}, got {}{}{}", node.place, path, wanted, node.summary(),
                                rule.note.empty() ? "" : "; ", rule.note));
}

/// The number that all of `text` is, if it is one.
template <class T>
std::optional<T> parse_number(const std::string& text) {
  T value{};
  const char* end = text.data() + text.size();
  const auto result = std::from_chars(text.data(), end, value);
  if (result.ec != std::errc() || result.ptr != end) return std::nullopt;
  return value;
}

/// A whole number that no T holds.
template <class T>
bool is_beyond(const std::string& text) {
  T value{};
  return std::from_chars(text.data(), text.data() + text.size(), value).ec == std::errc::result_out_of_range;
}

bool is_plain(const ConfigNode& node) {
  return node.kind == ConfigNode::Kind::scalar && !node.quoted;
}

template <class T>
void read_number(const ConfigNode& node, const std::string& path, T& value, const Rule& rule) {
  if (is_plain(node) && !rule.zero_word.empty() && node.text == rule.zero_word) {
    value = 0;
    return;
  }
  const auto number = is_plain(node) ? parse_number<T>(node.text) : std::nullopt;
  if (std::is_integral_v<T> && is_plain(node) && is_beyond<T>(node.text))
    refuse(node, path, fmt::format("a whole number of no more than {} digits", std::numeric_limits<T>::digits10), rule);
  if (!number || !in_range(static_cast<double>(*number), rule))
    refuse(node, path, wanted_number(std::is_integral_v<T>, rule), rule);
  value = *number;
}

void read_value(const ConfigNode& node, const std::string& path, int64_t& value, const Rule& rule) {
  read_number(node, path, value, rule);
}
void read_value(const ConfigNode& node, const std::string& path, int& value, const Rule& rule) {
  read_number(node, path, value, rule);
}
void read_value(const ConfigNode& node, const std::string& path, double& value, const Rule& rule) {
  read_number(node, path, value, rule);
}

void read_value(const ConfigNode& node, const std::string& path, bool& value, const Rule& rule) {
  if (!is_plain(node) || (node.text != "true" && node.text != "false"))
    refuse(node, path, "true or false", rule);
  value = node.text == "true";
}

void read_value(const ConfigNode& node, const std::string& path, std::string& value, const Rule& rule) {
  if (node.kind != ConfigNode::Kind::scalar) refuse(node, path, "a text", rule);
  const auto& choices = rule.choices;
  if (!choices.empty() && std::find(choices.begin(), choices.end(), node.text) == choices.end()) {
    const std::string near = nearest_name(node.text, choices);
    const bool suggest = rule.note.empty() && !near.empty();
    refuse(node, path, wanted_choice(rule),
           suggest ? one_of({}, fmt::format("did you mean {}?", near)) : rule);
  }
  value = node.text;
}

template <class T>
void read_value(const ConfigNode& node, const std::string& path, std::array<T, 2>& value, const Rule& rule) {
  if (node.kind != ConfigNode::Kind::list || node.children.size() != value.size())
    refuse(node, path, std::is_same_v<T, double> ? "a list of two numbers, such as [0.9, 0.95]" : "a list of two whole numbers, such as [20, 23]", rule);
  for (size_t i = 0; i < value.size(); ++i) read_value(node.children[i], path, value[i], rule);
}

void read_value(const ConfigNode& node, const std::string& path, std::vector<std::string>& value,
                const Rule& rule) {
  if (node.kind != ConfigNode::Kind::list) refuse(node, path, "a list of texts, such as [bias, norm]", rule);
  value.clear();
  for (const ConfigNode& item : node.children) read_value(item, path, value.emplace_back(), rule);
}

void read_value(const ConfigNode& node, const std::string& path, std::vector<int64_t>& value, const Rule& rule) {
  if (node.kind != ConfigNode::Kind::list) refuse(node, path, "a list of whole numbers, such as [7, 8, 8, 7]", rule);
  value.clear();
  for (const ConfigNode& item : node.children) read_value(item, path, value.emplace_back(), rule);
}

void read_value(const ConfigNode& node, const std::string& path, std::vector<DataSource>& value,
                const Rule& rule);

/// Finds where a key belongs: "schedule" -> "optim.schedule".
class KeyFinder {
 public:
  explicit KeyFinder(const std::string& wanted) : wanted_(wanted) {}

  template <class T>
  void field(const char* key, T&, const char*, const Rule&) {
    if (found_.empty() && wanted_ == key) found_ = path_ + key;
  }
  template <class T>
  void section(const char* key, T& value, const char* help) {
    field(key, value, help, any());
    const std::string outer = path_;
    path_ += key + std::string(".");
    describe(*this, value);
    path_ = outer;
  }
  const std::string& found() const { return found_; }

 private:
  std::string wanted_, path_, found_;
};

std::string full_name_of(const std::string& key) {
  Config config;
  KeyFinder finder(key);
  describe(finder, config);
  return finder.found();
}

/// Fills one struct from one map.
class Reader {
 public:
  /// `path` is the map's full name with a dot at its end, or "" for the whole file.
  Reader(const ConfigNode& node, std::string path) : node_(node), path_(std::move(path)) {}

  template <class T>
  void field(const char* key, T& value, const char*, const Rule& rule) {
    keys_.push_back(key);
    if (const ConfigNode* child = node_.find(key)) read_value(*child, path_ + key, value, rule);
  }

  template <class T>
  void section(const char* key, T& value, const char* help) {
    keys_.push_back(key);
    if (const ConfigNode* child = node_.find(key)) read_map(*child, path_ + key, value, help);
  }

  template <class T>
  static void read_map(const ConfigNode& node, const std::string& path, T& value, const char* help) {
    if (node.kind == ConfigNode::Kind::null) return;  // `optim:` with every key commented out
    if (node.kind != ConfigNode::Kind::map) refuse(node, path, fmt::format("a map of keys ({})", help), {});
    if constexpr (std::is_same_v<T, ModelConfig>) take_preset(node, value);
    Reader reader(node, path + ".");
    describe(reader, value);
    reader.refuse_unknown(path);
  }

  /// `name` is the map's full name, or "" for the whole file.
  void refuse_unknown(const std::string& name) const {
    for (const ConfigNode& child : node_.children) {
      if (std::find(keys_.begin(), keys_.end(), child.key) != keys_.end()) continue;
      std::string meant = full_name_of(child.key);
      if (meant.empty()) meant = nearest_name(child.key, keys_);
      throw ConfigError(fmt::format("{}: {}{} is not a {}{}; {}", child.place, path_, child.key,
                                    name.empty() ? "section" : "key of ", name,
                                    meant.empty() ? fmt::format("known are {}", fmt::join(keys_, ", "))
                                                  : fmt::format("did you mean {}?", meant)));
    }
  }

 private:
  /// Applies a preset that exists; that it does is checked when the key itself is read.
  static void take_preset(const ConfigNode& node, ModelConfig& model) {
    const ConfigNode* preset = node.find("preset");
    const auto names = preset_names();
    if (preset && std::find(names.begin(), names.end(), preset->text) != names.end())
      apply_preset(preset->text, model);
  }

  const ConfigNode& node_;
  std::string path_;
  std::vector<std::string> keys_;
};

void read_value(const ConfigNode& node, const std::string& path, std::vector<DataSource>& value,
                const Rule& rule) {
  value.clear();
  if (node.kind == ConfigNode::Kind::scalar) {
    if (!node.text.empty()) value.push_back({.files = node.text});
  } else if (node.kind == ConfigNode::Kind::list) {
    for (const ConfigNode& item : node.children) {
      DataSource& source = value.emplace_back();
      if (item.kind == ConfigNode::Kind::scalar) {
        read_value(item, path, source.files, rule);
      } else {
        Reader::read_map(item, path, source, "files and weight");
      }
      if (source.files.empty()) refuse(item, path, "a glob, or {files: GLOB, weight: SHARE}", rule);
    }
  } else {
    refuse(node, path, "a glob, or a list of globs or of {files: GLOB, weight: SHARE}", rule);
  }
}

void check_profile(const ProfileConfig& profile) {
  const auto [first, last] = profile.steps;
  if ((first != 0 || last != 0) && (first < 1 || last < first))
    throw ConfigError(fmt::format("run.profile.steps: wanted the first step, from 1, and the last, or [0, 0] for none, got [{}, {}]",
                                  first, last));
}

}  // namespace

Config parse_config(const std::string& text, const std::string& source_name,
                    std::span<const std::string> overrides) {
  ConfigNode tree = parse_config_tree(text, source_name);
  for (const std::string& assignment : overrides) set_in_tree(tree, assignment);
  Config config;
  Reader reader(tree, "");
  describe(reader, config);
  reader.refuse_unknown("");
  check_profile(config.run.profile);
  return config;
}

Config load_config(const std::filesystem::path& file, std::span<const std::string> overrides) {
  if (std::filesystem::is_directory(file))
    throw ConfigError(fmt::format("{} is a folder; wanted an experiment file (YAML)", file.string()));
  std::ifstream in(file, std::ios::binary);
  if (!in)
    throw ConfigError(
        fmt::format("{}: {}; wanted an experiment file (YAML)", file.string(), std::strerror(errno)));
  return parse_config(std::string(std::istreambuf_iterator<char>(in), {}), file.string(), overrides);
}

}  // namespace trireme
