#include "comm/nccl/recorded_copies.h"

namespace trireme::comm {

RecordedCopies::RecordedCopies(PeerCopies& copies)
    : copies_(copies), planner_(copies.new_planner()), signals_(copies.new_signals()) {}

/// A kernel has all that comes together. What is told waits for the next one, of the same call: its peers wait for it only where
/// this rank comes to wait, too.
void RecordedCopies::add(const CopyStep& step, const DeviceCall& call, cudaStream_t stream) {
  switch (step.kind) {
    case CopyStep::Kind::copy:
    case CopyStep::Kind::sum:
      if (awaits_) flush(stream);
      copies_.move(step, call, stream);
      break;
    case CopyStep::Kind::tell:
    case CopyStep::Kind::await:
      if (signals_.count == Signals::kMost) flush(stream);
      signals_.signals[signals_.count++] = {.kind = static_cast<uint32_t>(step.word),
                                            .number = step.number,
                                            .is_told = step.kind == CopyStep::Kind::tell};
      awaits_ = awaits_ || step.kind == CopyStep::Kind::await;
      break;
  }
}

void RecordedCopies::flush(cudaStream_t stream) {
  if (signals_.count > 0) signal(signals_, stream);
  signals_.count = 0;
  awaits_ = false;
}

void RecordedCopies::add(const DeviceCall& call, cudaStream_t stream) {
  for (const CopyStep& step : planner_.plan(copies_.array_of(call))) add(step, call, stream);
  flush(stream);
}

void RecordedCopies::end(cudaStream_t stream) {
  for (const CopyStep& step : planner_.settle()) add(step, {}, stream);
  flush(stream);
}

}  // namespace trireme::comm
