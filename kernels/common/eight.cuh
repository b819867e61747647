// eight: eight neighbouring channels of one pixel, what a thread of a channels-last kernel handles at a time: 16 bytes of bf16, 32 of f32, one byte of a mask.
// kWhole: every row has a multiple of eight channels and all pointers are multiples of 16, so eights move as 16-byte accesses. Otherwise channel by channel,
// and the last eight of a row may hold fewer (`count`): correct for any network, fast for those that exist.
#pragma once
#include <initializer_list>

#include "kernels/common/mma.cuh"
#include "kernels/common/vec.cuh"
#include "simt/simt.h"

namespace kd {
namespace KD_GPU {

constexpr int kEight = 8;

// Kept as the words that were loaded: a bf16 widens by one shift or one mask of its word, while 16-bit registers would cost a permutation each before that.
template <class T>
struct Eight {
  static constexpr int kQuads = kEight * int(sizeof(T)) / 16, kPerWord = int(4 / sizeof(T));
  Pack<uint32_t, 4> quad[kQuads];

  __device__ uint32_t& word(int k) { return quad[k / 4].v[k % 4]; }
  __device__ float operator[](int i) const {
    const uint32_t bits = quad[i / kPerWord / 4].v[i / kPerWord % 4];
    if constexpr (kPerWord == 1)
      return __uint_as_float(bits);
    else
      return i % 2 == 0 ? low_bf16(bits) : high_bf16(bits);
  }
};

template <bool kWhole, class T>
__device__ inline Eight<T> load_eight(const T* from, int count) {
  Eight<T> e{};
  if constexpr (kWhole) {
#pragma unroll
    for (int k = 0; k < e.kQuads; ++k) e.quad[k] = reinterpret_cast<const Pack<uint32_t, 4>*>(from)[k];
  } else {
#pragma unroll
    for (int i = 0; i < kEight; ++i) {
      if (i >= count) continue;
      if constexpr (e.kPerWord == 1)
        e.word(i) = __float_as_uint(from[i]);
      else
        e.word(i / 2) |= uint32_t(from[i].bits) << 16 * (i % 2);
    }
  }
  return e;
}

template <class T>
__device__ inline Eight<T> make_eight(const float (&v)[kEight]) {
  Eight<T> e;
#pragma unroll
  for (int k = 0; k < kEight / e.kPerWord; ++k) {
    if constexpr (e.kPerWord == 1)
      e.word(k) = __float_as_uint(v[k]);
    else
      e.word(k) = pack_bf16(v[2 * k], v[2 * k + 1]);
  }
  return e;
}

template <bool kWhole, class T>
__device__ inline void store_eight(T* to, const float (&v)[kEight], int count) {
  if constexpr (kWhole) {
    const Eight<T> e = make_eight<T>(v);
#pragma unroll
    for (int k = 0; k < e.kQuads; ++k) reinterpret_cast<Pack<uint32_t, 4>*>(to)[k] = e.quad[k];
  } else {
#pragma unroll
    for (int i = 0; i < kEight; ++i)
      if (i < count) to[i] = T(v[i]);
  }
}

// Bytes: which place of a window won.
struct EightBytes {
  uint32_t word[2];
  __device__ int operator[](int i) const { return int(word[i / 4] >> 8 * (i % 4) & 0xffu); }
};
template <bool kWhole>
__device__ inline EightBytes load_eight_bytes(const uint8_t* from, int count) {
  EightBytes e{};
  if constexpr (kWhole) {
    const auto pair = *reinterpret_cast<const Pack<uint32_t, 2>*>(from);
    e.word[0] = pair.v[0], e.word[1] = pair.v[1];
  } else {
#pragma unroll
    for (int i = 0; i < kEight; ++i)
      if (i < count) e.word[i / 4] |= uint32_t(from[i]) << 8 * (i % 4);
  }
  return e;
}
template <bool kWhole>
__device__ inline void store_eight_bytes(uint8_t* to, const int (&v)[kEight], int count) {
  if constexpr (kWhole) {
    Pack<uint32_t, 2> pair{};
#pragma unroll
    for (int i = 0; i < kEight; ++i) pair.v[i / 4] |= uint32_t(v[i]) << 8 * (i % 4);
    *reinterpret_cast<Pack<uint32_t, 2>*>(to) = pair;
  } else {
#pragma unroll
    for (int i = 0; i < kEight; ++i)
      if (i < count) to[i] = uint8_t(v[i]);
  }
}

// Visits first, first + step, ... < end, kAhead of them at a time: what load(i) reads of all is under way before use(i, read) has the first.
template <int kAhead, class Load, class Use>
__device__ inline void for_each_ahead(int64_t first, int64_t end, int64_t step, Load load, Use use) {
  int64_t i = first;
  for (; i + (kAhead - 1) * step < end; i += kAhead * step) {
    decltype(load(i)) ahead[kAhead];
#pragma unroll
    for (int k = 0; k < kAhead; ++k) ahead[k] = load(i + k * step);
#pragma unroll
    for (int k = 0; k < kAhead; ++k) use(i + k * step, ahead[k]);
  }
  if (i >= end) return;
  decltype(load(i)) ahead[kAhead - 1];
#pragma unroll
  for (int k = 0; k < kAhead - 1; ++k) ahead[k] = load(k == 0 || i + k * step < end ? i + k * step : i);  // the last, incomplete batch
#pragma unroll
  for (int k = 0; k < kAhead - 1; ++k)
    if (i + k * step < end) use(i + k * step, ahead[k]);
}

inline bool is_whole(int64_t channels, std::initializer_list<const void*> pointers) {
  bool whole = channels % kEight == 0;
  for (const void* p : pointers) whole = whole && is_aligned16(p);
  return whole;
}

}  // namespace KD_GPU
}  // namespace kd
