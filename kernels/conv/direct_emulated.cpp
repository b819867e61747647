// The register tiles of direct.h on emulated instruction sets, with the blocking of the real ones.
#include "kernels/conv/direct_tiles.h"

namespace kd::cpu::direct {
constinit const Kernels* const emulated_avx2 = &kVectorKernels<Fma<simd::Portable<8>, 6, 96, 320>>;
constinit const Kernels* const emulated_avx512 = &kVectorKernels<Fma<simd::Portable<16>, 14, 112, 256>>;
constinit const Kernels* const emulated_avx512_bf16 = &kVectorKernels<Pairs<tiles::PortableDot<16>, 14, 112, 256>>;

struct Direct;
constinit const Kernels* const emulated_amx = &kTileKernels<tiles::PortableTiles<Direct>, tiles::PortableNarrowing<16>>;
}  // namespace kd::cpu::direct
