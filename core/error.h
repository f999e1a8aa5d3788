// The exceptions of the whole project. Each message says what was wanted, what was got and the way out.
// Only launcher/main.cpp catches them and chooses the exit status.
#pragma once

#include <stdexcept>
#include <string>

namespace trireme {

class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// The user's input is wrong: a config key, an argument, a file that is not what it claims to be. Exit status 2.
class ConfigError : public Error {
 public:
  using Error::Error;
};

/// A peer died, hung or disagreed. Exit status 1.
class CommError : public Error {
 public:
  using Error::Error;
};

/// The operating system refused: a full disk, a vanished file. Exit status 1.
class IoError : public Error {
 public:
  using Error::Error;
};

/// A bug of Trireme's own (see TRIREME_ASSERT). Exit status 1.
class InternalError : public Error {
 public:
  using Error::Error;
};

[[noreturn]] void assert_failed(const char* condition, const char* file, int line, const std::string& message);

}  // namespace trireme

/// Checks what only a bug of ours can break. `message` is any expression that yields a std::string.
#define TRIREME_ASSERT(condition, message)                                       \
  do {                                                                           \
    if (!(condition)) [[unlikely]]                                               \
      ::trireme::assert_failed(#condition, __FILE__, __LINE__, (message));       \
  } while (false)
