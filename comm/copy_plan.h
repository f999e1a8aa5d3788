// CopyPlanner: how ranks that reach each other's memory sum and gather arrays by copies alone, as lists of
// steps. What runs them is comm/nccl/peer_copies.h; here is no device.
//
// A rank has a buffer with a place for a piece from each other rank, and one for a piece of its own that the
// others fetch. All-reduce: each rank puts what others are to sum into their buffers, sums its own part, and
// fetches theirs. A reduce-scatter is the first half of that, an all-gather the second. Larger arrays go
// piece by piece. Pieces take turns in lanes, which have places of their own, and a piece is put before the
// one ahead of it is fetched: copies of a device may run in the order in which they were queued, whatever the
// lane. Each array begins in the first lane, so that what a rank has planned before changes nothing but numbers: one may
// run a plan that was made once, for a recording, and another one plan anew.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "comm/operation.h"

namespace trireme::comm {

/// An array of `num_ranks` parts of `part` bytes each, of which the last ones are cut off at `bytes`. An
/// all-reduce has it as input and output, a reduce-scatter as input and one part as output, an all-gather the
/// other way round.
struct CopyArray {
  OpKind kind;  // one of these three
  size_t part, bytes;
};

/// Of an all-reduce of `bytes`: parts of whole multiples of `alignment`.
CopyArray split_evenly(size_t bytes, int num_ranks, size_t alignment);

struct CopyStep {
  enum class Kind : uint8_t { copy, sum, tell, await };
  enum class Word : uint8_t { pushed, summed, fetched };  // how far a rank is with a piece
  struct Spot {
    enum class In : uint8_t { nowhere, input, output, buffer } in = In::nowhere;
    size_t offset = 0;  // bytes
    int rank = 0;       // whose buffer
  };

  Kind kind;
  size_t lane;
  bool is_last = false;  // of its piece; such a step tells
  /// copy: `bytes` from `from` to `to`. sum: of this rank's, at `from`, and those at `received` and every
  /// `stride` bytes from there, in the order of their ranks; to `to` and, if it is somewhere, to `also_to`.
  Spot from{}, to{}, also_to{}, received{};
  size_t bytes = 0, stride = 0;
  /// tell: this rank is so far with piece `number`. await: all others are.
  Word word{};
  uint32_t number = 0;
};

class CopyPlanner {
 public:
  /// Of buffers of `buffer_bytes`; 2 ranks or more.
  CopyPlanner(int rank, int num_ranks, size_t num_lanes, size_t buffer_bytes);

  /// The steps of one lane are run one after another, and those of all lanes may be queued in this order. All
  /// ranks plan the same operations in the same order, and a lane goes on with the next where it ends with
  /// this one.
  std::vector<CopyStep> plan(const CopyArray& array);
  /// Steps by which a rank knows that all are done with all that was planned, as they are when nothing was.
  std::vector<CopyStep> settle();
  /// Of the last piece that was planned; they count from 1, modulo 2^32.
  uint32_t last_number() const { return number_; }
  /// Numbers for pieces that another planner has planned, beginning behind what is settled, and settled: those after the
  /// last one until now, which is what this gives.
  uint32_t skip(uint32_t count);

 private:
  struct Lane {
    // The pieces that used its places last and were not waited for.
    std::optional<uint32_t> last_summed, last_fetched;
  };
  struct Piece {
    size_t lane, offset;  // within each part
    uint32_t number;
  };
  bool sums(const CopyArray& array) const { return array.kind != OpKind::all_gather; }
  bool shows(const CopyArray& array) const { return array.kind != OpKind::reduce_scatter; }
  size_t bytes_of(const CopyArray& array, int rank, size_t offset) const;
  CopyStep::Spot place_of(int owner, int from, size_t lane) const;
  void copy(const Piece& piece, CopyStep::Spot from, CopyStep::Spot to, size_t bytes);
  void tell(const Piece& piece, CopyStep::Word word);
  void await(size_t lane, CopyStep::Word word, std::optional<uint32_t>& number);
  void put_and_sum(const CopyArray& array, const Piece& piece);
  void show(const CopyArray& array, const Piece& piece);
  void fetch(const CopyArray& array, const Piece& piece);

  const int rank_, num_ranks_;
  const size_t piece_bytes_;
  std::vector<Lane> lanes_;
  uint32_t number_ = 0;
  std::vector<CopyStep> steps_;  // of the plan that is being made
};

}  // namespace trireme::comm
