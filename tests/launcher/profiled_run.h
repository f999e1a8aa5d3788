// A run of six steps on one rank, the fourth and fifth of which are profiled, for the tests of hosts and of GPUs.
#pragma once

#include <filesystem>
#include <string>

#include "comm/solo_group.h"
#include "core/files.h"
#include "launcher/trainer.h"

namespace trireme {

struct Profiled {
  std::string table, timeline;  // what the run's files hold
};

inline Profiled profiled_run(Config c) {
  c.run.steps = 6;
  c.run.eval_every = 0;
  c.run.profile.steps = {4, 5};
  c.checkpoint.at_end = false;
  SoloGroup group;
  Trainer(c, group).run();
  const std::filesystem::path out(c.run.out);
  return {read_text(out / "profile-00000.txt"), read_text(out / "trace-00000.json")};
}

}  // namespace trireme
