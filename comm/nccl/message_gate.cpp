#include "comm/nccl/message_gate.h"

#include <fmt/format.h>

#include <array>

#include "comm/local_ranks.h"

namespace trireme::comm {
namespace {

/// A message has a word for each end, which holds its number once that end is there. So many messages later
/// the next one takes the word; no stream is that far ahead of its peer's.
constexpr uint32_t kMessages = 1024;
constexpr size_t kReceiverJoined = 0, kFirst = 1;
constexpr size_t kWords = kFirst + 2 * size_t{kMessages};

std::string name_of(const ncclUniqueId& id) {
  return fmt::format("/trireme-{:016x}",
                     static_cast<uint64_t>(fingerprint({id.internal, sizeof(id.internal)})));
}

}  // namespace

MessageGate::MessageGate(End end, std::shared_ptr<void> place, std::unique_ptr<SharedWords> words)
    : end_(end), place_(std::move(place)), words_(std::move(words)) {}

/// Null where all places of the present device are taken.
std::shared_ptr<void> MessageGate::take_place() {
  using Count = std::atomic<int>;
  static std::array<Count, 64> gates_of_device{};
  int device = 0;
  if (cudaGetDevice(&device) != cudaSuccess || device >= std::ssize(gates_of_device)) return nullptr;
  Count& taken = gates_of_device[static_cast<size_t>(device)];
  std::shared_ptr<void> place(&taken, [](void* count) { --*static_cast<Count*>(count); });
  return ++taken <= kMost ? place : nullptr;
}

std::unique_ptr<MessageGate> MessageGate::make(const ncclUniqueId& id) {
  auto place = take_place();
  auto words = place ? SharedWords::make(name_of(id), kWords) : nullptr;
  if (!words) return nullptr;
  return std::unique_ptr<MessageGate>(new MessageGate(End::sender, std::move(place), std::move(words)));
}

std::unique_ptr<MessageGate> MessageGate::join(const ncclUniqueId& id) {
  auto place = take_place();
  if (!place) return nullptr;
  auto words = SharedWords::join(name_of(id), kWords);
  if (!words) return nullptr;
  words->close_name();  // both have it
  (*words)[kReceiverJoined] = 1;
  return std::unique_ptr<MessageGate>(new MessageGate(End::receiver, std::move(place), std::move(words)));
}

MessageGate::~MessageGate() {
  if (end_ == End::sender) words_->close_name();  // where nobody joined
  if (opened_)
    SharedWords::keep(std::move(words_));  // a stream that was held may come to them yet
  else
    open();
}

bool MessageGate::joined() const {
  return (*words_)[kReceiverJoined] != 0;
}

void MessageGate::pass(cudaStream_t stream) {
  const uint32_t number = ++messages_;
  const size_t sender = kFirst + number % kMessages, receiver = sender + kMessages;
  const bool sends = end_ == End::sender;
  words_->write(stream, sends ? sender : receiver, number);
  words_->wait(stream, sends ? receiver : sender, number);
}

void MessageGate::open() noexcept {
  opened_ = true;
  words_->open(kFirst, kWords, messages_);
}

}  // namespace trireme::comm
