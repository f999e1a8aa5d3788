#include "models/hf_gpt2_tensors.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/error.h"

namespace trireme {
namespace {

constexpr std::string_view kPrefix = "transformer.";

/// Collects weight and bias of one layer after the other.
class Builder {
 public:
  explicit Builder(bool bias) : bias_(bias) {}

  void norm(const std::string& name, int64_t width) {
    add(name + ".weight", name + ".weight", {width});
    add(name + ".bias", bias_ ? name + ".bias" : "", {width});
  }
  void conv1d(const std::string& hf_name, const std::string& name, int64_t in, int64_t out) {
    add(hf_name + ".weight", name + ".weight", {in, out});
    tensors.back().transposed = true;
    add(hf_name + ".bias", bias_ ? name + ".bias" : "", {out});
  }
  HfTensor& add(const std::string& hf_name, const std::string& name, const Shape& hf_shape) {
    return tensors.emplace_back(HfTensor{std::string(kPrefix) + hf_name, name, hf_shape});
  }

  std::vector<HfTensor> tensors;

 private:
  bool bias_;
};

}  // namespace

std::vector<HfTensor> hf_gpt2_tensors(const ModelConfig& c) {
  Builder b(c.bias);
  b.add("wte.weight", "wte.weight", {c.true_vocab, c.width}).vocab_rows = true;
  b.add("wpe.weight", "wpe.weight", {c.context, c.width});
  for (int64_t i = 0; i < c.layers; ++i) {
    const std::string h = fmt::format("h.{}.", i);
    b.norm(h + "ln_1", c.width);
    b.conv1d(h + "attn.c_attn", h + "attn.qkv", c.width, 3 * c.width);
    b.conv1d(h + "attn.c_proj", h + "attn.proj", c.width, c.width);
    b.norm(h + "ln_2", c.width);
    b.conv1d(h + "mlp.c_fc", h + "mlp.up", c.width, c.ffn);
    b.conv1d(h + "mlp.c_proj", h + "mlp.down", c.ffn, c.width);
  }
  b.norm("ln_f", c.width);
  if (!c.tied) {
    b.add("lm_head.weight", "head.weight", {c.true_vocab, c.width}).vocab_rows = true;
    b.tensors.back().hf_name = "lm_head.weight";  // beside the transformer, not in it
  }
  return b.tensors;
}

std::string without_hf_prefix(const std::string& hf_name) {
  return hf_name.starts_with(kPrefix) ? hf_name.substr(kPrefix.size()) : hf_name;
}

bool is_hf_mask(const std::string& hf_name) {
  return hf_name.starts_with("h.") &&
         (hf_name.ends_with(".attn.bias") || hf_name.ends_with(".attn.masked_bias"));
}

void transpose(std::span<const float> source, int64_t rows, int64_t columns, std::span<float> target) {
  TRIREME_ASSERT(source.size() == target.size() && static_cast<int64_t>(source.size()) == rows * columns,
                 "transpose: sizes differ");
  constexpr int64_t kTile = 32;  // both tiles stay in the first cache
  for (int64_t r0 = 0; r0 < rows; r0 += kTile)
    for (int64_t c0 = 0; c0 < columns; c0 += kTile)
      for (int64_t r = r0; r < std::min(r0 + kTile, rows); ++r)
        for (int64_t c = c0; c < std::min(c0 + kTile, columns); ++c)
          target[static_cast<size_t>(c * rows + r)] = source[static_cast<size_t>(r * columns + c)];
}

}  // namespace trireme
