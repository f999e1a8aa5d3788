// The engine of groups of device memory, on operations that wait for each other on the device, as NCCL's kernels do: a rank
// that does not come leaves them running until they are aborted.
#include "comm/device_engine.h"

#include <gmock/gmock.h>

#include <atomic>

#include "comm/device_group.h"
#include "comm/local/local_world.h"
#include "tests/comm/fake_device.h"
#include "tests/comm/test_tensor.h"

namespace trireme {
namespace {

using comm::DeviceCall;
using comm::DeviceOperation;
using std::chrono::milliseconds;
using ::testing::AllOf;
using ::testing::HasSubstr;

/// Where the ranks' kernels meet.
class Wire {
 public:
  explicit Wire(int size) : size_(size) {}
  /// Returns when all ranks are in their `number`-th kernel, or this one's are aborted.
  void meet(size_t number, const std::atomic<bool>& aborted) {
    std::unique_lock lock(mutex_);
    ++arrived_[number];
    changed_.notify_all();
    while (arrived_[number] < size_ && !aborted) changed_.wait_for(lock, milliseconds(1));
  }

 private:
  const int size_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::map<size_t, int> arrived_;
};

struct WireLink final : comm::DeviceLink {
  WireLink(Wire& wire, Backend& backend) : wire(wire), stream(backend.make_stream()) {}
  ~WireLink() override { stream->synchronize(); }
  void enter_thread() override {}
  void check() override {
    if (broken) throw CommError("the wire is cut");
  }
  bool has_results() override { return !worthless; }
  void abort() noexcept override { aborted = true; }

  Wire& wire;
  std::atomic<bool> aborted = false, broken = false, worthless = false;
  std::atomic<bool> in_parts = false;  // of an operation, the kernel; its end once that is done
  std::unique_ptr<Stream> stream;
  std::atomic<size_t> num_kernels = 0;
};

class WireOperation final : public DeviceOperation {
 public:
  WireOperation(WireLink& link, Backend& backend, DeviceCall call, std::string_view label, const GroupOptions& options,
                std::unique_ptr<Event> after)
      : DeviceOperation(std::move(call), label, options, std::move(after), backend.make_event()), link_(link), backend_(backend) {
    limited_ = true;
  }

 private:
  bool issue() override {
    if (!begin_) begin();
    if (link_.in_parts && !kernel_->done()) return false;
    end_->record(*link_.stream);
    return true;
  }
  void begin() {
    if (after_) after_->wait(*link_.stream);
    begin_ = backend_.make_event();
    begin_->record(*link_.stream);
    static_cast<FakeStream&>(*link_.stream).queue([&link = link_, number = link_.num_kernels++] {
      link.wire.meet(number, link.aborted);
    });
    kernel_ = backend_.make_event();
    kernel_->record(*link_.stream);
  }
  WireLink& link_;
  Backend& backend_;
  std::unique_ptr<Event> kernel_;
};

class WireGroup final : public comm::DeviceGroup {
 public:
  WireGroup(std::unique_ptr<Group> host, Backend& backend, Wire& wire)
      : DeviceGroup(std::move(host), backend, std::make_unique<WireLink>(wire, backend)) {}
  void cut() { wire_link().broken = true; }
  void spoil() { wire_link().worthless = true; }
  void issue_in_parts() { wire_link().in_parts = true; }
  size_t num_kernels() { return wire_link().num_kernels; }

 private:
  WireLink& wire_link() { return static_cast<WireLink&>(link()); }
  std::shared_ptr<DeviceOperation> make_operation(DeviceCall call, std::string_view label,
                                                  std::unique_ptr<Event> after) override {
    return std::make_shared<WireOperation>(wire_link(), backend(), std::move(call), label, options(), std::move(after));
  }
  std::unique_ptr<Group> make_like(std::unique_ptr<Group>) override { throw InternalError("not needed"); }
};

struct Rank {
  Rank(Group& world, Wire& wire) : group(std::make_unique<WireGroup>(world.duplicate("gradients"), device, wire)) {}
  FakeDevice device;
  std::unique_ptr<Stream> compute = device.make_stream();
  std::unique_ptr<WireGroup> group;
};

/// The message of the E that a world of two ranks ends with, whose groups of device memory wait `timeout_ms`.
template <class E>
std::string failure_of(int64_t timeout_ms, const std::function<void(Group&, Rank&)>& body) {
  Wire wire(2);
  return message_of<E>([&] {
    LocalWorld(2, {.timeout_ms = 60'000}).run([&](Group& world) {
      ASSERT_EQ(world.size(), 2);
      Rank rank(world, wire);
      rank.group->set_options({.timeout_ms = timeout_ms});
      world.barrier("start").wait();
      body(world, rank);
    });
  });
}

TEST(DeviceEngine, OperationsOverlapAndEndInOrder) {
  Wire wire(3);
  LocalWorld(3).run([&](Group& world) {
    ASSERT_EQ(world.size(), 3);
    Rank rank(world, wire);
    std::vector<Work> works;
    for (int i = 0; i < 20; ++i) {
      works.push_back(rank.group->barrier(fmt::format("{}", i)));
      works.back().wait(*rank.compute);  // does not wait for the peers
    }
    works.back().wait();
    for (const Work& work : works) EXPECT_TRUE(work.done());
  });
}

TEST(DeviceEngine, AnOperationThatARankStaysAwayFromIsAborted) {
  const std::string text = failure_of<CommError>(300, [](Group& world, Rank& rank) {
    if (world.rank() == 1) {  // computes, or hangs; it is told within a moment
      while (!world.failure()) std::this_thread::sleep_for(milliseconds(5));
      EXPECT_THAT(*world.failure(), HasSubstr("rank 0 failed: barrier 'bucket 3' in group 'gradients' was not done within 0.3 s"));
      EXPECT_THAT(message_of<CommError>([&] { rank.group->barrier("next").wait(); }), HasSubstr("was given up: rank 0 failed"));
      return;
    }
    const auto begin = std::chrono::steady_clock::now();
    const Work work = rank.group->barrier("bucket 3"), next = rank.group->barrier("bucket 4");
    next.wait(*rank.compute);
    rank.compute->synchronize();  // as a training loop does that looks at its loss
    EXPECT_GE(std::chrono::steady_clock::now() - begin, milliseconds(300));
    EXPECT_LT(std::chrono::steady_clock::now() - begin, milliseconds(30'000));
    EXPECT_TRUE(world.failure()) << "what was aborted must not look like a result";
    EXPECT_THROW(rank.group->barrier("after").wait(*rank.compute), CommError);
    EXPECT_THROW(world.barrier("of the host").wait(), CommError);
    EXPECT_THAT(message_of<CommError>([&] { next.wait(); }), HasSubstr("barrier 'bucket 4' was given up: barrier 'bucket 3'"));
    EXPECT_TRUE(work.done());
    work.wait();
  });
  EXPECT_THAT(text, AllOf(HasSubstr("rank 0: barrier 'bucket 3' in group 'gradients' was not done within 0.3 s"),
                          HasSubstr("its ranks are alive")));
}

TEST(DeviceEngine, AnExceptionInOneRankEndsTheOthersKernels) {
  const std::string text = failure_of<std::runtime_error>(60'000, [](Group& world, Rank& rank) {
    if (world.rank() == 1) throw std::runtime_error("the disk is full");
    const Work work = rank.group->barrier("bucket 3");
    work.wait(*rank.compute);
    rank.compute->synchronize();
    EXPECT_EQ(message_of<CommError>([&] { work.wait(); }),
              "rank 0: barrier 'bucket 3' was given up: rank 1 failed: the disk is full");
  });
  EXPECT_EQ(text, "the disk is full");
}

TEST(DeviceEngine, ABrokenLinkEndsEverything) {
  const std::string text = failure_of<CommError>(60'000, [](Group& world, Rank& rank) {
    if (world.rank() == 1) {
      while (!world.failure()) std::this_thread::sleep_for(milliseconds(5));
      return;
    }
    const Work work = rank.group->barrier("bucket 3");
    rank.group->cut();
    work.wait();
  });
  EXPECT_EQ(text, "rank 0: the wire is cut");
}

TEST(DeviceEngine, IsNotFarAheadOfADeviceThatWaits) {
  Wire wire(2);
  LocalWorld(2).run([&](Group& world) {
    ASSERT_EQ(world.size(), 2);
    Rank rank(world, wire);
    std::vector<Work> works;
    const auto call = [&] {
      for (int i = 0; i < 200; ++i) works.push_back(rank.group->barrier(fmt::format("{}", i)));
    };
    if (world.rank() == 0) {
      call();
      std::this_thread::sleep_for(milliseconds(50));
      EXPECT_EQ(rank.group->num_kernels(), 64u);
      EXPECT_FALSE(works.back().done());
    }
    world.barrier("now").wait();
    if (world.rank() == 1) call();
    works.back().wait(*rank.compute);
    EXPECT_EQ(rank.group->num_kernels(), 200u);
    works.back().wait();
    for (const Work& work : works) EXPECT_TRUE(work.done());
  });
}

TEST(DeviceEngine, AllThatWasCalledMayEndBeforeTheGroupGoes) {
  Wire wire(2);
  LocalWorld(2).run([&](Group& world) {
    Rank rank(world, wire);
    std::vector<Work> works;
    for (int i = 0; i < 70; ++i) works.push_back(rank.group->barrier(fmt::format("{}", i)));
    rank.group.reset();
    for (const Work& work : works) EXPECT_NO_THROW(work.wait());
    world.barrier("end").wait();
  });
}

TEST(DeviceEngine, WhatIsDoneWithoutAResultIsNoneUntilItIsKnownWhy) {
  const std::string text = failure_of<std::runtime_error>(60'000, [](Group& world, Rank& rank) {
    if (world.rank() == 0) rank.group->spoil();
    const Work work = rank.group->barrier("bucket 3");
    if (world.rank() == 1) {
      work.wait();
      std::this_thread::sleep_for(milliseconds(100));
      throw std::runtime_error("the disk is full");
    }
    work.wait(*rank.compute);
    rank.compute->synchronize();
    EXPECT_TRUE(rank.group->failure()) << "what a peer gave up must not look like a result";
    EXPECT_EQ(message_of<CommError>([&] { work.wait(); }),
              "rank 0: barrier 'bucket 3' was given up: rank 1 failed: the disk is full");
  });
  EXPECT_EQ(text, "the disk is full");
}

TEST(DeviceEngine, TimeCountsFromWhenTheDeviceBegins) {
  Wire wire(2);
  LocalWorld(2, {.timeout_ms = 60'000}).run([&](Group& world) {
    Rank rank(world, wire);
    rank.group->set_options({.timeout_ms = 300});
    static_cast<FakeStream&>(*rank.compute).queue([] { std::this_thread::sleep_for(milliseconds(700)); });
    const Tensor none(std::make_shared<Storage>(nullptr, nullptr, 0), 0, {0}, DType::f32, rank.device.device());
    EXPECT_NO_THROW(rank.group->all_reduce(none, ReduceOp::sum, "after a long step", rank.compute.get()).wait());
  });
}

void expect_an_end_before_the_group_goes(bool in_parts) {
  Wire wire(2);
  LocalWorld(2).run([&](Group& world) {
    Rank rank(world, wire);
    if (in_parts) rank.group->issue_in_parts();
    if (world.rank() == 1) std::this_thread::sleep_for(milliseconds(100));
    const Work work = rank.group->barrier("last");
    rank.group.reset();
    EXPECT_NO_THROW(work.wait());
    world.barrier("end").wait();
  });
}
TEST(DeviceEngine, WhatIsIssuedMayEndBeforeTheGroupGoes) { expect_an_end_before_the_group_goes(false); }
TEST(DeviceEngine, WhatIsIssuedInPartMayEndBeforeTheGroupGoes) { expect_an_end_before_the_group_goes(true); }

TEST(DeviceEngine, WhatHangsIsGivenUpWithTheGroup) {
  Wire wire(2);
  LocalWorld(2).run([&](Group& world) {
    Rank rank(world, wire);
    Work work;
    if (world.rank() == 0) work = rank.group->barrier("alone");
    rank.group.reset();
    if (world.rank() == 0) {
      EXPECT_THAT(message_of<CommError>([&] { work.wait(); }), HasSubstr("was given up: its group is gone"));
    }
    world.barrier("the world goes on").wait();
  });
}

}  // namespace
}  // namespace trireme
