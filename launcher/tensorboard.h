// TensorBoard event files: the same numbers as metrics.jsonl, for its web page. The format is that of
// TFRecord files (tensorflow/core/lib/io/record_writer.h) holding Event messages
// (tensorflow/core/util/event.proto), which are simple enough to be encoded by hand.
#pragma once

#include <cstdint>
#include <filesystem>
#include <initializer_list>
#include <string_view>

#include "launcher/append_file.h"
#include "launcher/metrics.h"

namespace trireme {

/// CRC-32C (Castagnoli), as in RFC 3720, appendix B.4.
uint32_t crc32c(std::string_view bytes);

class TensorboardWriter {
 public:
  struct Scalar {
    std::string_view tag;
    double value;
  };

  /// Begins a new file in `folder`. A run resumed after `resumed_step` tells TensorBoard to forget what
  /// earlier files of the folder say of later steps. IoError names the file.
  explicit TensorboardWriter(const std::filesystem::path& folder, int64_t resumed_step = 0);

  void write(const StepMetrics& metrics);
  void write(const ValidMetrics& metrics);
  void write(int64_t step, std::initializer_list<Scalar> scalars);

 private:
  void write_record(std::string_view event);

  AppendFile file_;
};

}  // namespace trireme
