#include "comm/meeting.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

namespace trireme::comm {

Header make_header(const Operation& operation, DType dtype, ReduceOp reduce_op, int root) {
  Header header;
  header.kind = operation.kind;
  header.dtype = dtype;
  header.reduce_op = reduce_op;
  header.root = root;
  header.bytes = static_cast<int64_t>(operation.bytes);
  operation.label.copy(header.label, sizeof(header.label) - 1);
  return header;
}

bool Header::agrees_with(const Header& other) const {
  const bool a_message = kind == OpKind::recv && other.kind == OpKind::send;
  return (kind == other.kind || a_message) && dtype == other.dtype && reduce_op == other.reduce_op &&
         root == other.root && bytes == other.bytes;
}

std::string Header::text() const {
  std::string details;
  if (kind != OpKind::barrier) details = fmt::format(" ({} bytes of {}", bytes, trireme::name_of(dtype));
  if (kind == OpKind::all_reduce || kind == OpKind::reduce_scatter)
    details += fmt::format(", {}", trireme::name_of(reduce_op));
  if (kind == OpKind::broadcast) details += fmt::format(", root {}", root);
  return fmt::format("{} '{}'{}{}", name_of(kind), label, details, details.empty() ? "" : ")");
}

Packet::Packet(const Header& header, std::span<const std::byte> inlined) : Packet() {
  TRIREME_ASSERT(inlined.size() <= kMaxInlineBytes, "too large to travel with the header");
  std::memcpy(data_.get(), &header, sizeof(header));
  if (!inlined.empty()) std::memcpy(data_.get() + sizeof(header), inlined.data(), inlined.size());
  used_ = sizeof(header) + inlined.size();
}

Header Packet::header() const {
  Header header;
  std::memcpy(&header, data_.get(), sizeof(header));
  return header;
}

Meeting::Meeting(Operation& operation, const Header& mine, std::span<const std::byte> inlined)
    : operation_(operation), mine_(mine, inlined), theirs_(static_cast<size_t>(operation.channel->size())) {
  const Channel& channel = *operation.channel;
  for (int peer = 0; peer < channel.size(); ++peer) {
    if (peer == channel.rank()) continue;
    Packet& packet = theirs_[static_cast<size_t>(peer)];
    arrivals_.push_back(channel.recv(peer, StreamId::collective_header(), packet.capacity()));
    departures_.push_back(channel.send(peer, StreamId::collective_header(), mine_.message()));
  }
}

void Meeting::check() {
  for (int peer = 0; peer < operation_.channel->size(); ++peer)
    if (peer != operation_.channel->rank())
      check_agreement(operation_, mine_.header(), theirs_[static_cast<size_t>(peer)].header(), peer);
  operation_.joined = true;
}

void check_agreement(const Operation& operation, const Header& mine, const Header& theirs, int peer) {
  if (mine.agrees_with(theirs)) return;
  throw CommError(fmt::format(
      "{} in group '{}' does not fit rank {}, which is in {}: all ranks must call the same "
      "operations with the same sizes in the same order",
      mine.text(), operation.channel->name(), operation.channel->world_rank(peer), theirs.text()));
}

}  // namespace trireme::comm
