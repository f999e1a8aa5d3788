#include "comm/world.h"

#include "comm/mpi/mpi_world.h"
#include "comm/solo_group.h"

namespace trireme {

void run_world(const GroupOptions& options, const std::function<void(Group& world)>& body,
               const std::function<bool()>& told_to_end) {
  if (!MpiWorld::launched()) {
    SoloGroup solo("world", options);
    body(solo);
    return;
  }
  MpiWorld mpi(options, told_to_end);
  try {
    body(mpi.world());
    mpi.finalize();
  } catch (const AlreadyTold&) {  // to be told of it would give up what lets a rank know it itself
    mpi.leave();
    throw;
  } catch (const std::exception& e) {
    mpi.fail(e.what());
    mpi.leave();
    throw;
  }
}

}  // namespace trireme
