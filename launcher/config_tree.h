// YAML text as a small tree in which every node knows its place ("gpt.yaml:12", or the --set it came from),
// with aliases expanded and duplicate keys refused. The config reader works on this and never sees the YAML
// library.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace trireme {

struct ConfigNode {
  enum class Kind { null, scalar, list, map };

  Kind kind = Kind::null;
  std::string place;    // for messages
  std::string key;      // when the parent is a map
  std::string text;     // of a scalar
  bool quoted = false;  // a scalar in quotes: never a number or a boolean
  std::vector<ConfigNode> children;

  const ConfigNode* find(std::string_view child_key) const;
  /// What an error calls it: "the list [...]", "1.5", "nothing".
  std::string summary() const;
};

/// ConfigError when `text` is not one YAML document with a map (or nothing) on top.
ConfigNode parse_config_tree(const std::string& text, const std::string& source_name);

/// Applies one --set, "a.b=value": puts the value, parsed as YAML, in the place of what the tree holds there.
void set_in_tree(ConfigNode& root, const std::string& assignment);

}  // namespace trireme
