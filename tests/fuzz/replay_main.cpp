// Runs a fuzz entry point without libFuzzer: every file of the folder given, and many small changes of each.
// Fails by crashing, or when the folder holds no files.
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace {

using Bytes = std::vector<uint8_t>;

Bytes read_file(const std::filesystem::path& file) {
  std::ifstream in(file, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
}

void run(const Bytes& bytes) {
  LLVMFuzzerTestOneInput(bytes.data(), bytes.size());
}

/// `bytes` cut short at many places, and with one to four bytes changed at random (the same ones every time).
void run_changes(const Bytes& bytes) {
  constexpr size_t kChanges = 1000;
  std::mt19937_64 random(bytes.size());
  for (size_t i = 0; i < kChanges && !bytes.empty(); ++i) {
    Bytes changed = bytes;
    if (i % 4 == 0) {
      changed.resize(random() % bytes.size());
    } else {
      for (size_t n = 0; n < i % 4 + 1; ++n)
        changed[random() % bytes.size()] = static_cast<uint8_t>(random());
    }
    run(changed);
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2 || !std::filesystem::is_directory(argv[1])) {
    std::fprintf(stderr, "usage: %s CORPUS_FOLDER\n", argv[0]);
    return 2;
  }
  size_t files = 0;
  run({});
  for (const auto& entry : std::filesystem::directory_iterator(argv[1])) {
    const Bytes bytes = read_file(entry.path());
    run(bytes);
    run_changes(bytes);
    ++files;
  }
  std::printf("%zu files\n", files);
  return files > 0 ? 0 : 1;
}
