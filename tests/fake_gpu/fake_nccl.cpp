// NCCL's functions, between threads of one process: each sum in the order of the ranks.
#include <nccl.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <type_traits>
#include <vector>

#include "core/dtype.h"
#include "tests/fake_gpu/fake_gpu.h"

namespace {

using Bytes = std::vector<std::byte>;

/// Where the ranks of a communicator meet.
struct Room {
  std::mutex mutex;
  std::condition_variable changed;
  int joined = 0;
  struct Operation {
    std::map<int, Bytes> parts;  // what each rank brought
    int finished = 0;            // ranks
  };
  std::map<uint64_t, Operation> operations;
  std::map<std::pair<int, int>, std::deque<Bytes>> messages;  // from, to
};

std::shared_ptr<Room> room_of(const std::string& name) {
  static std::mutex mutex;
  static std::map<std::string, std::shared_ptr<Room>> rooms;
  const std::lock_guard lock(mutex);
  auto& room = rooms[name];
  if (!room) room = std::make_shared<Room>();
  return room;
}

struct Member {
  std::string name;
  std::shared_ptr<Room> room;
  int rank, size;
  std::atomic<bool> aborted = false;
  std::atomic<uint64_t> operations = 0;  // that it has come to
  uint64_t splits = 0;

  void wait(std::unique_lock<std::mutex>& lock, const std::function<bool()>& over) {
    while (!aborted && !over()) room->changed.wait_for(lock, std::chrono::milliseconds(1));
  }
};

ncclComm_t join(const std::string& name, int rank, int size) {
  auto* held = new std::shared_ptr<Member>(std::make_shared<Member>());
  Member& member = **held;
  member.name = name, member.room = room_of(name), member.rank = rank, member.size = size;
  const std::lock_guard lock(member.room->mutex);
  ++member.room->joined;
  return reinterpret_cast<ncclComm_t>(held);
}
const std::shared_ptr<Member>& of(ncclComm_t comm) { return *reinterpret_cast<std::shared_ptr<Member>*>(comm); }

Bytes read(const void* data, size_t bytes) {
  const auto* begin = static_cast<const std::byte*>(data);
  return {begin, begin + bytes};
}

std::atomic<int> num_called = 0;

/// `finish(parts)` once all ranks have brought theirs.
template <class Finish>
ncclResult_t meet(ncclComm_t comm, const void* part, size_t bytes, cudaStream_t stream, Finish finish) {
  const auto member = of(comm);
  if (!trireme::fake::recorded_to(stream)) ++num_called;
  trireme::fake::queue(stream, [=] {
    const uint64_t number = member->operations++;
    Room& room = *member->room;
    std::unique_lock lock(room.mutex);
    Room::Operation& operation = room.operations[number];
    operation.parts[member->rank] = read(part, bytes);
    room.changed.notify_all();
    member->wait(lock, [&] { return static_cast<int>(operation.parts.size()) == member->size; });
    if (member->aborted) return;
    finish(operation.parts, *member);
    if (++operation.finished == member->size) room.operations.erase(number);
  });
  return ncclSuccess;
}

/// What is added is rounded at each addition, as NCCL does it.
template <class T>
T add(T a, T b) {
  if constexpr (std::is_arithmetic_v<T>) return a + b;
  else return T(static_cast<float>(a) + static_cast<float>(b));
}
template <class T>
T divide(T a, size_t n) {
  if constexpr (std::is_arithmetic_v<T>) return a / static_cast<T>(n);
  else return T(static_cast<float>(a) / static_cast<float>(n));
}
template <class T>
bool is_less(T a, T b) {
  if constexpr (std::is_arithmetic_v<T>) return a < b;
  else return static_cast<float>(a) < static_cast<float>(b);
}

template <class T>
void reduce(const std::map<int, Bytes>& parts, size_t begin, size_t count, ncclRedOp_t op, void* out) {
  for (size_t i = 0; i < count; ++i) {
    T result{};
    for (const auto& [rank, part] : parts) {
      T value;
      std::memcpy(&value, part.data() + (begin + i) * sizeof(T), sizeof(T));
      const bool takes = rank == 0 || (op == ncclMax && is_less(result, value)) || (op == ncclMin && is_less(value, result));
      result = takes ? value : op == ncclMax || op == ncclMin ? result : add(result, value);
    }
    static_cast<T*>(out)[i] = op == ncclAvg ? divide(result, parts.size()) : result;
  }
}

ncclResult_t reduce_to(ncclComm_t comm, const void* in, size_t in_count, void* out, size_t out_count, ncclDataType_t type,
                       ncclRedOp_t op, bool scatters, cudaStream_t stream) {
  const auto reduce_as = [&]<class T>(T) {
    return meet(comm, in, in_count * sizeof(T), stream, [=](const std::map<int, Bytes>& parts, const Member& member) {
      reduce<T>(parts, scatters ? static_cast<size_t>(member.rank) * out_count : 0, out_count, op, out);
    });
  };
  switch (type) {
    case ncclFloat32:
      return reduce_as(float{});
    case ncclFloat64:
      return reduce_as(double{});
    case ncclInt32:
      return reduce_as(int32_t{});
    case ncclInt64:
      return reduce_as(int64_t{});
    case ncclBfloat16:
      return reduce_as(trireme::bf16{});
    case ncclFloat16:
      return reduce_as(trireme::f16{});
    default:
      return ncclInvalidArgument;
  }
}

}  // namespace

int trireme::fake::called_collectives() { return num_called; }

ncclResult_t ncclGetUniqueId(ncclUniqueId* id) {
  static std::atomic<uint64_t> next = 0;
  std::memset(id, 0, sizeof(*id));
  const auto tag = std::to_string(std::chrono::steady_clock::now().time_since_epoch().count()) + "-" + std::to_string(next++);
  std::memcpy(id->internal, tag.c_str(), tag.size());
  return ncclSuccess;
}
ncclResult_t ncclCommInitRankConfig(ncclComm_t* comm, int size, ncclUniqueId id, int rank, ncclConfig_t*) {
  *comm = join(std::string(id.internal), rank, size);
  return ncclInProgress;
}
ncclResult_t ncclCommSplit(ncclComm_t comm, int, int key, ncclComm_t* part, ncclConfig_t*) {
  Member& member = *of(comm);
  *part = join(member.name + "/" + std::to_string(member.splits++), key, member.size);
  return ncclSuccess;
}
ncclResult_t ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t* state) {
  const Member& member = *of(comm);
  const std::lock_guard lock(member.room->mutex);
  *state = member.room->joined >= member.size ? ncclSuccess : ncclInProgress;
  return ncclSuccess;
}
ncclResult_t ncclCommUserRank(ncclComm_t comm, int* rank) {
  *rank = of(comm)->rank;
  return ncclSuccess;
}
ncclResult_t ncclCommFinalize(ncclComm_t) { return ncclSuccess; }
ncclResult_t ncclCommDestroy(ncclComm_t comm) {
  delete reinterpret_cast<std::shared_ptr<Member>*>(comm);
  return ncclSuccess;
}
ncclResult_t ncclCommAbort(ncclComm_t comm) {
  of(comm)->aborted = true;
  return ncclCommDestroy(comm);
}
const char* ncclGetErrorString(ncclResult_t) { return "an error of fake NCCL"; }
const char* ncclGetLastError(ncclComm_t) { return ""; }
ncclResult_t ncclGroupStart() { return ncclSuccess; }
ncclResult_t ncclGroupEnd() { return ncclSuccess; }

ncclResult_t ncclAllReduce(const void* in, void* out, size_t count, ncclDataType_t type, ncclRedOp_t op, ncclComm_t comm,
                           cudaStream_t stream) {
  return reduce_to(comm, in, count, out, count, type, op, /*scatters=*/false, stream);
}
ncclResult_t ncclReduceScatter(const void* in, void* out, size_t count, ncclDataType_t type, ncclRedOp_t op,
                               ncclComm_t comm, cudaStream_t stream) {
  return reduce_to(comm, in, count * static_cast<size_t>(of(comm)->size), out, count, type, op, /*scatters=*/true, stream);
}
ncclResult_t ncclAllGather(const void* in, void* out, size_t bytes, ncclDataType_t, ncclComm_t comm, cudaStream_t stream) {
  return meet(comm, in, bytes, stream, [=](const std::map<int, Bytes>& parts, const Member&) {
    for (const auto& [rank, part] : parts) std::memcpy(static_cast<std::byte*>(out) + static_cast<size_t>(rank) * bytes, part.data(), bytes);
  });
}
ncclResult_t ncclBroadcast(const void* in, void* out, size_t bytes, ncclDataType_t, int root, ncclComm_t comm, cudaStream_t stream) {
  return meet(comm, in, bytes, stream, [=](const std::map<int, Bytes>& parts, const Member&) {
    std::memcpy(out, parts.at(root).data(), bytes);
  });
}
ncclResult_t ncclSend(const void* data, size_t bytes, ncclDataType_t, int peer, ncclComm_t comm, cudaStream_t stream) {
  trireme::fake::queue(stream, [=, member = of(comm)] {
    const std::lock_guard lock(member->room->mutex);
    member->room->messages[{member->rank, peer}].push_back(read(data, bytes));
    member->room->changed.notify_all();
  });
  return ncclSuccess;
}
ncclResult_t ncclRecv(void* data, size_t bytes, ncclDataType_t, int peer, ncclComm_t comm, cudaStream_t stream) {
  trireme::fake::queue(stream, [=, member = of(comm)] {
    std::unique_lock lock(member->room->mutex);
    auto& messages = member->room->messages[{peer, member->rank}];
    member->wait(lock, [&] { return !messages.empty(); });
    if (member->aborted) return;
    std::memcpy(data, messages.front().data(), bytes);
    messages.pop_front();
  });
  return ncclSuccess;
}
