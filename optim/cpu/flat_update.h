// The loop that every element-wise optimizer runs on the host: one pass over weights, gradient and state,
// split evenly over the threads. An element's result depends on that element alone, so it is the same for any
// split.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <span>

#include "optim/kernels.h"
#include "optim/split_master.h"

namespace trireme::cpu {

inline StepControl control_of(const Tensor& control) {
  StepControl host;
  std::copy_n(control.data<float>(), StepControl::kSize, reinterpret_cast<float*>(&host));
  return host;
}

inline std::span<const DecayRun> runs_of(const FlatUpdate& update) {
  return {reinterpret_cast<const DecayRun*>(update.runs.data<int64_t>()),
          static_cast<size_t>(update.runs.dim(0))};
}

/// The share of a weight that decays: lr wd.
inline float decay_of(const FlatUpdate& update, const StepControl& control) {
  return static_cast<float>(control.lr * update.weight_decay);
}

/// w -= decay w + rule(i, g) for i in [begin, end), and rounded = w when Low is a type.
template <class Low, class Rule>
void update_range(float* weights, Low* rounded, const float* grad, int64_t begin, int64_t end, float decay,
                  float multiplier, const Rule& rule) {
#pragma omp simd
  for (int64_t i = begin; i < end; ++i) {
    const float w = weights[i] - (decay * weights[i] + rule(i, grad[i] * multiplier));
    weights[i] = w;
    if constexpr (!std::is_void_v<Low>)
      rounded[i].bits = Low(w).bits;  // bits: a store of a class would not vectorise
  }
}

/// update_range() of masters in two halves.
template <class Rule>
void update_range_of_halves(bf16* weights, uint16_t* rest, const float* grad, int64_t begin, int64_t end, float decay,
                            float multiplier, const Rule& rule) {
#pragma omp simd
  for (int64_t i = begin; i < end; ++i) {
    const float before = std::bit_cast<float>(join_master(weights[i].bits, rest[i]));
    const float w = before - (decay * before + rule(i, grad[i] * multiplier));
    const uint32_t bits = settle_master(std::bit_cast<uint32_t>(w));
    const uint16_t data = round_master(bits);
    weights[i].bits = data;
    rest[i] = rest_of_master(bits, data);
  }
}

/// bits[k] = the rounding bits of element first + k of the global array. `first` begins a block.
inline void fill_whole_blocks(const RandomStream& stream, int64_t first, std::span<uint16_t, kRoundedOfBlock * kPhiloxLanes> bits) {
  PhiloxLanes words;
  philox_lanes(stream.key, static_cast<uint64_t>(first / kRoundedOfBlock), stream.counter_high, words);
  for (size_t block = 0; block < kPhiloxLanes; ++block)
    for (size_t w = 0; w < 4; ++w) {  // as rounding_bits() has them
      bits[8 * block + 2 * w] = static_cast<uint16_t>(words[w][block]);
      bits[8 * block + 2 * w + 1] = static_cast<uint16_t>(words[w][block] >> 16);
    }
}

/// bits[k] = the rounding bits of element begin + k of the shard.
inline void fill_rounding_bits(const RunPlace& place, const RandomStream& stream, int64_t begin, std::span<uint16_t> bits) {
  const auto n = static_cast<int64_t>(bits.size());
  for (int64_t k = 0; k < n;) {
    const int64_t first = place.element(begin + k), row_left = place.length - (begin + k - place.origin) % place.length;
    const int64_t last = first + std::min(row_left, n - k);
    for (int64_t e = first; e < last;) {
      constexpr int64_t kWhole = kRoundedOfBlock * static_cast<int64_t>(kPhiloxLanes);
      if (e % kRoundedOfBlock == 0 && last - e >= kWhole) {
        fill_whole_blocks(stream, e, bits.subspan(static_cast<size_t>(k)).first<kWhole>());
        e += kWhole, k += kWhole;
        continue;
      }
      const auto block = stream.block(static_cast<uint64_t>(e / kRoundedOfBlock));
      const int64_t block_end = std::min(last, (e / kRoundedOfBlock + 1) * kRoundedOfBlock);
      for (; e < block_end; ++e) bits[static_cast<size_t>(k++)] = static_cast<uint16_t>(rounding_bits(block, e));
    }
  }
}

/// update_range() of bf16 weights that are rounded at random.
template <class Rule>
void update_range_at_random(bf16* weights, const float* grad, int64_t begin, int64_t end, float decay, float multiplier,
                            const RunPlace& place, const RandomStream& stream, const Rule& rule) {
  constexpr int64_t kPiece = 512;
  std::array<uint16_t, kPiece> random;
  for (int64_t first = begin; first < end; first += kPiece) {
    const int64_t last = std::min(end, first + kPiece);
    fill_rounding_bits(place, stream, first, std::span(random).first(static_cast<size_t>(last - first)));
#pragma omp simd
    for (int64_t i = first; i < last; ++i) {
      const float before = std::bit_cast<float>(static_cast<uint32_t>(weights[i].bits) << 16);
      const float w = before - (decay * before + rule(i, grad[i] * multiplier));
      weights[i].bits = round_at_random(std::bit_cast<uint32_t>(w), random[static_cast<size_t>(i - first)]);
    }
  }
}

/// Calls `body(begin, end, run)` over this thread's even part of the runs.
template <class Body>
void for_each_part(std::span<const DecayRun> runs, int thread, int num_threads, const Body& body) {
  constexpr int64_t kLine = 16;  // elements of a cache line
  const int64_t n = runs.empty() ? 0 : runs.back().end;
  const int64_t part = (n / num_threads + kLine) / kLine * kLine;
  const int64_t first = part * thread, last = std::min(n, first + part);
  for (const DecayRun& run : runs) {
    const int64_t begin = std::max(run.begin, first), end = std::min(run.end, last);
    if (begin < end) body(begin, end, run);
  }
}

/// w -= decay w + rule(i, g multiplier) for every element. `rule` may read and write state at i, no more.
template <class Rule>
void flat_update(Context& ctx, FlatUpdate& update, const StepControl& control, const Rule& rule) {
  constexpr int64_t kSmall = 16384;  // elements that one thread is done with before others have started
  const float* grad = update.grad.data<float>();
  const float decay = decay_of(update, control);
  const std::span<const DecayRun> runs = runs_of(update);
  const int num_threads = update.weights.numel() > kSmall ? ctx.backend->num_threads() : 1;

  const auto on_all_threads = [&](const auto& body) {
#pragma omp parallel for schedule(static, 1) num_threads(num_threads)
    for (int thread = 0; thread < num_threads; ++thread) for_each_part(runs, thread, num_threads, body);
  };
  if (update.places.defined()) {
    bf16* weights = update.weights.data<bf16>();
    const auto* places = reinterpret_cast<const RunPlace*>(update.places.data<int64_t>());
    const int64_t step = update.applied_steps.item<int64_t>();
    return on_all_threads([&](int64_t begin, int64_t end, const DecayRun& run) {
      const RunPlace& place = places[&run - runs.data()];
      update_range_at_random(weights, grad, begin, end, run.decays != 0 ? decay : 0.0f, control.multiplier, place,
                             place.stream(step), rule);
    });
  }
  if (update.rest.defined()) {
    bf16* weights = update.weights.data<bf16>();
    uint16_t* rest = update.rest.data<uint16_t>();
    return on_all_threads([&](int64_t begin, int64_t end, const DecayRun& run) {
      update_range_of_halves(weights, rest, grad, begin, end, run.decays != 0 ? decay : 0.0f, control.multiplier, rule);
    });
  }
  float* weights = update.weights.data<float>();
  const auto run_all = [&]<class Low>(Low* rounded) {
    on_all_threads([&](int64_t begin, int64_t end, const DecayRun& run) {
      update_range(weights, rounded, grad, begin, end, run.decays != 0 ? decay : 0.0f, control.multiplier, rule);
    });
  };
  if (!update.rounded.defined()) return run_all(static_cast<void*>(nullptr));
  if (update.rounded.dtype() == DType::bf16) return run_all(update.rounded.data<bf16>());
  run_all(update.rounded.data<f16>());
}

}  // namespace trireme::cpu
