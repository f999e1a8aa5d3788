#include "comm/nccl/message_gate.h"

#include <cuda.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <unistd.h>

#include <array>

#include "comm/local_ranks.h"
#include "core/backend/cuda/check.h"
#include "core/error.h"

namespace trireme::comm {
namespace {

/// A message has a word for each end, which holds its number once that end is there. So many messages later
/// the next one takes the word; no stream is that far ahead of its peer's.
constexpr uint32_t kWords = 1024;
constexpr uint32_t kOpen = 1U << 30;  // more than any number that is waited for, in comparisons modulo 2^32

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

}  // namespace

struct MessageGate::Memory {
  std::atomic<uint32_t> receiver_joined;
  std::array<std::atomic<uint32_t>, kWords> sender, receiver;

  std::array<std::atomic<uint32_t>, kWords>& of(End end) { return end == End::sender ? sender : receiver; }
};

MessageGate::MessageGate(std::string name, End end, Memory* memory, Memory* on_device)
    : name_(std::move(name)), end_(end), memory_(memory), on_device_(on_device) {}

std::unique_ptr<MessageGate> MessageGate::map(const ncclUniqueId& id, End end) {
  if (!stream_operations().wait || !stream_operations().write) return nullptr;
  const std::string name =
      fmt::format("/trireme-{:016x}", static_cast<uint64_t>(fingerprint({id.internal, sizeof(id.internal)})));
  const int file =
      shm_open(name.c_str(), end == End::sender ? O_CREAT | O_EXCL | O_RDWR : O_RDWR, S_IRUSR | S_IWUSR);
  if (file < 0) return nullptr;
  const bool sized = end == End::receiver || ftruncate(file, sizeof(Memory)) == 0;  // zeros
  void* const mapped =
      sized ? mmap(nullptr, sizeof(Memory), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0) : MAP_FAILED;
  close(file);
  void* on_device = nullptr;
  bool registered = false;
  if (mapped != MAP_FAILED) {
    registered = cudaHostRegister(mapped, sizeof(Memory),
                                  cudaHostRegisterMapped | cudaHostRegisterPortable) == cudaSuccess;
    if (registered && cudaHostGetDevicePointer(&on_device, mapped, 0) == cudaSuccess)
      return std::unique_ptr<MessageGate>(
          new MessageGate(name, end, static_cast<Memory*>(mapped), static_cast<Memory*>(on_device)));
    if (registered) cudaHostUnregister(mapped);
    munmap(mapped, sizeof(Memory));
    static_cast<void>(cudaGetLastError());  // so that nobody takes it for his own
  }
  shm_unlink(name.c_str());
  return nullptr;
}

std::unique_ptr<MessageGate> MessageGate::make(const ncclUniqueId& id) {
  return map(id, End::sender);
}

std::unique_ptr<MessageGate> MessageGate::join(const ncclUniqueId& id) {
  auto gate = map(id, End::receiver);
  if (!gate) return nullptr;
  shm_unlink(gate->name_.c_str());  // both have it
  gate->memory_->receiver_joined = 1;
  return gate;
}

MessageGate::~MessageGate() {
  open();
  if (end_ == End::sender) shm_unlink(name_.c_str());  // where nobody joined
  cudaHostUnregister(memory_);
  munmap(memory_, sizeof(Memory));
}

bool MessageGate::joined() const {
  return memory_->receiver_joined != 0;
}

void MessageGate::pass(cudaStream_t stream) {
  const uint32_t number = ++messages_, word = number % kWords;
  const auto address = [&](End end) { return reinterpret_cast<CUdeviceptr>(&on_device_->of(end)[word]); };
  const End peer = end_ == End::sender ? End::receiver : End::sender;
  check_driver(stream_operations().write(stream, address(end_), number, CU_STREAM_WRITE_VALUE_DEFAULT),
               "cuStreamWriteValue32");
  check_driver(stream_operations().wait(stream, address(peer), number, CU_STREAM_WAIT_VALUE_GEQ),
               "cuStreamWaitValue32");
}

void MessageGate::open() noexcept {
  for (const End end : {End::sender, End::receiver})
    for (std::atomic<uint32_t>& word : memory_->of(end)) word = messages_ + kOpen;
}

}  // namespace trireme::comm
