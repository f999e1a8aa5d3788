// prepare: what it writes, that threads and blocks don't change it, what it finds wrong, and what it leaves
// behind.
#include "core/data/prepare.h"

#include <sys/resource.h>

#include <csignal>

#include "core/data/text_input.h"
#include "tests/core/data_fixture.h"

namespace trireme {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::UnorderedElementsAre;

/// Lines of words that repeat enough for a tokenizer to learn from.
std::string text_of(int lines) {
  std::string text;
  for (int i = 0; i < lines; ++i)
    text += "line " + std::to_string(i) + " of the ship that rows over the sea" +
            std::string(static_cast<size_t>(i % 7), '!') + "\n";
  return text;
}

class PrepareTest : public ::testing::Test {
 protected:
  PrepareTest() {
    options_.out = folder_ / "out";
    options_.tokenizer = "bytes";
    options_.threads = 2;
  }

  std::filesystem::path input(const std::string& name, std::string_view content) {
    write_file(folder_ / name, content);
    options_.inputs.push_back(folder_ / name);
    return folder_ / name;
  }
  std::vector<int32_t> tokens(const std::string& split) const {
    const auto dataset = open_dataset((options_.out / (split + "*.bin")).string());
    std::vector<int32_t> tokens(static_cast<size_t>(dataset->num_tokens()));
    dataset->read(0, tokens);
    return tokens;
  }
  std::string text(const std::string& split) const {
    return make_tokenizer(tokenizer_beside((options_.out / (split + "*.bin")).string()))
        ->decode(tokens(split));
  }
  std::vector<std::string> out_files() const {
    std::vector<std::string> names;
    for (const auto& entry : std::filesystem::directory_iterator(options_.out))
      names.push_back(entry.path().filename().string());
    return names;
  }
  std::string prepare_error() {
    return error_of([this] { prepare(options_); });
  }

  TemporaryFolder folder_;
  PrepareOptions options_;
};

TEST_F(PrepareTest, SplitsTextAtALineAndKeepsEveryByte) {
  const std::string whole = text_of(200);
  input("a.txt", whole);
  options_.valid_fraction = 0.1;
  const PrepareResult result = prepare(options_);
  EXPECT_FALSE(result.up_to_date);
  const std::string train = text("train"), valid = text("valid");
  EXPECT_EQ(train + valid, whole);
  EXPECT_EQ(train.back(), '\n');
  EXPECT_LE(valid.size(), whole.size() / 10 + 1);
  EXPECT_GT(valid.size(), whole.size() / 10 - 60);
  EXPECT_EQ(tokens("train").back(), 256);
  EXPECT_EQ(result.info.train.text_bytes, static_cast<int64_t>(train.size()));
  EXPECT_EQ(result.info.train.tokens, static_cast<int64_t>(train.size()) + 1);
  EXPECT_EQ(result.info.valid.documents, 1);
  EXPECT_EQ(result.info.vocab, 257);
  EXPECT_THAT(out_files(), UnorderedElementsAre("train_000000.bin", "valid_000000.bin", "dataset.json"));
}

TEST_F(PrepareTest, DocumentsEndWithEndOfText) {
  input("a.jsonl", "{\"text\":\"one\"}\n\n{\"id\":2,\"text\":\"t\\u00e9\"}\r\n{\"text\":\"\"}");
  input("b.txt", "four\n");
  options_.valid_fraction = 0;
  const PrepareResult result = prepare(options_);
  EXPECT_THAT(tokens("train"),
              ElementsAre('o', 'n', 'e', 256, 't', 0xC3, 0xA9, 256, 256, 'f', 'o', 'u', 'r', '\n', 256));
  EXPECT_EQ(result.info.train.documents, 4);
  EXPECT_EQ(result.info.train.text_bytes, 11);
  EXPECT_EQ(result.info.valid.tokens, 0);
}

TEST_F(PrepareTest, LastDocumentsAreForValidation) {
  std::string lines;
  for (char c = 'a'; c <= 'j'; ++c) lines += std::string("{\"text\":\"") + c + "\"}\n";
  input("a.jsonl", lines);
  options_.valid_fraction = 0.3;
  prepare(options_);
  EXPECT_EQ(text("train"), "abcdefg");
  EXPECT_EQ(text("valid"), "hij");
}

TEST_F(PrepareTest, LongLastLineIsForValidation) {
  input("a.txt", text_of(3));
  input("b.jsonl", "{\"text\":\"first\"}\n{\"text\":\"" + std::string(1000, 'x') + "\"}\n");
  options_.valid_fraction = 0.01;
  prepare(options_);
  EXPECT_EQ(text("train"), text_of(3) + "first");
  EXPECT_EQ(text("valid"), std::string(1000, 'x'));
}

TEST_F(PrepareTest, ThreadsAndBlocksChangeNothing) {
  std::string lines;
  for (int i = 0; i < 300; ++i)
    lines += "{\"text\":\"the sea, line " + std::to_string(i * i) + " of it\\n\"}\n";
  input("a.jsonl", lines);
  input("b.txt", text_of(300));
  options_.tokenizer = "sentencepiece";
  options_.vocab = 320;
  options_.shard_tokens = 4000;
  options_.threads = 1;
  prepare(options_);
  const auto first = options_.out;
  for (const auto& [threads, block_bytes] :
       {std::pair{2, int64_t{1} << 20}, {3, int64_t{500}}, {4, int64_t{7}}}) {
    options_.out = folder_ / ("out" + std::to_string(threads));
    options_.threads = threads;
    options_.block_bytes = block_bytes;
    prepare(options_);
    for (const auto& entry : std::filesystem::directory_iterator(first))
      EXPECT_EQ(read_file(entry.path()), read_file(options_.out / entry.path().filename()))
          << entry.path().filename() << ", " << threads << " threads, blocks of " << block_bytes;
  }
  EXPECT_GT(out_files().size(), 5u);  // several shards
}

TEST_F(PrepareTest, ShardsAreBoundedAndOneStream) {
  input("a.txt", "0123456789");
  options_.valid_fraction = 0;
  options_.shard_tokens = 4;
  for (const ShardFormat format : {ShardFormat::llmc, ShardFormat::megatron}) {
    options_.format = format;
    prepare(options_);
    const auto dataset = open_dataset(options_.out / "train*.bin");
    ASSERT_EQ(dataset->shards().size(), 3u);
    EXPECT_EQ(dataset->shards()[0].num_tokens(), 4);
    EXPECT_EQ(dataset->shards()[2].num_tokens(), 3);
    EXPECT_EQ(text("train"), "0123456789");
  }
}

TEST_F(PrepareTest, TextWithoutLinesIsCutBetweenWords) {
  std::string text = "a";
  for (int i = 0; i < 60; ++i) text += " word" + std::to_string(i);
  input("a.txt", text);
  options_.block_bytes = 10;
  prepare(options_);
  EXPECT_EQ(this->text("train") + this->text("valid"), text);
  EXPECT_EQ(this->text("valid").front(), ' ');
}

TEST_F(PrepareTest, BadLineIsNamedAndCanBeSkipped) {
  const std::string good = "{\"text\":\"a\"}\n";
  const auto file = input("a.jsonl", good + good + "{\"text\": \"cut\n" + good + good);
  options_.valid_fraction = 0;
  options_.block_bytes = 8;  // the bad line is in a block of its own
  EXPECT_THAT(prepare_error(),
              AllOf(HasSubstr(file.string() + ":3: not valid JSON"), HasSubstr("--skip-bad")));
  EXPECT_THAT(out_files(), IsEmpty());
  for (const auto& [line, problem] : std::vector<std::pair<std::string, std::string>>{
           {"[1]", ":2: a JSON object is wanted, got array"},
           {"{\"body\":\"x\"}", ":2: the object has no field 'text'"},
           {"{\"text\":3}", ":2: the field 'text' is number"},
           {"{\"text\":\"\xFF\"}", ":2: not valid JSON"}}) {
    write_file(file, good + line + "\n" + good);
    EXPECT_THAT(prepare_error(), HasSubstr(problem));
  }
  options_.skip_bad = true;
  EXPECT_EQ(prepare(options_).skipped_lines, 1);
  EXPECT_EQ(text("train"), "aa");
}

TEST_F(PrepareTest, BadLineIsNamedBeforeATokenizerIsTrained) {
  const auto file = input("a.jsonl", "{\"content\":\"a\"}\n");
  options_.tokenizer = "sentencepiece";
  EXPECT_THAT(prepare_error(), HasSubstr(file.string() + ":1: the object has no field 'text'"));
  options_.text_field = "content";
  EXPECT_THAT(prepare_error(), Not(HasSubstr("no field")));
}

TEST_F(PrepareTest, DoesNothingWhenUpToDate) {
  const auto file = input("a.txt", text_of(100));
  prepare(options_);
  const auto written = std::filesystem::last_write_time(options_.out / "train_000000.bin");
  EXPECT_TRUE(prepare(options_).up_to_date);
  std::filesystem::last_write_time(file,
                                   std::filesystem::file_time_type::clock::now() + std::chrono::hours(1));
  EXPECT_TRUE(prepare(options_).up_to_date);  // another time, but the same content
  EXPECT_EQ(std::filesystem::last_write_time(options_.out / "train_000000.bin"), written);

  std::string changed = text_of(100);
  changed[10] ^= 1;  // the same size
  write_file(file, changed);
  EXPECT_FALSE(prepare(options_).up_to_date);
  EXPECT_EQ(text("train") + text("valid"), changed);
  std::filesystem::remove(options_.out / "valid_000000.bin");
  EXPECT_FALSE(prepare(options_).up_to_date);
  options_.threads = 1;  // makes no difference
  EXPECT_TRUE(prepare(options_).up_to_date);
  options_.valid_fraction = 0.2;
  EXPECT_FALSE(prepare(options_).up_to_date);
}

TEST_F(PrepareTest, FewerShardsThanBeforeLeaveNoOldOnes) {
  input("a.txt", text_of(100));
  options_.shard_tokens = 1000;
  prepare(options_);
  EXPECT_GT(out_files().size(), 4u);
  options_.shard_tokens = 100000;
  prepare(options_);
  EXPECT_THAT(out_files(), UnorderedElementsAre("train_000000.bin", "valid_000000.bin", "dataset.json"));
  EXPECT_EQ(text("train") + text("valid"), text_of(100));
}

TEST_F(PrepareTest, AnotherTokenizerLeavesNoOldModel) {
  input("a.txt", text_of(300));
  options_.tokenizer = "sentencepiece";
  options_.vocab = 300;
  prepare(options_);
  options_.tokenizer = "bytes";
  prepare(options_);
  EXPECT_THAT(out_files(), UnorderedElementsAre("train_000000.bin", "valid_000000.bin", "dataset.json"));

  write_file(options_.out / "tokenizer.model", "somebody else's");
  options_.valid_fraction = 0.2;
  prepare(options_);
  EXPECT_EQ(read_file(options_.out / "tokenizer.model"), "somebody else's");
}

TEST_F(PrepareTest, AModelIsKeptWhenItIsTheOneThatIsGiven) {
  input("a.txt", text_of(300));
  options_.tokenizer = "sentencepiece";
  options_.vocab = 300;
  prepare(options_);
  const std::string model = read_file(options_.out / "tokenizer.model");
  options_.tokenizer = options_.out / "tokenizer.model";
  EXPECT_FALSE(prepare(options_).up_to_date);
  EXPECT_EQ(read_file(options_.out / "tokenizer.model"), model);
}

TEST_F(PrepareTest, ShardsOfOthersAreLeftAlone) {
  input("a.txt", text_of(10));
  std::filesystem::create_directories(options_.out);
  write_file(options_.out / "train_000003.bin", "precious");
  EXPECT_THAT(prepare_error(), HasSubstr("train_000003.bin"));
  EXPECT_EQ(read_file(options_.out / "train_000003.bin"), "precious");
}

TEST_F(PrepareTest, InterruptedReplacementIsDoneAgain) {
  input("a.txt", text_of(100));
  DatasetInfo info = prepare(options_).info;
  info.complete = false;
  write_dataset_info(options_.out, info);
  write_file(options_.out / "train_000001.bin.partial", "half");
  EXPECT_FALSE(prepare(options_).up_to_date);
  EXPECT_TRUE(prepare(options_).up_to_date);
  EXPECT_THAT(out_files(), UnorderedElementsAre("train_000000.bin", "valid_000000.bin", "dataset.json"));
}

TEST_F(PrepareTest, ModelIsCopiedBesideTheShards) {
  input("a.txt", text_of(300));
  options_.tokenizer = "sentencepiece";
  options_.vocab = 300;
  prepare(options_);
  const std::string model = read_file(options_.out / "tokenizer.model");
  EXPECT_EQ(tokenizer_beside(options_.out / "*.bin"), (options_.out / "tokenizer.model").string());
  EXPECT_EQ(text("train") + text("valid"), text_of(300));

  write_file(folder_ / "given.model", model);
  options_.out = folder_ / "other";
  options_.tokenizer = folder_ / "given.model";
  prepare(options_);
  EXPECT_EQ(read_file(options_.out / "tokenizer.model"), model);
  EXPECT_EQ(text("train") + text("valid"), text_of(300));
}

TEST_F(PrepareTest, UnusableInputsAreNamed) {
  EXPECT_THAT(prepare_error(), HasSubstr("no input files"));
  options_.inputs = {folder_ / "none.txt"};
  EXPECT_THAT(prepare_error(), AllOf(HasSubstr("none.txt"), HasSubstr("no such file")));
  options_.inputs = {folder_.path()};
  EXPECT_THAT(prepare_error(), HasSubstr("not a regular file"));
  options_.inputs.clear();
  input("empty.txt", "");
  EXPECT_THAT(prepare_error(), HasSubstr("empty"));
  options_.inputs.clear();
  input("a.txt.gz", "x");
  EXPECT_THAT(prepare_error(), HasSubstr("compressed"));
  options_.inputs.clear();
  input("one.jsonl", "{\"text\":\"one\"}\n");
  EXPECT_THAT(prepare_error(), AllOf(HasSubstr("one.jsonl"), HasSubstr("--valid-fraction")));
  options_.valid_fraction = 1.0;
  EXPECT_THAT(prepare_error(), HasSubstr("below 1"));
  options_.valid_fraction = 0.0;
  EXPECT_NO_THROW(prepare(options_));
  options_.tokenizer = "byte";
  EXPECT_THAT(prepare_error(), HasSubstr("'byte'"));
}

TEST_F(PrepareTest, DamagedInfoIsNamed) {
  input("a.txt", text_of(30));
  prepare(options_);
  const auto file = options_.out / "dataset.json";
  const std::string good = read_file(file);
  write_file(file, good.substr(0, good.size() / 2));
  EXPECT_THAT(prepare_error(), HasSubstr(file.string()));
  write_file(file, "{\"format_version\": 9}");
  EXPECT_THAT(prepare_error(), AllOf(HasSubstr(file.string()), HasSubstr("got 9")));
  write_file(file, "{\"format_version\": 1}");
  EXPECT_THAT(prepare_error(), AllOf(HasSubstr(file.string()), HasSubstr("damaged")));
}

TEST_F(PrepareTest, ReportsHowFarItIs) {
  input("a.txt", text_of(100));
  options_.block_bytes = 500;
  std::vector<int64_t> done;
  options_.on_progress = [&](std::string_view what, int64_t done_bytes, int64_t total_bytes) {
    EXPECT_EQ(what, "tokenizing");
    EXPECT_EQ(total_bytes, static_cast<int64_t>(text_of(100).size()));
    done.push_back(done_bytes);
  };
  prepare(options_);
  EXPECT_GT(done.size(), 5u);
  EXPECT_TRUE(std::ranges::is_sorted(done));
  EXPECT_EQ(done.back(), static_cast<int64_t>(text_of(100).size()));
}

/// Files of this process can't grow beyond `bytes`: what a full disk looks like to a writer, for any user.
class FileSizeLimit {
 public:
  explicit FileSizeLimit(rlim_t bytes) : handler_(std::signal(SIGXFSZ, SIG_IGN)) {
    getrlimit(RLIMIT_FSIZE, &old_);
    const rlimit limit{bytes, old_.rlim_max};
    setrlimit(RLIMIT_FSIZE, &limit);
  }
  ~FileSizeLimit() {
    setrlimit(RLIMIT_FSIZE, &old_);
    std::signal(SIGXFSZ, handler_);
  }

 private:
  rlimit old_{};
  void (*handler_)(int);
};

TEST_F(PrepareTest, FullDiskLeavesTheOldDataWhole) {
  const auto file = input("a.txt", text_of(30));
  prepare(options_);
  write_file(file, text_of(2000));
  {
    const FileSizeLimit limit(20000);
    EXPECT_THAT(error_of<IoError>([this] { prepare(options_); }),
                AllOf(HasSubstr("train_000000.bin"), HasSubstr("space")));
  }
  EXPECT_THAT(out_files(), UnorderedElementsAre("train_000000.bin", "valid_000000.bin", "dataset.json"));
  EXPECT_EQ(text("train") + text("valid"), text_of(30));
  prepare(options_);
  EXPECT_EQ(text("train") + text("valid"), text_of(2000));
}

TEST_F(PrepareTest, ShardsWithoutInfoHaveNoKnownTokenizer) {
  write_shard(ShardFormat::llmc, folder_ / "a.bin", counting(0, 10));
  EXPECT_THAT(error_of([this] { tokenizer_beside(folder_ / "*.bin"); }), HasSubstr("data.tokenizer"));
}

TEST(TextInput, AFileThatCannotBeOpenedSaysWhy) {
  TemporaryFolder folder;
  write_file(folder / "a.txt", "some text\n");
  const TextInput input({folder / "a.txt"}, "text", false);
  std::filesystem::remove(folder / "a.txt");  // as one without permission, which root has
  EXPECT_THAT(error_of<IoError>([&] { input.read(TextRange{0, 0, 4}); }), HasSubstr("No such file"));
}

TEST(TextInput, BlocksCoverEachFileAndEndAtLines) {
  TemporaryFolder folder;
  write_file(folder / "a.txt", text_of(50));
  write_file(folder / "b.jsonl", "{\"text\":\"" + std::string(300, 'x') + "\"}\n{\"text\":\"y\"}\n");
  const TextInput input({folder / "a.txt", folder / "b.jsonl"}, "text", false);
  const TextInput::Split split = input.split(0.0);
  EXPECT_THAT(split.valid, IsEmpty());
  for (const int64_t block_bytes : {1, 10, 64, 1000}) {
    const TextBlocks blocks(input, split.train, block_bytes);
    std::string read[2];
    for (int64_t i = 0; i < blocks.count(); ++i) {
      const TextBlock block = blocks[i];
      const std::string bytes = input.read(block);
      EXPECT_TRUE(bytes.empty() || bytes.back() == '\n');
      read[block.file] += bytes;
    }
    EXPECT_EQ(read[0], text_of(50));
    EXPECT_EQ(read[1], read_file(folder / "b.jsonl"));
  }
}

}  // namespace
}  // namespace trireme
