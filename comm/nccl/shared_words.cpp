#include "comm/nccl/shared_words.h"

#include <cuda.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <unistd.h>

#include <mutex>
#include <vector>

#include "core/error.h"

namespace trireme::comm {
namespace {

constexpr uint32_t kFarAhead = 1U << 30;  // in comparisons modulo 2^32

struct StreamOperations {
  decltype(&cuStreamWaitValue32) wait = nullptr;
  decltype(&cuStreamWriteValue32) write = nullptr;
};

/// Of the driver, which programs are not linked with.
void* driver_function(const char* name) {
  void* function = nullptr;
  cudaDriverEntryPointQueryResult found = cudaDriverEntryPointSymbolNotFound;
#if CUDART_VERSION >= 12050
  const cudaError_t result =
      cudaGetDriverEntryPointByVersion(name, &function, 12000, cudaEnableDefault, &found);
#else
  const cudaError_t result = cudaGetDriverEntryPoint(name, &function, cudaEnableDefault, &found);
#endif
  return result == cudaSuccess && found == cudaDriverEntryPointSuccess ? function : nullptr;
}

const StreamOperations& stream_operations() {
  static const StreamOperations operations{
      reinterpret_cast<decltype(&cuStreamWaitValue32)>(driver_function("cuStreamWaitValue32")),
      reinterpret_cast<decltype(&cuStreamWriteValue32)>(driver_function("cuStreamWriteValue32"))};
  return operations;
}

void check_driver(CUresult result, const char* call) {
  if (result != CUDA_SUCCESS)
    throw CommError(fmt::format("{}: CUDA's driver gave error {}", call, static_cast<int>(result)));
}

/// Whether the present device takes them: those of some virtual machines don't.
bool takes_stream_operations(void* word) {
  cudaStream_t stream = nullptr;
  if (cudaStreamCreateWithPriority(&stream, cudaStreamNonBlocking, 0) != cudaSuccess) return false;
  const CUresult result =
      stream_operations().wait(stream, reinterpret_cast<CUdeviceptr>(word), 0, CU_STREAM_WAIT_VALUE_GEQ);
  cudaStreamSynchronize(stream);
  cudaStreamDestroy(stream);
  return result == CUDA_SUCCESS;
}

}  // namespace

SharedWords::SharedWords(std::string name, std::span<std::atomic<uint32_t>> words, std::byte* on_device)
    : name_(std::move(name)), words_(words), on_device_(on_device) {}

std::unique_ptr<SharedWords> SharedWords::map(const std::string& name, size_t count, bool is_new) {
  if (!stream_operations().wait || !stream_operations().write) return nullptr;
  const size_t bytes = count * sizeof(std::atomic<uint32_t>);
  const int file = shm_open(name.c_str(), is_new ? O_CREAT | O_EXCL | O_RDWR : O_RDWR, S_IRUSR | S_IWUSR);
  if (file < 0) return nullptr;
  const bool sized = !is_new || ftruncate(file, static_cast<off_t>(bytes)) == 0;  // zeros
  void* const mapped = sized ? mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0) : MAP_FAILED;
  close(file);
  if (mapped != MAP_FAILED) {
    void* on_device = nullptr;
    const bool registered =
        cudaHostRegister(mapped, bytes, cudaHostRegisterMapped | cudaHostRegisterPortable) == cudaSuccess;
    if (registered && cudaHostGetDevicePointer(&on_device, mapped, 0) == cudaSuccess &&
        takes_stream_operations(on_device))
      return std::unique_ptr<SharedWords>(new SharedWords(
          name, {static_cast<std::atomic<uint32_t>*>(mapped), count}, static_cast<std::byte*>(on_device)));
    if (registered) cudaHostUnregister(mapped);
    munmap(mapped, bytes);
    static_cast<void>(cudaGetLastError());  // so that nobody takes it for his own
  }
  if (is_new) shm_unlink(name.c_str());
  return nullptr;
}

std::unique_ptr<SharedWords> SharedWords::make(const std::string& name, size_t count) {
  return map(name, count, /*is_new=*/true);
}

std::unique_ptr<SharedWords> SharedWords::join(const std::string& name, size_t count) {
  return map(name, count, /*is_new=*/false);
}

SharedWords::~SharedWords() {
  cudaHostUnregister(words_.data());
  munmap(words_.data(), words_.size_bytes());
}

void SharedWords::keep(std::unique_ptr<SharedWords> words) {
  static auto& mutex = *new std::mutex;
  static auto& kept = *new std::vector<std::unique_ptr<SharedWords>>;
  const std::lock_guard lock(mutex);
  kept.push_back(std::move(words));
}

void SharedWords::close_name() noexcept {
  shm_unlink(name_.c_str());
}

void SharedWords::write(cudaStream_t stream, size_t word, uint32_t value) {
  check_driver(
      stream_operations().write(stream, reinterpret_cast<CUdeviceptr>(on_device_ + word * sizeof(words_[0])),
                                value, CU_STREAM_WRITE_VALUE_DEFAULT),
      "cuStreamWriteValue32");
}

void SharedWords::wait(cudaStream_t stream, size_t word, uint32_t value) {
  check_driver(
      stream_operations().wait(stream, reinterpret_cast<CUdeviceptr>(on_device_ + word * sizeof(words_[0])),
                               value, CU_STREAM_WAIT_VALUE_GEQ),
      "cuStreamWaitValue32");
}

void SharedWords::open(size_t begin, size_t end, uint32_t value) noexcept {
  for (std::atomic<uint32_t>& word : words_.subspan(begin, end - begin)) word = value + kFarAhead;
}

}  // namespace trireme::comm
