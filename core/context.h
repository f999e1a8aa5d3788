// Context: what a computation needs besides its inputs. Passed everywhere, so there are no globals and ranks can
// be threads of one process. Cheap to copy; a copy with `tape` reset computes without recording.
#pragma once

#include <memory>

#include "core/backend.h"
#include "core/tensor.h"

namespace trireme {

class Tape;
class GradientSink;
class ParameterHooks;
class Tracer;
class Recorder;

/// Which tokens of the batch the rows of activations [rows, C] are, where ranks divide the tokens of a sample. The
/// rows held are `tokens` a sample: those of positions first, first + 1, ..., and from the `half`-th on second, ...
struct RowPlaces {
  int64_t sequence = 0;   // tokens of a whole sample; 0: rows are whole samples
  int64_t tokens = 0;     // of each sample here
  int64_t first = 0;
  int64_t half = 0;       // `tokens` where there is one run of positions
  int64_t second = 0;
  int64_t first_row = 0;  // of the [samples * tokens] rows, where those of this rank begin
};

/// What random numbers of a step are keyed by (never the rank). The step lies on the device, so that a captured step
/// can be replayed.
struct RandomKey {
  uint64_t seed = 0;
  Tensor step;               // i64 [1]; undefined: 0
  int64_t first_sample = 0;  // place of this micro-batch's first sample in the global batch
  RowPlaces rows{};
};

struct Context {
  Backend* backend = nullptr;
  Allocator* allocator = nullptr;
  Stream* stream = nullptr;
  Recorder* recorder = nullptr;     // of the stream
  Tape* tape = nullptr;             // records when set
  ParameterHooks* hooks = nullptr;  // told of each parameter's use
  GradientSink* gradients = nullptr;  // told when a parameter's gradient is whole
  Tracer* tracer = nullptr;
  RandomKey random;
  bool training = false;    // dropout acts
  Tensor loss_scale;        // f32 [1]: gradients are this many times too large until the optimizer divides; undefined: 1

  template <class K>
  typename K::Fn* kernel() const {
    return backend->kernel<K>();
  }
  /// Not initialised.
  Tensor empty(const Shape& shape, DType dtype = DType::f32, MemoryClass memory_class = MemoryClass::activations) const;
  Tensor zeros(const Shape& shape, DType dtype = DType::f32, MemoryClass memory_class = MemoryClass::activations) const;
  /// A tensor of this device with the given host elements, which are not needed when this returns.
  template <class T>
  Tensor from_host(std::span<const T> values, const Shape& shape, MemoryClass memory_class = MemoryClass::data) const {
    Tensor t = empty(shape, DTypeOf<T>::value, memory_class);
    TRIREME_ASSERT(static_cast<int64_t>(values.size()) == t.numel(), "from_host: sizes differ");
    backend->copy(t.raw(), values.data(), t.bytes(), *stream);
    return t;
  }
};

/// Owns a backend with one allocator and one compute stream; makes contexts on them.
class Engine {
 public:
  explicit Engine(std::unique_ptr<Backend> backend);
  ~Engine();
  Context context() const;
  Backend& backend() { return *backend_; }
  Allocator& allocator() { return *allocator_; }

 private:
  std::unique_ptr<Backend> backend_;
  std::unique_ptr<Stream> stream_;
  std::unique_ptr<Recorder> recorder_;
  std::shared_ptr<Allocator> allocator_;
};

}  // namespace trireme
