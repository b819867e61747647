// augment_pixel: the arithmetic of one pixel, the same code on host and device, with Pillow 10.1's bits.
// The order of operations and every truncation are part of the contract, and a*b + c is rounded twice: g++ compiles with -ffp-contract=off; nvcc would
// join the two unless the product is a call of `times`.
#pragma once
#include <cmath>
#include <cstdint>

#include "kernels/augment/augment.h"

namespace kd::pixel {

KD_HOST_DEVICE inline double times(double a, double b) {
#if defined(__CUDA_ARCH__)
  return __dmul_rn(a, b);
#else
  return a * b;
#endif
}
KD_HOST_DEVICE inline float times(float a, float b) {
#if defined(__CUDA_ARCH__)
  return __fmul_rn(a, b);
#else
  return a * b;
#endif
}

KD_HOST_DEVICE inline uint8_t clip8(int v) { return uint8_t(v < 0 ? 0 : v > 255 ? 255 : v); }

// Colours.

KD_HOST_DEVICE inline int luma(int r, int g, int b) { return (19595 * r + 38470 * g + 7471 * b + 32768) >> 16; }

// From the degenerate value (factor 0) through the image's (factor 1) and beyond, cut to 0..255, then truncated.
KD_HOST_DEVICE inline uint8_t blend(int degenerate, int value, float factor) {
  float x = float(degenerate) + times(factor, float(value - degenerate));
  x = x > 0.f ? x : 0.f;
  x = x < 255.f ? x : 255.f;
  return uint8_t(int(x));
}

// Pillow's SMOOTH filter (1 1 1, 1 5 1, 1 1 1)/13, rounded, from its integer sum (never negative).
KD_HOST_DEVICE inline int smooth(int sum) { return int(unsigned(sum + 6) / 13); }

KD_HOST_DEVICE inline uint8_t autocontrast(int v, int low, int high) {
  if (high <= low) return uint8_t(v);
  double scale = 255.0 / (high - low);
  return clip8(int(times(v, scale) + times(-low, scale)));
}
// Pillow's step between output levels; 0 means that the channel stays as it is. Counts of pixels.
KD_HOST_DEVICE inline int32_t equalize_step(int32_t pixels, int32_t in_last_bin) { return (pixels - in_last_bin) / 255; }
KD_HOST_DEVICE inline uint8_t equalize(int32_t pixels_below, int32_t step) {
  int32_t level = (step / 2 + pixels_below) / step;
  return uint8_t(level < 255 ? level : 255);
}
KD_HOST_DEVICE inline uint8_t solarize(int v, int threshold) { return uint8_t(v < threshold ? v : 255 - v); }
KD_HOST_DEVICE inline uint8_t solarize_add(int v, int amount) { return v < 128 ? clip8(v + amount) : uint8_t(v); }
KD_HOST_DEVICE inline uint8_t posterize(int v, int bits) { return uint8_t(v & (256 - (1 << (8 - bits)))); }

// Antialiased resize: separable, weights in 22-bit fixed point, the horizontal pass rounded to u8 before the vertical one.

constexpr int kWeightBits = 22;

// Bilinear (a tent) or, if `cubic`, Keys' kernel with a = -1/2; zero from `support` on.
KD_HOST_DEVICE inline double resize_kernel(double x, bool cubic) {
  constexpr double a = -0.5;
  if (x < 0) x = -x;
  if (!cubic) return x < 1 ? 1 - x : 0.0;
  if (x < 1) return times(times(times(a + 2, x) - (a + 3), x), x) + 1;
  return x < 2 ? times(times(times(x - 5, x) + 8, x) - 4, a) : 0.0;
}
KD_HOST_DEVICE inline int32_t quantize_weight(double w) { return int32_t((w < 0 ? -0.5 : 0.5) + times(w, 1 << kWeightBits)); }

// The input pixels [first, first + count) that output pixel `i` sees, and where the kernel sits on them.
struct ResizeTaps {
  double center, filter_scale;
  int first, count;
  KD_HOST_DEVICE double weight(int tap, bool cubic) const { return resize_kernel(times(tap + first - center + 0.5, 1.0 / filter_scale), cubic); }
};
KD_HOST_DEVICE inline ResizeTaps resize_taps(int i, int n_in, int n_out, bool cubic) {
  double scale = double(n_in) / n_out, filter_scale = scale < 1 ? 1.0 : scale, support = times(cubic ? 2 : 1, filter_scale), center = times(i + 0.5, scale);
  int first = int(center - support + 0.5), end = int(center + support + 0.5);
  if (first < 0) first = 0;
  if (end > n_in) end = n_in;
  return {center, filter_scale, first, end - first};
}

// A normalised value; see augment.h.
KD_HOST_DEVICE inline float normalised(int v, float mean, float std) { return (float(v) / 255.f - mean) / std; }

// Between pixels. Position p lies in pixel floor(p), whose centre is at floor(p) + 1/2. Positions must be inside the image; neighbours are clamped to its
// border.

struct Between {  // what a position falls between: pixels i and i + 1, at t from 0 to 1
  int i;
  double t;
  KD_HOST_DEVICE explicit Between(double position) {
    const double left = floor(position - 0.5);
    i = int(left), t = position - 0.5 - left;
  }
};
KD_HOST_DEVICE inline double linear(double v1, double v2, double t) { return v1 + times(v2 - v1, t); }
KD_HOST_DEVICE inline double cubic(double v1, double v2, double v3, double v4, double t) {  // Keys' with a = -1 (not the resize's -1/2)
  return v2 + times(t, -v1 + v3 + times(t, (v1 - v2) + (v1 - v2) + v3 - v4 + times(t, -v1 + v2 - v3 + v4)));
}
KD_HOST_DEVICE inline uint8_t truncated(double v) { return uint8_t(v <= 0 ? 0 : v >= 255 ? 255 : int(v)); }

struct Line {  // one channel of a row or column of an image
  const uint8_t* values;
  int n, stride;
  KD_HOST_DEVICE int at(int i) const { return values[(i < 0 ? 0 : i < n ? i : n - 1) * stride]; }  // clamped to the border
};

KD_HOST_DEVICE inline double linear_at(const Line& s, const Between& x) { return linear(s.at(x.i), s.at(x.i + 1), x.t); }
KD_HOST_DEVICE inline double cubic_at(const Line& s, const Between& x) { return cubic(s.at(x.i - 1), s.at(x.i), s.at(x.i + 1), s.at(x.i + 2), x.t); }

// Shears and translations. Pillow samples in two dimensions, but the other axis stays where it is, and at t = 0 both of its samplings are the pixel
// itself, exactly.
KD_HOST_DEVICE inline double mapped_position(int i, int line, const LineMap& map) { return (i + 0.5) + times(map.slope, line + 0.5) + map.offset; }

// Rotations: Pillow's matrix from an output position to where it comes from.
struct Affine {
  double a, b, c, d, e, f;
  KD_HOST_DEVICE double x(double to_x, double to_y) const { return times(a, to_x) + times(b, to_y) + c; }
  KD_HOST_DEVICE double y(double to_x, double to_y) const { return times(d, to_x) + times(e, to_y) + f; }
};
KD_HOST_DEVICE inline Affine about_centre(const Turn& turn, int h, int w) {
  const double x = w / 2.0, y = h / 2.0, cosine = turn.cosine, sine = turn.sine;
  return {cosine, sine, times(cosine, -x) + times(sine, -y) + x, -sine, cosine, times(-sine, -x) + times(cosine, -y) + y};
}

struct Plane {  // one channel of an image of interleaved RGB
  const uint8_t* values;
  int h, w;
  KD_HOST_DEVICE Line row(int y) const { return {values + (y < 0 ? 0 : y < h ? y : h - 1) * w * 3, w, 3}; }
};
// First along the rows, then between them.
KD_HOST_DEVICE inline uint8_t linear_at(const Plane& p, const Between& x, const Between& y) {
  return truncated(linear(linear_at(p.row(y.i), x), linear_at(p.row(y.i + 1), x), y.t));
}
KD_HOST_DEVICE inline uint8_t cubic_at(const Plane& p, const Between& x, const Between& y) {
  double v1 = 0, v2 = 0, v3 = 0, v4 = 0;
#if defined(__CUDA_ARCH__)
#pragma unroll 1  // four rows at once need more registers than a block of 1024 threads has
#endif
  for (int row = y.i - 1; row <= y.i + 2; ++row) v1 = v2, v2 = v3, v3 = v4, v4 = cubic_at(p.row(row), x);
  return truncated(cubic(v1, v2, v3, v4, y.t));
}

}  // namespace kd::pixel
