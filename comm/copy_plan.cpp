#include "comm/copy_plan.h"

#include <algorithm>
#include <utility>

#include "core/error.h"

namespace trireme::comm {
namespace {

using Kind = CopyStep::Kind;
using Spot = CopyStep::Spot;
using Word = CopyStep::Word;

constexpr size_t kPieceAlignment = 256;

}  // namespace

CopyArray split_evenly(size_t bytes, int num_ranks, size_t alignment) {
  const size_t together = static_cast<size_t>(num_ranks) * alignment;
  return {OpKind::all_reduce, (bytes + together - 1) / together * alignment, bytes};
}

CopyPlanner::CopyPlanner(int rank, int num_ranks, size_t num_lanes, size_t buffer_bytes)
    : rank_(rank),
      num_ranks_(num_ranks),
      piece_bytes_(buffer_bytes / num_lanes / static_cast<size_t>(num_ranks) / kPieceAlignment *
                   kPieceAlignment),
      lanes_(num_lanes) {
  TRIREME_ASSERT(num_ranks > 1 && piece_bytes_ > 0, "copies of one rank, or no room for them");
}

/// Of `rank`'s part, what the piece at `offset` has.
size_t CopyPlanner::bytes_of(const CopyArray& array, int rank, size_t offset) const {
  const size_t begin = static_cast<size_t>(rank) * array.part + offset;
  const size_t end = std::min(array.bytes, (static_cast<size_t>(rank) + 1) * array.part);
  return begin < end ? std::min(piece_bytes_, end - begin) : 0;
}

/// In the buffer of `owner`: where rank `from` puts a piece, or the owner himself shows one.
Spot CopyPlanner::place_of(int owner, int from, size_t lane) const {
  const int place = from == owner ? num_ranks_ - 1 : from < owner ? from : from - 1;
  const size_t index = lane * static_cast<size_t>(num_ranks_) + static_cast<size_t>(place);
  return {Spot::In::buffer, index * piece_bytes_, owner};
}

void CopyPlanner::copy(const Piece& piece, Spot from, Spot to, size_t bytes) {
  if (bytes > 0)
    steps_.push_back(
        {.kind = Kind::copy, .lane = piece.lane, .from = from, .to = to, .bytes = bytes});
}

void CopyPlanner::tell(const Piece& piece, Word word) {
  steps_.push_back(
      {.kind = Kind::tell, .lane = piece.lane, .word = word, .number = piece.number});
}

/// Then nobody has to any longer.
void CopyPlanner::await(size_t lane, Word word, std::optional<uint32_t>& number) {
  if (number) steps_.push_back({.kind = Kind::await, .lane = lane, .word = word, .number = *number});
  number.reset();
}

// Each rank begins with another peer, so that no link has to carry all of them at once.

void CopyPlanner::put_and_sum(const CopyArray& array, const Piece& piece) {
  Lane& lane = lanes_[piece.lane];
  await(piece.lane, Word::summed, lane.last_summed);
  for (int i = 1; i < num_ranks_; ++i) {
    const int peer = (rank_ + i) % num_ranks_;
    copy(piece, {Spot::In::input, static_cast<size_t>(peer) * array.part + piece.offset},
         place_of(peer, rank_, piece.lane), bytes_of(array, peer, piece.offset));
  }
  tell(piece, Word::pushed);
  steps_.push_back({.kind = Kind::await, .lane = piece.lane, .word = Word::pushed, .number = piece.number});
  lane.last_summed = piece.number;

  const size_t own = static_cast<size_t>(rank_) * array.part + piece.offset;
  CopyStep sum{.kind = Kind::sum, .lane = piece.lane};
  sum.from = {Spot::In::input, own};
  sum.to = {Spot::In::output, shows(array) ? own : piece.offset};
  if (shows(array)) {
    await(piece.lane, Word::fetched, lane.last_fetched);
    sum.also_to = place_of(rank_, rank_, piece.lane);
  }
  sum.received = place_of(rank_, rank_ == 0 ? 1 : 0, piece.lane);
  sum.bytes = bytes_of(array, rank_, piece.offset);
  sum.stride = piece_bytes_;
  if (sum.bytes > 0) steps_.push_back(sum);
  tell(piece, Word::summed);
  steps_.back().is_last = !shows(array);
}

/// Of an all-gather: what the sum is elsewhere.
void CopyPlanner::show(const CopyArray& array, const Piece& piece) {
  await(piece.lane, Word::fetched, lanes_[piece.lane].last_fetched);
  const Spot own{Spot::In::input, piece.offset};
  const size_t bytes = bytes_of(array, rank_, piece.offset);
  copy(piece, own, place_of(rank_, rank_, piece.lane), bytes);
  tell(piece, Word::summed);
  copy(piece, own, {Spot::In::output, static_cast<size_t>(rank_) * array.part + piece.offset}, bytes);
}

void CopyPlanner::fetch(const CopyArray& array, const Piece& piece) {
  Lane& lane = lanes_[piece.lane];
  lane.last_summed = piece.number;  // and so those before
  await(piece.lane, Word::summed, lane.last_summed);
  for (int i = 1; i < num_ranks_; ++i) {
    const int peer = (rank_ + i) % num_ranks_;
    copy(piece, place_of(peer, peer, piece.lane),
         {Spot::In::output, static_cast<size_t>(peer) * array.part + piece.offset},
         bytes_of(array, peer, piece.offset));
  }
  tell(piece, Word::fetched);
  steps_.back().is_last = true;
  lane.last_fetched = piece.number;
}

std::vector<CopyStep> CopyPlanner::plan(const CopyArray& array) {
  std::optional<Piece> to_fetch;
  const auto fetch_last = [&] {
    if (to_fetch) fetch(array, *to_fetch);
    to_fetch.reset();
  };
  for (size_t offset = 0, lane = 0; offset < array.part; offset += piece_bytes_, lane = (lane + 1) % lanes_.size()) {
    const Piece piece{lane, offset, ++number_};
    if (lanes_.size() == 1) fetch_last();
    sums(array) ? put_and_sum(array, piece) : show(array, piece);
    fetch_last();
    if (shows(array)) to_fetch = piece;
  }
  fetch_last();
  return std::exchange(steps_, {});
}

std::vector<CopyStep> CopyPlanner::settle() {
  for (size_t lane = 0; lane < lanes_.size(); ++lane) {
    await(lane, Word::summed, lanes_[lane].last_summed);
    await(lane, Word::fetched, lanes_[lane].last_fetched);
  }
  return std::exchange(steps_, {});
}

uint32_t CopyPlanner::skip(uint32_t count) { return std::exchange(number_, number_ + count); }

}  // namespace trireme::comm
