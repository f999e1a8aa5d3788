// all_reduce and reduce_scatter. Each rank sums one part of the tensor: it gets that part from every other
// rank, block by block, adds the blocks up in the order of the ranks, and, in an all-reduce, sends the result
// to all. While one block is summed the next is under way.
#include <algorithm>
#include <array>

#include "comm/collectives.h"
#include "comm/meeting.h"
#include "comm/reduce.h"

namespace trireme::comm {
namespace {

constexpr int64_t kBlockBytes = 512 << 10;  // two of them a peer stay in the second-level cache
constexpr int64_t kPartAlign = 64;          // elements

/// Which elements of `input` are whose, and how they are exchanged.
class BlockExchange {
 public:
  BlockExchange(Channel& channel, const Tensor& input, const Tensor& own_part, int64_t part_size)
      : channel_(channel),
        base_(static_cast<std::byte*>(input.raw())),
        own_part_(static_cast<std::byte*>(own_part.raw())),
        dtype_(input.dtype()),
        width_(static_cast<int64_t>(size_of(dtype_))),
        numel_(input.numel()),
        part_size_(part_size),
        block_size_(kBlockBytes / width_),
        scratch_(channel.scratch(static_cast<size_t>(2 * (channel.size() - 1) * kBlockBytes))) {}

  int64_t num_blocks() const { return (part_size_ + block_size_ - 1) / block_size_; }

  /// Sends every rank its block `b` and receives the others' contributions to this rank's.
  Messages post_contributions(int64_t b) {
    Messages messages;
    for (int peer = 0; peer < channel_.size(); ++peer) {
      if (peer == channel_.rank()) continue;
      const std::span<std::byte> own = block(channel_.rank(), b), theirs = block(peer, b);
      if (!own.empty())
        messages.push_back(
            channel_.recv(peer, StreamId::collective_payload(), std::span(slot(peer, b), own.size())));
      if (!theirs.empty()) messages.push_back(channel_.send(peer, StreamId::collective_payload(), theirs));
    }
    return messages;
  }

  /// own part, block b = op over all contributions.
  void sum(int64_t b, ReduceOp reduce_op) {
    const std::span<std::byte> own = block(channel_.rank(), b);
    std::vector<const std::byte*> sources;
    for (int rank = 0; rank < channel_.size(); ++rank)
      sources.push_back(rank == channel_.rank() ? own.data() : slot(rank, b));
    const auto n = static_cast<int64_t>(own.size()) / width_;
    reduce(dtype_, reduce_op, sources, own_part_ + b * block_size_ * width_, n);
  }

  /// Sends this rank's block of the result to all and receives theirs in place. Only after the contributions
  /// of this block have left: they lie where the results go.
  void post_results(int64_t b, Messages& messages) {
    for (int peer = 0; peer < channel_.size(); ++peer) {
      if (peer == channel_.rank()) continue;
      const std::span<std::byte> own = block(channel_.rank(), b), theirs = block(peer, b);
      if (!theirs.empty()) messages.push_back(channel_.recv(peer, StreamId::collective_payload(), theirs));
      if (!own.empty()) messages.push_back(channel_.send(peer, StreamId::collective_payload(), own));
    }
  }

 private:
  std::span<std::byte> block(int part, int64_t b) const {
    const int64_t part_end = std::min(numel_, (part + 1) * part_size_);
    const int64_t begin = std::min(part_end, part * part_size_ + b * block_size_);
    const int64_t end = std::min(part_end, begin + block_size_);
    return {base_ + begin * width_, static_cast<size_t>((end - begin) * width_)};
  }
  /// Where `peer`'s contribution to block `b` lands: two blocks are under way at a time.
  std::byte* slot(int peer, int64_t b) const {
    const int64_t index = peer < channel_.rank() ? peer : peer - 1;
    return scratch_.data() + (2 * index + b % 2) * kBlockBytes;
  }

  Channel& channel_;
  std::byte* base_;
  std::byte* own_part_;
  DType dtype_;
  int64_t width_;  // bytes an element
  int64_t numel_;
  int64_t part_size_;   // elements a rank
  int64_t block_size_;  // elements
  std::span<std::byte> scratch_;
};

}  // namespace

Task reduce_scatter_task(Operation& op, Tensor input, Tensor output, ReduceOp reduce_op) {
  Meeting meeting(op, make_header(op, input.dtype(), reduce_op));
  co_await op.all(meeting.arrivals());
  meeting.check();
  BlockExchange exchange(*op.channel, input, output, output.numel());
  std::array<Messages, 2> contributions;
  for (int64_t b = 0; b <= exchange.num_blocks(); ++b) {
    if (b < exchange.num_blocks()) contributions[b % 2] = exchange.post_contributions(b);
    if (b == 0) continue;
    co_await op.all(std::move(contributions[(b - 1) % 2]));
    exchange.sum(b - 1, reduce_op);
  }
  co_await op.all(meeting.departures());
}

namespace {

/// The whole tensor behind the header: every rank forms every sum, in the same order.
Task small_all_reduce_task(Operation& op, Tensor t, ReduceOp reduce_op) {
  auto* values = static_cast<std::byte*>(t.raw());
  Meeting meeting(op, make_header(op, t.dtype(), reduce_op), {values, t.bytes()});
  co_await op.all(meeting.arrivals());
  meeting.check();
  std::vector<const std::byte*> sources;
  for (int rank = 0; rank < op.channel->size(); ++rank)
    sources.push_back(rank == op.channel->rank() ? values : meeting.inlined(rank));
  reduce(t.dtype(), reduce_op, sources, values, t.numel());
  co_await op.all(meeting.departures());
}

Task large_all_reduce_task(Operation& op, Tensor t, ReduceOp reduce_op) {
  Meeting meeting(op, make_header(op, t.dtype(), reduce_op));
  co_await op.all(meeting.arrivals());
  meeting.check();
  const int64_t ranks = op.channel->size();
  const int64_t part_size = ((t.numel() + ranks - 1) / ranks + kPartAlign - 1) / kPartAlign * kPartAlign;
  const int64_t own_begin = std::min(t.numel(), op.channel->rank() * part_size);
  BlockExchange exchange(*op.channel, t, t.flat_view(own_begin, {t.numel() - own_begin}), part_size);
  std::array<Messages, 2> contributions;
  Messages rest = meeting.departures();
  for (int64_t b = 0; b <= exchange.num_blocks(); ++b) {
    if (b < exchange.num_blocks()) contributions[b % 2] = exchange.post_contributions(b);
    if (b == 0) continue;
    co_await op.all(std::move(contributions[(b - 1) % 2]));
    exchange.sum(b - 1, reduce_op);
    exchange.post_results(b - 1, rest);
  }
  co_await op.all(std::move(rest));
}

}  // namespace

Task all_reduce_task(Operation& op, Tensor t, ReduceOp reduce_op) {
  return t.bytes() <= kMaxInlineBytes ? small_all_reduce_task(op, std::move(t), reduce_op)
                                      : large_all_reduce_task(op, std::move(t), reduce_op);
}

}  // namespace trireme::comm
