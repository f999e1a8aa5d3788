// Steps of one rank whose ends the host comes late to, for the tests of hosts and of GPUs.
#pragma once

#include <chrono>
#include <thread>
#include <vector>

#include "comm/solo_group.h"
#include "core/nn/buckets.h"
#include "launcher/train_step.h"
#include "models/presets.h"
#include "optim/kernels.h"
#include "parallel/all_reduce_reducer.h"

namespace trireme {

/// The times of two steps, both launched `late` before the first is collected; what is slow the first time is over by then.
inline std::vector<std::chrono::duration<double>> times_of_late_steps(std::unique_ptr<Backend> backend,
                                                                      std::chrono::milliseconds late) {
  register_optimizer_kernels(*backend);
  Engine engine(std::move(backend));
  Context ctx = engine.context();
  ModelConfig model;
  apply_preset("tiny", model);
  model.context = model.vocab = 32;
  model = resolve_model(model);
  const BatchGeometry geometry{.global = 2, .micro = 2, .sequence = 32, .vocab = 32};
  SoloGroup world;
  Mesh mesh({}, world, engine.backend());
  ParallelModel parallel(model, {}, plan_parallel(model, {}, {.micro = 2, .sequence = 32, .micro_batches = 1}, 1), mesh);
  std::vector<Bucket> buckets = plan_buckets(parallel.parameters(), 1 << 20);
  allocate_buckets(ctx, buckets);
  init_parameters(ctx, parallel.parameters(), 1);
  AllReduceReducer reducer(ctx, buckets, parallel.reduce_groups());
  ctx.hooks = &reducer;
  const auto optimizer = make_optimizer({});
  optimizer->attach(ctx, reducer.shards());
  UpdateGuard guard(ctx, {});
  const auto stats = mesh.make_group(0, "step statistics");
  TrainStep steps(ctx, {parallel, reducer, reducer.shards(), *optimizer, guard, *stats}, geometry, 1, 1);
  Batch batch{.num_samples = 2, .sequence = 32, .num_targets = 64, .tokens = std::vector<int32_t>(64, 3), .targets = std::vector<int32_t>(64, 5)};
  const auto launch = [&] {
    ++batch.step;
    steps.launch(batch, 1e-3, {});
  };
  const auto collect = [&] { return std::chrono::duration<double>(steps.collect().seconds); };
  for (int i = 0; i < 2; ++i) launch(), collect();
  launch(), launch();
  std::this_thread::sleep_for(late);
  const auto first = collect(), second = collect();
  return {first, second};
}

}  // namespace trireme
