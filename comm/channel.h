// Channel: a group's own world of messages: its members and a range of tags that nobody else uses. It is what
// MPI calls a communicator; but making one is an ordinary operation with a time-out, which MPI_Comm_split is
// not.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "comm/transport.h"

namespace trireme::comm {

class CommEngine;

/// A message of a group that somebody waits for.
struct Message {
  std::unique_ptr<Request> request;
  int peer;  // rank in the group
};
using Messages = std::vector<Message>;

/// The streams of messages between two ranks of a channel. A message has a header first, so that a
/// disagreement is noticed before bytes land anywhere.
struct StreamId {
  uint32_t value;
  static constexpr StreamId collective_header() { return {0}; }
  static constexpr StreamId collective_payload() { return {1}; }
  static constexpr StreamId header(int tag) { return {2 + 2 * static_cast<uint32_t>(tag)}; }
  static constexpr StreamId payload(int tag) { return {3 + 2 * static_cast<uint32_t>(tag)}; }
};

class Channel {
 public:
  static constexpr int kStreamBits = 18;  // holds Group::kMaxTag twice
  static constexpr uint32_t kMaxGroups = 1u << (31 - kStreamBits);

  /// `members` are world ranks; `rank` is this rank's place among them.
  Channel(CommEngine& engine, uint32_t id, std::string name, int rank, std::vector<int> members)
      : engine_(engine), id_(id), name_(std::move(name)), rank_(rank), members_(std::move(members)) {}

  CommEngine& engine() const { return engine_; }
  uint32_t id() const { return id_; }
  const std::string& name() const { return name_; }
  int rank() const { return rank_; }
  int size() const { return static_cast<int>(members_.size()); }
  int world_rank(int rank) const { return members_[static_cast<size_t>(rank)]; }

  Message send(int peer, StreamId stream, std::span<const std::byte> data) const;
  Message recv(int peer, StreamId stream, std::span<std::byte> data) const;

  /// Memory for the collective that is running; it is kept for the next one.
  std::span<std::byte> scratch(size_t bytes);

 private:
  uint32_t tag(StreamId stream) const { return (id_ << kStreamBits) | stream.value; }
  CommEngine& engine_;
  uint32_t id_;
  std::string name_;
  int rank_;
  std::vector<int> members_;
  std::vector<std::byte> scratch_;
};

}  // namespace trireme::comm
