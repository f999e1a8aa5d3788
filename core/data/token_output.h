// TokenOutput: tokens to the bytes of a shard, written in large pieces.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "core/data/token_shard.h"
#include "core/files.h"

namespace trireme {

class TokenOutput {
 public:
  /// `type` must be able to hold every token.
  TokenOutput(OutputFile& file, TokenType type) : file_(file), type_(type) {}
  void append(std::span<const int32_t> tokens);
  void flush();

 private:
  OutputFile& file_;
  TokenType type_;
  std::vector<std::byte> buffer_;
};

}  // namespace trireme
