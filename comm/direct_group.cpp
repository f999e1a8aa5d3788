#include "comm/direct_group.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <numeric>
#include <set>

#include "comm/collectives.h"
#include "comm/comm_engine.h"
#include "comm/host_tensor.h"
#include "comm/solo_group.h"

namespace trireme::comm {
namespace {

constexpr uint32_t kWorldGroup = 1;

}  // namespace

std::unique_ptr<Group> make_world_group(CommEngine& engine, const GroupOptions& options) {
  if (engine.size() == 1) return std::make_unique<SoloGroup>("world", options);
  std::vector<int> members(static_cast<size_t>(engine.size()));
  std::iota(members.begin(), members.end(), 0);
  return std::make_unique<DirectGroup>(
      std::make_shared<Channel>(engine, kWorldGroup, "world", engine.rank(), std::move(members)), options);
}

DirectGroup::DirectGroup(std::shared_ptr<Channel> channel, const GroupOptions& options)
    : Group(channel->rank(), channel->size(), channel->name(), options), channel_(std::move(channel)) {}

DirectGroup::~DirectGroup() {
  channel_->engine().give_up(*channel_);
}

std::optional<std::string> DirectGroup::failure() const {
  return channel_->engine().failure();
}

void DirectGroup::fail(const std::string& reason) {
  channel_->engine().fail(reason);
}

std::vector<int> DirectGroup::silent_ranks() const {
  const std::vector<int> silent = channel_->engine().silent_ranks();
  std::vector<int> members;
  for (int rank = 0; rank < size(); ++rank)
    if (std::ranges::count(silent, world_rank(rank)) > 0) members.push_back(world_rank(rank));
  return members;
}

/// `whole` is the largest tensor of the operation: what its bytes are counted by.
std::shared_ptr<Operation> DirectGroup::make_operation(OpKind kind, std::string_view label,
                                                       const Tensor& whole) const {
  TRIREME_ASSERT(whole.device() == Device{},
                 fmt::format("{} '{}': a tensor of {} can't be sent as a message; copy it to the host",
                             name_of(kind), label, to_string(whole.device())));
  return std::make_shared<Operation>(channel_, kind, label, whole.bytes(), options());
}

/// The task reads nothing before it is submitted, so `after` is done first.
Work DirectGroup::submit(std::shared_ptr<Operation> operation, Task task, Stream* after) {
  if (after) after->synchronize();
  operation->task = std::move(task);
  channel_->engine().submit(operation);
  return Work(std::move(operation));
}

Work DirectGroup::do_all_reduce(const Tensor& t, ReduceOp reduce_op, std::string_view label, Stream* after) {
  auto op = make_operation(OpKind::all_reduce, label, t);
  return submit(op, all_reduce_task(*op, t, reduce_op), after);
}

Work DirectGroup::do_reduce_scatter(const Tensor& input, const Tensor& output, ReduceOp reduce_op,
                                    std::string_view label, Stream* after) {
  auto op = make_operation(OpKind::reduce_scatter, label, input);
  return submit(op, reduce_scatter_task(*op, input, output, reduce_op), after);
}

Work DirectGroup::do_all_gather(const Tensor& input, const Tensor& output, std::string_view label,
                                Stream* after) {
  auto op = make_operation(OpKind::all_gather, label, output);
  return submit(op, all_gather_task(*op, input, output), after);
}

Work DirectGroup::do_broadcast(const Tensor& t, int root, std::string_view label, Stream* after) {
  auto op = make_operation(OpKind::broadcast, label, t);
  return submit(op, broadcast_task(*op, t, root), after);
}

Work DirectGroup::do_all_to_all(const Tensor& input, const Tensor& output, std::string_view label,
                                Stream* after) {
  auto op = make_operation(OpKind::all_to_all, label, input);
  return submit(op, all_to_all_task(*op, input, output), after);
}

Work DirectGroup::do_send(const Tensor& t, int peer, int tag, std::string_view label, Stream* after) {
  auto op = make_operation(OpKind::send, label, t);
  op->queue = {channel_->id(), peer, tag, /*outgoing=*/true};
  return submit(op, send_task(*op, t, peer, tag), after);
}

Work DirectGroup::do_recv(const Tensor& t, int peer, int tag, std::string_view label, Stream* after) {
  auto op = make_operation(OpKind::recv, label, t);
  op->queue = {channel_->id(), peer, tag, /*outgoing=*/false};
  return submit(op, recv_task(*op, t, peer, tag), after);
}

Work DirectGroup::do_barrier(std::string_view label) {
  auto op = std::make_shared<Operation>(channel_, OpKind::barrier, label, 0, options());
  return submit(op, barrier_task(*op), nullptr);
}

std::unique_ptr<Group> DirectGroup::do_split(int color, int key, std::string_view name) {
  struct Member {
    int64_t color, key, first_free_group;
  };
  constexpr int64_t kFields = 3;
  CommEngine& engine = channel_->engine();
  std::array<int64_t, kFields> mine{color, key, engine.first_free_group()};
  std::vector<int64_t> all(static_cast<size_t>(size() * kFields));
  all_gather(wrap_host(std::span<int64_t>(mine)), wrap_host(std::span(all)), fmt::format("split '{}'", name))
      .wait();

  std::set<int64_t> colors;
  std::vector<std::pair<int64_t, int>> members;  // (key, rank here) of this rank's color
  int64_t first_id = 0;
  for (int rank = 0; rank < size(); ++rank) {
    const Member member{all[rank * kFields], all[rank * kFields + 1], all[rank * kFields + 2]};
    colors.insert(member.color);
    first_id = std::max(first_id, member.first_free_group);
    if (member.color == color) members.emplace_back(member.key, rank);
  }
  engine.set_first_free_group(static_cast<uint32_t>(first_id + static_cast<int64_t>(colors.size())));
  if (members.size() == 1) return std::make_unique<SoloGroup>(std::string(name), options());

  std::sort(members.begin(), members.end());
  std::vector<int> world_ranks;
  int new_rank = 0;
  for (const auto& [member_key, rank] : members) {
    if (rank == this->rank()) new_rank = static_cast<int>(world_ranks.size());
    world_ranks.push_back(channel_->world_rank(rank));
  }
  const auto id = static_cast<uint32_t>(first_id + std::distance(colors.begin(), colors.find(color)));
  return std::make_unique<DirectGroup>(
      std::make_shared<Channel>(engine, id, std::string(name), new_rank, std::move(world_ranks)), options());
}

}  // namespace trireme::comm
