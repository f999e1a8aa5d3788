#include "core/checkpoint/checkpoint_writer.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <system_error>

#include "core/checkpoint/checkpoint_folders.h"
#include "core/checkpoint/checksum.h"
#include "core/checkpoint/safetensors.h"
#include "core/error.h"
#include "core/files.h"

namespace trireme {
namespace {

namespace fs = std::filesystem;

constexpr size_t kHeaderRoomBytes = 128 << 10;         // about a thousand tensors
constexpr uint64_t kMaxFileBytes = uint64_t{4} << 30;  // a file is closed once it is longer

std::string part_name(int rank) {
  return fmt::format("rank-{:05}.json", rank);
}

}  // namespace

CheckpointWriter::CheckpointWriter(CheckpointTarget target) : target_(std::move(target)) {
  TRIREME_ASSERT(target_.rank >= 0 && target_.rank < target_.ranks, "checkpoint: rank out of range");
  TRIREME_ASSERT(target_.ranks == 1 || target_.agree, "checkpoint: several ranks need agree()");
  const std::string name = target_.name.empty() ? checkpoint_name(target_.step) : target_.name;
  final_ = target_.root / name;
  temporary_ = target_.root / (kTemporaryPrefix + name);
  part_.step = target_.step;
  part_.ranks = target_.ranks;
  // A failure is not thrown here: commit() reports it, on all ranks.
  if (target_.rank == 0) attempt([&] { prepare_root(); });
  const bool ready = target_.ranks == 1 || target_.agree(failure_ == nullptr);
  attempt([&] {
    if (!ready)
      throw IoError(fmt::format("checkpoint {}: rank 0 could not create its folder", final_.string()));
    if (!fs::exists(temporary_))
      throw IoError(
          fmt::format("rank {} does not see the folder {} that rank 0 made; put the checkpoints on a file "
                      "system that all ranks share",
                      target_.rank, temporary_.string()));
  });
}

CheckpointWriter::~CheckpointWriter() {
  if (!done_ && target_.rank == 0) remove_temporary();
}

void CheckpointWriter::prepare_root() {
  std::error_code error;
  fs::create_directories(target_.root, error);
  if (error)
    throw IoError(fmt::format("cannot create the folder {}: {}", target_.root.string(), error.message()));
  clean_leftovers(target_.root);
  recover_replaced(target_.root, final_.filename());
  fs::remove_all(temporary_, error);
  if (!fs::create_directory(temporary_, error))
    throw IoError(fmt::format("cannot create the folder {}: {}", temporary_.string(), error.message()));
}

template <class F>
void CheckpointWriter::attempt(F&& action) {
  if (failure_) return;
  try {
    action();
  } catch (const InternalError&) {
    throw;
  } catch (const Error&) {
    failure_ = std::current_exception();
  } catch (const std::system_error& error) {  // of std::filesystem
    failure_ = std::make_exception_ptr(IoError(error.what()));
  }
}

void CheckpointWriter::stage(std::string_view name) const {
  if (target_.on_stage) target_.on_stage(name);
}

void CheckpointWriter::add(const std::string& name, DType dtype, const Slice& slice,
                           std::span<const std::byte> values) {
  TRIREME_ASSERT(values.size() == static_cast<size_t>(slice.numel()) * size_of(dtype),
                 fmt::format("{}: {} bytes for {}", name, values.size(), to_string(slice)));
  TRIREME_ASSERT(name.find('#') == std::string::npos, name + ": '#' numbers the slices of one name");
  attempt([&] {
    // The file holds a rectangle in its shape, a flat range as a row; a name that repeats gets a number.
    SafetensorsSpec spec{name, dtype, slice.is_rectangle() ? slice.size : Shape{slice.numel()}};
    if (const int repeats = times_added_[name]++; repeats > 0) spec.name += fmt::format("#{}", repeats);

    if (file_ && (!file_->has_room(spec) || file_->file_bytes() > kMaxFileBytes)) close_file();
    if (!file_) open_file(kHeaderRoomBytes + spec.name.size());
    file_->begin_tensor(spec);
    file_->append(values);
    part_.entries.push_back({name, dtype, slice, file_->path().filename(), spec.name, xxh3(values)});
  });
}

void CheckpointWriter::add(const std::string& name, const Slice& slice, const Tensor& host) {
  TRIREME_ASSERT(host.device().kind == DeviceKind::cpu, name + " is not in host memory");
  add(name, host.dtype(), slice, {static_cast<const std::byte*>(host.raw()), host.bytes()});
}

void CheckpointWriter::set_section(const std::string& name, const nlohmann::json& value) {
  part_.sections[name] = value.dump();
}

void CheckpointWriter::open_file(size_t header_room_bytes) {
  stage("write");
  const std::string name = fmt::format("rank-{:05}-{:03}.safetensors", target_.rank, part_.files.size());
  file_ = std::make_unique<SafetensorsWriter>(temporary_ / name, header_room_bytes);
}

void CheckpointWriter::close_file() {
  const std::string header = file_->finish();
  part_.files.push_back({file_->path().filename(), file_->file_bytes(), xxh3(header)});
  file_.reset();
}

fs::path CheckpointWriter::commit() {
  attempt([&] {
    if (file_) close_file();
    write_part();
  });
  agree("write its part");
  if (target_.rank == 0)
    attempt([&] {
      merge_parts();
      publish();
    });
  agree("publish it");
  done_ = true;
  return final_;
}

/// Throws on every rank when an attempt failed on any.
void CheckpointWriter::agree(const char* what) {
  const bool all = target_.ranks == 1 ? failure_ == nullptr : target_.agree(failure_ == nullptr);
  if (all) return;
  done_ = true;
  file_.reset();
  if (target_.rank == 0) remove_temporary();
  if (failure_) std::rethrow_exception(failure_);
  throw IoError(
      fmt::format("checkpoint {}: another rank could not {}; its message says why", final_.string(), what));
}

void CheckpointWriter::write_part() {
  stage("part");
  write_text_durably(temporary_ / part_name(target_.rank), manifest_text(part_));
}

void CheckpointWriter::merge_parts() {
  stage("merge");
  Manifest whole = part_;
  for (int rank = 1; rank < target_.ranks; ++rank) {
    const fs::path path = temporary_ / part_name(rank);
    const Manifest part = parse_manifest(read_text(path), path.string());
    whole.files.insert(whole.files.end(), part.files.begin(), part.files.end());
    whole.entries.insert(whole.entries.end(), part.entries.begin(), part.entries.end());
  }
  write_text_durably(temporary_ / kManifestName, manifest_text(whole));
  for (int rank = 0; rank < target_.ranks; ++rank) fs::remove(temporary_ / part_name(rank));
  sync_folder(temporary_);
}

/// One rename gives the folder its name. Where a folder of that name exists, the two are swapped in one step;
/// where the file system cannot do that, the older one is moved aside, and clean_leftovers() moves it back
/// after a crash.
void CheckpointWriter::publish() {
  stage("publish");
  if (!fs::exists(final_)) {
    rename_path(temporary_, final_);
  } else if (target_.can_exchange && exchange_paths(temporary_, final_)) {
    stage("exchanged");
    remove_temporary();
  } else {
    const fs::path aside = target_.root / (kAsidePrefix + final_.filename().string());
    rename_path(final_, aside);
    stage("moved aside");
    try {
      rename_path(temporary_, final_);
    } catch (const IoError&) {
      rename_path(aside, final_);
      throw;
    }
    stage("moved in");
    fs::remove_all(aside);
  }
  sync_folder(target_.root);
  stage("published");
}

void CheckpointWriter::remove_temporary() noexcept {
  file_.reset();
  std::error_code ignored;  // what stays is removed by the next writer
  fs::remove_all(temporary_, ignored);
}

}  // namespace trireme
