// conv_cuda: what callers of CUDA convolutions may need besides conv.h.
#pragma once
#include <cstdint>

namespace kd::cuda {

// Makes what convolutions on the current device need once and for all: the workspace and this thread's cuDNN handle. Both allocate, which a stream being
// captured forbids, so it is called before a capture; the first convolution outside of one does it too. Plans may be made during a capture, but most
// engines load their kernels on first use: run a step, then capture.
void reserve_conv_workspace();

}  // namespace kd::cuda
