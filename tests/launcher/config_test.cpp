// Experiment files: what is read, what is refused and in which words, and that what is written reads back
// equal.
#include "launcher/config.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>

#include "core/error.h"
#include "launcher/config_fields.h"

namespace trireme {
namespace {

using ::testing::HasSubstr;

Config parse(const std::string& text, std::vector<std::string> overrides = {}) {
  return parse_config(text, "gpt.yaml", overrides);
}

/// The error's words; a failure when there is none.
std::string error_of(const std::string& text, std::vector<std::string> overrides = {}) {
  try {
    parse(text, overrides);
  } catch (const ConfigError& e) {
    return e.what();
  }
  ADD_FAILURE() << "accepted: " << text;
  return "";
}

TEST(Config, EmptyTextGivesTheDefaults) {
  EXPECT_EQ(to_yaml(parse("")), to_yaml(Config{}));
  EXPECT_EQ(to_yaml(parse("optim:\nrun:\n")), to_yaml(Config{}));
}

TEST(Config, ReadsEveryKindOfValue) {
  const Config c = parse(R"(
model: {layers: 3, bias: false, dropout: 0.25}
parallel: {data: auto}
optim: {betas: [0.8, 0.99], no_decay: [emb, "1"], schedule: {kind: wsd, warmup: 7}}
run: {threads: auto, out: runs/x, seed: 9}
)");
  EXPECT_EQ(c.model.layers, 3);
  EXPECT_FALSE(c.model.bias);
  EXPECT_EQ(c.model.dropout, 0.25);
  EXPECT_EQ(c.parallel.data, 0);
  EXPECT_EQ(c.optim.betas, (std::array<double, 2>{0.8, 0.99}));
  EXPECT_EQ(c.optim.no_decay, (std::vector<std::string>{"emb", "1"}));
  EXPECT_EQ(c.optim.schedule.kind, "wsd");
  EXPECT_EQ(c.optim.schedule.warmup, 7);
  EXPECT_EQ(c.run.out, "runs/x");
}

TEST(Config, DataIsAGlobOrAListOfGlobsOrOfWeightedGlobs) {
  const Config c = parse("data: {train: [a*.bin, {files: b.bin, weight: 0.5}], valid: v.bin}");
  ASSERT_EQ(c.data.train.size(), 2u);
  EXPECT_EQ(c.data.train[0].files, "a*.bin");
  EXPECT_EQ(c.data.train[0].weight, 1.0);
  EXPECT_EQ(c.data.train[1].files, "b.bin");
  EXPECT_EQ(c.data.train[1].weight, 0.5);
  ASSERT_EQ(c.data.valid.size(), 1u);
  EXPECT_EQ(c.data.valid[0].files, "v.bin");
  EXPECT_THAT(error_of("data:\n  train:\n  - {file: a}"),
              HasSubstr("gpt.yaml:3: data.train.file is not a key"));
  EXPECT_THAT(error_of("data: {train: [{weight: 2}]}"), HasSubstr("wanted a glob"));
  EXPECT_THAT(error_of("data: {train: {files: a}}"), HasSubstr("data.train: wanted a glob"));
}

TEST(Config, APresetAppliesBelowTheKeysThatAreGiven) {
  ModelConfig preset;
  apply_preset("gpt2-124m", preset);
  const Config c = parse("model: {layers: 2, preset: gpt2-124m}");
  EXPECT_EQ(c.model.layers, 2);
  EXPECT_EQ(c.model.width, preset.width);
  EXPECT_EQ(parse("model: {layers: 2}", {"model.preset=gpt2-124m"}).model.layers, 2);
  EXPECT_THAT(error_of("model: {preset: gpt2-125m}"), HasSubstr("gpt.yaml:1: model.preset: wanted "));
  EXPECT_THAT(error_of("model: {preset: gpt2-125m}"), HasSubstr("did you mean gpt2-124m?"));
}

TEST(Config, UnknownKeysNameFileLineAndTheNearestKey) {
  EXPECT_EQ(error_of("model: {layers: 2}\noptim:\n  lr: 0.1\n  wieght_decay: 0.1\n"),
            "gpt.yaml:4: optim.wieght_decay is not a key of optim; did you mean weight_decay?");
  EXPECT_EQ(error_of("optim:\n  warmup: 5\n"),
            "gpt.yaml:2: optim.warmup is not a key of optim; did you mean optim.schedule.warmup?");
  EXPECT_EQ(error_of("\nmodle: {}\n"), "gpt.yaml:2: modle is not a section; did you mean model?");
  EXPECT_EQ(error_of("batch: {zzzzzzzzzz: 1}"),
            "gpt.yaml:1: batch.zzzzzzzzzz is not a key of batch; known are global, micro, sequence");
}

TEST(Config, WrongTypesSayWhatWasWantedAndGot) {
  EXPECT_EQ(error_of("run:\n  steps: many"),
            "gpt.yaml:2: run.steps: wanted a whole number of at least 1, got many");
  EXPECT_THAT(error_of("run: {steps: 1.5}"), HasSubstr("got 1.5"));
  EXPECT_THAT(error_of("run: {steps: \"5\"}"), HasSubstr("got the text \"5\""));
  EXPECT_THAT(error_of("run: {steps: }"), HasSubstr("got nothing"));
  EXPECT_THAT(error_of("run: {steps: 99999999999999999999}"), HasSubstr("wanted a whole number of no more than 18 digits, got 99999999999999999999"));
  EXPECT_THAT(error_of("run: {trace: yes}"), HasSubstr("run.trace: wanted true or false, got yes"));
  EXPECT_THAT(error_of("run: {out: [a]}"), HasSubstr("run.out: wanted a text, got a list of 1"));
  EXPECT_THAT(error_of("optim: {betas: [0.9]}"), HasSubstr("optim.betas: wanted a list of two numbers"));
  EXPECT_THAT(error_of("optim: {no_decay: bias}"), HasSubstr("wanted a list of texts"));
  EXPECT_THAT(error_of("optim: adamw"), HasSubstr("optim: wanted a map of keys"));
  EXPECT_THAT(error_of("just words"), HasSubstr("wanted sections"));
  EXPECT_THAT(error_of("run: {seed: auto}"), HasSubstr("wanted a whole number of at least 0, got auto"));
}

TEST(Config, ValuesOutOfRangeSayTheRange) {
  EXPECT_EQ(error_of("optim: {lr: 0}"), "gpt.yaml:1: optim.lr: wanted a number above 0, got 0");
  EXPECT_THAT(error_of("optim: {lr: .inf}"), HasSubstr("optim.lr"));
  EXPECT_THAT(error_of("optim: {lr: nan}"), HasSubstr("optim.lr"));
  EXPECT_THAT(error_of("model: {dropout: 1}"), HasSubstr("of at least 0 and below 1, got 1"));
  EXPECT_THAT(error_of("optim: {betas: [0.9, 1.0]}"), HasSubstr("below 1, got 1.0"));
  EXPECT_THAT(error_of("parallel: {data: -1}"), HasSubstr("of at least 1, or auto, got -1"));
  EXPECT_THAT(error_of("optim: {kind: adam}"),
              HasSubstr("wanted adamw, sgd, lion or adafactor, got adam; did you mean adamw?"));
  EXPECT_THAT(error_of("precision: {compute: fp16}"),
              HasSubstr("wanted f32, tf32, bf16 or f16, got fp16; did you mean f16?"));
}

TEST(Config, ProfiledStepsHaveAFirstAndALast) {
  EXPECT_EQ(parse("run: {profile: {steps: [3, 3]}}").run.profile.steps[1], 3);
  for (const char* steps : {"[5, 3]", "[0, 3]", "[2, 0]"})
    EXPECT_THAT(error_of(fmt::format("run: {{profile: {{steps: {}}}}}", steps)),
                HasSubstr(fmt::format("got {}", steps)));
}

TEST(Config, BrokenYamlNamesTheLine) {
  EXPECT_THAT(error_of("model: {layers: 2}\nbatch: {global: 4\n"), HasSubstr("gpt.yaml:2: not valid YAML"));
  EXPECT_THAT(error_of("run: {steps: 1\nmodel: ["), HasSubstr("gpt.yaml:"));
  EXPECT_THAT(error_of("run: {seed: 1}\nrun: {seed: 2}"),
              HasSubstr("gpt.yaml:2: run is given a second time (first at gpt.yaml:1)"));
  EXPECT_THAT(error_of("a: 1\n---\nb: 2"), HasSubstr("gpt.yaml:2: text that is not part of the config"));
  EXPECT_THAT(error_of("[1]: 2"), HasSubstr("wanted a word as key"));
}

TEST(Config, TextThatTheParserWouldPassOverIsRefused) {
  EXPECT_THAT(error_of(",l: 1"), HasSubstr("gpt.yaml:1: "));
  EXPECT_THAT(error_of("run: {seed: 1}\n]"), HasSubstr("gpt.yaml:2: "));
}

TEST(Config, TextIsUtf8) {
  EXPECT_EQ(parse_config("run:\n  out: gr\xc3\xbc\xc3\x9f", "c.yaml").run.out, "gr\xc3\xbc\xc3\x9f");
  EXPECT_EQ(error_of("run:\n  out: \"r\xd6\r\""), "gpt.yaml:2: text that is not UTF-8, as YAML is: write it in UTF-8");
}

TEST(Config, NestingAndAliasesCanNeitherLoopNorFillTheMemory) {
  EXPECT_THAT(error_of("a: &a [*a]"), HasSubstr("an alias of what it is itself a part of"));
  EXPECT_THAT(error_of(std::string(17, '[')), HasSubstr("nested more than 16 deep"));
  std::string bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n";
  for (int i = 1; i < 9; ++i)
    bomb += fmt::format("a{0}: &a{0} [*a{1}, *a{1}, *a{1}, *a{1}, *a{1}, *a{1}, *a{1}, *a{1}, *a{1}]\n", i,
                        i - 1);
  EXPECT_THAT(error_of(bomb), HasSubstr("more than 100000 values"));
}

TEST(Config, SetReplacesAndNamesItselfInErrors) {
  const Config c = parse("optim: {lr: 0.1, clip: 2}", {"optim.lr=1e-4", "optim.schedule.kind=cosine",
                                                       "run.out=a=b", "optim.betas=[0.5, 0.6]"});
  EXPECT_EQ(c.optim.lr, 1e-4);
  EXPECT_EQ(c.optim.clip, 2);
  EXPECT_EQ(c.optim.schedule.kind, "cosine");
  EXPECT_EQ(c.run.out, "a=b");
  EXPECT_EQ(c.optim.betas[1], 0.6);
  EXPECT_EQ(error_of("", {"optim.lr=fast"}),
            "--set optim.lr=fast: optim.lr: wanted a number above 0, got fast");
  EXPECT_EQ(error_of("", {"optim.rl=1"}),
            "--set optim.rl=1: optim.rl is not a key of optim; did you mean lr?");
  EXPECT_THAT(error_of("", {"optm.lr=1"}),
              HasSubstr("--set optm.lr=1: optm is not a section; did you mean optim?"));
  EXPECT_THAT(error_of("", {"optim.lr"}), HasSubstr("wanted section.key=value"));
  EXPECT_THAT(error_of("", {"optim.lr=[1"}), HasSubstr("--set optim.lr=[1: not valid YAML"));
  EXPECT_EQ(error_of("", {"run.out="}), "--set run.out=: run.out: wanted a text, got nothing");
  EXPECT_THAT(error_of("optim: {lr: 1}", {"optim.lr.x=1"}), HasSubstr("lr is 1 and has no key x"));
}

/// Gives every field a value that is not its default.
struct Changer {
  void field(const char*, int64_t& v, const char*, const Rule&) { v += 3; }
  void field(const char*, int& v, const char*, const Rule&) { v += 3; }
  void field(const char*, bool& v, const char*, const Rule&) { v = !v; }
  void field(const char*, double& v, const char*, const Rule& rule) {
    v = rule.below || rule.at_most ? 0.1 + v / 3 : v * 1.1 + 1e-7 / 3;
  }
  void field(const char*, std::array<int64_t, 2>& v, const char*, const Rule&) { v = {7, 9}; }
  void field(const char*, std::array<double, 2>& v, const char*, const Rule&) {
    v = {1.0 / 3, 0.123456789012345678};
  }
  void field(const char*, std::vector<std::string>& v, const char*, const Rule&) {
    v = {"", "true", "a: b", "~", " x\n#\"", "é", "*a", "12"};
  }
  void field(const char*, std::vector<int64_t>& v, const char*, const Rule&) { v = {7, 8, 1}; }
  void field(const char*, std::vector<DataSource>& v, const char*, const Rule&) {
    v = {{"*.bin", 1}, {"null", 0.7}};
  }
  void field(const char* key, std::string& v, const char*, const Rule& rule) {
    if (std::string_view(key) == "preset") return;  // sets other fields; has its own test
    v = rule.choices.empty() ? "~: {" + std::string(key) : rule.choices.back();
  }
  template <class T>
  void section(const char*, T& value, const char*) {
    describe(*this, value);
  }
};

struct AnyValue {
  template <class T>
  operator T() const;  // declared only: for counting members
};

/// How many members an aggregate has.
template <class T, class... Values>
constexpr size_t num_members() {
  if constexpr (requires { T{Values{}..., AnyValue{}}; }) {
    return num_members<T, Values..., AnyValue>();
  } else {
    return sizeof...(Values);
  }
}

/// Compares what each struct's describe() names with the struct itself.
struct MemberCounter {
  template <class T>
  void field(const char*, T&, const char*, const Rule&) {
    ++named;
  }
  template <class T>
  void section(const char* key, T& value, const char*) {
    ++named;
    MemberCounter inner;
    describe(inner, value);
    EXPECT_EQ(inner.named, num_members<T>()) << key << " has members that config_fields.h does not name";
  }
  size_t named = 0;
};

TEST(Config, EveryMemberOfEveryStructIsDescribed) {
  Config config;
  MemberCounter counter;
  describe(counter, config);
  EXPECT_EQ(counter.named, num_members<Config>());
  EXPECT_EQ(num_members<BatchConfig>(), 3u);
  DataSource source;
  counter.section("source", source, "");
}

TEST(Config, WhatIsWrittenReadsBackEqual) {
  Config changed;
  Changer changer;
  describe(changer, changed);
  const std::string text = to_yaml(changed);
  const Config again = parse(text);
  EXPECT_EQ(to_yaml(again), text);
  EXPECT_EQ(again.optim.no_decay, changed.optim.no_decay);
  EXPECT_EQ(again.optim.betas, changed.optim.betas);
  EXPECT_EQ(again.optim.eps, changed.optim.eps);
  EXPECT_EQ(again.data.train[1].files, "null");
  EXPECT_EQ(again.run.out, changed.run.out);
  EXPECT_EQ(again.parallel.data, 3);
  EXPECT_EQ(again.checkpoint.keep, changed.checkpoint.keep);
}

TEST(Config, APresetReadsBackEqualToo) {
  const Config c = parse("model: {preset: gpt2-124m, layers: 2}");
  EXPECT_EQ(to_yaml(parse(to_yaml(c))), to_yaml(c));
  EXPECT_EQ(parse(to_yaml(c)).model.layers, 2);
}

TEST(Config, MissingFilesAndFoldersAreTheUsersError) {
  EXPECT_THROW(load_config("no/such/file.yaml"), ConfigError);
  EXPECT_THROW(load_config("/"), ConfigError);
}

TEST(Config, TheReferencePageIsUpToDate) {
  std::ifstream in(TRIREME_SOURCE_DIR "/docs/config.md");
  const std::string page(std::istreambuf_iterator<char>(in), {});
  EXPECT_EQ(page, config_reference()) << "run: trireme config-reference > docs/config.md";
}

}  // namespace
}  // namespace trireme
