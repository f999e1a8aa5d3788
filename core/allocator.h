// The caching allocator: blocks given back are kept and reused, so a steady-state step asks the device for
// nothing and addresses stay stable; bytes are counted by class, now and at the peak.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <unordered_set>

namespace trireme {

class Backend;

enum class MemoryClass : uint8_t { parameters, gradients, optimizer, activations, workspace, data };
inline constexpr size_t kNumMemoryClasses = 6;
std::string_view name_of(MemoryClass memory_class);

struct MemoryStats {
  std::array<size_t, kNumMemoryClasses> current_bytes{};  // in use, by class
  std::array<size_t, kNumMemoryClasses> peak_bytes{};     // each class's own peak
  size_t current_total_bytes = 0;
  size_t peak_total_bytes = 0;  // the peak of the sum
  size_t reserved_bytes = 0;    // held from the device: in use and cached
  size_t device_allocations = 0;  // how often the device was asked

  size_t current(MemoryClass c) const { return current_bytes[static_cast<size_t>(c)]; }
  size_t peak(MemoryClass c) const { return peak_bytes[static_cast<size_t>(c)]; }
};

std::string to_string(const MemoryStats& stats);  // a table, one class a line
/// "28.5 GiB (parameters 0.2, gradients 0.5, ...)", at the peak.
std::string describe_peak(const MemoryStats& stats);

/// One block of device memory; gives itself back to its allocator. Shared by the tensors that view it.
class Storage {
 public:
  Storage(std::shared_ptr<class Allocator> allocator, void* data, size_t bytes, size_t block_bytes, MemoryClass memory_class)
      : allocator_(std::move(allocator)), data_(data), bytes_(bytes), block_bytes_(block_bytes), class_(memory_class) {}
  /// Memory that somebody else owns and keeps alive through `owner` (a mapped file, say).
  Storage(std::shared_ptr<void> owner, void* data, size_t bytes) : owner_(std::move(owner)), data_(data), bytes_(bytes) {}
  ~Storage();
  Storage(const Storage&) = delete;
  Storage& operator=(const Storage&) = delete;

  void* data() const { return data_; }
  size_t bytes() const { return bytes_; }

 private:
  std::shared_ptr<class Allocator> allocator_;
  std::shared_ptr<void> owner_;
  void* data_;
  size_t bytes_;
  size_t block_bytes_ = 0;
  MemoryClass class_ = MemoryClass::data;
};

class Allocator : public std::enable_shared_from_this<Allocator> {
 public:
  explicit Allocator(Backend& backend) : backend_(backend) {}
  ~Allocator();

  /// `bytes` of memory, aligned to 64 bytes or more, not initialised. Where the device has none left, gives the
  /// cached blocks back to it and asks again, at last those of recorded work too, which is forgotten by that; throws IoError
  /// when it does not help, saying what holds the memory by class.
  std::shared_ptr<Storage> allocate(size_t bytes, MemoryClass memory_class);

  MemoryStats stats() const;
  void reset_peak();
  void release_cached();  // gives unused blocks back to the device

  /// Blocks handed out from begin_recording() to end_recording() belong to the recorded work: they are not given back
  /// to the device before that has no other memory, and others may have them only while the work is not replayed. Meanwhile
  /// cached blocks stay, whatever is asked for.
  void begin_recording();
  void end_recording();
  void forget_recording();
  /// Before a replay, whose blocks stay until end_replay(). False where the recorded work can't be replayed: somebody holds
  /// one of its blocks, or it was forgotten.
  bool begin_replay();
  void end_replay();
  Backend& backend() { return backend_; }

 private:
  friend class Storage;
  using Blocks = std::multimap<size_t, void*>;  // by their bytes
  void give_back(void* data, size_t bytes, size_t block_bytes, MemoryClass memory_class);
  void forget();
  Blocks take_free_blocks();
  void release(const Blocks& blocks);

  Backend& backend_;
  mutable std::mutex mutex_;
  Blocks free_;
  bool recording_ = false, has_recording_ = false, replaying_ = false;
  std::unordered_set<void*> recorded_;
  size_t recorded_in_use_ = 0;
  MemoryStats stats_;
};

}  // namespace trireme
