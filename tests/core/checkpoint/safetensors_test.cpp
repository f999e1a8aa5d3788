// safetensors: what is written is read, byte for byte, and every way of being wrong is refused by name.
#include "core/checkpoint/safetensors.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstring>
#include <fstream>

#include "core/error.h"

namespace trireme {
namespace {

using testing::HasSubstr;

/// The bytes of a file with the given header and data.
std::vector<std::byte> file_of(const std::string& header, size_t data_bytes) {
  std::vector<std::byte> bytes(8 + header.size() + data_bytes);
  const uint64_t length = header.size();
  std::memcpy(bytes.data(), &length, 8);
  std::memcpy(bytes.data() + 8, header.data(), header.size());
  for (size_t i = 0; i < data_bytes; ++i) bytes[8 + header.size() + i] = static_cast<std::byte>(i);
  return bytes;
}

std::string error_of(std::span<const std::byte> bytes) {
  try {
    SafetensorsView view(bytes, "x.safetensors");
    return "";
  } catch (const ConfigError& error) {
    EXPECT_THAT(error.what(), HasSubstr("x.safetensors"));
    return error.what();
  }
}
std::string error_of(const std::string& header, size_t data_bytes) {
  return error_of(file_of(header, data_bytes));
}

class SafetensorsFileTest : public testing::Test {
 protected:
  ~SafetensorsFileTest() override { std::filesystem::remove(path); }
  std::filesystem::path path =
      std::filesystem::temp_directory_path() / ("trireme-" + std::to_string(::getpid()) + ".safetensors");
};

TEST_F(SafetensorsFileTest, RoundTripOfEveryTypeInPieces) {
  const std::vector<SafetensorsSpec> specs{
      {"f32", DType::f32, {2, 3}},  {"u8", DType::u8, {3}},
      {"bf16", DType::bf16, {2}},   {"f16", DType::f16, {1, 1}},
      {"f64", DType::f64, {}},      {"i32", DType::i32, {2}},
      {"i64", DType::i64, {1}},     {"u16", DType::u16, {5}},
      {"none", DType::f32, {0, 4}}, {"a \"quoted\" name", DType::u8, {1}}};
  const SafetensorsMetadata metadata{{"format", "pt"}};
  SafetensorsWriter writer(path, specs, metadata);
  uint8_t next = 0;
  for (const SafetensorsSpec& spec : specs) {
    writer.begin_tensor(spec);
    for (size_t i = 0; i < static_cast<size_t>(spec.shape.numel()) * size_of(spec.dtype); ++i) {
      const std::byte byte{next++};
      writer.append({&byte, 1});
    }
  }
  const std::string header = writer.finish();

  const SafetensorsFile file(path);
  EXPECT_EQ(file->metadata(), metadata);
  EXPECT_EQ(file->header().size(), header.size());
  EXPECT_EQ(header.size() % 8, 0u);
  EXPECT_LT(header.size() - header.find_last_of('}'), 9u) << "room was kept for more than the header";
  ASSERT_EQ(file->entries().size(), specs.size());
  next = 0;
  for (const SafetensorsSpec& spec : specs) {
    const SafetensorsEntry* entry = file->find(spec.name);
    ASSERT_NE(entry, nullptr) << spec.name;
    EXPECT_EQ(entry->dtype, spec.dtype);
    EXPECT_EQ(entry->shape, spec.shape);
    for (std::byte byte : entry->bytes) EXPECT_EQ(byte, std::byte{next++}) << spec.name;
  }
  EXPECT_EQ(file->find("other"), nullptr);
}

TEST_F(SafetensorsFileTest, RoomForTheHeaderIsKept) {
  SafetensorsWriter writer(path, 200);
  const SafetensorsSpec first{"first", DType::u8, {1}};
  ASSERT_TRUE(writer.has_room(first));
  writer.begin_tensor(first);
  writer.append(std::vector<std::byte>(1));
  EXPECT_FALSE(writer.has_room({std::string(200, 'n'), DType::u8, {1}}));
  writer.finish();
  EXPECT_EQ(std::filesystem::file_size(path), 201u);
  EXPECT_EQ(SafetensorsFile(path)->entries().size(), 1u);
}

TEST_F(SafetensorsFileTest, AFileThatWasNotFinishedIsRefused) {
  SafetensorsWriter writer(path, 200);
  writer.begin_tensor({"w", DType::u8, {4}});
  writer.append(std::vector<std::byte>(4));
  EXPECT_THROW(SafetensorsFile{path}, ConfigError);
}

TEST(Safetensors, BoolIsReadAsU8) {
  const auto bytes = file_of(R"({"m":{"dtype":"BOOL","shape":[2],"data_offsets":[0,2]}})", 2);
  EXPECT_EQ(SafetensorsView(bytes, "x").find("m")->dtype, DType::u8);
}

TEST(Safetensors, WhatIsWrongIsNamed) {
  EXPECT_THAT(error_of({}), HasSubstr("too few"));
  EXPECT_THAT(error_of(std::vector<std::byte>(8)), HasSubstr("cut short"));
  EXPECT_THAT(error_of(std::vector<std::byte>(16, std::byte{0xff})), HasSubstr("not a whole"));
  EXPECT_THAT(error_of("{", 0), HasSubstr("JSON"));
  EXPECT_THAT(error_of("[]", 0), HasSubstr("not a JSON object"));
  EXPECT_THAT(error_of(std::string(100000, '['), 0), HasSubstr("nested"));
  EXPECT_THAT(error_of(R"({"__metadata__":{"a":1}})", 0), HasSubstr("'a'"));
  EXPECT_THAT(error_of(R"({"__metadata__":3})", 0), HasSubstr("__metadata__"));
  EXPECT_THAT(error_of(R"({"w":3})", 0), HasSubstr("'w'"));
  EXPECT_THAT(error_of(R"({"w":{"dtype":"I8","shape":[1],"data_offsets":[0,1]}})", 1), HasSubstr("type I8"));
  EXPECT_THAT(error_of(R"({"w":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}})", 4), HasSubstr("shape"));
  EXPECT_THAT(error_of(R"({"w":{"dtype":"F32","shape":[1.5],"data_offsets":[0,4]}})", 4), HasSubstr("shape"));
  EXPECT_THAT(error_of(R"({"w":{"dtype":"U8","shape":[1,1,1,1,1,1,1],"data_offsets":[0,1]}})", 1),
              HasSubstr("7 dim"));
  EXPECT_THAT(error_of(R"({"w":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]}})", 0),
              HasSubstr("too large"));
  EXPECT_THAT(error_of(R"({"w":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}})", 4),
              HasSubstr("need 8 bytes"));
  EXPECT_THAT(error_of(R"({"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})", 7),
              HasSubstr("truncated"));
  EXPECT_THAT(error_of(R"({"w":{"dtype":"F32","shape":[1],"data_offsets":[4,0]}})", 4),
              HasSubstr("data_offsets"));
  EXPECT_THAT(error_of(R"({"w":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}})", 2),
              HasSubstr("after the last"));
  EXPECT_THAT(error_of(R"({"w":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}})", 2),
              HasSubstr("no tensor covers"));
  EXPECT_THAT(error_of(R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},
                           "b":{"dtype":"U8","shape":[2],"data_offsets":[1,3]}})",
                       3),
              HasSubstr("overlaps"));
  EXPECT_EQ(error_of(R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},
                         "b":{"dtype":"U8","shape":[1],"data_offsets":[2,3]}})",
                     3),
            "");
}

TEST(Safetensors, NoPrefixOfAFileIsAccepted) {
  const auto bytes = file_of(R"({"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})", 8);
  for (size_t length = 0; length < bytes.size(); ++length)
    EXPECT_NE(error_of(std::span(bytes).first(length)), "") << length;
  EXPECT_EQ(error_of(bytes), "");
}

}  // namespace
}  // namespace trireme
