#include "tests/comm/conformance.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "tests/comm/test_tensor.h"

namespace trireme {
namespace {

// Sizes: none, one, odd, around what travels with a header, and more than two blocks a rank for any number of
// ranks.
constexpr std::array<int64_t, 6> kSizes{0, 1, 7, 993, 1025, 70'001};

/// Calls body.template operator()<T>() for each type that can be reduced.
template <class Body>
void for_each_dtype(const Body& body) {
  body.template operator()<float>();
  body.template operator()<bf16>();
  body.template operator()<f16>();
  body.template operator()<double>();
  body.template operator()<int32_t>();
  body.template operator()<int64_t>();
}

// Small whole numbers: sums are exact in every type.
double value_of(int rank, int64_t i) {
  return static_cast<double>((i * 3 + rank * 5) % 11) - 5;
}

double reduced(ReduceOp op, int size, int64_t i) {
  double total = value_of(0, i);
  for (int rank = 1; rank < size; ++rank) {
    const double v = value_of(rank, i);
    total = op == ReduceOp::max ? std::max(total, v) : op == ReduceOp::min ? std::min(total, v) : total + v;
  }
  return total;
}

void all_reduce(Group& world) {
  for_each_dtype([&]<class T>() {
    for (const ReduceOp op : {ReduceOp::sum, ReduceOp::max, ReduceOp::min}) {
      for (const int64_t n : kSizes) {
        const Tensor t = make_tensor<T>(n, [&](int64_t i) { return value_of(world.rank(), i); });
        world.all_reduce(t, op, "test").wait();
        check_elements<T>(
            t, [&](int64_t i) { return reduced(op, world.size(), i); },
            fmt::format("all_reduce {} {}", name_of(op), name_of(t.dtype())));
      }
    }
  });
}

void all_reduce_average(Group& world) {
  for (const int64_t n : kSizes) {
    const Tensor t = make_tensor<double>(n, [&](int64_t i) { return value_of(world.rank(), i); });
    world.all_reduce(t, ReduceOp::average, "test").wait();
    check_elements<double>(
        t, [&](int64_t i) { return reduced(ReduceOp::sum, world.size(), i) / world.size(); }, "average");
  }
}

// 256 + 1 in bf16 is 256, however often it is repeated; summed in f32 nothing is lost before the one
// rounding.
void half_precision_is_summed_in_f32(Group& world) {
  for (const int64_t n : {int64_t{3}, int64_t{5000}}) {
    const double wanted = static_cast<float>(bf16(256.0f + static_cast<float>(world.size() - 1)));
    const Tensor t = make_tensor<bf16>(n, [&](int64_t) { return world.rank() == 0 ? 256.0 : 1.0; });
    world.all_reduce(t, ReduceOp::sum, "bf16").wait();
    check_elements<bf16>(
        t, [&](int64_t) { return wanted; }, "bf16 sum");

    const double wanted_f16 = static_cast<float>(f16(2048.0f + static_cast<float>(world.size() - 1)));
    const Tensor u = make_tensor<f16>(n, [&](int64_t) { return world.rank() == 0 ? 2048.0 : 1.0; });
    world.all_reduce(u, ReduceOp::sum, "f16").wait();
    check_elements<f16>(
        u, [&](int64_t) { return wanted_f16; }, "f16 sum");
  }
}

// Sums of numbers that don't add up exactly: by rank order, so every rank and every repetition has the same
// bits.
void sums_are_in_rank_order(Group& world) {
  const auto value = [](int rank, int64_t i) {
    return std::sin(static_cast<float>(i + 1) * static_cast<float>(rank + 1));
  };
  for (const int64_t n : {int64_t{100}, int64_t{300'001}}) {
    const Tensor t = make_tensor<float>(n, [&](int64_t i) { return value(world.rank(), i); });
    world.all_reduce(t, ReduceOp::sum, "sines").wait();
    for (int64_t i = 0; i < n; ++i) {
      float wanted = value(0, i);
      for (int rank = 1; rank < world.size(); ++rank) wanted += value(rank, i);
      if (t.data<float>()[i] != wanted)
        check(false, fmt::format("element {} is not the sum in rank order", i));
    }
  }
}

void not_a_number_stays(Group& world) {
  for (const ReduceOp op : {ReduceOp::sum, ReduceOp::average, ReduceOp::max, ReduceOp::min}) {
    for (int bad = 0; bad < world.size(); ++bad) {
      const Tensor t =
          make_tensor<float>({world.rank() == bad ? std::numeric_limits<float>::quiet_NaN() : 1.0f});
      world.all_reduce(t, op, "nan").wait();
      check(std::isnan(t.item<float>()), fmt::format("{} of a NaN of rank {}", name_of(op), bad));
    }
  }
}

void reduce_scatter(Group& world) {
  for_each_dtype([&]<class T>() {
    for (const int64_t n : kSizes) {
      const Tensor input =
          make_tensor<T>(n * world.size(), [&](int64_t i) { return value_of(world.rank(), i); });
      const auto wanted = [&](int64_t i) {
        return reduced(ReduceOp::sum, world.size(), n * world.rank() + i);
      };
      const Tensor output = make_tensor<T>(n, [](int64_t) { return 0; });
      world.reduce_scatter(input, output, ReduceOp::sum, "apart").wait();
      check_elements<T>(output, wanted, "reduce_scatter");
      check_elements<T>(
          input, [&](int64_t i) { return value_of(world.rank(), i); }, "the input of reduce_scatter");
      const Tensor own = input.slice(n * world.rank(), n * (world.rank() + 1));
      world.reduce_scatter(input, own, ReduceOp::sum, "in place").wait();
      check_elements<T>(own, wanted, "reduce_scatter in place");
    }
  });
}

void all_gather(Group& world) {
  const auto run = [&]<class T>() {
    for (const int64_t n : kSizes) {
      const auto mine = [&](int64_t i) { return value_of(world.rank(), i) + 5; };
      const auto wanted = [&](int64_t i) {
        return n == 0 ? 0 : value_of(static_cast<int>(i / n), i % n) + 5;
      };
      const Tensor output = make_tensor<T>(n * world.size(), [](int64_t) { return 99; });
      world.all_gather(make_tensor<T>(n, mine), output, "apart").wait();
      check_elements<T>(output, wanted, "all_gather");
      const Tensor in_place =
          make_tensor<T>(n * world.size(), [&](int64_t i) { return n == 0 ? 0 : mine(i % n); });
      world.all_gather(in_place.slice(n * world.rank(), n * (world.rank() + 1)), in_place, "in place").wait();
      check_elements<T>(in_place, wanted, "all_gather in place");
    }
  };
  for_each_dtype(run);
  run.template operator()<uint16_t>();
  run.template operator()<uint8_t>();
}

void broadcast(Group& world) {
  for (const int64_t n : kSizes) {
    for (int root = 0; root < world.size(); ++root) {
      const Tensor t = make_tensor<uint8_t>(n, [&](int64_t i) { return value_of(world.rank(), i) + 5; });
      world.broadcast(t, root, "test").wait();
      check_elements<uint8_t>(
          t, [&](int64_t i) { return value_of(root, i) + 5; }, "broadcast");
    }
  }
}

void all_to_all(Group& world) {
  const auto value = [](int from, int to, int64_t i) {
    return static_cast<double>(100 * from + 10 * to + i % 7);
  };
  for (const int64_t n : kSizes) {
    const auto part = [&](int64_t i) { return n == 0 ? 0 : static_cast<int>(i / n); };
    const Tensor input = make_tensor<float>(
        n * world.size(), [&](int64_t i) { return value(world.rank(), part(i), n ? i % n : 0); });
    const Tensor output = make_tensor<float>(n * world.size(), [](int64_t) { return -1; });
    world.all_to_all(input, output, "test").wait();
    check_elements<float>(
        output, [&](int64_t i) { return value(part(i), world.rank(), i % n); }, "all_to_all");
  }
}

// Every rank sends to every other one before anybody receives, with tags taken out of order.
void send_and_recv(Group& world) {
  for (const int64_t n : kSizes) {
    const auto value = [](int from, int tag, int64_t i) {
      return static_cast<double>(from * 1000 + tag * 100 + i % 17);
    };
    std::vector<Work> works;
    std::vector<std::pair<Tensor, std::pair<int, int>>> received;  // tensor, (from, tag)
    for (int peer = 0; peer < world.size(); ++peer) {
      if (peer == world.rank()) continue;
      for (const int tag : {0, 7}) {
        const Tensor t = make_tensor<float>(n, [&](int64_t i) { return value(world.rank(), tag, i); });
        works.push_back(world.send(t, peer, tag, "there"));
      }
    }
    for (int peer = 0; peer < world.size(); ++peer) {
      if (peer == world.rank()) continue;
      for (const int tag : {7, 0}) {
        received.push_back({make_tensor<float>(n, [](int64_t) { return -1; }), {peer, tag}});
        works.push_back(world.recv(received.back().first, peer, tag, "back"));
      }
    }
    for (const Work& work : works) work.wait();
    for (const auto& [t, origin] : received)
      check_elements<float>(
          t, [&](int64_t i) { return value(origin.first, origin.second, i); }, "recv");
  }
}

// Messages of one tag arrive in the order of the sends, whatever their sizes; a receive that waits holds
// nothing up.
void messages_keep_their_order(Group& world) {
  if (world.size() == 1) return;
  const int next = (world.rank() + 1) % world.size(),
            previous = (world.rank() + world.size() - 1) % world.size();
  constexpr std::array<int64_t, 5> kLengths{50'000, 1, 2000, 3, 100'000};
  std::vector<Tensor> received;
  std::vector<Work> works;
  for (const int64_t n : kLengths) {
    received.push_back(make_tensor<float>(n, [](int64_t) { return -1; }));
    works.push_back(world.recv(received.back(), previous, 3, "ring"));
  }
  const Tensor sum = make_tensor<float>({1.0f});
  world.all_reduce(sum, ReduceOp::sum, "past the receives").wait();
  check(sum.item<float>() == static_cast<float>(world.size()), "a collective behind receives");
  for (const int64_t n : kLengths)
    works.push_back(
        world.send(make_tensor<float>(n, [&](int64_t) { return static_cast<double>(n); }), next, 3, "ring"));
  for (const Work& work : works) work.wait();
  for (size_t m = 0; m < kLengths.size(); ++m)
    check_elements<float>(
        received[m], [&](int64_t) { return static_cast<double>(kLengths[m]); }, "ring");
}

void barrier(Group& world) {
  const Tensor count = make_tensor<int32_t>({1});
  for (int i = 0; i < 3; ++i) {
    world.barrier("start").wait();
    world.all_reduce(count, ReduceOp::sum, "count").wait();
  }
  check(count.item<int32_t>() == world.size() * world.size() * world.size(),
        "three all-reduces between barriers");
}

// Many operations in flight; the handles are waited for from the last to the first, and some not at all.
void works_in_flight(Group& world) {
  constexpr int kWorks = 24;
  std::vector<Tensor> tensors;
  std::vector<Work> works;
  for (int k = 0; k < kWorks; ++k) {
    const int64_t n = k % 3 == 0 ? 60'000 : k + 1;
    tensors.push_back(make_tensor<float>(n, [&](int64_t i) { return value_of(world.rank(), i + k); }));
    works.push_back(world.all_reduce(tensors.back(), ReduceOp::sum, fmt::format("work {}", k)));
    if (k == 5)
      static_cast<void>(world.all_reduce(make_tensor<float>({1.0f, 2.0f}), ReduceOp::sum, "dropped"));
  }
  for (int k = kWorks - 1; k >= 0; --k) {
    works[k].wait();
    check(works[k].done(), "done after wait");
    works[k].wait();  // again
    check_elements<float>(
        tensors[k], [&](int64_t i) { return reduced(ReduceOp::sum, world.size(), i + k); }, "in flight");
  }
}

void large(Group& world) {
  const int64_t n = (5 << 20) / 4 + 3;  // f32 of 5 MiB and a bit: several blocks
  const Tensor t = make_tensor<float>(n, [&](int64_t i) { return value_of(world.rank(), i); });
  world.all_reduce(t, ReduceOp::sum, "large").wait();
  check_elements<float>(
      t, [&](int64_t i) { return reduced(ReduceOp::sum, world.size(), i); }, "large all_reduce");
}

void sub_groups(Group& world) {
  // Odd and even ranks, numbered backwards.
  const auto half = world.split(world.rank() % 2, -world.rank(), "half");
  const int wanted_size = (world.size() + (world.rank() % 2 == 0 ? 1 : 0)) / 2;
  check(half->size() == wanted_size, "the size of a sub-group");
  check(half->rank() == wanted_size - 1 - world.rank() / 2, "ranks in the order of keys");
  check(half->name() == "half", "the name of a sub-group");
  // The same collective in both halves, the world and a duplicate, all at once.
  const auto other = world.duplicate("other purpose");
  const auto quarter = half->split(half->rank() / 2, 0, "quarter");
  const Tensor a = make_tensor<float>(30'000, [&](int64_t) { return world.rank(); });
  const Tensor b = make_tensor<float>({1.0f}), c = make_tensor<float>({2.0f}), d = make_tensor<float>({1.0f});
  const std::array<Work, 4> works{
      half->all_reduce(a, ReduceOp::sum, "half"), world.all_reduce(b, ReduceOp::sum, "all"),
      other->all_reduce(c, ReduceOp::sum, "other"), quarter->all_reduce(d, ReduceOp::sum, "quarter")};
  for (const Work& work : works) work.wait();
  double sum = 0;
  for (int rank = world.rank() % 2; rank < world.size(); rank += 2) sum += rank;
  check_elements<float>(
      a, [&](int64_t) { return sum; }, "the sum of a half");
  check(b.item<float>() == static_cast<float>(world.size()), "the sum of the world");
  check(c.item<float>() == static_cast<float>(2 * world.size()), "the sum of a duplicate");
  check(d.item<float>() == static_cast<float>(quarter->size()) && quarter->size() <= 2,
        "the sum of a quarter");
}

// Groups do not wait for each other: the ranks begin operations of two groups in opposite orders.
void groups_are_independent(Group& world) {
  const auto a = world.duplicate("a"), b = world.duplicate("b");
  const Tensor t = make_tensor<float>(20'000, [](int64_t) { return 1; }), u = make_tensor<float>({1.0f});
  const bool a_first = world.rank() % 2 == 0;
  Group& first = a_first ? *a : *b;
  Group& second = a_first ? *b : *a;
  const Work work_1 = first.all_reduce(a_first ? t : u, ReduceOp::sum, "first");
  const Work work_2 = second.all_reduce(a_first ? u : t, ReduceOp::sum, "second");
  work_2.wait();
  work_1.wait();
  check(u.item<float>() == static_cast<float>(world.size()) && at<float>(t, 7) == world.size(),
        "two groups crosswise");
}

// A stream whose work is done as late as can be: when somebody waits for it.
class LateStream final : public Stream {
 public:
  /// Its work is to write `value` to all of t.
  LateStream(const Tensor& t, float value) : t_(t), value_(value) {}
  void synchronize() override {
    if (num_waits_++ == 0) std::fill_n(t_.data<float>(), t_.numel(), value_);
  }
  int num_waits() const { return num_waits_; }

 private:
  Tensor t_;
  float value_;
  int num_waits_ = 0;
};

// Operations take what the stream writes to their tensor, not what was there at the call.
void operations_come_after_the_stream(Group& world) {
  const int n = world.size(), left = (world.rank() + n - 1) % n, right = (world.rank() + 1) % n;
  const auto zeros = [](int64_t count) { return make_tensor<float>(count, [](int64_t) { return 0; }); };
  const auto run = [](std::string_view what, const Tensor& written, float value,
                      const std::function<Work(Stream*)>& call) {
    LateStream stream(written, value);
    call(&stream).wait();
    check(stream.num_waits() == 1,
          fmt::format("{} waited {} times for its stream", what, stream.num_waits()));
  };
  const auto check_all = [](std::string_view what, const Tensor& t, double wanted) {
    check_elements<float>(
        t, [&](int64_t) { return wanted; }, what);
  };
  for (const int64_t size : {int64_t{3}, int64_t{20'000}}) {
    const Tensor part = zeros(size), result = zeros(size), parts = zeros(n * size), results = zeros(n * size);
    run("all_reduce", part, 1, [&](Stream* s) { return world.all_reduce(part, ReduceOp::sum, "x", s); });
    check_all("all_reduce", part, n);
    run("reduce_scatter", parts, 2,
        [&](Stream* s) { return world.reduce_scatter(parts, result, ReduceOp::sum, "x", s); });
    check_all("reduce_scatter", result, 2 * n);
    run("all_gather", part, 3, [&](Stream* s) { return world.all_gather(part, results, "x", s); });
    check_all("all_gather", results, 3);
    run("all_to_all", parts, 4, [&](Stream* s) { return world.all_to_all(parts, results, "x", s); });
    check_all("all_to_all", results, 4);
    run("broadcast", part, world.rank() == 0 ? 5.0f : 6.0f,
        [&](Stream* s) { return world.broadcast(part, 0, "x", s); });
    check_all("broadcast", part, 5);
    if (n == 1) continue;

    Work other = world.recv(result, left, 0, "x");
    run("send", part, 7, [&](Stream* s) { return world.send(part, right, 0, "x", s); });
    other.wait();
    check_all("send", result, 7);
    other = world.send(part, right, 1, "x");
    run("recv", result, 8, [&](Stream* s) { return world.recv(result, left, 1, "x", s); });
    other.wait();
    check_all("recv", result, 7);
  }
}

void wrong_arguments(Group& world) {
  const auto refused = [](const std::string& part, const std::function<Work()>& call) {
    check_contains(message_of<InternalError>([&] { static_cast<void>(call()); }), part);
  };
  const int n = world.size();
  const Tensor one = make_tensor<float>({1.0f}), bytes = make_tensor<uint8_t>({uint8_t{1}});
  const Tensor ints = make_tensor<int32_t>({1}), halves = make_tensor<bf16>({bf16(1.0f)});
  const Tensor whole = make_tensor<float>(2 * n, [](int64_t) { return 0; });
  refused("not defined", [&] { return world.all_reduce(Tensor(), ReduceOp::sum, "x"); });
  refused("u8 can't be reduced", [&] { return world.all_reduce(bytes, ReduceOp::sum, "x"); });
  refused("average of i32", [&] { return world.all_reduce(ints, ReduceOp::average, "x"); });
  refused("are not", [&] { return world.reduce_scatter(whole, one, ReduceOp::sum, "x"); });
  refused("input and output differ: f32 and bf16",
          [&] { return world.all_gather(halves, make_tensor<float>(n, [](int64_t) { return 0; }), "x"); });
  refused("no root", [&] { return world.broadcast(one, n, "x"); });
  refused("no root", [&] { return world.broadcast(one, -1, "x"); });
  refused("overlap", [&] { return world.all_to_all(whole, whole, "x"); });
  refused("differ", [&] { return world.all_to_all(whole, one, "x"); });
  refused("has no peer", [&] { return world.send(one, world.rank(), 0, "to myself"); });
  refused("has no peer", [&] { return world.recv(one, n, 0, "x"); });
  if (n == 1) return;
  refused("overlap", [&] { return world.all_gather(whole.slice(2 * n - 3, 2 * n - 1), whole, "x"); });
  refused("don't divide", [&] {
    const Tensor odd = make_tensor<float>(n + 1, [](int64_t) { return 0; });
    return world.all_to_all(odd, make_tensor<float>(n + 1, [](int64_t) { return 0; }), "x");
  });
  refused("tag -1", [&] { return world.send(one, (world.rank() + 1) % n, -1, "x"); });
  refused("tag 65536", [&] { return world.recv(one, (world.rank() + 1) % n, 65536, "x"); });
  world.all_reduce(one, ReduceOp::sum, "after all that").wait();
  check(one.item<float>() == static_cast<float>(n), "a group works on after refused calls");
}

constexpr ConformanceCase kCases[] = {
    {"all_reduce", all_reduce},
    {"all_reduce_average", all_reduce_average},
    {"half_precision_is_summed_in_f32", half_precision_is_summed_in_f32},
    {"sums_are_in_rank_order", sums_are_in_rank_order},
    {"not_a_number_stays", not_a_number_stays},
    {"reduce_scatter", reduce_scatter},
    {"all_gather", all_gather},
    {"broadcast", broadcast},
    {"all_to_all", all_to_all},
    {"send_and_recv", send_and_recv},
    {"messages_keep_their_order", messages_keep_their_order},
    {"barrier", barrier},
    {"works_in_flight", works_in_flight},
    {"large", large},
    {"sub_groups", sub_groups},
    {"groups_are_independent", groups_are_independent},
    {"operations_come_after_the_stream", operations_come_after_the_stream},
    {"wrong_arguments", wrong_arguments},
};

}  // namespace

std::span<const ConformanceCase> conformance_cases() {
  return kCases;
}

}  // namespace trireme
