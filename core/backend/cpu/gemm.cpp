#include "core/backend/cpu/gemm.h"

#include <fmt/format.h>

#include "core/backend/cpu/parallel.h"
#include "core/ops/elementwise.h"

namespace trireme::cpu {
namespace {

constexpr size_t kMaxPrimitives = 1024;  // generation makes one for each length

dnnl::memory::data_type dnnl_type(DType dtype) {
  TRIREME_ASSERT(dtype == DType::f32 || dtype == DType::bf16,
                 fmt::format("matrix products are in f32 or bf16, not {}", name_of(dtype)));
  return dtype == DType::f32 ? dnnl::memory::data_type::f32 : dnnl::memory::data_type::bf16;
}

/// A [rows, cols] matrix; `transposed` when memory holds it as [cols, rows].
dnnl::memory::desc matrix(int64_t rows, int64_t cols, DType dtype, bool transposed = false) {
  return {
      {rows, cols}, dnnl_type(dtype), transposed ? dnnl::memory::dims{1, rows} : dnnl::memory::dims{cols, 1}};
}

/// The matmul primitive: any of the types, bias added in the kernel.
void run_primitive(Context& ctx, const MatmulCache::Key& key, const Tensor& a, const Tensor& b,
                   const Tensor& bias, Tensor& c) {
  auto& cache = ctx.backend->state<MatmulCache>();
  const OmpThreads threads(ctx);
  const MatmulCache::Entry entry = cache.find_or_make(key);
  const dnnl::engine& engine = cache.engine();
  const Tensor scratchpad =
      ctx.empty({static_cast<int64_t>(entry.scratchpad.get_size())}, DType::u8, MemoryClass::workspace);
  std::unordered_map<int, dnnl::memory> args{
      {DNNL_ARG_SRC, {entry.a, engine, a.raw()}},
      {DNNL_ARG_WEIGHTS, {entry.b, engine, b.raw()}},
      {DNNL_ARG_DST, {entry.c, engine, c.raw()}},
      {DNNL_ARG_SCRATCHPAD, {entry.scratchpad, engine, scratchpad.raw()}}};
  if (bias.defined()) args.emplace(DNNL_ARG_BIAS, dnnl::memory(entry.bias, engine, bias.raw()));
  dnnl::stream stream(engine);
  entry.primitive.execute(stream, args);
  stream.wait();
}

void run_sgemm(Context& ctx, const MatmulCache::Key& key, const Tensor& a, const Tensor& b, Tensor& c) {
  const OmpThreads threads(ctx);
  const dnnl_status_t status =
      dnnl_sgemm(key.transpose_a ? 'T' : 'N', key.transpose_b ? 'T' : 'N', key.m, key.n, key.k, 1.0f,
                 a.data<float>(), key.transpose_a ? key.m : key.k, b.data<float>(),
                 key.transpose_b ? key.k : key.n, key.accumulate ? 1.0f : 0.0f, c.data<float>(), key.n);
  TRIREME_ASSERT(status == dnnl_success, fmt::format("dnnl_sgemm returned {}", static_cast<int>(status)));
}

Tensor convert(Context& ctx, const Tensor& x, DType dtype) {
  if (!x.defined() || x.dtype() == dtype) return x;
  Tensor out = ctx.empty(x.shape(), dtype, MemoryClass::workspace);
  ctx.kernel<CastKernel>()(ctx, x, out);
  return out;
}

/// Products in f32, by the faster of oneDNN's ways.
void multiply_f32(Context& ctx, const MatmulCache::Key& key, const Tensor& a, const Tensor& b,
                  const Tensor& bias, Tensor& c) {
  if (key.transpose_b)
    run_primitive(ctx, key, a, b, bias, c);
  else
    run_sgemm(ctx, key, a, b, c);
}

void multiply(Context& ctx, MatmulCache::Key key, const Tensor& a, const Tensor& b, const Tensor& bias,
              Tensor& c) {
  if (key.m == 0 || key.n == 0) return;
  TRIREME_ASSERT(a.dtype() == b.dtype(), "matrix product of two types");
  key.input = a.dtype();
  key.output = c.dtype();
  key.has_bias = bias.defined();
  key.bias = bias.defined() ? bias.dtype() : DType::f32;
  key.num_threads = ctx.backend->num_threads();
  if (key.input == DType::f32) return multiply_f32(ctx, key, a, b, bias, c);
  if (ctx.backend->state<MatmulCache>().has_native_bf16()) return run_primitive(ctx, key, a, b, bias, c);
  // oneDNN emulates bf16 at a fifth of f32's speed where the processor has no instructions for it.
  key.input = key.bias = key.output = DType::f32;
  Tensor result = c.dtype() == DType::f32 ? c : ctx.empty(c.shape(), DType::f32, MemoryClass::workspace);
  multiply_f32(ctx, key, convert(ctx, a, DType::f32), convert(ctx, b, DType::f32),
               convert(ctx, bias, DType::f32), result);
  if (c.dtype() != DType::f32) ctx.kernel<CastKernel>()(ctx, result, c);
}

void check_sizes(bool match, const Tensor& a, const Tensor& b, const Tensor& c) {
  TRIREME_ASSERT(match, fmt::format("matrix product of {} and {} into {}", to_string(a.shape()),
                                    to_string(b.shape()), to_string(c.shape())));
}

}  // namespace

MatmulCache::MatmulCache()
    : engine_(dnnl::engine::kind::cpu, 0),
      has_native_bf16_((static_cast<unsigned>(dnnl::get_effective_cpu_isa()) &
                        static_cast<unsigned>(dnnl::cpu_isa::avx512_core_bf16)) ==
                       static_cast<unsigned>(dnnl::cpu_isa::avx512_core_bf16)) {}

MatmulCache::Entry MatmulCache::find_or_make(const Key& key) {
  const std::lock_guard lock(mutex_);
  if (auto it = entries_.find(key); it != entries_.end()) return it->second;
  if (entries_.size() >= kMaxPrimitives) entries_.clear();
  return entries_.emplace(key, make(key)).first->second;
}

MatmulCache::Entry MatmulCache::make(const Key& key) const {
  Entry entry;
  entry.a = matrix(key.m, key.k, key.input, key.transpose_a);
  entry.b = matrix(key.k, key.n, key.input, key.transpose_b);
  entry.c = matrix(key.m, key.n, key.output);
  dnnl::primitive_attr attributes;
  // The library's own scratchpad belongs to the thread that made the primitive; ours goes with the call.
  attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
  if (key.accumulate) {
    dnnl::post_ops sum;
    sum.append_sum(1.0f);
    attributes.set_post_ops(sum);
  }
  if (key.has_bias) entry.bias = matrix(1, key.n, key.bias);
  const auto desc = key.has_bias ? dnnl::matmul::desc(entry.a, entry.b, entry.bias, entry.c)
                                 : dnnl::matmul::desc(entry.a, entry.b, entry.c);
  const dnnl::matmul::primitive_desc primitive_desc(desc, attributes, engine_);
  entry.scratchpad = primitive_desc.scratchpad_desc();
  entry.primitive = dnnl::matmul(primitive_desc);
  return entry;
}

void multiply_nt(Context& ctx, const Tensor& a, const Tensor& b, const Tensor& bias, Tensor& c) {
  check_sizes(a.dim(1) == b.dim(1) && c.dim(0) == a.dim(0) && c.dim(1) == b.dim(0), a, b, c);
  multiply(ctx, {.m = a.dim(0), .n = b.dim(0), .k = a.dim(1), .transpose_b = true}, a, b, bias, c);
}

void multiply_nn(Context& ctx, const Tensor& a, const Tensor& b, Tensor& c) {
  check_sizes(a.dim(1) == b.dim(0) && c.dim(0) == a.dim(0) && c.dim(1) == b.dim(1), a, b, c);
  multiply(ctx, {.m = a.dim(0), .n = b.dim(1), .k = a.dim(1)}, a, b, {}, c);
}

void multiply_tn(Context& ctx, const Tensor& a, const Tensor& b, bool accumulate, Tensor& c) {
  check_sizes(a.dim(0) == b.dim(0) && c.dim(0) == a.dim(1) && c.dim(1) == b.dim(1), a, b, c);
  multiply(ctx, {.m = a.dim(1), .n = b.dim(1), .k = a.dim(0), .transpose_a = true, .accumulate = accumulate},
           a, b, {}, c);
}

}  // namespace trireme::cpu
