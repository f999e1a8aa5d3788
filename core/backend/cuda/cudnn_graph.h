// A graph of operations for cuDNN's backend interface, and the execution plan that cuDNN makes of one:
// descriptors that free themselves, operations on tensors of four dimensions, and errors that say at which
// step cuDNN said no. (NVIDIA, cuDNN backend API reference: "Backend Descriptor Types".)
#pragma once

#include <cudnn.h>

#include <array>
#include <cstdint>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

namespace trireme::cuda {

/// cuDNN does not support a graph, or is not usable at all. The text says at which step, with cuDNN's own
/// words.
class CudnnDeclined : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// CudnnDeclined "`what`: <cuDNN's text>" unless `status` is success.
void check_cudnn(cudnnStatus_t status, const std::string& what);

/// One backend descriptor: attributes are set, then it is finalized.
class CudnnDescriptor {
 public:
  CudnnDescriptor(cudnnBackendDescriptorType_t type, std::string name);
  ~CudnnDescriptor();
  CudnnDescriptor(CudnnDescriptor&& other) noexcept;
  CudnnDescriptor& operator=(CudnnDescriptor&& other) noexcept;

  void set(cudnnBackendAttributeName_t attribute, int64_t value);
  void set(cudnnBackendAttributeName_t attribute, bool value);
  void set(cudnnBackendAttributeName_t attribute, float value);
  void set(cudnnBackendAttributeName_t attribute, cudnnDataType_t value);
  void set(cudnnBackendAttributeName_t attribute, cudnnPointwiseMode_t value);
  void set(cudnnBackendAttributeName_t attribute, cudnnReduceTensorOp_t value);
  void set(cudnnBackendAttributeName_t attribute, cudnnBackendHeurMode_t value);
  void set(cudnnBackendAttributeName_t attribute, cudnnHandle_t value);
  void set(cudnnBackendAttributeName_t attribute, const CudnnDescriptor& value);
  void set(cudnnBackendAttributeName_t attribute, std::span<const int64_t> values);
  void set(cudnnBackendAttributeName_t attribute, std::span<void* const> pointers);
  void set(cudnnBackendAttributeName_t attribute, std::span<const CudnnDescriptor> values);
  void finalize();

  cudnnBackendDescriptor_t raw() const { return raw_; }

 private:
  void set(cudnnBackendAttributeName_t attribute, cudnnBackendAttributeType_t type, size_t count,
           const void* values);
  cudnnBackendDescriptor_t raw_ = nullptr;
  std::string name_;
};

/// A compiled graph.
class CudnnPlan {
 public:
  size_t workspace_bytes() const { return workspace_bytes_; }
  int64_t engine() const { return engine_; }  // cuDNN's number of it

  /// What the graph's uids stand for: pointers to device memory, for scalars to host memory that is not
  /// needed later.
  struct Binding {
    int64_t uid;
    void* pointer;
  };
  /// Queues the work on the handle's stream. CudnnDeclined when cuDNN fails.
  void execute(cudnnHandle_t handle, std::span<const Binding> bindings, void* workspace) const;

 private:
  friend class CudnnGraph;
  CudnnPlan(CudnnDescriptor plan, CudnnDescriptor config);
  CudnnDescriptor plan_, config_;
  size_t workspace_bytes_ = 0;
  int64_t engine_ = -1;
};

/// Operations in the order of the calls. Results without a uid are virtual: they never reach memory unless an
/// engine wants it so.
class CudnnGraph {
 public:
  using Dims = std::array<int64_t, 4>;
  struct Layout {
    Dims dims, strides;  // strides count elements
  };
  struct Tensor {
    int index;  // in tensors_
  };
  static constexpr int64_t kVirtual = 0;

  explicit CudnnGraph(std::string name) : name_(std::move(name)) {}
  const std::string& name() const { return name_; }

  Tensor tensor(int64_t uid, const Layout& layout, cudnnDataType_t type) {
    return add_tensor(uid, layout, type, false);
  }
  Tensor temporary(const Layout& layout, cudnnDataType_t type = CUDNN_DATA_FLOAT) {
    return add_tensor(kVirtual, layout, type, false);
  }
  /// An f32 that is given when the plan runs.
  Tensor scalar(int64_t uid) { return add_tensor(uid, {{1, 1, 1, 1}, {1, 1, 1, 1}}, CUDNN_DATA_FLOAT, true); }

  // Each writes `y`, and computes in f32 (comparisons in booleans); `what` names it in errors.
  void pointwise(const char* what, cudnnPointwiseMode_t mode, Tensor x, Tensor y);
  void pointwise(const char* what, cudnnPointwiseMode_t mode, Tensor x, Tensor b, Tensor y);
  void select(const char* what, Tensor if_true, Tensor if_false, Tensor condition, Tensor y);
  void index(const char* what, int dim, Tensor like, Tensor y);  // y[..., i, ...] = i along `dim`, i32
  void matmul(const char* what, Tensor a, Tensor b, Tensor y);
  void reduce(const char* what, cudnnReduceTensorOp_t op, Tensor x,
              Tensor y);                               // over dims that are shorter in y
  void reshape(const char* what, Tensor x, Tensor y);  // y: other dims and strides

  /// The first plan that cuDNN's heuristics propose and that can be made, for the handle's GPU. The graph
  /// must outlive it.
  CudnnPlan build(cudnnHandle_t handle);

 private:
  Tensor add_tensor(int64_t uid, const Layout& layout, cudnnDataType_t type, bool by_value);
  CudnnDescriptor pointwise_operation(const char* what, cudnnPointwiseMode_t mode, int dim = -1);
  void finish(CudnnDescriptor operation);
  std::string step(const char* what) const;
  const CudnnDescriptor& at(Tensor t) const { return tensors_[static_cast<size_t>(t.index)]; }

  std::string name_;
  std::vector<CudnnDescriptor> tensors_, operations_;
  std::vector<CudnnDescriptor> modes_;   // of operations
  std::vector<CudnnDescriptor> graphs_;  // that plans were built from
  int64_t next_virtual_uid_ = 1000;      // behind those of callers
};

}  // namespace trireme::cuda
