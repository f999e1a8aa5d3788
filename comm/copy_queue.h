// CopyQueue: hands the steps of a rank's copies (comm/copy_plan.h) to its device, never far ahead of it. A
// device takes about a thousand commands; who has more is held up until it goes on, and where it waits for a
// peer that is gone, nobody would notice.
#pragma once

#include <deque>
#include <vector>

#include "comm/copy_plan.h"

namespace trireme::comm {

/// What runs steps. Lanes are its streams.
class CopyDevice {
 public:
  virtual ~CopyDevice() = default;
  /// Behind all that the lane was given before; must not wait.
  virtual void queue(const CopyStep& step) = 0;
  /// Whether this rank has told that: a step that was queued.
  virtual bool has_told(const CopyStep& step) = 0;
};

class CopyQueue {
 public:
  /// Of lanes that may be given `max_ahead` commands before the first of them is done, and a piece at least.
  CopyQueue(int rank, int num_ranks, size_t num_lanes, size_t buffer_bytes, size_t max_ahead);

  /// Plans the next operation, in the order that all ranks have; the one before it is all queued. Its lanes, in
  /// the order of their first steps: the first one has its first step.
  std::vector<size_t> begin(const CopyArray& array);
  /// Queues what there is room for; true when that is all.
  bool go_on(CopyDevice& device);
  /// Queues waits, in the lanes, for all that was queued, and gives the numbers of `count` pieces that are planned elsewhere:
  /// CopyPlanner::skip.
  uint32_t skip(uint32_t count, CopyDevice& device);
  /// Of the operation that was begun.
  size_t last_lane() const { return steps_.back().lane; }
  /// Of the last piece that was planned; they count from 1.
  uint32_t last_number() const { return planner_.last_number(); }

 private:
  struct Piece {
    CopyStep last;
    size_t commands;
  };
  /// Whose pieces come one after the other.
  struct Lane {
    std::deque<Piece> ahead;  // queued as a whole, and not done when it was last looked at
    size_t commands = 0;      // of those
    size_t present = 0;       // commands of the piece that is queued in part
  };
  size_t commands_of(const CopyStep& step) const;
  bool has_room(Lane& lane, CopyDevice& device) const;

  const size_t num_peers_, max_ahead_;
  CopyPlanner planner_;
  std::vector<Lane> lanes_;
  std::vector<CopyStep> steps_;
  size_t next_ = 0;  // of the steps
};

}  // namespace trireme::comm
