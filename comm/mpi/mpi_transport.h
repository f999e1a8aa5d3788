// Messages between processes by MPI. Only point-to-point calls that return at once are used: so time-outs
// work, sums are formed as we want them (comm/collectives.h), and MPI_THREAD_SERIALIZED is all that is asked
// of the library.
#pragma once

#include <mpi.h>

#include "comm/transport.h"

namespace trireme::comm {

/// CommError with MPI's own text when `code` is an error of `call`.
void check_mpi(int code, const char* call);

class MpiTransport final : public Transport {
 public:
  explicit MpiTransport(MPI_Comm communicator);
  int rank() const override { return rank_; }
  int size() const override { return size_; }
  std::unique_ptr<Request> send(int to, uint32_t tag, std::span<const std::byte> data) override;
  std::unique_ptr<Request> recv(int from, uint32_t tag, std::span<std::byte> data) override;
  bool can_cancel() const override { return false; }
  /// Polls at first, then lets others have the core, then sleeps: ranks may share cores with each other and
  /// with the threads that compute.
  void pause(std::chrono::microseconds idle) override;

 private:
  MPI_Comm communicator_;
  int rank_;
  int size_;
};

}  // namespace trireme::comm
