// The `optim` section of an experiment file.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

namespace trireme {

struct ScheduleConfig {
  std::string kind = "constant";  // constant | linear | cosine | wsd | inverse_sqrt
  int64_t warmup = 0;             // steps; step s of w uses lr * min(1, s / w)
  double final = 0.0;             // lr at the last step, as a share of the peak
  int64_t decay = 0;              // wsd: steps of the decay at the end; 0: a tenth of the run
};

struct OptimConfig {
  std::string kind = "adamw";  // adamw | sgd | lion | adafactor
  double lr = 3.0e-4;
  std::array<double, 2> betas{0.9, 0.95};
  double eps = 1.0e-8;
  double momentum = 0.9;              // sgd
  bool nesterov = false;              // sgd
  double weight_decay = 0.1;          // on parameters of two or more dimensions, and not on no_decay
  std::vector<std::string> no_decay;  // substrings of parameter names without weight decay
  double clip = 1.0;                  // global gradient norm; 0: no clipping
  double skip_zscore = 0.0;  // skip a step whose loss or gradient norm lies this many deviations high; 0: off
  int64_t skip_window = 100;  // steps that mean and deviation are taken over
  ScheduleConfig schedule;
};

}  // namespace trireme
