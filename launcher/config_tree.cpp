#include "launcher/config_tree.h"

#include <fmt/format.h>
#include <yaml-cpp/yaml.h>

#include <algorithm>

#include "core/error.h"

namespace trireme {
namespace {

constexpr int kMaxDepth = 16;
constexpr int kMaxNodes = 100'000;  // aliases of aliases could otherwise fill the memory

/// Turns the YAML library's nodes into ours. `place` is fixed for an override, and file:line otherwise.
class TreeBuilder {
 public:
  TreeBuilder(std::string source, bool with_lines) : source_(std::move(source)), with_lines_(with_lines) {}

  std::string place(const YAML::Mark& mark) const {
    return with_lines_ && mark.line >= 0 ? fmt::format("{}:{}", source_, mark.line + 1) : source_;
  }

  ConfigNode build(const YAML::Node& from, int depth = 0) {
    ConfigNode node;
    node.place = place(from.Mark());
    if (depth > kMaxDepth)
      throw ConfigError(fmt::format("{}: nested more than {} deep", node.place, kMaxDepth));
    if (++num_nodes_ > kMaxNodes)
      throw ConfigError(fmt::format("{}: more than {} values", node.place, kMaxNodes));
    switch (from.Type()) {
      case YAML::NodeType::Undefined:
      case YAML::NodeType::Null:
        break;
      case YAML::NodeType::Scalar:
        node.kind = ConfigNode::Kind::scalar;
        node.text = from.Scalar();
        node.quoted = from.Tag() == "!";
        break;
      case YAML::NodeType::Sequence:
        node.kind = ConfigNode::Kind::list;
        for (const YAML::Node& item : from) node.children.push_back(build(item, depth + 1));
        break;
      case YAML::NodeType::Map:
        node.kind = ConfigNode::Kind::map;
        for (const auto& entry : from) add_entry(node, entry.first, build(entry.second, depth + 1));
        break;
    }
    return node;
  }

 private:
  void add_entry(ConfigNode& map, const YAML::Node& key, ConfigNode value) {
    const std::string key_place = place(key.Mark());
    if (!key.IsScalar()) throw ConfigError(key_place + ": a key must be a word");
    if (const ConfigNode* earlier = map.find(key.Scalar()))
      throw ConfigError(fmt::format("{}: {} is given a second time (first at {}); keep one", key_place,
                                    key.Scalar(), earlier->place));
    value.key = key.Scalar();
    value.place = key_place;
    map.children.push_back(std::move(value));
  }

  std::string source_;
  bool with_lines_;
  int num_nodes_ = 0;
};

ConfigNode parse(const std::string& text, TreeBuilder builder) {
  try {
    const std::vector<YAML::Node> documents = YAML::LoadAll(text);
    if (documents.size() > 1)
      throw ConfigError(builder.place(documents[1].Mark()) +
                        ": a second YAML document; a config is one document");
    return documents.empty() ? builder.build(YAML::Node()) : builder.build(documents[0]);
  } catch (const YAML::Exception& e) {
    throw ConfigError(fmt::format("{}: not valid YAML: {}", builder.place(e.mark), e.msg));
  }
}

ConfigNode& find_or_add(ConfigNode& map, std::string_view key) {
  for (ConfigNode& child : map.children)
    if (child.key == key) return child;
  ConfigNode& added = map.children.emplace_back();
  added.key = key;
  return added;
}

}  // namespace

const ConfigNode* ConfigNode::find(std::string_view child_key) const {
  if (kind != Kind::map) return nullptr;
  const auto found =
      std::find_if(children.begin(), children.end(), [&](const auto& c) { return c.key == child_key; });
  return found == children.end() ? nullptr : &*found;
}

std::string ConfigNode::summary() const {
  switch (kind) {
    case Kind::null:
      return "nothing";
    case Kind::scalar:
      return quoted || text.empty() ? fmt::format("the text \"{}\"", text) : text;
    case Kind::list:
      return fmt::format("a list of {}", children.size());
    case Kind::map:
      return "a map";
  }
  return "";
}

ConfigNode parse_config_tree(const std::string& text, const std::string& source_name) {
  ConfigNode root = parse(text, TreeBuilder(source_name, true));
  if (root.kind == ConfigNode::Kind::null) root.kind = ConfigNode::Kind::map;
  if (root.kind != ConfigNode::Kind::map)
    throw ConfigError(
        fmt::format("{}: wanted sections such as `model:` and `data:`, got {}", root.place, root.summary()));
  return root;
}

void set_in_tree(ConfigNode& root, const std::string& assignment) {
  const std::string place = "--set " + assignment;
  const size_t equals = assignment.find('=');
  if (equals == std::string::npos || equals == 0)
    throw ConfigError(place + ": wanted section.key=value, for example --set optim.lr=1e-4");
  ConfigNode* node = &root;
  std::string_view path = std::string_view(assignment).substr(0, equals);
  while (true) {
    const size_t dot = path.find('.');
    const std::string_view key = path.substr(0, dot);
    if (node->kind == ConfigNode::Kind::null) node->kind = ConfigNode::Kind::map;
    if (node->kind != ConfigNode::Kind::map)
      throw ConfigError(fmt::format("{}: {} is {} and has no key {}; set it as a whole", place, node->key,
                                    node->summary(), key));
    node = &find_or_add(*node, key);
    node->place = place;
    if (dot == std::string_view::npos) break;
    path.remove_prefix(dot + 1);
  }
  ConfigNode value = parse(assignment.substr(equals + 1), TreeBuilder(place, false));
  value.key = std::move(node->key);
  *node = std::move(value);
}

}  // namespace trireme
