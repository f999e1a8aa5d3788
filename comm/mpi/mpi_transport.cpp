#include "comm/mpi/mpi_transport.h"

#include <fmt/format.h>
#include <sched.h>

#include <algorithm>
#include <thread>

#include "core/error.h"

namespace trireme::comm {
namespace {

using std::chrono::microseconds;
constexpr microseconds kSpin{20};
constexpr microseconds kYield{400};
constexpr microseconds kShortestSleep{20}, kLongestSleep{200};
constexpr size_t kMaxMessageBytes = size_t{1} << 30;  // MPI counts in int

class MpiRequest final : public Request {
 public:
  explicit MpiRequest(bool receives) : receives_(receives) {}
  /// Reached with a message under way only at a clean end, for the monitor's: those are small, so a wait is
  /// short.
  ~MpiRequest() override {
    for (MPI_Request& request : requests_) {
      if (request == MPI_REQUEST_NULL) continue;
      if (receives_) MPI_Cancel(&request);
      MPI_Wait(&request, MPI_STATUS_IGNORE);
    }
  }
  bool done() override {
    int all_done = 0;
    check_mpi(
        MPI_Testall(static_cast<int>(requests_.size()), requests_.data(), &all_done, MPI_STATUSES_IGNORE),
        "MPI_Testall");
    return all_done != 0;
  }
  MPI_Request* add() { return &requests_.emplace_back(MPI_REQUEST_NULL); }

 private:
  bool receives_;
  std::vector<MPI_Request> requests_;
};

/// Calls post(part) for messages that MPI can count: at least one, also for no bytes.
template <class Bytes, class Post>
void for_each_message(Bytes data, const Post& post) {
  do {
    const size_t n = std::min(data.size(), kMaxMessageBytes);
    post(data.first(n));
    data = data.subspan(n);
  } while (!data.empty());
}

}  // namespace

void check_mpi(int code, const char* call) {
  if (code == MPI_SUCCESS) return;
  char text[MPI_MAX_ERROR_STRING] = {};
  int length = 0;
  MPI_Error_string(code, text, &length);
  throw CommError(fmt::format("{}: {}", call, text));
}

MpiTransport::MpiTransport(MPI_Comm communicator) : communicator_(communicator) {
  check_mpi(MPI_Comm_rank(communicator, &rank_), "MPI_Comm_rank");
  check_mpi(MPI_Comm_size(communicator, &size_), "MPI_Comm_size");
}

std::unique_ptr<Request> MpiTransport::send(int to, uint32_t tag, std::span<const std::byte> data) {
  auto request = std::make_unique<MpiRequest>(false);
  for_each_message(data, [&](std::span<const std::byte> part) {
    check_mpi(MPI_Isend(part.data(), static_cast<int>(part.size()), MPI_BYTE, to, static_cast<int>(tag),
                        communicator_, request->add()),
              "MPI_Isend");
  });
  return request;
}

std::unique_ptr<Request> MpiTransport::recv(int from, uint32_t tag, std::span<std::byte> data) {
  auto request = std::make_unique<MpiRequest>(true);
  for_each_message(data, [&](std::span<std::byte> part) {
    check_mpi(MPI_Irecv(part.data(), static_cast<int>(part.size()), MPI_BYTE, from, static_cast<int>(tag),
                        communicator_, request->add()),
              "MPI_Irecv");
  });
  return request;
}

void MpiTransport::pause(microseconds idle) {
  if (idle < kSpin) return;
  if (idle < kYield) {
    sched_yield();
  } else {
    std::this_thread::sleep_for(std::clamp(idle / 16, kShortestSleep, kLongestSleep));
  }
}

}  // namespace trireme::comm
