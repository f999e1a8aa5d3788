#include "comm/local/local_world.h"

#include <thread>
#include <vector>

#include "comm/comm_engine.h"
#include "comm/direct_group.h"
#include "comm/local/local_transport.h"

namespace trireme {
namespace {

/// The first error of a world; one that was thrown because of another rank's gives way.
class FirstError {
 public:
  void add(std::exception_ptr error, bool is_consequence) {
    std::lock_guard lock(mutex_);
    if (error_ && (is_consequence || !is_consequence_)) return;
    error_ = std::move(error);
    is_consequence_ = is_consequence;
  }
  void rethrow() const {
    if (error_) std::rethrow_exception(error_);
  }

 private:
  std::mutex mutex_;
  std::exception_ptr error_;
  bool is_consequence_ = false;
};

}  // namespace

void LocalWorld::run(const std::function<void(Group& world)>& body) {
  TRIREME_ASSERT(size_ >= 1, "a world of no ranks");
  comm::LocalFabric fabric(size_);
  FirstError first_error;
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
      first_error.add(std::current_exception(), true);
    } catch (const std::exception& e) {
      first_error.add(std::current_exception(), false);
      engine.fail(e.what());
    } catch (...) {
      first_error.add(std::current_exception(), false);
      engine.fail("an exception of unknown type");
    }
  };
  std::vector<std::thread> threads;
  for (auto& engine : engines) threads.emplace_back(run_rank, std::ref(*engine));
  for (std::thread& thread : threads) thread.join();
  engines.clear();
  first_error.rethrow();
}

}  // namespace trireme
