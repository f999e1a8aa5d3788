#include "core/backend/cuda/attention_cudnn.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <mutex>
#include <optional>
#include <vector>

#include "core/backend/cuda/attention_graphs.h"
#include "core/backend/cuda/check.h"
#include "core/backend/cuda/cuda_backend.h"

namespace trireme::cuda {
namespace {

constexpr size_t kMinVersion = 91600;  // before, backward is wrong where T is no multiple of 128
constexpr int64_t kMaxHeadDim = 256;
constexpr int64_t kElementBytes = 2;
/// What backward may take for a part that can't be made smaller.
size_t most_workspace_bytes(int64_t max_part_bytes) { return 4 * static_cast<size_t>(max_part_bytes) + (size_t{64} << 20); }

/// What cuDNN can do, as far as it is known without asking it (which costs half a second).
bool may_support(const AttentionShape& s, std::initializer_list<const Tensor*> tensors) {
  for (const Tensor* t : tensors)
    if (reinterpret_cast<uintptr_t>(t->raw()) % 16 != 0) return false;
  const DType dtype = (*tensors.begin())->dtype();
  return (dtype == DType::bf16 || dtype == DType::f16) && s.head_dim % 8 == 0 && s.head_dim <= kMaxHeadDim &&
         s.tokens > 1;
}

constexpr std::string_view kUnsupported = "it takes heads of a multiple of 8 up to 256, on 16 bytes";

/// False, after a note for who would expect cuDNN to do this: f32 and single tokens are our own kernels' anyway.
bool decline(const Context& ctx, DType dtype, const AttentionShape& s, std::string_view reason) {
  if (dtype != DType::f32 && s.tokens > 1)
    ctx.backend->add_note(fmt::format("attention of {} tokens with {} heads of {} in {} goes by Trireme's own kernels, which are several "
                                      "times slower than cuDNN's: {}",
                                      s.tokens, s.heads, s.head_dim, name_of(dtype), reason));
  return false;
}

AttentionPart whole(const AttentionShape& shape, DType dtype) {
  return {.shape = shape,
          .qkv_width = shape.qkv_width(),
          .total_heads = shape.heads,
          .type = dtype == DType::f16 ? CUDNN_DATA_HALF : CUDNN_DATA_BFLOAT16};
}

/// The largest divisor d of n up to `limit` with `d * unit` a multiple of 4, or n.
int64_t aligned_divisor_up_to(int64_t n, int64_t limit, int64_t unit) {
  for (int64_t d = std::clamp<int64_t>(limit, 1, n); d > 0; --d)
    if (n % d == 0 && d * unit % 4 == 0) return d;
  return n;
}

/// The shape of the equal parts that backward is done in, so that a part's T x T matrices take at most
/// `max_bytes` if possible: some samples, or of one sample some heads of keys with their heads of queries. Each part's lse
/// begins on 16 bytes.
AttentionShape part_shape(const AttentionShape& whole, int64_t max_bytes) {
  const int64_t tokens = (whole.tokens + 127) / 128 * 128, group = whole.heads / whole.kv_heads;
  const int64_t heads = max_bytes / (tokens * tokens * kElementBytes);
  AttentionShape part = whole;
  part.batch = aligned_divisor_up_to(whole.batch, heads / whole.heads, whole.heads * whole.tokens);
  if (heads < whole.heads && part.batch == 1) {
    part.kv_heads = aligned_divisor_up_to(whole.kv_heads, heads / group, group * whole.tokens);
    part.heads = part.kv_heads * group;
  }
  return part;
}

/// Pointers into the whole's tensors where the part begins that starts at sample b and head g of keys.
struct PartOffsets {
  PartOffsets(const AttentionShape& s, int64_t b, int64_t g) {
    const int64_t h = g * (s.heads / s.kv_heads), row = b * s.tokens * s.qkv_width();
    queries = row + h * s.head_dim;
    keys = row + (s.heads + g) * s.head_dim;
    values = row + (s.heads + s.kv_heads + g) * s.head_dim;
    out = b * s.tokens * s.heads * s.head_dim + h * s.head_dim;
    lse = (b * s.heads + h) * s.tokens;
  }
  int64_t queries, keys, values, out, lse;  // elements
};

void* at(const Tensor& t, int64_t element) {
  return static_cast<std::byte*>(t.raw()) + element * static_cast<int64_t>(size_of(t.dtype()));
}

/// Numbers that plans get by value.
struct Scalars {
  explicit Scalars(const AttentionShape& s)
      : scale(static_cast<float>(1.0 / std::sqrt(static_cast<double>(s.head_dim)))) {}
  float scale, minus_infinity = -std::numeric_limits<float>::infinity(), one = 1.0f;
};

}  // namespace

/// The library's handle and the plans made so far. What uses it holds `mutex`.
class CudnnAttention::Plans {
 public:
  enum class Direction : uint8_t { forward, backward };
  struct Entry {
    std::optional<CudnnGraph> graph;
    std::optional<CudnnPlan> plan;  // none: declined
    std::string text;
  };

  ~Plans() {
    entries_.clear();
    if (handle_) cudnnDestroy(handle_);
  }
  Entry& find(const Context& ctx, Direction direction, const AttentionPart& part);
  bool run(Context& ctx, Entry& entry, std::span<const CudnnPlan::Binding> bindings);
  std::string report() const {
    std::string lines;
    for (const auto& [key, entry] : entries_) lines += entry.text + "\n";
    return lines;
  }

  std::mutex mutex;

 private:
  void open(const Context& ctx);
  cudnnHandle_t handle_ = nullptr;
  std::map<std::pair<Direction, AttentionPart::Key>, Entry> entries_;
};

void CudnnAttention::Plans::open(const Context& ctx) {
  if (handle_) return;
  if (cudnnGetVersion() < kMinVersion)
    throw CudnnDeclined(fmt::format("cuDNN {} is older than {}", cudnnGetVersion(), kMinVersion));
  check(cudaSetDevice(ctx.backend->device().index), "cudaSetDevice");
  check_cudnn(cudnnCreate(&handle_), "cudnnCreate");
}

CudnnAttention::Plans::Entry& CudnnAttention::Plans::find(const Context& ctx, Direction direction,
                                                          const AttentionPart& part) {
  const auto [it, is_new] = entries_.try_emplace({direction, part.key()});
  Entry& entry = it->second;
  if (!is_new) return entry;
  try {
    open(ctx);
    entry.graph =
        direction == Direction::forward ? attention_forward_graph(part) : attention_backward_graph(part);
    entry.plan = entry.graph->build(handle_);
    entry.text = fmt::format("{}: engine {}, workspace {} bytes", entry.graph->name(), entry.plan->engine(),
                             entry.plan->workspace_bytes());
  } catch (const CudnnDeclined& e) {
    entry.text = fmt::format("declined: {}", e.what());
  }
  return entry;
}

bool CudnnAttention::Plans::run(Context& ctx, Entry& entry, std::span<const CudnnPlan::Binding> bindings) {
  const Tensor workspace =
      ctx.empty({static_cast<int64_t>(std::max<size_t>(entry.plan->workspace_bytes(), 16))}, DType::u8,
                MemoryClass::workspace);
  try {
    check_cudnn(cudnnSetStream(handle_, raw_stream(ctx)), "cudnnSetStream");
    entry.plan->execute(handle_, bindings, workspace.raw());
  } catch (const CudnnDeclined& e) {
    entry.plan.reset();
    entry.text = fmt::format("declined: {}: {}", entry.text, e.what());
    return false;
  }
  return true;
}

CudnnAttention::CudnnAttention() : plans_(std::make_unique<Plans>()) {}
CudnnAttention::~CudnnAttention() = default;

bool CudnnAttention::forward(Context& ctx, const Tensor& qkv, const AttentionShape& shape, Tensor& out,
                             Tensor& lse) {
  if (!may_support(shape, {&qkv, &out, &lse})) return decline(ctx, qkv.dtype(), shape, kUnsupported);
  std::lock_guard lock(plans_->mutex);
  Plans::Entry& entry = plans_->find(ctx, Plans::Direction::forward, whole(shape, qkv.dtype()));
  if (!entry.plan) return decline(ctx, qkv.dtype(), shape, entry.text);
  Scalars numbers(shape);
  const PartOffsets offset(shape, 0, 0);
  std::vector<CudnnPlan::Binding> bindings{{kQueries, at(qkv, offset.queries)},
                                           {kKeys, at(qkv, offset.keys)},
                                           {kValues, at(qkv, offset.values)},
                                           {kOut, out.raw()},
                                           {kLse, lse.raw()},
                                           {kScale, &numbers.scale}};
  if (shape.causal) bindings.push_back({kMinusInfinity, &numbers.minus_infinity});
  return plans_->run(ctx, entry, bindings) || decline(ctx, qkv.dtype(), shape, entry.text);
}

bool CudnnAttention::backward(Context& ctx, const Tensor& qkv, const Tensor& out, const Tensor& lse,
                              const Tensor& d_out, const AttentionShape& shape, Tensor& d_qkv) {
  if (!may_support(shape, {&qkv, &out, &lse, &d_out, &d_qkv})) return decline(ctx, qkv.dtype(), shape, kUnsupported);
  std::lock_guard lock(plans_->mutex);
  AttentionPart part = whole(shape, qkv.dtype());
  part.deterministic = options.deterministic;
  if (part.deterministic) part.shape = part_shape(shape, options.max_part_bytes);
  Plans::Entry& entry = plans_->find(ctx, Plans::Direction::backward, part);
  if (!entry.plan) return decline(ctx, qkv.dtype(), shape, entry.text);
  if (part.deterministic && entry.plan->workspace_bytes() > most_workspace_bytes(options.max_part_bytes))
    return decline(ctx, qkv.dtype(), shape,
                   fmt::format("its backward takes {:.1f} GiB for one part, unless run.deterministic is false",
                               static_cast<double>(entry.plan->workspace_bytes()) / 0x1p30));
  Scalars numbers(shape);
  const int64_t rows = part.shape.batch * part.shape.heads * shape.tokens;
  const Tensor sums = ctx.empty({rows}, DType::f32, MemoryClass::workspace);
  Tensor dq_sum;
  if (!part.deterministic) {  // one part
    dq_sum = ctx.empty({rows, shape.head_dim}, DType::f32, MemoryClass::workspace);
    ctx.backend->fill_zero(dq_sum.raw(), dq_sum.bytes(), *ctx.stream);  // not every engine begins with that
  }
  for (int64_t b = 0; b < shape.batch; b += part.shape.batch)
    for (int64_t g = 0; g < shape.kv_heads; g += part.shape.kv_heads) {
      const PartOffsets offset(shape, b, g);
      std::vector<CudnnPlan::Binding> bindings{{kQueries, at(qkv, offset.queries)},
                                               {kKeys, at(qkv, offset.keys)},
                                               {kValues, at(qkv, offset.values)},
                                               {kOut, at(out, offset.out)},
                                               {kLse, at(lse, offset.lse)},
                                               {kDOut, at(d_out, offset.out)},
                                               {kDQueries, at(d_qkv, offset.queries)},
                                               {kDKeys, at(d_qkv, offset.keys)},
                                               {kDValues, at(d_qkv, offset.values)},
                                               {kSums, sums.raw()},
                                               {kScale, &numbers.scale},
                                               {kOne, &numbers.one}};
      if (shape.causal) bindings.push_back({kMinusInfinity, &numbers.minus_infinity});
      if (dq_sum.defined()) bindings.push_back({kDQSum, dq_sum.raw()});
      if (!plans_->run(ctx, entry, bindings)) return decline(ctx, qkv.dtype(), shape, entry.text);
    }
  return true;
}

std::string CudnnAttention::report() const {
  std::lock_guard lock(plans_->mutex);
  return plans_->report();
}

}  // namespace trireme::cuda
