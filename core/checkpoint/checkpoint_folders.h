// The folder of checkpoints: which there are, which one to resume from, which old ones to remove.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

namespace trireme {

inline constexpr const char* kTemporaryPrefix = ".tmp-";       // of folders that are being written or removed
inline constexpr const char* kAsidePrefix = ".old-";           // of one that is being replaced
inline constexpr const char* kAbandonedPrefix = "abandoned-";  // of one that set_aside_newer() renamed

using CheckpointLog = std::function<void(const std::string& message)>;
/// What is wrong with a checkpoint; "" when nothing is.
using CheckpointCheck = std::function<std::string(const std::filesystem::path& checkpoint)>;

/// A check that reads every byte.
std::string problem_of_checkpoint(const std::filesystem::path& checkpoint);

std::string checkpoint_name(int64_t step);  // "step-00000100"

/// All checkpoints of a folder, newest step first, valid or not; none when the folder does not exist. One
/// that a crash left moved aside is among them.
std::vector<std::filesystem::path> find_checkpoints(const std::filesystem::path& root);

/// The newest checkpoint all of whose bytes are as they were written, as `check` says. Says what it skipped and
/// why. Reads only, so it may look at the folder of a run that is alive.
std::optional<std::filesystem::path> choose_resume(const std::filesystem::path& root, const CheckpointLog& log,
                                                   const CheckpointCheck& check = problem_of_checkpoint);

/// What a user means by a path: a checkpoint, or a folder of them and so the newest valid one. ConfigError
/// else.
std::filesystem::path resolve_checkpoint(const std::filesystem::path& path, const CheckpointLog& log,
                                         const CheckpointCheck& check = problem_of_checkpoint);

/// Removes all but the newest `keep` checkpoints (at least 1), and never the newest valid one or
/// `known_valid`: one of `root` that this process has just written, which need not be read again to be
/// believed.
void prune(const std::filesystem::path& root, int keep, const std::filesystem::path& known_valid = {});

/// For a run that starts after `step`: the checkpoints of later steps belong to a course that it leaves. Each
/// is renamed, to "abandoned-step-00000100" (or "...-2" and so on where that exists), and `log` is told:
/// nothing is lost, and nothing here looks at them again unless a user names one. For the one process that
/// writes to `root`; a folder that does not exist is fine.
void set_aside_newer(const std::filesystem::path& root, int64_t step, const CheckpointLog& log);

/// Removes what interrupted writers of step-* left, and finishes or undoes their replacements. For the one
/// process that writes to `root`.
void clean_leftovers(const std::filesystem::path& root);

/// Where a crash interrupted the replacement of the checkpoint `name`: moves the older one back if the newer
/// has not got the name yet, removes it otherwise.
void recover_replaced(const std::filesystem::path& root, const std::string& name);

}  // namespace trireme
