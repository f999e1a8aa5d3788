#include "core/parameter.h"

#include <algorithm>
#include <span>

namespace trireme {
namespace {

/// Four elements of the global array, from 4 `block` on.
std::array<float, 4> init_block(const Init& init, const RandomStream& stream, int64_t block) {
  const auto bits = stream.block(static_cast<uint64_t>(block));
  std::array<float, 4> values = to_normal(bits);
  for (size_t lane = 0; lane < 4; ++lane)
    values[lane] = init.scale * (init.kind == Init::Kind::normal ? values[lane] : 2.0f * to_uniform(bits[lane]) - 1.0f);
  return values;
}

/// values[i] = element begin + i of the global array.
void init_range(const Init& init, const RandomStream& stream, int64_t begin, std::span<float> values) {
  const int64_t end = begin + static_cast<int64_t>(values.size());
  for (int64_t block = begin / 4; 4 * block < end; ++block) {
    const std::array<float, 4> four = init_block(init, stream, block);
    for (int64_t e = std::max(begin, 4 * block); e < std::min(end, 4 * block + 4); ++e) values[e - begin] = four[e % 4];
  }
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
  // Local elements of one row of `outer` are neighbours in the global array too.
  const auto total = static_cast<int64_t>(values.size());
  const int64_t row = p.is_split() ? part * inner : total;
  constexpr int64_t kPiece = 1 << 14;
  const int64_t pieces_a_row = (row + kPiece - 1) / kPiece, num_pieces = total == 0 ? 0 : total / row * pieces_a_row;
#pragma omp parallel for schedule(static)
  for (int64_t piece = 0; piece < num_pieces; ++piece) {
    const int64_t outer = piece / pieces_a_row, first = piece % pieces_a_row * kPiece;
    const int64_t count = std::min(kPiece, row - first);
    init_range(init, stream, outer * row * p.count + p.index * row + first,
               values.subspan(static_cast<size_t>(outer * row + first), static_cast<size_t>(count)));
  }
}

}  // namespace trireme
