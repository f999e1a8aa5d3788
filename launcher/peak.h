// The most floating-point operations a second that one rank of this machine reaches in a matrix product: what
// the progress line compares a training run with.
#pragma once

#include <filesystem>
#include <string_view>

#include "core/context.h"

namespace trireme {

/// ~/.cache/trireme/peak.json (or below XDG_CACHE_HOME); "" where there is no home.
std::filesystem::path default_peak_cache();

/// Measures for `budget_s` with the context's threads, elements of `dtype`.
double measure_peak_flops(Context& ctx, DType dtype, double budget_s);

/// The highest that was ever measured for this GPU model, or CPU model and number of threads, and `precision`, a word
/// for how elements of `dtype` are multiplied. The first time it takes
/// about a tenth of a second; later, a glance tells whether the machine can do better than when it was
/// measured, under other load perhaps. A cache that can't be read or written is no error.
double peak_flops(Context& ctx, DType dtype, std::string_view precision,
                  const std::filesystem::path& cache_file = default_peak_cache());

}  // namespace trireme
