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
#include "comm/nccl/piece_words.h"
#include "comm/nccl/sum_parts.h"
#include "comm/nccl/tell.h"
#include "core/backend/cuda/check.h"

namespace trireme::comm {
namespace {

constexpr size_t kLanes = 2, kBufferBytes = size_t{32} << 20;
constexpr size_t kMaxAhead = 256;  // commands of a lane
/// Below that, NCCL's kernels are sooner done than streams that wait for each other three times.
constexpr size_t kSmallest = size_t{1} << 20;
constexpr size_t kAlignment = 256;

size_t word_of(CopyStep::Word word, int rank, uint32_t number) {
  return word_of_piece(static_cast<uint32_t>(word), rank, number);
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

/// What a rank first tells the others of itself.
struct PeerCopies::Home {
  int64_t machine, process;
  std::array<char, 32> address;  // of its GPU, on the PCI bus
};

/// What the others use, once they know that they can.
struct PeerCopies::Offer {
  int64_t words;  // of rank 0, which names the shared numbers by it
  int64_t has_buffer;
  std::byte* buffer;
  cudaIpcMemHandle_t handle;
};

PeerCopies::PeerCopies(Group& control, Backend& backend, std::string_view label)
    : control_(control),
      backend_(backend),
      rank_(control.rank()),
      size_(control.size()),
      device_(backend.device().index),
      label_(label),
      devices_(static_cast<size_t>(size_), -1),
      is_here_(static_cast<size_t>(size_)),
      buffers_(static_cast<size_t>(size_)),
      queue_(rank_, size_, kLanes, kBufferBytes, kMaxAhead) {
  Home home{.machine = machine_id(), .process = process_token(), .address = {}};
  if (cudaDeviceGetPCIBusId(home.address.data(), static_cast<int>(home.address.size()), device_) != cudaSuccess)
    home.address = {};
  static_cast<void>(cudaGetLastError());
  gather(&home, sizeof(home));
}

void PeerCopies::gather(const void* mine, size_t bytes) {
  mine_ = host_memory(bytes, DType::u8);
  std::memcpy(mine_.raw(), mine, bytes);
  all_ = host_memory(bytes * static_cast<size_t>(size_), DType::u8);
  meeting_ = control_.all_gather(mine_, all_, label_);
}

template <class T>
T PeerCopies::gathered(size_t rank) const {
  T value;
  std::memcpy(&value, all_.data<uint8_t>() + rank * sizeof(T), sizeof(T));
  return value;
}

void PeerCopies::vote(bool yes) {
  static_cast<void>(cudaGetLastError());  // of what can't be reached
  mine_ = host_memory(1, DType::i32);
  *mine_.data<int32_t>() = yes ? 1 : 0;
  meeting_ = control_.all_reduce(mine_, ReduceOp::min, label_);
}

bool PeerCopies::is_decided() {
  while (stage_ != Stage::decided) {
    if (!meeting_.done()) return false;
    meeting_.wait();  // throws what went wrong
    cuda::check(cudaSetDevice(device_), "cudaSetDevice");
    switch (stage_) {
      case Stage::meeting:
        stage_ = Stage::comparing;
        for (size_t peer = 0; peer < devices_.size(); ++peer) {
          const Home home = gathered<Home>(peer);
          is_here_[peer] = home.process == process_token();
          if (home.machine != machine_id() ||
              cudaDeviceGetByPCIBusId(&devices_[peer], home.address.data()) != cudaSuccess)
            devices_[peer] = -1;
        }
        vote(are_linked());
        break;
      case Stage::comparing:
        stage_ = *mine_.data<int32_t>() == 1 ? Stage::offering : Stage::decided;
        if (stage_ == Stage::offering) {
          const Offer offer = make_offer();
          gather(&offer, sizeof(offer));
        }
        break;
      case Stage::offering:
        stage_ = Stage::voting;
        vote(reach_all());
        break;
      case Stage::voting:
        stage_ = Stage::decided;
        can_ = *mine_.data<int32_t>() == 1;
        decide();
        break;
      case Stage::decided:
        break;
    }
  }
  return true;
}

/// Whether this rank's GPU has NVLink to those of all others.
bool PeerCopies::are_linked() const {
  return std::ranges::all_of(devices_, [&](int peer) {
    int over_nvlink = 1;
    return peer >= 0 && (peer == device_ || (cudaDeviceGetP2PAttribute(&over_nvlink, cudaDevP2PAttrNativeAtomicSupported,
                                                                      device_, peer) == cudaSuccess &&
                                             over_nvlink == 1));
  });
}

PeerCopies::Offer PeerCopies::make_offer() {
  Offer offer{};
  offer.words = random_number();
  if (rank_ == 0) words_ = SharedWords::make(name_of_words(offer.words), num_words());
  void* buffer = nullptr;
  const bool fine = cudaMalloc(&buffer, kBufferBytes + kAlignment) == cudaSuccess;
  buffer_ = offer.buffer = static_cast<std::byte*>(buffer);
  offer.has_buffer = fine && cudaIpcGetMemHandle(&offer.handle, buffer) == cudaSuccess;
  static_cast<void>(cudaGetLastError());
  return offer;
}

bool PeerCopies::reach_all() {
  for (size_t peer = 0; peer < buffers_.size(); ++peer)
    if (!gathered<Offer>(peer).has_buffer) return false;
  if (rank_ != 0) words_ = SharedWords::join(name_of_words(gathered<Offer>(0).words), num_words());
  if (!words_) return false;
  for (size_t peer = 0; peer < buffers_.size(); ++peer) {
    buffers_[peer] = reach(peer, gathered<Offer>(peer));
    if (!buffers_[peer]) return false;
  }
  return true;
}

/// Null where it can't be.
std::byte* PeerCopies::reach(size_t peer, const Offer& offer) {
  if (static_cast<int>(peer) == rank_) return buffer_;
  if (!is_here_[peer]) {
    void* opened = nullptr;
    return cudaIpcOpenMemHandle(&opened, offer.handle, cudaIpcMemLazyEnablePeerAccess) == cudaSuccess
               ? static_cast<std::byte*>(opened)
               : nullptr;
  }
  if (devices_[peer] == device_) return offer.buffer;
  const cudaError_t enabled = cudaDeviceEnablePeerAccess(devices_[peer], 0);
  return enabled == cudaSuccess || enabled == cudaErrorPeerAccessAlreadyEnabled ? offer.buffer : nullptr;
}

void PeerCopies::decide() {
  if (rank_ == 0 && words_) words_->close_name();
  if (!can_) return close_peers();
  load_sum_parts();
  load_signals();
  load_tell();
  for (size_t lane = 0; lane < kLanes; ++lane) {
    lanes_.push_back(std::make_unique<cuda::CudaStream>(device_, cuda::StreamPriority::high));
    lane_ends_.push_back(backend_.make_event());
  }
  replay_end_ = backend_.make_event();
}

bool PeerCopies::takes(const DeviceCall& call) {
  if (call.bytes() < kSmallest) return false;
  const DType dtype = call.input.dtype();
  const bool sums = is_float(dtype) && dtype != DType::f64 &&
                    (call.reduce_op == ReduceOp::sum || call.reduce_op == ReduceOp::average);
  return call.kind == OpKind::all_gather ||
         (sums && (call.kind == OpKind::all_reduce || call.kind == OpKind::reduce_scatter));
}

/// Those of pieces, one of each rank that says that it is gone, and one that says that a rank gave up.
size_t PeerCopies::num_words() const {
  return word_of(CopyStep::Word::pushed, size_, 0) + static_cast<size_t>(size_) + 1;
}

bool PeerCopies::is_given_up() {
  return words_ && (*words_)[num_words() - 1] != 0;
}

std::byte* PeerCopies::at(const CopyStep::Spot& spot, const DeviceCall& call) const {
  switch (spot.in) {
    case CopyStep::Spot::In::nowhere:
      return nullptr;
    case CopyStep::Spot::In::input:
      return static_cast<std::byte*>(call.input.raw()) + spot.offset;
    case CopyStep::Spot::In::output:
      return static_cast<std::byte*>(call.output.raw()) + spot.offset;
    case CopyStep::Spot::In::buffer:
      return buffers_[static_cast<size_t>(spot.rank)] + spot.offset;
  }
  throw InternalError("a spot in nothing");
}

void PeerCopies::move(const CopyStep& step, const DeviceCall& call, cudaStream_t stream) const {
  std::byte* const from = at(step.from, call);
  std::byte* const to = at(step.to, call);
  if (step.kind == CopyStep::Kind::copy) {
    if (from != to) cuda::check(cudaMemcpyAsync(to, from, step.bytes, cudaMemcpyDefault, stream), "cudaMemcpyAsync");
    return;
  }
  TRIREME_ASSERT(step.kind == CopyStep::Kind::sum, "a step that moves nothing");
  const DType dtype = call.input.dtype();
  const Parts parts{.own = from,
                    .received = at(step.received, call),
                    .stride = step.stride,
                    .rank = rank_,
                    .num_ranks = size_,
                    .dtype = dtype,
                    .count = step.bytes / size_of(dtype)};
  const float scale = call.reduce_op == ReduceOp::average ? 1.0F / static_cast<float>(size_) : 1.0F;
  sum_parts(parts, scale, to, at(step.also_to, call), stream);
}

void PeerCopies::queue(const CopyStep& step) {
  cudaStream_t stream = lanes_[step.lane]->raw();
  switch (step.kind) {
    case CopyStep::Kind::copy:
    case CopyStep::Kind::sum:
      move(step, *call_, stream);
      break;
    case CopyStep::Kind::tell:
      words_->write(stream, word_of(step.word, rank_, step.number), step.number);
      break;
    case CopyStep::Kind::await:
      for (int peer = 0; peer < size_; ++peer)
        if (peer != rank_) words_->wait(stream, word_of(step.word, peer, step.number), step.number);
      break;
  }
}

/// The word may have a later number already; a peer that gives up writes this rank's words too, after it has said so.
bool PeerCopies::has_told(const CopyStep& step) {
  const uint32_t number = (*words_)[word_of(step.word, rank_, step.number)];
  return static_cast<int32_t>(number - step.number) >= 0 && !is_given_up();
}

CopyArray PeerCopies::array_of(const DeviceCall& call) const {
  if (call.kind == OpKind::all_reduce) return split_evenly(call.bytes(), size_, kAlignment);
  return {call.kind, std::min(call.input.bytes(), call.output.bytes()), call.bytes()};
}

void PeerCopies::begin(const DeviceCall& call, Event* after, Event& event) {
  TRIREME_ASSERT(can_ && !aborted_, "copies that are not connected");
  cuda::check(cudaSetDevice(device_), "cudaSetDevice");
  used_ = queue_.begin(array_of(call));
  for (const size_t lane : used_)
    if (after) after->wait(*lanes_[lane]);
  event.record(*lanes_[used_.front()]);
}

bool PeerCopies::go_on(const DeviceCall& call, Event& end) {
  TRIREME_ASSERT(!aborted_, "copies that were aborted");
  cuda::check(cudaSetDevice(device_), "cudaSetDevice");
  call_ = &call;
  if (!queue_.go_on(*this)) return false;
  const size_t last = queue_.last_lane();
  for (const size_t lane : used_) {
    if (lane == last) continue;
    lane_ends_[lane]->record(*lanes_[lane]);
    lane_ends_[lane]->wait(*lanes_[last]);
  }
  end.record(*lanes_[last]);
  return true;
}

/// Behind the buffer.
uint32_t* PeerCopies::first_of_replay() const { return reinterpret_cast<uint32_t*>(buffer_ + kBufferBytes); }

CopyPlanner PeerCopies::new_planner() const { return {rank_, size_, kLanes, kBufferBytes}; }

Signals PeerCopies::new_signals() const {
  uint32_t* const words = words_->on_device();
  return {.words = words, .given_up = words + num_words() - 1, .first = first_of_replay(), .rank = rank_, .num_ranks = size_};
}

uint32_t PeerCopies::begin_replay(uint32_t num_pieces) {
  TRIREME_ASSERT(can_ && !aborted_, "a replay of copies that are not connected");
  cuda::check(cudaSetDevice(device_), "cudaSetDevice");
  const uint32_t first = queue_.skip(num_pieces, *this);
  for (size_t lane = 0; lane < lanes_.size(); ++lane) lane_ends_[lane]->record(*lanes_[lane]);
  return first;
}

void PeerCopies::put_before_replay(uint32_t first, Stream& stream) {
  for (const auto& end : lane_ends_) end->wait(stream);
  tell(first_of_replay(), first, cuda::raw_stream(stream));
}

void PeerCopies::put_behind_replay(Stream& stream) {
  replay_end_->record(stream);
  for (const auto& lane : lanes_) replay_end_->wait(*lane);
}

void PeerCopies::abort() noexcept {
  aborted_ = true;
  if (!words_) return;
  (*words_)[num_words() - 1] = 1;  // first: what goes on now has no result
  const auto first_of = [](int rank) { return word_of(CopyStep::Word::pushed, rank, 0); };
  words_->open(0, first_of(rank_), queue_.last_number());
  words_->open(first_of(rank_ + 1), first_of(size_), queue_.last_number());
}

bool PeerCopies::finish_lanes() {
  return wait_until([&] {
    return std::ranges::all_of(
        lanes_, [](const auto& lane) { return cudaStreamQuery(lane->raw()) != cudaErrorNotReady; });
  });
}

void PeerCopies::close_peers() noexcept {
  for (size_t peer = 0; peer < buffers_.size(); ++peer)
    if (buffers_[peer] && !is_here_[peer]) cudaIpcCloseMemHandle(buffers_[peer]);
  buffers_.assign(buffers_.size(), nullptr);
  static_cast<void>(cudaGetLastError());
}

/// Whether nobody uses this rank's buffer any longer; says so of the others'. A rank that gave up does not tell.
bool PeerCopies::are_all_gone() {
  const size_t first = word_of(CopyStep::Word::pushed, size_, 0);
  (*words_)[first + static_cast<size_t>(rank_)] = 1;
  size_t gone = 0;
  wait_until([&] {
    for (gone = 0; gone < buffers_.size() && (*words_)[first + gone] == 1;) ++gone;
    return gone == buffers_.size() || is_given_up();
  });
  return gone == buffers_.size();
}

/// Where a peer may still use the buffer it stays until the process ends, which is soon then.
PeerCopies::~PeerCopies() {
  cudaSetDevice(device_);
  if (rank_ == 0 && words_ && stage_ != Stage::decided) words_->close_name();
  if (can_ && !aborted_ && (std::uncaught_exceptions() > 0 || !finish_lanes())) abort();
  if (aborted_ && !finish_lanes()) {
    SharedWords::keep(std::move(words_));
    return;
  }
  close_peers();
  if (buffer_ && !aborted_ && (!can_ || are_all_gone())) cudaFree(buffer_);
}

}  // namespace trireme::comm
