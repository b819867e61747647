// direct.amx: tdpbf16ps, 32 x 32 in 2 x 2 tiles.
#include "kernels/conv/direct_tiles.h"

namespace kd::cpu::direct {
#if defined(__AMX_TILE__) && defined(__AMX_BF16__) && defined(__AVX512BW__) && defined(__AVX512DQ__)
const Kernels* kernels_amx() { return &kTileKernels<tiles::Amx, simd::Avx512>; }
#else
const Kernels* kernels_amx() { return nullptr; }
#endif
}  // namespace kd::cpu::direct
