#include "launcher/tensor_statistics.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <type_traits>
#include <vector>

namespace trireme {
namespace {

constexpr int64_t kPieceElements = 1 << 16;  // stays in the cache between its two passes

/// Pieces are merged by Chan, Golub and LeVeque's rule (1979), which loses nothing to large means.
class Accumulator {
 public:
  void add(std::span<const double> piece) {
    int64_t count = 0;
    double sum = 0.0;
    for (double x : piece) {
      if (!std::isfinite(x)) continue;
      ++count;
      sum += x;
      min_ = std::min(min_, x);
      max_ = std::max(max_, x);
    }
    result_.not_finite += static_cast<int64_t>(piece.size()) - count;
    if (count == 0) return;
    const double mean = sum / static_cast<double>(count);
    double squares = 0.0;
    for (double x : piece)
      if (std::isfinite(x)) squares += (x - mean) * (x - mean);
    const double n = static_cast<double>(result_.count), m = static_cast<double>(count),
                 shift = mean - result_.mean;
    squares_ += squares + shift * shift * n * m / (n + m);
    result_.mean += shift * m / (n + m);
    result_.count += count;
  }

  TensorStatistics result() const {
    TensorStatistics r = result_;
    if (r.count == 0) return r;
    r.min = min_;
    r.max = max_;
    r.std_deviation = std::sqrt(squares_ / static_cast<double>(r.count));
    return r;
  }

 private:
  TensorStatistics result_;
  double min_ = std::numeric_limits<double>::infinity(), max_ = -min_;
  double squares_ = 0.0;  // of the distances from the mean
};

template <class T>
TensorStatistics measure_as(int64_t numel, const ElementReader& read) {
  Accumulator accumulator;
  std::vector<T> elements;
  std::vector<double> piece;
  for (int64_t begin = 0; begin < numel; begin += kPieceElements) {
    const int64_t end = std::min(numel, begin + kPieceElements);
    elements.resize(static_cast<size_t>(end - begin));
    read(begin, end, std::as_writable_bytes(std::span(elements)));
    piece.resize(elements.size());
    std::ranges::transform(elements, piece.begin(), [](T x) {
      if constexpr (std::is_arithmetic_v<T>)
        return static_cast<double>(x);
      else
        return static_cast<double>(static_cast<float>(x));
    });
    accumulator.add(piece);
  }
  return accumulator.result();
}

}  // namespace

TensorStatistics measure(DType dtype, int64_t numel, const ElementReader& read) {
  switch (dtype) {
    case DType::f32:
      return measure_as<float>(numel, read);
    case DType::bf16:
      return measure_as<bf16>(numel, read);
    case DType::f16:
      return measure_as<f16>(numel, read);
    case DType::f64:
      return measure_as<double>(numel, read);
    case DType::i32:
      return measure_as<int32_t>(numel, read);
    case DType::i64:
      return measure_as<int64_t>(numel, read);
    case DType::u16:
      return measure_as<uint16_t>(numel, read);
    case DType::u8:
      return measure_as<uint8_t>(numel, read);
  }
  return {};
}

}  // namespace trireme
