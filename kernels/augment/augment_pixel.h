// augment_pixel: the arithmetic of one pixel, the same code on host and device, with Pillow 10.1's bits.
// The order of operations and every truncation are part of the contract, and a*b+c is rounded twice: compile without fused multiply-add.
#pragma once
#include <cmath>
#include <cstdint>

#include "engine/base/rng.h"

namespace kd::pixel {

KD_HOST_DEVICE inline uint8_t clip8(int v) { return uint8_t(v < 0 ? 0 : v > 255 ? 255 : v); }

// Colours.

KD_HOST_DEVICE inline int luma(int r, int g, int b) { return (19595 * r + 38470 * g + 7471 * b + 32768) >> 16; }

// From the degenerate value (factor 0) through the image's (factor 1) and beyond, cut to 0..255, then truncated.
KD_HOST_DEVICE inline uint8_t blend(int degenerate, int value, float factor) {
  float x = float(degenerate) + factor * float(value - degenerate);
  x = x > 0.f ? x : 0.f;
  x = x < 255.f ? x : 255.f;
  return uint8_t(int(x));
}

// Pillow's SMOOTH filter (1 1 1, 1 5 1, 1 1 1)/13, rounded, from its integer sum (never negative).
KD_HOST_DEVICE inline int smooth(int sum) { return int(unsigned(sum + 6) / 13); }

KD_HOST_DEVICE inline uint8_t autocontrast(int v, int low, int high) {
  if (high <= low) return uint8_t(v);
  double scale = 255.0 / (high - low), offset = -low * scale;
  return clip8(int(v * scale + offset));
}
// Pillow's step between output levels; 0 means that the channel stays as it is.
KD_HOST_DEVICE inline int64_t equalize_step(int64_t pixels, int64_t in_last_bin) { return (pixels - in_last_bin) / 255; }
KD_HOST_DEVICE inline uint8_t equalize(int64_t pixels_below, int64_t step) {
  int64_t level = (step / 2 + pixels_below) / step;
  return uint8_t(level < 255 ? level : 255);
}
KD_HOST_DEVICE inline uint8_t solarize(int v, double threshold) { return uint8_t(v < threshold ? v : 255 - v); }
KD_HOST_DEVICE inline uint8_t solarize_add(int v, int amount) { return v < 128 ? clip8(v + amount) : uint8_t(v); }
KD_HOST_DEVICE inline uint8_t posterize(int v, int bits) { return uint8_t(v & (256 - (1 << (8 - bits)))); }

// Antialiased resize: separable, weights in 22-bit fixed point, the horizontal pass rounded to u8 before the vertical one.

constexpr int kWeightBits = 22;

// Bilinear (a tent) or, if `cubic`, Keys' kernel with a = -1/2; zero from `support` on.
KD_HOST_DEVICE inline double resize_kernel(double x, bool cubic) {
  constexpr double a = -0.5;
  if (x < 0) x = -x;
  if (!cubic) return x < 1 ? 1 - x : 0.0;
  if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
  return x < 2 ? (((x - 5) * x + 8) * x - 4) * a : 0.0;
}
KD_HOST_DEVICE inline int32_t quantize_weight(double w) { return int32_t((w < 0 ? -0.5 : 0.5) + w * (1 << kWeightBits)); }

// The input pixels [first, first + count) that output pixel `i` sees, and where the kernel sits on them.
struct ResizeTaps {
  double center, filter_scale;
  int first, count;
  KD_HOST_DEVICE double weight(int tap, bool cubic) const { return resize_kernel((tap + first - center + 0.5) * (1.0 / filter_scale), cubic); }
};
KD_HOST_DEVICE inline ResizeTaps resize_taps(int i, int n_in, int n_out, bool cubic) {
  double scale = double(n_in) / n_out, filter_scale = scale < 1 ? 1.0 : scale, support = (cubic ? 2 : 1) * filter_scale, center = (i + 0.5) * scale;
  int first = int(center - support + 0.5), end = int(center + support + 0.5);
  if (first < 0) first = 0;
  if (end > n_in) end = n_in;
  return {center, filter_scale, first, end - first};
}

// Affine maps from output to source: pixel (x, y), taken at its centre, comes from (a x + b y + c, d x + e y + f).

struct Affine {
  double a, b, c, d, e, f;
};

KD_HOST_DEVICE inline double round_to_15_decimals(double x) { return rint(x * 1e15) / 1e15; }
KD_HOST_DEVICE inline Affine rotation(double degrees, int width, int height) {
  double angle = -(degrees - 360 * floor(degrees / 360)) * (3.14159265358979323846 / 180), center_x = width / 2.0, center_y = height / 2.0;
  double cosine = round_to_15_decimals(cos(angle)), sine = round_to_15_decimals(sin(angle));
  return {cosine, sine, cosine * -center_x + sine * -center_y + center_x, -sine, cosine, -sine * -center_x + cosine * -center_y + center_y};
}

// 16.16 fixed point, for nearest sampling: the source of (x, y) is ((c + b y + a x) >> 16, (f + e y + d x) >> 16).
struct FixedAffine {
  int32_t a, b, c, d, e, f;
};
KD_HOST_DEVICE inline int32_t to_fixed(double v) { return int32_t(floor(v * 65536.0 + 0.5)); }
KD_HOST_DEVICE inline FixedAffine to_fixed(const Affine& m) {
  return {to_fixed(m.a), to_fixed(m.b), to_fixed(m.c + m.a * 0.5 + m.b * 0.5), to_fixed(m.d), to_fixed(m.e), to_fixed(m.f + m.d * 0.5 + m.e * 0.5)};
}

// A u8 RGB image to sample from.
struct Source {
  const uint8_t* pixels;
  int h, w;
  KD_HOST_DEVICE bool holds(double x, double y) const { return x >= 0 && x < w && y >= 0 && y < h; }
  KD_HOST_DEVICE const uint8_t* at(int y, int x) const {  // clamped to the border
    x = x < 0 ? 0 : x < w ? x : w - 1;
    y = y < 0 ? 0 : y < h ? y : h - 1;
    return pixels + (int64_t(y) * w + x) * 3;
  }
};

// Writes the bilinear sample at continuous position (x, y), or returns false where the source holds none.
KD_HOST_DEVICE inline bool sample_bilinear(const Source& s, double x, double y, uint8_t* out) {
  if (!s.holds(x, y)) return false;
  double column = floor(x - 0.5), row = floor(y - 0.5), dx = x - 0.5 - column, dy = y - 0.5 - row;
  int ix = int(column), iy = int(row);
  const uint8_t *p00 = s.at(iy, ix), *p01 = s.at(iy, ix + 1), *p10 = s.at(iy + 1, ix), *p11 = s.at(iy + 1, ix + 1);
  for (int c = 0; c < 3; ++c) {
    double top = p00[c] + (p01[c] - p00[c]) * dx, bottom = p10[c] + (p11[c] - p10[c]) * dx;
    out[c] = uint8_t(top + (bottom - top) * dy);
  }
  return true;
}

// Keys' cubic with a = -1 (not the resize's -1/2) through v1..v4 at v2 + t.
KD_HOST_DEVICE inline double cubic(double v1, double v2, double v3, double v4, double t) {
  return v2 + t * (-v1 + v3 + t * (2 * (v1 - v2) + v3 - v4 + t * (-v1 + v2 - v3 + v4)));
}

// The same, bicubic. A shear moves along one axis only; at a zero offset the cubic is v2 exactly, so the other axis costs nothing.
KD_HOST_DEVICE inline bool sample_bicubic(const Source& s, double x, double y, uint8_t* out) {
  if (!s.holds(x, y)) return false;
  double column = floor(x - 0.5), row = floor(y - 0.5), dx = x - 0.5 - column, dy = y - 0.5 - row;
  int ix = int(column), iy = int(row);
  auto across = [&](int at_row, int c) {
    int v2 = s.at(at_row, ix)[c];
    return dx == 0 ? double(v2) : cubic(s.at(at_row, ix - 1)[c], v2, s.at(at_row, ix + 1)[c], s.at(at_row, ix + 2)[c], dx);
  };
  for (int c = 0; c < 3; ++c) {
    double v = dy == 0 ? across(iy, c) : cubic(across(iy - 1, c), across(iy, c), across(iy + 1, c), across(iy + 2, c), dy);
    out[c] = uint8_t(v <= 0 ? 0 : v >= 255 ? 255 : int(v));
  }
  return true;
}

}  // namespace kd::pixel
