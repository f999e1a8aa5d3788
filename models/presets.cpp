#include "models/presets.h"

#include <fmt/format.h>

#include <array>
#include <vector>

#include "core/error.h"
#include "core/text.h"

namespace trireme {
namespace {

struct Preset {
  const char* name;
  int64_t layers, heads, width, context, vocab;
};
// GPT-2's sizes (Radford et al., 2019), the vocabulary of 50257 padded to a multiple of 64.
constexpr std::array kPresets{Preset{"gpt2-124m", 12, 12, 768, 1024, 50304},
                              Preset{"gpt2-350m", 24, 16, 1024, 1024, 50304},
                              Preset{"gpt2-774m", 36, 20, 1280, 1024, 50304},
                              Preset{"gpt2-1558m", 48, 25, 1600, 1024, 50304},
                              Preset{"char", 6, 6, 384, 256, 0},
                              Preset{"tiny", 2, 2, 32, 32, 0}};

void check(bool fits, const std::string& message) {
  if (!fits) throw ConfigError("model: " + message);
}

}  // namespace

std::vector<std::string> preset_names() {
  std::vector<std::string> names;
  for (const Preset& p : kPresets) names.emplace_back(p.name);
  return names;
}

void apply_preset(const std::string& name, ModelConfig& config) {
  for (const Preset& p : kPresets) {
    if (name != p.name) continue;
    config.preset = name;
    config.kind = "gpt";
    config.layers = p.layers;
    config.heads = p.heads;
    config.width = p.width;
    config.context = p.context;
    config.vocab = p.vocab;
    return;
  }
  const std::vector<std::string> names = preset_names();
  const std::string near = nearest_name(name, names);
  throw ConfigError(fmt::format("model.preset: no preset '{}'{}; the presets are {}", name,
                                near.empty() ? "" : " (did you mean " + near + "?)", fmt::join(names, ", ")));
}

int64_t padded_vocab(int64_t tokens) {
  constexpr int64_t kMultiple = 64;
  return (tokens + kMultiple - 1) / kMultiple * kMultiple;
}

ModelConfig resolve_model(ModelConfig c) {
  check(c.kind == "gpt", fmt::format("kind '{}' is not known; the kinds are: gpt", c.kind));
  check(c.layers > 0 && c.heads > 0 && c.width > 0 && c.context > 0,
        "layers, heads, width and context must be above 0");
  constexpr int64_t kMostLayers = 10'000;
  check(c.layers <= kMostLayers, fmt::format("layers = {} is more than {}", c.layers, kMostLayers));
  check(c.vocab > 0, "vocab is not known: set model.vocab, or train on data made by `trireme prepare`");
  check(c.width % c.heads == 0,
        fmt::format("width = {} does not divide into {} heads; set width to {} or {}", c.width, c.heads,
                    c.width / c.heads * c.heads, (c.width / c.heads + 1) * c.heads));
  if (c.true_vocab == 0) c.true_vocab = c.vocab;
  check(c.true_vocab <= c.vocab,
        fmt::format("true_vocab = {} is more than vocab = {}", c.true_vocab, c.vocab));
  if (c.kv_heads == 0) c.kv_heads = c.heads;
  check(c.heads % c.kv_heads == 0,
        fmt::format("kv_heads = {} does not divide heads = {}; use a divisor of {}", c.kv_heads, c.heads,
                    c.heads));
  check(c.width / c.heads <= 256,
        fmt::format("width / heads = {} is more than the 256 that attention takes; use more heads",
                    c.width / c.heads));
  if (c.ffn == 0) c.ffn = 4 * c.width;
  check(c.dropout >= 0.0 && c.dropout < 1.0, fmt::format("dropout = {} must lie in [0, 1)", c.dropout));
  check(c.recompute == "none" || c.recompute == "selective" || c.recompute == "full",
        fmt::format("recompute '{}' is not known; use none, selective or full", c.recompute));
  return c;
}

}  // namespace trireme
