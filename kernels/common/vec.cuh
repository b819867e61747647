// vec: 16-byte accesses. A thread that moves 16 bytes at a time needs a quarter of the instructions of one that moves 4, and a GPU's memory
// system wants few, wide requests. Pack<T,N> loads and stores as one instruction when its size is a power of two up to 16 (checked in the PTX).
#pragma once
#include "engine/base/bf16.h"

namespace kd {

template <class T, int N>
struct alignas(sizeof(T) * N) Pack {
  T v[N];
};
template <class T>
constexpr int kPackSize = int(16 / sizeof(T));  // elements in 16 bytes
template <class T>
using Pack16 = Pack<T, kPackSize<T>>;

template <int N, class T>
KD_HOST_DEVICE inline Pack<T, N> load_pack(const T* from) {
  return *reinterpret_cast<const Pack<T, N>*>(from);
}
template <int N, class T>
KD_HOST_DEVICE inline void store_pack(T* to, const Pack<T, N>& pack) {
  *reinterpret_cast<Pack<T, N>*>(to) = pack;
}
template <int N, class T>
bool is_aligned(const T* p) {
  return reinterpret_cast<uintptr_t>(p) % sizeof(Pack<T, N>) == 0;
}

template <class T>
KD_HOST_DEVICE inline Pack16<T> load16(const T* from) {
  return *reinterpret_cast<const Pack16<T>*>(from);
}
template <class T>
KD_HOST_DEVICE inline void store16(T* to, const Pack16<T>& pack) {
  *reinterpret_cast<Pack16<T>*>(to) = pack;
}
inline bool is_aligned16(const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; }

}  // namespace kd
