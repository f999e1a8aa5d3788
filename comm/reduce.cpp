#include "comm/reduce.h"

#include <algorithm>
#include <array>

namespace trireme::comm {
namespace {

constexpr int64_t kBlock = 2048;  // elements: the accumulators stay in the first-level cache

template <class T>
struct AccumulatorOf {
  using type = T;
};
template <>
struct AccumulatorOf<bf16> {
  using type = float;
};
template <>
struct AccumulatorOf<f16> {
  using type = float;
};

template <class A>
void accumulate(A& total, A value, ReduceOp op) {
  switch (op) {
    case ReduceOp::sum:
    case ReduceOp::average:
      total += value;
      break;
    case ReduceOp::max:  // the second comparison keeps a NaN
      total = total < value || value != value ? value : total;
      break;
    case ReduceOp::min:
      total = value < total || value != value ? value : total;
      break;
  }
}

template <ReduceOp op, class T>
void reduce_typed(std::span<const std::byte* const> sources, std::byte* out_bytes, int64_t n) {
  using A = typename AccumulatorOf<T>::type;
  T* out = reinterpret_cast<T*>(out_bytes);
  alignas(64) std::array<A, kBlock> total;
  for (int64_t begin = 0; begin < n; begin += kBlock) {
    const int64_t count = std::min(kBlock, n - begin);
    const T* first = reinterpret_cast<const T*>(sources[0]) + begin;
    for (int64_t i = 0; i < count; ++i) total[i] = static_cast<A>(first[i]);
    for (const std::byte* source : sources.subspan(1)) {
      const T* values = reinterpret_cast<const T*>(source) + begin;
      for (int64_t i = 0; i < count; ++i) accumulate(total[i], static_cast<A>(values[i]), op);
    }
    const A divisor = op == ReduceOp::average ? static_cast<A>(sources.size()) : A{1};
    for (int64_t i = 0; i < count; ++i)
      out[begin + i] = static_cast<T>(op == ReduceOp::average ? total[i] / divisor : total[i]);
  }
}

template <ReduceOp op>
void reduce_op(DType dtype, std::span<const std::byte* const> sources, std::byte* out, int64_t n) {
  switch (dtype) {
    case DType::f32:
      return reduce_typed<op, float>(sources, out, n);
    case DType::bf16:
      return reduce_typed<op, bf16>(sources, out, n);
    case DType::f16:
      return reduce_typed<op, f16>(sources, out, n);
    case DType::f64:
      return reduce_typed<op, double>(sources, out, n);
    case DType::i32:
      return reduce_typed<op, int32_t>(sources, out, n);
    case DType::i64:
      return reduce_typed<op, int64_t>(sources, out, n);
    case DType::u16:
    case DType::u8:
      break;
  }
  TRIREME_ASSERT(false, "reduce of " + std::string(name_of(dtype)));
}

}  // namespace

void reduce(DType dtype, ReduceOp op, std::span<const std::byte* const> sources, std::byte* out, int64_t n) {
  switch (op) {
    case ReduceOp::sum:
      return reduce_op<ReduceOp::sum>(dtype, sources, out, n);
    case ReduceOp::average:
      return reduce_op<ReduceOp::average>(dtype, sources, out, n);
    case ReduceOp::max:
      return reduce_op<ReduceOp::max>(dtype, sources, out, n);
    case ReduceOp::min:
      return reduce_op<ReduceOp::min>(dtype, sources, out, n);
  }
}

}  // namespace trireme::comm
