// direct.amx: tdpbf16ps, 32 x 32 in 2 x 2 tiles.
#include "kernels/conv/direct_tiles.h"

namespace kd::cpu::direct {
#if defined(__AMX_TILE__) && defined(__AMX_BF16__) && defined(__AVX512BF16__) && defined(__AVX512BW__) && defined(__AVX512DQ__)
constinit const Kernels* const kernels_amx = &kTileKernels<tiles::Amx, tiles::Narrowing>;
#else
constinit const Kernels* const kernels_amx = nullptr;
#endif
}  // namespace kd::cpu::direct
