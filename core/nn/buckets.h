// Flat buckets: the memory of all parameters and gradients as a few long arrays. Gradients are reduced a bucket
// at a time without copies, and optimizers run over contiguous ranges.
#pragma once

#include <span>
#include <vector>

#include "core/context.h"
#include "core/parameter.h"

namespace trireme {

inline constexpr int64_t kParameterAlign = 16;  // elements: each parameter starts on 64 bytes of f32

struct BucketEntry {
  Parameter* parameter;
  int64_t begin;  // element of the bucket where it starts
};

struct Bucket {
  GradientSum gradient_sum = GradientSum::batch;  // of all its entries
  std::vector<BucketEntry> entries;
  int64_t numel = 0;  // with padding, a multiple of the plan's `multiple`
  Tensor data;        // [numel], the compute type
  Tensor grad;        // [numel], f32
};

/// Lays `parameters` out, last declared first (about the order in which backward finishes), starting a new bucket
/// when `bucket_bytes` of f32 gradient would be exceeded; a parameter that is larger by itself ends the bucket that
/// it comes to, so that small ones between large ones don't go alone. Parameters whose gradients are summed over
/// different ranks have different buckets; buckets are in the order in which backward completes them, those that
/// stages share last. Each bucket's numel is a multiple of `multiple` elements. A parameter that is split counts as
/// an even part for each of `split_ranks`, whatever is here: ranks whose parts differ in size must cut at the same
/// places, or they would call their collectives in different orders. Pure: the same on every rank that holds parts
/// of the same parameters.
std::vector<Bucket> plan_buckets(std::span<Parameter* const> parameters, size_t bucket_bytes, int64_t multiple = kParameterAlign,
                                 int64_t split_ranks = 1);

/// Allocates the buckets' data and gradients, zeroed, and points the parameters into them.
void allocate_buckets(Context& ctx, std::span<Bucket> buckets, DType data_dtype = DType::f32);

/// The same without gradients, for a model that is only used.
void allocate_weights(Context& ctx, std::span<Bucket> buckets, DType data_dtype = DType::f32);

/// Sets every parameter's data from its Init; element values depend on (seed, name, element) alone.
void init_parameters(Context& ctx, std::span<Parameter* const> parameters, uint64_t seed);

/// plan, allocate and init in one, for one rank and tests.
std::vector<Bucket> allocate_parameters(Context& ctx, std::span<Parameter* const> parameters, uint64_t seed,
                                        DType data_dtype = DType::f32);

/// A contiguous range of a bucket that this rank updates: all of it, or its part under ZeRO.
struct Shard {
  struct Segment {
    int64_t begin, end;       // elements of the shard
    Parameter* parameter;
    int64_t parameter_begin;  // element of the (local) parameter that `begin` is
  };
  Tensor data;  // [n], the compute type
  Tensor grad;  // [n], f32
  std::vector<Segment> segments;  // ascending; gaps are padding
};

/// Elements [begin, end) of `bucket` as a shard.
Shard make_shard(const Bucket& bucket, int64_t begin, int64_t end);

/// The parts of the shard's gradient that this rank counts in sums over all parameters (see Placement), as few as there
/// can be. Padding, which is zero, may be among them.
std::vector<Tensor> primary_gradients(const Shard& shard);

}  // namespace trireme
