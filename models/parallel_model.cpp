#include "models/parallel_model.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "core/ops/elementwise.h"
#include "core/ops/rows.h"
#include "parallel/context_chunks.h"

namespace trireme {
namespace {

/// Passes on that a gradient is whole when every stage here that adds to it has said so.
class StageSink : public GradientSink {
 public:
  StageSink(GradientSink* sink, std::unordered_map<Parameter*, int> uses)
      : sink_(sink), uses_(std::move(uses)) {}
  void grad_ready(Parameter& p) override {
    if (--uses_.at(&p) == 0 && sink_) sink_->grad_ready(p);
  }

 private:
  GradientSink* sink_;
  std::unordered_map<Parameter*, int> uses_;
};

ModelLayout layout_of(const ParallelConfig& parallel, Mesh& mesh, ModelUse use) {
  ModelLayout layout;
  layout.tensor = TensorParallel(mesh.group(Axis::tensor), parallel.sequence && use == ModelUse::training);
  const bool overlaps = parallel.overlap == "on" || (parallel.overlap == "auto" && mesh.is_on_device());
  layout.halves = use == ModelUse::training && layout.tensor.size() > 1 && overlaps;
  if (mesh.shape().size(Axis::context) > 1) layout.context = &mesh.group(Axis::context);
  return layout;
}

/// The residual stream as one tensor, which is what is sent.
Tensor settled(Context& ctx, const nn::Residual& stream) {
  return stream.delta.defined() ? add(ctx, stream.x, stream.delta) : stream.x;
}

}  // namespace

ParallelModel::ParallelModel(const ModelConfig& config, const ParallelConfig& parallel, ParallelPlan plan,
                             Mesh& mesh, ModelUse use)
    : mesh_(mesh),
      plan_(std::move(plan)),
      model_(make_model(config, layout_of(parallel, mesh, use))),
      executor_(std::make_unique<PipelineExecutor>(plan_.schedule, mesh.group(Axis::pipeline))),
      pipeline_(mesh.group(Axis::pipeline)) {
  for (const int64_t stage : executor_->stages()) {
    has_last_stage_ = has_last_stage_ || stage + 1 == plan_.num_stages();
    const UnitRange units = plan_.units_of(stage);
    for (Parameter* p : model_->unit_parameters(units.begin, units.end))
      if (++uses_[p] == 1) parameters_.push_back(p);
  }
  find_shared_parameters();
  if (use == ModelUse::training) make_groups(mesh);
}

/// Parameters that stages of several pipeline ranks use, such as tied embeddings: the first of these ranks is
/// primary.
void ParallelModel::find_shared_parameters() {
  std::unordered_map<Parameter*, std::vector<int64_t>> users;  // pipeline ranks
  for (int64_t stage = 0; stage < plan_.num_stages(); ++stage) {
    const int64_t rank = plan_.rank_of(stage);
    const UnitRange units = plan_.units_of(stage);
    for (Parameter* p : model_->unit_parameters(units.begin, units.end)) {
      std::vector<int64_t>& ranks = users[p];
      if (std::ranges::find(ranks, rank) == ranks.end()) ranks.push_back(rank);
    }
  }
  for (const auto& [p, ranks] : users) {
    if (ranks.size() == 1) continue;
    TRIREME_ASSERT(sharing_stages_.empty() || sharing_stages_ == ranks,
                   p->name + ": several sets of stages share parameters");
    TRIREME_ASSERT(p->gradient_sum == GradientSum::batch,
                   p->name + ": shared by stages, and by tensor ranks");
    sharing_stages_ = ranks;
    p->gradient_sum = GradientSum::batch_and_stages;
    if (ranks.front() == pipeline_.rank()) continue;
    p->placement.primary = false;
    for (Placement::Range& range : p->placement.ranges) range.primary = false;
  }
}

void ParallelModel::make_groups(Mesh& mesh) {
  batch_ = mesh.make_group({Axis::data, Axis::context}, "gradients", Mesh::Sums::large);
  if (model_->layout().tensor.sequence())
    batch_and_tensor_ = mesh.make_group({Axis::data, Axis::context, Axis::tensor}, "gradients of norms");
  if (!sharing_stages_.empty()) {
    auto first = mesh.coords();
    first[static_cast<size_t>(Axis::data)] = first[static_cast<size_t>(Axis::context)] = 0;
    int64_t& stage = first[static_cast<size_t>(Axis::pipeline)];
    if (std::ranges::find(sharing_stages_, stage) != sharing_stages_.end()) stage = sharing_stages_.front();
    batch_and_stages_ = mesh.make_group(mesh.shape().rank_of(first), "gradients that stages share");
  }
  const ModelConfig& config = model_->config();
  const int64_t tensor = mesh.shape().size(Axis::tensor);
  if (config.kv_heads < tensor) {
    auto first = mesh.coords();
    first[static_cast<size_t>(Axis::tensor)] =
        split_heads(config.heads, config.kv_heads, tensor, mesh.coord(Axis::tensor)).kv_first_rank;
    kv_sharers_ = mesh.make_group(mesh.shape().rank_of(first), "gradients of shared heads");
  }
}

ReduceGroups ParallelModel::reduce_groups() const {
  return {batch_.get(), batch_and_tensor_.get(), batch_and_stages_.get(), kv_sharers_.get()};
}

/// Of gradients, and of what tensor ranks have parts of.
std::vector<Group*> ParallelModel::summing_groups() const {
  const TensorParallel& tensor = model_->layout().tensor;
  std::vector<Group*> groups{batch_.get(), batch_and_tensor_.get(), batch_and_stages_.get(), kv_sharers_.get(),
                             tensor.size() > 1 ? &tensor.group() : nullptr};
  std::erase(groups, nullptr);
  return groups;
}

std::vector<int32_t> ParallelModel::tokens_here(std::span<const int32_t> whole, int64_t samples) const {
  const Group* context = model_->layout().context;
  if (!context) return {whole.begin(), whole.end()};
  return take_chunks(whole, {static_cast<int64_t>(whole.size()) / samples, context->size(), context->rank()});
}

Shape ParallelModel::activation_shape(const MicroBatch& batch) const {
  return {model_->layout().tensor.rows_here(batch.tokens.numel()), model_->config().width};
}

DType ParallelModel::activation_dtype() const {
  return parameters_.front()->data.dtype();
}

/// Whether both halves of the batch have rows for every tensor rank.
bool ParallelModel::can_halve(const MicroBatch& batch) const {
  const ModelLayout& layout = model_->layout();
  const int64_t samples = batch.tokens.dim(0), divisor = layout.tensor.sequence() ? layout.tensor.size() : 1;
  const auto divides = [&](int64_t half) { return half > 0 && half * batch.tokens.dim(1) % divisor == 0; };
  return divides(samples / 2) && divides(samples - samples / 2);
}

/// A stage whose samples go through in two halves, in turns.
Tensor ParallelModel::run_halves(Context& ctx, int64_t stage, const Tensor& received, const MicroBatch& batch) const {
  const int64_t samples = batch.tokens.dim(0), half = samples / 2;
  const auto part = [&](int64_t begin, int64_t end, Tensor x) {
    Passage p{.travel = {.ctx = ctx, .stream = {std::move(x), {}}},
              .batch = {batch.tokens.slice(begin, end), batch.targets.slice(begin, end), batch.scale},
              .loss = {}};
    p.travel.ctx.random.first_sample += begin;
    return p;
  };
  std::array<Tensor, 2> x;
  if (received.defined())
    x = split_rows(ctx, received, model_->layout().tensor.rows_here(half * batch.tokens.dim(1)));
  std::array passages{part(0, half, x[0]), part(half, samples, x[1])};
  x = {};
  const UnitRange units = plan_.units_of(stage);
  std::array<nn::Slots, 2> slots;
  for (size_t i = 0; i < slots.size(); ++i) model_->add_slots(slots[i], passages[i], units.begin, units.end);
  nn::run_in_turns(slots[0], slots[1]);
  if (stage + 1 == plan_.num_stages()) return add(ctx, passages[0].loss, passages[1].loss);
  for (size_t i = 0; i < x.size(); ++i) x[i] = settled(ctx, passages[i].travel.settle());
  return join_rows(ctx, x[0], x[1]);
}

Tensor ParallelModel::run_stage(Context& ctx, int64_t stage, const Tensor& received,
                                const MicroBatch& batch) const {
  if (model_->layout().halves && ctx.tape && can_halve(batch)) return run_halves(ctx, stage, received, batch);
  const UnitRange units = plan_.units_of(stage);
  Activation out =
      model_->run(ctx, units.begin, units.end, {.stream = {received, {}}, .loss = {}, .logits = {}}, batch);
  return stage + 1 == plan_.num_stages() ? out.loss : settled(ctx, out.stream);
}

/// Forward of a stage in training; losses are added to `loss_sum` where they count.
StageForward ParallelModel::training_stage(const Context& outer, const std::function<MicroBatch(int64_t)>& batch_of,
                                           const Tensor& loss_sum) const {
  const int64_t first_sample = outer.random.first_sample, samples = batch_of(0).tokens.dim(0);
  return [=, this](Context& ctx, int64_t stage, int64_t micro_batch, const Tensor& received) {
    ctx.random.first_sample = first_sample + micro_batch * samples;
    const Tensor out = run_stage(ctx, stage, received, batch_of(micro_batch));
    if (stage + 1 == plan_.num_stages() && counts_loss()) {
      Tensor sum = loss_sum;
      ctx.kernel<AddKernel>()(ctx, loss_sum, out, sum);
    }
    return out;
  };
}

/// On a device that works on its own, where ranks exchange something (CallMode::rehearses): runs `body` without exchanges.
template <class F>
void ParallelModel::rehearse_once(bool& done, const Context& ctx, const F& body) {
  if (done || !ctx.backend->is_asynchronous() || mesh_.shape().ranks() == 1) return;
  {
    const CallModeScope scope = mesh_.call_mode(CallMode::rehearses);
    body();
    ctx.stream->synchronize();
  }
  done = true;
  meet("rehearsed", /*replicas=*/false);  // these may be about other texts
}

void ParallelModel::meet(std::string_view label) const { meet(label, /*replicas=*/true); }

/// The rows of one axis after those of the other: who comes out has heard, through others, of all ranks. All groups of the
/// axes are for that, so no other is made.
void ParallelModel::meet(std::string_view label, bool replicas) const {
  for (const Axis axis : mesh_.shape().order)
    if (replicas || axis != Axis::data) mesh_.host_group(axis).barrier(label).wait();
}

void ParallelModel::prepare(const Context& ctx, const std::function<MicroBatch(int64_t)>& batch_of,
                            const Tensor& loss_sum) {
  for (Group* group : summing_groups()) group->barrier("connection").wait();
  rehearse_once(rehearsed_training_, ctx, [&] {
    executor_->rehearse(ctx, activation_shape(batch_of(0)), activation_dtype(), training_stage(ctx, batch_of, loss_sum));
  });
  if (Group* ring = model_->layout().context) connect_ring(ctx, *ring);
  executor_->connect(ctx);
}

void ParallelModel::train(const Context& ctx, const std::function<MicroBatch(int64_t)>& batch_of,
                          const Tensor& loss_sum, GradientSink* sink) {
  StageSink stage_sink(sink, uses_);
  executor_->run(ctx, activation_shape(batch_of(0)), activation_dtype(), training_stage(ctx, batch_of, loss_sum),
                 &stage_sink);
}

Tensor ParallelModel::loss(const Context& ctx, const MicroBatch& batch) {
  const auto forward = [&] {
    return executor_->run_forward(ctx, activation_shape(batch), activation_dtype(),
                                  [&](Context& inner, int64_t stage, int64_t, const Tensor& received) {
                                    return run_stage(inner, stage, received, batch);
                                  });
  };
  rehearse_once(rehearsed_loss_, ctx, forward);
  const Tensor loss = forward();
  return counts_loss() ? loss : Tensor();
}

void ParallelModel::check_peers() const {
  std::vector<Group*> groups = summing_groups();
  groups.push_back(&pipeline_);
  if (Group* context = model_->layout().context) groups.push_back(context);
  for (const Group* group : groups)
    if (const auto reason = group->failure()) throw CommError(*reason);
}

NewTokens ParallelModel::new_tokens(const Context& ctx, std::span<const int32_t> texts, int64_t num_texts,
                                    const GenerationCache& cache) const {
  const int64_t count = static_cast<int64_t>(texts.size()) / num_texts;
  const Group* context = model_->layout().context;
  if (!context || cache.length > 0) {
    NewTokens all = NewTokens::whole(ctx.from_host<int32_t>(texts, {num_texts, count}));
    if (context && owner_of(cache.length, context->size()) != context->rank()) all.keep = 0;
    return all;
  }
  const int64_t ranks = context->size(), padded = (count + 2 * ranks - 1) / (2 * ranks) * (2 * ranks);
  std::vector<int32_t> rows(static_cast<size_t>(num_texts * padded));
  for (int64_t i = 0; i < num_texts; ++i) std::ranges::copy(texts.subspan(i * count, count), rows.begin() + i * padded);
  const ContextChunks chunks{padded, ranks, context->rank()};
  const int64_t here = chunks.num_before(count);
  return {ctx.from_host<int32_t>(take_chunks(rows, chunks), {num_texts, chunks.local_tokens()}), chunks, here, here};
}

Tensor ParallelModel::next_logits(Context& outer, std::span<const int32_t> texts, int64_t num_texts, GenerationCache& cache) {
  const int64_t count = static_cast<int64_t>(texts.size()) / num_texts;
  Group* context = model_->layout().context;
  TRIREME_ASSERT(!context || cache.length == 0 || count == 1, "with context ranks, one token at a time follows a prompt");
  if (cache.length + count > model_->config().context)
    throw ConfigError(fmt::format("generation: {} tokens and {} new ones exceed the model's context of {}", cache.length, count,
                                  model_->config().context));
  const NewTokens text = new_tokens(outer, texts, num_texts, cache);
  const Shape shape{text.tokens.numel(), model_->config().width};
  const auto forward = [&](GenerationCache& into) {
    return executor_->run_forward(outer, shape, activation_dtype(), [&](Context& ctx, int64_t stage, int64_t, const Tensor& received) {
      const UnitRange units = plan_.units_of(stage);
      Activation out = model_->run_cached(ctx, units.begin, units.end,
                                          {.stream = {received, {}}, .loss = {}, .logits = {}}, text, into);
      return stage + 1 == plan_.num_stages() ? out.logits : settled(ctx, out.stream);
    });
  };
  rehearse_once(cache.length == 0 ? rehearsed_prompt_ : rehearsed_token_, outer, [&] {
    GenerationCache scratch = cache;  // what it writes to the memory that both have is written again
    forward(scratch);
  });
  Tensor logits = forward(cache);
  cache.length += count;
  if (has_last_stage_ && text.chunks.ranks > 1)
    context->broadcast(logits, static_cast<int>(text.chunks.owner_of(count - 1)), "logits", outer.stream).wait(*outer.stream);
  if (pipeline_.size() == 1) return logits;
  if (!has_last_stage_) logits = outer.empty({num_texts, model_->config().vocab});
  pipeline_.broadcast(logits, static_cast<int>(plan_.rank_of(plan_.num_stages() - 1)), "logits", outer.stream)
      .wait(*outer.stream);
  return logits;
}

}  // namespace trireme
