// augment_loops: the loops over pixels that the CPU kernel is made of, three times with the same bits: in plain C++ for any machine, for AVX2, and for AVX-512
// with VBMI and VNNI. Tests hold them together (tests/data/augment_test.cpp, Loops); what they compute is augment_pixel.h's. Pixels are interleaved RGB. A
// `Canvas` can be read and written up to kCanvasPad bytes past its last pixel, so a vector loop needs no tail; where plain pointers are given, exactly the
// named bytes are touched.
#pragma once
#include <cstdint>
#include <vector>

#include "kernels/augment/augment.h"
#include "kernels/augment/augment_pixel.h"

namespace kd {

constexpr int64_t kCanvasPad = 192;  // three vectors of AVX-512: bytes of one channel are in the same places again
struct Canvas {
  int64_t h = 0, w = 0;
  std::vector<uint8_t> bytes;

  void set_size(int64_t height, int64_t width) {
    h = height, w = width;
    if (const auto need = size_t(h * w * 3 + kCanvasPad); bytes.size() < need) bytes.resize(need);
  }
  int64_t pixels() const { return h * w; }
  uint8_t* data() { return bytes.data(); }
  const uint8_t* data() const { return bytes.data(); }
};

struct Span2 {  // rows or columns [begin, end)
  int64_t begin, end;
  int64_t size() const { return end - begin; }
};

// The taps of one resize axis: output i is a weighted sum of inputs first[i] .. first[i] + count[i], weights from i * stride on.
struct ResizeTable {
  std::vector<int32_t> first, count, weights;
  int64_t stride = 0;  // the most taps, rounded up to a multiple of 4; the weights in between are 0
  // The same weights in halves, w = high * 2^kHalfBits + low, low >= 0: four highs, four lows, and so on. Sixteen-bit products of pairs of taps are
  // added by one instruction, and twice that is still less than 32-bit products.
  static constexpr int kHalfBits = 11;
  std::vector<int16_t> halves;
  // And as three digits of eight bits, a vector of bytes each four taps: [output][group][digit]. Empty where a weight is too large, which none of Pillow's is.
  std::vector<int32_t> digits;
  // For a pass along the row, see avx512::AcrossBlocks. Empty until make_blocks, and where four neighbouring taps of 16 values lie more than 64 bytes apart:
  // where a row is shrunk by more than about 2.5.
  std::vector<int32_t> block_at;
  std::vector<uint8_t> block_steps;

  ResizeTable(int64_t n_in, int64_t n_out, bool cubic);
  const int16_t* halves_of(int64_t i) const { return &halves[size_t(2 * i * stride)]; }
  void make_blocks();  // once
 private:
  bool blocks_tried_ = false;
};

using LookUp = std::array<uint8_t, 256>;
using LookUpRgb = std::array<LookUp, 3>;  // [channel][value]
struct Extremes {
  uint8_t low[3], high[3];
};

struct Normalisation {
  std::array<float, 3> mean = {}, std = {};
  std::array<std::array<float, 256>, 3> table = {};  // [channel][value]: pixel::normalised
  bool computed = false;                             // set where AugmentLoops::computes said so; else the table is looked up

  Normalisation(const std::array<float, 3>& channel_means, const std::array<float, 3>& channel_stds);
};

struct AugmentLoops {
  // Rows [0, rows) of `in`, in_stride bytes apart, of `width` pixels each: columns of the resized row to `out`, mirrored or not, out_stride bytes apart. Reads
  // no byte from in_end on.
  void (*resize_across)(const uint8_t* in, int64_t in_stride, int64_t rows, int64_t width, const uint8_t* in_end, const ResizeTable&, Span2 columns, bool flip,
                        uint8_t* out, int64_t out_stride);
  // Some outputs of the table, out_stride bytes apart, from its rows of n values each, `in` being row first[outputs.begin].
  void (*resize_down)(const uint8_t* in, int64_t n, const ResizeTable&, Span2 outputs, uint8_t* out, int64_t out_stride);
  void (*mirror)(const uint8_t* in, int64_t pixels, uint8_t* out);
  void (*look_up)(Canvas&, const LookUp&);  // one table for all channels
  void (*look_up_rgb)(Canvas&, const LookUpRgb&);
  void (*color)(Canvas&, float factor);
  int64_t (*luma_sum)(const Canvas&);
  Extremes (*extremes)(const Canvas&);
  void (*sharpness)(const Canvas& in, float factor, Canvas& out);
  // From `in` to `out` of the same size. Prepared operations: rotate nearest; rotate between pixels; shears and translations between pixels.
  void (*turn_nearest)(const Canvas& in, const PreparedOp&, Canvas& out);
  void (*turn)(const Canvas& in, const PreparedOp&, Canvas& out);
  void (*slide)(const Canvas& in, const PreparedOp&, Canvas& out);
  // Whether the loop's own way to normalise, without the table, has the table's bits for all values.
  bool (*computes)(const Normalisation&);
  void (*normalise)(const Canvas&, const Normalisation&, float* out);  // out f32 [pixels,3]
};
const AugmentLoops& plain_loops();
// For AVX-512 with VBMI and VNNI, and for AVX2 where that is as fast; null where the machine, KD_CPU or the compiler has less.
const AugmentLoops* avx512_loops();
const AugmentLoops& augment_loops();  // the fastest that the machine and KD_CPU allow

#if defined(__AVX2__) && defined(__FMA__)
#define KD_AUGMENT_AVX2 1
const AugmentLoops& avx2_loops();
#endif

}  // namespace kd
