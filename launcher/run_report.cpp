#include "launcher/run_report.h"

#include <fmt/format.h>

namespace trireme {

RunReport::RunReport(const RunConfig& run, int64_t resumed_step, double flops_per_token, double peak_flops)
    : run_(run),
      flops_per_token_(flops_per_token),
      peak_flops_(peak_flops),
      metrics_(std::filesystem::path(run.out) / "metrics.jsonl", resumed_step),
      tensorboard_(run.tensorboard ? std::make_unique<TensorboardWriter>(run.out, resumed_step) : nullptr),
      printer_(stdout, output_is_terminal(), run.log_every) {}

void RunReport::step(const StepMetrics& metrics, size_t memory_bytes) {
  metrics_.write(metrics);
  if (tensorboard_) tensorboard_->write(metrics);
  remaining_.add_step(metrics.step_ms);
  if (metrics.skipped) ++skipped_;
  Progress p;
  p.step = metrics.step;
  p.steps = run_.steps;
  p.loss = metrics.loss;
  p.valid_loss = valid_loss_;
  p.lr = metrics.lr;
  p.grad_norm = metrics.grad_norm;
  p.loss_scale = metrics.loss_scale;
  p.tokens_per_s = metrics.tokens_per_s;
  if (peak_flops_ > 0) p.peak_share = metrics.tokens_per_s * flops_per_token_ / peak_flops_;
  p.memory_bytes = memory_bytes;
  p.left_s = remaining_.left_s(run_.steps - metrics.step);
  p.skipped_steps = skipped_;
  printer_.show(p);
}

void RunReport::validation(int64_t step, const Evaluation& evaluation) {
  valid_loss_ = evaluation.loss;
  const ValidMetrics metrics{step, evaluation.loss, evaluation.bits_per_byte(), evaluation.tokens};
  metrics_.write(metrics);
  if (tensorboard_) tensorboard_->write(metrics);
  const auto bits = evaluation.bits_per_byte();
  printer_.note(fmt::format("step {}: validation loss {:.4f}{}", step, evaluation.loss,
                            bits ? fmt::format(", {:.3f} bits per byte", *bits) : ""));
}

}  // namespace trireme
