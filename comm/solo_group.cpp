#include "comm/solo_group.h"

#include <cstring>

namespace trireme {
namespace {

/// Also where nothing is left to do: who has waited for the operation may read the tensor.
Work wait_for(Stream* after) {
  if (after) after->synchronize();
  return {};
}

Work copy(const Tensor& from, const Tensor& to, Stream* after) {
  TRIREME_ASSERT(from.device() == Device{} && to.device() == Device{}, "a host tensor is wanted");
  if (after) after->synchronize();
  if (from.raw() != to.raw() && from.bytes() > 0) std::memcpy(to.raw(), from.raw(), from.bytes());
  return {};
}

}  // namespace

Work SoloGroup::do_all_reduce(const Tensor&, ReduceOp, std::string_view, Stream* after) {
  return wait_for(after);
}

Work SoloGroup::do_broadcast(const Tensor&, int, std::string_view, Stream* after) {
  return wait_for(after);
}

Work SoloGroup::do_reduce_scatter(const Tensor& input, const Tensor& output, ReduceOp, std::string_view,
                                  Stream* after) {
  return copy(input, output, after);
}

Work SoloGroup::do_all_gather(const Tensor& input, const Tensor& output, std::string_view, Stream* after) {
  return copy(input, output, after);
}

Work SoloGroup::do_all_to_all(const Tensor& input, const Tensor& output, std::string_view, Stream* after) {
  return copy(input, output, after);
}

Work SoloGroup::do_send(const Tensor&, int, int, std::string_view, Stream*) {
  throw InternalError("send: one rank has no peers");
}

Work SoloGroup::do_recv(const Tensor&, int, int, std::string_view, Stream*) {
  throw InternalError("recv: one rank has no peers");
}

std::unique_ptr<Group> SoloGroup::do_split(int, int, std::string_view name) {
  return std::make_unique<SoloGroup>(std::string(name), options());
}

}  // namespace trireme
