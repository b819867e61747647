// direct.avx512_bf16: vdpbf16ps, 14 x 32 in 28 of 32 registers.
#include "kernels/common/tiles.h"
#include "kernels/conv/direct_kernel.h"

namespace kd::cpu::direct {
#if defined(__AVX512BF16__) && defined(__AVX512BW__) && defined(__AVX512DQ__)
const Kernels* kernels_avx512_bf16() { return &kVectorKernels<Pairs<tiles::Dot, 14, 112, 256>>; }
#else
const Kernels* kernels_avx512_bf16() { return nullptr; }
#endif
}  // namespace kd::cpu::direct
