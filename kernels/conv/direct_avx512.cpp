// direct.avx512: f32 FMA, 14 x 32 in 28 of 32 registers.
#include "kernels/conv/direct_kernel.h"

namespace kd::cpu::direct {
#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512DQ__)
const Kernels* kernels_avx512() { return &kVectorKernels<Fma<simd::Avx512, 14, 112, 256>>; }
#else
const Kernels* kernels_avx512() { return nullptr; }
#endif
}  // namespace kd::cpu::direct
