// `trireme prepare` as it is called: its options reach the library, and it says what it did.
#include <gmock/gmock.h>

#include <CLI/CLI.hpp>
#include <fstream>

#include "core/data/dataset.h"
#include "core/error.h"
#include "launcher/commands.h"
#include "tests/temporary_folder.h"

namespace trireme {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

/// What the command prints on standard output.
std::string run_prepare(std::vector<std::string> arguments) {
  CLI::App app;
  add_prepare_command(app);
  arguments.insert(arguments.begin(), "prepare");
  std::ranges::reverse(arguments);  // as CLI11 takes them
  ::testing::internal::CaptureStderr();
  ::testing::internal::CaptureStdout();
  try {
    app.parse(arguments);
  } catch (...) {
    ::testing::internal::GetCapturedStdout();
    ::testing::internal::GetCapturedStderr();
    throw;
  }
  ::testing::internal::GetCapturedStderr();
  return ::testing::internal::GetCapturedStdout();
}

TEST(PrepareCommand, PreparesAndSaysSo) {
  TemporaryFolder folder;
  std::ofstream(folder / "a.jsonl") << "{\"body\":\"one\"}\nbad\n{\"body\":\"two\"}\n{\"body\":\"last\"}\n";
  const std::string out = folder / "out";
  const std::vector<std::string> arguments{folder / "a.jsonl",
                                           "--out",
                                           out,
                                           "--tokenizer",
                                           "bytes",
                                           "--text-field",
                                           "body",
                                           "--skip-bad",
                                           "--valid-fraction",
                                           "0.3",
                                           "--shard-tokens",
                                           "5",
                                           "--format",
                                           "megatron",
                                           "--threads",
                                           "1"};
  EXPECT_THAT(run_prepare(arguments),
              AllOf(HasSubstr("train: 8 tokens, 2 documents"), HasSubstr("valid: 5 tokens, 1 document,"),
                    HasSubstr("1 bad line left out"), HasSubstr("written to " + out)));
  const auto train = open_dataset(out + "/train*.bin");
  ASSERT_EQ(train->shards().size(), 2u);
  EXPECT_EQ(train->shards()[0].num_tokens(), 5);
  EXPECT_TRUE(std::filesystem::exists(out + "/train_000001.idx"));
  EXPECT_THAT(run_prepare(arguments), HasSubstr("up to date"));
}

TEST(PrepareCommand, WrongUseIsAnError) {
  TemporaryFolder folder;
  std::ofstream(folder / "a.txt") << "one\ntwo\n";
  EXPECT_THROW(run_prepare({folder / "a.txt"}), CLI::RequiredError);
  EXPECT_THROW(run_prepare({folder / "a.txt", "--out", folder / "out", "--vocab", "many"}),
               CLI::ConversionError);
  EXPECT_THROW(run_prepare({folder / "a.txt", "--out", folder / "out", "--format", "csv"}), ConfigError);
  EXPECT_FALSE(std::filesystem::exists(folder / "out"));
}

}  // namespace
}  // namespace trireme
