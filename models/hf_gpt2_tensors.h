// Which tensor of Hugging Face's GPT-2 is which of Trireme's, for both directions.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "core/shape.h"
#include "models/model_config.h"

namespace trireme {

struct HfTensor {
  std::string hf_name;  // with the prefix "transformer."
  std::string name;     // of Trireme's parameter; "" where it has none: Hugging Face's is all zeros (a bias)
  Shape hf_shape;
  bool transposed = false;  // Conv1D's weight is [in, out], Linear's [out, in]
  bool vocab_rows = false;  // dim 0 is the vocabulary: Trireme's may have padding after it
};

/// All tensors of a model, in the order in which they are written. `config` resolved.
std::vector<HfTensor> hf_gpt2_tensors(const ModelConfig& config);

/// Name without the prefix that models with a head have and models without one lack.
std::string without_hf_prefix(const std::string& hf_name);

/// The causal masks that old files carry: "h.3.attn.bias". `hf_name` without prefix.
bool is_hf_mask(const std::string& hf_name);

/// target [columns, rows] = source [rows, columns] transposed.
void transpose(std::span<const float> source, int64_t rows, int64_t columns, std::span<float> target);

}  // namespace trireme
