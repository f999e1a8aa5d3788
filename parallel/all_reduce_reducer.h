// AllReduceReducer: every rank holds everything; buckets of gradients are all-reduced while backward is
// running.
#pragma once

#include <unordered_map>
#include <vector>

#include "comm/group.h"
#include "parallel/reducer.h"

namespace trireme {

/// Buckets are sent in the order planned, never in the order in which they become ready, so ranks can't
/// diverge.
class AllReduceReducer : public Reducer {
 public:
  /// `buckets` and the groups, which take tensors of the context's device, must outlive the reducer. With
  /// `overlap` false all is sent in send_rest(). Gradients are rounded to `reduce_type` (f32, bf16 or f16) to be
  /// sent, which takes as much memory more as they have in that type, and summed as the group does that;
  /// wait() makes them f32.
  AllReduceReducer(const Context& ctx, std::span<Bucket> buckets, const ReduceGroups& groups,
                   bool overlap = true, DType reduce_type = DType::f32);

  void begin_step() override;
  void grad_ready(Parameter& parameter) override;
  void abandon_step() override { finished_ = true; }
  void hold(bool on) override { held_ = on; }
  void send_rest() override;
  void wait(size_t shard) override;
  std::span<Shard> shards() override { return shards_; }
  std::span<const Shard> counted() const override { return counted_; }
  bool replicated() const override { return true; }
  void publish() override {}

  size_t num_sent() const { return next_; }  // buckets sent off in this step

 private:
  void send(size_t bucket);
  void sum_shared_rows(const Bucket& bucket);
  Group& group_of(size_t bucket) const { return groups_.group_of(buckets_[bucket].gradient_sum); }
  void send_ready();

  Context ctx_;
  std::span<Bucket> buckets_;
  ReduceGroups groups_;
  bool overlap_, held_ = false;
  std::vector<Shard> shards_, counted_;
  std::unordered_map<const Parameter*, size_t> bucket_of_;
  std::vector<size_t> waiting_for_;  // parameters that are not ready, by bucket
  size_t next_ = 0;                  // the first bucket that is not sent
  std::vector<Tensor> rounded_;      // the buckets' gradients as they are sent; undefined: as they are
  std::vector<Work> works_;          // by bucket; of those under way
  bool finished_ = true;
};

}  // namespace trireme
