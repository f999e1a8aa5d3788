#include "core/allocator.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>

#include "core/backend.h"
#include "core/error.h"

namespace trireme {
namespace {

constexpr size_t kAlignBytes = 64;
constexpr size_t kHugePageBytes = size_t{2} << 20;

// Small blocks in 12.5 % steps of a power of two, large ones in whole huge pages: few sizes, so blocks are reused.
size_t block_size(size_t bytes) {
  bytes = std::max(bytes, kAlignBytes);
  if (bytes >= kHugePageBytes) return (bytes + kHugePageBytes - 1) / kHugePageBytes * kHugePageBytes;
  const size_t step = std::max(kAlignBytes, std::bit_floor(bytes) / 8);
  return (bytes + step - 1) / step * step;
}

constexpr std::string_view kWhatNeedsLess =
    "A smaller batch.micro, model.recompute: selective or full, a shorter batch.sequence or a smaller model needs less; so do more\n"
    "ranks of parallel.tensor or parallel.pipeline. `trireme plan` estimates what each rank needs.";

/// " where 139.8 GiB are in all, 0.1 free, ..."; nothing where the device does not tell.
std::string describe_device(const Backend& backend, const MemoryStats& stats) {
  if (backend.model_name().empty()) return "";
  const size_t all = backend.memory_bytes(), free = backend.free_bytes();
  const auto gib = [](size_t bytes) { return static_cast<double>(bytes) / 0x1p30; };
  const size_t others = all - std::min(all, free + stats.reserved_bytes);
  return fmt::format(" where {:.2f} GiB are in all, {:.2f} free, {:.2f} held here ({:.2f} in use, the rest in pieces that don't fit) "
                     "and {:.2f} held by libraries and other processes (nvidia-smi lists these)",
                     gib(all), gib(free), gib(stats.reserved_bytes), gib(stats.current_total_bytes), gib(others));
}

}  // namespace

std::string_view name_of(MemoryClass memory_class) {
  constexpr std::array<std::string_view, kNumMemoryClasses> names{"parameters",  "gradients", "optimizer",
                                                                  "activations", "workspace", "data"};
  return names[static_cast<size_t>(memory_class)];
}

std::string to_string(const MemoryStats& stats) {
  std::string text = fmt::format("{:<12} {:>12} {:>12}\n", "memory", "now MiB", "peak MiB");
  for (size_t i = 0; i < kNumMemoryClasses; ++i)
    text += fmt::format("{:<12} {:>12.1f} {:>12.1f}\n", name_of(static_cast<MemoryClass>(i)),
                        static_cast<double>(stats.current_bytes[i]) / 0x1p20, static_cast<double>(stats.peak_bytes[i]) / 0x1p20);
  return text + fmt::format("{:<12} {:>12.1f} {:>12.1f}\n", "all", static_cast<double>(stats.current_total_bytes) / 0x1p20,
                            static_cast<double>(stats.peak_total_bytes) / 0x1p20);
}

std::string describe_peak(const MemoryStats& stats) {
  const bool large = stats.peak_total_bytes >= size_t{1} << 30;
  const auto amount = [&](size_t bytes) { return fmt::format("{:.2f}", static_cast<double>(bytes) / (large ? 0x1p30 : 0x1p20)); };
  std::string classes;
  for (size_t i = 0; i < kNumMemoryClasses; ++i)
    classes += fmt::format("{}{} {}", i ? ", " : "", name_of(static_cast<MemoryClass>(i)), amount(stats.peak_bytes[i]));
  return fmt::format("{} {} (peaks by class: {}; held from the device: {})", amount(stats.peak_total_bytes), large ? "GiB" : "MiB",
                     classes, amount(stats.reserved_bytes));
}

Storage::~Storage() {
  if (allocator_) allocator_->give_back(data_, bytes_, block_bytes_, class_);
}

Allocator::~Allocator() {
  recorded_.clear();
  release_cached();
}

std::shared_ptr<Storage> Allocator::allocate(size_t bytes, MemoryClass memory_class) {
  const size_t block_bytes = block_size(bytes);
  void* data = nullptr;
  size_t found_bytes = block_bytes;
  std::unique_lock lock(mutex_);
  // A cached block up to an eighth larger will do.
  if (auto it = free_.lower_bound(block_bytes); it != free_.end() && it->first <= block_bytes + block_bytes / 8) {
    found_bytes = it->first;
    data = it->second;
    free_.erase(it);
  } else {
    // Without mutex_: it may wait for the device, and that for threads that give memory back.
    const auto ask = [&] {
      lock.unlock();
      void* const got = backend_.allocate(block_bytes);
      lock.lock();
      return got;
    };
    data = ask();
    const auto ask_after_release = [&] {
      const Blocks blocks = take_free_blocks();
      if (blocks.empty()) return;
      lock.unlock();
      release(blocks);
      lock.lock();
      data = ask();
    };
    // What is cached in other sizes may be what is missing; but steps that can't be recorded need it again.
    if (!data && !recording_) ask_after_release();
    if (!data && has_recording_ && !replaying_) {
      forget();
      ask_after_release();
    }
    if (!data) {
      const MemoryStats stats = stats_;
      lock.unlock();  // the device is asked again
      throw IoError(fmt::format("out of memory on {}: {} bytes more were asked for{}; what holds it now:\n{}{}",
                                to_string(backend_.device()), bytes, describe_device(backend_, stats), to_string(stats),
                                kWhatNeedsLess));
    }
    stats_.reserved_bytes += block_bytes;
    ++stats_.device_allocations;
  }
  if (recording_) recorded_.insert(data);
  if (recorded_.contains(data)) ++recorded_in_use_;
  const auto c = static_cast<size_t>(memory_class);
  stats_.current_bytes[c] += bytes;
  stats_.current_total_bytes += bytes;
  stats_.peak_bytes[c] = std::max(stats_.peak_bytes[c], stats_.current_bytes[c]);
  stats_.peak_total_bytes = std::max(stats_.peak_total_bytes, stats_.current_total_bytes);
  return std::make_shared<Storage>(shared_from_this(), data, bytes, found_bytes, memory_class);
}

void Allocator::give_back(void* data, size_t bytes, size_t block_bytes, MemoryClass memory_class) {
  std::lock_guard lock(mutex_);
  free_.emplace(block_bytes, data);
  if (recorded_.contains(data)) --recorded_in_use_;
  stats_.current_bytes[static_cast<size_t>(memory_class)] -= bytes;
  stats_.current_total_bytes -= bytes;
}

MemoryStats Allocator::stats() const {
  std::lock_guard lock(mutex_);
  return stats_;
}

void Allocator::reset_peak() {
  std::lock_guard lock(mutex_);
  stats_.peak_bytes = stats_.current_bytes;
  stats_.peak_total_bytes = stats_.current_total_bytes;
}

void Allocator::release_cached() {
  std::unique_lock lock(mutex_);
  const Blocks blocks = take_free_blocks();
  lock.unlock();
  release(blocks);
}

/// Those that are no recorded work's. With mutex_ held.
Allocator::Blocks Allocator::take_free_blocks() {
  Blocks taken;
  for (auto it = free_.begin(); it != free_.end();) {
    if (recorded_.contains(it->second)) {
      ++it;
      continue;
    }
    stats_.reserved_bytes -= it->first;
    taken.insert(free_.extract(it++));
  }
  return taken;
}

/// Without mutex_: it waits for the device, and that may wait for threads that give memory back.
void Allocator::release(const Blocks& blocks) {
  for (const auto& [bytes, data] : blocks) backend_.deallocate(data, bytes);
}

void Allocator::begin_recording() {
  std::lock_guard lock(mutex_);
  TRIREME_ASSERT(!recording_ && recorded_.empty(), "one recording at a time: forget_recording() first");
  recording_ = true;
}

void Allocator::end_recording() {
  std::lock_guard lock(mutex_);
  recording_ = false;
  has_recording_ = true;
}

void Allocator::forget_recording() {
  std::lock_guard lock(mutex_);
  forget();
}

bool Allocator::begin_replay() {
  std::lock_guard lock(mutex_);
  replaying_ = has_recording_ && recorded_in_use_ == 0;
  return replaying_;
}

void Allocator::end_replay() {
  std::lock_guard lock(mutex_);
  replaying_ = false;
}

/// With mutex_ held.
void Allocator::forget() {
  recorded_.clear();
  recorded_in_use_ = 0;
  has_recording_ = false;
}

}  // namespace trireme
