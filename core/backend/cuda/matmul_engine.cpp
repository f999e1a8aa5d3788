#include "core/backend/cuda/matmul_engine.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <functional>
#include <limits>

#include "core/backend/cuda/check.h"
#include "core/backend/cuda/cuda_backend.h"
#include "core/ops/elementwise.h"

namespace trireme::cuda {
namespace {

constexpr int64_t kWorkspaceBytes = int64_t{32} << 20;  // what cuBLAS itself takes on Hopper
constexpr int kMaxCandidates = 16;
constexpr size_t kMaxPlans = 4096;                 // generation makes one for each length
constexpr double kLeastTimedFlop = 2147483648.0;   // below, a product is about as long as its launch

void check_cublas(cublasStatus_t status, const char* what) {
  if (status != CUBLAS_STATUS_SUCCESS)
    throw IoError(fmt::format("{}: {} ({})", what, cublasLtGetStatusString(status), cublasLtGetStatusName(status)));
}

cudaDataType_t type_of(DType dtype) {
  switch (dtype) {
    case DType::f32: return CUDA_R_32F;
    case DType::bf16: return CUDA_R_16BF;
    case DType::f16: return CUDA_R_16F;
    default: throw InternalError(fmt::format("no matrix products in {}", name_of(dtype)));
  }
}

cublasLtEpilogue_t epilogue_of(const Product& p) {
  switch (p.fusion) {
    case Fusion::none: return CUBLASLT_EPILOGUE_DEFAULT;
    case Fusion::bias: return CUBLASLT_EPILOGUE_BIAS;
    case Fusion::gelu:
      if (p.aux.defined()) return p.bias.defined() ? CUBLASLT_EPILOGUE_GELU_AUX_BIAS : CUBLASLT_EPILOGUE_GELU_AUX;
      return p.bias.defined() ? CUBLASLT_EPILOGUE_GELU_BIAS : CUBLASLT_EPILOGUE_GELU;
    case Fusion::gelu_backward: return CUBLASLT_EPILOGUE_DGELU;
    case Fusion::sum: return CUBLASLT_EPILOGUE_BGRADB;
  }
  return CUBLASLT_EPILOGUE_DEFAULT;
}

/// Whether cuBLASLt is to be asked for the fusion: a bias has the type of c, and aux rows of a multiple of 8 elements
/// (cublasLt.h). gelu of f32 is left to the own kernel, which does not approximate tanh.
bool may_fuse(const ProductKey& key, const Product& p) {
  const auto aligned = [&](size_t i) { return key.alignments[i] == 0 || key.alignments[i] == 16; };
  const bool whole = key.n % 8 == 0 && aligned(0) && aligned(1) && aligned(2) && aligned(3) && aligned(4);
  const bool same_types = !p.bias.defined() || p.bias.dtype() == p.c.dtype();
  switch (p.fusion) {
    case Fusion::none: return true;
    case Fusion::bias: return same_types;
    case Fusion::gelu: return whole && same_types && key.input == key.output && key.input != DType::f32;
    case Fusion::gelu_backward: return whole && key.input == key.output && key.input != DType::f32;
    case Fusion::sum: return whole && same_types && key.m % 8 == 0;
  }
  return false;
}

/// cuBLASLt's matrices are column-major: a row-major c = op(a) op(b) is its c^T = op(b)^T op(a)^T, so that its first
/// operand is our b, and our rows are its columns. Made anew for each call, since the operation holds pointers; less than
/// a microsecond.
struct Descriptors {
  cublasLtMatmulDescOpaque_t operation;
  cublasLtMatrixLayoutOpaque_t a, b, c;  // of our a, b and c

  Descriptors(const Product& p, bool tf32) {
    const bool fast = tf32 && p.a.dtype() == DType::f32;
    check_cublas(cublasLtMatmulDescInit(&operation, fast ? CUBLAS_COMPUTE_32F_FAST_TF32 : CUBLAS_COMPUTE_32F, CUDA_R_32F),
                 "cublasLtMatmulDescInit");
    set(CUBLASLT_MATMUL_DESC_TRANSA, p.transpose_b ? CUBLAS_OP_T : CUBLAS_OP_N);
    set(CUBLASLT_MATMUL_DESC_TRANSB, p.transpose_a ? CUBLAS_OP_T : CUBLAS_OP_N);
    set(CUBLASLT_MATMUL_DESC_EPILOGUE, epilogue_of(p));
    if (p.bias.defined()) {
      set(CUBLASLT_MATMUL_DESC_BIAS_POINTER, p.bias.raw());
      set(CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, type_of(p.bias.dtype()));
    }
    if (p.aux.defined()) {
      set(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, p.aux.raw());
      set(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, p.n());
    }
    init(a, p.a);
    init(b, p.b);
    init(c, p.c);
  }

 private:
  template <class T>
  void set(cublasLtMatmulDescAttributes_t attribute, const T& value) {
    check_cublas(cublasLtMatmulDescSetAttribute(&operation, attribute, &value, sizeof value),
                 "cublasLtMatmulDescSetAttribute");
  }
  static void init(cublasLtMatrixLayoutOpaque_t& layout, const Tensor& t) {
    check_cublas(cublasLtMatrixLayoutInit(&layout, type_of(t.dtype()), static_cast<uint64_t>(t.dim(1)),
                                          static_cast<uint64_t>(t.dim(0)), t.dim(1)),
                 "cublasLtMatrixLayoutInit");
  }
};

/// Which ways of splitting k are allowed: parts are added in f32. (None of them depends on timing; cublasLt.h.)
uint32_t reduction_schemes(DType output) {
  return output == DType::f32 ? CUBLASLT_REDUCTION_SCHEME_MASK : CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;
}

struct Preference {
  cublasLtMatmulPreferenceOpaque_t preference;

  Preference(const ProductKey& key, uint32_t schemes) {
    check_cublas(cublasLtMatmulPreferenceInit(&preference), "cublasLtMatmulPreferenceInit");
    set(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, static_cast<uint64_t>(kWorkspaceBytes));
    set(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, schemes);
    set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, static_cast<uint32_t>(key.alignments[1]));
    set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, static_cast<uint32_t>(key.alignments[0]));
    set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, static_cast<uint32_t>(key.alignments[2]));
    set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, static_cast<uint32_t>(key.alignments[2]));
  }

 private:
  template <class T>
  void set(cublasLtMatmulPreferenceAttributes_t attribute, const T& value) {
    check_cublas(cublasLtMatmulPreferenceSetAttribute(&preference, attribute, &value, sizeof value),
                 "cublasLtMatmulPreferenceSetAttribute");
  }
};

/// Times work on a stream; the host waits.
class StreamTimer {
 public:
  explicit StreamTimer(cudaStream_t stream) : stream_(stream) {
    check(cudaEventCreate(&begin_), "cudaEventCreate");
    check(cudaEventCreate(&end_), "cudaEventCreate");
  }
  ~StreamTimer() {
    cudaEventDestroy(begin_);
    cudaEventDestroy(end_);
  }
  StreamTimer(const StreamTimer&) = delete;
  StreamTimer& operator=(const StreamTimer&) = delete;

  /// Microseconds of one of `repeats` runs in a row.
  double us(int repeats, const std::function<void()>& body) {
    check(cudaEventRecord(begin_, stream_), "cudaEventRecord");
    for (int i = 0; i < repeats; ++i) body();
    check(cudaEventRecord(end_, stream_), "cudaEventRecord");
    check(cudaEventSynchronize(end_), "timing a matrix product");
    float ms = 0.0f;
    check(cudaEventElapsedTime(&ms, begin_, end_), "cudaEventElapsedTime");
    return 1e3 * static_cast<double>(ms) / repeats;
  }

 private:
  cudaStream_t stream_;
  cudaEvent_t begin_ = nullptr, end_ = nullptr;
};

bool is_capturing(cudaStream_t stream) {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  check(cudaStreamIsCapturing(stream, &status), "cudaStreamIsCapturing");
  return status != cudaStreamCaptureStatusNone;
}

std::string device_name() {
  int device = 0;
  check(cudaGetDevice(&device), "cudaGetDevice");
  cudaDeviceProp properties;
  check(cudaGetDeviceProperties(&properties, device), "cudaGetDeviceProperties");
  return properties.name;
}

/// The same product, writing only what may be overwritten: what it would add to has a stand-in.
Product rehearsal_of(const Context& ctx, const Product& product) {
  Product p = product;
  if (p.accumulate) p.c = ctx.empty(p.c.shape(), p.c.dtype(), MemoryClass::workspace);
  if (p.accumulate_bias) p.bias = ctx.empty(p.bias.shape(), p.bias.dtype(), MemoryClass::workspace);
  return p;
}

}  // namespace

MatmulEngine::MatmulEngine(const CudaOptions& options)
    : tf32_(options.tf32),
      tune_(options.tune),
      deterministic_(options.deterministic),
      file_(default_algorithm_file(device_name(), cublasLtGetVersion())) {
  check_cublas(cublasLtCreate(&handle_), "cublasLtCreate");
}

MatmulEngine::~MatmulEngine() { cublasLtDestroy(handle_); }

void MatmulEngine::run(Context& ctx, Product& product) {
  if (product.c.numel() == 0) return;
  const ProductKey key = key_of(product);
  const cublasStatus_t status = run_plan(ctx, product, plan_of(ctx, key, product));
  if (status == CUBLAS_STATUS_SUCCESS) return;
  if (status != CUBLAS_STATUS_NOT_SUPPORTED && status != CUBLAS_STATUS_INVALID_VALUE &&
      status != CUBLAS_STATUS_ARCH_MISMATCH)
    check_cublas(status, "cublasLtMatmul");
  {  // refused after all
    const std::lock_guard lock(mutex_);
    plans_[key] = Plan();
  }
  product.apart(ctx, product);
}

MatmulEngine::Plan MatmulEngine::plan_of(Context& ctx, const ProductKey& key, const Product& product) {
  {
    const std::lock_guard lock(mutex_);
    const auto it = plans_.find(key);
    if (it != plans_.end() && (it->second.settled || is_capturing(raw_stream(ctx)))) return it->second;
  }
  const Plan plan = choose(ctx, key, product);  // without the lock: it may run other products
  const std::lock_guard lock(mutex_);
  if (plans_.size() >= kMaxPlans) plans_.clear();
  plans_[key] = plan;
  return plan;
}

MatmulEngine::Plan MatmulEngine::choose(Context& ctx, const ProductKey& key, const Product& product) {
  const double flop = 2.0 * static_cast<double>(key.m) * static_cast<double>(key.n) * static_cast<double>(key.k);
  bool worth_timing = tune_ && flop >= kLeastTimedFlop;
  if (worth_timing && deterministic_ && !file_.keeps()) {  // another run might choose otherwise
    ctx.backend->add_note(fmt::format("matrix products are not timed: {} can't be written and locked, and run.deterministic asks for the "
                                      "same bits in the next run; set XDG_CACHE_HOME to a folder that can, or run.deterministic to false",
                                      file_.path().empty() ? "a file in $HOME/.cache" : file_.path().string()));
    worth_timing = false;
  }
  if (worth_timing && !is_capturing(raw_stream(ctx))) return choose_by_time(ctx, to_string(key, tf32_), product);
  const std::vector<Plan> found = find_algorithms(key, product, 1);
  Plan plan = found.empty() ? Plan() : found.front();
  plan.settled = !worth_timing;
  return plan;
}

MatmulEngine::Plan MatmulEngine::choose_by_time(Context& ctx, const std::string& name, const Product& product) {
  Plan plan;
  const std::optional<AlgorithmChoice> known = file_.find(name);
  if (known && to_plan(*known, product, plan)) return plan;
  std::vector<Plan> ways = find_algorithms(key_of(product), product, kMaxCandidates);
  if (ways.empty()) return Plan();
  if (product.fusion != Fusion::none) ways.push_back(Plan());
  const Timed fastest = time_all(ctx, product, std::move(ways));
  if (fastest.us > 0.0) ++num_timed_;
  if (fastest.us == 0.0 && !deterministic_) return fastest.plan;  // another time, perhaps
  AlgorithmChoice choice;
  choice.apart = fastest.plan.apart;
  choice.us = fastest.us;
  std::copy_n(fastest.plan.algo.data, choice.algo.size(), choice.algo.begin());
  const AlgorithmChoice kept = file_.add(name, choice, known);
  return !kept.same_as(choice) && to_plan(kept, product, plan) ? plan : fastest.plan;
}

/// The fastest of `ways`. Each runs once to warm up; then all of them take turns, so that a change of the clock meets
/// all, and those far behind drop out after the first turn. Those that are close meet again: the least of many times is partly
/// luck. A long product then runs for so long that a GPU at its power limit sets its clock by what this way draws, as it
/// will in training.
MatmulEngine::Timed MatmulEngine::time_all(Context& ctx, const Product& product, std::vector<Plan> ways) {
  constexpr int kTurns = 3, kFinalTurns = 2;
  constexpr double kTurnUs = 2000.0, kFarBehind = 1.4, kClose = 1.08;
  constexpr double kLongUs = 100.0, kFinalUs = 20000.0;  // of a long product
  Product trial;
  try {
    trial = rehearsal_of(ctx, product);
  } catch (const IoError&) {  // no memory left for it
    return {ways.front()};
  }
  std::erase_if(ways, [&](const Plan& way) { return run_plan(ctx, trial, way) != CUBLAS_STATUS_SUCCESS; });
  if (ways.empty()) return {};
  StreamTimer timer(raw_stream(ctx));
  std::vector<double> us(ways.size(), std::numeric_limits<double>::infinity());
  const auto time_for = [&](double total_us, size_t i, double one_us, double most) {
    const int repeats = static_cast<int>(std::clamp(total_us / one_us, 1.0, most));
    return timer.us(repeats, [&] { run_plan(ctx, trial, ways[i]); });
  };
  for (int turn = 0; turn < kTurns; ++turn) {
    const double best = *std::min_element(us.begin(), us.end());
    for (size_t i = 0; i < ways.size(); ++i) {
      if (turn > 0 && us[i] > kFarBehind * best) continue;
      us[i] = std::min(us[i], time_for(turn == 0 ? 0.0 : kTurnUs, i, us[i], 50.0));
    }
  }
  const auto fastest = static_cast<size_t>(std::min_element(us.begin(), us.end()) - us.begin());
  const double best = us[fastest], final_us = best >= kLongUs ? kFinalUs : kTurnUs;
  std::vector<size_t> close;
  for (size_t i = 0; i < ways.size(); ++i)
    if (us[i] <= kClose * best) close.push_back(i);
  if (close.size() == 1) return {ways[fastest], best};
  std::vector<double> means(ways.size(), std::numeric_limits<double>::infinity());
  time_for(3 * final_us, fastest, best, 1000.0);  // so that the first one meets no cooler GPU than the others
  for (const size_t i : close) means[i] = 0.0;
  for (int turn = 0; turn < kFinalTurns; ++turn) {
    for (const size_t i : close) {
      time_for(final_us, i, us[i], 1000.0);
      means[i] += time_for(final_us, i, us[i], 1000.0) / kFinalTurns;
    }
    std::reverse(close.begin(), close.end());
  }
  const auto chosen = static_cast<size_t>(std::min_element(means.begin(), means.end()) - means.begin());
  return {ways[chosen], means[chosen]};
}

/// cuBLASLt's proposals, most promising first; empty: it has none.
std::vector<MatmulEngine::Plan> MatmulEngine::find_algorithms(const ProductKey& key, const Product& product,
                                                              int most) const {
  std::vector<Plan> plans;
  if (key.k == 0 || !may_fuse(key, product)) return plans;
  Descriptors d(product, tf32_);
  for (const uint32_t schemes : {reduction_schemes(key.output), uint32_t{CUBLASLT_REDUCTION_SCHEME_MASK}}) {
    Preference p(key, schemes);
    std::vector<cublasLtMatmulHeuristicResult_t> results(static_cast<size_t>(most));
    int count = 0;
    if (cublasLtMatmulAlgoGetHeuristic(handle_, &d.operation, &d.b, &d.a, &d.c, &d.c, &p.preference, most, results.data(),
                                       &count) != CUBLAS_STATUS_SUCCESS)
      count = 0;
    for (int i = 0; i < count; ++i) {
      const auto& result = results[static_cast<size_t>(i)];
      if (result.state == CUBLAS_STATUS_SUCCESS) plans.push_back({false, result.algo, result.workspaceSize});
    }
    if (!plans.empty()) break;
  }
  return plans;
}

/// A choice read from the file; false where it doesn't fit this product and device.
bool MatmulEngine::to_plan(const AlgorithmChoice& choice, const Product& product, Plan& plan) const {
  plan = Plan();
  plan.apart = choice.apart;
  if (choice.apart) return product.fusion != Fusion::none;
  std::copy(choice.algo.begin(), choice.algo.end(), plan.algo.data);
  Descriptors d(product, tf32_);
  cublasLtMatmulHeuristicResult_t result{};
  const cublasStatus_t status = cublasLtMatmulAlgoCheck(handle_, &d.operation, &d.b, &d.a, &d.c, &d.c, &plan.algo, &result);
  plan.workspace_bytes = result.workspaceSize;
  return status == CUBLAS_STATUS_SUCCESS && result.workspaceSize <= static_cast<size_t>(kWorkspaceBytes);
}

cublasStatus_t MatmulEngine::run_plan(Context& ctx, Product& product, const Plan& plan) {
  if (!plan.apart) return launch(ctx, product, plan);
  product.apart(ctx, product);
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t MatmulEngine::launch(Context& ctx, const Product& product, const Plan& plan) {
  if (product.accumulate_bias) {
    Product once = product;  // cuBLASLt writes sums
    once.accumulate_bias = false;
    once.bias = ctx.empty(product.bias.shape(), product.bias.dtype(), MemoryClass::workspace);
    const cublasStatus_t status = launch(ctx, once, plan);
    Tensor sums = product.bias;
    if (status == CUBLAS_STATUS_SUCCESS) ctx.kernel<AddKernel>()(ctx, sums, once.bias, sums);
    return status;
  }
  Descriptors d(product, tf32_);
  Tensor workspace;
  if (plan.workspace_bytes > 0) workspace = ctx.empty({kWorkspaceBytes}, DType::u8, MemoryClass::workspace);
  const float one = 1.0f, beta = product.accumulate ? 1.0f : 0.0f;
  void* c = product.c.raw();
  return cublasLtMatmul(handle_, &d.operation, &one, product.b.raw(), &d.b, product.a.raw(), &d.a, &beta, c, &d.c, c, &d.c,
                        &plan.algo, workspace.defined() ? workspace.raw() : nullptr,
                        workspace.defined() ? static_cast<size_t>(kWorkspaceBytes) : 0, raw_stream(ctx));
}

}  // namespace trireme::cuda
