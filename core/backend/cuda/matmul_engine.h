// What runs the products of matmul.h: finds cuBLASLt's algorithms for a shape, times them, remembers the best.
#pragma once

#include <cublasLt.h>

#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "core/backend/cuda/algorithm_file.h"
#include "core/context.h"

namespace trireme::cuda {

/// What is fused with a product.
///   bias           c = a b + bias
///   gelu           aux = a b (+ bias), c = gelu(aux); aux undefined: not kept
///   gelu_backward  c = (a b) * gelu'(aux)
///   sum            bias (+)= the sum over k of a, which is transposed
enum class Fusion : uint8_t { none, bias, gelu, gelu_backward, sum };

/// c [m, n] = op(a) op(b), or c += when `accumulate`. The tensors are matrices as memory holds them: `a` is [k, m]
/// where transposed, `b` is [n, k].
struct Product {
  Tensor a, b, c;
  bool transpose_a = false, transpose_b = false, accumulate = false;
  Fusion fusion = Fusion::none;
  Tensor bias;                   // [n]; of `sum` f32 [m]
  Tensor aux;                    // [m, n], of c's type
  bool accumulate_bias = false;  // of `sum`
  void (*apart)(Context&, Product&) = nullptr;  // the same without this fusion; of `none`: without cuBLASLt

  int64_t m() const { return c.dim(0); }
  int64_t n() const { return c.dim(1); }
  int64_t k() const { return a.dim(transpose_a ? 0 : 1); }
};

/// What the choice of an algorithm depends on. Not on `accumulate`: all micro-batches are to use the same.
struct ProductKey {
  int64_t m = 0, n = 0, k = 0;
  bool transpose_a = false, transpose_b = false, has_bias = false, has_aux = false;
  DType input = DType::f32, output = DType::f32;
  Fusion fusion = Fusion::none;
  std::array<uint8_t, 5> alignments{};  // bytes, of a, b, c, bias and aux; at most 16, 0: not there
  auto operator<=>(const ProductKey&) const = default;
};
ProductKey key_of(const Product& product);
/// "nt 65536x2304x768 bf16 to bf16 bias, aligned 16 16 16 16 0", the name of a product in the file.
std::string to_string(const ProductKey& key, bool tf32);

class MatmulEngine {
 public:
  explicit MatmulEngine(const CudaOptions& options);  // the device is the current one
  ~MatmulEngine();
  MatmulEngine(const MatmulEngine&) = delete;
  MatmulEngine& operator=(const MatmulEngine&) = delete;

  void run(Context& ctx, Product& product);

  /// How many products were timed by this engine, and not found in the file; for tests.
  int num_tuned() const { return num_tuned_; }
  const std::filesystem::path& file() const { return file_.path(); }

 private:
  struct Plan {
    bool apart = true;    // no algorithm, or a slower one
    bool settled = true;  // false: made where nothing could be timed, so a later call chooses again
    cublasLtMatmulAlgo_t algo{};
    size_t workspace_bytes = 0;
  };
  struct Descriptors;

  Plan plan_of(Context& ctx, Product& product);
  Plan choose(Context& ctx, Product& product, const std::string& name);
  Plan time_all(Context& ctx, Product& product, const std::vector<Plan>& candidates, double& best_us);
  std::vector<Plan> find_algorithms(const Product& product, int most) const;
  bool is_usable(const Product& product, Plan& plan) const;
  cublasStatus_t launch(Context& ctx, const Product& product, const Plan& plan);
  bool try_plan(Context& ctx, Product& product, const Plan& plan);

  cublasLtHandle_t handle_ = nullptr;
  bool tf32_, tune_;
  AlgorithmFile file_;
  std::mutex mutex_;
  std::map<ProductKey, Plan> plans_;
  int num_tuned_ = 0;
};

}  // namespace trireme::cuda
