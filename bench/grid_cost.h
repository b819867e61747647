// grid_cost: what a grid will take, before it starts. Formulas, not measurements, except for the speed, which comes from runs that are there.
#pragma once
#include <optional>
#include <string>
#include <vector>

#include "bench/grid.h"

namespace kd {

// Of one network for one image. Multiply-adds of convolutions and classifier; an activation is a number that training keeps for the backward pass: every
// convolution's output and what batch norm and ReLU make of it.
struct NetCost {
  double params = 0, macs = 0, activations = 0, largest_map = 0;  // the last is one convolution's output
};
NetCost net_cost(const Recipe::Model&, int64_t px, int64_t classes);

// Teachers and references that a group runs for every batch, and those that its runs would run one by one.
struct Forwards {
  int64_t shared = 0, alone = 0;
};
Forwards forwards_of(const Grid&, const GridGroup&);

// Time, memory and disk of what is still to do, a line each with its source.
std::string cost_text(const Grid&, const std::vector<RunState>& states /* of all runs */);

}  // namespace kd
