// The kernels of a GPT, each on its own, in the shapes that training calls them with.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <random>

#include "core/ops/attention.h"
#include "core/ops/classifier.h"
#include "core/ops/elementwise.h"
#include "core/ops/gelu.h"
#include "core/ops/layer_norm.h"
#include "core/ops/linear.h"
#include "core/ops/mlp.h"
#include "launcher/bench.h"
#include "optim/kernels.h"

namespace trireme {
namespace {

/// The sizes of one model and micro-batch. N = samples * tokens rows, C = width.
struct Sizes {
  int64_t samples, tokens, heads, width, vocab;
  int64_t rows() const { return samples * tokens; }
};
constexpr Sizes kQuick{2, 64, 2, 128, 512};
constexpr Sizes kSmall{8, 256, 6, 384, 512};    // the `char` preset
constexpr Sizes kGpt2{2, 256, 12, 768, 50304};  // gpt2-124m
constexpr Sizes kGpuGpt2{64, 1024, 12, 768, 50304};
constexpr Sizes kGpuGpt2Xl{8, 1024, 25, 1600, 50304};  // gpt2-1558m
/// Products of the classifier, if its rows were taken at once, and of larger models: rows, in, out.
constexpr std::array<std::array<int64_t, 3>, 3> kGpuProducts{{{65536, 768, 50304}, {16384, 4096, 14336}, {8192, 8192, 8192}}};

class KernelBench {
 public:
  KernelBench(Context& ctx, DType dtype, const BenchScope& scope)
      : ctx_(ctx), dtype_(dtype), scope_(scope), budget_s_(scope.quick ? 0.002 : 0.2) {}

  void run(const Sizes& s) {
    const int64_t c = s.width;
    for (const auto& [in, out] : {std::pair{c, 3 * c}, {c, c}, {c, 4 * c}, {4 * c, c}})
      linear(s.rows(), in, out);
    linear_gelu(s.rows(), c, 4 * c);
    attention(s);
    layer_norm(s.rows(), c);
    gelu(s.rows(), 4 * c);
    classifier(s);
    adamw(12 * c * c);  // the parameters of one block
    copy(size_t{4} * static_cast<size_t>(s.rows() * c));
  }

  void linear(int64_t rows, int64_t in, int64_t out) {
    const Tensor x = random({rows, in}), w = random({out, in}), b = random({out}), dy = random({rows, out});
    Tensor y = empty({rows, out}), dx = empty({rows, in});
    Tensor dw = empty({out, in}, DType::f32), db = empty({out}, DType::f32);
    const std::string size = fmt::format("{} x {} -> {}", rows, in, out);
    const double flop = 2.0 * static_cast<double>(rows * in * out);
    add("linear forward", size, flop, 0, [&] { ctx_.kernel<LinearForward>()(ctx_, x, w, b, y); });
    add("linear dx", size, flop, 0, [&] { ctx_.kernel<LinearBackwardInput>()(ctx_, dy, w, dx); });
    add("linear dw, db", size, flop, 0,
        [&] { ctx_.kernel<LinearBackwardWeight>()(ctx_, x, dy, true, dw, true, db); });
  }

  std::vector<BenchResult> take_results() { return std::move(results_); }

 private:
  /// Numbers about as large as a model's; zeros would be faster than what is measured.
  Tensor random(const Shape& shape, DType dtype) {
    constexpr int64_t kPattern = int64_t{1} << 20;  // elements that repeat
    const int64_t count = std::min(shape.numel(), kPattern);
    std::vector<float> values(static_cast<size_t>(count));
    std::uniform_real_distribution<float> uniform(-0.5f, 0.5f);
    for (float& v : values) v = uniform(random_);
    const Tensor pattern = cast(ctx_, ctx_.from_host<float>(values, {count}, MemoryClass::workspace), dtype);
    if (count == shape.numel()) return pattern.reshape(shape);
    Tensor all = empty(shape, dtype);
    for (int64_t begin = 0; begin < all.numel(); begin += count) {
      const Tensor part = all.flat_view(begin, {std::min(count, all.numel() - begin)});
      ctx_.backend->copy(part.raw(), pattern.raw(), part.bytes(), *ctx_.stream);
    }
    return all;
  }
  Tensor random(const Shape& shape) { return random(shape, dtype_); }
  Tensor empty(const Shape& shape, DType dtype) { return ctx_.empty(shape, dtype, MemoryClass::workspace); }
  Tensor empty(const Shape& shape) { return empty(shape, dtype_); }
  double element_bytes() const { return static_cast<double>(size_of(dtype_)); }

  void add(std::string name, std::string size, double flop, double bytes, const std::function<void()>& body) {
    if (!scope_.includes(name)) return;
    results_.push_back(
        {std::move(name), std::move(size), fastest_seconds(ctx_, budget_s_, body), flop, bytes});
  }

  /// The half of the MLP that gelu is fused to.
  void linear_gelu(int64_t rows, int64_t width, int64_t hidden) {
    const Tensor x = random({rows, width}), up = random({hidden, width}), b = random({hidden});
    const Tensor down = random({width, hidden});
    Tensor h = empty({rows, hidden}), a = empty({rows, hidden}), db = empty({hidden}, DType::f32);
    const double flop = 2.0 * static_cast<double>(rows * width * hidden);
    add("linear + gelu forward", fmt::format("{} x {} -> {}", rows, width, hidden), flop, 0,
        [&] { ctx_.kernel<LinearGeluForward>()(ctx_, x, up, b, h, a); });
    add("linear dx + gelu backward, db", fmt::format("{} x {} -> {}", rows, hidden, width), flop, 0,
        [&] { ctx_.kernel<LinearBackwardInputGelu>()(ctx_, x, down, h, a, db); });
  }

  void attention(const Sizes& s) {
    const AttentionShape shape{s.samples, s.tokens, s.heads, s.heads, s.width / s.heads, true};
    const Tensor qkv = random({s.rows(), shape.qkv_width()}), dout = random({s.rows(), s.width});
    Tensor out = empty({s.rows(), s.width}), lse = empty({s.samples, s.heads, s.tokens}, DType::f32);
    Tensor d_qkv = empty(qkv.shape());
    const std::string size =
        fmt::format("{} x {} tokens, {} x {}", s.samples, s.tokens, s.heads, shape.head_dim);
    const double product = shape.product_flop();
    add("attention forward", size, 2 * product, 0,
        [&] { ctx_.kernel<AttentionForwardKernel>()(ctx_, qkv, shape, out, lse); });
    add("attention backward", size, 5 * product, 0,
        [&] { ctx_.kernel<AttentionBackwardKernel>()(ctx_, qkv, out, lse, dout, shape, d_qkv); });
  }

  void layer_norm(int64_t rows, int64_t width) {
    const Tensor x = random({rows, width}), delta = random({rows, width}), w = random({width}),
                 b = random({width});
    Tensor residual = empty({rows, width}), y = empty({rows, width}), dx = empty({rows, width});
    Tensor mean = empty({rows}, DType::f32), rstd = empty({rows}, DType::f32),
           dwb = empty({2, width}, DType::f32);
    const std::string size = fmt::format("{} x {}", rows, width);
    const double bytes = element_bytes() * static_cast<double>(rows * width);
    add("add + layer_norm forward", size, 0, 4 * bytes,
        [&] { ctx_.kernel<LayerNormForward>()(ctx_, x, delta, w, b, 1e-5f, residual, y, mean, rstd); });
    add("add + layer_norm backward", size, 0, 4 * bytes,
        [&] { ctx_.kernel<LayerNormBackward>()(ctx_, residual, w, mean, rstd, delta, y, dx, dwb); });
  }

  void gelu(int64_t rows, int64_t width) {
    const Tensor x = random({rows, width}), dy = random({rows, width});
    Tensor y = empty({rows, width});
    const std::string size = fmt::format("{} x {}", rows, width);
    const double bytes = element_bytes() * static_cast<double>(rows * width);
    add("gelu forward", size, 0, 2 * bytes, [&] { ctx_.kernel<GeluForward>()(ctx_, x, y); });
    add("gelu backward", size, 0, 3 * bytes, [&] { ctx_.kernel<GeluBackward>()(ctx_, x, dy, y); });
  }

  void classifier(const Sizes& s) {
    std::vector<int32_t> targets(static_cast<size_t>(s.rows()));
    for (int32_t& target : targets) target = static_cast<int32_t>(random_() % static_cast<uint64_t>(s.vocab));
    ClassifierArgs args;
    args.h = random({s.rows(), s.width});
    args.w = random({s.vocab, s.width});
    args.targets = ctx_.from_host<int32_t>(targets, {s.rows()});
    args.vocab = s.vocab;
    args.accumulate_weight = true;
    args.loss = empty({1}, DType::f32);
    args.dh = empty({s.rows(), s.width});
    args.dw = empty({s.vocab, s.width}, DType::f32);
    add("classifier, with gradients", fmt::format("{} x {} -> {}", s.rows(), s.width, s.vocab),
        6.0 * static_cast<double>(s.rows() * s.width * s.vocab), 0,
        [&] { ctx_.kernel<ClassifierForward>()(ctx_, args); });
  }

  void adamw(int64_t elements) {
    FlatUpdate update;
    const bool in_halves = dtype_ == DType::bf16;  // as masters of bf16 weights are
    update.weights = random({elements}, in_halves ? DType::bf16 : DType::f32);
    if (in_halves) update.rest = ctx_.zeros({elements}, DType::u16, MemoryClass::workspace);
    update.grad = random({elements}, DType::f32);
    const std::array<int64_t, 3> run{0, elements, 1};
    update.runs = ctx_.from_host<int64_t>(run, {1, 3});
    update.weight_decay = 0.1;
    const Tensor control = make_control(ctx_, {.lr = 1e-4f});
    Tensor applied_steps = ctx_.zeros({1}, DType::i64);
    ctx_.kernel<CountStepKernel>()(ctx_, control, applied_steps);
    Tensor exp_avg = ctx_.zeros({elements}, DType::f32, MemoryClass::workspace);
    Tensor exp_avg_sq = ctx_.zeros({elements}, DType::f32, MemoryClass::workspace);
    const AdamwSettings settings{0.9, 0.95, 1e-8};
    add("adamw", fmt::format("{} elements", elements), 0, 7.0 * 4.0 * static_cast<double>(elements), [&] {
      ctx_.kernel<AdamwKernel>()(ctx_, settings, update, control, applied_steps, exp_avg, exp_avg_sq);
    });
  }

  void copy(size_t bytes) {
    const Shape shape{static_cast<int64_t>(bytes / 4)};
    const Tensor from = random(shape, DType::f32), to = empty(shape, DType::f32);
    add("copy", fmt::format("{:.1f} MiB", static_cast<double>(bytes) / 0x1p20), 0,
        2.0 * static_cast<double>(bytes),
        [&] { ctx_.backend->copy(to.raw(), from.raw(), bytes, *ctx_.stream); });
  }

  Context& ctx_;
  DType dtype_;
  const BenchScope& scope_;
  double budget_s_;
  std::mt19937_64 random_{1};
  std::vector<BenchResult> results_;
};

}  // namespace

std::vector<BenchResult> bench_kernels(Context& ctx, DType dtype, const BenchScope& scope) {
  KernelBench bench(ctx, dtype, scope);
  const bool gpu = ctx.backend->device().kind != DeviceKind::cpu;
  if (scope.quick) {
    bench.run(kQuick);
  } else {
    bench.run(gpu ? kGpuGpt2 : kSmall);
    bench.run(gpu ? kGpuGpt2Xl : kGpt2);
    if (gpu)
      for (const auto& [rows, in, out] : kGpuProducts) bench.linear(rows, in, out);
  }
  return bench.take_results();
}

}  // namespace trireme
