// Tensor: a handle to a row-major array on a device. Cheap to copy; copies and views share the storage.
#pragma once

#include <memory>
#include <span>
#include <string>

#include "core/allocator.h"
#include "core/device.h"
#include "core/dtype.h"
#include "core/error.h"
#include "core/shape.h"

namespace trireme {

class Tensor {
 public:
  Tensor() = default;
  Tensor(std::shared_ptr<Storage> storage, size_t offset_bytes, Shape shape, DType dtype, Device device)
      : storage_(std::move(storage)), offset_bytes_(offset_bytes), shape_(shape), dtype_(dtype), device_(device) {}

  bool defined() const { return storage_ != nullptr; }
  const Shape& shape() const { return shape_; }
  int64_t dim(int i) const { return shape_[i]; }
  int rank() const { return shape_.rank(); }
  int64_t numel() const { return shape_.numel(); }
  size_t bytes() const { return static_cast<size_t>(numel()) * size_of(dtype_); }
  DType dtype() const { return dtype_; }
  Device device() const { return device_; }

  void* raw() const { return static_cast<std::byte*>(storage_->data()) + offset_bytes_; }
  template <class T>
  T* data() const {
    TRIREME_ASSERT(DTypeOf<std::remove_const_t<T>>::value == dtype_, "tensor is " + std::string(name_of(dtype_)));
    return static_cast<T*>(raw());
  }
  /// The elements of a tensor in host memory.
  template <class T>
  std::span<T> span() const {
    return {data<T>(), static_cast<size_t>(numel())};
  }
  /// A single element of a host tensor of one element.
  template <class T>
  T item() const {
    TRIREME_ASSERT(numel() == 1, "item() of shape " + to_string(shape_));
    return *data<T>();
  }

  /// Rows [begin, end) of dim 0, sharing the storage. Not differentiable: a tensor on the tape is refused.
  Tensor slice(int64_t begin, int64_t end) const;
  /// The same elements under another shape (same count), sharing the storage and the place on the tape.
  Tensor reshape(Shape shape) const;
  /// Elements [begin, begin + shape.numel()) of the flattened tensor under `shape`, sharing the storage.
  Tensor flat_view(int64_t begin, Shape shape) const;
  /// The same tensor, cut off from the tape.
  Tensor detach() const;
  /// The same memory, which this handle does not keep alive. Of an undefined tensor, one that is undefined.
  Tensor unowned() const;

  /// True when no other handle shares the storage: an operation may then write its result in place.
  bool unique() const { return storage_ && storage_.use_count() == 1; }

  /// The value's number on the tape that recorded it; -1 for a constant.
  int tape_id() const { return tape_id_; }
  void set_tape_id(int id) { tape_id_ = id; }

 private:
  std::shared_ptr<Storage> storage_;
  size_t offset_bytes_ = 0;
  Shape shape_;
  DType dtype_ = DType::f32;
  Device device_;
  int tape_id_ = -1;
};

}  // namespace trireme
