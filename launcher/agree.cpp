#include "launcher/agree.h"

#include <fmt/format.h>

#include <array>
#include <cstdint>
#include <cstdio>
#include <span>

#include "comm/host_tensor.h"

namespace trireme {

std::string share_text(std::string text, int root, Group& group, const std::string& label) {
  std::array<int64_t, 1> length{static_cast<int64_t>(text.size())};
  group.broadcast(wrap_host(std::span<int64_t>(length)), root, label).wait();
  text.resize(static_cast<size_t>(length[0]));
  const std::span<uint8_t> bytes(reinterpret_cast<uint8_t*>(text.data()), text.size());
  if (!text.empty()) group.broadcast(wrap_host(bytes), root, label).wait();
  return text;
}

std::vector<std::string> gather_texts(const std::string& text, Group& group, const std::string& label) {
  std::vector<std::string> texts;
  for (int rank = 0; rank < group.size(); ++rank) texts.push_back(share_text(text, rank, group, label));
  return texts;
}

void tell_error(const std::string& message) {
  std::fflush(stdout);  // what was printed before comes before, where both go into one file
  fmt::print(stderr, "trireme: error: {}\n", message);
}

void refuse_together(const std::string& problem, Group& world, const std::string& label) {
  if (world.size() == 1) {
    if (!problem.empty()) throw ConfigError(problem);
    return;
  }
  std::array<int32_t, 1> finder{problem.empty() ? world.size() : world.rank()};
  world.all_reduce(wrap_host(std::span<int32_t>(finder)), ReduceOp::min, label).wait();
  if (finder[0] == world.size()) return;
  std::string text = share_text(problem, finder[0], world, label);
  if (finder[0] > 0) text = fmt::format("rank {}: {}", finder[0], text);
  if (world.rank() == 0) tell_error(text);
  world.barrier(label).wait();
  throw AlreadyTold(text);
}

}  // namespace trireme
