#include "parallel/all_reduce_reducer.h"

#include <fmt/format.h>

#include <utility>

#include "core/ops/elementwise.h"

namespace trireme {

AllReduceReducer::AllReduceReducer(const Context& ctx, std::span<Bucket> buckets, const ReduceGroups& groups,
                                   bool overlap, DType reduce_type)
    : ctx_(ctx), buckets_(buckets), groups_(groups), overlap_(overlap), waiting_for_(buckets.size()), works_(buckets.size()) {
  for (size_t i = 0; i < buckets.size(); ++i) {
    shards_.push_back(make_shard(buckets[i], 0, buckets[i].numel));
    const auto cut = [&](int rank) { return buckets[i].numel * rank / groups_.batch->size() / kParameterAlign * kParameterAlign; };
    const int rank = groups_.batch->rank();
    const bool is_last = rank + 1 == groups_.batch->size();
    counted_.push_back(make_shard(buckets[i], cut(rank), is_last ? buckets[i].numel : cut(rank + 1)));
    for (const BucketEntry& entry : buckets[i].entries) bucket_of_[entry.parameter] = i;
    rounded_.emplace_back();
    if (reduce_type != DType::f32 && group_of(i).size() > 1)
      rounded_.back() = ctx_.empty({buckets[i].numel}, reduce_type, MemoryClass::workspace);
  }
}

void AllReduceReducer::begin_step() {
  TRIREME_ASSERT(finished_, "begin_step() before send_rest()");
  finished_ = false;
  next_ = 0;
  for (size_t i = 0; i < buckets_.size(); ++i) {
    waiting_for_[i] = buckets_[i].entries.size();
    for (const BucketEntry& entry : buckets_[i].entries) entry.parameter->grad_written = false;
  }
}

void AllReduceReducer::grad_ready(Parameter& parameter) {
  const auto bucket = bucket_of_.find(&parameter);
  TRIREME_ASSERT(bucket != bucket_of_.end(), parameter.name + " is in none of the reducer's buckets");
  TRIREME_ASSERT(waiting_for_[bucket->second] > 0,
                 parameter.name + "'s bucket was complete: set hooks for the last micro-batch alone");
  --waiting_for_[bucket->second];
  if (overlap_ && !held_) send_ready();
}

void AllReduceReducer::send_ready() {
  while (next_ < buckets_.size() && waiting_for_[next_] == 0) send(next_++);
}

void AllReduceReducer::send(size_t index) {
  Bucket& bucket = buckets_[index];
  for (const BucketEntry& entry : bucket.entries) {
    Parameter& p = *entry.parameter;
    if (!p.begin_accumulate()) ctx_.backend->fill_zero(p.grad.raw(), p.grad.bytes(), *ctx_.stream);
  }
  if (groups_.kv_sharers) sum_shared_rows(bucket);
  if (group_of(index).size() == 1) return;
  if (rounded_[index].defined()) ctx_.kernel<CastKernel>()(ctx_, bucket.grad, rounded_[index]);
  works_[index] = group_of(index).all_reduce(rounded_[index].defined() ? rounded_[index] : bucket.grad, ReduceOp::sum,
                                             fmt::format("bucket {}", index), ctx_.stream);
}

/// Of the key/value rows that neighbours hold too, each rank has the part of the gradient that its own heads
/// give.
void AllReduceReducer::sum_shared_rows(const Bucket& bucket) {
  for (const BucketEntry& entry : bucket.entries) {
    const Placement& p = entry.parameter->placement;
    int64_t rows = 0, first_shared = -1;
    for (const Placement::Range& range : p.ranges) {
      if (range.shared && first_shared < 0) first_shared = rows;
      rows += range.end - range.begin;
    }
    if (first_shared < 0) continue;
    const Tensor& grad = entry.parameter->grad;
    const int64_t row = grad.numel() / rows;
    groups_.kv_sharers
        ->all_reduce(grad.flat_view(first_shared * row, {(rows - first_shared) * row}), ReduceOp::sum,
                     entry.parameter->name + ", shared rows", ctx_.stream)
        .wait(*ctx_.stream);
  }
}

void AllReduceReducer::send_rest() {
  while (next_ < buckets_.size()) send(next_++);
  finished_ = true;
}

void AllReduceReducer::wait(size_t shard) {
  if (group_of(shard).size() == 1) return;
  std::exchange(works_[shard], Work()).wait(*ctx_.stream);
  if (rounded_[shard].defined()) ctx_.kernel<CastKernel>()(ctx_, rounded_[shard], buckets_[shard].grad);
}

}  // namespace trireme
