// direct.avx512_bf16: vdpbf16ps, 14 x 32 in 28 of 32 registers.
#include "kernels/common/tiles.h"
#include "kernels/conv/direct_kernel.h"

namespace kd::cpu::direct {
#if defined(__AVX512BF16__) && defined(__AVX512BW__) && defined(__AVX512DQ__)
constinit const Kernels* const kernels_avx512_bf16 = &kVectorKernels<Pairs<tiles::Dot, 14, 112, 256>>;
#else
constinit const Kernels* const kernels_avx512_bf16 = nullptr;
#endif
}  // namespace kd::cpu::direct
