// Data sets of several files, blends of data sets, and the order of samples.
#include "core/data/blend.h"
#include "core/data/blended_dataset.h"
#include "core/data/sampler.h"
#include "tests/core/data_fixture.h"

namespace trireme {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

TEST(TokenDataset, FilesOfAGlobAreOneStreamInOrderOfTheirNames) {
  TemporaryFolder folder;
  write_shard(ShardFormat::llmc, folder / "train_1.bin", counting(5, 4));
  write_shard(ShardFormat::llmc, folder / "train_0.bin", counting(0, 5));
  write_shard(ShardFormat::megatron, folder / "train_2.bin", counting(9, 3));
  write_shard(ShardFormat::llmc, folder / "valid_0.bin", counting(100, 5));
  const auto dataset = open_dataset(folder / "train*");
  ASSERT_EQ(dataset->shards().size(), 3u);
  EXPECT_EQ(dataset->num_tokens(), 12);
  EXPECT_EQ(dataset->num_samples(4), 2);  // the last target of a third would be token 12
  EXPECT_EQ(dataset->num_samples(11), 1);
  EXPECT_EQ(dataset->num_samples(12), 0);
  std::vector<int32_t> tokens(4), targets(4);
  dataset->read_sample(1, 100, tokens, targets);  // crosses both borders
  EXPECT_THAT(tokens, ElementsAre(4, 5, 6, 7));
  EXPECT_THAT(targets, ElementsAre(5, 6, 7, 8));
}

TEST(TokenDataset, GlobWithoutFilesSaysWhereItLooked) {
  TemporaryFolder folder;
  EXPECT_THAT(error_of([&] { open_dataset(folder / "train*.bin"); }),
              AllOf(HasSubstr("train*.bin"), HasSubstr(folder.path().string()), HasSubstr("which exists"),
                    HasSubstr("trireme prepare")));
  EXPECT_THAT(error_of([&] { open_dataset(folder / "none/train*.bin"); }), HasSubstr("which does not exist"));
}

TEST(TokenDataset, TokenAboveTheVocabularyIsFoundWithItsPlace) {
  TemporaryFolder folder;
  write_shard(ShardFormat::llmc, folder / "a.bin", counting(0, 5));
  write_shard(ShardFormat::llmc, folder / "b.bin", std::vector<int32_t>{5, 6, 300, 7, 8});
  const auto dataset = open_dataset(folder / "*.bin");
  std::vector<int32_t> tokens(7), targets(7);
  EXPECT_NO_THROW(dataset->read_sample(0, 301, tokens, targets));
  const std::string place = (folder / "b.bin").string() + ": token 2 is 300";
  EXPECT_THAT(error_of([&] { dataset->read_sample(0, 300, tokens, targets); }),
              AllOf(HasSubstr(place), HasSubstr("vocabulary of 300"), HasSubstr("model.vocab")));
  std::vector<int32_t> short_tokens(2),
      short_targets(2);  // 300 is a token of sample 3, but a target of no other
  EXPECT_NO_THROW(dataset->read_sample(2, 300, short_tokens, short_targets));
  EXPECT_THAT(error_of([&] { dataset->read_sample(3, 300, short_tokens, short_targets); }), HasSubstr(place));
}

TEST(TokenDataset, TargetAboveTheVocabularyIsFound) {
  const WeightedDataset data = dataset_of({1, 2, 3, 4, -7});
  std::vector<int32_t> tokens(4), targets(4);
  EXPECT_THAT(error_of([&] { data.dataset->read_sample(0, 10, tokens, targets); }),
              HasSubstr("token 4 is -7"));
}

/// The largest distance, over all prefixes of `samples` samples, between what a source got and its share.
double largest_deviation(const Blend& blend, std::vector<double> weights, int64_t samples) {
  const double sum = std::accumulate(weights.begin(), weights.end(), 0.0);
  std::vector<int64_t> taken(weights.size(), 0);
  double largest = 0.0;
  for (int64_t i = 0; i < samples; ++i) {
    const Blend::Draw draw = blend(i);
    EXPECT_EQ(draw.index, taken[draw.source]);  // each source is drawn from in order, none left out
    ++taken[draw.source];
    for (size_t s = 0; s < weights.size(); ++s)
      largest = std::max(
          largest, std::abs(static_cast<double>(taken[s]) - weights[s] / sum * static_cast<double>(i + 1)));
  }
  return largest;
}

TEST(Blend, SharesHoldOverEveryPrefix) {
  for (const std::vector<double>& weights :
       std::vector<std::vector<double>>{{1},
                                        {1, 1},
                                        {0.7, 0.2, 0.1},
                                        {3, 1, 1, 1, 1},
                                        {0.9, 0.02, 0.02, 0.02, 0.02, 0.02},
                                        {5, 4, 3, 2, 1, 1, 1, 1}}) {
    const Blend blend(weights);
    EXPECT_LE(blend.period(), 1000);
    EXPECT_LT(largest_deviation(blend, weights, 3000), 1.0) << ::testing::PrintToString(weights);
  }
}

TEST(Blend, SharesThatAreNoFractionsAreRounded) {
  const std::vector<double> weights{M_PI, M_E, 1e-9};
  const Blend blend(weights);
  EXPECT_LT(largest_deviation(blend, weights, 20000), 1.5);
  int64_t smallest = 0;  // even the smallest share is drawn from
  for (int64_t i = 0; i < blend.period(); ++i) smallest += blend(i).source == 2;
  EXPECT_EQ(smallest, 1);
}

TEST(Blend, WeightsMustBePositive) {
  for (const double bad : {0.0, -1.0, std::nan(""), HUGE_VAL})
    EXPECT_THAT(error_of([&] { Blend(std::vector{1.0, bad}); }), HasSubstr("not a positive number"));
}

std::vector<int64_t> permuted(int64_t size, uint64_t key, uint64_t tweak) {
  const Permutation permutation(size, key, tweak);
  std::vector<int64_t> out;
  for (int64_t i = 0; i < size; ++i) out.push_back(permutation(i));
  return out;
}

TEST(Permutation, IsABijection) {
  for (const int64_t size : {1, 2, 3, 4, 5, 16, 17, 1000, 4097}) {
    std::vector<int64_t> values = permuted(size, 42, 7);
    std::ranges::sort(values);
    for (int64_t i = 0; i < size; ++i) ASSERT_EQ(values[static_cast<size_t>(i)], i) << "of " << size;
  }
  const Permutation large((int64_t{1} << 40) + 1, 1, 2);
  for (const int64_t i : {int64_t{0}, int64_t{1} << 40}) EXPECT_LE(large(i), int64_t{1} << 40);
}

TEST(Permutation, DependsOnKeyAndTweakAndMoves) {
  const auto base = permuted(1000, 1, 0);
  EXPECT_EQ(base, permuted(1000, 1, 0));
  EXPECT_NE(base, permuted(1000, 2, 0));
  EXPECT_NE(base, permuted(1000, 1, 1));
  int64_t fixed = 0;
  double distance = 0;  // of a random permutation: a third of the size, on average
  for (int64_t i = 0; i < 1000; ++i) {
    fixed += base[static_cast<size_t>(i)] == i;
    distance += std::abs(static_cast<double>(base[static_cast<size_t>(i)] - i)) / 1000;
  }
  EXPECT_LT(fixed, 8);
  EXPECT_NEAR(distance, 333, 40);
}

TEST(SampleOrder, GoesThroughEachEpoch) {
  const SampleOrder in_order(5, false, 1);
  const SampleOrder shuffled(5, true, 1), other_seed(5, true, 2), other_source(5, true, 1, 1);
  std::vector<int64_t> plain, seed1, seed2, source1;
  for (int64_t draw = 0; draw < 50; ++draw) {
    plain.push_back(in_order.sample_of(draw));
    seed1.push_back(shuffled.sample_of(draw));
    seed2.push_back(other_seed.sample_of(draw));
    source1.push_back(other_source.sample_of(draw));
  }
  bool epochs_differ = false;
  for (size_t epoch = 0; epoch < 10; ++epoch) {
    const auto begin = seed1.begin() + static_cast<long>(5 * epoch);
    EXPECT_THAT(std::vector(begin, begin + 5), ::testing::UnorderedElementsAre(0, 1, 2, 3, 4));
    epochs_differ = epochs_differ || !std::equal(begin, begin + 5, seed1.begin());
    for (size_t i = 0; i < 5; ++i) EXPECT_EQ(plain[5 * epoch + i], static_cast<int64_t>(i));
  }
  EXPECT_TRUE(epochs_differ);
  EXPECT_NE(seed1, seed2);
  EXPECT_NE(seed1, source1);
}

TEST(BlendedDataset, EachSourceHasEpochsOfItsOwn) {
  // Samples of 2 tokens: source a has 2 of them, source b has 4.
  BlendedDataset blend({dataset_of(counting(0, 5)), dataset_of(counting(100, 9))}, 2, 200, false, 1);
  std::vector<int32_t> firsts_a, firsts_b;
  std::vector<int32_t> tokens(2), targets(2);
  for (int64_t draw = 0; draw < 12; ++draw) {
    blend.read(draw, tokens, targets);
    (tokens[0] < 100 ? firsts_a : firsts_b).push_back(tokens[0]);
  }
  EXPECT_THAT(firsts_a, ElementsAre(0, 2, 0, 2, 0, 2));
  EXPECT_THAT(firsts_b, ElementsAre(100, 102, 104, 106, 100, 102));
}

TEST(BlendedDataset, SourceWithoutASampleIsNamed) {
  EXPECT_THAT(error_of([] { BlendedDataset({dataset_of(counting(0, 8), 1, "tiny.bin")}, 8, 10, true, 1); }),
              AllOf(HasSubstr("tiny.bin"), HasSubstr("8 tokens"), HasSubstr("takes 9")));
  EXPECT_THAT(error_of([] { BlendedDataset({}, 8, 10, true, 1); }), HasSubstr("data.train"));
}

}  // namespace
}  // namespace trireme
