#include "core/nn/buckets.h"

#include <algorithm>

#include "core/ops/elementwise.h"

namespace trireme {
namespace {

int64_t round_up(int64_t n, int64_t multiple) { return (n + multiple - 1) / multiple * multiple; }

}  // namespace

std::vector<Bucket> plan_buckets(std::span<Parameter* const> parameters, size_t bucket_bytes, int64_t multiple) {
  const auto limit = static_cast<int64_t>(bucket_bytes / sizeof(float));
  std::vector<Bucket> buckets;
  for (auto it = parameters.rbegin(); it != parameters.rend(); ++it) {
    const int64_t n = (*it)->shape.numel();
    if (buckets.empty() || round_up(buckets.back().numel, kParameterAlign) + n > limit) buckets.emplace_back();
    Bucket& bucket = buckets.back();
    const int64_t begin = round_up(bucket.numel, kParameterAlign);
    bucket.entries.push_back({*it, begin});
    bucket.numel = begin + n;
  }
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

}  // namespace trireme
