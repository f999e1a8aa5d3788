// What runs the products of matmul.h: asks cuBLASLt for the algorithms for a shape, times them, remembers the best.
#pragma once

#include <cublasLt.h>

#include <atomic>
#include <map>
#include <mutex>
#include <vector>

#include "core/backend/cuda/algorithm_file.h"
#include "core/backend/cuda/product.h"

namespace trireme::cuda {

class MatmulEngine {
 public:
  explicit MatmulEngine(const CudaOptions& options);  // its device is the current one
  ~MatmulEngine();
  MatmulEngine(const MatmulEngine&) = delete;
  MatmulEngine& operator=(const MatmulEngine&) = delete;

  void run(Context& ctx, Product& product);

  /// How many products were timed, because the file did not have them; for tests.
  int num_timed() const { return num_timed_; }
  const std::filesystem::path& file() const { return file_.path(); }

 private:
  /// How a product is run: by an algorithm of cuBLASLt, or (`apart`) by Product::apart.
  struct Plan {
    bool apart = true;
    cublasLtMatmulAlgo_t algo{};
    size_t workspace_bytes = 0;
    bool settled = true;  // false: made where nothing could be timed, so a later call chooses again
  };
  struct Timed {
    Plan plan;
    double us = 0.0;  // 0: nothing was timed
  };

  Plan plan_of(Context& ctx, const ProductKey& key, const Product& product);
  Plan choose(Context& ctx, const ProductKey& key, const Product& product);
  Plan choose_by_time(Context& ctx, const std::string& name, const Product& product);
  Timed time_all(Context& ctx, const Product& product, std::vector<Plan> ways);
  std::vector<Plan> find_algorithms(const ProductKey& key, const Product& product, int most) const;
  bool to_plan(const AlgorithmChoice& choice, const Product& product, Plan& plan) const;
  cublasStatus_t launch(Context& ctx, const Product& product, const Plan& plan);
  cublasStatus_t run_plan(Context& ctx, Product& product, const Plan& plan);

  cublasLtHandle_t handle_ = nullptr;
  bool tf32_, tune_, deterministic_;
  AlgorithmFile file_;
  std::mutex mutex_;  // of plans_
  std::map<ProductKey, Plan> plans_;
  std::atomic<int> num_timed_ = 0;
};

}  // namespace trireme::cuda
