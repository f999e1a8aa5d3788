// The `parallel` and `sync` sections of an experiment file.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace trireme {

/// Sizes of the mesh's axes. `data` 0 is "auto": the ranks that the other axes leave.
struct ParallelConfig {
  int64_t data = 0;
  int64_t context = 1;
  int64_t expert = 1;
  int64_t pipeline = 1;
  int64_t tensor = 1;
  std::vector<std::string> order{"data", "context", "expert", "pipeline", "tensor"};  // neighbours last
  bool sequence = false;          // tensor ranks divide the tokens between the matrices too
  std::string overlap = "auto";   // of the tensor ranks' exchanges: on, off, or auto: on GPUs
  std::string schedule = "1f1b";  // of the pipeline: a name, or a CSV file's path
  int64_t chunks = 0;             // stages of a pipeline rank; 0: what the schedule has
  std::vector<int64_t> stages{};  // blocks a stage; empty: cut by cost
};

struct SyncConfig {
  std::string mode = "all_reduce";
  double bucket_mb = 25.0;  // MiB of f32 gradient a bucket
  bool overlap = true;      // send buckets off while backward is running
  int64_t nccl_ctas = 0;    // thread blocks of the GPU that NCCL takes for a communicator; 0: its choice
  std::string copy_engines = "auto";  // or off
};

}  // namespace trireme
