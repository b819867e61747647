// gemm_cuda: what callers of CUDA matrix products may need besides gemm.h.
#pragma once

namespace kd::cuda {

// Makes what matrix products on the current device need once and for all: cuBLASLt's handle and the workspace. Both allocate, which a stream being captured
// forbids, so it is called before a capture; the first product outside of one does it too.
void reserve_gemm_workspace();

}  // namespace kd::cuda
