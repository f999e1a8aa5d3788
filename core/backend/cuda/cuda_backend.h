// What the kernels of this folder need of the backend's types: the CUDA stream of a Context.
#pragma once

#include <cuda_runtime.h>

#include "core/context.h"

namespace trireme::cuda {

enum class StreamPriority : uint8_t { low, high };  // whose thread blocks get a free place first

class CudaStream : public Stream {
 public:
  explicit CudaStream(int device, StreamPriority priority = StreamPriority::low);  // device is the current one
  ~CudaStream() override;
  void synchronize() override;
  cudaStream_t raw() const { return stream_; }

 private:
  int device_;
  cudaStream_t stream_ = nullptr;
};

inline cudaStream_t raw_stream(Stream& stream) { return static_cast<CudaStream&>(stream).raw(); }
inline cudaStream_t raw_stream(const Context& ctx) { return raw_stream(*ctx.stream); }
/// Whether something of what is being recorded of it is the host's to do when it is replayed.
bool records_host_work(Stream& stream);

}  // namespace trireme::cuda
