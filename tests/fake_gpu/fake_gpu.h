// GPUs that are threads, for tests of what moves their memory, on machines without one. fake_cuda.cpp and
// fake_nccl.cpp stand in for the functions of CUDA and NCCL that comm/nccl/ calls, fake_backend.cpp for the backend.
//
// They are as awkward as GPUs may be: a stream begins what it was given a little later, and holds up who gives it more
// than it takes; copies of a device run in the order in which they were queued, whatever the stream; who frees memory
// waits for the device, and who runs a kernel for the first time waits for all devices of the process; an error stays
// the thread's last one until somebody takes it. One process cannot reach another's memory.
#pragma once

#include <cuda_runtime_api.h>

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <typeindex>
#include <vector>

namespace trireme::fake {

inline constexpr int kNumGpus = 4;
inline constexpr size_t kMaxQueued = 1000;  // commands of a stream; one more blocks the caller

void queue(cudaStream_t stream, std::function<void()> task);
/// `error`, which the calling thread's last one is from now on, as after a call that failed.
cudaError_t failed(cudaError_t error);
/// A kernel that the current device has not run before has to be loaded, and that waits for all devices of the process.
void load(std::type_index kernel);
/// By a copy engine: in the order in which all of the device are queued.
void queue_copy(cudaStream_t stream, std::function<void()> copy);
/// How long each copy of that device takes from then on.
void slow_copies(int device, std::chrono::milliseconds time);
void synchronize(cudaStream_t stream);
struct Task {
  std::function<void()> run;
  bool copies = false;  // as by queue_copy
};
using Tasks = std::vector<Task>;
/// By a kernel, or the device itself: waits until the word has come to the value, modulo 2^32, or `end`, unless it is null, is not 0.
void await_word(const std::atomic<uint32_t>& word, uint32_t value, const std::atomic<uint32_t>* end = nullptr);
void write_word(std::atomic<uint32_t>& word, uint32_t value);
/// Has what is queued on it, by this thread, put there, and not run.
void record_to(cudaStream_t stream, Tasks* tasks);
Tasks* recorded_to(cudaStream_t stream);  // null: it runs
/// All of them, as one command of the stream; copies have their turns from then on.
void replay(cudaStream_t stream, const Tasks& tasks);
/// Another stream that is recorded to the same place waits for `stream`, and so for the first `count` tasks there.
void join(cudaStream_t stream, size_t count);
/// Ends that of `stream` and of all that were made to wait for it. An error where it does not wait for all of theirs.
cudaError_t end_recording(cudaStream_t stream);
/// How many recordings the fake backends were asked for.
int recordings();
/// Recordings of each fake backend, or of GPU `index` alone, fail at their end but for the first `pieces`; nothing: all succeed.
void fail_recordings_after(std::optional<int> pieces, std::optional<int> index = std::nullopt);
/// Backends that replay find no more memory from then on than they had at that time.
void take_what_recordings_leave(bool on);
/// What NCCL records has something for the host to do from then on, as over networks.
void have_exchanges_need_the_host(bool on);
/// How many of NCCL's collectives ranks called; not those that they recorded.
int called_collectives();
/// Whether that lies in memory of a device.
bool is_on_device(const void* data);

}  // namespace trireme::fake
