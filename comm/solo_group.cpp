#include "comm/solo_group.h"

#include <cstring>

namespace trireme {
namespace {

Work copy(const Tensor& from, const Tensor& to) {
  TRIREME_ASSERT(from.device() == Device{} && to.device() == Device{}, "a host tensor is wanted");
  if (from.raw() != to.raw() && from.bytes() > 0) std::memcpy(to.raw(), from.raw(), from.bytes());
  return {};
}

}  // namespace

Work SoloGroup::do_reduce_scatter(const Tensor& input, const Tensor& output, ReduceOp, std::string_view) {
  return copy(input, output);
}

Work SoloGroup::do_all_gather(const Tensor& input, const Tensor& output, std::string_view) {
  return copy(input, output);
}

Work SoloGroup::do_all_to_all(const Tensor& input, const Tensor& output, std::string_view) {
  return copy(input, output);
}

Work SoloGroup::do_send(const Tensor&, int, int, std::string_view) {
  throw InternalError("send: one rank has no peers");
}

Work SoloGroup::do_recv(const Tensor&, int, int, std::string_view) {
  throw InternalError("recv: one rank has no peers");
}

std::unique_ptr<Group> SoloGroup::do_split(int, int, std::string_view name) {
  return std::make_unique<SoloGroup>(std::string(name), options());
}

}  // namespace trireme
