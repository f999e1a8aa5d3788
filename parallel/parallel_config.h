// The `parallel` and `sync` sections of an experiment file.
#pragma once

#include <cstdint>
#include <string>

namespace trireme {

/// Sizes of the mesh's axes. `data` 0 is "auto": the ranks that the other axes leave.
struct ParallelConfig {
  int64_t data = 0;
  int64_t context = 1;
  int64_t expert = 1;
  int64_t pipeline = 1;
  int64_t tensor = 1;
};

struct SyncConfig {
  std::string mode = "all_reduce";
  double bucket_mb = 25.0;  // MiB of f32 gradient a bucket
  bool overlap = true;      // send buckets off while backward is running
  int64_t nccl_ctas = 0;    // thread blocks of the GPU that NCCL takes for a communicator; 0: its choice
};

}  // namespace trireme
