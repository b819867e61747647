// direct.avx512: f32 FMA, 14 x 32 in 28 of 32 registers.
#include "kernels/conv/direct_kernel.h"

namespace kd::cpu::direct {
#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512DQ__)
constinit const Kernels* const kernels_avx512 = &kVectorKernels<Fma<simd::Avx512, 14, 112, 256>>;
#else
constinit const Kernels* const kernels_avx512 = nullptr;
#endif
}  // namespace kd::cpu::direct
