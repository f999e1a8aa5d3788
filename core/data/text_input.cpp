#include "core/data/text_input.h"

#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>
#include <utility>

#include "core/data/utf8.h"
#include "core/error.h"

namespace trireme {
namespace {

constexpr int64_t kWindowBytes = int64_t{64} << 10;  // how far a line end is looked for in text
constexpr int64_t kMaxJsonLineBytes = int64_t{256} << 20;

bool has_extension(const std::filesystem::path& file, std::initializer_list<std::string_view> extensions) {
  return std::ranges::find(extensions, file.extension().string()) != extensions.end();
}

TextFile inspect(const std::filesystem::path& path) {
  struct stat status {};
  if (::stat(path.c_str(), &status) != 0) throw ConfigError(fmt::format("{}: no such file", path.string()));
  if (!S_ISREG(status.st_mode))
    throw ConfigError(fmt::format("{}: not a regular file; give text files, for example {}/*.txt",
                                  path.string(), path.string()));
  if (has_extension(path, {".gz", ".xz", ".zst", ".bz2", ".zip"}))
    throw ConfigError(fmt::format("{}: compressed files are not read; unpack it first", path.string()));
  return {path, status.st_size, int64_t{status.st_mtim.tv_sec} * 1'000'000'000 + status.st_mtim.tv_nsec,
          has_extension(path, {".jsonl", ".ndjson", ".json"})};
}

std::string read_bytes(const TextFile& file, int64_t begin, int64_t end) {
  std::string bytes(static_cast<size_t>(end - begin), '\0');
  std::ifstream in(file.path, std::ios::binary);
  if (!in) throw IoError(fmt::format("{}: can't be opened: {}", file.path.string(), std::strerror(errno)));
  in.seekg(begin);
  in.read(bytes.data(), end - begin);
  if (!in)
    throw IoError(fmt::format("{}: bytes {} to {} can't be read: was the file changed meanwhile?",
                              file.path.string(), begin, end));
  return bytes;
}

/// The text of one line, or what is wrong with it.
struct JsonText {
  std::string text, problem;
};

JsonText text_of_line(std::string_view line, const std::string& field) {
  const auto object = nlohmann::json::parse(line, nullptr, /*allow_exceptions=*/false);
  if (object.is_discarded()) return {"", "not valid JSON"};
  if (!object.is_object()) return {"", fmt::format("a JSON object is wanted, got {}", object.type_name())};
  const auto text = object.find(field);
  if (text == object.end())
    return {"", fmt::format("the object has no field '{}' (see --text-field)", field)};
  if (!text->is_string())
    return {"", fmt::format("the field '{}' is {}, not a string", field, text->type_name())};
  return {text->get<std::string>(), ""};
}

}  // namespace

TextInput::TextInput(const std::vector<std::filesystem::path>& files, std::string text_field, bool skip_bad)
    : text_field_(std::move(text_field)), skip_bad_(skip_bad) {
  if (files.empty()) throw ConfigError("prepare: no input files are given");
  for (const std::filesystem::path& file : files) {
    files_.push_back(inspect(file));
    total_bytes_ += files_.back().bytes;
  }
  if (total_bytes_ == 0) throw ConfigError(fmt::format("{}: the input is empty", files.front().string()));
}

std::string TextInput::read(const TextRange& range) const {
  return read_bytes(files_[range.file], range.begin, range.end);
}

/// The beginning of the first line at or after `wanted`; the end of the file when there is none.
int64_t TextInput::line_border(const TextFile& file, int64_t wanted) const {
  for (int64_t begin = wanted - 1; begin < file.bytes;) {
    const int64_t end = std::min(begin + kWindowBytes, file.bytes);
    const std::string window = read_bytes(file, begin, end);
    if (const size_t found = window.find('\n'); found != std::string::npos)
      return begin + static_cast<int64_t>(found) + 1;
    if (end - wanted > kMaxJsonLineBytes)
      throw ConfigError(
          fmt::format("{}: the line at byte {} is longer than {} MiB: JSON lines are wanted, one object a "
                      "line",
                      file.path.string(), wanted, kMaxJsonLineBytes >> 20));
    begin = end;
  }
  return file.bytes;
}

int64_t TextInput::border_after(size_t index, int64_t wanted) const {
  const TextFile& file = files_[index];
  if (wanted <= 0) return 0;
  if (wanted >= file.bytes) return file.bytes;
  if (file.json_lines) return line_border(file, wanted);
  const std::string window = read_bytes(file, wanted - 1, std::min(wanted - 1 + kWindowBytes, file.bytes));
  if (const size_t found = window.find('\n'); found != std::string::npos)
    return wanted + static_cast<int64_t>(found);
  for (size_t i = 1; i < window.size(); ++i)
    if (window[i] == ' ' && window[i - 1] != ' ') return wanted - 1 + static_cast<int64_t>(i);
  for (size_t i = 1; i < window.size(); ++i)
    if (is_utf8_start(window[i])) return wanted - 1 + static_cast<int64_t>(i);
  return wanted;
}

int64_t TextInput::last_border(size_t file) const {
  const int64_t bytes = files_[file].bytes;
  int64_t found = bytes;
  for (int64_t back = 1; found == bytes; back *= 2) found = border_after(file, bytes - back);
  for (int64_t next = 0; (next = border_after(file, found + 1)) < bytes;) found = next;
  return found;
}

TextInput::Split TextInput::split(double valid_fraction) const {
  const auto train_bytes =
      total_bytes_ - static_cast<int64_t>(std::ceil(valid_fraction * static_cast<double>(total_bytes_)));
  Split split;
  int64_t before = 0;  // bytes of the files so far
  for (size_t file = 0; file < files_.size(); ++file) {
    const int64_t bytes = files_[file].bytes;
    int64_t cut = bytes;
    if (valid_fraction > 0.0) {
      cut = border_after(file, train_bytes - before);
      const bool last = before + bytes == total_bytes_;
      if (cut == bytes && last && bytes > 0) cut = last_border(file);
      if (cut == 0 && before == 0) cut = bytes;  // a single line is for training
    }
    if (cut > 0) split.train.push_back({file, 0, cut});
    if (cut < bytes) split.valid.push_back({file, cut, bytes});
    before += bytes;
  }
  return split;
}

int64_t TextInput::for_each_text(const TextBlock& block, std::string_view bytes,
                                 const std::function<void(std::string_view)>& take) const {
  if (!files_[block.file].json_lines) {
    take(bytes);
    return 0;
  }
  int64_t skipped = 0;
  for (int64_t line_number = 0; !bytes.empty(); ++line_number) {
    const size_t end = std::min(bytes.find('\n'), bytes.size());
    const std::string_view line = bytes.substr(0, end);
    bytes.remove_prefix(std::min(end + 1, bytes.size()));
    if (line.find_first_not_of(" \t\r") == std::string_view::npos) continue;  // an empty line is no document
    const JsonText found = text_of_line(line, text_field_);
    if (found.problem.empty())
      take(found.text);
    else if (skip_bad_)
      ++skipped;
    else
      fail_at_line(block, line_number, found.problem);
  }
  return skipped;
}

void TextInput::fail_at_line(const TextBlock& block, int64_t line, const std::string& problem) const {
  const TextFile& file = files_[block.file];
  for (int64_t begin = 0; begin < block.begin; begin += kWindowBytes) {
    const std::string window = read_bytes(file, begin, std::min(begin + kWindowBytes, block.begin));
    line += std::ranges::count(window, '\n');
  }
  throw ConfigError(fmt::format("{}:{}: {}; correct the line, or leave such lines out with --skip-bad",
                                file.path.string(), line + 1, problem));
}

TextBlocks::TextBlocks(const TextInput& input, std::vector<TextRange> ranges, int64_t block_bytes)
    : input_(input), ranges_(std::move(ranges)), first_block_{0}, block_bytes_(block_bytes) {
  for (const TextRange& range : ranges_)
    first_block_.push_back(first_block_.back() + (range.end - range.begin + block_bytes - 1) / block_bytes);
}

TextBlock TextBlocks::operator[](int64_t index) const {
  const auto next = std::ranges::upper_bound(first_block_, index);
  const TextRange& range = ranges_[static_cast<size_t>(next - first_block_.begin()) - 1];
  const int64_t nominal = range.begin + (index - *(next - 1)) * block_bytes_;
  const bool last = index + 1 == *next;
  TextBlock block;
  block.file = range.file;
  block.begin =
      nominal == range.begin ? nominal : std::min(input_.border_after(range.file, nominal), range.end);
  block.end = last ? range.end : std::min(input_.border_after(range.file, nominal + block_bytes_), range.end);
  block.ends_document = last && !input_.files()[range.file].json_lines;
  return block;
}

}  // namespace trireme
