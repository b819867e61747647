// conv_choice: which algorithm does a convolution on the CPU. conv.h has what callers may say about it.
#pragma once
#include "kernels/conv/conv_algorithm.h"

namespace kd::cpu {

// The same algorithm for the same problem as long as the process lives and the mode stays. Throws where nobody can do it, and says which shapes work.
const ConvAlgorithm& choose(const ConvProblem&);

// The problem that stands for all of its kind: batches above kTimedBatch are done as the largest one up to it that leaves the same remainder by 16, which is
// how many images direct.amx takes at once.
inline constexpr int64_t kTimedBatch = 32, kImagesAtOnce = 16;

}  // namespace kd::cpu
