// DirectGroup: a Group of ranks that exchange messages over a Transport (comm/local or comm/mpi).
#pragma once

#include "comm/channel.h"
#include "comm/group.h"
#include "comm/operation.h"

namespace trireme::comm {

/// The group of all of the engine's ranks. It must not outlive the engine, nor must those made of it.
std::unique_ptr<Group> make_world_group(CommEngine& engine, const GroupOptions& options);

class DirectGroup final : public Group {
 public:
  DirectGroup(std::shared_ptr<Channel> channel, const GroupOptions& options);
  ~DirectGroup() override;

  int world_rank(int rank) const override { return channel_->world_rank(rank); }
  std::optional<std::string> failure() const override;
  void fail(const std::string& reason) override;
  std::vector<int> silent_ranks() const override;

 private:
  Work do_all_reduce(const Tensor& t, ReduceOp op, std::string_view label, Stream* after) override;
  Work do_reduce_scatter(const Tensor& input, const Tensor& output, ReduceOp op, std::string_view label,
                         Stream* after) override;
  Work do_all_gather(const Tensor& input, const Tensor& output, std::string_view label,
                     Stream* after) override;
  Work do_broadcast(const Tensor& t, int root, std::string_view label, Stream* after) override;
  Work do_all_to_all(const Tensor& input, const Tensor& output, std::string_view label,
                     Stream* after) override;
  Work do_send(const Tensor& t, int peer, int tag, std::string_view label, Stream* after) override;
  Work do_recv(const Tensor& t, int peer, int tag, std::string_view label, Stream* after) override;
  Work do_barrier(std::string_view label) override;
  std::unique_ptr<Group> do_split(int color, int key, std::string_view name) override;

  std::shared_ptr<Operation> make_operation(OpKind kind, std::string_view label, const Tensor& whole) const;
  Work submit(std::shared_ptr<Operation> operation, Task task, Stream* after);

  std::shared_ptr<Channel> channel_;
};

}  // namespace trireme::comm
