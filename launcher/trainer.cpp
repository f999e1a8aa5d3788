#include "launcher/trainer.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>

#include "comm/local_ranks.h"
#include "comm/scoped_timeout.h"
#include "core/data/batch_plan.h"
#include "core/text.h"
#include "launcher/agree.h"
#include "launcher/choose_device.h"
#include "launcher/layout_report.h"
#include "launcher/peak.h"
#include "launcher/profile_report.h"
#include "launcher/same_run.h"
#include "models/model_json.h"
#include "models/presets.h"
#include "optim/kernels.h"
#include "optim/schedule.h"
#include "parallel/all_reduce_reducer.h"

namespace trireme {
namespace {

std::unique_ptr<Backend> make_backend(const Config& config, Group& world) {
  const Device device = choose_device(config.run.device, world);
  agree(world, "precision checked", [&] { check_precision(config.precision, device); });
  const CudaOptions cuda{.index = device.index, .tf32 = config.precision.compute == "tf32", .deterministic = config.run.deterministic};
  auto backend = device.kind == DeviceKind::cuda ? make_cuda_backend(cuda) : make_cpu_backend(static_cast<int>(config.run.threads));
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

/// Sizes that can't work are refused before a device or another rank is asked for anything.
RunPlan plan_together(Config config, Group& world) {
  RunPlan plan = agree(world, "run planned", [&] { return plan_run(std::move(config), world.size()); });
  check_same_run(plan, world);
  return plan;
}

}  // namespace

Trainer::Trainer(Config config, Group& world, SignalRequests* signals)
    : Trainer(plan_together(std::move(config), world), world, signals) {}

Trainer::Trainer(RunPlan plan, Group& world, SignalRequests* signals)
    : config_(plan.config),
      world_(world),
      signals_(signals),
      tracer_(std::make_unique<Tracer>(world.rank(), fmt::format("rank {}", world.rank()))),
      engine_(make_backend(config_, world)),
      notes_(engine_.backend()),
      ctx_(engine_.context()),
      mesh_(config_.parallel, with_options(world, config_.run, tracer_.get()), engine_.backend(),
            {.nccl_ctas = static_cast<int>(config_.sync.nccl_ctas),
             .copy_engines = config_.sync.copy_engines == "auto" ? std::make_shared<comm::CopyOrder>() : nullptr,
             .captures_copies = captures_copies(config_.run.cuda_graph, config_.parallel.tensor)}),
      stats_group_(mesh_.make_group(0, "step statistics")) {
  ctx_.tracer = tracer_.get();
  profiler_ = engine_.backend().make_profiler();
  tracer_->set_listener(profiler_.get());
  refuse_too_large(plan, engine_.backend(), world_);
  open_data(std::move(plan));
  build_model();
  start();
  start_reports();
}

Trainer::~Trainer() { with_options(world_, config_.run, nullptr); }

void Trainer::open_data(RunPlan plan) {
  constexpr int kMostRanksShown = 64;
  if (world_.size() > 1) {
    const auto homes = gather_homes(world_, engine_.backend().device());
    layout_ = world_.size() <= kMostRanksShown ? layout_table(plan, homes) : plan.layout.mesh.describe();
  }
  tokenizer_ = plan.data.tokenizer;
  micro_batches_ = plan.batch.micro_batches;
  plan_ = std::move(plan.layout);
  geometry_ = {config_.batch.global,     config_.batch.micro,     config_.batch.sequence,
               config_.model.true_vocab, mesh_.coord(Axis::data), mesh_.shape().size(Axis::data)};
  agree(world_, "data opened", [&] {
    train_data_ = open_datasets(config_.data.train);
    valid_data_ = open_datasets(config_.data.valid);
    if (!valid_data_.empty())
      evaluator_ = std::make_unique<Evaluator>(valid_data_, geometry_, config_.run.eval_batches * geometry_.global,
                                               plan.data.token_bytes);
  });
}

void Trainer::build_model() {
  model_ = std::make_unique<ParallelModel>(config_.model, config_.parallel, plan_, mesh_);
  const auto bucket_bytes = static_cast<size_t>(config_.sync.bucket_mb * 0x1p20);
  buckets_ = plan_buckets(model_->parameters(), bucket_bytes, kParameterAlign, mesh_.shape().size(Axis::tensor));
  allocate_buckets(ctx_, buckets_, compute_dtype(config_.precision));
  reducer_ = std::make_unique<AllReduceReducer>(ctx_, buckets_, model_->reduce_groups(), config_.sync.overlap,
                                                reduce_dtype(config_.precision));
  const std::span<Shard> shards = reducer_->shards();
  shards_.assign(shards.begin(), shards.end());
  ctx_.hooks = reducer_.get();
  std::optional<StochasticRounding> rounding;
  if (!config_.precision.master) rounding = {static_cast<uint64_t>(config_.run.seed)};
  agree(world_, "optimizer made", [&] {
    optimizer_ = make_optimizer(config_.optim, rounding);
    guard_ = std::make_unique<UpdateGuard>(ctx_, config_.optim, loss_scale_settings(config_.precision));
  });
  const bool on_one_machine = find_local_ranks(world_).size == world_.size();
  step_ = std::make_unique<TrainStep>(ctx_, TrainStepParts{*model_, *reducer_, shards_, *optimizer_, *guard_, *stats_group_},
                                      geometry_, micro_batches_, static_cast<uint64_t>(config_.run.seed),
                                      record_mode(config_.run.cuda_graph, on_one_machine));
}

/// State that a resumed run takes over: the optimizer's, and the guard's where it is of this config's shape.
OptimizerState Trainer::resumable_state(const CheckpointReader* reader) const {
  OptimizerState state = optimizer_->state();
  for (const OptimizerState::Scalar& scalar : guard_->state()) {
    const std::string name = "optim." + scalar.name;
    if (!reader || (reader->has(name) && reader->shape(name) == scalar.value.shape()))
      state.scalars.push_back(scalar);
    else
      say(fmt::format("note: the checkpoint has no {} of this config's shape: it starts anew", scalar.name));
  }
  return state;
}

void Trainer::say(const std::string& line) const {
  if (world_.rank() == 0) fmt::print("{}\n", line);
}

void Trainer::resume(const std::filesystem::path& checkpoint) {
  CheckpointReader reader(checkpoint);
  check_same_model(reader, config_.model);
  progress_ = load_progress(reader);
  check_same_optimizer(reader, progress_, config_.optim);
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

void Trainer::take_first_state(const StartPoint& from) {
  if (from.resume) return resume(*from.resume);
  if (from.init_from) {
    CheckpointReader reader(*from.init_from);
    check_same_model(reader, config_.model);
    load_weights(reader, ctx_, model_->parameters());
  } else {
    init_parameters(ctx_, model_->parameters(), static_cast<uint64_t>(config_.run.seed));
  }
  optimizer_->attach(ctx_, shards_);
}

void Trainer::start() {
  const StartPoint from = choose_start(config_, world_);
  {
    const ScopedTimeout of_reading(world_, config_.checkpoint.timeout_s * 1000);  // patience with the others' disks
    agree(world_, "checkpoint read", [&] { take_first_state(from); });
  }
  progress_.seed = config_.run.seed;
  progress_.global_batch = config_.batch.global;
  progress_.sequence = config_.batch.sequence;
  progress_.optimizer = config_.optim.kind;
  launched_ = progress_.step;
  first_step_ = launched_ + 1;
  agree(world_, "data read", [&] {
    loader_ = std::make_unique<Loader>(train_data_, geometry_,
                                       LoaderOptions{config_.data.shuffle, static_cast<uint64_t>(config_.run.seed),
                                                     config_.data.prefetch, first_step_});
  });
  const ScopedTimeout patience(world_, config_.checkpoint.timeout_s * 1000);
  leave_later_course(config_, progress_.step, world_);
}

void Trainer::start_reports() {
  const bool on_gpu = engine_.backend().is_asynchronous();
  std::array<double, 1> peak{on_gpu ? peak_flops(ctx_, compute_dtype(config_.precision), config_.precision.compute)
                                    : peak_flops(ctx_, DType::f32, "f32")};
  peak_flops_ = peak[0];
  engine_.allocator().release_cached();  // what was measured with is not the run's
  engine_.allocator().reset_peak();
  world_.all_reduce(as_tensor(peak), ReduceOp::sum, "peak rate").wait();
  if (world_.rank() != 0) return;
  std::error_code error;
  std::filesystem::create_directories(config_.run.out, error);
  if (error) throw IoError(fmt::format("cannot make the folder run.out: {}: {}", config_.run.out, error.message()));
  write_text_durably(std::filesystem::path(config_.run.out) / "config.yaml", to_yaml(config_));
  keep_tokenizer();
  report_ = std::make_unique<RunReport>(config_.run, progress_.step, model().flops_per_token(geometry_.sequence), peak[0]);
  if (!layout_.empty()) report_->note(layout_);
  if (const int64_t first = config_.run.profile.steps[0]; first > config_.run.steps)
    report_->note(fmt::format("note: nothing is profiled: run.profile.steps begins with {}, run.steps is {}", first, config_.run.steps));
  const std::string model_name = engine_.backend().model_name();
  report_->note(fmt::format("{}: {} parameters, {} of {}{}, batch {} x {} tokens in {} a rank", config_.model.kind,
                            model().num_parameters(), counted(world_.size(), "rank"), counted(engine_.backend().num_threads(), "thread"),
                            model_name.empty() ? "" : " and a GPU (" + model_name + ")",
                            geometry_.global, geometry_.sequence, micro_batches_ == 1 ? "1 micro-batch" : fmt::format("{} micro-batches", micro_batches_)));
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

Batch Trainer::next_batch() {
  TraceScope scope(ctx_.tracer, Tracer::Lane::data, "wait for the batch");
  return loader_->next();
}

void Trainer::launch() {
  const Batch batch = next_batch();
  StepRequests requests;
  if (signals_)
    requests = {signals_->stop_requested(),
                checkpoint_request_.ask(signals_->take_checkpoint_request(), CheckpointRequest::Clock::now())};
  step_->launch(batch, learning_rate(config_.optim, batch.step, config_.run.steps), requests);
  launched_ = batch.step;
}

StepMetrics Trainer::collect() {
  const StepResult result = step_->collect();
  const int64_t tokens = geometry_.global * geometry_.sequence;
  progress_.step = result.step;
  progress_.tokens += tokens;
  StepMetrics m;
  m.skipped = result.control.apply == 0.0f;
  if (m.skipped) ++progress_.skipped;
  stop_ = stop_ || result.requests.stop;
  save_now_ = save_now_ || result.requests.checkpoint;
  m.step = result.step;
  m.loss = result.loss;
  m.grad_norm = result.control.grad_norm;
  m.lr = learning_rate(config_.optim, result.step, config_.run.steps);
  const LossScaleSettings scale = loss_scale_settings(config_.precision);
  if (scale.dynamic || scale.initial != 1.0) m.loss_scale = result.control.used_scale;
  if (result.control.reason() == SkipReason::not_finite) note_not_finite(scale, result.control.used_scale);
  m.tokens = progress_.tokens;
  m.step_ms = result.seconds * 1e3;
  m.tokens_per_s = static_cast<double>(tokens) / result.seconds;
  if (report_) report_->step(m, engine_.allocator().stats().peak_total_bytes);
  // What may fail on one rank was tried.
  report_notes(result.first_recorded || result.step == first_step_ + TrainStep::kFirstRecorded - 1);
  return m;
}

/// Where no smaller scale will follow by itself.
void Trainer::note_not_finite(const LossScaleSettings& scale, float used) {
  if (scale.dynamic && used > scale.minimum) return;
  const char* const other_type = config_.precision.compute == "f16" ? ", or set precision.compute to bf16" : "";
  if (scale.dynamic)
    engine_.backend().add_note(fmt::format("gradients are not finite at precision.min_scale {:g} either, so it is not the scale: "
                                           "lower optim.lr{}", scale.minimum, other_type));
  else if (scale.initial != 1.0)
    engine_.backend().add_note(fmt::format("gradients are not finite with precision.loss_scale {:g}, and the step is skipped: lower it, "
                                           "or make it dynamic", scale.initial));
}

/// What the device has to say, or that of any rank; this is collective.
void Trainer::report_notes(bool of_all) {
  if (!of_all && !report_) return;
  for (const std::string& line : of_all ? notes_.take_of_all(world_) : notes_.take()) report_->note(line);
}

StepMetrics Trainer::step() {
  launch();
  return collect();
}

void Trainer::evaluate() {
  if (!evaluator_) return;
  const Evaluation result = evaluator_->run(ctx_, *model_, world_);
  if (report_) report_->validation(progress_.step, result);
}

void Trainer::save() {
  const ScopedTimeout patience(world_, config_.checkpoint.timeout_s * 1000);
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
  const WriteShare share{model_->batch_group().rank(), model_->batch_group().size(), reducer_->replicated(), world_.rank() == 0};
  save_state(writer, ctx_, shards_, resumable_state(nullptr), share);
  save_progress(writer, progress_);
  writer.set_section("model", model_to_json(config_.model));
  writer.set_section("config", to_yaml(config_));
  writer.set_section("tokenizer", std::filesystem::is_regular_file(tokenizer_)
                                      ? std::filesystem::path(tokenizer_).filename().string()
                                      : tokenizer_);
  const std::filesystem::path path = writer.commit();
  if (report_ && config_.checkpoint.keep > 0)
    prune(config_.run.out, static_cast<int>(config_.checkpoint.keep), path);
  world_.barrier("older checkpoints removed").wait();
  if (report_) report_->note(fmt::format("checkpoint {}", path.string()));
}

/// The first and the last step that are looked at: run.profile's, or trace_steps from the second one of this process on
/// (the first, when there is no other).
Trainer::Window Trainer::traced_steps() const {
  const auto [first, last] = config_.run.profile.steps;
  if (first > 0) return {std::max(first, first_step_), std::min(last, config_.run.steps)};
  if (!config_.run.trace) return {0, -1};
  const int64_t second = std::min(first_step_ + 1, config_.run.steps);
  return {second, std::min(second + config_.run.trace_steps - 1, config_.run.steps)};
}

/// Before each step, and at the end: begins and ends the recording of traced_steps().
void Trainer::control_trace() {
  const auto [first, last] = traced_steps();
  const int64_t next = launched_ + 1;
  if (!tracer_->recording() && next >= first && next <= last && !stop_) {
    while (step_->in_flight() > 0) collect();
    trace_first_ = next;
    trace_begin_ns_ = Tracer::now_us() * 1000;
    tracer_->set_recording(true);
    start_profiler();
  } else if (tracer_->recording() && (next > last || stop_)) {
    while (step_->in_flight() > 0) collect();
    finish_trace();
  }
}

/// For a profile, and for the passes of a pipeline in a trace; the latter does without where it must.
void Trainer::start_profiler() {
  const bool is_profile = config_.run.profile.steps[0] > 0;
  if (!profiler_ || (!is_profile && plan_.num_stages() == 1)) return;
  try {
    profiler_->start();
    profiling_ = true;
  } catch (const IoError& e) {
    if (is_profile) throw;
    say(fmt::format("note: the trace has no passes of the GPU ({})", e.what()));
  }
}

void Trainer::finish_trace() {
  ProfiledSteps steps{launched_ - trace_first_ + 1, trace_begin_ns_, Tracer::now_us() * 1000};
  const auto tokens = static_cast<double>(geometry_.global * geometry_.sequence) / static_cast<double>(world_.size());
  steps.flops_per_step = model().flops_per_token(geometry_.sequence) * tokens;
  steps.peak_flops = peak_flops_;
  const std::filesystem::path out(config_.run.out);
  const std::vector<DeviceActivity> activities = profiling_ ? profiler_->stop() : std::vector<DeviceActivity>();
  profiling_ = false;
  for (const Tracer::Span& s : device_passes(activities)) tracer_->add(s.lane, s.name, s.begin_us, s.end_us);
  tracer_->set_recording(false);
  if (config_.run.profile.steps[0] > 0) {
    const std::string table = profiler_ ? profile_table(steps, activities, tracer_->spans()) : profile_table(steps, tracer_->spans());
    tracer_->add(activities);
    write_text_durably(out / fmt::format("profile-{:05}.txt", world_.rank()), table);
    if (report_) report_->note(table);
  }
  tracer_->write(out / fmt::format("trace-{:05}.json", world_.rank()));
}

void Trainer::run() {
  const auto due = [](int64_t step, int64_t every) { return every > 0 && step % every == 0; };
  const size_t ahead = engine_.backend().is_asynchronous() ? 1 : 0;  // steps that may be in flight while the next is queued
  while (launched_ < config_.run.steps && !stop_) {
    control_trace();
    launch();
    const bool last = launched_ == config_.run.steps;
    const bool evaluates = due(launched_, config_.run.eval_every) || (last && config_.run.eval_every > 0);
    const bool saves = due(launched_, config_.checkpoint.every) || (last && config_.checkpoint.at_end);
    while (step_->in_flight() > (last || evaluates || saves || stop_ || save_now_ ? 0 : ahead)) collect();
    if (evaluates) evaluate();
    if (save_now_) checkpoint_request_.served(CheckpointRequest::Clock::now());
    if (saves || stop_ || save_now_) save();
    save_now_ = false;
  }
  control_trace();
  if (report_) report_->end_progress();
  report_notes(/*of_all=*/true);
  if (report_ && step_->replays())
    report_->note(world_.size() == 1 || step_->has_captured() ? "steps were replayed, as one CUDA graph each"
                                                              : "steps were replayed, as CUDA graphs between which exchanges were called");
  if (report_) report_->note(fmt::format("peak memory {}", describe_peak(engine_.allocator().stats())));
  if (stop_ && report_)
    report_->note(fmt::format("stopped by a signal after step {}; the same command goes on from there", progress_.step));
}

}  // namespace trireme
