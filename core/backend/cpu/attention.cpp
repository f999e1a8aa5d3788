// The attention kernels of the host, each from its file.
#include "core/backend/cpu/attention_forward.h"
#include "core/backend/cpu/kernels.h"

namespace trireme::cpu {

void add_attention_kernels(Backend& backend) {
  add_attention_forward(backend);
  add_attention_backward(backend);
  add_attention_block(backend);
  add_attention_decode(backend);
}

}  // namespace trireme::cpu
