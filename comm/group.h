// Group: ranks that exchange tensors. The public functions check their arguments, the private do_* of an
// implementation (comm/direct_group.h, comm/solo_group.h) move the bytes.
//
// Collectives of one group are executed in the order of the calls, which must be the same on all of its ranks
// (those by copy engines may overlap the next: comm/device_group.h); operations of different groups, and sends
// and receives, do not wait for each other. So what must not wait for anything else has a group of its own:
// group.duplicate("gradients").
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "comm/work.h"
#include "core/tensor.h"

namespace trireme {

class Tracer;

/// `average` is the sum divided by the number of ranks, for floating-point tensors. A NaN stays a NaN in all
/// four.
enum class ReduceOp : uint8_t { sum, average, max, min };
std::string_view name_of(ReduceOp op);

struct GroupOptions {
  int64_t timeout_ms = 120'000;  // of one operation, from the moment that it is the first of its queue
  Tracer* tracer = nullptr;      // gets a span for each operation that was done; must outlive the group
};

/// Every operation is asynchronous: it returns at once, and the tensors must be left alone until the Work is
/// done. It starts when the work queued on the stream `after` so far is done; null: at once. Host memory
/// needs none: its work is done when a kernel returns. Groups of host memory wait for `after` in the call
/// itself. `label` says what for in error messages and traces ("bucket 3"). Tensors lie in host memory (see
/// comm/device_group.h for groups that take a device's too) and are taken as flat arrays; reductions take
/// f32, f64, i32, i64, and bf16 and f16, which are summed in f32 in the order of the ranks and rounded once.
/// All ranks get the same bits. Wrong arguments are an InternalError; a peer that is missing, dead, or in
/// another operation makes Work::wait() throw a CommError that names it.
class Group {
 public:
  static constexpr int kMaxTag = 0xffff;

  /// Operations that are not done are given up, as when an exception passes by; the peers are not told.
  virtual ~Group() = default;
  Group(const Group&) = delete;
  Group& operator=(const Group&) = delete;

  int rank() const { return rank_; }
  int size() const { return size_; }
  const std::string& name() const { return name_; }
  const GroupOptions& options() const { return options_; }
  /// For the operations from here on, and groups made of this one.
  void set_options(const GroupOptions& options) { options_ = options; }

  /// t = op over all ranks' t, in place.
  Work all_reduce(const Tensor& t, ReduceOp op, std::string_view label, Stream* after = nullptr);
  /// output [n] = op over the ranks of the rank()-th part of their inputs [size * n]. `output` may be that
  /// part of this rank's input.
  Work reduce_scatter(const Tensor& input, const Tensor& output, ReduceOp op, std::string_view label,
                      Stream* after = nullptr);
  /// output [size * n] = the inputs [n] of all ranks. `input` may be the rank()-th part of `output`.
  Work all_gather(const Tensor& input, const Tensor& output, std::string_view label, Stream* after = nullptr);
  /// t = root's t.
  Work broadcast(const Tensor& t, int root, std::string_view label, Stream* after = nullptr);
  /// Part p of output [size * n] = part rank() of rank p's input [size * n].
  Work all_to_all(const Tensor& input, const Tensor& output, std::string_view label, Stream* after = nullptr);
  /// Messages from one rank to another with one tag arrive in the order of the sends.
  Work send(const Tensor& t, int peer, int tag, std::string_view label, Stream* after = nullptr);
  Work recv(const Tensor& t, int peer, int tag, std::string_view label, Stream* after = nullptr);
  /// Done when all ranks have called it.
  Work barrier(std::string_view label);

  /// The ranks that call with the same `color` (0 or more) form a new group, ordered by `key`, then by rank
  /// here. Collective; blocks. `name` is the new group's, for messages.
  std::unique_ptr<Group> split(int color, int key, std::string_view name);
  /// The same ranks again, for another purpose: its operations do not queue behind this group's. Collective;
  /// blocks.
  std::unique_ptr<Group> duplicate(std::string_view name) { return split(0, rank_, name); }

  // How the ranks are, which any thread may ask.
  /// What the world, and so every message, calls this group's rank `rank`.
  virtual int world_rank(int rank) const { return rank; }
  /// Why this rank's operations are given up, those to come too; nothing while all is well.
  virtual std::optional<std::string> failure() const { return std::nullopt; }
  /// This rank can't go on: its operations are given up, and the peers' throw "rank R failed: reason". Takes a
  /// second at most; does nothing when something failed before.
  virtual void fail(const std::string& reason) { static_cast<void>(reason); }
  /// Which of these ranks have not been heard of for some time, by their numbers in the world.
  virtual std::vector<int> silent_ranks() const { return {}; }

 protected:
  Group(int rank, int size, std::string name, GroupOptions options)
      : rank_(rank), size_(size), name_(std::move(name)), options_(options) {}

 private:
  virtual Work do_all_reduce(const Tensor& t, ReduceOp op, std::string_view label, Stream* after) = 0;
  virtual Work do_reduce_scatter(const Tensor& input, const Tensor& output, ReduceOp op,
                                 std::string_view label, Stream* after) = 0;
  virtual Work do_all_gather(const Tensor& input, const Tensor& output, std::string_view label,
                             Stream* after) = 0;
  virtual Work do_broadcast(const Tensor& t, int root, std::string_view label, Stream* after) = 0;
  virtual Work do_all_to_all(const Tensor& input, const Tensor& output, std::string_view label,
                             Stream* after) = 0;
  virtual Work do_send(const Tensor& t, int peer, int tag, std::string_view label, Stream* after) = 0;
  virtual Work do_recv(const Tensor& t, int peer, int tag, std::string_view label, Stream* after) = 0;
  virtual Work do_barrier(std::string_view label) = 0;
  virtual std::unique_ptr<Group> do_split(int color, int key, std::string_view name) = 0;

  int rank_;
  int size_;
  std::string name_;
  GroupOptions options_;
};

}  // namespace trireme
