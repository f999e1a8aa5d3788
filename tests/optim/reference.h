// The optimizers' rules once more, in double precision and as plainly as their papers say them, to test
// against.
#pragma once

#include <cmath>
#include <map>
#include <string>
#include <vector>

#include "optim/optimizer.h"

namespace trireme::testing {

using Doubles = std::vector<double>;

/// One parameter's weights and state.
class Reference {
 public:
  Reference(const OptimConfig& config, const Parameter& p)
      : config_(config), shape_(p.shape), decay_(decays(config, p) ? config.weight_decay : 0.0) {
    for (int64_t i = 0; i < p.shape.numel(); ++i)
      w.push_back(p.data.dtype() == DType::f32 ? p.data.span<float>()[i] : float(p.data.span<bf16>()[i]));
    m.resize(w.size());
    v.resize(w.size());
  }

  void step(std::span<const float> grad, double multiplier, double lr) {
    ++t_;
    Doubles g(grad.begin(), grad.end());
    for (double& x : g) x *= multiplier;
    for (double& x : w) x -= lr * decay_ * x;
    if (config_.kind == "adafactor") return adafactor(g, lr);
    for (size_t i = 0; i < w.size(); ++i) w[i] -= lr * direction(i, g[i]);
  }

  Doubles w, m, v;

 private:
  double direction(size_t i, double g) {
    const double b1 = config_.betas[0], b2 = config_.betas[1];
    if (config_.kind == "sgd") {
      m[i] = config_.momentum * m[i] + g;
      return config_.nesterov ? g + config_.momentum * m[i] : m[i];
    }
    if (config_.kind == "lion") {
      const double c = b1 * m[i] + (1 - b1) * g;
      m[i] = b2 * m[i] + (1 - b2) * g;
      return (c > 0) - (c < 0);
    }
    m[i] = b1 * m[i] + (1 - b1) * g;
    v[i] = b2 * v[i] + (1 - b2) * g * g;
    return m[i] / (1 - std::pow(b1, t_)) / (std::sqrt(v[i] / (1 - std::pow(b2, t_))) + config_.eps);
  }

  // The second moments' estimates: full for vectors, row by column for each matrix.
  void adafactor(const Doubles& g, double lr) {
    const double b = 1 - std::pow(t_, -0.8);
    const bool factored = shape_.rank() >= 2;
    const auto C = static_cast<size_t>(shape_[-1]), R = factored ? static_cast<size_t>(shape_[-2]) : 1;
    rows_.resize(w.size() / C);
    cols_.resize(w.size() / R);
    Doubles u(g.size());
    for (size_t a = 0; a < w.size() / (R * C); ++a) {
      Doubles row(R), col(C);
      for (size_t r = 0; r < R; ++r)
        for (size_t c = 0; c < C; ++c) {
          const double s = g[(a * R + r) * C + c] * g[(a * R + r) * C + c] + 1e-30;
          row[r] += s / static_cast<double>(C);
          col[c] += s / static_cast<double>(R);
        }
      double mean = 0;
      for (size_t r = 0; r < R; ++r) {
        rows_[a * R + r] = b * rows_[a * R + r] + (1 - b) * row[r];
        mean += rows_[a * R + r] / static_cast<double>(R);
      }
      for (size_t c = 0; c < C; ++c) cols_[a * C + c] = b * cols_[a * C + c] + (1 - b) * col[c];
      for (size_t r = 0; r < R; ++r)
        for (size_t c = 0; c < C; ++c) {
          const double estimate = factored ? rows_[a * R + r] * cols_[a * C + c] / mean : cols_[a * C + c];
          u[(a * R + r) * C + c] = g[(a * R + r) * C + c] / std::sqrt(estimate);
        }
    }
    double squares = 0;
    for (double x : u) squares += x * x;
    const double rms = std::sqrt(squares / static_cast<double>(u.size()));
    for (size_t i = 0; i < w.size(); ++i) w[i] -= lr * u[i] / std::max(1.0, rms);
  }

  OptimConfig config_;
  Shape shape_;
  double decay_;
  double t_ = 0;
  Doubles rows_, cols_;
};

}  // namespace trireme::testing
