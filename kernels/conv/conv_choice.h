// conv_choice: which algorithm does a convolution on the CPU. conv.h has what callers may say about it.
#pragma once
#include "kernels/conv/conv_algorithm.h"

namespace kd::cpu {

// The same algorithm for the same problem as long as the process lives and the mode stays. Throws where nobody can do it, and says which shapes work.
const ConvAlgorithm& choose(const ConvProblem&);

// Larger batches than this are done as the largest one up to it that leaves the same remainder by 16, which is how many images direct.amx takes at once.
// 32 images; of small maps as many as make 2048 pixels, because a large filter's part of the work depends on how many pixels share it.
int64_t timed_batch(const ConvShape&);

}  // namespace kd::cpu
