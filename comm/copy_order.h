// CopyOrder: the order in which groups of one device queue their copies. A device's copies may run in the order in
// which they were queued, whatever the stream; so if some ranks queued those of one group first and others those
// of another, they could wait for each other for ever.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <set>

namespace trireme::comm {

/// Operations take their turns in the order in which they were called, which is the same on all ranks. Used by
/// several threads.
class CopyOrder : public std::enable_shared_from_this<CopyOrder> {
 public:
  class Turn {
   public:
    /// Ends it.
    ~Turn();
    Turn(const Turn&) = delete;
    Turn& operator=(const Turn&) = delete;
    /// Whether all that were taken before have ended.
    bool has_come() const;

   private:
    friend class CopyOrder;
    Turn(std::shared_ptr<CopyOrder> order, uint64_t number) : order_(std::move(order)), number_(number) {}
    const std::shared_ptr<CopyOrder> order_;
    const uint64_t number_;
  };

  /// By an operation that is called. It ends its turn when all is queued, or will never be.
  std::unique_ptr<Turn> take_turn();

 private:
  std::mutex mutex_;
  uint64_t next_ = 0;
  std::set<uint64_t> taken_;  // and not ended
};

}  // namespace trireme::comm
