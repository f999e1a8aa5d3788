#include "core/backend/cuda/algorithm_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <unistd.h>

#include <cctype>
#include <charconv>
#include <cstdlib>
#include <fstream>
#include <nlohmann/json.hpp>

#include "core/checkpoint/checksum.h"

namespace trireme::cuda {
namespace {

using Json = nlohmann::json;

constexpr size_t kDigits = 16;  // of a word in hexadecimal

std::string to_hex(const std::array<uint64_t, 8>& words) {
  std::string text;
  for (uint64_t word : words) text += fmt::format("{:016x}", word);
  return text;
}

bool from_hex(const std::string& text, std::array<uint64_t, 8>& words) {
  if (text.size() != words.size() * kDigits) return false;
  for (size_t i = 0; i < words.size(); ++i) {
    const char* begin = text.data() + i * kDigits;
    const auto [end, error] = std::from_chars(begin, begin + kDigits, words[i], 16);
    if (error != std::errc() || end != begin + kDigits) return false;
  }
  return true;
}

/// Of what matters in an entry: cuBLASLt is never given a damaged algorithm.
std::string checksum_of(const std::string& product, const AlgorithmChoice& choice) {
  return checksum_text(xxh3(fmt::format("{}; {} {}", product, choice.apart, to_hex(choice.algo))));
}

std::optional<AlgorithmChoice> parse(const std::string& product, const Json& entry) {
  if (!entry.is_object()) return {};
  const auto apart = entry.find("apart"), algo = entry.find("algo"), us = entry.find("us"), check = entry.find("check");
  if (apart == entry.end() || !apart->is_boolean() || algo == entry.end() || !algo->is_string()) return {};
  AlgorithmChoice choice;
  choice.apart = apart->get<bool>();
  if (us != entry.end() && us->is_number()) choice.us = us->get<double>();
  if (!from_hex(algo->get<std::string>(), choice.algo)) return {};
  if (check == entry.end() || *check != checksum_of(product, choice)) return {};
  return choice;
}

/// Holds a lock that other processes see, where the file system has locks.
class FileLock {
 public:
  explicit FileLock(const std::filesystem::path& file)
      : descriptor_(open((file.string() + ".lock").c_str(), O_CREAT | O_RDWR | O_CLOEXEC, 0666)),
        held_(descriptor_ >= 0 && flock(descriptor_, LOCK_EX) == 0) {}
  bool held() const { return held_; }
  ~FileLock() {
    if (descriptor_ >= 0) close(descriptor_);
  }
  FileLock(const FileLock&) = delete;
  FileLock& operator=(const FileLock&) = delete;

 private:
  int descriptor_;
  bool held_;
};

}  // namespace

std::filesystem::path default_algorithm_file(const std::string& gpu, size_t version) {
  std::string name;
  for (char c : gpu) name += std::isalnum(static_cast<unsigned char>(c)) ? c : '-';
  const std::string file = fmt::format("trireme/matmul-{}-{}.json", name, version);
  if (const char* cache = std::getenv("XDG_CACHE_HOME"); cache && *cache) return std::filesystem::path(cache) / file;
  const char* home = std::getenv("HOME");
  return home && *home ? std::filesystem::path(home) / ".cache" / file : std::filesystem::path();
}

AlgorithmFile::Choices AlgorithmFile::read() const {
  Choices choices;
  std::ifstream in(path_);
  const Json all = in ? Json::parse(in, nullptr, false) : Json();
  if (!all.is_object()) return choices;
  for (const auto& [product, entry] : all.items())
    if (const auto choice = parse(product, entry)) choices.emplace(product, *choice);
  return choices;
}

/// Under another name and then renamed, so that a reader sees a whole file. Whether it was.
bool AlgorithmFile::write(const Choices& choices) const {
  Json all = Json::object();
  for (const auto& [product, choice] : choices)
    all[product] = {{"apart", choice.apart},
                    {"algo", to_hex(choice.algo)},
                    {"us", choice.us},
                    {"check", checksum_of(product, choice)}};
  std::error_code error = std::make_error_code(std::errc::io_error), ignored;
  std::filesystem::path written = path_;
  written += fmt::format(".{}-{:x}", getpid(), reinterpret_cast<uintptr_t>(this));
  std::ofstream out(written);
  out << all.dump(1) << '\n';
  out.close();
  if (out) std::filesystem::rename(written, path_, error);
  std::filesystem::remove(written, ignored);
  return !error;
}

bool AlgorithmFile::keeps() {
  if (path_.empty()) return false;
  const std::lock_guard lock(mutex_);
  if (keeps_) return *keeps_;
  std::error_code ignored;
  std::filesystem::create_directories(path_.parent_path(), ignored);
  const FileLock file_lock(path_);
  keeps_ = file_lock.held() && write(read());
  return *keeps_;
}

std::optional<AlgorithmChoice> AlgorithmFile::find(const std::string& product) {
  if (path_.empty()) return {};
  const std::lock_guard lock(mutex_);
  const Choices choices = read();
  const auto it = choices.find(product);
  return it == choices.end() ? std::nullopt : std::optional(it->second);
}

AlgorithmChoice AlgorithmFile::add(const std::string& product, const AlgorithmChoice& choice,
                                   const std::optional<AlgorithmChoice>& rejected) {
  if (path_.empty()) return choice;
  const std::lock_guard lock(mutex_);
  std::error_code ignored;
  std::filesystem::create_directories(path_.parent_path(), ignored);
  const FileLock file_lock(path_);
  Choices choices = read();
  const auto it = choices.find(product);
  if (it != choices.end() && !(rejected && it->second.same_as(*rejected))) return it->second;
  choices[product] = choice;
  write(choices);
  return choice;
}

}  // namespace trireme::cuda
