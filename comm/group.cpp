#include "comm/group.h"

#include <fmt/format.h>

namespace trireme {
namespace {

void check_defined(std::string_view call, const Tensor& t, std::string_view what) {
  TRIREME_ASSERT(t.defined(), fmt::format("{}: {} is not defined", call, what));
}

void check_reducible(std::string_view call, const Tensor& t, ReduceOp op) {
  const bool arithmetic = t.dtype() != DType::u8 && t.dtype() != DType::u16;
  TRIREME_ASSERT(arithmetic,
                 fmt::format("{}: {} can't be reduced; use a float, i32 or i64", call, name_of(t.dtype())));
  TRIREME_ASSERT(op != ReduceOp::average || is_float(t.dtype()),
                 fmt::format("{}: the average of {} is not defined; use sum", call, name_of(t.dtype())));
}

bool overlap(const Tensor& a, const Tensor& b) {
  const auto* a_begin = static_cast<const std::byte*>(a.raw());
  const auto* b_begin = static_cast<const std::byte*>(b.raw());
  return a.bytes() > 0 && b.bytes() > 0 && a_begin < b_begin + b.bytes() && b_begin < a_begin + a.bytes();
}

/// `whole` has `size` parts of the size of `part`; `part` is the `rank`-th of them, or lies elsewhere.
void check_parts(std::string_view call, const Tensor& whole, const Tensor& part, int rank, int size) {
  TRIREME_ASSERT(whole.dtype() == part.dtype(), fmt::format("{}: input and output differ: {} and {}", call,
                                                            name_of(whole.dtype()), name_of(part.dtype())));
  TRIREME_ASSERT(whole.numel() == part.numel() * size, fmt::format("{}: {} elements are not {} parts of {}",
                                                                   call, whole.numel(), size, part.numel()));
  const auto* own = static_cast<const std::byte*>(whole.raw()) + static_cast<size_t>(rank) * part.bytes();
  TRIREME_ASSERT(!overlap(whole, part) || part.raw() == own,
                 fmt::format("{}: input and output overlap, but not at part {}", call, rank));
}

void check_peer(std::string_view call, int peer, int tag, const Group& group) {
  TRIREME_ASSERT(0 <= peer && peer < group.size() && peer != group.rank(),
                 fmt::format("{}: rank {} of {} has no peer {}", call, group.rank(), group.size(), peer));
  TRIREME_ASSERT(0 <= tag && tag <= Group::kMaxTag,
                 fmt::format("{}: tag {} is outside 0..{}", call, tag, Group::kMaxTag));
}

}  // namespace

std::string_view name_of(ReduceOp op) {
  constexpr std::string_view kNames[] = {"sum", "average", "max", "min"};
  return kNames[static_cast<size_t>(op)];
}

Work Group::all_reduce(const Tensor& t, ReduceOp op, std::string_view label, Stream* after) {
  check_defined("all_reduce", t, "the tensor");
  check_reducible("all_reduce", t, op);
  return do_all_reduce(t, op, label, after);
}

Work Group::reduce_scatter(const Tensor& input, const Tensor& output, ReduceOp op, std::string_view label,
                           Stream* after) {
  check_defined("reduce_scatter", input, "the input");
  check_defined("reduce_scatter", output, "the output");
  check_reducible("reduce_scatter", input, op);
  check_parts("reduce_scatter", input, output, rank_, size_);
  return do_reduce_scatter(input, output, op, label, after);
}

Work Group::all_gather(const Tensor& input, const Tensor& output, std::string_view label, Stream* after) {
  check_defined("all_gather", input, "the input");
  check_defined("all_gather", output, "the output");
  check_parts("all_gather", output, input, rank_, size_);
  return do_all_gather(input, output, label, after);
}

Work Group::broadcast(const Tensor& t, int root, std::string_view label, Stream* after) {
  check_defined("broadcast", t, "the tensor");
  TRIREME_ASSERT(0 <= root && root < size_, fmt::format("broadcast: {} ranks have no root {}", size_, root));
  return do_broadcast(t, root, label, after);
}

Work Group::all_to_all(const Tensor& input, const Tensor& output, std::string_view label, Stream* after) {
  check_defined("all_to_all", input, "the input");
  check_defined("all_to_all", output, "the output");
  TRIREME_ASSERT(input.dtype() == output.dtype() && input.numel() == output.numel(),
                 fmt::format("all_to_all: input {} {} and output {} {} differ", name_of(input.dtype()),
                             to_string(input.shape()), name_of(output.dtype()), to_string(output.shape())));
  TRIREME_ASSERT(input.numel() % size_ == 0,
                 fmt::format("all_to_all: {} elements don't divide into {} parts", input.numel(), size_));
  TRIREME_ASSERT(!overlap(input, output), "all_to_all: input and output overlap");
  return do_all_to_all(input, output, label, after);
}

Work Group::send(const Tensor& t, int peer, int tag, std::string_view label, Stream* after) {
  check_defined("send", t, "the tensor");
  check_peer("send", peer, tag, *this);
  return do_send(t, peer, tag, label, after);
}

Work Group::recv(const Tensor& t, int peer, int tag, std::string_view label, Stream* after) {
  check_defined("recv", t, "the tensor");
  check_peer("recv", peer, tag, *this);
  return do_recv(t, peer, tag, label, after);
}

Work Group::barrier(std::string_view label) {
  return do_barrier(label);
}

std::unique_ptr<Group> Group::split(int color, int key, std::string_view name) {
  TRIREME_ASSERT(color >= 0, fmt::format("split: color {} is below 0", color));
  return do_split(color, key, name);
}

}  // namespace trireme
