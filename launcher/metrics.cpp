#include "launcher/metrics.h"

#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>

namespace trireme {
namespace {

using Json = nlohmann::ordered_json;

/// Bytes of the whole lines of steps up to `step`: the first line beyond it, or that is no such line, ends
/// them.
uintmax_t bytes_up_to(const std::filesystem::path& file, int64_t step) {
  std::ifstream in(file, std::ios::binary);
  uintmax_t bytes = 0;
  for (std::string line; std::getline(in, line) && !in.eof(); bytes += line.size() + 1) {
    const Json json = Json::parse(line, nullptr, false);
    if (!json.is_object()) break;
    const auto found = json.find("step");
    if (found == json.end() || !found->is_number_integer() || found->get<int64_t>() > step) break;
  }
  return bytes;
}

}  // namespace

MetricsWriter::MetricsWriter(const std::filesystem::path& file, int64_t resumed_step)
    : file_(file, resumed_step > 0 ? bytes_up_to(file, resumed_step) : 0) {}

void MetricsWriter::write(const StepMetrics& m) {
  Json line{{"step", m.step},      {"loss", m.loss},     {"grad_norm", m.grad_norm},
            {"lr", m.lr},          {"tokens", m.tokens}, {"tokens_per_s", m.tokens_per_s},
            {"step_ms", m.step_ms}};
  if (m.loss_scale) line["loss_scale"] = *m.loss_scale;
  if (m.skipped) line["skipped"] = true;
  file_.append(line.dump() + "\n");
}

void MetricsWriter::write(const ValidMetrics& m) {
  Json line{{"step", m.step}, {"valid_loss", m.loss}, {"valid_perplexity", std::exp(m.loss)}};
  if (m.bits_per_byte) line["valid_bits_per_byte"] = *m.bits_per_byte;
  line["valid_tokens"] = m.tokens;
  file_.append(line.dump() + "\n");
}

}  // namespace trireme
