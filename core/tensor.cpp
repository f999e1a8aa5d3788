#include "core/tensor.h"

#include <algorithm>

namespace trireme {

Shape::Shape(std::span<const int64_t> dims) : rank_(static_cast<int>(dims.size())) {
  TRIREME_ASSERT(dims.size() <= kMaxDims, "more than 6 dimensions");
  std::copy(dims.begin(), dims.end(), dims_.begin());
}

int64_t Shape::numel() const {
  int64_t n = 1;
  for (int64_t d : dims()) n *= d;
  return n;
}

bool Shape::operator==(const Shape& other) const { return std::ranges::equal(dims(), other.dims()); }

std::string to_string(const Shape& shape) {
  std::string text = "[";
  for (int i = 0; i < shape.rank(); ++i) text += (i ? ", " : "") + std::to_string(shape[i]);
  return text + "]";
}

std::string to_string(Device device) {
  return device.kind == DeviceKind::cpu ? "cpu" : "cuda:" + std::to_string(device.index);
}

Tensor Tensor::slice(int64_t begin, int64_t end) const {
  TRIREME_ASSERT(tape_id_ < 0, "slice() of a tensor on the tape would lose its gradient");
  TRIREME_ASSERT(rank() > 0 && 0 <= begin && begin <= end && end <= dim(0),
                 "slice [" + std::to_string(begin) + ", " + std::to_string(end) + ") of " + to_string(shape_));
  Tensor view = *this;
  const int64_t row = dim(0) == 0 ? 0 : numel() / dim(0);
  view.offset_bytes_ += static_cast<size_t>(begin * row) * size_of(dtype_);
  view.shape_[0] = end - begin;
  return view;
}

Tensor Tensor::reshape(Shape shape) const {
  TRIREME_ASSERT(shape.numel() == numel(), "reshape " + to_string(shape_) + " to " + to_string(shape));
  Tensor view = *this;
  view.shape_ = shape;
  return view;
}

Tensor Tensor::flat_view(int64_t begin, Shape shape) const {
  TRIREME_ASSERT(begin >= 0 && begin + shape.numel() <= numel(),
                 to_string(shape) + " at " + std::to_string(begin) + " of " + std::to_string(numel()) + " elements");
  Tensor view = detach();
  view.offset_bytes_ += static_cast<size_t>(begin) * size_of(dtype_);
  view.shape_ = shape;
  return view;
}

Tensor Tensor::detach() const {
  Tensor view = *this;
  view.tape_id_ = -1;
  return view;
}

Tensor Tensor::unowned() const {
  if (!defined()) return {};
  return {std::make_shared<Storage>(std::shared_ptr<void>(), raw(), bytes()), 0, shape_, dtype_, device_};
}

}  // namespace trireme
