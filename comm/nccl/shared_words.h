// SharedWords: numbers in memory that processes of one machine share. Streams write them, and wait for them,
// without a kernel: what waits so holds none of the GPU's multiprocessors. (Recordings use a kernel: signals.h.)
// https://docs.nvidia.com/cuda/cuda-driver-api/group__CUDA__MEMOP.html
#pragma once

#include <cuda_runtime_api.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

namespace trireme::comm {

class SharedWords {
 public:
  /// `count` zeros that others join by `name` ("/trireme-..."), which must be new; the present device's
  /// streams use them. Null where the driver, or the machine, can't do it.
  static std::unique_ptr<SharedWords> make(const std::string& name, size_t count);
  /// Null where there is none of that name, as on another machine.
  static std::unique_ptr<SharedWords> join(const std::string& name, size_t count);
  ~SharedWords();
  SharedWords(const SharedWords&) = delete;
  SharedWords& operator=(const SharedWords&) = delete;

  /// Until the process ends: streams may use them until then.
  static void keep(std::unique_ptr<SharedWords> words);

  /// Nobody can join any longer; who has stays.
  void close_name() noexcept;

  /// As the present device's kernels reach them.
  uint32_t* on_device() const { return reinterpret_cast<uint32_t*>(on_device_); }
  std::atomic<uint32_t>& operator[](size_t word) { return words_[word]; }
  /// In the order of the stream, and visible after all that it wrote before.
  void write(cudaStream_t stream, size_t word, uint32_t value);
  /// The stream goes on once the word is `value` or later, modulo 2^32.
  void wait(cudaStream_t stream, size_t word, uint32_t value);
  /// Whoever waits, here or elsewhere, for words [begin, end) to come to `value`, or soon after, goes on.
  void open(size_t begin, size_t end, uint32_t value) noexcept;

 private:
  SharedWords(std::string name, std::span<std::atomic<uint32_t>> words, std::byte* on_device);
  static std::unique_ptr<SharedWords> map(const std::string& name, size_t count, bool is_new);

  const std::string name_;
  const std::span<std::atomic<uint32_t>> words_;
  std::byte* const on_device_;
};

}  // namespace trireme::comm
