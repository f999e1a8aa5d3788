// Meeting: how every collective begins. Each rank sends each other one a header that says what it is about to
// do, with a small tensor right behind it. So a rank that is missing is known by name, and one that does
// something else is noticed before bytes land anywhere: a CommError on both sides, never a hang or memory
// overwritten. It costs one small message a pair of ranks, which is all that a small collective needs anyway.
#pragma once

#include <memory>

#include "comm/operation.h"

namespace trireme::comm {

/// What a rank is about to do.
struct Header {
  OpKind kind = OpKind::barrier;
  DType dtype = DType::u8;
  ReduceOp reduce_op = ReduceOp::sum;
  int32_t root = 0;
  int64_t bytes = 0;
  char label[48] = {};  // cut off when longer

  bool agrees_with(const Header& other) const;
  std::string text() const;  // "all_reduce 'bucket 3' (400 bytes of f32, sum)"
};
Header make_header(const Operation& operation, DType dtype = DType::u8, ReduceOp reduce_op = ReduceOp::sum,
                   int root = 0);

/// Tensors up to this size travel with the header; together they are an eager message of Open MPI's shared
/// memory.
inline constexpr size_t kMaxInlineBytes = 4096 - sizeof(Header) - 64;

/// A header, perhaps with a tensor behind it, as one message.
class Packet {
 public:
  Packet() : data_(std::make_unique_for_overwrite<std::byte[]>(kCapacity)) {}  // to be received
  Packet(const Header& header, std::span<const std::byte> inlined);
  std::span<std::byte> capacity() { return {data_.get(), kCapacity}; }
  std::span<const std::byte> message() const { return {data_.get(), used_}; }
  Header header() const;
  const std::byte* inlined() const { return data_.get() + sizeof(Header); }

 private:
  static constexpr size_t kCapacity = sizeof(Header) + kMaxInlineBytes;
  std::unique_ptr<std::byte[]> data_;
  size_t used_ = kCapacity;
};

class Meeting {
 public:
  Meeting(Operation& operation, const Header& mine, std::span<const std::byte> inlined = {});
  /// The others' headers, to be waited for; then check().
  Messages arrivals() { return std::move(arrivals_); }
  /// CommError when a rank is not where this one is.
  void check();
  /// What rank `peer` sent behind its header.
  const std::byte* inlined(int peer) const { return theirs_[static_cast<size_t>(peer)].inlined(); }
  /// This rank's own headers, to be waited for at the end.
  Messages departures() { return std::move(departures_); }

 private:
  Operation& operation_;
  Packet mine_;
  std::vector<Packet> theirs_;  // by rank; memory of the messages, so declared before them
  Messages arrivals_, departures_;
};

/// CommError when `theirs`, from `peer`, is not what `mine` needs.
void check_agreement(const Operation& operation, const Header& mine, const Header& theirs, int peer);

}  // namespace trireme::comm
