// Ranks that are threads, each with a GPU, for tests of their groups.
#pragma once

#include <chrono>
#include <functional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "comm/device_group.h"
#include "comm/local/local_world.h"
#include "comm/staged_group.h"
#include "core/context.h"
#include "core/recorder.h"
#include "tests/comm/test_tensor.h"

namespace trireme {

using Seconds = std::chrono::duration<double>;

/// One rank's GPU: its own where there are enough.
struct GpuRank {
  explicit GpuRank(Group& world, const DeviceGroupOptions& options = {})
      : engine(make_cuda_backend({.index = world.rank() % num_cuda_devices()})),
        ctx(engine.context()),
        group(make_device_group(world, engine.backend(), "gradients", options)) {}
  Tensor filled(int64_t n, float value) {
    const std::vector<float> values(static_cast<size_t>(n), value);
    return ctx.from_host<float>(values, {n});
  }
  std::vector<float> read(const Tensor& t) {
    std::vector<float> values(static_cast<size_t>(t.numel()));
    ctx.backend->copy(values.data(), t.raw(), t.bytes(), *ctx.stream);
    ctx.stream->synchronize();
    return values;
  }
  Work all_reduce(const Tensor& t, std::string_view label) {
    return group->all_reduce(t, ReduceOp::sum, label, ctx.stream);
  }
  /// As a run does, when nothing is under way, and with a meeting behind it: the first time a rank asks for page-locked memory,
  /// for which CUDA may wait for all GPUs of the process.
  std::unique_ptr<Recording> record(Group& world, const std::function<void()>& body, const std::function<void()>& undo = [] {}) {
    ctx.stream->synchronize();
    world.barrier("before").wait();
    auto recording = ctx.recorder->record(body, undo);
    world.barrier("recorded").wait();
    return recording;
  }
  bool is_staged() const { return dynamic_cast<const comm::StagedGroup*>(group.get()) != nullptr; }

  Engine engine;
  Context ctx;
  std::unique_ptr<Group> group;
};

/// The message of the E that two ranks end with whose group is connected, and how long it took. Each asks for `options()`.
template <class E>
std::pair<std::string, Seconds> failure_of(int64_t timeout_ms, bool connected,
                                           const std::function<void(Group&, GpuRank&)>& body,
                                           const std::function<DeviceGroupOptions()>& options = [] { return DeviceGroupOptions(); }) {
  std::chrono::steady_clock::time_point begin;
  const std::string text = message_of<E>([&] {
    LocalWorld(2, {.timeout_ms = 60'000}).run([&](Group& world) {
      GpuRank rank(world, options());
      if (connected) rank.group->barrier("start").wait();
      rank.group->set_options({.timeout_ms = timeout_ms});
      world.barrier("begin").wait();
      if (world.rank() == 0) begin = std::chrono::steady_clock::now();
      body(world, rank);
    });
  });
  return {text, std::chrono::steady_clock::now() - begin};
}

inline void stay_away(Group& world) {
  while (!world.failure()) std::this_thread::sleep_for(std::chrono::milliseconds(5));
}

}  // namespace trireme
