#include "core/data/prepare.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <thread>
#include <utility>

#include "core/checkpoint/checksum.h"
#include "core/data/content_hash.h"
#include "core/data/ordered_pipeline.h"
#include "core/data/partial_file.h"
#include "core/data/sampler.h"
#include "core/data/sentencepiece_tokenizer.h"
#include "core/data/sentencepiece_trainer.h"
#include "core/data/split_writer.h"
#include "core/data/text_input.h"
#include "core/error.h"
#include "core/files.h"
#include "core/rng.h"

namespace trireme {
namespace {

constexpr int64_t kSampleBlockBytes = int64_t{64} << 10;
constexpr int kRecipeVersion = 1;  // to be raised when the same inputs and settings give other shards

void report(const PrepareOptions& options, std::string_view what, int64_t done_bytes, int64_t total_bytes) {
  if (options.on_progress) options.on_progress(what, done_bytes, total_bytes);
}

void check(const PrepareOptions& options) {
  if (!(options.valid_fraction >= 0.0 && options.valid_fraction < 1.0))
    throw ConfigError(fmt::format("prepare: the validation share must be 0 or more and below 1, got {}",
                                  options.valid_fraction));
  if (options.shard_tokens < 1 || options.shard_tokens > 1'000'000'000)
    throw ConfigError(
        fmt::format("prepare: a shard holds from 1 to 1000000000 tokens, got {}", options.shard_tokens));
  if (options.threads < 0 || options.threads > 1024)
    throw ConfigError(fmt::format("prepare: from 0 to 1024 threads can be used, got {}", options.threads));
  if (options.out.empty()) throw ConfigError("prepare: no output folder is given");
  TRIREME_ASSERT(options.block_bytes > 0 && options.sample_bytes > 0, "blocks of no bytes");
}

// ---- What is there already ----

/// What the shards depend on besides the content of the inputs.
std::string settings_of(const PrepareOptions& options) {
  nlohmann::json settings{{"recipe", kRecipeVersion},
                          {"valid_fraction", options.valid_fraction},
                          {"shard_tokens", options.shard_tokens},
                          {"format", name_of(options.format)},
                          {"text_field", options.text_field},
                          {"skip_bad", options.skip_bad}};
  if (options.tokenizer == kBytesTokenizer) {
    settings["tokenizer"] = kBytesTokenizer;
  } else if (options.tokenizer == kSentencepieceTokenizer) {
    settings["tokenizer"] = {{"trained_vocab", options.vocab}, {"sample_bytes", options.sample_bytes}};
  } else {
    static_cast<void>(make_tokenizer(options.tokenizer));  // says what is wrong with it
    settings["tokenizer"] = {{"model_xxh3", checksum_text(xxh3(read_text(options.tokenizer)))}};
  }
  return settings.dump();
}

bool same_input(const InputInfo& known, const TextFile& file) {
  if (known.bytes != file.bytes) return false;
  if (known.path == std::filesystem::absolute(file.path).string() && known.modified_ns == file.modified_ns)
    return true;
  return known.xxh3 == hash_file(file.path);
}

bool is_whole(const std::filesystem::path& folder, const DatasetInfo& info) {
  const auto present = [&](const ShardFile& file) {
    std::error_code error;
    return static_cast<int64_t>(std::filesystem::file_size(folder / file.name, error)) == file.bytes &&
           !error;
  };
  return info.complete && std::ranges::all_of(info.train.files, present) &&
         std::ranges::all_of(info.valid.files, present) &&
         (info.tokenizer_file.empty() || std::filesystem::exists(folder / info.tokenizer_file));
}

bool is_up_to_date(const PrepareOptions& options, const TextInput& input, const DatasetInfo& info,
                   const std::string& settings) {
  return nlohmann::json::parse(settings) == nlohmann::json::parse(info.settings) &&
         is_whole(options.out, info) && std::ranges::equal(info.inputs, input.files(), same_input);
}

std::set<std::string> files_of(const std::optional<DatasetInfo>& info) {
  std::set<std::string> names;
  if (!info) return names;
  if (!info->tokenizer_file.empty()) names.insert(info->tokenizer_file);
  for (const SplitInfo* split : {&info->train, &info->valid})
    for (const ShardFile& file : split->files) names.insert(file.name);
  return names;
}

/// Shards that another program put there would become part of the data set, or be overwritten.
void check_folder(const std::filesystem::path& folder, const std::set<std::string>& known) {
  if (!std::filesystem::exists(folder)) return;
  if (!std::filesystem::is_directory(folder))
    throw ConfigError(
        fmt::format("{}: a folder is wanted, but this is a file; choose another", folder.string()));
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    const std::string name = entry.path().filename().string();
    if (is_shard_name(name) && !known.contains(name))
      throw ConfigError(
          fmt::format("{} is not of a data set that `trireme prepare` made in this folder: remove it, or "
                      "choose another folder",
                      entry.path().string()));
  }
}

/// Removes what a run that was killed left half written.
void remove_partial_shards(const std::filesystem::path& folder) {
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    const std::filesystem::path& file = entry.path();
    if (file.extension() == kPartialSuffix && is_shard_name(file.stem().string()))
      std::filesystem::remove(file);
  }
}

// ---- The tokenizer ----

/// Texts of blocks chosen at random, up to options.sample_bytes; all of the training part when it is not
/// more.
std::vector<std::string> sample_texts(const PrepareOptions& options, const TextInput& input,
                                      const TextInput::Split& split) {
  const TextBlocks blocks(input, split.train, kSampleBlockBytes);
  if (blocks.count() == 0) return {};
  const int64_t count =
      std::min(blocks.count(), std::max<int64_t>(1, options.sample_bytes / kSampleBlockBytes));
  const Permutation order(blocks.count(), hash_name("tokenizer.sample"), 0);
  std::vector<int64_t> chosen;
  for (int64_t i = 0; i < count; ++i) chosen.push_back(count == blocks.count() ? i : order(i));
  std::ranges::sort(chosen);
  std::vector<std::string> texts;
  for (const int64_t i : chosen) {
    const TextBlock block = blocks[i];
    input.for_each_text(block, input.read(block), [&](std::string_view text) { texts.emplace_back(text); });
  }
  return texts;
}

/// The model's bytes, not yet under their name; empty for the bytes tokenizer.
std::unique_ptr<PartialFile> make_model_file(const PrepareOptions& options, const TextInput& input,
                                             const TextInput::Split& split) {
  if (options.tokenizer == kBytesTokenizer) return nullptr;
  std::string model;
  if (options.tokenizer == kSentencepieceTokenizer) {
    report(options, "training the tokenizer", 0, 0);
    model = train_sentencepiece(sample_texts(options, input, split), options.vocab);
  } else {
    model = read_text(options.tokenizer);
  }
  auto file = std::make_unique<PartialFile>(options.out / kTokenizerFile);
  file->output().append(std::as_bytes(std::span(model)));
  file->output().sync_and_close();
  return file;
}

// ---- Tokenizing ----

/// One block, read and tokenized.
struct TokenBlock {
  TextBlock block;
  std::string bytes;
  std::vector<int32_t> tokens;
  std::vector<size_t> document_ends;  // places in `tokens`
  int64_t text_bytes = 0;
  int64_t skipped_lines = 0;
};

TokenBlock tokenize(const TextInput& input, const TextBlock& block, Encoder& encoder, int32_t end_of_text) {
  TokenBlock made;
  made.block = block;
  made.bytes = input.read(block);
  const bool json_lines = input.files()[block.file].json_lines;
  made.skipped_lines = input.for_each_text(block, made.bytes, [&](std::string_view text) {
    encoder.append(text, made.tokens);
    made.text_bytes += static_cast<int64_t>(text.size());
    if (!json_lines && !block.ends_document) return;
    made.tokens.push_back(end_of_text);
    made.document_ends.push_back(made.tokens.size());
  });
  return made;
}

/// Writes both splits, one after the other, and hashes the inputs on the way.
class Tokenization {
 public:
  Tokenization(const PrepareOptions& options, const TextInput& input, const Tokenizer& tokenizer)
      : options_(options),
        input_(input),
        tokenizer_(tokenizer),
        threads_(options.threads > 0 ? options.threads
                                     : static_cast<int>(std::max(1u, std::thread::hardware_concurrency()))),
        hashes_(input.files().size()) {}

  void run(const std::vector<TextRange>& ranges, SplitWriter& writer, SplitInfo& info) {
    const TextBlocks blocks(input_, ranges, options_.block_bytes);
    const auto make_worker = [&] {
      return [this, &blocks, encoder = tokenizer_.make_encoder()](int64_t i) {
        return tokenize(input_, blocks[i], *encoder, tokenizer_.end_of_text());
      };
    };
    run_in_order<TokenBlock>(blocks.count(), threads_, make_worker,
                             [&](TokenBlock block) { take(block, writer, info); });
    writer.finish();
    info.tokens = writer.num_tokens();
    info.files = writer.files();
  }

  int64_t skipped_lines() const { return skipped_lines_; }

  std::vector<InputInfo> inputs() const {
    std::vector<InputInfo> inputs;
    for (size_t i = 0; i < hashes_.size(); ++i) {
      const TextFile& file = input_.files()[i];
      inputs.push_back(
          {std::filesystem::absolute(file.path).string(), file.bytes, file.modified_ns, hashes_[i].text()});
    }
    return inputs;
  }

 private:
  void take(const TokenBlock& block, SplitWriter& writer, SplitInfo& info) {
    hashes_[block.block.file].add(block.bytes);  // blocks of a file come in order and leave nothing out
    size_t written = 0;
    const std::span<const int32_t> tokens(block.tokens);
    for (const size_t end : block.document_ends) {
      writer.append(tokens.subspan(written, end - written));
      writer.end_document();
      written = end;
    }
    writer.append(tokens.subspan(written));
    info.documents += static_cast<int64_t>(block.document_ends.size());
    info.text_bytes += block.text_bytes;
    skipped_lines_ += block.skipped_lines;
    done_bytes_ += static_cast<int64_t>(block.bytes.size());
    report(options_, "tokenizing", done_bytes_, input_.total_bytes());
  }

  const PrepareOptions& options_;
  const TextInput& input_;
  const Tokenizer& tokenizer_;
  int threads_;
  std::vector<ContentHash> hashes_;  // of each input file
  int64_t skipped_lines_ = 0;
  int64_t done_bytes_ = 0;
};

void check_not_empty(const PrepareOptions& options, const TextInput& input, const DatasetInfo& info) {
  if (info.train.tokens == 0)
    throw ConfigError(
        fmt::format("{}: no text is left to train on; give more text, or a smaller --valid-fraction than {}",
                    input.files().front().path.string(), options.valid_fraction));
  if (options.valid_fraction > 0.0 && info.valid.tokens == 0)
    throw ConfigError(
        fmt::format("{}: the last {} of the input holds no whole line for validation; give more text, a "
                    "larger --valid-fraction, or 0",
                    input.files().back().path.string(), options.valid_fraction));
}

// ---- Replacing what is there ----

/// From here on the folder changes. dataset.json says so until all files have their names.
void publish(const std::filesystem::path& folder, const std::set<std::string>& old_files, DatasetInfo& info,
             std::initializer_list<SplitWriter*> writers, PartialFile* model_file) {
  std::set<std::string> obsolete = old_files;
  for (const std::string& name : files_of(info)) obsolete.erase(name);
  DatasetInfo between = info;
  between.complete = false;
  for (const std::string& name : obsolete) between.train.files.push_back({name, 0});
  write_dataset_info(folder, between);
  for (const std::string& name : obsolete) std::filesystem::remove(folder / name);
  for (SplitWriter* writer : writers) writer->publish();
  if (model_file) model_file->publish();
  sync_folder(folder);
  info.complete = true;
  write_dataset_info(folder, info);
}

}  // namespace

PrepareResult prepare(const PrepareOptions& options) {
  check(options);
  const TextInput input(options.inputs, options.text_field, options.skip_bad);
  const std::string settings = settings_of(options);
  const std::optional<DatasetInfo> old_info = read_dataset_info(options.out);
  if (old_info && is_up_to_date(options, input, *old_info, settings)) return {true, 0, *old_info};
  check_folder(options.out, files_of(old_info));
  std::filesystem::create_directories(options.out);
  remove_partial_shards(options.out);

  const TextInput::Split split = input.split(options.valid_fraction);
  const auto model_file = make_model_file(options, input, split);
  const auto tokenizer =
      model_file ? load_sentencepiece(model_file->output().path()) : make_tokenizer(options.tokenizer);

  PrepareResult result;
  DatasetInfo& info = result.info;
  info.tokenizer = tokenizer->name();
  info.tokenizer_file = model_file ? kTokenizerFile : "";
  info.vocab = tokenizer->vocab_size();
  info.end_of_text = tokenizer->end_of_text();
  info.settings = settings;
  const ShardLayout layout{options.format, options.shard_tokens, info.vocab};
  SplitWriter train(options.out, "train", layout), valid(options.out, "valid", layout);
  Tokenization tokenization(options, input, *tokenizer);
  tokenization.run(split.train, train, info.train);
  tokenization.run(split.valid, valid, info.valid);
  check_not_empty(options, input, info);
  info.inputs = tokenization.inputs();
  result.skipped_lines = tokenization.skipped_lines();
  publish(options.out, files_of(old_info), info, {&train, &valid}, model_file.get());
  return result;
}

}  // namespace trireme
