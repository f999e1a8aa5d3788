#include "comm/operation.h"

#include <fmt/format.h>

#include <algorithm>

#include "comm/comm_engine.h"

namespace trireme::comm {

std::string_view name_of(OpKind kind) {
  constexpr std::string_view kNames[] = {"all_reduce", "reduce_scatter", "all_gather", "broadcast",
                                         "all_to_all", "send",           "recv",       "barrier"};
  return kNames[static_cast<size_t>(kind)];
}

Operation::Operation(std::shared_ptr<Channel> channel, OpKind kind, std::string_view label, size_t bytes,
                     const GroupOptions& options)
    : channel(std::move(channel)), kind(kind), label(label), bytes(bytes), options(options) {
  queue.group_id = this->channel->id();
}

std::string Operation::text() const {
  return fmt::format("{} '{}'", name_of(kind), label);
}

Operation::Awaiter Operation::all(Messages messages) {
  awaited_.insert(awaited_.end(), std::make_move_iterator(messages.begin()),
                  std::make_move_iterator(messages.end()));
  return {};
}

void Operation::wait() {
  if (!done()) channel->engine().drive_until_done(*this);
  if (!failure_) return;
  if (failure_->is_consequence) throw GivenUp(failure_->text);
  throw CommError(failure_->text);
}

}  // namespace trireme::comm
