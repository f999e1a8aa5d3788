// Drawings of timelines: text for terminals, SVG for pages and for a measured run under the simulated one.
#pragma once

#include <span>
#include <string>

#include "parallel/schedule/timeline.h"

namespace trireme {

/// One row a rank, as wide as time is long and at most `columns` characters: "F3" is a forward of micro-batch
/// 3, and likewise B, I and W (ActionKind); "-", "=" and "~" fill what is left of the time of F, of B or I,
/// and of W, and
/// "." is idle. Stages of a rank after its first one have small letters. Where there is no room for the
/// number the letter stands alone.
std::string draw_text(const Timeline& timeline, int columns = 160);

/// One timeline of a drawing.
struct Panel {
  std::string title;
  Timeline timeline;
  std::string unit;  // of its times: "ms", "forward passes"
};

/// An SVG document with a row a rank, colours by kind (darker for the stages of a rank after its first one),
/// numbers of micro-batches, and each panel's bubble share and peak of activations
/// (Timeline::peak_micro_batches) in its title. Panels stand one below the other: with one scale if all have
/// the same unit, each as wide as the drawing otherwise.
std::string draw_svg(std::span<const Panel> panels);

}  // namespace trireme
