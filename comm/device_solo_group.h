// DeviceSoloGroup: the group of one rank for tensors of a device. Nothing is exchanged: operations copy at most, on the
// stream that they come after, so that they can be a part of recorded work.
#pragma once

#include "comm/solo_group.h"

namespace trireme {

class DeviceSoloGroup final : public Group {
 public:
  /// `backend` outlives the group, and the streams that operations come after their Works.
  explicit DeviceSoloGroup(Backend& backend, std::string name = "world", GroupOptions options = {});

 private:
  Work do_all_reduce(const Tensor& t, ReduceOp op, std::string_view label, Stream* after) override;
  Work do_reduce_scatter(const Tensor& input, const Tensor& output, ReduceOp op, std::string_view label,
                         Stream* after) override;
  Work do_all_gather(const Tensor& input, const Tensor& output, std::string_view label, Stream* after) override;
  Work do_broadcast(const Tensor& t, int root, std::string_view label, Stream* after) override;
  Work do_all_to_all(const Tensor& input, const Tensor& output, std::string_view label, Stream* after) override;
  Work do_send(const Tensor&, int peer, int tag, std::string_view label, Stream* after) override;
  Work do_recv(const Tensor&, int peer, int tag, std::string_view label, Stream* after) override;
  Work do_barrier(std::string_view) override { return {}; }
  std::unique_ptr<Group> do_split(int color, int key, std::string_view name) override;

  Work copy(const Tensor& from, const Tensor& to, Stream* after);
  Work done_after(Stream* stream);

  Backend& backend_;
  SoloGroup host_;  // of host memory
};

}  // namespace trireme
