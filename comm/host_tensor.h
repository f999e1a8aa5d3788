// Host memory that somebody else owns, as a tensor that a Group can move: small vectors of numbers and names.
#pragma once

#include <memory>
#include <span>

#include "core/tensor.h"

namespace trireme {

/// A view of `values`, which must outlive it (and the operations on it).
template <class T>
Tensor wrap_host(std::span<T> values) {
  auto storage = std::make_shared<Storage>(std::shared_ptr<void>(), values.data(), values.size_bytes());
  return Tensor(std::move(storage), 0, {static_cast<int64_t>(values.size())}, DTypeOf<T>::value, Device{});
}

}  // namespace trireme
