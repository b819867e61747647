// simt_types: CUDA's vector types and dim3 for compilers that know no CUDA. Sizes and alignments are CUDA's, so a float4 access to an address that is not
// a multiple of 16 is the same mistake on both sides, and UBSan names its line. Left out: the one-element types, and the 64-bit ones with more than two
// elements, whose alignment changes between CUDA versions.
#pragma once

// One struct and its make_ function for 2, 3 and 4 elements; like CUDA, three elements have no alignment of their own.
#define SIMT_VECTOR2(name, T)          \
  struct alignas(2 * sizeof(T)) name { \
    T x, y;                            \
  };                                   \
  inline name make_##name(T x, T y) { return {x, y}; }
#define SIMT_VECTORS(name, T)                                        \
  SIMT_VECTOR2(name##2, T)                                           \
  struct name##3 {                                                   \
    T x, y, z;                                                       \
  };                                                                 \
  inline name##3 make_##name##3(T x, T y, T z) { return {x, y, z}; } \
  struct alignas(4 * sizeof(T)) name##4 {                            \
    T x, y, z, w;                                                    \
  };                                                                 \
  inline name##4 make_##name##4(T x, T y, T z, T w) { return {x, y, z, w}; }

SIMT_VECTORS(char, signed char)
SIMT_VECTORS(uchar, unsigned char)
SIMT_VECTORS(short, short)
SIMT_VECTORS(ushort, unsigned short)
SIMT_VECTORS(int, int)
SIMT_VECTORS(uint, unsigned)
SIMT_VECTORS(float, float)
SIMT_VECTOR2(longlong2, long long)
SIMT_VECTOR2(ulonglong2, unsigned long long)
SIMT_VECTOR2(double2, double)
#undef SIMT_VECTORS
#undef SIMT_VECTOR2

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned nx = 1, unsigned ny = 1, unsigned nz = 1) : x(nx), y(ny), z(nz) {}
};
