#include "core/checkpoint/checkpoint_folders.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>

#include "core/checkpoint/checkpoint_reader.h"
#include "core/error.h"
#include "core/files.h"

namespace trireme {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kNamePrefix = "step-";

/// The step that `prefix` + "step-00000100" names; nothing for other names.
std::optional<int64_t> step_of(std::string_view name, std::string_view prefix = "") {
  if (!name.starts_with(prefix)) return {};
  name.remove_prefix(prefix.size());
  if (!name.starts_with(kNamePrefix)) return {};
  name.remove_prefix(kNamePrefix.size());
  int64_t step = 0;
  const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), step);
  if (error != std::errc{} || end != name.data() + name.size() || step < 0 || name.size() < 8) return {};
  return step;
}

std::vector<fs::path> folders_in(const fs::path& root) {
  std::vector<fs::path> folders;
  std::error_code error;
  for (fs::directory_iterator it(root, error), end; !error && it != end; it.increment(error))
    if (it->is_directory(error)) folders.push_back(it->path());
  if (error && error != std::errc::no_such_file_or_directory)
    throw IoError(fmt::format("cannot read the folder {}: {}", root.string(), error.message()));
  return folders;
}

void remove_folder(const fs::path& folder) {
  std::error_code error;
  fs::remove_all(folder, error);
  if (error) throw IoError(fmt::format("cannot remove {}: {}", folder.string(), error.message()));
}

/// The first name that is free for a checkpoint set aside.
fs::path abandoned_path(const fs::path& root, const std::string& name) {
  const fs::path plain = root / (kAbandonedPrefix + name);
  fs::path path = plain;
  for (int i = 2; fs::exists(path); ++i) path = fmt::format("{}-{}", plain.string(), i);
  return path;
}

/// The name goes first: a crash then leaves no checkpoint that is half there.
void remove_checkpoint(const fs::path& checkpoint) {
  const fs::path removed = checkpoint.parent_path() / (kTemporaryPrefix + checkpoint.filename().string());
  remove_folder(removed);
  rename_path(checkpoint, removed);
  remove_folder(removed);
}

}  // namespace

std::string checkpoint_name(int64_t step) {
  return fmt::format("{}{:08}", kNamePrefix, step);
}

std::vector<fs::path> find_checkpoints(const fs::path& root) {
  std::vector<std::pair<int64_t, fs::path>> found;
  for (const fs::path& folder : folders_in(root)) {
    const std::string name = folder.filename();
    if (const auto step = step_of(name)) found.emplace_back(*step, folder);
    const auto aside = step_of(name, kAsidePrefix);
    if (aside && !fs::exists(root / checkpoint_name(*aside))) found.emplace_back(*aside, folder);
  }
  std::ranges::sort(found, std::greater{}, &std::pair<int64_t, fs::path>::first);
  std::vector<fs::path> paths;
  for (auto& [step, path] : found) paths.push_back(std::move(path));
  return paths;
}

std::string problem_of_checkpoint(const fs::path& checkpoint) {
  try {
    CheckpointReader(checkpoint).verify();
    return "";
  } catch (const Error& error) {
    return error.what();
  }
}

std::optional<fs::path> choose_resume(const fs::path& root, const CheckpointLog& log, const CheckpointCheck& check) {
  for (const fs::path& folder : folders_in(root))
    if (step_of(folder.filename().string(), kTemporaryPrefix))
      log(fmt::format("skipping {}: its writing did not end", folder.string()));
  for (const fs::path& checkpoint : find_checkpoints(root)) {
    const std::string problem = check(checkpoint);
    if (problem.empty()) return checkpoint;
    log(fmt::format("skipping the checkpoint {}: {}", checkpoint.string(), problem));
  }
  return {};
}

fs::path resolve_checkpoint(const fs::path& path, const CheckpointLog& log, const CheckpointCheck& check) {
  if (fs::exists(path) && !fs::is_directory(path))
    throw ConfigError(fmt::format("no checkpoint at {}: it is a file; name a checkpoint's folder, or a run's", path.string()));
  if (fs::exists(path / kManifestName)) return path;
  if (const auto chosen = choose_resume(path, log, check)) return *chosen;
  if (!fs::exists(path))
    throw ConfigError(fmt::format("no checkpoint at {}: there is no such folder", path.string()));
  throw ConfigError(
      fmt::format("no checkpoint at {}: it has no {} and holds no valid step-* folder; name a checkpoint, or "
                  "a folder of them",
                  path.string(), kManifestName));
}

void prune(const fs::path& root, int keep, const fs::path& known_valid) {
  TRIREME_ASSERT(keep >= 1, "prune: at least one checkpoint stays");
  clean_leftovers(root);
  const std::vector<fs::path> checkpoints = find_checkpoints(root);
  if (checkpoints.size() <= static_cast<size_t>(keep)) return;
  bool valid_stays = false;
  for (size_t i = 0; i < checkpoints.size(); ++i) {
    const bool known = checkpoints[i] == known_valid;  // others are newer where a run went back
    if (known || (!valid_stays && problem_of_checkpoint(checkpoints[i]).empty()))
      valid_stays = true;  // the newest valid one, however old
    else if (i >= static_cast<size_t>(keep))
      remove_checkpoint(checkpoints[i]);
  }
}

void set_aside_newer(const fs::path& root, int64_t step, const CheckpointLog& log) {
  clean_leftovers(root);  // else the older half of a replacement would come to light
  bool moved = false;
  for (const fs::path& checkpoint : find_checkpoints(root)) {
    const std::string name = checkpoint.filename();
    if (step_of(name).value_or(0) <= step) break;  // the newest come first
    const fs::path aside = abandoned_path(root, name);
    rename_path(checkpoint, aside);
    moved = true;
    log(fmt::format("{} is of a later step than {}, where this run starts: it is kept as {}",
                    checkpoint.string(), step, aside.string()));
  }
  if (moved) sync_folder(root);
}

void clean_leftovers(const fs::path& root) {
  for (const fs::path& folder : folders_in(root)) {
    const std::string name = folder.filename();
    if (const auto step = step_of(name, kAsidePrefix)) recover_replaced(root, checkpoint_name(*step));
    if (step_of(name, kTemporaryPrefix)) remove_folder(folder);
  }
}

void recover_replaced(const fs::path& root, const std::string& name) {
  const fs::path aside = root / (kAsidePrefix + name);
  if (!fs::exists(aside)) return;
  if (fs::exists(root / name))
    remove_folder(aside);
  else
    rename_path(aside, root / name);
}

}  // namespace trireme
