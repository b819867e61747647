#include "kernels/batchnorm/batchnorm_rows_kernel.h"

namespace kd::cpu::batchnorm {

#if defined(__AVX2__) && defined(__FMA__)
static constexpr Kernels kernels = kernels_of<simd::Avx2>();
constinit const Kernels* const avx2_kernels = &kernels;
#else
constinit const Kernels* const avx2_kernels = nullptr;
#endif

}  // namespace kd::cpu::batchnorm
