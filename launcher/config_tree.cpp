#include "launcher/config_tree.h"

#include <fmt/format.h>
#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <map>
#include <optional>
#include <sstream>

#include "core/data/utf8.h"
#include "core/error.h"

namespace trireme {
namespace {

constexpr size_t kMaxDepth = 16;
constexpr size_t kMaxNodes = 100'000;  // aliases of aliases could otherwise fill the memory

size_t count_nodes(const ConfigNode& node) {
  size_t count = 1;
  for (const ConfigNode& child : node.children) count += count_nodes(child);
  return count;
}

/// Lines of `text`, of which the last may lack its line break.
int count_lines(const std::string& text) {
  const auto breaks = static_cast<int>(std::count(text.begin(), text.end(), '\n'));
  return breaks + (text.ends_with('\n') ? 0 : 1);
}

/// Builds the tree from the YAML parser's events. Places are file:line, or `source` alone where `num_lines`
/// is 0.
class TreeBuilder : public YAML::EventHandler {
 public:
  TreeBuilder(std::string source, int num_lines) : source_(std::move(source)), num_lines_(num_lines) {}

  std::string place(const YAML::Mark& mark) const {
    return num_lines_ > 0 && mark.line >= 0
               ? fmt::format("{}:{}", source_, std::min(mark.line + 1, num_lines_))
               : source_;
  }
  ConfigNode take_root() { return std::move(root_); }

  void OnDocumentStart(const YAML::Mark& mark) override {
    if (++num_documents_ > 1)
      throw ConfigError(place(mark) + ": text that is not part of the config; a config is one YAML document");
    root_.place = place(mark);
  }
  void OnDocumentEnd() override {}
  void OnNull(const YAML::Mark& mark, YAML::anchor_t anchor) override {
    add(make(ConfigNode::Kind::null, mark), anchor);
  }
  void OnScalar(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                const std::string& value) override {
    ConfigNode node = make(ConfigNode::Kind::scalar, mark);
    if (!is_utf8(value)) throw ConfigError(node.place + ": text that is not UTF-8, as YAML is: write it in UTF-8");
    node.text = value;
    node.quoted = tag == "!";
    add(std::move(node), anchor);
  }
  void OnAlias(const YAML::Mark& mark, YAML::anchor_t anchor) override {
    const auto found = anchors_.find(anchor);
    if (found == anchors_.end()) throw ConfigError(place(mark) + ": an alias of what it is itself a part of");
    num_nodes_ += count_nodes(found->second);
    add(found->second, YAML::NullAnchor);
  }
  void OnSequenceStart(const YAML::Mark& mark, const std::string&, YAML::anchor_t anchor,
                       YAML::EmitterStyle::value) override {
    open(ConfigNode::Kind::list, mark, anchor);
  }
  void OnMapStart(const YAML::Mark& mark, const std::string&, YAML::anchor_t anchor,
                  YAML::EmitterStyle::value) override {
    open(ConfigNode::Kind::map, mark, anchor);
  }
  void OnSequenceEnd() override { close(); }
  void OnMapEnd() override { close(); }

 private:
  struct Open {  // a list or map whose end has not come yet
    ConfigNode node;
    YAML::anchor_t anchor;
    std::optional<ConfigNode> key;  // of a map's entry whose value has not come yet
  };

  ConfigNode make(ConfigNode::Kind kind, const YAML::Mark& mark) {
    ++num_nodes_;
    ConfigNode node;
    node.kind = kind;
    node.place = place(mark);
    return node;
  }
  void open(ConfigNode::Kind kind, const YAML::Mark& mark, YAML::anchor_t anchor) {
    open_.push_back({make(kind, mark), anchor, std::nullopt});
    if (open_.size() > kMaxDepth)
      throw ConfigError(fmt::format("{}: nested more than {} deep", place(mark), kMaxDepth));
  }
  void close() {
    Open done = std::move(open_.back());
    open_.pop_back();
    add(std::move(done.node), done.anchor);
  }
  void add(ConfigNode node, YAML::anchor_t anchor) {
    if (num_nodes_ > kMaxNodes)
      throw ConfigError(fmt::format("{}: more than {} values", node.place, kMaxNodes));
    if (anchor != YAML::NullAnchor) anchors_[anchor] = node;
    if (open_.empty()) {
      root_ = std::move(node);
    } else if (Open& parent = open_.back(); parent.node.kind == ConfigNode::Kind::list) {
      parent.node.children.push_back(std::move(node));
    } else if (!parent.key) {
      check_key(parent.node, node);
      parent.key = std::move(node);
    } else {
      node.key = std::move(parent.key->text);
      node.place = std::move(parent.key->place);
      parent.key.reset();
      parent.node.children.push_back(std::move(node));
    }
  }
  static void check_key(const ConfigNode& map, const ConfigNode& key) {
    if (key.kind != ConfigNode::Kind::scalar)
      throw ConfigError(fmt::format("{}: wanted a word as key, got {}", key.place, key.summary()));
    if (const ConfigNode* earlier = map.find(key.text))
      throw ConfigError(fmt::format("{}: {} is given a second time (first at {}); keep one", key.place,
                                    key.text, earlier->place));
  }

  std::string source_;
  int num_lines_;  // what is missing at the end is said to be missing on the last of them
  ConfigNode root_;
  std::vector<Open> open_;
  std::map<YAML::anchor_t, ConfigNode> anchors_;
  size_t num_nodes_ = 0;
  size_t num_documents_ = 0;
};

ConfigNode parse(const std::string& text, TreeBuilder builder) {
  std::istringstream in(text);
  try {
    YAML::Parser parser(in);
    while (parser.HandleNextDocument(builder)) {  // the builder refuses a second one
    }
  } catch (const YAML::Exception& e) {
    throw ConfigError(fmt::format("{}: not valid YAML: {}", builder.place(e.mark), e.msg));
  }
  return builder.take_root();
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
  ConfigNode root = parse(text, TreeBuilder(source_name, count_lines(text)));
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
  ConfigNode value = parse(assignment.substr(equals + 1), TreeBuilder(place, 0));
  value.place = place;  // the parser gives none to an empty text
  value.key = std::move(node->key);
  *node = std::move(value);
}

}  // namespace trireme
