#include "core/nn/buckets.h"

#include <algorithm>
#include <map>
#include <numeric>
#include <utility>

#include "core/ops/elementwise.h"

namespace trireme {
namespace {

int64_t round_up(int64_t n, int64_t multiple) { return (n + multiple - 1) / multiple * multiple; }

/// The elements that `p` counts as: those of an even part where it is split.
int64_t nominal_numel(const Parameter& p, int64_t split_ranks) {
  return p.placement.is_split() ? (p.global_shape().numel() + split_ranks - 1) / split_ranks : p.shape.numel();
}

}  // namespace

std::vector<Bucket> plan_buckets(std::span<Parameter* const> parameters, size_t bucket_bytes, int64_t multiple,
                                 int64_t split_ranks) {
  const auto limit = static_cast<int64_t>(bucket_bytes / sizeof(float));
  std::vector<Bucket> buckets;
  std::map<GradientSum, size_t> open;  // the bucket that is being filled
  std::vector<size_t> completed_by;    // the place of each bucket's last parameter
  std::vector<int64_t> filled;         // nominal elements of each bucket
  for (size_t place = 0; place < parameters.size(); ++place) {
    Parameter* p = parameters[parameters.size() - 1 - place];
    const int64_t nominal = nominal_numel(*p, split_ranks);
    const auto found = open.find(p->gradient_sum);
    const auto has_room = [&](int64_t elements) {
      return elements <= limit && (nominal > limit || round_up(elements, kParameterAlign) + nominal <= limit);
    };
    if (found == open.end() || !has_room(filled[found->second])) {
      open[p->gradient_sum] = buckets.size();
      buckets.push_back({.gradient_sum = p->gradient_sum, .entries = {}, .numel = 0, .data = {}, .grad = {}});
      completed_by.push_back(place);
      filled.push_back(0);
    }
    const size_t index = open[p->gradient_sum];
    Bucket& bucket = buckets[index];
    const int64_t begin = round_up(bucket.numel, kParameterAlign);
    bucket.entries.push_back({p, begin});
    bucket.numel = begin + p->shape.numel();
    filled[index] = round_up(filled[index], kParameterAlign) + nominal;
    completed_by[index] = place;
  }
  std::vector<size_t> order(buckets.size());
  std::iota(order.begin(), order.end(), size_t{0});
  // What stages share is whole on the last one long before the first one has it: its sum would wait for the pipeline.
  std::ranges::sort(order, {}, [&](size_t i) {
    return std::pair(buckets[i].gradient_sum == GradientSum::batch_and_stages, completed_by[i]);
  });
  std::vector<Bucket> sorted;
  for (size_t i : order) sorted.push_back(std::move(buckets[i]));
  buckets = std::move(sorted);
  for (Bucket& bucket : buckets) bucket.numel = round_up(bucket.numel, std::max(multiple, kParameterAlign));
  return buckets;
}

void allocate_weights(Context& ctx, std::span<Bucket> buckets, DType data_dtype) {
  for (Bucket& bucket : buckets) {
    bucket.data = ctx.zeros({bucket.numel}, data_dtype, MemoryClass::parameters);
    for (const BucketEntry& entry : bucket.entries)
      entry.parameter->data = bucket.data.flat_view(entry.begin, entry.parameter->shape);
  }
}

void allocate_buckets(Context& ctx, std::span<Bucket> buckets, DType data_dtype) {
  allocate_weights(ctx, buckets, data_dtype);
  for (Bucket& bucket : buckets) {
    bucket.grad = ctx.zeros({bucket.numel}, DType::f32, MemoryClass::gradients);
    for (const BucketEntry& entry : bucket.entries)
      entry.parameter->grad = bucket.grad.flat_view(entry.begin, entry.parameter->shape);
  }
}

void init_parameters(Context& ctx, std::span<Parameter* const> parameters, uint64_t seed) {
  std::vector<float> values;
  for (Parameter* p : parameters) {
    values.resize(static_cast<size_t>(p->shape.numel()));
    init_values(*p, seed, values);
    if (p->data.dtype() == DType::f32) {
      ctx.backend->copy(p->data.raw(), values.data(), p->data.bytes(), *ctx.stream);
    } else {
      const Tensor full = ctx.from_host<float>(values, p->shape, MemoryClass::workspace);
      ctx.kernel<CastKernel>()(ctx, full, p->data);
    }
    ctx.stream->synchronize();  // `values` is used again
  }
}

std::vector<Bucket> allocate_parameters(Context& ctx, std::span<Parameter* const> parameters, uint64_t seed,
                                        DType data_dtype) {
  std::vector<Bucket> buckets = plan_buckets(parameters, size_t{32} << 20);
  allocate_buckets(ctx, buckets, data_dtype);
  init_parameters(ctx, parameters, seed);
  return buckets;
}

Shard make_shard(const Bucket& bucket, int64_t begin, int64_t end) {
  TRIREME_ASSERT(0 <= begin && begin <= end && end <= bucket.numel, "a shard outside its bucket");
  Shard shard;
  shard.data = bucket.data.flat_view(begin, {end - begin});
  shard.grad = bucket.grad.flat_view(begin, {end - begin});
  for (const BucketEntry& entry : bucket.entries) {
    const int64_t first = std::max(begin, entry.begin);
    const int64_t last = std::min(end, entry.begin + entry.parameter->shape.numel());
    if (first < last) shard.segments.push_back({first - begin, last - begin, entry.parameter, first - entry.begin});
  }
  return shard;
}

std::vector<Tensor> primary_gradients(const Shard& shard) {
  std::vector<std::pair<int64_t, int64_t>> left_out;  // elements, ascending
  for (const Shard::Segment& s : shard.segments) {
    const Placement& p = s.parameter->placement;
    const int64_t shift = s.begin - s.parameter_begin;
    const auto leave_out = [&](int64_t begin, int64_t end) {  // elements of the parameter
      begin = std::max(begin + shift, s.begin), end = std::min(end + shift, s.end);
      if (begin >= end) return;
      if (!left_out.empty() && left_out.back().second == begin)
        left_out.back().second = end;
      else
        left_out.emplace_back(begin, end);
    };
    if (!p.is_split()) {
      if (!p.primary) leave_out(0, s.parameter->shape.numel());
      continue;
    }
    const int64_t row = p.dim == 0 ? s.parameter->shape.numel() / std::max<int64_t>(1, s.parameter->shape[0]) : 0;
    int64_t local = 0;
    for (const Placement::Range& r : p.ranges) {
      const int64_t end = p.dim == 0 ? local + (r.end - r.begin) * row : s.parameter->shape.numel();
      if (!r.primary) leave_out(local, end);
      local = end;
    }
  }
  std::vector<Tensor> counted;
  int64_t begin = 0;
  left_out.emplace_back(shard.grad.numel(), shard.grad.numel());
  for (const auto& [first, last] : left_out) {
    if (begin < first) counted.push_back(shard.grad.flat_view(begin, {first - begin}));
    begin = last;
  }
  return counted;
}

}  // namespace trireme
