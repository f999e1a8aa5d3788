// Which device each rank takes: by the ranks' places, and on this machine.
#include "launcher/choose_device.h"

#include <gmock/gmock.h>

#include <vector>

#include "comm/local/local_world.h"
#include "core/backend.h"
#include "core/error.h"

namespace trireme {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

/// Ranks of one machine that see `num_gpus` GPUs each; processes of their own, or threads of one.
std::vector<RankPlace> machine_of(int ranks, int num_gpus, bool threads = false) {
  std::vector<RankPlace> places;
  for (int rank = 0; rank < ranks; ++rank)
    places.push_back({.machine = 7, .process = threads ? 1 : 100 + rank, .num_gpus = num_gpus, .gpu = gpu_index(rank, num_gpus)});
  return places;
}

std::string refusal(std::span<const RankPlace> places) {
  try {
    plan_device("cuda", places, 0);
  } catch (const ConfigError& e) {
    return e.what();
  }
  return "accepted";
}

constexpr Device kCpu, kGpu1{DeviceKind::cuda, 1};

TEST(ChooseDevice, EachRankHasAGpuOfItsOwn) {
  for (const char* wanted : {"auto", "cuda"}) {
    EXPECT_EQ(plan_device(wanted, machine_of(2, 2), 1).device, kGpu1) << wanted;
    EXPECT_EQ(plan_device(wanted, machine_of(1, 8), 1).device, kGpu1) << wanted;
    auto two_machines = machine_of(4, 2);
    two_machines[2].machine = two_machines[3].machine = 8;
    EXPECT_EQ(plan_device(wanted, two_machines, 1).device, kGpu1) << wanted;
    auto shown_its_own = machine_of(4, 1);  // srun --gpus-per-task=1
    for (int rank = 0; rank < 4; ++rank) shown_its_own[static_cast<size_t>(rank)].gpu = rank;
    EXPECT_EQ(plan_device(wanted, shown_its_own, 0).device, (Device{DeviceKind::cuda, 0})) << wanted;
  }
  EXPECT_EQ(plan_device("cpu", machine_of(2, 2), 1).device, kCpu);
}

TEST(ChooseDevice, WithTooFewGpusAutoIsTheCpuAndCudaIsRefused) {
  const auto places = machine_of(3, 2);
  const DeviceChoice choice = plan_device("auto", places, 1);
  EXPECT_EQ(choice.device, kCpu);
  EXPECT_THAT(choice.note, AllOf(HasSubstr("auto is the CPU"), HasSubstr("the 3 ranks of a machine see 2 GPUs")));
  EXPECT_THAT(refusal(places), AllOf(HasSubstr("run.device: cuda, but the 3 ranks"), HasSubstr("set run.device to cpu")));
}

TEST(ChooseDevice, WithoutGpusAutoIsTheCpuSilently) {
  EXPECT_EQ(plan_device("auto", machine_of(2, 0), 0).device, kCpu);
  EXPECT_THAT(plan_device("auto", machine_of(2, 0), 0).note, IsEmpty());
  EXPECT_THAT(refusal(machine_of(2, 0)), HasSubstr("rank 0 sees no NVIDIA GPU"));
  auto one_without = machine_of(2, 2);
  one_without[1].num_gpus = 0;
  EXPECT_THAT(plan_device("auto", one_without, 0).note, HasSubstr("rank 1 sees no NVIDIA GPU"));
}

TEST(ChooseDevice, ABuildWithoutCudaIsNamed) {
  EXPECT_THAT(plan_device("auto", machine_of(2, RankPlace::kNoCuda), 0).note, IsEmpty());
  EXPECT_THAT(plan_device("auto", machine_of(1, RankPlace::kUnusedGpus), 0).note,
              AllOf(HasSubstr("auto is the CPU"), HasSubstr("this build has no CUDA")));
  auto one_without = machine_of(2, 2);
  one_without[1].num_gpus = RankPlace::kNoCuda;
  EXPECT_THAT(plan_device("auto", one_without, 0).note, HasSubstr("the build of rank 1 has no CUDA"));
  EXPECT_THAT(refusal(one_without), HasSubstr("docs/gpu.md"));
}

TEST(ChooseDevice, ThreadsOfOneProcessShareAGpuWhenAskedTo) {
  const auto places = machine_of(3, 1, /*threads=*/true);
  EXPECT_EQ(plan_device("cuda", places, 0).device, (Device{DeviceKind::cuda, 0}));
  EXPECT_EQ(plan_device("auto", places, 0).device, kCpu);
}

TEST(ChooseDevice, AllRanksOfAJobAgree) {
  LocalWorld(3).run([](Group& world) {
    ASSERT_EQ(world.size(), 3);
    EXPECT_EQ(choose_device("cpu", world), kCpu);
    const int num_gpus = num_cuda_devices();
    EXPECT_EQ(choose_device("auto", world).kind, num_gpus >= 3 ? DeviceKind::cuda : DeviceKind::cpu);
    if (num_gpus == 0) {
      EXPECT_THROW(choose_device("cuda", world), ConfigError);
    } else {
      EXPECT_EQ(choose_device("cuda", world), (Device{DeviceKind::cuda, world.rank() % num_gpus}));
    }
  });
}

}  // namespace
}  // namespace trireme
