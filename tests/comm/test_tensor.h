// Host tensors with memory of their own, and checks that throw, for tests whose ranks are threads or
// processes.
#pragma once

#include <fmt/format.h>

#include <functional>
#include <memory>
#include <stdexcept>
#include <vector>

#include "core/tensor.h"

namespace trireme {

template <class T>
Tensor make_tensor(std::vector<T> values) {
  auto owner = std::make_shared<std::vector<T>>(std::move(values));
  const auto n = static_cast<int64_t>(owner->size());
  auto storage = std::make_shared<Storage>(owner, owner->data(), owner->size() * sizeof(T));
  return Tensor(std::move(storage), 0, {n}, DTypeOf<T>::value, Device{});
}

/// Element i is value(i).
template <class T, class Value>
Tensor make_tensor(int64_t n, const Value& value) {
  std::vector<T> values;
  for (int64_t i = 0; i < n; ++i) {
    if constexpr (std::is_class_v<T>) {
      values.push_back(T(static_cast<float>(value(i))));
    } else {
      values.push_back(static_cast<T>(value(i)));
    }
  }
  return make_tensor(std::move(values));
}

template <class T>
double at(const Tensor& t, int64_t i) {
  return static_cast<double>(static_cast<std::conditional_t<std::is_class_v<T>, float, T>>(t.data<T>()[i]));
}

inline void check(bool claim, const std::string& what) {
  if (!claim) throw std::logic_error("check failed: " + what);
}

template <class T, class Wanted>
void check_elements(const Tensor& t, const Wanted& wanted, std::string_view what) {
  for (int64_t i = 0; i < t.numel(); ++i)
    if (at<T>(t, i) != wanted(i))
      check(false,
            fmt::format("{}: element {} of {} is {}, not {}", what, i, t.numel(), at<T>(t, i), wanted(i)));
}

/// The message of the `E` that `f` throws.
template <class E>
std::string message_of(const std::function<void()>& f) {
  try {
    f();
  } catch (const E& e) {
    return e.what();
  }
  throw std::logic_error("check failed: nothing was thrown");
}

inline void check_contains(const std::string& text, const std::string& part) {
  check(text.find(part) != std::string::npos, fmt::format("\"{}\" does not contain \"{}\"", text, part));
}

}  // namespace trireme
