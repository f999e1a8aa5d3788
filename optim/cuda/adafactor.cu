// Adafactor on a GPU: the passes of the host's kernel over one parameter, each with sums in an order of their own that is
// always the same.
#include "core/backend/cuda/device.cuh"
#include "optim/cuda/flat_update.cuh"
#include "optim/cuda/kernels.h"

namespace trireme::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kRowBlocks = 16;  // partial column sums

/// One parameter [A, R, C] and its places in the scratch, as adafactor_scratch_numel() counts them.
struct Job {
  int64_t A, R, C;
  AdafactorSettings settings;
  const StepControl* control;
  const int64_t* applied_steps;
  const float* grad;
  float *row, *col;       // [A, R], [A, C]
  float* block_sums_BC;   // B = kRowBlocks; its first element then holds the rms of u
  float* col_factors_AC;  // 1 / sqrt(col)
  float* row_factors_AR;  // sqrt(mean(row) / row)
  float* row_squares_AR;  // sum of u^2 of each row

  __device__ bool skipped() const { return control->apply == 0.0f; }
  __device__ float keep() const { return static_cast<float>(1.0 - pow(static_cast<double>(*applied_steps), settings.decay_power)); }
  __device__ float square(float g) const {
    g *= control->multiplier;
    return g * g + static_cast<float>(settings.eps);
  }
};

/// row = b row + (1-b) mean over C of s ; a block a row.
__global__ void __launch_bounds__(kThreads) rows_kernel(Job j) {
  __shared__ float shared[kThreads / kWarp];
  if (j.skipped()) return;
  const float keep = j.keep();
  for (int64_t ar = blockIdx.x; ar < j.A * j.R; ar += gridDim.x) {
    float sum = 0.0f;
    for (int64_t c = threadIdx.x; c < j.C; c += kThreads) sum += j.square(j.grad[ar * j.C + c]);
    sum = block_sum(sum, shared);
    if (threadIdx.x == 0) j.row[ar] = keep * j.row[ar] + (1.0f - keep) * (sum / static_cast<float>(j.C));
  }
}

/// block_sums of matrix `a`: blockIdx.y takes its share of the rows.
__global__ void __launch_bounds__(kThreads) column_sums_kernel(Job j, int64_t a) {
  if (j.skipped()) return;
  const int64_t c = int64_t{blockIdx.x} * kThreads + threadIdx.x, block_rows = (j.R + kRowBlocks - 1) / kRowBlocks;
  if (c >= j.C) return;
  float sum = 0.0f;
  for (int64_t r = blockIdx.y * block_rows; r < min(j.R, (blockIdx.y + 1) * block_rows); ++r) sum += j.square(j.grad[(a * j.R + r) * j.C + c]);
  j.block_sums_BC[blockIdx.y * j.C + c] = sum;
}

__global__ void __launch_bounds__(kThreads) column_factors_kernel(Job j, int64_t a) {
  if (j.skipped()) return;
  const int64_t c = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (c >= j.C) return;
  const float keep = j.keep();
  float sum = 0.0f;
  for (int64_t block = 0; block < kRowBlocks; ++block) sum += j.block_sums_BC[block * j.C + c];
  float& col = j.col[a * j.C + c];
  col = keep * col + (1.0f - keep) * (sum / static_cast<float>(j.R));
  j.col_factors_AC[a * j.C + c] = 1.0f / sqrtf(col);
}

/// One block a matrix.
__global__ void __launch_bounds__(kThreads) row_factors_kernel(Job j) {
  __shared__ float shared[kThreads / kWarp];
  if (j.skipped()) return;
  const float* row = j.row + int64_t{blockIdx.x} * j.R;
  float sum = 0.0f;
  for (int64_t r = threadIdx.x; r < j.R; r += kThreads) sum += row[r];
  const float mean = block_sum(sum, shared) / static_cast<float>(j.R);
  for (int64_t r = threadIdx.x; r < j.R; r += kThreads) j.row_factors_AR[int64_t{blockIdx.x} * j.R + r] = sqrtf(mean / row[r]);
}

/// Without factors: row = b row + (1-b) s ; the factors become 1 and 1 / sqrt(row).
__global__ void __launch_bounds__(kThreads) elements_kernel(Job j) {
  if (j.skipped()) return;
  const int64_t c = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (c == 0) j.row_factors_AR[0] = 1.0f;
  if (c >= j.C) return;
  const float keep = j.keep();
  j.row[c] = keep * j.row[c] + (1.0f - keep) * j.square(j.grad[c]);
  j.col_factors_AC[c] = 1.0f / sqrtf(j.row[c]);
}

__global__ void __launch_bounds__(kThreads) update_squares_kernel(Job j) {
  __shared__ float shared[kThreads / kWarp];
  if (j.skipped()) return;
  const float multiplier = j.control->multiplier;
  for (int64_t ar = blockIdx.x; ar < j.A * j.R; ar += gridDim.x) {
    const float factor = multiplier * j.row_factors_AR[ar];
    float sum = 0.0f;
    for (int64_t c = threadIdx.x; c < j.C; c += kThreads) {
      const float u = j.grad[ar * j.C + c] * factor * j.col_factors_AC[ar / j.R * j.C + c];
      sum += u * u;
    }
    sum = block_sum(sum, shared);
    if (threadIdx.x == 0) j.row_squares_AR[ar] = sum;
  }
}

__global__ void __launch_bounds__(kThreads) rms_kernel(Job j) {
  __shared__ float shared[kThreads / kWarp];
  if (j.skipped()) return;
  float sum = 0.0f;
  for (int64_t ar = threadIdx.x; ar < j.A * j.R; ar += kThreads) sum += j.row_squares_AR[ar];
  sum = block_sum(sum, shared);
  if (threadIdx.x == 0) j.block_sums_BC[0] = sqrtf(sum / static_cast<float>(j.A * j.R * j.C));
}

template <class Low>
__global__ void __launch_bounds__(kThreads) apply_kernel(Job j, const DecayRun* run, float weight_decay, float* weights, Low* rounded) {
  if (j.skipped()) return;
  const float lr = j.control->lr;
  const float step_size = lr / fmaxf(1.0f, j.block_sums_BC[0] / static_cast<float>(j.settings.clip_threshold));
  const float decay = run->decays != 0 ? lr * weight_decay : 0.0f;
  const int64_t n = j.A * j.R * j.C, stride = int64_t{gridDim.x} * kThreads;
  for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < n; i += stride) {
    const int64_t ar = i / j.C, c = i % j.C;
    const float g = j.grad[i] * j.control->multiplier;
    const float w = weights[i] - (decay * weights[i] + step_size * j.row_factors_AR[ar] * (g * j.col_factors_AC[ar / j.R * j.C + c]));
    weights[i] = w;
    if constexpr (!std::is_void_v<Low>) rounded[i] = from_float<Low>(w);
  }
}

template <class Low>
void apply(const Job& job, FlatUpdate& update, Low* rounded, cudaStream_t stream) {
  apply_kernel<<<grid_size(update.grad.numel(), kThreads), kThreads, 0, stream>>>(
      job, reinterpret_cast<const DecayRun*>(elements<int64_t>(update.runs)), static_cast<float>(update.weight_decay),
      elements<float>(update.weights), rounded);
}

void adafactor(Context& ctx, const AdafactorSettings& settings, FlatUpdate& update, const Tensor& control,
               const Tensor& applied_steps, Tensor& row, Tensor& col, Tensor& scratch) {
  if (update.grad.numel() == 0) return;
  const int64_t A = update.grad.dim(0), R = update.grad.dim(1), C = update.grad.dim(2);
  float* base = elements<float>(scratch);
  float *block_sums = base, *col_factors = block_sums + kRowBlocks * C, *row_factors = col_factors + A * C;
  const Job job{A, R, C, settings, reinterpret_cast<const StepControl*>(elements<float>(control)), elements<int64_t>(applied_steps),
                elements<float>(update.grad), elements<float>(row), elements<float>(col), block_sums, col_factors, row_factors,
                row_factors + A * R};
  const auto stream = raw_stream(ctx);
  const int column_blocks = static_cast<int>(ceil_div(C, kThreads)), row_blocks = grid_size(A * R, 1);
  if (!col.defined()) {
    elements_kernel<<<column_blocks, kThreads, 0, stream>>>(job);
  } else {
    rows_kernel<<<row_blocks, kThreads, 0, stream>>>(job);
    for (int64_t a = 0; a < A; ++a) {
      column_sums_kernel<<<dim3(column_blocks, kRowBlocks), kThreads, 0, stream>>>(job, a);
      column_factors_kernel<<<column_blocks, kThreads, 0, stream>>>(job, a);
    }
    row_factors_kernel<<<static_cast<int>(A), kThreads, 0, stream>>>(job);
  }
  update_squares_kernel<<<row_blocks, kThreads, 0, stream>>>(job);
  rms_kernel<<<1, kThreads, 0, stream>>>(job);
  if (!update.rounded.defined())
    apply(job, update, static_cast<void*>(nullptr), stream);
  else if (update.rounded.dtype() == DType::bf16)
    apply(job, update, elements<__nv_bfloat16>(update.rounded), stream);
  else
    apply(job, update, elements<__half>(update.rounded), stream);
  check_launch("adafactor");
}

}  // namespace

void add_adafactor_kernel(Backend& backend) { backend.add_kernel<AdafactorKernel>(&adafactor); }

}  // namespace trireme::cuda
