#include "comm/collectives.h"

#include <cstring>

#include "comm/meeting.h"

namespace trireme::comm {
namespace {

std::span<std::byte> bytes_of(const Tensor& t) {
  return {static_cast<std::byte*>(t.raw()), t.bytes()};
}

/// Part `index` of `count` equal parts.
std::span<std::byte> part_of(const Tensor& t, int index, int count) {
  const size_t part_bytes = t.bytes() / static_cast<size_t>(count);
  return bytes_of(t).subspan(static_cast<size_t>(index) * part_bytes, part_bytes);
}

void copy(const std::byte* from, std::span<std::byte> to) {
  if (!to.empty() && from != to.data()) std::memmove(to.data(), from, to.size());
}

bool fits_inline(const Tensor& t) {
  return t.bytes() <= kMaxInlineBytes;
}

}  // namespace

Task barrier_task(Operation& op) {
  Meeting meeting(op, make_header(op));
  co_await op.all(meeting.arrivals());
  meeting.check();
  co_await op.all(meeting.departures());
}

Task all_gather_task(Operation& op, Tensor input, Tensor output) {
  const Channel& channel = *op.channel;
  const bool inlined = fits_inline(input);
  Meeting meeting(op, make_header(op, input.dtype()), inlined ? bytes_of(input) : std::span<std::byte>());
  co_await op.all(meeting.arrivals());
  meeting.check();
  Messages messages = meeting.departures();
  for (int peer = 0; peer < channel.size(); ++peer) {
    const std::span<std::byte> part = part_of(output, peer, channel.size());
    if (peer == channel.rank()) {
      copy(bytes_of(input).data(), part);
    } else if (inlined) {
      copy(meeting.inlined(peer), part);
    } else {
      messages.push_back(channel.recv(peer, StreamId::collective_payload(), part));
      messages.push_back(channel.send(peer, StreamId::collective_payload(), bytes_of(input)));
    }
  }
  co_await op.all(std::move(messages));
}

Task broadcast_task(Operation& op, Tensor t, int root) {
  const Channel& channel = *op.channel;
  const bool is_root = channel.rank() == root;
  const bool inlined = fits_inline(t);
  Meeting meeting(op, make_header(op, t.dtype(), ReduceOp::sum, root),
                  inlined && is_root ? bytes_of(t) : std::span<std::byte>());
  co_await op.all(meeting.arrivals());
  meeting.check();
  Messages messages = meeting.departures();
  if (inlined) {
    if (!is_root) copy(meeting.inlined(root), bytes_of(t));
  } else if (!is_root) {
    messages.push_back(channel.recv(root, StreamId::collective_payload(), bytes_of(t)));
  } else {
    for (int peer = 0; peer < channel.size(); ++peer)
      if (peer != root) messages.push_back(channel.send(peer, StreamId::collective_payload(), bytes_of(t)));
  }
  co_await op.all(std::move(messages));
}

Task all_to_all_task(Operation& op, Tensor input, Tensor output) {
  const Channel& channel = *op.channel;
  Meeting meeting(op, make_header(op, input.dtype()));
  co_await op.all(meeting.arrivals());
  meeting.check();
  Messages messages = meeting.departures();
  for (int peer = 0; peer < channel.size(); ++peer) {
    const std::span<std::byte> to = part_of(output, peer, channel.size());
    const std::span<std::byte> from = part_of(input, peer, channel.size());
    if (peer == channel.rank()) {
      copy(from.data(), to);
    } else if (!to.empty()) {
      messages.push_back(channel.recv(peer, StreamId::collective_payload(), to));
      messages.push_back(channel.send(peer, StreamId::collective_payload(), from));
    }
  }
  co_await op.all(std::move(messages));
}

Task send_task(Operation& op, Tensor t, int peer, int tag) {
  const bool inlined = fits_inline(t);
  const Packet packet(make_header(op, t.dtype()), inlined ? bytes_of(t) : std::span<std::byte>());
  Messages messages;
  messages.push_back(op.channel->send(peer, StreamId::header(tag), packet.message()));
  if (!inlined) messages.push_back(op.channel->send(peer, StreamId::payload(tag), bytes_of(t)));
  co_await op.all(std::move(messages));
}

Task recv_task(Operation& op, Tensor t, int peer, int tag) {
  Packet packet;
  Messages messages;
  messages.push_back(op.channel->recv(peer, StreamId::header(tag), packet.capacity()));
  co_await op.all(std::move(messages));
  check_agreement(op, make_header(op, t.dtype()), packet.header(), peer);
  if (fits_inline(t)) {
    copy(packet.inlined(), bytes_of(t));
    co_return;
  }
  Messages payload;
  payload.push_back(op.channel->recv(peer, StreamId::payload(tag), bytes_of(t)));
  co_await op.all(std::move(payload));
}

}  // namespace trireme::comm
