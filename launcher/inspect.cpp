#include "launcher/inspect.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <vector>

#include "core/checkpoint/checkpoint.h"
#include "core/checkpoint/manifest.h"
#include "core/data/dataset_info.h"
#include "core/error.h"
#include "core/text.h"
#include "launcher/progress.h"

namespace trireme {
namespace {

using nlohmann::json;
namespace fs = std::filesystem;

/// Lines of equal columns, the first one to the left.
class Table {
 public:
  explicit Table(std::vector<std::string> head) { add(std::move(head)); }
  void add(std::vector<std::string> row) {
    widths_.resize(std::max(widths_.size(), row.size()));
    for (size_t i = 0; i < row.size(); ++i) widths_[i] = std::max(widths_[i], row[i].size());
    rows_.push_back(std::move(row));
  }
  std::string text() const {
    std::string text;
    for (const auto& row : rows_) {
      std::string line;
      for (size_t i = 0; i < row.size(); ++i)
        line +=
            i == 0 ? fmt::format("{:<{}}", row[i], widths_[i]) : fmt::format("  {:>{}}", row[i], widths_[i]);
      text += line + "\n";
    }
    return text;
  }

 private:
  std::vector<std::vector<std::string>> rows_;
  std::vector<size_t> widths_;
};

std::string bytes_text(const json& j) {
  return format_bytes(j["bytes"].get<size_t>());
}

std::string number_text(const json& tensor, const char* key) {
  return tensor.contains(key) ? fmt::format("{:.4g}", tensor[key].get<double>()) : "";
}

std::string tensors_text(const json& tensors) {
  Table table({"tensor", "shape", "type", "size", "min", "max", "mean", "std"});
  std::string warnings;
  for (const json& t : tensors) {
    table.add({t["name"], fmt::format("[{}]", fmt::join(t["shape"].get<std::vector<int64_t>>(), ", ")),
               t["dtype"], bytes_text(t), number_text(t, "min"), number_text(t, "max"),
               number_text(t, "mean"), number_text(t, "std")});
    if (const int64_t bad = t.value("not_finite", int64_t{0}); bad > 0)
      warnings += fmt::format("{} has {} elements that are not finite\n", t["name"].get<std::string>(), bad);
  }
  return table.text() + warnings;
}

std::string checkpoint_text(const json& j) {
  std::string text = fmt::format(
      "checkpoint {}: step {}, {}, {} in {} of {}{}\n\n", j["path"].get<std::string>(),
      j["step"].get<int64_t>(), counted(std::ssize(j["tensors"]), "tensor"), bytes_text(j),
      counted(j.contains("files") ? std::ssize(j["files"]) : 0, "file"),
      counted(j["ranks"].get<int>(), "rank"), j["verified"].get<bool>() ? ", all checksums fit" : "");
  text += tensors_text(j["tensors"]);
  if (!j.contains("sections")) return text;
  for (const auto& [name, value] : j["sections"].items())
    text += value.is_string() ? fmt::format("\n{}:\n{}\n", name, value.get<std::string>())
                              : fmt::format("\n{}: {}\n", name, value.dump());
  return text;
}

std::string checkpoints_text(const json& j) {
  Table table({"checkpoint", "step", "size", "state"});
  for (const json& c : j["checkpoints"]) {
    const bool known = c.contains("bytes");
    table.add({c["path"], known ? std::to_string(c["step"].get<int64_t>()) : "", known ? bytes_text(c) : "",
               c.contains("problem")       ? "damaged: " + c["problem"].get<std::string>()
               : c["verified"].get<bool>() ? "all checksums fit"
                                           : "not verified (--verify)"});
  }
  return table.text();
}

std::string dataset_text(const json& j) {
  Table table({"split", "tokens", "documents", "text", "files"});
  for (const char* split : {"train", "valid"}) {
    const json& s = j[split];
    table.add({split, std::to_string(s["tokens"].get<int64_t>()),
               std::to_string(s["documents"].get<int64_t>()), format_bytes(s["text_bytes"].get<size_t>()),
               std::to_string(s["files"].size())});
  }
  return fmt::format(
      "data set {}: {} tokenizer, vocabulary {}, from {}{}\n\n{}", j["path"].get<std::string>(),
      j["tokenizer"].get<std::string>(), j["vocab"].get<int64_t>(), counted(std::ssize(j["inputs"]), "input"),
      j["complete"].get<bool>() ? "" : "; not whole: run `trireme prepare` again", table.text());
}

std::string shard_text(const json& j) {
  std::string text = fmt::format("shard {}: {} tokens of {}, {}'s layout, {}\n", j["path"].get<std::string>(),
                                 j["tokens"].get<int64_t>(), j["token_type"].get<std::string>(),
                                 j["layout"].get<std::string>(), bytes_text(j));
  if (j.contains("documents")) text += fmt::format("documents  {}\n", j["documents"].get<int64_t>());
  if (j.contains("ids"))
    text += fmt::format("ids        {} to {}, {} different\n", j["ids"]["min"].get<int>(),
                        j["ids"]["max"].get<int>(), j["ids"]["distinct"].get<int64_t>());
  return text + fmt::format("first      {}\n", fmt::join(j["first"].get<std::vector<int>>(), " "));
}

std::string tokenizer_text(const json& j) {
  return fmt::format(
      "tokenizer {}: {}, {} tokens, {}\nend of text    {}\nbytes a token  {:.2f}\nlongest token  {}\n",
      j["path"].get<std::string>(), j["name"].get<std::string>(), j["vocab"].get<int64_t>(), bytes_text(j),
      j["end_of_text"].get<int>(), j["mean_token_bytes"].get<double>(),
      j["longest_token"].dump(-1, ' ', false, json::error_handler_t::replace));
}

std::string config_text(const json& j) {
  std::string text =
      fmt::format("config {}: {} tokens a step, {} in all", j["path"].get<std::string>(),
                  format_count(j["tokens_per_step"].get<double>()), format_count(j["tokens"].get<double>()));
  if (j.contains("parameters"))
    text += fmt::format(", {} parameters", format_count(j["parameters"].get<double>()));
  if (j.contains("problem")) text += fmt::format("\nproblem: {}", j["problem"].get<std::string>());
  return text + "\n\n" + j["resolved"].get<std::string>();
}

}  // namespace

json inspect(const fs::path& path, const InspectOptions& options) {
  if (!fs::exists(path)) throw ConfigError(fmt::format("{}: there is no such file or folder", path.string()));
  if (fs::is_directory(path)) {
    if (fs::exists(path / kManifestName)) return inspect_checkpoint(path, options);
    if (!find_checkpoints(path).empty()) return inspect_checkpoints(path, options);
    if (fs::exists(path / kDatasetInfoFile)) return inspect_dataset(path);
    throw ConfigError(
        fmt::format("{}: a folder without a checkpoint ({} or step-* folders) or token shards of "
                    "`trireme prepare` ({})",
                    path.string(), kManifestName, kDatasetInfoFile));
  }
  if (path.filename() == kDatasetInfoFile) return inspect_dataset(path.parent_path());
  const std::string ending = path.extension();
  if (ending == ".safetensors") return inspect_safetensors(path, options);
  if (ending == ".bin") return inspect_shard(path, options);
  if (ending == ".idx") return inspect_shard(fs::path(path).replace_extension(".bin"), options);
  if (ending == ".model") return inspect_tokenizer(path);
  if (ending == ".yaml" || ending == ".yml") return inspect_config(path);
  throw ConfigError(
      fmt::format("{}: inspect knows folders of checkpoints and of token shards, and files that end in "
                  ".safetensors, .bin, .idx, "
                  ".model, .yaml or .yml",
                  path.string()));
}

std::string inspection_text(const json& j) {
  const std::string kind = j["kind"];
  if (kind == "checkpoint") return checkpoint_text(j);
  if (kind == "checkpoints") return checkpoints_text(j);
  if (kind == "dataset") return dataset_text(j);
  if (kind == "shard") return shard_text(j);
  if (kind == "tokenizer") return tokenizer_text(j);
  if (kind == "config") return config_text(j);
  return fmt::format("{}: {} tensors, {}\n\n{}", j["path"].get<std::string>(), j["tensors"].size(),
                     bytes_text(j), tensors_text(j["tensors"]));
}

}  // namespace trireme
