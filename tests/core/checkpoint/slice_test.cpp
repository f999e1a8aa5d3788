// Slices: common runs against a slow enumeration of all elements, and refusal of what cannot be.
#include "core/checkpoint/slice.h"

#include <gtest/gtest.h>

#include <map>
#include <random>

#include "core/parameter.h"

namespace trireme {
namespace {

/// Global row-major index of each element that a slice holds, in its order.
std::vector<int64_t> elements_of(const Slice& slice) {
  std::vector<int64_t> all;
  for (int64_t e = 0; e < slice.size.numel(); ++e) {
    int64_t rest = e, global = 0, stride = 1;
    for (int d = slice.size.rank() - 1; d >= 0; --d) {
      global += (slice.offset[d] + rest % slice.size[d]) * stride;
      rest /= slice.size[d];
      stride *= slice.global[d];
    }
    if (e >= slice.flat_begin && e < slice.flat_end) all.push_back(global);
  }
  return all;
}

Slice random_slice(const Shape& global, std::mt19937& random) {
  Shape offset = global, size = global;
  for (int d = 0; d < global.rank(); ++d) {
    offset[d] = static_cast<int64_t>(random() % global[d]);
    size[d] = 1 + static_cast<int64_t>(random() % (global[d] - offset[d]));
    if (random() % 2 == 0) offset[d] = 0, size[d] = global[d];
  }
  const Slice rectangle = Slice::rectangle(global, offset, size);
  if (random() % 2 == 0) return rectangle;
  const int64_t begin = static_cast<int64_t>(random() % rectangle.numel());
  return rectangle.range(begin, begin + static_cast<int64_t>(random() % (rectangle.numel() - begin + 1)));
}

TEST(Slice, CommonRunsAreExactlyTheSharedElements) {
  std::mt19937 random(7);
  int64_t shared_total = 0;
  for (int round = 0; round < 3000; ++round) {
    Shape global{static_cast<int64_t>(1 + random() % 5), static_cast<int64_t>(1 + random() % 4),
                 static_cast<int64_t>(1 + random() % 6)};
    if (round % 3 == 0) global = Shape{static_cast<int64_t>(1 + random() % 20)};
    const Slice source = random_slice(global, random), target = random_slice(global, random);
    const std::vector<int64_t> from = elements_of(source), to = elements_of(target);
    std::map<int64_t, int64_t> place;  // global element -> position in the source
    for (size_t i = 0; i < from.size(); ++i) place[from[i]] = static_cast<int64_t>(i);

    std::map<int64_t, int64_t> wanted, got;  // position in the target -> in the source
    for (size_t i = 0; i < to.size(); ++i)
      if (place.contains(to[i])) wanted[static_cast<int64_t>(i)] = place[to[i]];
    int64_t last_target = -1;
    for_each_common_run(source, target, [&](int64_t s, int64_t t, int64_t count) {
      ASSERT_GT(t, last_target);
      last_target = t;
      for (int64_t i = 0; i < count; ++i) got[t + i] = s + i;
    });
    ASSERT_EQ(got, wanted) << to_string(source) << " and " << to_string(target);
    shared_total += static_cast<int64_t>(got.size());
  }
  EXPECT_GT(shared_total, 3000);
}

TEST(Slice, EqualRectanglesAreOneRun) {
  const Slice rows = Slice::rectangle({100, 64}, {20, 0}, {40, 64});
  int runs = 0;
  for_each_common_run(rows.range(0, 1000), rows.range(500, 2560), [&](int64_t s, int64_t t, int64_t count) {
    ++runs;
    EXPECT_EQ(s, 500);
    EXPECT_EQ(t, 0);
    EXPECT_EQ(count, 500);
  });
  EXPECT_EQ(runs, 1);
}

TEST(Slice, ScalarsAndEmptyArrays) {
  int visits = 0;
  const auto count_visits = [&](int64_t, int64_t, int64_t) { ++visits; };
  for_each_common_run(Slice::whole({}), Slice::whole({}), count_visits);
  EXPECT_EQ(visits, 1);
  for_each_common_run(Slice::whole({3, 0}), Slice::whole({3, 0}), count_visits);
  EXPECT_EQ(visits, 1);
}

TEST(Slice, OfAParameter) {
  Parameter p;
  p.shape = {4, 8};
  p.placement = Placement::split(/*dim=*/1, /*global=*/24, 16, 24);
  ASSERT_EQ(slices_of(p).size(), 1u);
  EXPECT_EQ(slices_of(p)[0].slice, Slice::rectangle({4, 24}, {0, 16}, {4, 8}));
  EXPECT_EQ(to_string(slices_of(p, 1, 5)[0].slice), "[0:4, 16:24] of [4, 24], elements 1 to 5");
}

TEST(Slice, OfSeveralRangesOfRows) {
  Parameter p;
  p.placement = {0, 12, {{2, 4}, {6, 7, /*primary=*/false}, {9, 12}}};
  p.shape = {p.placement.local(), 10};
  const auto slices = slices_of(p, 15, 35);  // half of row 3; row 6; half of row 9
  ASSERT_EQ(slices.size(), 3u);
  EXPECT_EQ(slices[0].slice, Slice::rectangle({12, 10}, {2, 0}, {2, 10}).range(15, 20));
  EXPECT_EQ(slices[1].slice, Slice::rectangle({12, 10}, {6, 0}, {1, 10}));
  EXPECT_EQ(slices[2].slice, Slice::rectangle({12, 10}, {9, 0}, {3, 10}).range(0, 5));
  EXPECT_EQ(slices[1].begin, 20);
  EXPECT_EQ(slices[2].begin, 30);
  EXPECT_TRUE(slices[0].primary);
  EXPECT_FALSE(slices[1].primary);
}

TEST(Slice, ProblemsAreNamed) {
  EXPECT_EQ(problem_of({{4}, {0}, {4}, 0, 4}), "");
  EXPECT_NE(problem_of({{4}, {1}, {4}, 0, 4}), "");     // beyond the end
  EXPECT_NE(problem_of({{4}, {-1}, {4}, 0, 4}), "");    // before the begin
  EXPECT_NE(problem_of({{4}, {0}, {4}, 0, 5}), "");     // range too long
  EXPECT_NE(problem_of({{4}, {0}, {4}, 3, 2}), "");     // range backwards
  EXPECT_NE(problem_of({{4, 4}, {0}, {4}, 0, 4}), "");  // dimensions differ
  const int64_t huge = int64_t{1} << 40;
  EXPECT_NE(problem_of({{huge, huge}, {0, 0}, {huge, huge}, 0, 1}), "");  // overflow
  EXPECT_NE(problem_of({{4}, {int64_t{1} << 62}, {int64_t{1} << 62}, 0, 1}), "");
}

}  // namespace
}  // namespace trireme
