// The kernels of batchnorm_rows_avx2.cpp and batchnorm_rows_avx512.cpp in plain C++: what machines without either run, and what every machine tests both with.
#include "kernels/batchnorm/batchnorm_rows_kernel.h"

namespace kd::cpu::batchnorm {

static constexpr Kernels kernels8 = kernels_of<simd::Portable<8>>();
static constexpr Kernels kernels16 = kernels_of<simd::Portable<16>>();
constinit const Kernels* const portable8_kernels = &kernels8;
constinit const Kernels* const portable16_kernels = &kernels16;

}  // namespace kd::cpu::batchnorm
