// A model read from a checkpoint, ready to evaluate or generate.
#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "core/checkpoint/checkpoint.h"
#include "core/nn/buckets.h"
#include "launcher/device.h"
#include "models/parallel_model.h"

namespace trireme {

/// What a user means by a checkpoint: one, or a run's folder and so its newest. Says what it skipped on stderr.
std::filesystem::path find_checkpoint(const std::filesystem::path& path);

/// Over how many ranks a command divides the model; what is left of the job's ranks are replicas.
struct LayoutOptions {
  int64_t tensor = 1;
  int64_t pipeline = 1;
  int64_t context = 1;
};
/// --tensor, --pipeline and --context of a command that mpirun or srun may start.
void add_layout_options(CLI::App& command, LayoutOptions& options);

struct LoadedModel {
  std::filesystem::path checkpoint;
  std::unique_ptr<Engine> engine;
  std::unique_ptr<Mesh> mesh;
  std::unique_ptr<ParallelModel> model;
  std::vector<Bucket> buckets;  // the parameters' memory

  Context context() const { return engine->context(); }
  const ModelConfig& config() const { return model->model().config(); }
};

enum class InferenceUse : uint8_t { evaluation, generation };

/// Builds the model that the checkpoint describes, divided over `world`, and reads its weights, in f32, for samples of
/// `sequence` tokens; 0: the model's context. ConfigError when it can't be divided so, or a rank has too little memory.
/// Collective.
LoadedModel load_model(const std::filesystem::path& path, const DeviceOptions& device, const LayoutOptions& layout,
                       InferenceUse use, int64_t sequence, Group& world);

/// The tokenizer that a checkpoint's model was trained with: "bytes", or the path of a model file that exists.
/// "" when the checkpoint does not tell.
std::string tokenizer_of(const std::filesystem::path& checkpoint);

}  // namespace trireme
