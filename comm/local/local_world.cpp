#include "comm/local/local_world.h"

#include <cstdlib>
#include <thread>
#include <vector>

#include "comm/comm_engine.h"
#include "comm/direct_group.h"
#include "comm/local/local_transport.h"

namespace trireme {
namespace {

/// The errors of a world. All are kept until its threads have ended: none destroys another's exception.
class Errors {
 public:
  /// `is_consequence`: thrown because of another rank's.
  void add(std::exception_ptr error, bool is_consequence) {
    std::lock_guard lock(mutex_);
    (is_consequence ? consequences_ : originals_).push_back(std::move(error));
  }
  void rethrow_first() const {
    for (const auto* errors : {&originals_, &consequences_})
      if (!errors->empty()) std::rethrow_exception(errors->front());
  }

 private:
  std::mutex mutex_;
  std::vector<std::exception_ptr> originals_, consequences_;
};

/// NCCL's ranks of one process use each other's memory by its address, or map it a second time with cuMemMap. While one unmaps
/// it and a thread of NCCL's frees the other's, the driver crashed now and then (NCCL 2.28.9, driver 580).
void keep_nccl_from_mapping() {
  [[maybe_unused]] static const int once = setenv("NCCL_CUMEM_ENABLE", "0", /*overwrite=*/0);
}

}  // namespace

void LocalWorld::run(const std::function<void(Group& world)>& body) {
  TRIREME_ASSERT(size_ >= 1, "a world of no ranks");
  keep_nccl_from_mapping();
  comm::LocalFabric fabric(size_);
  Errors errors;
  // Engines outlive all ranks' bodies, so that those that are still running hear of a failure.
  std::vector<std::unique_ptr<comm::CommEngine>> engines;
  for (int rank = 0; rank < size_; ++rank)
    engines.push_back(
        std::make_unique<comm::CommEngine>(std::make_unique<comm::LocalTransport>(fabric, rank)));
  const auto run_rank = [&](comm::CommEngine& engine) {
    try {
      const auto world = comm::make_world_group(engine, options_);
      body(*world);
    } catch (const comm::GivenUp&) {
      errors.add(std::current_exception(), true);
    } catch (const std::exception& e) {
      errors.add(std::current_exception(), false);
      engine.fail(e.what());
    } catch (...) {
      errors.add(std::current_exception(), false);
      engine.fail("an exception of unknown type");
    }
  };
  std::vector<std::thread> threads;
  for (auto& engine : engines) threads.emplace_back(run_rank, std::ref(*engine));
  for (std::thread& thread : threads) thread.join();
  engines.clear();
  errors.rethrow_first();
}

}  // namespace trireme
