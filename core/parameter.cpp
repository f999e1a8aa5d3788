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

std::vector<PlacedRun> placed_runs(const Parameter& parameter) {
  const Placement& p = parameter.placement;
  if (!p.is_split()) return {{0, 0, parameter.shape.numel(), 1, 0, 0}};
  // The local array is [outer, local(), inner]; the global one [outer, global, inner].
  int64_t outer = 1, inner = 1;
  for (int d = 0; d < p.dim; ++d) outer *= parameter.shape[d];
  for (int d = p.dim + 1; d < parameter.shape.rank(); ++d) inner *= parameter.shape[d];
  std::vector<PlacedRun> runs;
  int64_t local = 0;
  for (const Placement::Range& r : p.ranges) {
    const int64_t length = (r.end - r.begin) * inner;
    runs.push_back({r.begin * inner, local, length, outer, p.global * inner, p.local() * inner});
    local += length;
  }
  return runs;
}

void init_values(const Parameter& parameter, uint64_t seed, std::span<float> values) {
  const Init& init = parameter.init;
  if (init.kind == Init::Kind::zeros || init.kind == Init::Kind::ones) {
    std::fill(values.begin(), values.end(), init.kind == Init::Kind::ones ? 1.0f : 0.0f);
    return;
  }
  const RandomStream stream = make_stream(seed, hash_name(parameter.name));
  for (const PlacedRun& run : placed_runs(parameter)) {
    constexpr int64_t kPiece = 1 << 14;
    const int64_t pieces_a_row = (run.length + kPiece - 1) / kPiece, num_pieces = run.count * pieces_a_row;
#pragma omp parallel for schedule(static)
    for (int64_t piece = 0; piece < num_pieces; ++piece) {
      const int64_t row = piece / pieces_a_row, first = piece % pieces_a_row * kPiece;
      const int64_t n = std::min(kPiece, run.length - first);
      init_range(init, stream, run.global + row * run.global_stride + first,
                 values.subspan(static_cast<size_t>(run.local + row * run.local_stride + first), static_cast<size_t>(n)));
    }
  }
}

}  // namespace trireme
