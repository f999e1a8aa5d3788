// The kernel that every element-wise optimizer runs on a GPU: one pass over weights, gradient and state, 16 bytes at a
// time. An element's result depends on that element alone.
#pragma once

#include "core/backend/cuda/device.cuh"
#include "optim/kernels.h"

namespace trireme::cuda {

constexpr int kUpdateThreads = 256;
constexpr int kMaxSlots = 2;

struct FlatPointers {
  int64_t n;  // elements
  int num_runs;
  const DecayRun* runs;
  const float* control;  // a StepControl
  const int64_t* applied_steps;
  float weight_decay;
  float* weights;
  const float* grad;
  float* slots[kMaxSlots];
};

__device__ inline const StepControl& control_on_device(const float* control) {
  return *reinterpret_cast<const StepControl*>(control);
}

/// Whether element i decays. Runs are in order and touch; what lies behind the last one is padding.
__device__ inline bool decays_at(const FlatPointers& p, int64_t i) {
  int low = 0, high = p.num_runs - 1;
  while (low < high) {
    const int middle = (low + high) / 2;
    if (i < p.runs[middle].end) high = middle;
    else low = middle + 1;
  }
  return p.runs[low].decays != 0;
}

/// Rule: `static constexpr int kSlots`; `Constants constants(const StepControl&, int64_t steps) const`, computed once a
/// block; `float step(const Constants&, float g, float* slots) const`, what w shrinks by.
template <class Low, class Rule>
__global__ void __launch_bounds__(kUpdateThreads) flat_update_kernel(FlatPointers p, Low* rounded, Rule rule) {
  __shared__ typename Rule::Constants constants;
  const StepControl control = control_on_device(p.control);
  if (control.apply == 0.0f) return;
  if (threadIdx.x == 0) constants = rule.constants(control, p.applied_steps ? *p.applied_steps : 0);
  __syncthreads();
  const float decay = control.lr * p.weight_decay;
  const int64_t end = p.runs[p.num_runs - 1].end;
  const auto update = [&](int64_t i, bool decays, float w, float g, float* slots) {
    return w - ((decays ? decay : 0.0f) * w + rule.step(constants, g * control.multiplier, slots));
  };
  const int64_t packs = end / 4, stride = int64_t{gridDim.x} * blockDim.x;
  const int64_t thread = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  for (int64_t pack = thread; pack < packs; pack += stride) {
    const int64_t i = 4 * pack;
    Pack<float> w = load_pack_once(p.weights + i);
    const Pack<float> g = load_pack_once(p.grad + i);
    Pack<float> s[kMaxSlots];
#pragma unroll
    for (int slot = 0; slot < Rule::kSlots; ++slot) s[slot] = load_pack_once(p.slots[slot] + i);
    const bool first = decays_at(p, i), last = decays_at(p, i + 3);
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      float slots[kMaxSlots];
#pragma unroll
      for (int slot = 0; slot < Rule::kSlots; ++slot) slots[slot] = s[slot].v[k];
      const bool decays = first == last ? first : decays_at(p, i + k);
      w.v[k] = update(i + k, decays, w.v[k], g.v[k], slots);
#pragma unroll
      for (int slot = 0; slot < Rule::kSlots; ++slot) s[slot].v[k] = slots[slot];
    }
    store_pack_once(p.weights + i, w);
#pragma unroll
    for (int slot = 0; slot < Rule::kSlots; ++slot) store_pack_once(p.slots[slot] + i, s[slot]);
    if constexpr (!std::is_void_v<Low>) {
      struct alignas(8) Four {
        Low v[4];
      } low;
#pragma unroll
      for (int k = 0; k < 4; ++k) low.v[k] = from_float<Low>(w.v[k]);
      *reinterpret_cast<Four*>(rounded + i) = low;
    }
  }
  for (int64_t i = 4 * packs + thread; i < end; i += stride) {
    float slots[kMaxSlots];
#pragma unroll
    for (int slot = 0; slot < Rule::kSlots; ++slot) slots[slot] = p.slots[slot][i];
    const float w = update(i, decays_at(p, i), p.weights[i], p.grad[i], slots);
    p.weights[i] = w;
#pragma unroll
    for (int slot = 0; slot < Rule::kSlots; ++slot) p.slots[slot][i] = slots[slot];
    if constexpr (!std::is_void_v<Low>) rounded[i] = from_float<Low>(w);
  }
}

/// w -= decay w + rule.step(g multiplier) for every element, unless the step is skipped. Shards begin where a bucket's
/// parameters do, on 16 bytes.
template <class Rule>
void flat_update(Context& ctx, const char* name, FlatUpdate& update, const Tensor& control, const Tensor& applied_steps,
                 std::initializer_list<Tensor> slots, const Rule& rule) {
  static_assert(Rule::kSlots <= kMaxSlots);
  if (update.runs.dim(0) == 0) return;
  FlatPointers p{};
  p.n = update.weights.numel();
  p.num_runs = static_cast<int>(update.runs.dim(0));
  p.runs = reinterpret_cast<const DecayRun*>(elements<int64_t>(update.runs));
  p.control = elements<float>(control);
  p.applied_steps = elements<int64_t>(applied_steps);
  p.weight_decay = static_cast<float>(update.weight_decay);
  p.weights = elements<float>(update.weights);
  p.grad = elements<float>(update.grad);
  int i = 0;
  bool aligned = is_aligned(p.weights) && is_aligned(p.grad);
  for (const Tensor& slot : slots) {
    p.slots[i] = elements<float>(slot);
    aligned = aligned && is_aligned(p.slots[i++]);
  }
  TRIREME_ASSERT(aligned && (!update.rounded.defined() || reinterpret_cast<uintptr_t>(update.rounded.raw()) % 8 == 0),
                 "a shard must begin on 16 bytes");
  const int blocks = grid_size(p.n, 4 * kUpdateThreads, 132 * 8);
  const auto stream = raw_stream(ctx);
  if (!update.rounded.defined())
    flat_update_kernel<<<blocks, kUpdateThreads, 0, stream>>>(p, static_cast<void*>(nullptr), rule);
  else if (update.rounded.dtype() == DType::bf16)
    flat_update_kernel<<<blocks, kUpdateThreads, 0, stream>>>(p, elements<__nv_bfloat16>(update.rounded), rule);
  else
    flat_update_kernel<<<blocks, kUpdateThreads, 0, stream>>>(p, elements<__half>(update.rounded), rule);
  check_launch(name);
}

}  // namespace trireme::cuda
