// RecordedCopies: the copies of one group (peer_copies.h) that are part of a recording. All are in one row, of one stream: a
// device may have a graph's copies wait for one another in any order that the graph allows, and ranks that differ in it might
// wait for each other for ever. So lanes are only places of the buffers here.
#pragma once

#include "comm/nccl/peer_copies.h"

namespace trireme::comm {

class RecordedCopies {
 public:
  /// `copies`, which are connected, outlive it.
  explicit RecordedCopies(PeerCopies& copies);

  /// Records such a call, behind what is recorded of `stream`.
  void add(const DeviceCall& call, cudaStream_t stream);
  /// Behind the last one: all ranks are done with all of them.
  void end(cudaStream_t stream);
  /// Around each replay, as PeerCopies says.
  uint32_t begin_replay() { return copies_.begin_replay(planner_.last_number()); }
  void put_before_replay(uint32_t first, Stream& stream) { copies_.put_before_replay(first, stream); }
  void put_behind_replay(Stream& stream) { copies_.put_behind_replay(stream); }

 private:
  void add(const CopyStep& step, const DeviceCall& call, cudaStream_t stream);
  void flush(cudaStream_t stream);

  PeerCopies& copies_;
  CopyPlanner planner_;
  Signals signals_;      // that are not recorded yet
  bool awaits_ = false;  // with one of them
};

}  // namespace trireme::comm
