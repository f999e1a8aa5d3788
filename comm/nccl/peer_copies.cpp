#include "comm/nccl/peer_copies.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstring>
#include <exception>
#include <functional>
#include <random>
#include <thread>

#include "comm/local_ranks.h"
#include "comm/nccl/sum_parts.h"
#include "core/backend/cuda/check.h"

namespace trireme::comm {
namespace {

constexpr size_t kLanes = 2, kBufferBytes = size_t{32} << 20;
/// Below that, NCCL's kernels are sooner done than streams that wait for each other three times.
constexpr size_t kSmallest = size_t{1} << 20;
constexpr size_t kAlignment = 256;
/// Each rank has three words for a piece, which hold its number in turn. So many pieces later the next one
/// takes them; no rank is that far ahead of another.
constexpr size_t kPieces = 1024, kWordsOfPiece = 3;

size_t word_of(CopyStep::Word word, int rank, uint32_t number) {
  return (static_cast<size_t>(rank) * kPieces + number % kPieces) * kWordsOfPiece + static_cast<size_t>(word);
}
constexpr auto kPatience = std::chrono::seconds(5);

int64_t random_number() {
  std::random_device source;
  return static_cast<int64_t>(uint64_t{source()} << 32 | source());
}

/// The same in every thread of this process, another one in each other process.
int64_t process_token() {
  static const int64_t token = random_number();
  return token;
}

std::string name_of_words(int64_t token) {
  return fmt::format("/trireme-{:016x}", static_cast<uint64_t>(token));
}

/// Asks until `over()`, for some seconds at most; whether it was.
bool wait_until(const std::function<bool()>& over) {
  const Clock::time_point deadline = Clock::now() + kPatience;
  while (!over()) {
    if (Clock::now() > deadline) return false;
    std::this_thread::sleep_for(std::chrono::microseconds(200));
  }
  return true;
}

/// Kept alive by the operations that use it.
Tensor host_memory(size_t count, DType dtype) {
  const size_t bytes = count * size_of(dtype);
  auto memory = std::make_shared<std::vector<std::byte>>(bytes);
  auto storage = std::make_shared<Storage>(memory, memory->data(), bytes);
  return Tensor(std::move(storage), 0, {static_cast<int64_t>(count)}, dtype, Device{});
}

}  // namespace

/// What a rank tells the others of itself.
struct PeerCopies::Offer {
  int64_t machine, process, words;  // `words`: of rank 0, which names the shared numbers by it
  int64_t has_buffer;
  std::byte* buffer;
  cudaIpcMemHandle_t handle;
  std::array<char, 32> address;  // of its GPU, on the PCI bus
};

PeerCopies::PeerCopies(Group& control, Backend& backend, std::string_view label)
    : control_(control),
      backend_(backend),
      rank_(control.rank()),
      size_(control.size()),
      device_(backend.device().index),
      label_(label),
      buffers_(static_cast<size_t>(size_)),
      opened_(static_cast<size_t>(size_)),
      planner_(rank_, size_, kLanes, kBufferBytes) {
  cuda::check(cudaSetDevice(device_), "cudaSetDevice");
  const Offer offer = make_offer();
  my_offer_ = host_memory(sizeof(Offer), DType::u8);
  std::memcpy(my_offer_.raw(), &offer, sizeof(Offer));
  offers_ = host_memory(sizeof(Offer) * static_cast<size_t>(size_), DType::u8);
  meeting_ = control_.all_gather(my_offer_, offers_, label_);
}

PeerCopies::Offer PeerCopies::make_offer() {
  Offer offer{};
  offer.machine = machine_id();
  offer.process = process_token();
  offer.words = random_number();
  if (rank_ == 0) words_ = SharedWords::make(name_of_words(offer.words), num_words());
  void* buffer = nullptr;
  const bool fine = cudaDeviceGetPCIBusId(offer.address.data(), static_cast<int>(offer.address.size()),
                                          device_) == cudaSuccess &&
                    cudaMalloc(&buffer, kBufferBytes) == cudaSuccess;
  buffer_ = offer.buffer = static_cast<std::byte*>(buffer);
  offer.has_buffer = fine && cudaIpcGetMemHandle(&offer.handle, buffer) == cudaSuccess;
  static_cast<void>(cudaGetLastError());
  return offer;
}

bool PeerCopies::is_decided() {
  if (stage_ == Stage::decided) return true;
  if (!meeting_.done()) return false;
  meeting_.wait();  // throws what went wrong
  if (stage_ == Stage::offering) {
    cuda::check(cudaSetDevice(device_), "cudaSetDevice");
    vote_ = host_memory(1, DType::i32);
    *vote_.data<int32_t>() = reach_all() ? 1 : 0;
    static_cast<void>(cudaGetLastError());  // of what can't be reached
    meeting_ = control_.all_reduce(vote_, ReduceOp::min, label_);
    stage_ = Stage::voting;
    return is_decided();
  }
  if (rank_ == 0 && words_) words_->close_name();
  can_ = *vote_.data<int32_t>() == 1;
  stage_ = Stage::decided;
  if (!can_) {
    close_peers();
    return true;
  }
  load_sum_parts();
  for (size_t lane = 0; lane < kLanes; ++lane) {
    lanes_.push_back(std::make_unique<cuda::CudaStream>(device_, cuda::StreamPriority::high));
    lane_ends_.push_back(backend_.make_event());
  }
  return true;
}

bool PeerCopies::reach_all() {
  const auto offer_of = [&](size_t rank) {
    Offer offer{};
    std::memcpy(&offer, offers_.data<uint8_t>() + rank * sizeof(Offer), sizeof(Offer));
    return offer;
  };
  const Offer first = offer_of(0);
  for (size_t peer = 0; peer < buffers_.size(); ++peer) {
    const Offer offer = offer_of(peer);
    if (offer.machine != first.machine || !offer.has_buffer) return false;
  }
  if (rank_ != 0) words_ = SharedWords::join(name_of_words(first.words), num_words());
  if (!words_) return false;
  for (size_t peer = 0; peer < buffers_.size(); ++peer) {
    buffers_[peer] = static_cast<int>(peer) == rank_ ? buffer_ : reach(offer_of(peer));
    if (!buffers_[peer]) return false;
    opened_[peer] = static_cast<int>(peer) != rank_ && offer_of(peer).process != process_token();
  }
  return true;
}

/// Null where it can't be reached, or only over slower ways than NVLink.
std::byte* PeerCopies::reach(const Offer& peer) {
  int index = -1;
  if (cudaDeviceGetByPCIBusId(&index, peer.address.data()) != cudaSuccess) return nullptr;
  int over_nvlink = 1;
  if (index != device_ && (cudaDeviceGetP2PAttribute(&over_nvlink, cudaDevP2PAttrNativeAtomicSupported,
                                                     device_, index) != cudaSuccess ||
                           over_nvlink == 0))
    return nullptr;
  if (peer.process != process_token()) {
    void* opened = nullptr;
    return cudaIpcOpenMemHandle(&opened, peer.handle, cudaIpcMemLazyEnablePeerAccess) == cudaSuccess
               ? static_cast<std::byte*>(opened)
               : nullptr;
  }
  if (index == device_) return peer.buffer;
  const cudaError_t enabled = cudaDeviceEnablePeerAccess(index, 0);
  return enabled == cudaSuccess || enabled == cudaErrorPeerAccessAlreadyEnabled ? peer.buffer : nullptr;
}

bool PeerCopies::takes(const DeviceCall& call) const {
  if (!can_ || call.bytes() < kSmallest) return false;
  const DType dtype = call.input.dtype();
  const bool sums = is_float(dtype) && dtype != DType::f64 &&
                    (call.reduce_op == ReduceOp::sum || call.reduce_op == ReduceOp::average);
  return call.kind == OpKind::all_gather ||
         (sums && (call.kind == OpKind::all_reduce || call.kind == OpKind::reduce_scatter));
}

/// The last ones say who is gone.
size_t PeerCopies::num_words() const {
  return static_cast<size_t>(size_) * (kPieces * kWordsOfPiece + 1);
}

struct PeerCopies::Pointers {
  const PeerCopies& copies;
  const DeviceCall& call;

  std::byte* operator()(const CopyStep::Spot& spot) const {
    switch (spot.in) {
      case CopyStep::Spot::In::nowhere:
        return nullptr;
      case CopyStep::Spot::In::input:
        return static_cast<std::byte*>(call.input.raw()) + spot.offset;
      case CopyStep::Spot::In::output:
        return static_cast<std::byte*>(call.output.raw()) + spot.offset;
      case CopyStep::Spot::In::buffer:
        return copies.buffers_[static_cast<size_t>(spot.rank)] + spot.offset;
    }
    throw InternalError("a spot in nothing");
  }
};

void PeerCopies::queue(const CopyStep& step, const DeviceCall& call) {
  const Pointers at{*this, call};
  cudaStream_t stream = lanes_[step.lane]->raw();
  switch (step.kind) {
    case CopyStep::Kind::copy:
      if (at(step.from) != at(step.to))
        cuda::check(cudaMemcpyAsync(at(step.to), at(step.from), step.bytes, cudaMemcpyDefault, stream),
                    "cudaMemcpyAsync");
      break;
    case CopyStep::Kind::sum: {
      const Parts parts{.own = at(step.from),
                        .received = at(step.received),
                        .stride = step.stride,
                        .rank = rank_,
                        .num_ranks = size_,
                        .dtype = call.input.dtype(),
                        .count = step.bytes / size_of(call.input.dtype())};
      const float scale = call.reduce_op == ReduceOp::average ? 1.0F / static_cast<float>(size_) : 1.0F;
      sum_parts(parts, scale, at(step.to), at(step.also_to), stream);
      break;
    }
    case CopyStep::Kind::tell:
      words_->write(stream, word_of(step.word, rank_, step.number), step.number);
      break;
    case CopyStep::Kind::await:
      for (int peer = 0; peer < size_; ++peer)
        if (peer != rank_) words_->wait(stream, word_of(step.word, peer, step.number), step.number);
      break;
  }
}

void PeerCopies::run(const DeviceCall& call, Event* after, Event& begin, Event& end) {
  TRIREME_ASSERT(can_ && !aborted_, "copies that are not connected");
  cuda::check(cudaSetDevice(device_), "cudaSetDevice");
  CopyArray array{call.kind, std::min(call.input.bytes(), call.output.bytes()), call.bytes()};
  if (call.kind == OpKind::all_reduce) array = split_evenly(array.bytes, size_, kAlignment);
  const std::vector<CopyStep> steps = planner_.plan(array);
  std::array<bool, kLanes> used{};
  for (const CopyStep& step : steps) {
    cuda::CudaStream& lane = *lanes_[step.lane];
    if (!used[step.lane] && after) after->wait(lane);
    if (&step == steps.data()) begin.record(lane);
    used[step.lane] = true;
    queue(step, call);
  }
  const size_t last = steps.back().lane;
  for (size_t lane = 0; lane < kLanes; ++lane) {
    if (!used[lane] || lane == last) continue;
    lane_ends_[lane]->record(*lanes_[lane]);
    lane_ends_[lane]->wait(*lanes_[last]);
  }
  end.record(*lanes_[last]);
}

void PeerCopies::abort() noexcept {
  aborted_ = true;
  if (!words_) return;
  const auto first_of = [](int rank) { return word_of(CopyStep::Word::pushed, rank, 0); };
  words_->open(0, first_of(rank_), planner_.last_number());
  words_->open(first_of(rank_ + 1), first_of(size_), planner_.last_number());
}

bool PeerCopies::finish_lanes() {
  return wait_until([&] {
    return std::ranges::all_of(
        lanes_, [](const auto& lane) { return cudaStreamQuery(lane->raw()) != cudaErrorNotReady; });
  });
}

void PeerCopies::close_peers() noexcept {
  for (size_t peer = 0; peer < opened_.size(); ++peer)
    if (opened_[peer]) cudaIpcCloseMemHandle(buffers_[peer]);
  opened_.assign(opened_.size(), false);
  static_cast<void>(cudaGetLastError());
}

/// Whether nobody uses this rank's buffer any longer; says so of the others'.
bool PeerCopies::are_all_gone() {
  const size_t first = word_of(CopyStep::Word::pushed, size_, 0);
  (*words_)[first + static_cast<size_t>(rank_)] = 1;
  return wait_until([&] {
    for (size_t peer = 0; peer < buffers_.size(); ++peer)
      if ((*words_)[first + peer] != 1) return false;
    return true;
  });
}

/// Where a peer may still use the buffer it stays until the process ends, which is soon then.
PeerCopies::~PeerCopies() {
  cudaSetDevice(device_);
  if (rank_ == 0 && words_ && stage_ != Stage::decided) words_->close_name();
  if (can_ && !aborted_ && (std::uncaught_exceptions() > 0 || !finish_lanes())) abort();
  if (aborted_ && !finish_lanes()) {
    static_cast<void>(words_.release());  // streams still use them
    return;
  }
  close_peers();
  if (buffer_ && !aborted_ && (!can_ || are_all_gone())) cudaFree(buffer_);
}

}  // namespace trireme::comm
