#include "core/backend/cuda/product.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

namespace trireme::cuda {
namespace {

constexpr int kMostAlignment = 16;  // bytes; no kernel asks for more

int alignment_of(const Tensor& t) {
  if (!t.defined()) return 0;
  const auto address = reinterpret_cast<uintptr_t>(t.raw());
  int alignment = 1;
  while (alignment < kMostAlignment && address % (2 * static_cast<uintptr_t>(alignment)) == 0) alignment *= 2;
  return alignment;
}

const char* name_of(Fusion fusion) {
  constexpr std::array names{"alone", "bias", "gelu", "gelu backward", "sum"};
  return names[static_cast<size_t>(fusion)];
}

}  // namespace

ProductKey key_of(const Product& p) {
  ProductKey key;
  key.m = p.m(), key.n = p.n(), key.k = p.k();
  key.transpose_a = p.transpose_a, key.transpose_b = p.transpose_b;
  key.input = p.a.dtype(), key.output = p.c.dtype();
  key.fusion = p.fusion;
  key.alignments = {alignment_of(p.a), alignment_of(p.b), alignment_of(p.c), alignment_of(p.bias), alignment_of(p.aux)};
  return key;
}

std::string to_string(const ProductKey& key, bool tf32) {
  const auto input = tf32 && key.input == DType::f32 ? std::string_view("tf32") : trireme::name_of(key.input);
  return fmt::format("{}{} {} x {} x {} {} to {}, {}, aligned {}", key.transpose_a ? 't' : 'n', key.transpose_b ? 't' : 'n',
                     key.m, key.n, key.k, input, trireme::name_of(key.output), name_of(key.fusion),
                     fmt::join(key.alignments, " "));
}

}  // namespace trireme::cuda
