// A small set of parameters in buckets and shards, of odd sizes and several dimensions, for the optimizers'
// tests.
#pragma once

#include <cstring>
#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "core/nn/buckets.h"
#include "optim/kernels.h"
#include "optim/optimizer.h"

namespace trireme::testing {

struct WorldOptions {
  int threads = 1;
  DType dtype = DType::f32;
  bool split = false;  // each bucket in two shards, cut inside of parameters
};

struct World {
  explicit World(const WorldOptions& options = {}) : World(options, make_cpu_backend(options.threads)) {}
  /// On another device; weights() and bits() below are for the host alone.
  World(const WorldOptions& options, std::unique_ptr<Backend> backend)
      : engine(std::move(backend)), ctx(engine.context()) {
    register_optimizer_kernels(engine.backend());
    add("wte.weight", {37, 19});
    add("h.0.ln.weight", {19});
    add("h.0.mlp.up.weight", {23, 19});
    add("h.0.mlp.up.bias", {23});
    add("kernels", {3, 5, 7});
    add("temperature", {1});
    add("head.weight", {130, 301});  // enough elements for two threads
    std::vector<Parameter*> all;
    for (Parameter& p : parameters) all.push_back(&p);
    buckets = plan_buckets(all, 64 << 10, 2 * kParameterAlign);
    allocate_buckets(ctx, buckets, options.dtype);
    init_parameters(ctx, all, 7);
    for (const Bucket& bucket : buckets) {
      const int64_t cut = options.split ? bucket.numel / 2 / kParameterAlign * kParameterAlign : bucket.numel;
      shards.push_back(make_shard(bucket, 0, cut));
      if (cut < bucket.numel) shards.push_back(make_shard(bucket, cut, bucket.numel));
    }
  }

  void add(const std::string& name, Shape shape) {
    Parameter p;
    p.name = name;
    p.shape = shape;
    p.init = Init::normal(0.5f);
    p.decay = shape.rank() >= 2;
    parameters.push_back(p);
  }
  Parameter& operator[](const std::string& name) {
    for (Parameter& p : parameters)
      if (p.name == name) return p;
    throw InternalError("no parameter " + name);
  }

  /// Gradients that depend on the step and the parameter's name alone.
  void set_gradients(int step) {
    std::vector<float> values;
    for (Parameter& p : parameters) {
      Parameter noise;
      noise.name = p.name + ".grad";
      noise.shape = p.shape;
      noise.init = Init::normal(0.1f);
      values.resize(static_cast<size_t>(p.shape.numel()));
      init_values(noise, static_cast<uint64_t>(step), values);
      ctx.backend->copy(p.grad.raw(), values.data(), p.grad.bytes(), *ctx.stream);
    }
  }
  void step(Optimizer& optimizer, int step, StepControl control) {
    set_gradients(step);
    optimizer.step(ctx, shards, make_control(ctx, control));
  }

  /// Every bit of the weights.
  std::vector<std::byte> weights() const {
    std::vector<std::byte> all;
    for (const Bucket& bucket : buckets) append(all, bucket.data);
    return all;
  }
  static std::vector<std::byte> bits(const OptimizerState& state) {
    std::vector<std::byte> all;
    for (const auto& s : state.flat) append(all, s.values);
    for (const auto& s : state.whole) append(all, s.values);
    for (const auto& s : state.scalars) append(all, s.value);
    return all;
  }
  static void append(std::vector<std::byte>& all, const Tensor& t) {
    const auto* begin = static_cast<const std::byte*>(t.raw());
    all.insert(all.end(), begin, begin + t.bytes());
  }

  Engine engine;
  Context ctx;
  std::deque<Parameter> parameters;
  std::vector<Bucket> buckets;
  std::vector<Shard> shards;
};

inline OptimConfig config_of(const std::string& kind) {
  OptimConfig config;
  config.kind = kind;
  config.lr = 0.01;
  config.weight_decay = 0.1;
  return config;
}

}  // namespace trireme::testing
