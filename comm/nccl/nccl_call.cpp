#include "comm/nccl/nccl_call.h"

#include <fmt/format.h>

#include "core/error.h"

namespace trireme::comm {
namespace {

ncclDataType_t nccl_type(DType dtype) {
  switch (dtype) {
    case DType::f32:
      return ncclFloat32;
    case DType::bf16:
      return ncclBfloat16;
    case DType::f16:
      return ncclFloat16;
    case DType::f64:
      return ncclFloat64;
    case DType::i32:
      return ncclInt32;
    case DType::i64:
      return ncclInt64;
    case DType::u16:
    case DType::u8:
      break;
  }
  throw InternalError(fmt::format("NCCL can't reduce {}", trireme::name_of(dtype)));
}

ncclRedOp_t nccl_op(ReduceOp op) {
  switch (op) {
    case ReduceOp::sum:
      return ncclSum;
    case ReduceOp::average:
      return ncclAvg;
    case ReduceOp::max:
      return ncclMax;
    case ReduceOp::min:
      return ncclMin;
  }
  throw InternalError("a reduction of no kind");
}

ncclResult_t all_to_all(const DeviceCall& call, int num_ranks, ncclComm_t comm, cudaStream_t stream) {
  const size_t part_bytes = call.input.bytes() / static_cast<size_t>(num_ranks);
  const auto* from = static_cast<const std::byte*>(call.input.raw());
  auto* to = static_cast<std::byte*>(call.output.raw());
  ncclResult_t result = ncclGroupStart();
  const auto go_on = [&] { return result == ncclSuccess || result == ncclInProgress; };
  for (int peer = 0; peer < num_ranks && go_on(); ++peer, from += part_bytes, to += part_bytes) {
    result = ncclSend(from, part_bytes, ncclUint8, peer, comm, stream);
    if (go_on()) result = ncclRecv(to, part_bytes, ncclUint8, peer, comm, stream);
  }
  const ncclResult_t ended = ncclGroupEnd();
  return go_on() ? ended : result;
}

size_t count(const Tensor& t) { return static_cast<size_t>(t.numel()); }

}  // namespace

ncclResult_t call_nccl(const DeviceCall& call, int num_ranks, void* zero, ncclComm_t comm, cudaStream_t stream) {
  const Tensor &in = call.input, &out = call.output;
  switch (call.kind) {
    case OpKind::barrier:
      return ncclAllReduce(zero, zero, 1, ncclInt32, ncclMax, comm, stream);
    case OpKind::all_reduce:
      return ncclAllReduce(in.raw(), out.raw(), count(in), nccl_type(in.dtype()), nccl_op(call.reduce_op), comm, stream);
    case OpKind::reduce_scatter:
      return ncclReduceScatter(in.raw(), out.raw(), count(out), nccl_type(in.dtype()), nccl_op(call.reduce_op), comm, stream);
    case OpKind::all_gather:
      return ncclAllGather(in.raw(), out.raw(), in.bytes(), ncclUint8, comm, stream);
    case OpKind::broadcast:
      return ncclBroadcast(in.raw(), out.raw(), in.bytes(), ncclUint8, call.peer, comm, stream);
    case OpKind::all_to_all:
      return all_to_all(call, num_ranks, comm, stream);
    case OpKind::send:
      return ncclSend(in.raw(), in.bytes(), ncclUint8, 1, comm, stream);
    case OpKind::recv:
      return ncclRecv(out.raw(), out.bytes(), ncclUint8, 0, comm, stream);
  }
  throw InternalError("an operation of no kind");
}

}  // namespace trireme::comm
