// TextInput: text files and JSON lines as blocks that can be read apart, in constant memory.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

namespace trireme {

struct TextFile {
  std::filesystem::path path;
  int64_t bytes = 0;
  int64_t modified_ns = 0;
  bool json_lines = false;  // else one document
};

/// A contiguous part of one file.
struct TextRange {
  size_t file = 0;
  int64_t begin = 0, end = 0;
};

struct TextBlock : TextRange {
  bool ends_document = false;  // of a text file: nothing of it comes after this block
};

/// The files given, in that order. Files called .jsonl, .ndjson or .json hold one JSON object a line, with
/// the text in one field; any other file is one document. Thread-safe.
class TextInput {
 public:
  /// ConfigError when a file is missing, empty of bytes altogether, a folder or compressed.
  TextInput(const std::vector<std::filesystem::path>& files, std::string text_field, bool skip_bad);

  const std::vector<TextFile>& files() const { return files_; }
  int64_t total_bytes() const { return total_bytes_; }

  /// The whole input in two parts: the last `valid_fraction` of its bytes is for validation, from the next
  /// line on; the last line when none begins there.
  struct Split {
    std::vector<TextRange> train, valid;
  };
  Split split(double valid_fraction) const;

  /// The first place at or after `wanted` where a file may be cut: the beginning of a line; in text without
  /// line ends near, before a space; without those, between two characters.
  int64_t border_after(size_t file, int64_t wanted) const;

  /// The bytes of a range. IoError when the file is shorter by now.
  std::string read(const TextRange& range) const;

  /// Calls `take` with the text of each document, or part of one, in `bytes`, which were read from `block`.
  /// Returns how many bad lines were skipped. ConfigError naming file and line of a bad one when they are not
  /// to be skipped.
  int64_t for_each_text(const TextBlock& block, std::string_view bytes,
                        const std::function<void(std::string_view text)>& take) const;

 private:
  int64_t last_border(size_t file) const;
  int64_t line_border(const TextFile& file, int64_t wanted) const;
  [[noreturn]] void fail_at_line(const TextBlock& block, int64_t line, const std::string& problem) const;

  std::vector<TextFile> files_;
  std::string text_field_;
  bool skip_bad_;
  int64_t total_bytes_ = 0;
};

/// Ranges cut into blocks of about `block_bytes`.
class TextBlocks {
 public:
  TextBlocks(const TextInput& input, std::vector<TextRange> ranges, int64_t block_bytes);
  int64_t count() const { return first_block_.back(); }
  TextBlock operator[](int64_t index) const;

 private:
  const TextInput& input_;
  std::vector<TextRange> ranges_;
  std::vector<int64_t> first_block_;  // of each range; one more entry: the count
  int64_t block_bytes_;
};

}  // namespace trireme
