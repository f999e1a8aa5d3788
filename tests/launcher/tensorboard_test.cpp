// Event files, read back by a small parser of their own: framing, checksums, fields.
// tests/parity/tensorboard_read.py reads them with TensorBoard itself.
#include "launcher/tensorboard.h"

#include <gtest/gtest.h>

#include <chrono>
#include <cstring>
#include <fstream>
#include <iterator>
#include <map>
#include <optional>
#include <vector>

#include "tests/temporary_folder.h"

namespace trireme {
namespace {

/// Reads little-endian numbers and varints off the front of a text.
class Bytes {
 public:
  explicit Bytes(std::string_view bytes) : bytes_(bytes) {}
  bool empty() const { return bytes_.empty(); }
  std::string_view take(size_t n) {
    if (n > bytes_.size()) throw std::runtime_error("cut short");
    const std::string_view taken = bytes_.substr(0, n);
    bytes_.remove_prefix(n);
    return taken;
  }
  template <class T>
  T number() {
    T value;
    std::memcpy(&value, take(sizeof value).data(), sizeof value);
    return value;
  }
  uint64_t varint() {
    uint64_t value = 0;
    for (int shift = 0;; shift += 7) {
      const auto byte = number<uint8_t>();
      value |= uint64_t{byte & 0x7fu} << shift;
      if (byte < 0x80) return value;
    }
  }

 private:
  std::string_view bytes_;
};

struct Event {
  double wall_time = 0;
  int64_t step = 0;
  std::string file_version;
  std::optional<uint64_t> session_status;
  std::map<std::string, float> scalars;
};

void read_value(Bytes value, Event& event) {
  std::string tag;
  float simple = 0;
  while (!value.empty()) {
    switch (value.varint()) {
      case 1 << 3 | 2:
        tag = value.take(value.varint());
        break;
      case 2 << 3 | 5:
        simple = value.number<float>();
        break;
      default:
        throw std::runtime_error("unknown field of a value");
    }
  }
  event.scalars[tag] = simple;
}

Event read_event(Bytes bytes) {
  Event event;
  while (!bytes.empty()) {
    switch (bytes.varint()) {
      case 1 << 3 | 1:
        event.wall_time = bytes.number<double>();
        break;
      case 2 << 3 | 0:
        event.step = static_cast<int64_t>(bytes.varint());
        break;
      case 3 << 3 | 2:
        event.file_version = bytes.take(bytes.varint());
        break;
      case 5 << 3 | 2:
        for (Bytes summary(bytes.take(bytes.varint())); !summary.empty();) {
          EXPECT_EQ(summary.varint(), 1u << 3 | 2);
          read_value(Bytes(summary.take(summary.varint())), event);
        }
        break;
      case 7 << 3 | 2: {
        Bytes session(bytes.take(bytes.varint()));
        EXPECT_EQ(session.varint(), 1u << 3 | 0);
        event.session_status = session.varint();
        break;
      }
      default:
        throw std::runtime_error("unknown field of an event");
    }
  }
  return event;
}

uint32_t unmask(uint32_t masked) {
  const uint32_t rotated = masked - 0xa282ead8u;
  return rotated >> 17 | rotated << 15;
}

std::vector<Event> events_of(const std::filesystem::path& folder) {
  std::vector<Event> events;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    EXPECT_NE(entry.path().filename().string().find("tfevents"), std::string::npos);
    std::ifstream in(entry.path(), std::ios::binary);
    const std::string content(std::istreambuf_iterator<char>(in), {});
    for (Bytes bytes(content); !bytes.empty();) {
      const std::string_view length = bytes.take(8);
      EXPECT_EQ(unmask(bytes.number<uint32_t>()), crc32c(length));
      const std::string_view data = bytes.take(Bytes(length).number<uint64_t>());
      EXPECT_EQ(unmask(bytes.number<uint32_t>()), crc32c(data));
      events.push_back(read_event(Bytes(data)));
    }
  }
  return events;
}

TEST(Tensorboard, ChecksumsAreThoseOfTheStandard) {  // RFC 3720, appendix B.4
  EXPECT_EQ(crc32c("123456789"), 0xe3069283u);
  EXPECT_EQ(crc32c(std::string(32, '\0')), 0x8a9136aau);
  EXPECT_EQ(crc32c(std::string(32, '\xff')), 0x62a8ab43u);
}

TEST(Tensorboard, AFileSaysItsVersionAndThenItsScalars) {
  TemporaryFolder folder;
  TensorboardWriter writer(folder / "tb");
  writer.write(StepMetrics{.step = 300, .loss = 2.5, .grad_norm = 0.5, .lr = 0.001, .tokens = 4096});
  writer.write(ValidMetrics{.step = 300, .loss = 3.0, .bits_per_byte = 2.25});
  const auto events = events_of(folder / "tb");
  ASSERT_EQ(events.size(), 4u);
  EXPECT_EQ(events[0].file_version, "brain.Event:2");
  const double now =
      std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
  EXPECT_NEAR(events[0].wall_time, now, 60);
  EXPECT_EQ(events[1].step, 300);
  EXPECT_EQ(events[1].scalars.at("train/loss"), 2.5f);
  EXPECT_EQ(events[1].scalars.at("train/lr"), 0.001f);
  EXPECT_EQ(events[1].scalars.at("train/tokens"), 4096.0f);
  EXPECT_EQ(events[2].scalars.at("valid/loss"), 3.0f);
  EXPECT_EQ(events[3].scalars.at("valid/bits_per_byte"), 2.25f);
}

TEST(Tensorboard, AScaledLossHasItsScale) {
  TemporaryFolder folder;
  TensorboardWriter writer(folder / "tb");
  writer.write(StepMetrics{.step = 1, .loss_scale = 1024.0});
  const auto events = events_of(folder / "tb");
  ASSERT_EQ(events.size(), 3u);
  EXPECT_EQ(events[2].step, 1);
  EXPECT_EQ(events[2].scalars.at("train/loss_scale"), 1024.0f);
}

TEST(Tensorboard, AResumedRunBeginsASession) {
  TemporaryFolder folder;
  TensorboardWriter writer(folder.path(), 20);
  writer.write(21, {{"a", 1.0}});
  const auto events = events_of(folder.path());
  ASSERT_EQ(events.size(), 3u);
  EXPECT_EQ(events[1].session_status, 1u);
  EXPECT_EQ(events[1].step, 21);
  EXPECT_EQ(events[2].scalars.at("a"), 1.0f);
}

}  // namespace
}  // namespace trireme
