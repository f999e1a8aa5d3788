#include "core/backend/cuda/cudnn_graph.h"

#include <fmt/format.h>

#include <optional>
#include <utility>

namespace trireme::cuda {
namespace {

std::string last_error() {
  std::array<char, 2048> text{};
  cudnnGetLastErrorString(text.data(), text.size());
  return text.data();
}

std::vector<CudnnDescriptor> descriptors(cudnnBackendDescriptorType_t type, int64_t count,
                                         const std::string& name) {
  std::vector<CudnnDescriptor> made;
  for (int64_t i = 0; i < count; ++i) made.emplace_back(type, name);
  return made;
}

std::vector<cudnnBackendDescriptor_t> raw(std::span<const CudnnDescriptor> descriptors) {
  std::vector<cudnnBackendDescriptor_t> out;
  for (const CudnnDescriptor& d : descriptors) out.push_back(d.raw());
  return out;
}

/// The engine configurations that cuDNN proposes for a graph, best first.
std::vector<CudnnDescriptor> proposals(const CudnnDescriptor& graph, cudnnBackendHeurMode_t mode,
                                       const std::string& name) {
  CudnnDescriptor heuristics(CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR, name + ": heuristics");
  heuristics.set(CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, graph);
  heuristics.set(CUDNN_ATTR_ENGINEHEUR_MODE, mode);
  heuristics.finalize();
  const auto get = [&](int64_t requested, int64_t* count, void* results) {
    check_cudnn(cudnnBackendGetAttribute(heuristics.raw(), CUDNN_ATTR_ENGINEHEUR_RESULTS,
                                         CUDNN_TYPE_BACKEND_DESCRIPTOR, requested, count, results),
                name + ": heuristics' results");
  };
  int64_t count = 0;
  get(0, &count, nullptr);
  std::vector<CudnnDescriptor> configs =
      descriptors(CUDNN_BACKEND_ENGINECFG_DESCRIPTOR, count, name + ": engine config");
  std::vector<cudnnBackendDescriptor_t> raw_configs = raw(configs);
  get(count, &count, raw_configs.data());
  configs.erase(configs.begin() + count, configs.end());
  return configs;
}

}  // namespace

void check_cudnn(cudnnStatus_t status, const std::string& what) {
  if (status == CUDNN_STATUS_SUCCESS) [[likely]]
    return;
  throw CudnnDeclined(fmt::format("{}: {} ({})", what, last_error(), cudnnGetErrorString(status)));
}

// ---- CudnnDescriptor

CudnnDescriptor::CudnnDescriptor(cudnnBackendDescriptorType_t type, std::string name)
    : name_(std::move(name)) {
  check_cudnn(cudnnBackendCreateDescriptor(type, &raw_), name_ + ": creating it");
}
CudnnDescriptor::~CudnnDescriptor() {
  if (raw_) cudnnBackendDestroyDescriptor(raw_);
}
CudnnDescriptor::CudnnDescriptor(CudnnDescriptor&& other) noexcept
    : raw_(std::exchange(other.raw_, nullptr)), name_(std::move(other.name_)) {}
CudnnDescriptor& CudnnDescriptor::operator=(CudnnDescriptor&& other) noexcept {
  std::swap(raw_, other.raw_);
  std::swap(name_, other.name_);
  return *this;
}

void CudnnDescriptor::set(cudnnBackendAttributeName_t attribute, cudnnBackendAttributeType_t type,
                          size_t count, const void* values) {
  const cudnnStatus_t status =
      cudnnBackendSetAttribute(raw_, attribute, type, static_cast<int64_t>(count), values);
  if (status != CUDNN_STATUS_SUCCESS)
    check_cudnn(status, fmt::format("{}: setting attribute {}", name_, static_cast<int>(attribute)));
}

void CudnnDescriptor::set(cudnnBackendAttributeName_t attribute, int64_t value) {
  set(attribute, CUDNN_TYPE_INT64, 1, &value);
}
void CudnnDescriptor::set(cudnnBackendAttributeName_t attribute, bool value) {
  set(attribute, CUDNN_TYPE_BOOLEAN, 1, &value);
}
void CudnnDescriptor::set(cudnnBackendAttributeName_t attribute, float value) {
  set(attribute, CUDNN_TYPE_FLOAT, 1, &value);
}
void CudnnDescriptor::set(cudnnBackendAttributeName_t attribute, cudnnDataType_t value) {
  set(attribute, CUDNN_TYPE_DATA_TYPE, 1, &value);
}
void CudnnDescriptor::set(cudnnBackendAttributeName_t attribute, cudnnPointwiseMode_t value) {
  set(attribute, CUDNN_TYPE_POINTWISE_MODE, 1, &value);
}
void CudnnDescriptor::set(cudnnBackendAttributeName_t attribute, cudnnReduceTensorOp_t value) {
  set(attribute, CUDNN_TYPE_REDUCTION_OPERATOR_TYPE, 1, &value);
}
void CudnnDescriptor::set(cudnnBackendAttributeName_t attribute, cudnnBackendHeurMode_t value) {
  set(attribute, CUDNN_TYPE_HEUR_MODE, 1, &value);
}
void CudnnDescriptor::set(cudnnBackendAttributeName_t attribute, cudnnHandle_t value) {
  set(attribute, CUDNN_TYPE_HANDLE, 1, &value);
}
void CudnnDescriptor::set(cudnnBackendAttributeName_t attribute, const CudnnDescriptor& value) {
  set(attribute, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &value.raw_);
}
void CudnnDescriptor::set(cudnnBackendAttributeName_t attribute, std::span<const int64_t> values) {
  set(attribute, CUDNN_TYPE_INT64, values.size(), values.data());
}
void CudnnDescriptor::set(cudnnBackendAttributeName_t attribute, std::span<void* const> pointers) {
  set(attribute, CUDNN_TYPE_VOID_PTR, pointers.size(), pointers.data());
}
void CudnnDescriptor::set(cudnnBackendAttributeName_t attribute, std::span<const CudnnDescriptor> values) {
  const std::vector<cudnnBackendDescriptor_t> pointers = cuda::raw(values);
  set(attribute, CUDNN_TYPE_BACKEND_DESCRIPTOR, pointers.size(), pointers.data());
}
void CudnnDescriptor::finalize() {
  check_cudnn(cudnnBackendFinalize(raw_), name_);
}

// ---- CudnnPlan

CudnnPlan::CudnnPlan(CudnnDescriptor plan, CudnnDescriptor config)
    : plan_(std::move(plan)), config_(std::move(config)) {
  int64_t count = 0, workspace = 0;
  check_cudnn(cudnnBackendGetAttribute(plan_.raw(), CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE,
                                       CUDNN_TYPE_INT64, 1, &count, &workspace),
              "workspace of a plan");
  workspace_bytes_ = static_cast<size_t>(workspace);
  CudnnDescriptor engine(CUDNN_BACKEND_ENGINE_DESCRIPTOR, "engine");
  cudnnBackendDescriptor_t raw_engine = engine.raw();
  check_cudnn(cudnnBackendGetAttribute(config_.raw(), CUDNN_ATTR_ENGINECFG_ENGINE,
                                       CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &count, &raw_engine),
              "engine of a config");
  check_cudnn(cudnnBackendGetAttribute(raw_engine, CUDNN_ATTR_ENGINE_GLOBAL_INDEX, CUDNN_TYPE_INT64, 1,
                                       &count, &engine_),
              "number of an engine");
}

void CudnnPlan::execute(cudnnHandle_t handle, std::span<const Binding> bindings, void* workspace) const {
  std::vector<int64_t> uids;
  std::vector<void*> pointers;
  for (const Binding& b : bindings) {
    uids.push_back(b.uid);
    pointers.push_back(b.pointer);
  }
  CudnnDescriptor pack(CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR, "variant pack");
  pack.set(CUDNN_ATTR_VARIANT_PACK_WORKSPACE, std::span<void* const>(&workspace, 1));
  pack.set(CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, std::span<void* const>(pointers));
  pack.set(CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, std::span<const int64_t>(uids));
  pack.finalize();
  check_cudnn(cudnnBackendExecute(handle, plan_.raw(), pack.raw()), "running a plan");
}

// ---- CudnnGraph

std::string CudnnGraph::step(const char* what) const {
  return fmt::format("{}: operation {} ({})", name_, operations_.size() + 1, what);
}

CudnnGraph::Tensor CudnnGraph::add_tensor(int64_t uid, const Layout& layout, cudnnDataType_t type,
                                          bool by_value) {
  constexpr int64_t kAlignment = 16;  // bytes
  CudnnDescriptor d(CUDNN_BACKEND_TENSOR_DESCRIPTOR,
                    fmt::format("{}: tensor {} before operation {}", name_, uid, operations_.size() + 1));
  d.set(CUDNN_ATTR_TENSOR_DATA_TYPE, type);
  d.set(CUDNN_ATTR_TENSOR_DIMENSIONS, std::span<const int64_t>(layout.dims));
  d.set(CUDNN_ATTR_TENSOR_STRIDES, std::span<const int64_t>(layout.strides));
  d.set(CUDNN_ATTR_TENSOR_UNIQUE_ID, uid == kVirtual ? next_virtual_uid_++ : uid);
  d.set(CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, kAlignment);
  if (uid == kVirtual) d.set(CUDNN_ATTR_TENSOR_IS_VIRTUAL, true);
  if (by_value) d.set(CUDNN_ATTR_TENSOR_IS_BY_VALUE, true);
  d.finalize();
  tensors_.push_back(std::move(d));
  return {static_cast<int>(tensors_.size()) - 1};
}

CudnnDescriptor CudnnGraph::pointwise_operation(const char* what, cudnnPointwiseMode_t mode, int dim) {
  const bool compares = mode >= CUDNN_POINTWISE_CMP_EQ && mode <= CUDNN_POINTWISE_CMP_LE;
  CudnnDescriptor d(CUDNN_BACKEND_POINTWISE_DESCRIPTOR, step(what));
  d.set(CUDNN_ATTR_POINTWISE_MODE, mode);
  d.set(CUDNN_ATTR_POINTWISE_MATH_PREC, compares ? CUDNN_DATA_BOOLEAN : CUDNN_DATA_FLOAT);
  if (dim >= 0) d.set(CUDNN_ATTR_POINTWISE_AXIS, int64_t{dim});
  d.finalize();
  CudnnDescriptor operation(CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR, step(what));
  operation.set(CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR, d);
  modes_.push_back(std::move(d));
  return operation;
}

void CudnnGraph::finish(CudnnDescriptor operation) {
  operation.finalize();
  operations_.push_back(std::move(operation));
}

void CudnnGraph::pointwise(const char* what, cudnnPointwiseMode_t mode, Tensor x, Tensor y) {
  CudnnDescriptor operation = pointwise_operation(what, mode);
  operation.set(CUDNN_ATTR_OPERATION_POINTWISE_XDESC, at(x));
  operation.set(CUDNN_ATTR_OPERATION_POINTWISE_YDESC, at(y));
  finish(std::move(operation));
}

void CudnnGraph::pointwise(const char* what, cudnnPointwiseMode_t mode, Tensor x, Tensor b, Tensor y) {
  CudnnDescriptor operation = pointwise_operation(what, mode);
  operation.set(CUDNN_ATTR_OPERATION_POINTWISE_XDESC, at(x));
  operation.set(CUDNN_ATTR_OPERATION_POINTWISE_BDESC, at(b));
  operation.set(CUDNN_ATTR_OPERATION_POINTWISE_YDESC, at(y));
  finish(std::move(operation));
}

void CudnnGraph::select(const char* what, Tensor if_true, Tensor if_false, Tensor condition, Tensor y) {
  CudnnDescriptor operation = pointwise_operation(what, CUDNN_POINTWISE_BINARY_SELECT);
  operation.set(CUDNN_ATTR_OPERATION_POINTWISE_XDESC, at(if_true));
  operation.set(CUDNN_ATTR_OPERATION_POINTWISE_BDESC, at(if_false));
  operation.set(CUDNN_ATTR_OPERATION_POINTWISE_TDESC, at(condition));
  operation.set(CUDNN_ATTR_OPERATION_POINTWISE_YDESC, at(y));
  finish(std::move(operation));
}

void CudnnGraph::index(const char* what, int dim, Tensor like, Tensor y) {
  CudnnDescriptor operation = pointwise_operation(what, CUDNN_POINTWISE_GEN_INDEX, dim);
  operation.set(CUDNN_ATTR_OPERATION_POINTWISE_XDESC, at(like));
  operation.set(CUDNN_ATTR_OPERATION_POINTWISE_YDESC, at(y));
  finish(std::move(operation));
}

void CudnnGraph::matmul(const char* what, Tensor a, Tensor b, Tensor y) {
  CudnnDescriptor d(CUDNN_BACKEND_MATMUL_DESCRIPTOR, step(what));
  d.set(CUDNN_ATTR_MATMUL_COMP_TYPE, CUDNN_DATA_FLOAT);
  d.finalize();
  CudnnDescriptor operation(CUDNN_BACKEND_OPERATION_MATMUL_DESCRIPTOR, step(what));
  operation.set(CUDNN_ATTR_OPERATION_MATMUL_ADESC, at(a));
  operation.set(CUDNN_ATTR_OPERATION_MATMUL_BDESC, at(b));
  operation.set(CUDNN_ATTR_OPERATION_MATMUL_CDESC, at(y));
  operation.set(CUDNN_ATTR_OPERATION_MATMUL_DESC, d);
  modes_.push_back(std::move(d));
  finish(std::move(operation));
}

void CudnnGraph::reduce(const char* what, cudnnReduceTensorOp_t op, Tensor x, Tensor y) {
  CudnnDescriptor d(CUDNN_BACKEND_REDUCTION_DESCRIPTOR, step(what));
  d.set(CUDNN_ATTR_REDUCTION_OPERATOR, op);
  d.set(CUDNN_ATTR_REDUCTION_COMP_TYPE, CUDNN_DATA_FLOAT);
  d.finalize();
  CudnnDescriptor operation(CUDNN_BACKEND_OPERATION_REDUCTION_DESCRIPTOR, step(what));
  operation.set(CUDNN_ATTR_OPERATION_REDUCTION_XDESC, at(x));
  operation.set(CUDNN_ATTR_OPERATION_REDUCTION_YDESC, at(y));
  operation.set(CUDNN_ATTR_OPERATION_REDUCTION_DESC, d);
  modes_.push_back(std::move(d));
  finish(std::move(operation));
}

void CudnnGraph::reshape(const char* what, Tensor x, Tensor y) {
  CudnnDescriptor operation(CUDNN_BACKEND_OPERATION_RESHAPE_DESCRIPTOR, step(what));
  operation.set(CUDNN_ATTR_OPERATION_RESHAPE_XDESC, at(x));
  operation.set(CUDNN_ATTR_OPERATION_RESHAPE_YDESC, at(y));
  finish(std::move(operation));
}

CudnnPlan CudnnGraph::build(cudnnHandle_t handle) {
  CudnnDescriptor& graph = graphs_.emplace_back(CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR, name_ + ": graph");
  graph.set(CUDNN_ATTR_OPERATIONGRAPH_OPS, std::span<const CudnnDescriptor>(operations_));
  graph.set(CUDNN_ATTR_OPERATIONGRAPH_HANDLE, handle);
  graph.finalize();
  std::string declines;
  const auto try_all = [&](cudnnBackendHeurMode_t mode) -> std::optional<CudnnPlan> {
    std::vector<CudnnDescriptor> configs = proposals(graph, mode, name_);
    if (configs.empty()) declines += fmt::format("; none is proposed: {}", last_error());
    for (CudnnDescriptor& config : configs) try {
        CudnnDescriptor plan(CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR, "plan");
        plan.set(CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, config);
        plan.finalize();
        return CudnnPlan(std::move(plan), std::move(config));
      } catch (const CudnnDeclined& e) {
        declines += fmt::format("; {}", e.what());
      }
    return std::nullopt;
  };
  for (const auto mode : {CUDNN_HEUR_MODE_A, CUDNN_HEUR_MODE_FALLBACK}) try {
      if (std::optional<CudnnPlan> plan = try_all(mode)) return std::move(*plan);
    } catch (const CudnnDeclined& e) {
      declines += fmt::format("; {}", e.what());
    }
  throw CudnnDeclined(fmt::format("{}: no engine of cuDNN {} does it{}", name_, cudnnGetVersion(), declines));
}

}  // namespace trireme::cuda
