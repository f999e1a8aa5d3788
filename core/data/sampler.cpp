#include "core/data/sampler.h"

#include <bit>

#include "core/error.h"
#include "core/rng.h"

namespace trireme {
namespace {

constexpr int kRounds = 6;

}  // namespace

Permutation::Permutation(int64_t size, uint64_t key, uint64_t tweak)
    : size_(static_cast<uint64_t>(size)), key_(key), tweak_(tweak) {
  TRIREME_ASSERT(size >= 1, "a permutation of nothing");
  half_bits_ = (std::bit_width(size_ - 1) + 1) / 2;
}

uint64_t Permutation::encipher(uint64_t value) const {
  const uint64_t mask = (uint64_t{1} << half_bits_) - 1;
  uint64_t left = value >> half_bits_, right = value & mask;
  for (uint64_t round = 0; round < kRounds; ++round) {
    const auto bits = philox(key_, right << 3 | round, tweak_);
    const uint64_t next = left ^ ((uint64_t{bits[1]} << 32 | bits[0]) & mask);
    left = right;
    right = next;
  }
  return left << half_bits_ | right;
}

int64_t Permutation::operator()(int64_t index) const {
  TRIREME_ASSERT(index >= 0 && static_cast<uint64_t>(index) < size_, "index outside of the permutation");
  auto value = static_cast<uint64_t>(index);
  do value = encipher(value);
  while (value >= size_);
  return static_cast<int64_t>(value);
}

SampleOrder::SampleOrder(int64_t num_samples, bool shuffle, uint64_t seed, uint64_t source)
    : num_samples_(num_samples),
      shuffle_(shuffle),
      key_(make_stream(seed, hash_name("data.order") + source).key) {
  TRIREME_ASSERT(num_samples >= 1, "an order of no samples");
}

int64_t SampleOrder::sample_of(int64_t draw) const {
  const int64_t epoch = draw / num_samples_, place = draw % num_samples_;
  return shuffle_ ? Permutation(num_samples_, key_, static_cast<uint64_t>(epoch))(place) : place;
}

}  // namespace trireme
