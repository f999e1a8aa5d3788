// The kernel that every element-wise optimizer runs on a GPU: one pass over weights, gradient and state, 16 bytes at a
// time. An element's result depends on that element alone.
#pragma once

#include "core/backend/cuda/device.cuh"
#include "optim/kernels.h"
#include "optim/split_master.h"

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
  const float* grad;
  float* slots[kMaxSlots];
};

__device__ inline const StepControl& control_on_device(const float* control) {
  return *reinterpret_cast<const StepControl*>(control);
}

/// The run of element i, which lies before the last run's end. Padding before a run counts as the run's: it holds zeros,
/// which every rule leaves zero.
__device__ inline int run_of(const FlatPointers& p, int64_t i) {
  int low = 0, high = p.num_runs - 1;
  while (low < high) {
    const int middle = (low + high) / 2;
    if (i < p.runs[middle].end) high = middle;
    else low = middle + 1;
  }
  return low;
}

template <class Low>
struct alignas(8) Four {
  Low v[4];
};

/// Where weights are kept: f32, and with Low a type a rounded copy of that.
template <class Low>
struct FullWeights {
  float* weights;
  Low* rounded;

  static constexpr int kBlocksOfSm = 6;  // as many as 40 registers a thread leave room for
  struct Draw {};
  __device__ Pack<float> load(int64_t i) const { return load_pack_once(weights + i); }
  __device__ float load_one(int64_t i) const { return weights[i]; }
  /// What w, that of element i in the given run, is kept as.
  __device__ float settle(float w, int64_t, int, Draw&) const { return w; }
  __device__ void store(int64_t i, const Pack<float>& w) const {
    store_pack_once(weights + i, w);
    if constexpr (!std::is_void_v<Low>) {
      Four<Low> low;
#pragma unroll
      for (int k = 0; k < 4; ++k) low.v[k] = from_float<Low>(w.v[k]);
      *reinterpret_cast<Four<Low>*>(rounded + i) = low;
    }
  }
  __device__ void store_one(int64_t i, float w) const {
    weights[i] = w;
    if constexpr (!std::is_void_v<Low>) rounded[i] = from_float<Low>(w);
  }
};

/// The same for bf16 in whose place and in `rest` the two halves of masters lie (optim/split_master.h).
struct HalvedWeights {
  __nv_bfloat16* weights;
  uint16_t* rest;

  static constexpr int kBlocksOfSm = 6;
  struct Draw {};
  static __device__ float join(uint16_t data, uint16_t rest) { return __uint_as_float(join_master(data, rest)); }
  __device__ Pack<float> load(int64_t i) const {
    const auto data = *reinterpret_cast<const Four<uint16_t>*>(weights + i), low = *reinterpret_cast<const Four<uint16_t>*>(rest + i);
    Pack<float> w;
#pragma unroll
    for (int k = 0; k < 4; ++k) w.v[k] = join(data.v[k], low.v[k]);
    return w;
  }
  __device__ float load_one(int64_t i) const { return join(*reinterpret_cast<const uint16_t*>(weights + i), rest[i]); }
  __device__ float settle(float w, int64_t, int, Draw&) const { return __uint_as_float(settle_master(__float_as_uint(w))); }
  __device__ void store(int64_t i, const Pack<float>& w) const {
    Four<uint16_t> data, low;
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      const uint32_t bits = __float_as_uint(w.v[k]);
      data.v[k] = round_master(bits);
      low.v[k] = rest_of_master(bits, data.v[k]);
    }
    *reinterpret_cast<Four<uint16_t>*>(weights + i) = data;
    *reinterpret_cast<Four<uint16_t>*>(rest + i) = low;
  }
  __device__ void store_one(int64_t i, float w) const {
    const uint32_t bits = __float_as_uint(w);
    const uint16_t data = round_master(bits);
    *reinterpret_cast<uint16_t*>(weights + i) = data;
    rest[i] = rest_of_master(bits, data);
  }
};

/// The same for bf16 alone, rounded at random (optim/stochastic_rounding.h).
struct RandomlyRoundedWeights {
  __nv_bfloat16* weights;
  const RunPlace* places;  // of the runs
  const int64_t* applied_steps;

  static constexpr int kBlocksOfSm = 4;  // 64 registers
  /// The block of random numbers that the last element took its own from: neighbours share it.
  struct Draw {
    uint64_t key = 0;
    int64_t index = -1;
    std::array<uint32_t, 4> block;
  };
  __device__ Pack<float> load(int64_t i) const {
    const auto low = *reinterpret_cast<const Four<__nv_bfloat16>*>(weights + i);
    Pack<float> w;
#pragma unroll
    for (int k = 0; k < 4; ++k) w.v[k] = to_float(low.v[k]);
    return w;
  }
  __device__ float load_one(int64_t i) const { return to_float(weights[i]); }
  __device__ float settle(float w, int64_t i, int run, Draw& draw) const {
    const RunPlace& place = places[run];
    const int64_t element = place.element(i), index = element / kRoundedOfBlock;
    const RandomStream stream = place.stream(*applied_steps);
    if (index != draw.index || stream.key != draw.key)
      draw = {stream.key, index, stream.block(static_cast<uint64_t>(index))};
    const uint32_t bits = round_at_random(__float_as_uint(w), rounding_bits(draw.block, element));
    return __uint_as_float(bits << 16);
  }
  /// What settle() gave is a bf16 already.
  __device__ void store(int64_t i, const Pack<float>& w) const {
    Four<__nv_bfloat16> low;
#pragma unroll
    for (int k = 0; k < 4; ++k) low.v[k] = from_float<__nv_bfloat16>(w.v[k]);
    *reinterpret_cast<Four<__nv_bfloat16>*>(weights + i) = low;
  }
  __device__ void store_one(int64_t i, float w) const { weights[i] = from_float<__nv_bfloat16>(w); }
};

/// Rule: `static constexpr int kSlots`; `Constants constants(const StepControl&, int64_t steps) const`, computed once a
/// block; `float step(const Constants&, float g, float* slots) const`, what w shrinks by.
template <class Weights, class Rule>
__global__ void __launch_bounds__(kUpdateThreads) flat_update_kernel(FlatPointers p, Weights weights, Rule rule) {
  __shared__ typename Rule::Constants constants;
  const StepControl control = control_on_device(p.control);
  if (control.apply == 0.0f) return;
  if (threadIdx.x == 0) constants = rule.constants(control, p.applied_steps ? *p.applied_steps : 0);
  __syncthreads();
  const float decay = control.lr * p.weight_decay;
  const int64_t end = p.runs[p.num_runs - 1].end;
  const auto update = [&](bool decays, float w, float g, float* slots) {
    return w - ((decays ? decay : 0.0f) * w + rule.step(constants, g * control.multiplier, slots));
  };
  const int64_t packs = end / 4, stride = int64_t{gridDim.x} * blockDim.x;
  const int64_t thread = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  for (int64_t pack = thread; pack < packs; pack += stride) {
    const int64_t i = 4 * pack;
    Pack<float> w = weights.load(i);
    const Pack<float> g = load_pack_once(p.grad + i);
    Pack<float> s[kMaxSlots];
#pragma unroll
    for (int slot = 0; slot < Rule::kSlots; ++slot) s[slot] = load_pack_once(p.slots[slot] + i);
    int run = run_of(p, i);
    bool decays = p.runs[run].decays != 0;
    int64_t run_end = p.runs[run].end;
    typename Weights::Draw draw;
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      float slots[kMaxSlots];
#pragma unroll
      for (int slot = 0; slot < Rule::kSlots; ++slot) slots[slot] = s[slot].v[k];
      while (i + k >= run_end) {  // rare: runs begin with parameters, on 64 bytes, or where a shard was cut
        decays = p.runs[++run].decays != 0;
        run_end = p.runs[run].end;
      }
      w.v[k] = weights.settle(update(decays, w.v[k], g.v[k], slots), i + k, run, draw);
#pragma unroll
      for (int slot = 0; slot < Rule::kSlots; ++slot) s[slot].v[k] = slots[slot];
    }
    weights.store(i, w);
#pragma unroll
    for (int slot = 0; slot < Rule::kSlots; ++slot) store_pack_once(p.slots[slot] + i, s[slot]);
  }
  for (int64_t i = 4 * packs + thread; i < end; i += stride) {
    float slots[kMaxSlots];
#pragma unroll
    for (int slot = 0; slot < Rule::kSlots; ++slot) slots[slot] = p.slots[slot][i];
    const int run = run_of(p, i);
    typename Weights::Draw draw;
    weights.store_one(i, weights.settle(update(p.runs[run].decays != 0, weights.load_one(i), p.grad[i], slots), i, run, draw));
#pragma unroll
    for (int slot = 0; slot < Rule::kSlots; ++slot) p.slots[slot][i] = slots[slot];
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
  p.grad = elements<float>(update.grad);
  int i = 0;
  const bool at_random = update.places.defined(), halves = update.rest.defined(), is_low = at_random || halves;
  const Tensor& low = is_low ? update.weights : update.rounded;  // read and written 8 bytes at a time
  bool aligned = (is_low || is_aligned(update.weights.raw())) && is_aligned(p.grad) &&
                 (!halves || reinterpret_cast<uintptr_t>(update.rest.raw()) % 8 == 0);
  for (const Tensor& slot : slots) {
    p.slots[i] = elements<float>(slot);
    aligned = aligned && is_aligned(p.slots[i++]);
  }
  TRIREME_ASSERT(aligned && (!low.defined() || reinterpret_cast<uintptr_t>(low.raw()) % 8 == 0), "a shard must begin on 16 bytes");
  const auto stream = raw_stream(ctx);
  const auto launch = [&]<class Weights>(const Weights& weights) {
    const int blocks = grid_size(p.n, 4 * kUpdateThreads, 132 * Weights::kBlocksOfSm);
    flat_update_kernel<<<blocks, kUpdateThreads, 0, stream>>>(p, weights, rule);
  };
  const auto keep_full = [&]<class Low>(Low* rounded) { launch(FullWeights<Low>{elements<float>(update.weights), rounded}); };
  if (at_random)
    launch(RandomlyRoundedWeights{elements<__nv_bfloat16>(update.weights),
                                  reinterpret_cast<const RunPlace*>(elements<int64_t>(update.places)),
                                  elements<int64_t>(update.applied_steps)});
  else if (halves)
    launch(HalvedWeights{elements<__nv_bfloat16>(update.weights), elements<uint16_t>(update.rest)});
  else if (!update.rounded.defined())
    keep_full(static_cast<void*>(nullptr));
  else if (update.rounded.dtype() == DType::bf16)
    keep_full(elements<__nv_bfloat16>(update.rounded));
  else
    keep_full(elements<__half>(update.rounded));
  check_launch(name);
}

}  // namespace trireme::cuda
