// Small text helpers shared by messages: counted nouns, and the nearest known name to a misspelt one.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace trireme {

/// "1 rank", "2 ranks".
std::string counted(int64_t count, std::string_view noun);

/// The number of single-character edits between two strings (Levenshtein).
size_t edit_distance(std::string_view a, std::string_view b);

/// The nearest of `known` to `wanted`; "" when none is near enough to be what was meant.
std::string nearest_name(std::string_view wanted, std::span<const std::string> known);

}  // namespace trireme
