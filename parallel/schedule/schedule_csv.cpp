#include "parallel/schedule/schedule_csv.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cctype>
#include <map>
#include <sstream>

#include "core/error.h"
#include "core/files.h"
#include "parallel/schedule/validate.h"

namespace trireme {
namespace {

std::string_view trimmed(std::string_view text) {
  constexpr std::string_view kBlank = " \t\r\"";  // spreadsheets may put cells in quotes
  const size_t begin = text.find_first_not_of(kBlank);
  if (begin == std::string_view::npos) return {};
  return text.substr(begin, text.find_last_not_of(kBlank) - begin + 1);
}

/// ConfigError where it can't be read: it is the user's choice.
std::string text_of(const std::filesystem::path& file) {
  try {
    return read_text(file);
  } catch (const IoError& e) {
    throw ConfigError(fmt::format("parallel.schedule: {}; give a CSV file, or one of the schedules by its name", e.what()));
  }
}

/// A cell as it may be shown: its beginning, without what a terminal would obey.
std::string shown(std::string_view cell) {
  constexpr size_t kMost = 40;
  std::string text(cell.substr(0, kMost));
  for (char& c : text)
    if (!std::isprint(static_cast<unsigned char>(c))) c = '?';
  return cell.size() > kMost ? text + "..." : text;
}

/// Reads line after line, and learns which rank has which stage.
class CsvReader {
 public:
  explicit CsvReader(const std::filesystem::path& file) : file_(file.string()) {
    schedule_.name = file.stem().string();
  }

  void read_line(std::string_view line) {
    ++line_;
    if (trimmed(line).empty() || trimmed(line).starts_with('#')) return;
    schedule_.ranks.emplace_back();
    size_t cell = 1;
    for (size_t begin = 0; begin <= line.size(); ++cell) {
      const size_t end = std::min(line.find(',', begin), line.size());
      if (const auto text = trimmed(line.substr(begin, end - begin)); !text.empty()) read_cell(text, cell);
      begin = end + 1;
    }
  }

  Schedule finish() {
    if (rank_of_stage_.empty())
      throw ConfigError(file_ + ": no actions; wanted a line a rank of cells like F0.3 or B0.3");
    for (int stage = 0; const auto& [present, rank] : rank_of_stage_) {
      if (present != stage)
        throw ConfigError(fmt::format(
            "{}: stage {} has no cells, but stage {} has; stages are counted from 0", file_, stage, present));
      schedule_.rank_of_stage.push_back(rank);
      ++stage;
    }
    try {
      validate(schedule_);
    } catch (const ConfigError& e) {
      throw ConfigError(fmt::format("{}: {}", file_, e.what()));
    }
    return std::move(schedule_);
  }

 private:
  void read_cell(std::string_view text, size_t cell) {
    const auto action = parse_action(text);
    if (!action)
      throw ConfigError(fmt::format(
          "{}:{}: cell {}: '{}' is no action; wanted F, B, I or W, a stage, a dot and a micro-batch, "
          "like F0.3{}",
          file_, line_, cell, shown(text), text.find(';') != std::string_view::npos ? "; cells are parted by commas" : ""));
    const int rank = schedule_.num_ranks() - 1;
    const auto [known, is_new] = rank_of_stage_.try_emplace(action->stage, rank);
    if (!is_new && known->second != rank)
      throw ConfigError(fmt::format(
          "{}:{}: cell {}: '{}' on rank {}, but stage {} is that of rank {}; a stage has one rank", file_,
          line_, cell, shown(text), rank, action->stage, known->second));
    schedule_.ranks.back().push_back(*action);
    schedule_.micro_batches = std::max<int64_t>(schedule_.micro_batches, action->micro_batch + 1);
  }

  std::string file_;
  size_t line_ = 0;
  std::map<int, int> rank_of_stage_;
  Schedule schedule_;
};

}  // namespace

Schedule read_schedule(const std::filesystem::path& file) {
  CsvReader reader(file);
  std::istringstream text(text_of(file));
  constexpr std::string_view kByteOrderMark = "\xEF\xBB\xBF";  // of UTF-8, as spreadsheets write it
  bool first = true;
  for (std::string line; std::getline(text, line); first = false) {
    const bool marked = first && line.starts_with(kByteOrderMark);
    reader.read_line(std::string_view(line).substr(marked ? kByteOrderMark.size() : 0));
  }
  return reader.finish();
}

void write_schedule(const Schedule& schedule, const std::filesystem::path& file) {
  std::string text = fmt::format("# {}: {} ranks, {} stages, {} micro-batches\n", schedule.name,
                                 schedule.num_ranks(), schedule.num_stages(), schedule.micro_batches);
  for (const std::vector<Action>& rank : schedule.ranks) {
    std::vector<std::string> cells;
    for (const Action& a : rank) cells.push_back(to_string(a));
    text += fmt::format("{}\n", fmt::join(cells, ","));
  }
  write_text_durably(file, text);
}

}  // namespace trireme
