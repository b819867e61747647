// direct.avx2: f32 FMA, 6 x 16 in 12 of 16 registers.
#include "kernels/conv/direct_kernel.h"

namespace kd::cpu::direct {
#if defined(__AVX2__) && defined(__FMA__)
constinit const Kernels* const kernels_avx2 = &kVectorKernels<Fma<simd::Avx2, 6, 96, 320>>;
#else
constinit const Kernels* const kernels_avx2 = nullptr;
#endif
}  // namespace kd::cpu::direct
