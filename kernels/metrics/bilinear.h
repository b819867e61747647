// bilinear: how metrics looks at a small map at a larger size, the same to the last bit on every backend. Pixels are counted where they exceed a
// threshold, and a count must not depend on who computed it: so nothing here may become a fused multiply-add.
#pragma once
#include <cstdint>

#include "engine/base/bf16.h"

namespace kd {

// Where a target row or column reads: value = (1 - weight) in[low] + weight in[high].
struct Tap {
  int32_t low, high;
  double weight;
};

// a b, rounded before anything is added to it.
KD_HOST_DEVICE inline double product(double a, double b) {
#if defined(__CUDA_ARCH__)
  return __dmul_rn(a, b);
#else
  return a * b;  // compiled with -ffp-contract=off
#endif
}

// Half-pixel centres; `target` of `out` places reads a map of `in`.
KD_HOST_DEVICE inline Tap bilinear_tap(int64_t target, int64_t in, int64_t out) {
  const double place = (double(target) + 0.5) * double(in) / double(out) - 0.5, source = place > 0 ? place : 0;
  const int64_t low = int64_t(source) < in ? int64_t(source) : in - 1;
  return {int32_t(low), int32_t(low + 1 < in ? low + 1 : low), source - double(low)};
}

// (1 - weight) low + weight high
KD_HOST_DEVICE inline double blend(double low, double high, double weight) { return product(1 - weight, low) + product(weight, high); }

// What the divisor of a map scaled to [0,1] is, and what its values exceed where the scaled map exceeds `threshold`.
KD_HOST_DEVICE inline double unit_range(double min, double max) { return max - min + 1e-8; }
KD_HOST_DEVICE inline double mask_cut(double min, double max, double threshold) { return min + product(threshold, unit_range(min, max)); }

}  // namespace kd
