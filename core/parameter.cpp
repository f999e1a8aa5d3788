#include "core/parameter.h"

namespace trireme {
namespace {

float init_value(const Init& init, const RandomStream& stream, int64_t element) {
  const auto bits = stream.block(static_cast<uint64_t>(element) / 4);
  const int lane = static_cast<int>(element % 4);
  if (init.kind == Init::Kind::normal) return init.scale * to_normal(bits)[lane];
  return init.scale * (2.0f * to_uniform(bits[lane]) - 1.0f);
}

}  // namespace

void init_values(const Parameter& parameter, uint64_t seed, std::span<float> values) {
  const Init& init = parameter.init;
  if (init.kind == Init::Kind::zeros || init.kind == Init::Kind::ones) {
    std::fill(values.begin(), values.end(), init.kind == Init::Kind::ones ? 1.0f : 0.0f);
    return;
  }
  const RandomStream stream = make_stream(seed, hash_name(parameter.name));
  const Placement& p = parameter.placement;
  // The local array is [outer, part, inner]; the global one [outer, count * part, inner].
  const int64_t part = p.is_split() ? parameter.shape[p.dim] : 1;
  int64_t inner = 1;
  for (int d = p.is_split() ? p.dim + 1 : 0; d < parameter.shape.rank(); ++d) inner *= parameter.shape[d];
  const int64_t row = part * inner;
  for (int64_t i = 0; i < static_cast<int64_t>(values.size()); ++i) {
    const int64_t element = p.is_split() ? (i / row) * row * p.count + p.index * row + i % row : i;
    values[i] = init_value(init, stream, element);
  }
}

}  // namespace trireme
