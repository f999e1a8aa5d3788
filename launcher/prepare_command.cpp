// trireme prepare: text files and JSON lines to token shards, with a progress bar.
#include <fmt/format.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <chrono>
#include <cstdio>
#include <memory>
#include <string>

#include "core/data/prepare.h"
#include "core/text.h"
#include "launcher/commands.h"
#include "launcher/progress.h"

namespace trireme {
namespace {

/// A bar that is written over on a terminal; elsewhere a line for each new kind of work.
class ProgressBar {
 public:
  explicit ProgressBar(std::FILE* out) : out_(out), terminal_(::isatty(::fileno(out)) == 1) {}
  ~ProgressBar() {
    if (open_line_) fmt::print(out_, "\n");
  }

  void show(std::string_view what, int64_t done_bytes, int64_t total_bytes) {
    const auto now = std::chrono::steady_clock::now();
    const bool begins = what != what_, ends = done_bytes == total_bytes;
    if (!begins && (!terminal_ || (!ends && now - shown_ < std::chrono::milliseconds(100)))) return;
    if (begins) what_ = what, began_ = now;
    shown_ = now;
    if (!terminal_) {
      fmt::print(out_, "{} ...\n", what);
      std::fflush(out_);
      return;
    }
    fmt::print(out_, "\r\x1b[K{}",
               total_bytes == 0 ? fmt::format("{} ...", what) : bar(done_bytes, total_bytes));
    std::fflush(out_);
    open_line_ = true;
  }

 private:
  std::string bar(int64_t done_bytes, int64_t total_bytes) const {
    constexpr int kWidth = 30;
    const double share = static_cast<double>(done_bytes) / static_cast<double>(total_bytes);
    const double seconds = std::chrono::duration<double>(shown_ - began_).count();
    std::string text = fmt::format("{} [{:-<{}}] {:3.0f}%  {} of {}", what_,
                                   std::string(static_cast<size_t>(share * kWidth), '#'), kWidth, 100 * share,
                                   format_bytes(static_cast<size_t>(done_bytes)),
                                   format_bytes(static_cast<size_t>(total_bytes)));
    if (seconds > 0.5 && share > 0)
      text += fmt::format("  {}/s  {} left",
                          format_bytes(static_cast<size_t>(static_cast<double>(done_bytes) / seconds)),
                          format_duration(seconds / share * (1 - share)));
    return text;
  }

  std::FILE* out_;
  bool terminal_;
  bool open_line_ = false;  // the cursor stands at the end of a bar
  std::string what_;
  std::chrono::steady_clock::time_point began_, shown_;
};

void print_split(std::string_view name, const SplitInfo& split) {
  fmt::print("{}: {}, {}, {} of text, {}", name, counted(split.tokens, "token"),
             counted(split.documents, "document"), format_bytes(static_cast<size_t>(split.text_bytes)),
             counted(static_cast<int64_t>(split.files.size()), "file"));
  if (split.tokens > 0)
    fmt::print(" ({:.2f} bytes a token)",
               static_cast<double>(split.text_bytes) / static_cast<double>(split.tokens));
  fmt::print("\n");
}

void run(PrepareOptions options, const std::string& format) {
  options.format = parse_shard_format(format);
  PrepareResult result;
  {
    ProgressBar bar(stderr);
    options.on_progress = [&bar](std::string_view what, int64_t done_bytes, int64_t total_bytes) {
      bar.show(what, done_bytes, total_bytes);
    };
    result = prepare(options);
  }
  if (result.up_to_date)
    fmt::print("{} is up to date: made from the same input with the same settings\n", options.out.string());
  fmt::print("tokenizer: {}, vocabulary {}\n", result.info.tokenizer, result.info.vocab);
  print_split("train", result.info.train);
  print_split("valid", result.info.valid);
  if (result.skipped_lines > 0) fmt::print("{} left out\n", counted(result.skipped_lines, "bad line"));
  if (!result.up_to_date) fmt::print("written to {}\n", options.out.string());
}

}  // namespace

void add_prepare_command(CLI::App& app) {
  CLI::App* command =
      app.add_subcommand("prepare", "Turns text into token shards, and trains a tokenizer on it");
  const auto options = std::make_shared<PrepareOptions>();
  const auto format = std::make_shared<std::string>(name_of(options->format));
  command
      ->add_option("FILES", options->inputs,
                   "Text files (a document each), or JSON lines (.jsonl, .ndjson, .json)")
      ->required();
  command->add_option("--out", options->out, "Folder for the shards")->required();
  command
      ->add_option(
          "--tokenizer", options->tokenizer,
          "bytes, sentencepiece (byte-pair encoding, trained on the input), or a sentencepiece .model")
      ->capture_default_str();
  command->add_option("--vocab", options->vocab, "Vocabulary of a tokenizer trained here")
      ->capture_default_str();
  command
      ->add_option("--valid-fraction", options->valid_fraction,
                   "Share of the input, its end, kept for validation")
      ->capture_default_str();
  command->add_option("--shard-tokens", options->shard_tokens, "Most tokens in one shard")
      ->capture_default_str();
  command->add_option("--threads", options->threads, "Threads that tokenize; 0: one a core")
      ->capture_default_str();
  command->add_option("--format", *format, "llmc (.bin), or megatron (.bin and .idx)")->capture_default_str();
  command->add_option("--text-field", options->text_field, "Field of JSON lines that holds the text")
      ->capture_default_str();
  command->add_flag("--skip-bad", options->skip_bad,
                    "Leaves out lines that are not JSON objects with that field");
  command->footer(
      "Makes train_000000.bin ..., valid_000000.bin ..., tokenizer.model and dataset.json. With the same "
      "input and\n"
      "settings again, it does nothing.\n"
      "Example:\n  trireme prepare book.txt --out data/book --vocab 2048\n"
      "  trireme prepare corpus-*.jsonl --out data/corpus --vocab 32768 --valid-fraction 0.001");
  command->callback([options, format] { run(*options, *format); });
}

}  // namespace trireme
