// What the tests of training share: a small run on tokens of its own, in a folder of its own.
#pragma once

#include <gtest/gtest.h>

#include "comm/local/local_world.h"
#include "comm/solo_group.h"
#include "launcher/trainer.h"
#include "tests/temporary_folder.h"
#include "tests/launcher/token_file.h"

namespace trireme {

namespace fs = std::filesystem;

class TrainerTest : public ::testing::Test {
 protected:
  TrainerTest() { write_token_file(folder_ / "train.bin", 4001, squares(60)); }

  Config config(const std::string& out) const {
    Config c;
    c.model.layers = 2, c.model.heads = 2, c.model.width = 32, c.model.context = 32, c.model.vocab = 64;
    c.model.dropout = 0.1;
    c.data.train = {{(folder_ / "train.bin").string(), 1.0}};
    c.batch.global = 8, c.batch.micro = 2;
    c.optim.lr = 1e-2;
    c.optim.schedule = {"cosine", 3, 0.1, 0};
    c.run.steps = 10;
    c.run.device = "cpu";
    c.run.threads = 1;
    c.run.out = (folder_ / out).string();
    c.run.tensorboard = false;
    c.checkpoint.every = 0;
    return c;
  }
  static std::vector<StepMetrics> steps(Trainer& trainer, int count) {
    std::vector<StepMetrics> all;
    for (int i = 0; i < count; ++i) all.push_back(trainer.step());
    return all;
  }
  static std::vector<float> weights(const Trainer& trainer) {
    std::vector<float> all;
    for (const Parameter* p : trainer.model().parameters())
      for (int64_t i = 0; p->data.defined() && i < p->data.numel(); ++i)  // another stage's has no memory here
        all.push_back(p->data.dtype() == DType::f32 ? p->data.data<float>()[i] : static_cast<float>(p->data.data<bf16>()[i]));
    return all;
  }
  std::vector<StepMetrics> alone(const Config& c, int count) {
    SoloGroup group;
    Trainer trainer(c, group);
    return steps(trainer, count);
  }

  TemporaryFolder folder_;
};

}  // namespace trireme
