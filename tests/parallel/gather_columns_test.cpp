// Columns of several ranks side by side, whatever the number that each has.
#include "parallel/gather_columns.h"

#include <gmock/gmock.h>

#include "comm/local/local_world.h"
#include "comm/solo_group.h"
#include "core/error.h"

namespace trireme {
namespace {

constexpr int64_t kRows = 3;

/// Element (b, v) of the whole matrix.
float element(int64_t b, int64_t v) {
  return static_cast<float>(1000 * b + v);
}

Tensor columns_of(Context& ctx, int64_t first, int64_t count) {
  Tensor t = ctx.empty({kRows, count});
  for (int64_t i = 0; i < t.numel(); ++i) t.data<float>()[i] = element(i / count, first + i % count);
  return t;
}

TEST(GatherColumnsTest, PutsThePartsSideBySide) {
  for (const std::vector<int64_t>& columns :
       std::vector<std::vector<int64_t>>{{4, 4}, {1, 6}, {7, 1, 3}, {2, 2, 2, 1}})
    LocalWorld(static_cast<int>(columns.size())).run([&](Group& group) {
      ASSERT_GT(group.size(), 1);
      Engine engine(make_cpu_backend(1));
      Context ctx = engine.context();
      int64_t first = 0, total = 0;
      for (int r = 0; r < group.size(); ++r) {
        if (r < group.rank()) first += columns[static_cast<size_t>(r)];
        total += columns[static_cast<size_t>(r)];
      }
      const Tensor local = columns_of(ctx, first, columns[static_cast<size_t>(group.rank())]);
      const Tensor whole = gather_columns(ctx, local, columns, group);
      ASSERT_EQ(whole.shape(), (Shape{kRows, total}));
      for (int64_t i = 0; i < whole.numel(); ++i)
        ASSERT_EQ(whole.data<float>()[i], element(i / total, i % total)) << i;
    });
}

TEST(GatherColumnsTest, OneRankHasThemAll) {
  SoloGroup group;
  Engine engine(make_cpu_backend(1));
  Context ctx = engine.context();
  const Tensor local = columns_of(ctx, 0, 5);
  EXPECT_EQ(gather_columns(ctx, local, std::array<int64_t, 1>{5}, group).raw(), local.raw());
  EXPECT_THROW(gather_columns(ctx, local, std::array<int64_t, 1>{6}, group), InternalError);
}

}  // namespace
}  // namespace trireme
