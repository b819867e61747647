// Compiled with AVX-512 where the architecture is x86-64, whatever the build's own instruction set.
#include "kernels/batchnorm/batchnorm_rows_kernel.h"

namespace kd::cpu::batchnorm {

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512DQ__)
static constexpr Kernels kernels = kernels_of<simd::Avx512>();
constinit const Kernels* const avx512_kernels = &kernels;
#else
constinit const Kernels* const avx512_kernels = nullptr;
#endif

}  // namespace kd::cpu::batchnorm
