// TokenShard: the tokens of one file as one sequence, whatever the file's layout and integer type.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace trireme {

/// How a token is stored, little-endian.
enum class TokenType : uint8_t { u8, u16, i32, u32, i64 };

size_t size_of(TokenType type);
std::string_view name_of(TokenType type);

/// A view: whoever made it keeps the bytes alive, unless `owner` does. Copies share the bytes.
class TokenShard {
 public:
  /// From token `first_token` until the next run, tokens lie one after the other from byte `first_byte` on.
  struct Run {
    int64_t first_token = 0;
    size_t first_byte = 0;
  };

  /// `runs` in order of first_token, the first of them 0; every token must lie within `bytes`.
  TokenShard(std::string name, std::span<const std::byte> bytes, TokenType type, std::vector<Run> runs,
             int64_t num_tokens);

  const std::string& name() const { return name_; }  // the file's path
  int64_t num_tokens() const { return num_tokens_; }
  TokenType type() const { return type_; }

  /// Fills `out` with the tokens from `begin` on. A token that int32 can't hold becomes the largest int32,
  /// which is above every vocabulary.
  void read(int64_t begin, std::span<int32_t> out) const;

  std::shared_ptr<const void> owner;  // of the bytes; may be null
  int64_t num_documents = 0;          // 0: the layout does not tell

 private:
  std::string name_;
  std::span<const std::byte> bytes_;
  TokenType type_;
  std::vector<Run> runs_;
  int64_t num_tokens_;
};

/// Maps a shard: Megatron-LM's when an .idx lies beside the .bin, llm.c's otherwise. Only the header is read
/// here. ConfigError when the file is missing, truncated, or not what it claims to be.
TokenShard open_token_shard(const std::filesystem::path& bin_file);

/// The .idx file that belongs to a Megatron-LM .bin file.
std::filesystem::path index_file_of(const std::filesystem::path& bin_file);

}  // namespace trireme
