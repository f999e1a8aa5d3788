#include "comm/copy_order.h"

namespace trireme::comm {

std::unique_ptr<CopyOrder::Turn> CopyOrder::take_turn() {
  const std::lock_guard lock(mutex_);
  taken_.insert(next_);
  return std::unique_ptr<Turn>(new Turn(shared_from_this(), next_++));
}

CopyOrder::Turn::~Turn() {
  const std::lock_guard lock(order_->mutex_);
  order_->taken_.erase(number_);
}

bool CopyOrder::Turn::has_come() const {
  const std::lock_guard lock(order_->mutex_);
  return *order_->taken_.begin() == number_;
}

}  // namespace trireme::comm
