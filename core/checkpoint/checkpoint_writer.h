// CheckpointWriter: writes one checkpoint from all ranks so that a crash at any moment leaves the older ones
// whole. Everything goes to a temporary folder, is brought to the disk, and only then gets its name.
#pragma once

#include <exception>
#include <filesystem>
#include <functional>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>

#include "core/checkpoint/manifest.h"
#include "core/checkpoint/slice.h"
#include "core/tensor.h"

namespace trireme {

class SafetensorsWriter;

struct CheckpointTarget {
  std::filesystem::path root;  // the folder of checkpoints; seen by all ranks
  int64_t step = 0;
  std::string name;  // of the new folder; "": step-00000100
  int rank = 0;
  int ranks = 1;
  /// A barrier that also tells whether every rank passed true. Not needed for one rank.
  std::function<bool(bool)> agree;

  /// What tests of crashes need: told what is about to be done; and a file system that cannot swap two names.
  std::function<void(std::string_view stage)> on_stage;
  bool can_exchange = true;
};

class CheckpointWriter {
 public:
  /// Collective over the ranks, as commit() is. Removes what interrupted writers left in `root`.
  explicit CheckpointWriter(CheckpointTarget target);
  /// Without commit(), what was written is removed.
  ~CheckpointWriter();
  CheckpointWriter(const CheckpointWriter&) = delete;
  CheckpointWriter& operator=(const CheckpointWriter&) = delete;

  /// Writes the `slice` of the tensor `name`; `values` are its elements, in host memory, and are not needed
  /// afterwards. Each element is to be added by one rank. I/O failures are kept for commit(), so that all
  /// ranks meet there.
  void add(const std::string& name, DType dtype, const Slice& slice, std::span<const std::byte> values);
  void add(const std::string& name, const Slice& slice, const Tensor& host);

  /// Free-form data of the run, such as "trainer", "model", "config". Rank 0's are kept.
  void set_section(const std::string& name, const nlohmann::json& value);

  /// Gives the checkpoint its name (replacing an older one of that name) and returns its path. On a failure
  /// on any rank, every rank throws IoError, the temporary folder is removed and older checkpoints are as
  /// they were.
  std::filesystem::path commit();

 private:
  template <class F>
  void attempt(F&& action);
  void agree(const char* what);
  void stage(std::string_view name) const;
  void prepare_root();
  void open_file(size_t header_room_bytes);
  void close_file();
  void write_part();
  void merge_parts();
  void publish();
  void remove_temporary() noexcept;

  CheckpointTarget target_;
  std::filesystem::path temporary_;
  std::filesystem::path final_;
  std::unique_ptr<SafetensorsWriter> file_;  // null between files
  Manifest part_;                            // of this rank
  std::unordered_map<std::string, int> times_added_;
  std::exception_ptr failure_;  // the first
  bool done_ = false;
};

}  // namespace trireme
