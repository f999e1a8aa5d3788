// Which units of a model (embedding, blocks, classifier) make which pipeline stage.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace trireme {

/// Plain numbers of a GPT, as in ModelConfig with its defaults filled in.
struct GptSize {
  int64_t layers, width, ffn, heads, kv_heads, vocab;
  int64_t tokens;  // of a sample
};

/// Floating-point operations of one sample's forward pass through each unit: embedding, blocks, classifier.
/// Products alone count: 2 operations a weight and token (Kaplan et al., Scaling Laws for Neural Language
/// Models, 2020, section 2.1), and causal attention's two products over half of all pairs of tokens. The
/// embedding, which has none, counts for its memory traffic. Both halves of backward take as many each, so a
/// stage's whole step is three times this.
std::vector<double> unit_costs(const GptSize& size);

/// Boundaries of `num_stages` stages: stage s has the units [b[s], b[s+1]). The costliest stage costs the
/// least that is possible; among such cuts the stages are the most even (least squares), and of equals the
/// first ones are smaller, since they keep the most activations. Each stage has one unit or more; ConfigError
/// when there are fewer units.
std::vector<int64_t> cut_stages(std::span<const double> unit_costs, int64_t num_stages);

/// Likewise for ranks that have several stages each: units move between stages as long as the costliest rank
/// then costs less, the ranks are more even, or else the stages, in this order of importance.
std::vector<int64_t> cut_stages_of_ranks(std::span<const double> unit_costs, std::span<const int> rank_of_stage);

/// The same boundaries from numbers of transformer blocks, one a stage; the first stage also has the
/// embedding, the last one the classifier, so these two may have no blocks. ConfigError unless there are
/// `num_stages` numbers that sum to `layers`.
std::vector<int64_t> cut_stages_by_layers(std::span<const int64_t> layers_of_stage, int64_t num_stages,
                                          int64_t layers);

/// The sum of each stage's units.
std::vector<double> stage_costs(std::span<const double> unit_costs, std::span<const int64_t> boundaries);

}  // namespace trireme
