#include "launcher/trainer.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>

#include "core/data/batch_plan.h"
#include "core/ops/elementwise.h"
#include "core/tape.h"
#include "launcher/data_info.h"
#include "launcher/peak.h"
#include "launcher/start_point.h"
#include "models/model_json.h"
#include "models/presets.h"
#include "optim/kernels.h"
#include "optim/schedule.h"
#include "parallel/all_reduce_reducer.h"

namespace trireme {
namespace {

std::unique_ptr<Backend> make_backend(const RunConfig& run) {
  auto backend = run.device == "cuda" ? make_cuda_backend(0) : make_cpu_backend(static_cast<int>(run.threads));
  register_optimizer_kernels(*backend);
  return backend;
}

/// Values of this process as a host tensor that collectives work on.
template <class T, size_t N>
Tensor as_tensor(std::array<T, N>& values) {
  return {std::make_shared<Storage>(nullptr, values.data(), sizeof values), 0, {static_cast<int64_t>(N)}, DTypeOf<T>::value, Device{}};
}

/// `world`, whose groups from here on have the run's time-out and trace.
Group& with_options(Group& world, const RunConfig& run, Tracer* tracer) {
  world.set_options({run.timeout_s * 1000, tracer});
  return world;
}

double seconds_since(int64_t begin_us) { return static_cast<double>(Tracer::now_us() - begin_us) * 1e-6; }

}  // namespace

Trainer::Trainer(Config config, Group& world, SignalRequests* signals)
    : config_(std::move(config)),
      world_(world),
      signals_(signals),
      tracer_(config_.run.trace ? std::make_unique<Tracer>(world.rank(), fmt::format("rank {}", world.rank())) : nullptr),
      engine_(make_backend(config_.run)),
      ctx_(engine_.context()),
      mesh_(config_.parallel, with_options(world, config_.run, tracer_.get())),
      data_group_(mesh_.group(Axis::data)),
      stats_group_(data_group_.duplicate("step statistics")) {
  ctx_.tracer = tracer_.get();
  open_data();
  build_model();
  start();
  start_reports();
}

Trainer::~Trainer() { with_options(world_, config_.run, nullptr); }

void Trainer::open_data() {
  ModelConfig& model = config_.model;
  const DataInfo info = read_data_info(config_.data);
  tokenizer_ = info.tokenizer;
  if (info.vocab > 0) {
    if (model.vocab == 0) model.vocab = padded_vocab(info.vocab);
    if (model.true_vocab == 0) model.true_vocab = info.vocab;
    if (info.vocab > model.vocab)
      throw ConfigError(fmt::format("model.vocab = {} is less than the {} tokens of the data's tokenizer {}; leave it out, or set {}",
                                    model.vocab, info.vocab, info.tokenizer, padded_vocab(info.vocab)));
  }
  model = resolve_model(model);
  if (config_.batch.sequence == 0) config_.batch.sequence = model.context;
  if (config_.batch.sequence > model.context)
    throw ConfigError(fmt::format("batch.sequence = {} is longer than model.context = {}; make one fit the other",
                                  config_.batch.sequence, model.context));
  const BatchPlan plan = plan_batch(config_.batch.global, config_.batch.micro, data_group_.size());
  micro_batches_ = plan.micro_batches;
  geometry_ = {config_.batch.global, config_.batch.micro,  config_.batch.sequence,
               model.true_vocab,     data_group_.rank(), data_group_.size()};
  train_data_ = open_datasets(config_.data.train);
  valid_data_ = open_datasets(config_.data.valid);
  // As many samples as eval_batches global batches hold, so that every layout looks at the same ones.
  if (!valid_data_.empty())
    evaluator_ = std::make_unique<Evaluator>(valid_data_, geometry_, config_.run.eval_batches * micro_batches_,
                                             info.token_bytes);
}

void Trainer::build_model() {
  model_ = make_model(config_.model);
  const auto parameters = model_->parameters();
  const auto bucket_bytes = static_cast<size_t>(config_.sync.bucket_mb * 0x1p20);
  buckets_ = plan_buckets(parameters, bucket_bytes);
  allocate_buckets(ctx_, buckets_, parse_dtype(config_.precision.compute));
  reducer_ = std::make_unique<AllReduceReducer>(ctx_, buckets_, data_group_, config_.sync.overlap);
  const std::span<Shard> shards = reducer_->shards();
  shards_.assign(shards.begin(), shards.end());
  ctx_.hooks = reducer_.get();
  optimizer_ = make_optimizer(config_.optim);
  guard_ = std::make_unique<UpdateGuard>(ctx_, config_.optim);
}

/// State that a resumed run takes over: the optimizer's, and the guard's where it is of this config's shape.
OptimizerState Trainer::resumable_state(const CheckpointReader* reader) const {
  OptimizerState state = optimizer_->state();
  const auto guard = guard_->state();
  const auto fits = [&](const OptimizerState::Scalar& scalar) {
    const std::string name = "optim." + scalar.name;
    return !reader || (reader->has(name) && reader->shape(name) == scalar.value.shape());
  };
  if (std::ranges::all_of(guard, fits))
    state.scalars.insert(state.scalars.end(), guard.begin(), guard.end());
  else
    say("note: optim.skip_zscore or skip_window changed: outliers are looked for once a new window is full");
  return state;
}

void Trainer::say(const std::string& line) const {
  if (world_.rank() == 0) fmt::print("{}\n", line);
}

void Trainer::resume(const std::filesystem::path& checkpoint) {
  CheckpointReader reader(checkpoint);
  check_same_model(reader, config_.model);
  progress_ = load_progress(reader);
  load_weights(reader, ctx_, model_->parameters());
  optimizer_->attach(ctx_, shards_);
  load_state(reader, ctx_, shards_, resumable_state(&reader));
  say(fmt::format("resumed from {}", checkpoint.string()));
  const auto changed = [&](const char* key, int64_t then, int64_t now) {
    if (then != now) say(fmt::format("note: {} was {} and is {} now: the order of the data changes", key, then, now));
  };
  changed("run.seed", progress_.seed, config_.run.seed);
  changed("batch.global", progress_.global_batch, config_.batch.global);
  changed("batch.sequence", progress_.sequence, config_.batch.sequence);
}

void Trainer::start() {
  const StartPoint from = choose_start(config_, world_);
  if (from.resume) {
    resume(*from.resume);
  } else {
    if (from.init_from) {
      CheckpointReader reader(*from.init_from);
      check_same_model(reader, config_.model);
      load_weights(reader, ctx_, model_->parameters());
    } else {
      init_parameters(ctx_, model_->parameters(), static_cast<uint64_t>(config_.run.seed));
    }
    optimizer_->attach(ctx_, shards_);
  }
  progress_.seed = config_.run.seed;
  progress_.global_batch = config_.batch.global;
  progress_.sequence = config_.batch.sequence;
  first_step_ = progress_.step + 1;
  loader_ = std::make_unique<Loader>(train_data_, geometry_,
                                     LoaderOptions{config_.data.shuffle, static_cast<uint64_t>(config_.run.seed),
                                                   config_.data.prefetch, first_step_});
}

void Trainer::start_reports() {
  std::array<double, 1> peak{peak_flops(ctx_, DType::f32)};
  world_.all_reduce(as_tensor(peak), ReduceOp::sum, "peak rate").wait();
  if (world_.rank() != 0) return;
  std::filesystem::create_directories(config_.run.out);
  write_text_durably(std::filesystem::path(config_.run.out) / "config.yaml", to_yaml(config_));
  keep_tokenizer();
  report_ = std::make_unique<RunReport>(config_.run, progress_.step, model_->flops_per_token(geometry_.sequence), peak[0]);
  report_->note(fmt::format("{}: {} parameters, {} rank{} of {} thread{}, batch {} x {} tokens in {} micro-batch{} a rank",
                            config_.model.kind, model_->num_parameters(), world_.size(), world_.size() == 1 ? "" : "s",
                            engine_.backend().num_threads(), engine_.backend().num_threads() == 1 ? "" : "s",
                            geometry_.global, geometry_.sequence, micro_batches_, micro_batches_ == 1 ? "" : "es"));
}

/// A copy of the tokenizer's model in the run's folder, so that the run stays usable without its data.
void Trainer::keep_tokenizer() {
  namespace fs = std::filesystem;
  if (tokenizer_.empty() || !fs::is_regular_file(tokenizer_)) return;
  const fs::path copy = fs::path(config_.run.out) / fs::path(tokenizer_).filename();
  std::error_code error;
  if (!fs::equivalent(tokenizer_, copy, error)) fs::copy_file(tokenizer_, copy, fs::copy_options::overwrite_existing, error);
  if (error && !fs::exists(copy)) throw IoError(fmt::format("{}: {}", copy.string(), error.message()));
}

MicroBatch Trainer::to_device(Batch& batch, int64_t first, int64_t count) {
  const auto rows = [&](std::vector<int32_t>& values) {
    const std::span all(values);
    const auto part = all.subspan(static_cast<size_t>(first * batch.sequence), static_cast<size_t>(count * batch.sequence));
    return ctx_.from_host<int32_t>(part, {count, batch.sequence});
  };
  const auto tokens = static_cast<double>(geometry_.global * geometry_.sequence);
  return {rows(batch.tokens), rows(batch.targets), static_cast<float>(1.0 / tokens)};
}

/// Forward and backward of this rank's samples. Returns the sum of their losses.
float Trainer::run_micro_batches(const Batch& host_batch) {
  Batch batch = host_batch;
  Tensor sum;
  for (int64_t i = 0; i < micro_batches_; ++i) {
    Tape tape;
    Context ctx = ctx_;
    ctx.tape = &tape;
    ctx.training = true;
    ctx.random = {static_cast<uint64_t>(config_.run.seed), static_cast<uint64_t>(batch.step),
                  batch.first_sample + i * geometry_.micro};
    if (i + 1 == micro_batches_) ctx.gradients = reducer_.get();
    Tensor loss;
    {
      TraceScope scope(ctx.tracer, Tracer::Lane::step, "forward");
      loss = model_->loss(ctx, to_device(batch, i * geometry_.micro, geometry_.micro));
    }
    TraceScope scope(ctx.tracer, Tracer::Lane::step, "backward");
    tape.backward(ctx, loss);
    if (sum.defined())
      ctx_.kernel<AddKernel>()(ctx_, sum, loss, sum);
    else
      sum = loss.detach();
  }
  float value = 0.0f;
  ctx_.backend->copy(&value, sum.raw(), sizeof value, *ctx_.stream);
  ctx_.stream->synchronize();
  return value;
}

/// The sum of the ranks' losses, and whether a signal reached any of them.
void Trainer::exchange_flags(float& loss) {
  std::array<float, 3> sums{loss, 0.0f, 0.0f};
  if (signals_) {
    sums[1] = signals_->stop_requested() ? 1.0f : 0.0f;
    sums[2] = signals_->take_checkpoint_request() ? 1.0f : 0.0f;
  }
  stats_group_->all_reduce(as_tensor(sums), ReduceOp::sum, "loss").wait();
  loss = sums[0];
  stop_ = stop_ || sums[1] > 0.0f;
  save_now_ = sums[2] > 0.0f;
}

Tensor Trainer::gradient_stats(float loss) {
  const Tensor stats = ctx_.zeros({UpdateGuard::kStats}, DType::f32, MemoryClass::workspace);
  Tensor norms = stats.flat_view(0, {2});
  for (const Shard& shard : shards_) ctx_.kernel<SumSquaresKernel>()(ctx_, shard.grad, norms);
  if (!reducer_->replicated()) stats_group_->all_reduce(norms, ReduceOp::sum, "gradient norm").wait(*ctx_.stream);
  const Tensor slot = stats.flat_view(UpdateGuard::loss, {1});
  ctx_.backend->copy(slot.raw(), &loss, sizeof loss, *ctx_.stream);
  return stats;
}

Batch Trainer::next_batch() {
  TraceScope scope(ctx_.tracer, Tracer::Lane::data, "wait for the batch");
  return loader_->next();
}

StepMetrics Trainer::step() {
  const int64_t begin_us = Tracer::now_us();
  const Batch batch = next_batch();
  reducer_->begin_step();
  float loss = run_micro_batches(batch);
  reducer_->finish();
  exchange_flags(loss);
  const double lr = learning_rate(config_.optim, batch.step, config_.run.steps);
  StepControl control;
  {
    TraceScope scope(ctx_.tracer, Tracer::Lane::step, "update");
    const Tensor& decision = guard_->decide(ctx_, gradient_stats(loss), lr);
    optimizer_->step(ctx_, shards_, decision);
    reducer_->publish();
    control = read_control(ctx_, decision);
  }
  progress_.step = batch.step;
  progress_.tokens += geometry_.global * geometry_.sequence;
  if (control.apply == 0.0f) ++progress_.skipped;
  StepMetrics m;
  m.step = batch.step;
  m.loss = loss;
  m.grad_norm = control.grad_norm;
  m.lr = lr;
  m.tokens = progress_.tokens;
  const double seconds = seconds_since(begin_us);
  m.step_ms = seconds * 1e3;
  m.tokens_per_s = static_cast<double>(geometry_.global * geometry_.sequence) / seconds;
  m.skipped = control.apply == 0.0f;
  return m;
}

void Trainer::evaluate() {
  if (!evaluator_) return;
  const Evaluation result = evaluator_->run(ctx_, *model_, data_group_);
  if (report_) report_->validation(progress_.step, result);
}

void Trainer::save() {
  std::array<int32_t, 1> failed{0};
  CheckpointTarget target;
  target.root = config_.run.out;
  target.step = progress_.step;
  target.rank = world_.rank();
  target.ranks = world_.size();
  target.agree = [&](bool fine) {
    failed[0] = fine ? 0 : 1;
    world_.all_reduce(as_tensor(failed), ReduceOp::max, "checkpoint").wait();
    return failed[0] == 0;
  };
  CheckpointWriter writer(std::move(target));
  const WriteShare share{data_group_.rank(), data_group_.size(), reducer_->replicated()};
  save_state(writer, ctx_, shards_, resumable_state(nullptr), share);
  save_progress(writer, progress_);
  writer.set_section("model", model_to_json(config_.model));
  writer.set_section("config", to_yaml(config_));
  writer.set_section("tokenizer", std::filesystem::is_regular_file(tokenizer_)
                                      ? std::filesystem::path(tokenizer_).filename().string()
                                      : tokenizer_);
  const std::filesystem::path path = writer.commit();
  if (!report_) return;
  if (config_.checkpoint.keep > 0) prune(config_.run.out, static_cast<int>(config_.checkpoint.keep), path);
  report_->note(fmt::format("checkpoint {}", path.string()));
}

/// Records trace_steps steps from the second one of this process on (the first, when there is no other), and writes them when they are over.
void Trainer::control_trace() {
  if (!tracer_ || trace_written_) return;
  const int64_t next = progress_.step + 1, first = std::min(first_step_ + 1, config_.run.steps), end = first + config_.run.trace_steps;
  const bool over = next >= end || next > config_.run.steps || stop_;
  tracer_->set_recording(next >= first && !over);
  if (!over || next < first) return;
  tracer_->write(std::filesystem::path(config_.run.out) / fmt::format("trace-{:05}.json", world_.rank()));
  trace_written_ = true;
}

void Trainer::run() {
  const auto due = [](int64_t step, int64_t every) { return every > 0 && step % every == 0; };
  while (progress_.step < config_.run.steps && !stop_) {
    control_trace();
    const StepMetrics metrics = step();
    if (report_) report_->step(metrics, engine_.allocator().stats().current_total_bytes);
    const bool last = metrics.step == config_.run.steps;
    if (due(metrics.step, config_.run.eval_every) || (last && config_.run.eval_every > 0)) evaluate();
    if (due(metrics.step, config_.checkpoint.every) || last || stop_ || save_now_) save();
  }
  control_trace();
  if (stop_ && report_)
    report_->note(fmt::format("stopped by a signal after step {}; the same command goes on from there", progress_.step));
}

}  // namespace trireme
