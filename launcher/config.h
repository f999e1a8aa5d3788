// The whole of an experiment file: one struct a section, defaults in the structs, and the functions that read
// and write it. Reading is strict: an unknown key, a wrong type or a value out of range is a ConfigError that
// names the file, the line and the way out. Paths in a config are relative to the current directory.
#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>

#include "core/data/data_config.h"
#include "launcher/precision.h"
#include "models/model_config.h"
#include "optim/optim_config.h"
#include "parallel/parallel_config.h"

namespace trireme {

struct BatchConfig {
  int64_t global = 64;   // samples of one step, over all ranks
  int64_t micro = 8;     // samples of one forward and backward pass on one rank
  int64_t sequence = 0;  // tokens of a sample; 0: model.context
};

struct ProfileConfig {
  std::array<int64_t, 2> steps{0, 0};  // the first and the last; 0: none
};

struct RunConfig {
  std::string device = "auto";  // auto | cpu | cuda
  int64_t seed = 1;
  int64_t steps = 1000;
  int64_t eval_every = 100;  // steps; 0: never
  int64_t eval_batches = 20;
  int64_t log_every = 10;  // steps between lines where the output is not a terminal
  std::string out = "runs/trireme";
  int64_t threads = 0;  // 0 ("auto"): OMP_NUM_THREADS, or all cores
  int64_t timeout_s = 300;
  bool deterministic = true;         // the same bits each time
  std::string cuda_graph = "auto";   // auto | whole | pieces | off
  bool trace = false;
  ProfileConfig profile;
  int64_t trace_steps = 10;
  bool tensorboard = true;
};

struct CheckpointConfig {
  int64_t every = 500;          // steps; 0: only at the end and on a signal
  bool at_end = true;
  int64_t keep = 3;             // 0: all
  std::string resume = "auto";  // auto | never | a checkpoint's folder
  std::string init_from;        // a checkpoint whose weights a new run starts from
  int64_t timeout_s = 1800;     // for the others' disks
};

struct Config {
  ModelConfig model;
  DataConfig data;
  BatchConfig batch;
  ParallelConfig parallel;
  SyncConfig sync;
  PrecisionConfig precision;
  OptimConfig optim;
  RunConfig run;
  CheckpointConfig checkpoint;
};

/// Reads an experiment file. Each override is "section.key=value", the value in YAML, and replaces what the
/// file says. A preset's values apply first, then the keys that file and overrides give. ConfigError when
/// anything is wrong.
Config load_config(const std::filesystem::path& file, std::span<const std::string> overrides = {});

/// The same for YAML text; `source_name` is what errors call it.
Config parse_config(const std::string& text, const std::string& source_name,
                    std::span<const std::string> overrides = {});

/// Every key with its value; parse_config() of it gives an equal config.
std::string to_yaml(const Config& config);

/// The reference of all sections and keys with defaults, as Markdown: the text of docs/config.md.
std::string config_reference();

}  // namespace trireme
