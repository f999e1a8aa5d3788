#include "core/context.h"

#include "core/recorder.h"

namespace trireme {

Tensor Context::empty(const Shape& shape, DType dtype, MemoryClass memory_class) const {
  const size_t bytes = static_cast<size_t>(shape.numel()) * size_of(dtype);
  return {allocator->allocate(bytes, memory_class), 0, shape, dtype, backend->device()};
}

Tensor Context::zeros(const Shape& shape, DType dtype, MemoryClass memory_class) const {
  Tensor t = empty(shape, dtype, memory_class);
  backend->fill_zero(t.raw(), t.bytes(), *stream);
  return t;
}

Engine::Engine(std::unique_ptr<Backend> backend)
    : backend_(std::move(backend)), stream_(backend_->make_stream()),
      recorder_(std::make_unique<Recorder>(*backend_, *stream_)),
      allocator_(std::make_shared<Allocator>(*backend_)) {}

Engine::~Engine() { stream_->finish(); }

Context Engine::context() const {
  Context ctx;
  ctx.backend = backend_.get();
  ctx.allocator = allocator_.get();
  ctx.stream = stream_.get();
  ctx.recorder = recorder_.get();
  return ctx;
}

}  // namespace trireme
