#include "comm/device_operation.h"

#include <fmt/format.h>

#include <algorithm>

#include "comm/device_engine.h"
#include "core/trace.h"

namespace trireme::comm {

size_t DeviceCall::bytes() const {
  return std::max(input.defined() ? input.bytes() : 0, output.defined() ? output.bytes() : 0);
}

QueueKey DeviceCall::queue() const {
  const bool is_message = kind == OpKind::send || kind == OpKind::recv;
  return is_message ? QueueKey{0, peer, tag, kind == OpKind::send} : QueueKey{};
}

DeviceOperation::DeviceOperation(DeviceCall call, std::string_view label, const GroupOptions& options,
                                 std::unique_ptr<Event> after, std::unique_ptr<Event> end)
    : label(label),
      options(options),
      bytes(call.bytes()),
      queue(call.queue()),
      call_(std::move(call)),
      after_(std::move(after)),
      end_(std::move(end)) {}

std::string text_of(OpKind kind, std::string_view label) { return fmt::format("{} '{}'", name_of(kind), label); }

void DeviceOperation::release() { call_.input = call_.output = Tensor(); }

void DeviceOperation::note_begin(Clock::time_point now) {
  begun_at_ = now;
  begun_us_ = Tracer::now_us();
}

void DeviceOperation::wait() {
  if (!done()) engine_->drive_until([this] { return done(); });
  throw_if_failed();
}

void DeviceOperation::wait_until_issued() {
  if (stage() == Stage::queued) engine_->drive_until([this] { return stage() != Stage::queued; });
  throw_if_failed();
}

void DeviceOperation::wait(Stream& stream) {
  wait_until_issued();
  end_->wait(stream);
  if (&stream == user_) engine_->drop_tensors(*this);
}

std::optional<Failure> failure_of(const Work& work) {
  try {
    work.wait();
  } catch (const GivenUp& e) {
    return Failure{e.what(), /*is_consequence=*/true};
  } catch (const CommError& e) {
    return Failure{e.what()};
  }
  return std::nullopt;
}

void DeviceOperation::throw_if_failed() const {
  if (stage() != Stage::failed) return;
  if (failure_->is_consequence) throw GivenUp(failure_->text);
  throw CommError(failure_->text);
}

}  // namespace trireme::comm
