// SoloGroup: the group of one rank. It needs no launcher and no peers: operations copy at most, and are done
// when the call returns. One process trains with it, and the mesh's axes of size 1 are such groups.
#pragma once

#include "comm/group.h"

namespace trireme {

class SoloGroup final : public Group {
 public:
  explicit SoloGroup(std::string name = "world", GroupOptions options = {})
      : Group(0, 1, std::move(name), options) {}

 private:
  Work do_all_reduce(const Tensor&, ReduceOp, std::string_view, Stream* after) override;
  Work do_reduce_scatter(const Tensor& input, const Tensor& output, ReduceOp, std::string_view,
                         Stream* after) override;
  Work do_all_gather(const Tensor& input, const Tensor& output, std::string_view, Stream* after) override;
  Work do_broadcast(const Tensor&, int, std::string_view, Stream* after) override;
  Work do_all_to_all(const Tensor& input, const Tensor& output, std::string_view, Stream* after) override;
  Work do_send(const Tensor&, int, int, std::string_view, Stream* after) override;
  Work do_recv(const Tensor&, int, int, std::string_view, Stream* after) override;
  Work do_barrier(std::string_view) override { return {}; }
  std::unique_ptr<Group> do_split(int color, int key, std::string_view name) override;
};

}  // namespace trireme
