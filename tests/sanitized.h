// How much of a test a build with sanitizers has time for: it is 5 to 20 times slower.
#pragma once

namespace trireme {

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
inline constexpr bool kSanitized = true;
#else
inline constexpr bool kSanitized = false;
#endif

/// `whole`, or with sanitizers `part`.
constexpr int unless_sanitized(int whole, int part) { return kSanitized ? part : whole; }

}  // namespace trireme
