// nn::Embedding: a table of rows, looked up by token.
#pragma once

#include "core/nn/module.h"
#include "core/ops/embedding.h"

namespace trireme::nn {

class Embedding : public Module {
 public:
  /// weight [rows, width], of which this rank has what `placement` says.
  Embedding(Module* parent, std::string name, int64_t rows, int64_t width, Init init, const Placement& placement = {})
      : Module(parent, std::move(name)), weight_(add_parameter("weight", {rows, width}, init, placement)) {}

  /// tokens i32 [B, T] -> [B*T, width]; `positions` adds its rows, of the places `at` where the tokens stand.
  Tensor operator()(Context& ctx, const Tensor& tokens, Embedding* positions = nullptr, TokenPositions at = {}) {
    return embedding(ctx, tokens, weight_, positions ? &positions->weight_ : nullptr, at);
  }
  Parameter& weight() const { return weight_; }
  DType dtype() const { return weight_.data.dtype(); }

 private:
  Parameter& weight_;
};

}  // namespace trireme::nn
