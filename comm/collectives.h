// The collectives as exchanges between every pair of ranks ("direct"): two steps however many ranks there
// are, and every sum is formed by one rank, in the order of the ranks, rounded once. Meant for the tens of
// ranks of CPU training; for more, an implementation of Group with its own algorithms is the place.
#pragma once

#include "comm/operation.h"
#include "comm/task.h"

namespace trireme::comm {

// Each is the task of one operation. Tensors are those of Group's functions of the same name.
Task barrier_task(Operation& op);
Task all_reduce_task(Operation& op, Tensor t, ReduceOp reduce_op);
Task reduce_scatter_task(Operation& op, Tensor input, Tensor output, ReduceOp reduce_op);
Task all_gather_task(Operation& op, Tensor input, Tensor output);
Task broadcast_task(Operation& op, Tensor t, int root);
Task all_to_all_task(Operation& op, Tensor input, Tensor output);
Task send_task(Operation& op, Tensor t, int peer, int tag);
Task recv_task(Operation& op, Tensor t, int peer, int tag);

}  // namespace trireme::comm
