#include "launcher/peak.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <nlohmann/json.hpp>

#include "core/ops/elementwise.h"
#include "core/ops/linear.h"
#include "core/rng.h"
#include "launcher/bench.h"
#include "launcher/machine.h"

namespace trireme {
namespace {

using Json = nlohmann::json;

constexpr double kFirstSeconds = 0.1, kLaterSeconds = 0.02;

/// Of a product: large enough to reach the peak, and on the host so small that one is done within a time slice of a machine
/// that others use too.
struct Sizes {
  int64_t rows, width;
};
Sizes probe_sizes(const Backend& backend) {
  if (backend.is_asynchronous()) return {8192, 8192};
  constexpr int64_t kRowsPerThread = 512;
  return {kRowsPerThread * backend.num_threads(), 512};
}

std::string cache_key(const Backend& backend, std::string_view precision) {
  const std::string gpu = backend.model_name();
  return gpu.empty() ? fmt::format("{} on {} threads, {}", cpu_model(), backend.num_threads(), precision)
                     : fmt::format("{}, {}", gpu, precision);
}

Json read_cache(const std::filesystem::path& file) {
  std::ifstream in(file);
  Json cache = in ? Json::parse(in, nullptr, false) : Json::object();
  return cache.is_object() ? cache : Json::object();
}

/// Written whole under another name and then renamed: ranks and runs do this at the same time.
void write_cache(const std::filesystem::path& file, const Json& cache) {
  std::error_code ignored;
  std::filesystem::create_directories(file.parent_path(), ignored);
  std::filesystem::path written = file;
  written += fmt::format(".{}", getpid());
  std::ofstream out(written);
  out << cache.dump(2) << '\n';
  out.close();
  if (out) std::filesystem::rename(written, file, ignored);
  std::filesystem::remove(written, ignored);
}

}  // namespace

std::filesystem::path default_peak_cache() {
  if (const char* cache = std::getenv("XDG_CACHE_HOME"); cache && *cache)
    return std::filesystem::path(cache) / "trireme/peak.json";
  const char* home = std::getenv("HOME");
  return home && *home ? std::filesystem::path(home) / ".cache/trireme/peak.json" : std::filesystem::path();
}

double measure_peak_flops(Context& ctx, DType dtype, double budget_s) {
  const auto [rows, width] = probe_sizes(*ctx.backend);
  // Numbers like a model's: zeros would be faster than what is measured.
  std::vector<float> values(static_cast<size_t>(std::max(rows, width) * width));
  const RandomStream stream = make_stream(1, hash_name("peak"));
  constexpr size_t kPeriod = 65521;  // enough for products to take as long as with numbers that never repeat
  for (size_t i = 0; i < values.size(); ++i)
    values[i] = i < kPeriod ? to_uniform(stream.block(i)[0]) - 0.5f : values[i - kPeriod];
  const std::span<const float> all(values);
  const Tensor x = cast(ctx, ctx.from_host<float>(all.first(static_cast<size_t>(rows * width)), {rows, width}), dtype);
  const Tensor w = cast(ctx, ctx.from_host<float>(all.first(static_cast<size_t>(width * width)), {width, width}), dtype);
  Tensor y = ctx.empty({rows, width}, dtype, MemoryClass::workspace);
  const double seconds =
      fastest_seconds(ctx, budget_s, [&] { ctx.kernel<LinearForward>()(ctx, x, w, Tensor(), y); });
  return 2.0 * static_cast<double>(rows * width * width) / seconds;
}

double peak_flops(Context& ctx, DType dtype, std::string_view precision, const std::filesystem::path& cache_file) {
  const std::string key = cache_key(*ctx.backend, precision);
  Json cache = cache_file.empty() ? Json::object() : read_cache(cache_file);
  const auto found = cache.find(key);
  const double known = found != cache.end() && found->is_number() ? found->get<double>() : 0.0;
  const double measured = measure_peak_flops(ctx, dtype, known > 0 ? kLaterSeconds : kFirstSeconds);
  if (measured <= known) return known;
  cache[key] = measured;
  if (!cache_file.empty()) write_cache(cache_file, cache);
  return measured;
}

}  // namespace trireme
