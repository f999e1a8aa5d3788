// Manifests: text and back, and what a sealed one refuses.
#include "core/checkpoint/manifest.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <nlohmann/json.hpp>

#include "core/error.h"

namespace trireme {
namespace {

using nlohmann::json;
using testing::HasSubstr;

Manifest example() {
  Manifest m;
  m.step = 100;
  m.ranks = 2;
  m.files = {{"a.safetensors", 1234, 0xfedcba9876543210u}, {"b.safetensors", 0, 0}};
  m.entries = {
      {"w", DType::bf16, Slice::rectangle({4, 6}, {0, 3}, {4, 3}).range(2, 9), "a.safetensors", "w#1", 17},
      {"b", DType::f32, Slice::whole({}), "b.safetensors", "b", ~uint64_t{0}}};
  m.sections = {{"config", "\"a: 1\\n\""}, {"trainer", R"({"lr":1e-05,"step":100})"}};
  return m;
}

TEST(Manifest, TextAndBack) {
  const Manifest m = example(), r = parse_manifest(manifest_text(m), "m");
  EXPECT_EQ(r.step, m.step);
  EXPECT_EQ(r.ranks, m.ranks);
  ASSERT_EQ(r.files.size(), 2u);
  EXPECT_EQ(r.files[0].header_checksum, m.files[0].header_checksum);
  EXPECT_EQ(r.files[0].bytes, 1234u);
  ASSERT_EQ(r.entries.size(), 2u);
  for (size_t i = 0; i < 2; ++i) {
    EXPECT_EQ(r.entries[i].name, m.entries[i].name);
    EXPECT_EQ(r.entries[i].dtype, m.entries[i].dtype);
    EXPECT_EQ(r.entries[i].slice, m.entries[i].slice);
    EXPECT_EQ(r.entries[i].file, m.entries[i].file);
    EXPECT_EQ(r.entries[i].key, m.entries[i].key);
    EXPECT_EQ(r.entries[i].checksum, m.entries[i].checksum);
  }
  EXPECT_EQ(r.sections, m.sections);
}

std::string error_after(const std::function<void(json&)>& change) {
  json j = json::parse(manifest_text(example()));
  change(j);
  try {
    parse_manifest(j.dump(), "m.json", /*check_seal=*/false);
    return "";
  } catch (const ConfigError& error) {
    EXPECT_THAT(error.what(), HasSubstr("m.json"));
    return error.what();
  }
}

TEST(Manifest, WhatIsWrongIsNamed) {
  EXPECT_EQ(error_after([](json&) {}), "");
  EXPECT_THAT(error_after([](json& j) { j["format"] = "other"; }), HasSubstr("not the manifest"));
  EXPECT_THAT(error_after([](json& j) { j["version"] = 2; }), HasSubstr("version 2"));
  EXPECT_THAT(error_after([](json& j) { j.erase("tensors"); }), HasSubstr("'tensors' is missing"));
  EXPECT_THAT(error_after([](json& j) { j["step"] = 1.5; }), HasSubstr("'step' is not a whole number"));
  EXPECT_THAT(error_after([](json& j) { j["tensors"][0]["dtype"] = "f8"; }), HasSubstr("f8"));
  EXPECT_THAT(error_after([](json& j) { j["tensors"][0]["size"][0] = 5; }), HasSubstr("entry of w"));
  EXPECT_THAT(error_after([](json& j) { j["tensors"][0].erase("offset"); }),
              HasSubstr("'offset' is missing"));
  EXPECT_THAT(error_after([](json& j) {
                j["tensors"][0]["range"] = {2, 13};
              }),
              HasSubstr("elements 2 to 13"));
  EXPECT_THAT(error_after([](json& j) { j["tensors"][0]["range"] = {2}; }), HasSubstr("'range'"));
  EXPECT_THAT(error_after([](json& j) {
                j["tensors"][0]["shape"] = {1 << 30, 1 << 30, 1 << 30};
              }),
              HasSubstr("entry of w"));
  EXPECT_THAT(error_after([](json& j) { j["tensors"][0]["xxh3"] = "12"; }), HasSubstr("checksum"));
  EXPECT_THAT(error_after([](json& j) { j["tensors"][0]["file"] = "../../etc/passwd"; }),
              HasSubstr("'file'"));
  EXPECT_THAT(error_after([](json& j) { j["tensors"][0]["file"] = "c.safetensors"; }),
              HasSubstr("c.safetensors"));
  EXPECT_THAT(error_after([](json& j) { j["tensors"][1]["name"] = "w"; }),
              HasSubstr("differ in shape or type"));
  EXPECT_THAT(error_after([](json& j) { j["files"][0]["bytes"] = -1; }), HasSubstr("negative"));
  EXPECT_THAT(error_after([](json& j) { j["files"] = 3; }), HasSubstr("missing"));
}

TEST(Manifest, AnEditedOneIsRefused) {
  std::string text = manifest_text(example());
  text.replace(text.find("1234"), 4, "1235");
  try {
    parse_manifest(text, "m.json");
    FAIL() << "its checksum does not fit";
  } catch (const ConfigError& error) {
    EXPECT_THAT(error.what(), HasSubstr("checksum"));
  }
}

}  // namespace
}  // namespace trireme
