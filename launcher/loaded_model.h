// A model read from a checkpoint, ready to evaluate or generate.
#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "core/checkpoint/checkpoint.h"
#include "core/nn/buckets.h"
#include "launcher/device.h"
#include "models/model.h"

namespace trireme {

/// What a user means by a checkpoint: one, or a run's folder and so its newest. Says what it skipped on stderr.
std::filesystem::path find_checkpoint(const std::filesystem::path& path);

struct LoadedModel {
  std::filesystem::path checkpoint;
  std::unique_ptr<Engine> engine;
  std::unique_ptr<Model> model;
  std::vector<Bucket> buckets;  // the parameters' memory

  Context context() const { return engine->context(); }
};

/// Builds the model that the checkpoint describes and reads its weights, in f32.
LoadedModel load_model(const std::filesystem::path& path, const DeviceOptions& device);

/// The tokenizer that a checkpoint's model was trained with: "bytes", or the path of a model file that exists.
/// "" when the checkpoint does not tell.
std::string tokenizer_of(const std::filesystem::path& checkpoint);

}  // namespace trireme
