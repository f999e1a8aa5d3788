// What an experiment file's keys are: one describe() a struct, which names each member's key, help and
// allowed values. Everything that walks a config is a visitor of these: the reader, the writer and the
// reference page.
//   v.field(key, member, help, rule);  v.section(key, member, help);
#pragma once

#include <string>
#include <vector>

#include "launcher/config.h"
#include "launcher/config_rule.h"
#include "models/presets.h"

namespace trireme {

template <class V>
void describe(V& v, ModelConfig& c) {
  std::vector<std::string> names = preset_names();
  names.insert(names.begin(), "");
  v.field("preset", c.preset, "a named size, which sets the keys below that are not given", one_of(names));
  v.field("kind", c.kind, "the architecture", one_of({"gpt"}));
  v.field("layers", c.layers, "blocks", at_least(1));
  v.field("heads", c.heads, "attention heads; divides `width`", at_least(1));
  v.field("kv_heads", c.kv_heads, "heads of keys and values; divides `heads`; 0: as many as `heads`",
          at_least(0));
  v.field("width", c.width, "size of the residual stream", at_least(1));
  v.field("ffn", c.ffn, "hidden width of the MLP; 0: 4 × `width`", at_least(0));
  v.field("context", c.context, "the most tokens of a sample", at_least(1));
  v.field("vocab", c.vocab, "rows of the embedding; 0: the tokenizer's, rounded up to a multiple of 64",
          at_least(0));
  v.field(
      "true_vocab", c.true_vocab,
      "tokens that exist; the rows after them are padding, never predicted; 0: the tokenizer's, or `vocab`",
      at_least(0));
  v.field("dropout", c.dropout, "probability of dropping, in training", half_open(0, 1));
  v.field("bias", c.bias, "bias vectors in linear layers and norms", any());
  v.field("tied", c.tied, "one table for embedding and classifier", any());
  v.field("recompute", c.recompute, "what backward computes again instead of keeping it",
          one_of({"none", "selective", "full"}));
}

template <class V>
void describe(V& v, DataSource& c) {
  v.field("files", c.files,
          "a glob of .bin shards (llm.c), or of Megatron-LM .bin files with an .idx beside each", any());
  v.field("weight", c.weight, "relative share of the samples", above(0));
}

template <class V>
void describe(V& v, DataConfig& c) {
  v.field("train", c.train, "a glob, or a list of globs or of {files: GLOB, weight: SHARE}", any());
  v.field("valid", c.valid, "the same, for validation; empty: none", any());
  v.field("shuffle", c.shuffle, "false: samples in the order of the files", any());
  v.field("prefetch", c.prefetch, "batches read ahead", at_least(0));
  v.field("tokenizer", c.tokenizer, "`bytes`, or a sentencepiece .model; empty: the one beside the shards",
          any());
}

template <class V>
void describe(V& v, BatchConfig& c) {
  v.field("global", c.global, "samples of one step, over all ranks", at_least(1));
  v.field("micro", c.micro, "samples of one forward and backward pass on one rank", at_least(1));
  v.field("sequence", c.sequence, "tokens of a sample; 0: `model.context`", at_least(0));
}

template <class V>
void describe(V& v, ParallelConfig& c) {
  v.field("data", c.data, "replicas of the model; `auto`: the ranks that the other axes leave",
          auto_or_at_least(1));
  v.field("context", c.context, "ranks that share a sample's tokens", at_least(1));
  v.field("expert", c.expert, "ranks that share the experts", at_least(1));
  v.field("pipeline", c.pipeline, "ranks that share the layers", at_least(1));
  v.field("tensor", c.tensor, "ranks that share each matrix", at_least(1));
  v.field("order", c.order, "the axes, from those whose ranks lie farthest apart to those whose ranks are neighbours",
          any());
  v.field("sequence", c.sequence, "tensor ranks divide the tokens where no matrix needs them all: less memory, the same traffic",
          any());
  v.field("overlap", c.overlap,
          "tensor ranks compute one half of a micro-batch's samples while activations of the other half travel (but for "
          "`model.recompute: full`); `auto`: on GPUs",
          one_of({"auto", "on", "off"}));
  v.field("schedule", c.schedule,
          "of the pipeline: `gpipe`, `1f1b`, `interleaved`, `zb-h1`, `zb-v`, or the path of a CSV file (see docs/pipeline.md)",
          any());
  v.field("chunks", c.chunks, "stages of each pipeline rank; `auto`: 2 for `interleaved` and `zb-v`, what a file has, else 1", auto_or_at_least(1));
  v.field("stages", c.stages, "blocks of each stage, such as [7, 8, 8, 7]; empty: stages of about equal cost", at_least(0));
}

template <class V>
void describe(V& v, SyncConfig& c) {
  v.field("mode", c.mode, "how gradients come together", one_of({"all_reduce"}));
  v.field("bucket_mb", c.bucket_mb, "MiB of f32 gradient that are sent at a time", above(0));
  v.field("overlap", c.overlap, "send while backward is running", any());
  v.field("nccl_ctas", c.nccl_ctas, "thread blocks of a GPU that NCCL takes from the kernels that compute; 0: NCCL's choice",
          within(0, 64));
  v.field("copy_engines", c.copy_engines,
          "GPUs' copy engines move gradients, and what tensor ranks exchange, where NVLink joins all of a group: they take "
          "less from the kernels that compute; `off`: NCCL does",
          one_of({"auto", "off"}));
}

template <class V>
void describe(V& v, PrecisionConfig& c) {
  v.field("compute", c.compute, "type of parameters and activations; sums are always f32; tf32 and f16 need a GPU",
          one_of({"f32", "tf32", "bf16", "f16"}));
  v.field("reduce", c.reduce, "type in which ranks exchange gradients; `compute`: half the bytes with bf16 and f16, and their "
          "rounding", one_of({"f32", "compute"}));
  v.field("master", c.master, "keep f32 masters of bf16 and f16 weights; `false`, for bf16 with adamw, sgd or lion: none, and updates "
          "are rounded at random, up or down", any());
  v.field("loss_scale", c.loss_scale,
          "factor of the gradients until the update: `auto` (dynamic with f16), `none`, `dynamic`, or a number", any());
  v.field("initial_scale", c.initial_scale, "dynamic: the first scale", above(0));
  v.field("growth_factor", c.growth_factor, "dynamic: the scale grows by this after `growth_interval` good steps, up to 2^24", at_least(1));
  v.field("growth_interval", c.growth_interval, "dynamic: steps in a row without overflow", at_least(1));
  v.field("backoff", c.backoff, "dynamic: the scale shrinks by this after an overflow, and the step is skipped", between(0, 1));
  v.field("min_scale", c.min_scale, "dynamic: the least scale", above(0));
}

template <class V>
void describe(V& v, ScheduleConfig& c) {
  v.field("kind", c.kind, "the learning rate after the warm-up",
          one_of({"constant", "linear", "cosine", "wsd", "inverse_sqrt"}));
  v.field("warmup", c.warmup, "steps; step s of w uses lr × min(1, s/w)", at_least(0));
  v.field("final", c.final, "linear, cosine, wsd: learning rate at the last step, as a share of `lr`", within(0, 1));
  v.field("decay", c.decay, "wsd: steps of the decay at the end; 0: a tenth of the run", at_least(0));
}

template <class V>
void describe(V& v, OptimConfig& c) {
  v.field("kind", c.kind, "the optimizer", one_of({"adamw", "sgd", "lion", "adafactor"}));
  v.field("lr", c.lr, "peak learning rate", above(0));
  v.field("betas", c.betas, "decay of the running means (adamw, lion)", half_open(0, 1));
  v.field("eps", c.eps, "adamw: added to the root of the second moment", above(0));
  v.field("momentum", c.momentum, "sgd", half_open(0, 1));
  v.field("nesterov", c.nesterov, "sgd", any());
  v.field("weight_decay", c.weight_decay, "decoupled; on parameters of two or more dimensions", at_least(0));
  v.field("no_decay", c.no_decay, "parts of parameter names without weight decay", any());
  v.field("clip", c.clip, "largest global gradient norm; 0: no clipping", at_least(0));
  v.field("skip_zscore", c.skip_zscore,
          "skip a step whose loss or gradient norm lies this many deviations high; 0: off", at_least(0));
  v.field("skip_window", c.skip_window, "steps that mean and deviation are taken over", at_least(2));
  v.section("schedule", c.schedule, "the learning rate over the run");
}

template <class V>
void describe(V& v, ProfileConfig& c) {
  v.field("steps", c.steps, "the first and the last step to look at; [0, 0]: none", at_least(0));
}

template <class V>
void describe(V& v, RunConfig& c) {
  v.field("device", c.device, "`auto`: a GPU for each rank where there are so many, else the CPU",
          one_of({"auto", "cpu", "cuda"}));
  v.field("seed", c.seed, "of weights, dropout and data order", at_least(0));
  v.field("steps", c.steps, "length of the run", at_least(1));
  v.field("eval_every", c.eval_every, "steps between validations, and one at the end; 0: never", at_least(0));
  v.field("eval_batches", c.eval_batches, "global batches of one validation", at_least(1));
  v.field("log_every", c.log_every, "steps between lines where the output is not a terminal", at_least(1));
  v.field("out", c.out, "folder of checkpoints, metrics and traces", any());
  v.field("threads", c.threads, "of one rank; `auto`: OMP_NUM_THREADS, or all cores", auto_or_at_least(1));
  v.field("timeout_s", c.timeout_s, "seconds after which a silent peer ends the run", at_least(1));
  v.field("deterministic", c.deterministic, "two runs give the same bits; on a GPU, attention is faster without", any());
  v.field("cuda_graph", c.cuda_graph,
          "`auto`: GPUs replay the recorded step, with collectives in it where they are all that is exchanged, on one machine, unless there "
          "are tensor ranks whose copy engines do some; `whole`: also then; `pieces`: collectives are called between pieces of it; `off`: "
          "kernels are launched one by one",
          one_of({"auto", "whole", "pieces", "off"}));
  v.field("trace", c.trace, "write a Chrome/Perfetto timeline of each rank", any());
  v.section("profile", c.profile, "what a step's time is spent on: a table, and kernels in the timeline");
  v.field("trace_steps", c.trace_steps, "steps that the timeline covers", at_least(1));
  v.field("tensorboard", c.tensorboard, "write TensorBoard event files", any());
}

template <class V>
void describe(V& v, CheckpointConfig& c) {
  v.field("every", c.every, "steps between checkpoints; 0: only at the end and on a signal", at_least(0));
  v.field("at_end", c.at_end, "one after the last step", any());
  v.field("keep", c.keep, "how many of the newest to keep; 0: all", at_least(0));
  v.field("resume", c.resume, "`auto`: the newest valid one in `run.out`; `never`; or a checkpoint's folder",
          any());
  v.field("init_from", c.init_from, "a checkpoint whose weights a new run starts from", any());
  v.field("timeout_s", c.timeout_s,
          "seconds that ranks wait for each other while checkpoints are written, checked or read, in the place of `run.timeout_s`",
          at_least(1));
}

template <class V>
void describe(V& v, Config& c) {
  v.section("model", c.model, "what is trained");
  v.section("data", c.data, "what it is trained on");
  v.section("batch", c.batch, "how much of it a step takes");
  v.section("parallel", c.parallel, "how the ranks are laid out; the product of the sizes is their number");
  v.section("sync", c.sync, "how data-parallel replicas stay equal");
  v.section("precision", c.precision, "number formats");
  v.section("optim", c.optim, "how weights are updated");
  v.section("run", c.run, "how long, where to, what is logged");
  v.section("checkpoint", c.checkpoint, "what is saved and resumed");
}

}  // namespace trireme
