// The kernels of winograd_avx2.cpp and winograd_avx512.cpp in plain C++, so that every machine can test both.
#define KD_UNROLL(n)
#include "kernels/conv/winograd_kernel.h"

namespace kd::cpu::winograd {

static constexpr Kernels kernels8 = kernels_of<simd::Portable<8>>();
static constexpr Kernels kernels16 = kernels_of<simd::Portable<16>>();
constinit const Kernels* const portable8_kernels = &kernels8;
constinit const Kernels* const portable16_kernels = &kernels16;

}  // namespace kd::cpu::winograd
