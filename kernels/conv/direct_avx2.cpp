// direct.avx2: f32 FMA, 6 x 16 in 12 of 16 registers.
#include "kernels/conv/direct_kernel.h"

namespace kd::cpu::direct {
#if defined(__AVX2__) && defined(__FMA__)
const Kernels* kernels_avx2() { return &kVectorKernels<Fma<simd::Avx2, 6, 96, 320>>; }
#else
const Kernels* kernels_avx2() { return nullptr; }
#endif
}  // namespace kd::cpu::direct
