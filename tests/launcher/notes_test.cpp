// Notes of several ranks, told once.
#include "launcher/notes.h"

#include <gmock/gmock.h>

#include "comm/local/local_world.h"
#include "core/context.h"

namespace trireme {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

TEST(Notes, OfAllRanksAreToldOnceByRank0) {
  LocalWorld(4).run([](Group& world) {
    Engine engine(make_cpu_backend(1));
    Backend& backend = engine.backend();
    Notes notes(backend);
    backend.add_note("all have this");
    backend.add_note("all have this");
    if (world.rank() == 0) {
      EXPECT_THAT(notes.take(), ElementsAre("note: all have this"));
      EXPECT_THAT(notes.take(), IsEmpty());
      backend.add_note("rank 0 alone");
    }
    if (world.rank() == 2) backend.add_note("a graph\nfailed");
    if (world.rank() % 2 == 1) backend.add_note("a cache can't be written");
    const std::vector<std::string> lines = notes.take_of_all(world);
    if (world.rank() == 0) {
      EXPECT_THAT(lines, ElementsAre("note: rank 0 alone", "note: ranks 1, 3: a cache can't be written", "note: rank 2: a graph\nfailed"));
    } else {
      EXPECT_THAT(lines, IsEmpty());
    }
    EXPECT_THAT(notes.take_of_all(world), IsEmpty());
    if (world.rank() == 3) backend.add_note("later");
    if (world.rank() == 0) {
      EXPECT_THAT(notes.take_of_all(world), ElementsAre("note: rank 3: later"));
    } else {
      EXPECT_THAT(notes.take_of_all(world), IsEmpty());
    }
  });
}

}  // namespace
}  // namespace trireme
