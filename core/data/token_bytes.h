// Tokens to the bytes of a shard.
#pragma once

#include <cstdint>
#include <span>

#include "core/checkpoint/files.h"
#include "core/data/token_shard.h"

namespace trireme {

/// Appends `tokens`, stored as `type`, which must be able to hold them.
void append_tokens(OutputFile& file, TokenType type, std::span<const int32_t> tokens);

}  // namespace trireme
