// Adafactor on the host: one parameter at a time, in three passes over its gradient. Sums are taken over
// blocks of rows that do not depend on the number of threads, so neither do the results.
#include <cmath>
#include <vector>

#include "optim/cpu/flat_update.h"
#include "optim/cpu/kernels.h"

namespace trireme {

namespace {
constexpr int64_t kRowBlocks = 16;  // partial column sums
}

int64_t adafactor_scratch_numel(const Shape& shape_ARC) {
  const int64_t A = shape_ARC[0], R = shape_ARC[1], C = shape_ARC[2];
  return kRowBlocks * C + A * C + 2 * A * R;
}

namespace cpu {
namespace {

// One call's sizes, settings and places in the scratch.
struct Job {
  int64_t A, R, C;  // matrices, rows, columns
  float keep, add;  // b_t and 1 - b_t
  float eps, multiplier;
  int num_threads;
  float* block_sums_BC;   // B = kRowBlocks
  float* col_factors_AC;  // 1 / sqrt(col)
  float* row_factors_AR;  // sqrt(mean(row) / row)
  float* row_squares_AR;  // sum of u^2 of each row
};

// row = b row + (1-b) mean over C of s ; block_sums = sum over the block's rows of s, with s = g^2 + eps.
void square_rows(const Job& job, const float* grad_RC, float* row_R) {
  const int64_t block_rows = (job.R + kRowBlocks - 1) / kRowBlocks;
#pragma omp parallel for schedule(static) num_threads(job.num_threads)
  for (int64_t block = 0; block < kRowBlocks; ++block) {
    float* sums = job.block_sums_BC + block * job.C;
    std::fill_n(sums, job.C, 0.0f);
    for (int64_t r = block * block_rows; r < std::min(job.R, (block + 1) * block_rows); ++r) {
      const float* g = grad_RC + r * job.C;
      float total = 0.0f;
#pragma omp simd reduction(+ : total)
      for (int64_t c = 0; c < job.C; ++c) {
        const float scaled = g[c] * job.multiplier;
        const float square = scaled * scaled + job.eps;
        sums[c] += square;
        total += square;
      }
      row_R[r] = job.keep * row_R[r] + job.add * (total / static_cast<float>(job.C));
    }
  }
}

// col = b col + (1-b) mean over R of s, from the block sums; then the factors of this matrix.
void make_factors(const Job& job, const float* row_R, float* col_C, float* row_factors_R,
                  float* col_factors_C) {
  for (int64_t c = 0; c < job.C; ++c) {
    float total = 0.0f;
    for (int64_t block = 0; block < kRowBlocks; ++block) total += job.block_sums_BC[block * job.C + c];
    col_C[c] = job.keep * col_C[c] + job.add * (total / static_cast<float>(job.R));
    col_factors_C[c] = 1.0f / std::sqrt(col_C[c]);
  }
  double sum = 0.0;
  for (int64_t r = 0; r < job.R; ++r) sum += row_R[r];
  const auto mean = static_cast<float>(sum / static_cast<double>(job.R));
  for (int64_t r = 0; r < job.R; ++r) row_factors_R[r] = std::sqrt(mean / row_R[r]);
}

// The root mean square of u over the parameter.
double update_rms(const Job& job, const float* grad_ARC) {
#pragma omp parallel for schedule(static) num_threads(job.num_threads)
  for (int64_t ar = 0; ar < job.A * job.R; ++ar) {
    const float* g = grad_ARC + ar * job.C;
    const float* col_factors = job.col_factors_AC + ar / job.R * job.C;
    float total = 0.0f;
#pragma omp simd reduction(+ : total)
    for (int64_t c = 0; c < job.C; ++c) {
      const float u = g[c] * job.multiplier * job.row_factors_AR[ar] * col_factors[c];
      total += u * u;
    }
    job.row_squares_AR[ar] = total;
  }
  double sum = 0.0;
  for (int64_t ar = 0; ar < job.A * job.R; ++ar) sum += job.row_squares_AR[ar];
  return std::sqrt(sum / static_cast<double>(job.A * job.R * job.C));
}

// Without factors: row = b row + (1-b) s, in place of both; the factors become 1 and 1 / sqrt(row).
void square_elements(const Job& job, const float* grad_C, float* row_C) {
  job.row_factors_AR[0] = 1.0f;
#pragma omp simd
  for (int64_t c = 0; c < job.C; ++c) {
    const float g = grad_C[c] * job.multiplier;
    row_C[c] = job.keep * row_C[c] + job.add * (g * g + job.eps);
    job.col_factors_AC[c] = 1.0f / std::sqrt(row_C[c]);
  }
}

template <class Low>
void apply_update(const Job& job, FlatUpdate& update, Low* rounded, float step_size, float decay) {
  float* weights = update.weights.data<float>();
  const float* grad = update.grad.data<float>();
#pragma omp parallel for schedule(static) num_threads(job.num_threads)
  for (int64_t ar = 0; ar < job.A * job.R; ++ar) {
    const float factor = step_size * job.row_factors_AR[ar];
    const float* col_factors = job.col_factors_AC + ar / job.R * job.C;
    const int64_t begin = ar * job.C;
    update_range(weights, rounded, grad, begin, begin + job.C, decay, job.multiplier,
                 [=](int64_t i, float g) { return factor * (g * col_factors[i - begin]); });
  }
}

void adafactor(Context& ctx, const AdafactorSettings& settings, FlatUpdate& update,
               const Tensor& control_tensor, const Tensor& applied_steps, Tensor& row, Tensor& col,
               Tensor& scratch) {
  const StepControl control = control_of(control_tensor);
  if (control.apply == 0.0f || update.grad.numel() == 0) return;
  const int64_t A = update.grad.dim(0), R = update.grad.dim(1), C = update.grad.dim(2);
  const double keep =
      1.0 - std::pow(static_cast<double>(applied_steps.item<int64_t>()), settings.decay_power);
  float* base = scratch.data<float>();
  const Job job{A,
                R,
                C,
                static_cast<float>(keep),
                static_cast<float>(1.0 - keep),
                static_cast<float>(settings.eps),
                control.multiplier,
                ctx.backend->num_threads(),
                base,
                base + kRowBlocks * C,
                base + kRowBlocks * C + A * C,
                base + kRowBlocks * C + A * C + A * R};
  const float* grad = update.grad.data<float>();
  if (!col.defined()) {
    square_elements(job, grad, row.data<float>());
  } else {
    for (int64_t a = 0; a < A; ++a) {
      float* row_R = row.data<float>() + a * R;
      square_rows(job, grad + a * R * C, row_R);
      make_factors(job, row_R, col.data<float>() + a * C, job.row_factors_AR + a * R,
                   job.col_factors_AC + a * C);
    }
  }
  const double too_long = std::max(1.0, update_rms(job, grad) / settings.clip_threshold);
  const auto step_size = static_cast<float>(control.lr / too_long);
  const float decay = runs_of(update)[0].decays != 0 ? decay_of(update, control) : 0.0f;
  if (!update.rounded.defined())
    return apply_update(job, update, static_cast<void*>(nullptr), step_size, decay);
  if (update.rounded.dtype() == DType::bf16)
    return apply_update(job, update, update.rounded.data<bf16>(), step_size, decay);
  apply_update(job, update, update.rounded.data<f16>(), step_size, decay);
}

}  // namespace

void add_adafactor_kernel(Backend& backend) {
  backend.add_kernel<AdafactorKernel>(&adafactor);
}

}  // namespace cpu
}  // namespace trireme
