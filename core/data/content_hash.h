// ContentHash: XXH3-64 of bytes that come in pieces.
#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <string_view>

struct XXH3_state_s;

namespace trireme {

class ContentHash {
 public:
  ContentHash();
  void add(std::string_view bytes);
  std::string text() const;  // 16 hexadecimal digits

 private:
  struct Free {
    void operator()(XXH3_state_s* state) const;
  };
  std::unique_ptr<XXH3_state_s, Free> state_;
};

/// The hash of a whole file, read piece by piece. IoError when it can't be read.
std::string hash_file(const std::filesystem::path& file);

}  // namespace trireme
