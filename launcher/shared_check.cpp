#include "launcher/shared_check.h"

#include <fmt/format.h>

#include <array>

#include "comm/host_tensor.h"
#include "core/checkpoint/checkpoint.h"
#include "core/checkpoint/checksum.h"
#include "core/files.h"
#include "launcher/agree.h"

namespace trireme {
namespace {

namespace fs = std::filesystem;

constexpr const char* kRequest = "the checkpoint to check";
constexpr const char* kAnswer = "what is wrong with the checkpoint";

/// Of a checkpoint's manifest: tells whether two ranks see the same one. "" when there is none to be read.
std::string checksum_of_manifest(const fs::path& checkpoint) {
  try {
    return checksum_text(xxh3(read_text(checkpoint / kManifestName)));
  } catch (const Error&) {
    return "";
  }
}

}  // namespace

/// The lowest rank that has a problem; the number of ranks when none has. Collective.
int SharedCheck::first_with(const std::string& problem) {
  std::array<int32_t, 1> rank{problem.empty() ? world_.size() : world_.rank()};
  world_.all_reduce(wrap_host(std::span<int32_t>(rank)), ReduceOp::min, "checkpoint checked").wait();
  return rank[0];
}

std::string SharedCheck::check_part(const fs::path& checkpoint, const std::string& manifest_checksum) const {
  try {
    if (checksum_of_manifest(checkpoint) != manifest_checksum) return "it has no manifest there, or another one";
    CheckpointReader(checkpoint).verify(world_.rank(), world_.size());
    return "";
  } catch (const Error& error) {
    return error.what();
  }
}

std::string SharedCheck::problem_of(const fs::path& checkpoint) {
  const std::string manifest = checksum_of_manifest(checkpoint);
  if (manifest.empty() || world_.size() == 1) return problem_of_checkpoint(checkpoint);
  share_text(checkpoint.string(), 0, world_, kRequest);
  share_text(manifest, 0, world_, kRequest);
  const std::string mine = check_part(checkpoint, manifest);
  const int finder = first_with(mine);
  if (finder == 0) return mine;
  if (finder == world_.size()) return "";
  const std::string theirs = share_text("", finder, world_, kAnswer);
  try {
    CheckpointReader(checkpoint).verify(finder, world_.size());
  } catch (const Error& error) {
    return error.what();
  }
  throw IoError(fmt::format("rank {} does not see the checkpoint {} as rank 0 does: {}; put it on a file system that all ranks "
                            "share",
                            finder, checkpoint.string(), theirs));
}

void SharedCheck::end() { share_text("", 0, world_, kRequest); }

void SharedCheck::serve() {
  while (true) {
    const std::string checkpoint = share_text("", 0, world_, kRequest);
    if (checkpoint.empty()) return;
    const std::string manifest = share_text("", 0, world_, kRequest);
    const std::string mine = check_part(checkpoint, manifest);
    const int finder = first_with(mine);
    if (finder > 0 && finder < world_.size()) share_text(mine, finder, world_, kAnswer);
  }
}

}  // namespace trireme
