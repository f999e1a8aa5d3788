#include "comm/recorded_call.h"

#include <utility>

#include "core/error.h"

namespace trireme::comm {

void RecordedWork::wait() {
  throw IoError("the host waits for an exchange within a step, which can't be recorded: have the stream wait, or set run.cuda_graph to off");
}

void RecordedWork::wait(Stream& stream) {
  TRIREME_ASSERT(stream.recorder() == &recorder_, "a stream that is not recorded waits for what is");
  do_wait(stream);
  is_waited_for_ = true;
  release_tensors();
}

Work RecordedCall::record(Recorder& recorder, std::vector<Tensor> held, std::function<Work()> call) {
  auto state = std::make_shared<RecordedCall>(recorder, std::move(held));
  recorder.on_host([state, call = std::move(call)] { state->work_ = call(); });
  return Work(std::move(state));
}

void RecordedCall::do_wait(Stream& stream) {
  recorder_.on_host([self = shared_from_this(), &stream] { std::exchange(self->work_, Work()).wait(stream); });
}

void RecordedCall::wait_until_issued() {
  recorder_.on_host([self = shared_from_this()] { self->work_.wait_until_issued(); });
}

}  // namespace trireme::comm
