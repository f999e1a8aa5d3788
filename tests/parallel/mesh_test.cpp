// The mesh's arithmetic and its refusals.
#include "parallel/mesh.h"

#include <gmock/gmock.h>

#include "comm/local/local_world.h"
#include "core/error.h"
#include "tests/comm/fake_device.h"
#include "tests/refusal.h"

namespace trireme {
namespace {

using ::testing::HasSubstr;

TEST(MeshShapeTest, RanksAndCoordinatesAreInverse) {
  const MeshShape shape{.sizes = {3, 1, 2, 2, 4}};
  EXPECT_EQ(shape.ranks(), 48);
  for (int64_t r = 0; r < shape.ranks(); ++r) EXPECT_EQ(shape.rank_of(shape.coords_of(r)), r);
  EXPECT_EQ(shape.coords_of(1), (std::array<int64_t, kNumAxes>{0, 0, 0, 0, 1}));   // tensor ranks are neighbours
  EXPECT_EQ(shape.coords_of(16), (std::array<int64_t, kNumAxes>{1, 0, 0, 0, 0}));  // data ranks are farthest apart
}

std::string refusal(const ParallelConfig& config, int64_t ranks) {
  return refusal_of([&] { plan_mesh(config, ranks); });
}

TEST(MeshShapeTest, OrderSaysWhoAreNeighbours) {
  ParallelConfig config{.pipeline = 2, .tensor = 3, .order = {"tensor", "expert", "context", "data", "pipeline"}};
  const MeshShape shape = plan_mesh(config, 12);
  EXPECT_EQ(shape.size(Axis::data), 2);
  EXPECT_EQ(shape.coords_of(1), (std::array<int64_t, kNumAxes>{0, 0, 0, 1, 0}));
  EXPECT_EQ(shape.coords_of(2), (std::array<int64_t, kNumAxes>{1, 0, 0, 0, 0}));
  EXPECT_EQ(shape.coords_of(4), (std::array<int64_t, kNumAxes>{0, 0, 0, 0, 1}));
  for (int64_t r = 0; r < shape.ranks(); ++r) EXPECT_EQ(shape.rank_of(shape.coords_of(r)), r);
  config.order = {"tensor", "data", "context", "data", "pipeline"};
  EXPECT_THAT(refusal(config, 12), HasSubstr("parallel.order = [tensor, data, context, data, pipeline] must name each of data, context, "
                                             "expert, pipeline, tensor once"));
}

TEST(MeshShapeTest, SaysWhichNumbersWork) {
  EXPECT_EQ(plan_mesh({}, 6).size(Axis::data), 6);
  EXPECT_EQ(plan_mesh({.context = 2, .tensor = 2}, 8).size(Axis::data), 2);
  EXPECT_THAT(refusal({.data = 4}, 6), HasSubstr("set parallel.data to 6 (or auto) or launch 4 ranks"));
  EXPECT_THAT(refusal({.pipeline = 2, .tensor = 2}, 6), HasSubstr("pipeline 2 x tensor 2 = 4 does not divide 6 ranks; launch 4 or 8 ranks"));
  EXPECT_THAT(refusal({.data = 3, .tensor = 2}, 8), HasSubstr("data 3 x tensor 2 = 6 does not make 8 ranks; set parallel.data to 4"));
  EXPECT_THAT(refusal({.expert = 2}, 2), HasSubstr("no experts"));
  EXPECT_THAT(refusal({.pipeline = 0}, 2), HasSubstr("must be 1 or more"));
  // The product of these is a multiple of 2^64.
  EXPECT_THAT(refusal({.pipeline = int64_t{1} << 31, .tensor = int64_t{1} << 33}, 4),
              HasSubstr("pipeline 2147483648 x tensor 8589934592 is more than 2147483648 ranks, and there are 4"));
  EXPECT_THAT(refusal({.data = int64_t{1} << 62}, 4), HasSubstr("data 4611686018427387904 is more than"));
}

TEST(MeshTest, GroupsAreTheAxes) {
  LocalWorld(3).run([](Group& world) {
    Mesh mesh({}, world);
    ASSERT_EQ(mesh.group(Axis::data).size(), 3);
    EXPECT_EQ(mesh.group(Axis::data).rank(), world.rank());
    EXPECT_EQ(mesh.coord(Axis::data), world.rank());
    EXPECT_EQ(mesh.group(Axis::tensor).size(), 1);
    EXPECT_EQ(mesh.shape().describe(), "data 3");
  });
}

TEST(MeshTest, GroupsOfSeveralAxes) {
  LocalWorld(8).run([](Group& world) {
    Mesh mesh({.context = 2, .tensor = 2}, world);
    const auto batch = mesh.make_group({Axis::data, Axis::context}, "batch");
    ASSERT_EQ(batch->size(), 4);
    EXPECT_EQ(batch->rank(), world.rank() / 2);  // tensor ranks are neighbours
    const auto halves = mesh.make_group(world.rank() / 4, "halves");
    ASSERT_EQ(halves->size(), 4);
    EXPECT_EQ(mesh.shape().describe(), "data 2 x context 2 x tensor 2");
  });
}

TEST(MeshTest, HasGroupsForTensorsOfADevice) {
  LocalWorld(2).run([](Group& world) {
    FakeDevice device;
    Mesh mesh({}, world, device);
    ASSERT_EQ(mesh.group(Axis::data).size(), 2);
    EXPECT_NE(&mesh.group(Axis::data), &mesh.host_group(Axis::data));
    const auto allocator = std::make_shared<Allocator>(device);
    const auto stream = device.make_stream();
    const Tensor t(allocator->allocate(4, MemoryClass::workspace), 0, {1}, DType::f32, device.device());
    float value = static_cast<float>(world.rank() + 1);
    device.copy(t.raw(), &value, sizeof value, *stream);
    for (const Axis axis : {Axis::data, Axis::tensor})
      mesh.group(axis).all_reduce(t, ReduceOp::sum, "x", stream.get()).wait(*stream);
    device.copy(&value, t.raw(), sizeof value, *stream);
    stream->synchronize();
    EXPECT_EQ(value, 3.0f);

    const auto cpu = make_cpu_backend(1);
    Mesh on_host({}, world, *cpu);
    EXPECT_EQ(&on_host.group(Axis::data), &on_host.host_group(Axis::data));
  });
}

}  // namespace
}  // namespace trireme
