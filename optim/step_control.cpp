#include "optim/step_control.h"

namespace trireme {

Tensor make_control(Context& ctx, const StepControl& control) {
  const Tensor tensor = ctx.empty({StepControl::kSize}, DType::f32, MemoryClass::optimizer);
  ctx.backend->copy(tensor.raw(), &control, sizeof(control), *ctx.stream);
  ctx.stream->synchronize();  // `control` may be gone before the copy
  return tensor;
}

StepControl read_control(Context& ctx, const Tensor& control) {
  StepControl host;
  ctx.backend->copy(&host, control.raw(), sizeof(host), *ctx.stream);
  ctx.stream->synchronize();
  return host;
}

}  // namespace trireme
