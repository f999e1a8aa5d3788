// Where the numbers are by which ranks tell each other how far they are with the pieces that they copy (comm/copy_plan.h).
#pragma once

#include <cstddef>
#include <cstdint>

namespace trireme::comm {

/// Each rank has three words for a piece, which hold its number in turn. So many pieces later the next one
/// takes them; no rank's device is that far ahead of another's.
inline constexpr size_t kPieces = 1024, kWordsOfPiece = 3;

/// `kind`: a CopyStep::Word.
constexpr size_t word_of_piece(uint32_t kind, int rank, uint32_t number) {
  return (static_cast<size_t>(rank) * kPieces + number % kPieces) * kWordsOfPiece + kind;
}

}  // namespace trireme::comm
