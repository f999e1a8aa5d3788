#include "comm/channel.h"

#include "comm/comm_engine.h"

namespace trireme::comm {

Message Channel::send(int peer, StreamId stream, std::span<const std::byte> data) const {
  return {engine_.transport().send(world_rank(peer), tag(stream), data), peer};
}

Message Channel::recv(int peer, StreamId stream, std::span<std::byte> data) const {
  return {engine_.transport().recv(world_rank(peer), tag(stream), data), peer};
}

std::span<std::byte> Channel::scratch(size_t bytes) {
  if (scratch_.size() < bytes) scratch_.resize(bytes);
  return {scratch_.data(), bytes};
}

}  // namespace trireme::comm
