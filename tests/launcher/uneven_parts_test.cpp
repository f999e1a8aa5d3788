// Tensor ranks whose parts differ in size: buckets of gradients that end at different places on them would
// make one wait for a sum over the tensor ranks while the other one waits in an exchange of activations.
#include <gtest/gtest.h>


#include "comm/local/local_world.h"
#include "comm/solo_group.h"
#include "launcher/trainer.h"
#include "tests/temporary_folder.h"
#include "tests/launcher/token_file.h"

namespace trireme {
namespace {

Config config(const std::filesystem::path& folder, double bucket_mb) {
  Config c;
  c.model.layers = 3, c.model.heads = 3, c.model.kv_heads = 1, c.model.width = 48, c.model.context = 16,
  c.model.vocab = 64;
  c.data.train = {{(folder / "train.bin").string(), 1.0}};
  c.batch.global = 2, c.batch.micro = 2;
  c.parallel.sequence = true;
  c.sync.bucket_mb = bucket_mb;
  c.run.steps = 2;
  c.run.device = "cpu";
  c.run.threads = 1;
  c.run.timeout_s = 10;
  c.run.out = (folder / "run").string();
  c.run.tensorboard = false;
  c.checkpoint.every = 0;
  return c;
}

std::vector<double> losses(const Config& c, Group& world) {
  Trainer trainer(c, world);
  return {trainer.step().loss, trainer.step().loss};
}

// One rank has two heads, the other one. The sizes are such that a bucket holds a block and about two thirds
// of the next.
TEST(UnevenPartsTest, BucketsOfAnySizeDoNotMakeRanksWaitForEachOther) {
  const TemporaryFolder folder;
  write_token_file(folder / "train.bin", 401, squares(60));
  SoloGroup solo;
  const std::vector<double> alone = losses(config(folder.path(), 25.0), solo);
  for (const double bucket_mb : {0.0865, 0.0875, 0.0885, 0.0895}) {
    LocalWorld(2).run([&](Group& world) {
      ASSERT_EQ(world.size(), 2);
      Config c = config(folder.path(), bucket_mb);
      c.parallel.tensor = 2;
      const std::vector<double> found = losses(c, world);
      for (size_t i = 0; i < alone.size(); ++i) EXPECT_NEAR(found[i], alone[i], 1e-5 * alone[i]) << bucket_mb;
    });
  }
}

}  // namespace
}  // namespace trireme
