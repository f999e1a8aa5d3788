// What recorded copies tell and await, of more ranks than there are GPUs: the host is all the others.
#include "comm/nccl/signals.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "comm/nccl/piece_words.h"
#include "comm/nccl/shared_words.h"
#include "comm/nccl/tell.h"
#include "core/backend/cuda/cuda_backend.h"
#include "tests/cuda/gpu.h"

namespace trireme::comm {
namespace {

constexpr int kRanks = 8, kRank = 3;
constexpr uint32_t kPushed = 0, kSummed = 1, kFetched = 2;
constexpr size_t kGivenUp = word_of_piece(kPushed, kRanks, 0);

/// The number before a replay's first one: also such that numbers begin again at 0 meanwhile.
class SignalsCuda : public ::testing::TestWithParam<uint32_t> {
 protected:
  void SetUp() override {
    TRIREME_NEEDS_GPUS(1);
    backend_ = make_cuda_backend();
    stream_ = backend_->make_stream();
    words_ = SharedWords::make("/trireme-signals-" + std::to_string(std::random_device()()), kGivenUp + 1);
    ASSERT_TRUE(words_);
    words_->close_name();
    for (size_t word = 0; word < kGivenUp; ++word) (*words_)[word] = GetParam();
    first_ = static_cast<uint32_t*>(backend_->allocate(sizeof(uint32_t)));
    load_tell();
    load_signals();
    tell(first_, GetParam(), stream());
    stream_->synchronize();
  }
  void TearDown() override {
    if (first_) backend_->deallocate(first_, sizeof(uint32_t));
  }

  cudaStream_t stream() { return cuda::raw_stream(*stream_); }
  /// Is done when the stream has come to their end.
  std::unique_ptr<Event> run(const std::vector<Signal>& signals) {
    uint32_t* const words = words_->on_device();
    Signals s{.words = words, .given_up = words + kGivenUp, .first = first_, .rank = kRank, .num_ranks = kRanks};
    std::ranges::copy(signals, s.signals.begin());
    s.count = static_cast<uint32_t>(signals.size());
    signal(s, stream());
    auto end = backend_->make_event();
    end->record(*stream_);
    return end;
  }
  std::atomic<uint32_t>& word(uint32_t kind, int rank, uint32_t number) {
    return (*words_)[word_of_piece(kind, rank, GetParam() + number)];
  }
  bool is_told(uint32_t kind, uint32_t number) { return word(kind, kRank, number) == GetParam() + number; }
  static void wait_a_little() { std::this_thread::sleep_for(std::chrono::milliseconds(20)); }

  std::unique_ptr<Backend> backend_;
  std::unique_ptr<Stream> stream_;
  std::unique_ptr<SharedWords> words_;
  uint32_t* first_ = nullptr;
};

TEST_P(SignalsCuda, AwaitAllOthersInAnyOrderAndThenTell) {
  std::vector<Signal> signals{{kPushed, 1, true}, {kSummed, 1, true}};
  for (uint32_t number = 1; number <= 5; ++number) signals.push_back({number % 2 == 0 ? kFetched : kPushed, number, false});
  signals.push_back({kFetched, 2, true});
  ASSERT_EQ(signals.size(), Signals::kMost);
  std::vector<std::atomic<uint32_t>*> awaited;
  std::vector<uint32_t> numbers;
  std::vector<size_t> order;
  for (const Signal& s : signals)
    for (int rank = 0; rank < kRanks && !s.is_told; ++rank)
      if (rank != kRank) {
        order.push_back(awaited.size());
        awaited.push_back(&word(s.kind, rank, s.number));
        numbers.push_back(GetParam() + s.number);
      }
  std::ranges::shuffle(order, std::mt19937(1));

  const auto end = run(signals);
  for (const size_t i : order) {
    if (i == order.back()) wait_a_little();
    EXPECT_FALSE(end->done());
    EXPECT_FALSE(is_told(kFetched, 2)) << "before all others have told";
    *awaited[i] = numbers[i];
  }
  stream_->synchronize();
  EXPECT_TRUE(is_told(kPushed, 1) && is_told(kSummed, 1) && is_told(kFetched, 2));
}

TEST_P(SignalsCuda, TellAtOnceWhatComesBeforeWhatIsAwaited) {
  const auto end = run({{kPushed, 1, true}, {kPushed, 1, false}});
  while (!is_told(kPushed, 1)) std::this_thread::yield();
  wait_a_little();
  EXPECT_FALSE(end->done());
  for (int rank = 0; rank < kRanks; ++rank) word(kPushed, rank, 1) = GetParam() + 2;  // they may be ahead
  stream_->synchronize();
}

TEST_P(SignalsCuda, AwaitNobodyOnceAllIsGivenUp) {
  const auto end = run({{kSummed, 7, false}, {kSummed, 7, true}, {kFetched, 7, false}});
  wait_a_little();
  EXPECT_FALSE(end->done());
  (*words_)[kGivenUp] = 1;
  stream_->synchronize();
  EXPECT_TRUE(is_told(kSummed, 7));
}

INSTANTIATE_TEST_SUITE_P(First, SignalsCuda, ::testing::Values(0U, 40'000U, 0xffff'fffdU));

}  // namespace
}  // namespace trireme::comm
