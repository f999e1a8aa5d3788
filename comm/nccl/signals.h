// Kernel: what ranks that copy pieces tell each other and wait for (comm/copy_plan.h), for recordings. A replay's numbers are
// others each time, so they are counted from one in device memory. (The driver's commands for streams, which shared_words.h
// has, can be given others before each replay, but took some 40 us each in a graph: docs/performance.md.)
#pragma once

#include <cuda_runtime_api.h>

#include <array>
#include <cstddef>
#include <cstdint>

namespace trireme::comm {

struct Signal {
  uint32_t kind = 0;    // a CopyStep::Word
  uint32_t number = 0;  // of the piece, counted from Signals::first
  bool is_told = false;  // by this rank; or else awaited from all others
};

/// In their order, but for those side by side that are all told, or all awaited: these have none.
struct Signals {
  static constexpr size_t kMost = 8;
  uint32_t* words = nullptr;        // of all ranks (piece_words.h), as the device reaches them
  uint32_t* given_up = nullptr;     // not 0: nobody is awaited any longer
  const uint32_t* first = nullptr;  // device memory: the number before the first piece's
  int rank = 0, num_ranks = 0;
  uint32_t count = 0;
  std::array<Signal, kMost> signals{};
};

/// Makes the next call launch at once, as load_sum_parts() does. IoError when it can't be loaded.
void load_signals();

/// In the order of the stream: what it wrote before is visible to who awaits what is told, and what others wrote before they
/// told is visible to what comes next. One warp, which spins meanwhile. IoError when it can't be launched.
void signal(const Signals& signals, cudaStream_t stream);

}  // namespace trireme::comm
