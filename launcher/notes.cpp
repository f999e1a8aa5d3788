#include "launcher/notes.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <map>
#include <sstream>

#include "launcher/agree.h"

namespace trireme {

std::vector<std::string> Notes::take() {
  std::vector<std::string> lines;
  for (const std::string& note : backend_.take_notes())
    if (told_.insert(note).second) lines.push_back("note: " + note);
  return lines;
}

std::vector<std::string> Notes::take_of_all(Group& world) {
  if (world.rank() == 0) {
    std::vector<std::string> lines = take();
    std::map<std::string, std::vector<int>> others;  // note -> ranks
    const std::vector<std::string> texts = gather_texts("", world, "notes");
    for (int rank = 1; rank < world.size(); ++rank) {
      std::istringstream theirs(texts[static_cast<size_t>(rank)]);
      for (std::string note; std::getline(theirs, note, '\0');)
        if (!told_.contains(note)) others[note].push_back(rank);
    }
    for (const auto& [note, ranks] : others) {
      told_.insert(note);
      lines.push_back(fmt::format("note: {} {}: {}", ranks.size() == 1 ? "rank" : "ranks", fmt::join(ranks, ", "), note));
    }
    return lines;
  }
  std::string mine;
  for (const std::string& note : backend_.take_notes()) mine += note + '\0';
  gather_texts(mine, world, "notes");
  return {};
}

void print_notes(Backend& backend, Group& world) {
  for (const std::string& line : Notes(backend).take_of_all(world)) fmt::print(stderr, "{}\n", line);
}

}  // namespace trireme
