// What is known of the tokenizer of data: from each folder that a glob reaches, compared by content.
#include "launcher/data_info.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>

#include "core/data/prepare.h"
#include "core/error.h"
#include "tests/temporary_folder.h"

namespace trireme {
namespace {

using testing::HasSubstr;

class DataInfoTest : public ::testing::Test {
 protected:
  void make(const std::string& name, const std::string& tokenizer) {
    PrepareOptions options;
    options.inputs = {folder_ / "a.txt"};
    options.out = folder_ / name;
    options.tokenizer = tokenizer;
    options.vocab = 300;
    prepare(options);
  }
  std::string glob() const { return (folder_.path() / "*" / "train*.bin").string(); }
  std::string error_of_glob() const {
    try {
      read_glob_info(glob());
    } catch (const ConfigError& e) {
      return e.what();
    }
    return "";
  }

  void SetUp() override {
    std::ofstream text(folder_ / "a.txt");
    for (int line = 0; line < 200; ++line) text << "the oars are pulled in time " << line << "\n";
  }

  TemporaryFolder folder_;
};

TEST_F(DataInfoTest, AGlobOverFoldersKnowsTheirTokenizer) {
  make("a", "bytes");
  make("b", "bytes");
  EXPECT_EQ(read_glob_info(glob()).tokenizer, "bytes");
  EXPECT_EQ(read_glob_info(glob()).vocab, 257);
}

TEST_F(DataInfoTest, AGlobWithoutFilesIsNamed) {
  EXPECT_THAT(error_of_glob(), HasSubstr("no token shard is called 'train*.bin'"));
}

TEST_F(DataInfoTest, EqualModelsAreOneTokenizer) {
  make("a", "sentencepiece");
  make("b", (folder_ / "a" / "tokenizer.model").string());
  EXPECT_EQ(read_glob_info(glob()).vocab, 300);
  EXPECT_EQ(error_of_glob(), "");
}

TEST_F(DataInfoTest, FoldersWithDifferentTokenizersAreRefused) {
  make("a", "bytes");
  make("b", "sentencepiece");
  EXPECT_THAT(error_of_glob(), HasSubstr("different tokenizers (bytes and "));
}

}  // namespace
}  // namespace trireme
