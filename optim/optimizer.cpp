#include "optim/optimizer.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "core/text.h"
#include "optim/optimizers.h"
#include "optim/schedule.h"

namespace trireme {
namespace {

void check_range(const char* key, double value, double low, double high) {
  if (!(value >= low && value < high))
    throw ConfigError(fmt::format("optim.{}: wanted a number in [{}, {}), got {}", key, low, high, value));
}

void check_config(const OptimConfig& config) {
  check_schedule(config);
  check_range("betas[0]", config.betas[0], 0.0, 1.0);
  check_range("betas[1]", config.betas[1], 0.0, 1.0);
  check_range("momentum", config.momentum, 0.0, 1.0);
  check_range("weight_decay", config.weight_decay, 0.0, HUGE_VAL);
  if (!(config.eps > 0.0 && std::isfinite(config.eps)))
    throw ConfigError(fmt::format("optim.eps: wanted a number above 0, such as 1e-8, got {}", config.eps));
  if (config.kind == "sgd" && config.nesterov && config.momentum == 0.0)
    throw ConfigError("optim.nesterov: needs a momentum, and optim.momentum is 0; set it to 0.9, say");
}

}  // namespace

bool decays(const OptimConfig& config, const Parameter& parameter) {
  return parameter.decay && std::ranges::none_of(config.no_decay, [&](const std::string& part) {
           return parameter.name.find(part) != std::string::npos;
         });
}

std::unique_ptr<Optimizer> make_optimizer(const OptimConfig& config, std::optional<StochasticRounding> rounding) {
  check_config(config);
  if (config.kind == "adamw") return std::make_unique<Adamw>(config, rounding);
  if (config.kind == "sgd") return std::make_unique<Sgd>(config, rounding);
  if (config.kind == "lion") return std::make_unique<Lion>(config, rounding);
  if (config.kind == "adafactor" && rounding)
    throw ConfigError("precision.master: false works with adamw, sgd and lion, and optim.kind is adafactor, which needs f32 "
                      "master weights; set precision.master to true, or choose one of the three");
  if (config.kind == "adafactor") return std::make_unique<Adafactor>(config);
  const std::string nearest =
      nearest_name(config.kind, std::vector<std::string>{"adamw", "sgd", "lion", "adafactor"});
  throw ConfigError(fmt::format("optim.kind: '{}' is none of adamw, sgd, lion, adafactor{}", config.kind,
                                nearest.empty() ? "" : "; did you mean " + nearest + "?"));
}

void Adamw::update(Context& ctx, FlatUpdate& shard, const Tensor& control, std::span<Tensor> slots) {
  const AdamwSettings settings{config_.betas[0], config_.betas[1], config_.eps};
  ctx.kernel<AdamwKernel>()(ctx, settings, shard, control, applied_steps_, slots[0], slots[1]);
}

void Sgd::update(Context& ctx, FlatUpdate& shard, const Tensor& control, std::span<Tensor> slots) {
  Tensor none;
  ctx.kernel<SgdKernel>()(ctx, {config_.momentum, config_.nesterov}, shard, control,
                          slots.empty() ? none : slots[0]);
}

void Lion::update(Context& ctx, FlatUpdate& shard, const Tensor& control, std::span<Tensor> slots) {
  ctx.kernel<LionKernel>()(ctx, {config_.betas[0], config_.betas[1]}, shard, control, slots[0]);
}

}  // namespace trireme
