#include "core/data/dataset_info.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "core/checkpoint/json_text.h"
#include "core/data/dataset.h"
#include "core/data/partial_file.h"
#include "core/data/tokenizer.h"
#include "core/error.h"
#include "core/files.h"

namespace trireme {

NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(ShardFile, name, bytes)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(SplitInfo, tokens, documents, text_bytes, files)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(InputInfo, path, bytes, modified_ns, xxh3)

namespace {

constexpr int kFormatVersion = 1;

DatasetInfo from_json(const nlohmann::json& json) {
  DatasetInfo info;
  json.at("complete").get_to(info.complete);
  json.at("tokenizer").get_to(info.tokenizer);
  json.at("tokenizer_file").get_to(info.tokenizer_file);
  json.at("vocab").get_to(info.vocab);
  json.at("end_of_text").get_to(info.end_of_text);
  json.at("train").get_to(info.train);
  json.at("valid").get_to(info.valid);
  json.at("inputs").get_to(info.inputs);
  info.settings = json.at("settings").dump();
  return info;
}

std::filesystem::path folder_of(const std::filesystem::path& file) {
  return file.has_parent_path() ? file.parent_path() : ".";
}

}  // namespace

std::optional<DatasetInfo> read_dataset_info(const std::filesystem::path& folder) {
  const std::filesystem::path file = folder / kDatasetInfoFile;
  if (!std::filesystem::exists(file)) return std::nullopt;
  const nlohmann::json json = parse_json(read_text(file), file.string());
  try {
    if (const int version = json.at("format_version"); version != kFormatVersion)
      throw ConfigError(
          fmt::format("{}: format_version {} is wanted, got {}; remove it and run `trireme prepare` again",
                      file.string(), kFormatVersion, version));
    return from_json(json);
  } catch (const nlohmann::json::exception& error) {
    throw ConfigError(fmt::format("{}: damaged ({}); remove it and run `trireme prepare` again",
                                  file.string(), error.what()));
  }
}

void write_dataset_info(const std::filesystem::path& folder, const DatasetInfo& info) {
  const nlohmann::ordered_json json{{"format_version", kFormatVersion},
                                    {"complete", info.complete},
                                    {"tokenizer", info.tokenizer},
                                    {"tokenizer_file", info.tokenizer_file},
                                    {"vocab", info.vocab},
                                    {"end_of_text", info.end_of_text},
                                    {"train", nlohmann::json(info.train)},
                                    {"valid", nlohmann::json(info.valid)},
                                    {"inputs", nlohmann::json(info.inputs)},
                                    {"settings", nlohmann::json::parse(info.settings)}};
  PartialFile file(folder / kDatasetInfoFile);
  const std::string text = json.dump(2, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
  file.output().append(std::as_bytes(std::span(text)));
  file.output().sync_and_close();
  file.publish();
  sync_folder(folder);
}

std::string tokenizer_in(const std::filesystem::path& folder, const DatasetInfo& info) {
  return info.tokenizer_file.empty() ? info.tokenizer : (folder / info.tokenizer_file).string();
}

std::string tokenizer_beside(const std::string& glob) {
  const std::filesystem::path folder = folder_of(find_token_files(glob).front());
  const auto info = read_dataset_info(folder);
  if (!info)
    throw ConfigError(
        fmt::format("{} has no {} that names the tokenizer: set data.tokenizer to '{}' or a sentencepiece "
                    ".model",
                    folder.string(), kDatasetInfoFile, kBytesTokenizer));
  return tokenizer_in(folder, *info);
}

}  // namespace trireme
