// ParallelModel: a model on its mesh. Holds the stages of this rank, runs them, and knows which ranks share
// what.
#pragma once

#include <memory>

#include "models/model.h"
#include "models/parallel_plan.h"
#include "parallel/pipeline_executor.h"
#include "parallel/reducer.h"

namespace trireme {

/// What a model is for. Only training has gradients and their groups.
enum class ModelUse : uint8_t { training, inference };

class ParallelModel {
 public:
  /// Collective over the mesh's world. `plan` is that of the same config and ranks; the mesh outlives this.
  ParallelModel(const ModelConfig& config, const ParallelConfig& parallel, ParallelPlan plan, Mesh& mesh,
                ModelUse use = ModelUse::training);

  Model& model() { return *model_; }
  const Model& model() const { return *model_; }
  const ParallelPlan& plan() const { return plan_; }
  /// Those of this rank's stages, in the order of use: what has memory here.
  const std::vector<Parameter*>& parameters() const { return parameters_; }
  /// The ranks whose gradients add up. Groups are this object's.
  ReduceGroups reduce_groups() const;
  /// Data and context ranks: they hold the same parameters and see other tokens.
  Group& batch_group() const { return *batch_; }
  /// Whether this rank's losses count: of the last stage, on one tensor rank.
  bool counts_loss() const { return has_last_stage_ && model_->layout().tensor.is_first(); }

  /// The tokens of whole samples i32 [B, T] in host memory that this rank's activations are of.
  std::vector<int32_t> tokens_here(std::span<const int32_t> whole, int64_t samples) const;
  /// Tokens of each sample that are here.
  int64_t sequence_here(int64_t sequence) const { return sequence / model_->layout().context_size(); }

  /// To be called before the first train(), with what that gets; collective over the mesh. Connects the ranks, who on GPUs
  /// rehearse in between. What is in the gradients and the sum afterwards means nothing.
  void prepare(const Context& ctx, const std::function<MicroBatch(int64_t)>& batch_of, const Tensor& loss_sum);

  /// Forward and backward of a step's micro-batches, which `batch_of(i)` gives, this rank's tokens of them.
  /// Losses are added to `loss_sum` f32 [1] on ranks that count_loss(). ctx.random.first_sample is that of
  /// micro-batch 0.
  void train(const Context& ctx, const std::function<MicroBatch(int64_t)>& batch_of, const Tensor& loss_sum,
             GradientSink* sink);

  /// The hosts of all ranks meet: nobody goes on before all have come.
  void meet(std::string_view label) const;
  /// Whether sums and gathers are done when a call of them returns, for the lifetime of what comes back.
  [[nodiscard]] CallModeScope calls_wait(bool wait) { return mesh_.call_mode(wait ? CallMode::waits : CallMode::normal); }

  /// The loss f32 [1] of one micro-batch, where counts_loss(); undefined elsewhere. Collective over the
  /// model's ranks.
  Tensor loss(const Context& ctx, const MicroBatch& batch);

  /// CommError when an exchange of the model's ranks, or a sum of gradients, was given up: a device goes on with what it
  /// has then, which is no result. To be asked after waiting for the device.
  void check_peers() const;

  /// The logits f32 [B, V] after the last of the tokens [B, T] that come next in B = `num_texts` texts, on every rank.
  /// With context ranks that is a prompt, or one token. Collective over the model's ranks. ConfigError when the texts become
  /// longer than the model's context.
  Tensor next_logits(Context& ctx, std::span<const int32_t> texts, int64_t num_texts, GenerationCache& cache);

 private:
  void find_shared_parameters();
  void make_groups(Mesh& mesh);
  std::vector<Group*> summing_groups() const;
  StageForward training_stage(const Context& ctx, const std::function<MicroBatch(int64_t)>& batch_of,
                              const Tensor& loss_sum) const;
  Tensor run_stage(Context& ctx, int64_t stage, const Tensor& received, const MicroBatch& batch) const;
  bool can_halve(const MicroBatch& batch) const;
  Tensor run_halves(Context& ctx, int64_t stage, const Tensor& received, const MicroBatch& batch) const;
  NewTokens new_tokens(const Context& ctx, std::span<const int32_t> texts, int64_t num_texts, const GenerationCache& cache) const;
  void meet(std::string_view label, bool replicas) const;
  template <class F>
  void rehearse_once(bool& done, const Context& ctx, const F& body);
  Shape activation_shape(const MicroBatch& batch) const;
  DType activation_dtype() const;

  Mesh& mesh_;
  ParallelPlan plan_;
  std::unique_ptr<Model> model_;
  std::unique_ptr<PipelineExecutor> executor_;
  Group& pipeline_;
  bool has_last_stage_ = false;
  std::vector<Parameter*> parameters_;
  std::vector<int64_t> sharing_stages_;       // pipeline ranks that hold the same parameters
  std::unordered_map<Parameter*, int> uses_;  // stages here that use it
  std::unique_ptr<Group> batch_, batch_and_tensor_, batch_and_stages_, kv_sharers_;
  bool rehearsed_training_ = false, rehearsed_loss_ = false, rehearsed_prompt_ = false, rehearsed_token_ = false;
};

}  // namespace trireme
