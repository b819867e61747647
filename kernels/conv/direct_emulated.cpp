// The register tiles of direct.h on emulated instruction sets, with the blocking of the real ones.
#include "kernels/conv/direct_tiles.h"

namespace kd::cpu::direct {
const Kernels* emulated_avx2() { return &kVectorKernels<Fma<simd::Portable<8>, 6, 96, 320>>; }
const Kernels* emulated_avx512() { return &kVectorKernels<Fma<simd::Portable<16>, 14, 112, 256>>; }
const Kernels* emulated_avx512_bf16() { return &kVectorKernels<Pairs<tiles::PortableDot<16>, 14, 112, 256>>; }

struct Direct;
const Kernels* emulated_amx() { return &kTileKernels<tiles::PortableTiles<Direct>, simd::Portable<16>>; }
}  // namespace kd::cpu::direct
