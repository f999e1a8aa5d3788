// The kernels of squared_relu on the host.
#include <algorithm>

#include "squared_relu.h"

using namespace trireme;

namespace custom {
namespace {

void forward(Context&, const Tensor& x, Tensor& y) {
  const auto in = x.span<const float>();
  const auto out = y.span<float>();
  for (size_t i = 0; i < in.size(); ++i) {
    const float positive = std::max(0.0f, in[i]);
    out[i] = positive * positive;
  }
}

void backward(Context&, const Tensor& x, const Tensor& dy, Tensor& dx) {
  const auto in = x.span<const float>();
  const auto grad = dy.span<const float>();
  const auto out = dx.span<float>();
  for (size_t i = 0; i < in.size(); ++i) out[i] = 2.0f * std::max(0.0f, in[i]) * grad[i];
}

}  // namespace

void add_squared_relu_kernels(Backend& backend) {
  backend.add_kernel<SquaredReluForward>(&forward);
  backend.add_kernel<SquaredReluBackward>(&backward);
}

}  // namespace custom
