// augment_loops_avx512: the loops over pixels for AVX-512 with VBMI and VNNI (Ice Lake, Zen 4 and later): permutations of bytes across a whole register, and
// four products of bytes added at once. Plain pointers, since the file that includes this is compiled with flags of its own (see kernels/common/simd.h);
// augment_loops.cpp puts its functions beside the others. What they compute is said in augment_loops.h, what may be touched past the last pixel too.
#pragma once
#include <cstdint>

namespace kd::avx512 {

// A weight is 65536 d0 + 256 d1 + d2 with d0, d1, d2 in -128..127. Four taps are a vector of bytes a digit.
constexpr int kDigits = 3;
constexpr int64_t kGroup = 4;  // taps
// A row is resized 16 pixels at a time, as three vectors of 16 values. For each vector and group of taps: where in the row to read 64 bytes (`at`), and in
// `steps` which of them the 16 values want, four each, followed by their weights, digit by digit.
constexpr int64_t kBlockPixels = 16, kBlockVectors = 3, kVectorBytes = 64, kStepBytes = (1 + kDigits) * kVectorBytes;
struct AcrossBlocks {
  const int32_t* at;
  const uint8_t* steps;
  int64_t groups;
};
struct DownTaps {
  const int32_t *first, *count;
  const int32_t* digits;  // [output][group][digit], a byte each tap
  int64_t groups;
};

struct Fixed {  // FixedAffine
  int32_t a, b, c, d, e, f;
};
struct Line {  // source = x * (column + 1/2) + y * (row + 1/2) + offset
  double x, y, offset;
};

// Fills are words, red lowest.
struct Loops {
  // Reads up to kVectorBytes past the row.
  void (*resize_across)(const uint8_t* in, int64_t in_stride, int64_t rows, const AcrossBlocks&, int64_t begin, int64_t end, bool flip, uint8_t* out,
                        int64_t out_stride);
  void (*resize_down)(const uint8_t* in, int64_t n, const DownTaps&, int64_t begin, int64_t end, uint8_t* out, int64_t out_stride);
  void (*look_up)(uint8_t* bytes, int64_t n, const uint8_t* table);
  void (*look_up_rgb)(uint8_t* bytes, int64_t n, const uint8_t* tables);
  void (*color)(uint8_t* bytes, int64_t n, float factor);
  int64_t (*luma_sum)(const uint8_t* bytes, int64_t pixels);
  void (*sharpness)(const uint8_t* in, int64_t h, int64_t w, float factor, uint8_t* out);
  void (*turn_nearest)(const uint8_t* in, int64_t h, int64_t w, const Fixed&, uint32_t fill, uint8_t* out);
  void (*turn)(const uint8_t* in, int64_t h, int64_t w, const Line (&x_and_y)[2], bool cubic, uint32_t fill, uint8_t* out);
  void (*slide)(const uint8_t* in, int64_t h, int64_t w, double slope, double offset, bool along_x, bool cubic, uint32_t fill, uint8_t* out);
};
extern const Loops* const loops;  // null where the compiler does not know the set

}  // namespace kd::avx512
