// MpiWorld: the ranks of one job as processes, started by mpirun or srun.
//
//   int main(...) {
//     std::optional<MpiWorld> mpi;             // outlives the work, so that the error path can tell the
//     others try {
//       if (MpiWorld::launched()) mpi.emplace();
//       work(mpi ? mpi->world() : solo);       // throws
//       if (mpi) mpi->finalize();
//       return 0;
//     } catch (const std::exception& e) {
//       if (mpi) mpi->fail(e.what());          // the others' operations throw "rank 1 failed: ..."
//       print(e);
//       if (mpi) mpi->abort(1);                // ends all processes
//       return 1;
//     }
//   }
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "comm/group.h"

namespace trireme {

namespace comm {
class CommEngine;
class PeerWatch;
}  // namespace comm

class MpiWorld {
 public:
  /// Whether a launcher started this process as a rank, going by its environment. Without one a single
  /// process needs no MPI (see SoloGroup), though MpiWorld works there too.
  static bool launched();

  /// MPI_Init; collective. ConfigError when srun started several tasks that know nothing of each other. MPI_Init and
  /// MPI_Finalize know no time-out: when a rank of this machine dies meanwhile, or they take longer than 30 s and the
  /// options' time-out, the process ends with a message and status 1.
  /// `told_to_end` says whether this process got a signal that asks it to end; it may be called in any thread.
  explicit MpiWorld(const GroupOptions& options = {}, std::function<bool()> told_to_end = {});
  /// Without finalize() or abort() before it, MPI is left as it is: the launcher then ends the other ranks.
  ~MpiWorld();
  MpiWorld(const MpiWorld&) = delete;
  MpiWorld& operator=(const MpiWorld&) = delete;

  /// All ranks. Groups must not outlive the MpiWorld.
  Group& world() { return *world_; }
  int local_rank() const { return local_rank_; }  // among the ranks of this machine
  int local_size() const { return local_size_; }
  const std::vector<std::string>& hostnames() const { return hostnames_; }  // by rank

  /// Tells the others why this rank can't go on: their operations throw a CommError "rank R failed: reason".
  /// Returns within a second. Nothing when another rank's failure is the reason.
  void fail(const std::string& reason);
  /// Waits until all ranks are about to end too, at most half a second: the launcher ends all ranks with the
  /// first one, and each should have had the time to say why.
  void leave();
  /// leave(), then ends the processes of all ranks with this exit status (not 0).
  [[noreturn]] void abort(int exit_status);
  /// Waits for all ranks, then MPI_Finalize. CommError when one does not come.
  void finalize();

 private:
  void find_neighbours();
  void enter(const char* call, int64_t timeout_ms);

  std::unique_ptr<comm::CommEngine> engine_;
  std::unique_ptr<Group> world_;
  std::vector<std::string> hostnames_;
  int local_rank_ = 0;
  int local_size_ = 1;
  std::unique_ptr<comm::PeerWatch> watch_;  // null: nobody to watch. The last member: it tells the engine of losses
};

}  // namespace trireme
