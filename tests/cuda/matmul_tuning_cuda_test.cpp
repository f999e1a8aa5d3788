// The choice of algorithms: timed once a shape, kept in a file, read again, and never at the cost of a result.
#include <cuda_runtime.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "core/backend/cuda/cuda_backend.h"
#include "core/backend/cuda/matmul.h"
#include "core/backend/cuda/matmul_engine.h"
#include "tests/cuda/cuda_fixture.h"

namespace trireme {
namespace {

using namespace cuda;
namespace fs = std::filesystem;

constexpr int64_t N = 1024;  // N^3 is just worth timing

class MatmulTuningCuda : public CudaTest {
 protected:
  void SetUp() override {
    folder_ = fs::temp_directory_path() / ("trireme-matmul-" + std::to_string(getpid()));
    if (const char* cache = std::getenv("XDG_CACHE_HOME")) before_ = cache;
    setenv("XDG_CACHE_HOME", folder_.c_str(), 1);
    CudaTest::SetUp();
  }
  void TearDown() override {
    CudaTest::TearDown();
    before_ ? setenv("XDG_CACHE_HOME", before_->c_str(), 1) : unsetenv("XDG_CACHE_HOME");
    fs::remove_all(folder_);
  }

  int num_timed() { return engine_->backend().state<MatmulEngine>().num_timed(); }
  fs::path file() { return engine_->backend().state<MatmulEngine>().file(); }
  nlohmann::json contents() { return nlohmann::json::parse(std::ifstream(file())); }

  /// All kinds of products once, the accumulating ones onto ones.
  std::vector<HostMatrix> run_all(DType dtype = DType::bf16) {
    const Tensor a = to_device(random_matrix(N, N, 1, dtype), dtype), b = to_device(random_matrix(N, N, 2, dtype), dtype);
    const Tensor bias = to_device(random_matrix(1, N, 3, dtype), dtype).reshape({N});
    std::vector<HostMatrix> results;
    Tensor c = ctx_.empty({N, N}, dtype), h = ctx_.empty({N, N}, dtype), sums = ctx_.empty({N}), none;
    multiply_nt(ctx_, a, b, bias, c);
    results.push_back(to_host(c));
    multiply_nt_gelu(ctx_, a, b, bias, h, c);
    results.push_back(to_host(h));
    results.push_back(to_host(c));
    for (Tensor* of_rows : {&none, &sums}) {
      multiply_nn_gelu_backward(ctx_, a, b, h, c, *of_rows);
      results.push_back(to_host(c));
    }
    results.push_back(to_host(sums));
    Tensor dw = ctx_.empty({N, N}), db = ctx_.empty({N});
    ctx_.kernel<FillKernel>()(ctx_, 1.0f, dw);
    ctx_.kernel<FillKernel>()(ctx_, 1.0f, db);
    multiply_tn_and_sum(ctx_, a, b, true, dw, true, db);
    results.push_back(to_host(dw));
    results.push_back(to_host(db));
    return results;
  }

  static void expect_same_bits(const std::vector<HostMatrix>& x, const std::vector<HostMatrix>& y) {
    ASSERT_EQ(x.size(), y.size());
    for (size_t i = 0; i < x.size(); ++i) EXPECT_EQ(x[i].v, y[i].v) << "result " << i;
  }
  static void expect_close(const std::vector<HostMatrix>& x, const std::vector<HostMatrix>& y) {
    ASSERT_EQ(x.size(), y.size());
    for (size_t i = 0; i < x.size(); ++i) EXPECT_LE(relative_difference(x[i], y[i]), 5e-3) << "result " << i;
  }

  fs::path folder_;
  std::optional<std::string> before_;
};

TEST_F(MatmulTuningCuda, TimingChangesNoResultAndIsDoneOnce) {
  const std::vector<HostMatrix> untuned = run_all();
  EXPECT_EQ(num_timed(), 0);
  EXPECT_FALSE(fs::exists(file()));
  start({.tune = true});
  const std::vector<HostMatrix> tuned = run_all();
  const int timed = num_timed();
  EXPECT_GE(timed, 4);
  expect_close(tuned, untuned);
  expect_same_bits(run_all(), tuned);
  EXPECT_EQ(num_timed(), timed);
}

TEST_F(MatmulTuningCuda, TheFileGivesTheSameBitsToTheNextRun) {
  start({.tune = true});
  const std::vector<HostMatrix> first = run_all();
  ASSERT_TRUE(fs::exists(file())) << file();
  EXPECT_GE(contents().size(), 4u);
  const std::string written = contents().dump();
  start({.tune = true});
  expect_same_bits(run_all(), first);
  EXPECT_EQ(num_timed(), 0);
  EXPECT_EQ(contents().dump(), written);
}

TEST_F(MatmulTuningCuda, ADamagedFileIsReplaced) {
  start({.tune = true});
  const std::vector<HostMatrix> first = run_all();
  const nlohmann::json good = contents();
  const std::vector<std::string> damages{"{ not json", "", "[1, 2]", R"({"nt 1 x 1 x 1": 7})", std::string(100, '\0')};
  for (const std::string& text : damages) {
    std::ofstream(file()) << text;
    start({.tune = true});
    expect_close(run_all(), first);
    EXPECT_GE(num_timed(), 4) << text;
    EXPECT_GE(contents().size(), good.size()) << text;
  }
  // Algorithms that were changed, or belong to other products.
  nlohmann::json changed = good;
  for (auto& [product, entry] : changed.items()) {
    auto algo = entry["algo"].get<std::string>();
    algo[3] = algo[3] == '7' ? '8' : '7';
    entry["algo"] = algo;
  }
  std::ofstream(file()) << changed;
  start({.tune = true});
  expect_close(run_all(), first);
  EXPECT_GE(num_timed(), 4);
}

TEST_F(MatmulTuningCuda, AFileThatCannotBeWrittenIsNoError) {
  setenv("XDG_CACHE_HOME", "/proc/no/such", 1);
  start({.deterministic = false, .tune = true});
  run_all();
  EXPECT_GE(num_timed(), 4);
}

TEST_F(MatmulTuningCuda, WithoutAFileTheNextRunHasTheSameBitsAllTheSame) {
  const std::vector<HostMatrix> untimed = run_all();
  setenv("XDG_CACHE_HOME", "/proc/no/such", 1);
  start({.tune = true});
  expect_same_bits(run_all(), untimed);
  EXPECT_EQ(num_timed(), 0);
  const std::vector<std::string> notes = engine_->backend().take_notes();
  ASSERT_EQ(notes.size(), 1u);
  EXPECT_NE(notes[0].find("/proc/no/such"), std::string::npos) << notes[0];
}

TEST_F(MatmulTuningCuda, EveryTypeIsTuned) {
  start({.tune = true});
  for (const DType dtype : {DType::f32, DType::bf16, DType::f16}) {
    const int before = num_timed();
    const std::vector<HostMatrix> tuned = run_all(dtype);
    EXPECT_GT(num_timed(), before) << name_of(dtype);
    expect_same_bits(run_all(dtype), tuned);
  }
}

TEST_F(MatmulTuningCuda, NothingIsTimedWhileAStreamIsCaptured) {
  start({.tune = true});
  const Tensor a = to_device(random_matrix(N, N, 1, DType::bf16), DType::bf16);
  Tensor c = ctx_.empty({N, N}, DType::bf16);
  cudaStream_t stream = raw_stream(ctx_);
  ctx_.stream->synchronize();
  cudaGraph_t graph = nullptr;
  ASSERT_EQ(cudaStreamBeginCapture(stream, cudaStreamCaptureModeRelaxed), cudaSuccess);
  multiply_nn(ctx_, a, a, c);
  ASSERT_EQ(cudaStreamEndCapture(stream, &graph), cudaSuccess);
  EXPECT_EQ(num_timed(), 0);
  size_t nodes = 0;
  EXPECT_EQ(cudaGraphGetNodes(graph, nullptr, &nodes), cudaSuccess);
  EXPECT_GE(nodes, 1u);
  cudaGraphDestroy(graph);
  multiply_nn(ctx_, a, a, c);
  EXPECT_EQ(num_timed(), 1);
}

}  // namespace
}  // namespace trireme
