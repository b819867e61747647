#include "kernels/augment/augment_loops.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "engine/base/device.h"
#include "kernels/augment/augment_loops_avx512.h"

namespace kd {

ResizeTable::ResizeTable(int64_t n_in, int64_t n_out, bool cubic) {
  std::vector<double> row;
  for (int64_t i = 0; i < n_out; ++i) stride = std::max<int64_t>(stride, pixel::resize_taps(int(i), int(n_in), int(n_out), cubic).count);
  stride = (stride + 3) / 4 * 4;
  weights.resize(size_t(n_out * stride));
  halves.resize(size_t(2 * n_out * stride));
  for (int64_t i = 0; i < n_out; ++i) {
    pixel::ResizeTaps taps = pixel::resize_taps(int(i), int(n_in), int(n_out), cubic);
    first.push_back(taps.first), count.push_back(taps.count);
    row.clear();
    double sum = 0;
    for (int tap = 0; tap < taps.count; ++tap) sum += row.emplace_back(taps.weight(tap, cubic));
    for (int tap = 0; tap < taps.count; ++tap) {
      const int32_t weight = pixel::quantize_weight(sum != 0 ? row[size_t(tap)] / sum : row[size_t(tap)]);
      weights[size_t(i * stride + tap)] = weight;
      int16_t* half = &halves[size_t(2 * (i * stride + tap / 4 * 4) + tap % 4)];
      half[0] = int16_t(weight >> kHalfBits), half[4] = int16_t(weight & ((1 << kHalfBits) - 1));
    }
  }
  if (std::any_of(weights.begin(), weights.end(), [](int32_t w) { return w < -(127 << 16) || w >= 127 << 16; })) return;
  digits.reserve(weights.size() / 4 * avx512::kDigits);
  for (auto w = weights.begin(); w != weights.end(); w += avx512::kGroup) {
    int8_t digit[avx512::kDigits][avx512::kGroup];
    for (int tap = 0; tap < avx512::kGroup; ++tap)
      for (int32_t d = avx512::kDigits - 1, rest = w[tap]; d >= 0; --d) digit[d][tap] = int8_t(rest & 255), rest = (rest - digit[d][tap]) >> 8;
    for (const auto& four : digit) std::memcpy(&digits.emplace_back(), four, sizeof four);
  }
}

void ResizeTable::make_blocks() {
  using namespace avx512;
  if (std::exchange(blocks_tried_, true) || digits.empty()) return;
  const int64_t n = int64_t(first.size()), groups = stride / kGroup, blocks = (n + kBlockPixels - 1) / kBlockPixels;
  const int64_t row_end = 3 * (first.back() + count.back());
  block_at.reserve(size_t(blocks * kBlockVectors * groups));
  block_steps.resize(size_t(blocks * kBlockVectors * groups * kStepBytes));
  uint8_t* step = block_steps.data();
  for (int64_t value = 0; value < blocks * kBlockVectors * 16; value += 16)
    for (int64_t g = 0; g < groups; ++g, step += kStepBytes) {
      // A group behind the last pixel has weights of 0 alone, and reads where nothing lies beyond.
      const int64_t wanted = value / 3 < n ? first[size_t(value / 3)] * 3 + g * kGroup * 3 : 0, at = wanted < row_end ? wanted : 0;
      block_at.push_back(int32_t(at));
      for (int64_t i = 0; i < 16 && (value + i) / 3 < n; ++i) {
        const auto x = size_t((value + i) / 3);
        for (int64_t tap = g * kGroup; tap < std::min<int64_t>(count[x], (g + 1) * kGroup); ++tap) {
          const int64_t from = (first[x] + tap) * 3 + (value + i) % 3 - at;
          if (from < 0 || from >= kVectorBytes) return block_at.clear(), block_steps.clear();
          step[i * kGroup + tap % kGroup] = uint8_t(from);
        }
        for (int64_t d = 0; d < kDigits; ++d)
          std::memcpy(step + (1 + d) * kVectorBytes + i * kGroup, &digits[(x * size_t(groups) + size_t(g)) * kDigits + size_t(d)], kGroup);
      }
    }
}

Normalisation::Normalisation(const std::array<float, 3>& channel_means, const std::array<float, 3>& channel_stds) : mean(channel_means), std(channel_stds) {
  for (size_t c = 0; c < 3; ++c)
    for (size_t v = 0; v < 256; ++v) table[c][v] = pixel::normalised(int(v), mean[c], std[c]);
}

namespace {

void copy_pixel(uint8_t* to, const uint8_t* from) { to[0] = from[0], to[1] = from[1], to[2] = from[2]; }
void fill_pixel(uint8_t* to, const Rgb& fill) { to[0] = fill.r, to[1] = fill.g, to[2] = fill.b; }

void resize_across(const uint8_t* in, int64_t in_stride, int64_t rows, int64_t, const uint8_t*, const ResizeTable& table, Span2 columns, bool flip,
                   uint8_t* out, int64_t out_stride) {
  for (int64_t y = 0; y < rows; ++y)
    for (int64_t x = columns.begin; x < columns.end; ++x) {
      int32_t sum[3] = {1 << (pixel::kWeightBits - 1), 1 << (pixel::kWeightBits - 1), 1 << (pixel::kWeightBits - 1)};
      const uint8_t* p = in + y * in_stride + int64_t(table.first[size_t(x)]) * 3;
      const int32_t* weight = &table.weights[size_t(x * table.stride)];
      for (int32_t tap = 0; tap < table.count[size_t(x)]; ++tap, p += 3)
        for (int c = 0; c < 3; ++c) sum[c] += weight[tap] * p[c];
      uint8_t* to = out + y * out_stride + (flip ? columns.end - 1 - x : x - columns.begin) * 3;
      for (int c = 0; c < 3; ++c) to[c] = pixel::clip8(sum[c] >> pixel::kWeightBits);
    }
}

void resize_down_to(const uint8_t* in, int64_t n, const ResizeTable& table, int64_t at, uint8_t* out) {
  constexpr int64_t kBlock = 64;  // a block of sums stays in registers or L1
  const int32_t *weight = &table.weights[size_t(at * table.stride)], count = table.count[size_t(at)];
  for (int64_t begin = 0; begin < n; begin += kBlock) {
    int64_t size = std::min(kBlock, n - begin);
    int32_t sum[kBlock];
    std::fill_n(sum, kBlock, 1 << (pixel::kWeightBits - 1));
    for (int32_t tap = 0; tap < count; ++tap) {
      const uint8_t* row = in + tap * n + begin;
      if (size == kBlock)
        for (int64_t i = 0; i < kBlock; ++i) sum[i] += weight[tap] * row[i];
      else
        for (int64_t i = 0; i < size; ++i) sum[i] += weight[tap] * row[i];
    }
    for (int64_t i = 0; i < size; ++i) out[begin + i] = pixel::clip8(sum[i] >> pixel::kWeightBits);
  }
}

void resize_down(const uint8_t* in, int64_t n, const ResizeTable& table, Span2 outputs, uint8_t* out, int64_t out_stride) {
  for (int64_t i = outputs.begin, origin = table.first[size_t(i)]; i < outputs.end; ++i, out += out_stride)
    resize_down_to(in + (table.first[size_t(i)] - origin) * n, n, table, i, out);
}

void mirror(const uint8_t* in, int64_t pixels, uint8_t* out) {
  for (int64_t x = 0; x < pixels; ++x) copy_pixel(out + (pixels - 1 - x) * 3, in + x * 3);
}

void look_up(Canvas& image, const LookUp& table) {
  for (uint8_t *p = image.data(), *end = p + image.pixels() * 3; p != end; ++p) *p = table[*p];
}

void look_up_rgb(Canvas& image, const LookUpRgb& table) {
  for (uint8_t *p = image.data(), *end = p + image.pixels() * 3; p != end; p += 3)
    for (size_t c = 0; c < 3; ++c) p[c] = table[c][p[c]];
}

void color(Canvas& image, float factor) {
  uint8_t* p = image.data();
  for (int64_t i = 0, n = image.pixels(); i < n; ++i, p += 3) {
    int grey = pixel::luma(p[0], p[1], p[2]);
    for (int c = 0; c < 3; ++c) p[c] = pixel::blend(grey, p[c], factor);
  }
}

int64_t luma_sum(const Canvas& image) {
  int64_t sum = 0;
  const uint8_t* p = image.data();
  for (int64_t i = 0, n = image.pixels(); i < n; ++i, p += 3) sum += pixel::luma(p[0], p[1], p[2]);
  return sum;
}

Extremes extremes(const Canvas& image) {
  Extremes e{.low = {255, 255, 255}, .high = {0, 0, 0}};
  const uint8_t* p = image.data();
  for (int64_t i = 0, n = image.pixels(); i < n; ++i, p += 3)
    for (int c = 0; c < 3; ++c) e.low[c] = std::min(e.low[c], p[c]), e.high[c] = std::max(e.high[c], p[c]);
  return e;
}

// The outermost pixels have no full neighbourhood and stay as they are.
void sharpness(const Canvas& image, float factor, Canvas& out) {
  const int64_t n = image.w * 3;
  std::memcpy(out.data(), image.data(), size_t(image.h * n));
  thread_local std::vector<int> room;
  room.resize(size_t(n));
  int* sums = room.data();
  for (int64_t y = 1; y + 1 < image.h; ++y) {
    const uint8_t *here = image.data() + y * n, *above = here - n, *below = here + n;
    for (int64_t i = 0; i < n; ++i) sums[i] = above[i] + here[i] + below[i];
    uint8_t* to = out.data() + y * n;
    for (int64_t i = 3; i < n - 3; ++i) to[i] = pixel::blend(pixel::smooth(sums[i - 3] + sums[i] + sums[i + 3] + 4 * here[i]), here[i], factor);
  }
}

void turn_nearest(const Canvas& image, const PreparedOp& call, Canvas& out) {
  const FixedAffine& m = call.turn_nearest;
  uint8_t* to = out.data();
  const uint8_t filler[3] = {call.fill.r, call.fill.g, call.fill.b};
  for (int64_t y = 0; y < image.h; ++y) {
    int32_t source_x = m.c + int32_t(y) * m.b, source_y = m.f + int32_t(y) * m.e;
    for (int64_t x = 0; x < image.w; ++x, to += 3, source_x += m.a, source_y += m.d) {
      uint32_t sx = uint32_t(source_x >> 16), sy = uint32_t(source_y >> 16);  // negative: larger than any side
      bool inside = sx < uint32_t(image.w) && sy < uint32_t(image.h);
      copy_pixel(to, inside ? image.data() + (sy * image.w + sx) * 3 : filler);
    }
  }
}

void turn(const Canvas& image, const PreparedOp& call, Canvas& out) {
  const auto h = int(image.h), w = int(image.w);
  const pixel::Affine m = pixel::about_centre(call.turn, h, w);
  uint8_t* to = out.data();
  for (int y = 0; y < h; ++y)
    for (int x = 0; x < w; ++x, to += 3) {
      const double from_x = m.x(x + 0.5, y + 0.5), from_y = m.y(x + 0.5, y + 0.5);
      if (from_x < 0 || from_x >= w || from_y < 0 || from_y >= h) {
        fill_pixel(to, call.fill);
        continue;
      }
      const pixel::Between across(from_x), down(from_y);
      for (int c = 0; c < 3; ++c) {
        const pixel::Plane plane{image.data() + c, h, w};
        to[c] = call.resample == Resample::bicubic ? pixel::cubic_at(plane, across, down) : pixel::linear_at(plane, across, down);
      }
    }
}

void slide(const Canvas& image, const PreparedOp& call, Canvas& out) {
  const bool along_x = call.op == PixelOp::shear_x || call.op == PixelOp::translate_x;
  const auto h = int(image.h), w = int(image.w), n = along_x ? w : h;
  uint8_t* to = out.data();
  for (int y = 0; y < h; ++y)
    for (int x = 0; x < w; ++x, to += 3) {
      double from = along_x ? pixel::mapped_position(x, y, call.line) : pixel::mapped_position(y, x, call.line);
      if (from < 0 || from >= n) {
        fill_pixel(to, call.fill);
        continue;
      }
      const uint8_t* line = image.data() + int64_t(along_x ? y * w : x) * 3;
      const pixel::Between between(from);
      for (int c = 0; c < 3; ++c) {
        pixel::Line values{line + c, n, along_x ? 3 : 3 * w};
        to[c] = pixel::truncated(call.resample == Resample::bicubic ? pixel::cubic_at(values, between) : pixel::linear_at(values, between));
      }
    }
}

bool computes(const Normalisation&) { return false; }
void normalise(const Canvas& image, const Normalisation& normalisation, float* out) {
  const uint8_t* p = image.data();
  for (int64_t i = 0, n = image.pixels(); i < n; ++i, p += 3, out += 3)
    for (size_t c = 0; c < 3; ++c) out[c] = normalisation.table[c][p[c]];
}

constexpr AugmentLoops kPlain{resize_across, resize_down, mirror,       look_up, look_up_rgb, color,    luma_sum,
                              extremes,      sharpness,   turn_nearest, turn,    slide,       computes, normalise};

// What the compiler's own set offers.
const AugmentLoops& built_loops() {
#if defined(KD_AUGMENT_AVX2)
  return avx2_loops();
#else
  return plain_loops();
#endif
}

// avx512::Loops behind the signatures of AugmentLoops.

const avx512::Loops& vbmi() { return *avx512::loops; }

void resize_across_512(const uint8_t* in, int64_t in_stride, int64_t rows, int64_t width, const uint8_t* in_end, const ResizeTable& table, Span2 columns,
                       bool flip, uint8_t* out, int64_t out_stride) {
  if (table.block_at.empty()) return built_loops().resize_across(in, in_stride, rows, width, in_end, table, columns, flip, out, out_stride);
  const avx512::AcrossBlocks blocks{table.block_at.data(), table.block_steps.data(), table.stride / avx512::kGroup};
  const auto pass = [&](const uint8_t* from, int64_t n, uint8_t* to) {
    vbmi().resize_across(from, in_stride, n, blocks, columns.begin, columns.end, flip, to, out_stride);
  };
  // Rows that end close to the end of the image are copied to where more follows.
  const int64_t row_bytes = width * 3, room = in_end - in - row_bytes - avx512::kVectorBytes, direct = room < 0 ? 0 : std::min(rows, room / in_stride + 1);
  pass(in, direct, out);
  thread_local std::vector<uint8_t> copy;
  copy.resize(size_t(row_bytes + avx512::kVectorBytes));
  for (int64_t y = direct; y < rows; ++y) {
    std::memcpy(copy.data(), in + y * in_stride, size_t(row_bytes));
    pass(copy.data(), 1, out + y * out_stride);
  }
}

void resize_down_512(const uint8_t* in, int64_t n, const ResizeTable& table, Span2 outputs, uint8_t* out, int64_t out_stride) {
  if (table.digits.empty()) return built_loops().resize_down(in, n, table, outputs, out, out_stride);
  vbmi().resize_down(in, n, {table.first.data(), table.count.data(), table.digits.data(), table.stride / avx512::kGroup}, outputs.begin, outputs.end, out,
                     out_stride);
}

void look_up_512(Canvas& image, const LookUp& table) { vbmi().look_up(image.data(), image.pixels() * 3, table.data()); }
void look_up_rgb_512(Canvas& image, const LookUpRgb& table) { vbmi().look_up_rgb(image.data(), image.pixels() * 3, table[0].data()); }
void color_512(Canvas& image, float factor) { vbmi().color(image.data(), image.pixels() * 3, factor); }
int64_t luma_sum_512(const Canvas& image) { return vbmi().luma_sum(image.data(), image.pixels()); }
void sharpness_512(const Canvas& image, float factor, Canvas& out) { vbmi().sharpness(image.data(), image.h, image.w, factor, out.data()); }

uint32_t as_word(const Rgb& fill) { return uint32_t(fill.r | fill.g << 8 | fill.b << 16); }
void turn_nearest_512(const Canvas& image, const PreparedOp& call, Canvas& out) {
  const FixedAffine& m = call.turn_nearest;
  vbmi().turn_nearest(image.data(), image.h, image.w, {m.a, m.b, m.c, m.d, m.e, m.f}, as_word(call.fill), out.data());
}
void turn_512(const Canvas& image, const PreparedOp& call, Canvas& out) {
  const pixel::Affine m = pixel::about_centre(call.turn, int(image.h), int(image.w));
  vbmi().turn(image.data(), image.h, image.w, {{m.a, m.b, m.c}, {m.d, m.e, m.f}}, call.resample == Resample::bicubic, as_word(call.fill), out.data());
}
void slide_512(const Canvas& image, const PreparedOp& call, Canvas& out) {
  const bool along_x = call.op == PixelOp::shear_x || call.op == PixelOp::translate_x;
  vbmi().slide(image.data(), image.h, image.w, call.line.slope, call.line.offset, along_x, call.resample == Resample::bicubic, as_word(call.fill), out.data());
}

}  // namespace

const AugmentLoops& plain_loops() { return kPlain; }

const AugmentLoops* avx512_loops() {
  static const AugmentLoops* const chosen = []() -> const AugmentLoops* {
#if defined(__x86_64__)
    // Skylake-X and Cascade Lake have AVX-512 without VBMI.
    if (avx512::loops && cpu_isa() >= CpuIsa::avx512 && __builtin_cpu_supports("avx512vbmi") && __builtin_cpu_supports("avx512vnni")) {
      static AugmentLoops loops = built_loops();
      loops.resize_across = resize_across_512, loops.resize_down = resize_down_512;
      loops.look_up = look_up_512, loops.look_up_rgb = look_up_rgb_512;
      loops.color = color_512, loops.luma_sum = luma_sum_512, loops.sharpness = sharpness_512;
      loops.turn_nearest = turn_nearest_512, loops.turn = turn_512, loops.slide = slide_512;
      return &loops;
    }
#endif
    return nullptr;
  }();
  return chosen;
}

const AugmentLoops& augment_loops() {
  static const AugmentLoops& chosen = avx512_loops() ? *avx512_loops() : cpu_isa() >= CpuIsa::avx2 ? built_loops() : plain_loops();
  return chosen;
}

}  // namespace kd
