#include "launcher/tensorboard.h"

#include <fmt/format.h>
#include <unistd.h>

#include <array>
#include <bit>
#include <chrono>
#include <string>

namespace trireme {
namespace {

// ---- Protocol buffers' wire format: https://protobuf.dev/programming-guides/encoding ----

void put_varint(std::string& out, uint64_t value) {
  for (; value >= 0x80; value >>= 7) out.push_back(static_cast<char>(value | 0x80));
  out.push_back(static_cast<char>(value));
}

template <class T>
void put_fixed(std::string& out, T value) {  // little-endian
  for (size_t i = 0; i < sizeof(T); ++i) out.push_back(static_cast<char>(value >> (8 * i)));
}

enum WireType : uint32_t { kVarint = 0, kFixed64 = 1, kBytes = 2, kFixed32 = 5 };

void put_tag(std::string& out, uint32_t field, WireType type) {
  put_varint(out, field << 3 | type);
}

void put_int64(std::string& out, uint32_t field, int64_t value) {
  put_tag(out, field, kVarint);
  put_varint(out, static_cast<uint64_t>(value));
}

void put_double(std::string& out, uint32_t field, double value) {
  put_tag(out, field, kFixed64);
  put_fixed(out, std::bit_cast<uint64_t>(value));
}

void put_float(std::string& out, uint32_t field, float value) {
  put_tag(out, field, kFixed32);
  put_fixed(out, std::bit_cast<uint32_t>(value));
}

void put_bytes(std::string& out, uint32_t field, std::string_view value) {
  put_tag(out, field, kBytes);
  put_varint(out, value.size());
  out.append(value);
}

// ---- Field numbers of event.proto and summary.proto ----

constexpr uint32_t kEventWallTime = 1, kEventStep = 2, kEventFileVersion = 3, kEventSummary = 5,
                   kEventSessionLog = 7;
constexpr uint32_t kSummaryValue = 1, kValueTag = 1, kValueSimple = 2;
constexpr uint32_t kSessionLogStatus = 1;
constexpr int64_t kSessionStart = 1;

double seconds_since_1970() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

std::string begin_event() {
  std::string event;
  put_double(event, kEventWallTime, seconds_since_1970());
  return event;
}

/// TensorBoard reads every file whose name has "tfevents" in it, in the order of their names.
std::string new_file_name() {
  std::array<char, 256> host{"host"};
  gethostname(host.data(), host.size() - 1);
  return fmt::format("events.out.tfevents.{:017.6f}.{}.{}", seconds_since_1970(), host.data(), getpid());
}

constexpr std::array<uint32_t, 256> make_crc_table() {
  std::array<uint32_t, 256> table{};
  for (uint32_t i = 0; i < table.size(); ++i) {
    uint32_t crc = i;
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ ((crc & 1) ? 0x82f63b78u : 0u);
    table[i] = crc;
  }
  return table;
}

/// TFRecord's disguise of checksums, so that a checksum of data that holds checksums is no special case.
uint32_t masked_crc(std::string_view bytes) {
  const uint32_t crc = crc32c(bytes);
  return ((crc >> 15) | (crc << 17)) + 0xa282ead8u;
}

}  // namespace

uint32_t crc32c(std::string_view bytes) {
  static constexpr auto kTable = make_crc_table();
  uint32_t crc = ~0u;
  for (char byte : bytes) crc = (crc >> 8) ^ kTable[(crc ^ static_cast<uint8_t>(byte)) & 0xff];
  return ~crc;
}

TensorboardWriter::TensorboardWriter(const std::filesystem::path& folder, int64_t resumed_step)
    : file_(folder / new_file_name()) {
  std::string event = begin_event();
  put_bytes(event, kEventFileVersion, "brain.Event:2");
  write_record(event);
  if (resumed_step > 0) {
    std::string session;
    put_int64(session, kSessionLogStatus, kSessionStart);
    event = begin_event();
    put_int64(event, kEventStep, resumed_step + 1);
    put_bytes(event, kEventSessionLog, session);
    write_record(event);
  }
}

void TensorboardWriter::write(const StepMetrics& m) {
  write(m.step, {{"train/loss", m.loss},
                 {"train/grad_norm", m.grad_norm},
                 {"train/lr", m.lr},
                 {"train/tokens", static_cast<double>(m.tokens)},
                 {"train/tokens_per_s", m.tokens_per_s},
                 {"train/step_ms", m.step_ms}});
  if (m.loss_scale) write(m.step, {{"train/loss_scale", *m.loss_scale}});
}

void TensorboardWriter::write(const ValidMetrics& m) {
  write(m.step, {{"valid/loss", m.loss}});
  if (m.bits_per_byte) write(m.step, {{"valid/bits_per_byte", *m.bits_per_byte}});
}

void TensorboardWriter::write(int64_t step, std::initializer_list<Scalar> scalars) {
  std::string summary;
  for (const Scalar& scalar : scalars) {
    std::string value;
    put_bytes(value, kValueTag, scalar.tag);
    put_float(value, kValueSimple, static_cast<float>(scalar.value));
    put_bytes(summary, kSummaryValue, value);
  }
  std::string event = begin_event();
  put_int64(event, kEventStep, step);
  put_bytes(event, kEventSummary, summary);
  write_record(event);
}

/// One TFRecord: length, checksum of the length, data, checksum of the data.
void TensorboardWriter::write_record(std::string_view event) {
  std::string record;
  put_fixed(record, uint64_t{event.size()});
  put_fixed(record, masked_crc(record));
  record.append(event);
  put_fixed(record, masked_crc(event));
  file_.append(record);
}

}  // namespace trireme
