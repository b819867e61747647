#include <algorithm>
#include <cstring>
#include <unordered_map>
#include <utility>

#include "kernels/augment/augment.h"
#include "kernels/augment/augment_pixel.h"
#include "kernels/common/parallel.h"

namespace kd {
namespace {

constexpr int64_t kMaxSide = 8192;         // source coordinates of a rotated image stay within 16.16 fixed point
constexpr int64_t kMaxHostSide = 1 << 24;  // of what is only cut, enlarged and shrunk, by the host

struct Span2 {  // rows or columns [begin, end)
  int64_t begin, end;
  int64_t size() const { return end - begin; }
};

// The taps of one resize axis: output i is a weighted sum of inputs first[i] .. first[i] + count[i], weights from i * stride on.
struct ResizeTable {
  std::vector<int32_t> first, count, weights;
  int64_t stride = 0;

  ResizeTable(int64_t n_in, int64_t n_out, bool cubic) {
    std::vector<double> row;
    for (int64_t i = 0; i < n_out; ++i) stride = std::max<int64_t>(stride, pixel::resize_taps(int(i), int(n_in), int(n_out), cubic).count);
    weights.resize(size_t(n_out * stride));
    for (int64_t i = 0; i < n_out; ++i) {
      pixel::ResizeTaps taps = pixel::resize_taps(int(i), int(n_in), int(n_out), cubic);
      first.push_back(taps.first), count.push_back(taps.count);
      row.clear();
      double sum = 0;
      for (int tap = 0; tap < taps.count; ++tap) sum += row.emplace_back(taps.weight(tap, cubic));
      for (int tap = 0; tap < taps.count; ++tap)
        weights[size_t(i * stride + tap)] = pixel::quantize_weight(sum != 0 ? row[size_t(tap)] / sum : row[size_t(tap)]);
    }
  }
};

// What a thread keeps between samples: images to work in, and resize tables, of which a 32-pixel source has 32 per output side.
struct Workspace {
  RgbImage image, spare;
  std::vector<uint8_t> rows;
  std::vector<int> sums;
  std::unordered_map<uint64_t, ResizeTable> tables;

  const ResizeTable& table(int64_t n_in, int64_t n_out, Resample resample) {
    KD_CHECK(resample != Resample::nearest, "resize: bilinear or bicubic, not nearest");
    constexpr size_t kMostTables = 1024;
    bool cubic = resample == Resample::bicubic;
    if (tables.size() >= kMostTables) tables.clear();
    return tables.try_emplace((uint64_t(n_in) << 33) | (uint64_t(n_out) << 1) | uint64_t(cubic), n_in, n_out, cubic).first->second;
  }
};
Workspace& workspace() {
  thread_local Workspace w;
  return w;
}

void set_size(RgbImage& image, int64_t h, int64_t w) {
  image.h = h, image.w = w;
  image.pixels.resize(size_t(h * w * 3));
}

// Crop, resize, window, flip.

void copy_pixel(uint8_t* to, const uint8_t* from) { to[0] = from[0], to[1] = from[1], to[2] = from[2]; }

void copy_row(const uint8_t* in, Span2 columns, bool flip, uint8_t* out) {
  if (!flip)
    std::memcpy(out, in + columns.begin * 3, size_t(columns.size() * 3));
  else
    for (int64_t x = columns.begin; x < columns.end; ++x) copy_pixel(out + (columns.end - 1 - x) * 3, in + x * 3);
}

void resize_row(const uint8_t* in, const ResizeTable& table, Span2 columns, bool flip, uint8_t* out) {
  for (int64_t x = columns.begin; x < columns.end; ++x) {
    int32_t sum[3] = {1 << (pixel::kWeightBits - 1), 1 << (pixel::kWeightBits - 1), 1 << (pixel::kWeightBits - 1)};
    const uint8_t* p = in + int64_t(table.first[size_t(x)]) * 3;
    const int32_t* weight = &table.weights[size_t(x * table.stride)];
    for (int32_t tap = 0; tap < table.count[size_t(x)]; ++tap, p += 3)
      for (int c = 0; c < 3; ++c) sum[c] += weight[tap] * p[c];
    uint8_t* to = out + (flip ? columns.end - 1 - x : x - columns.begin) * 3;
    for (int c = 0; c < 3; ++c) to[c] = pixel::clip8(sum[c] >> pixel::kWeightBits);
  }
}

// One output row from `count` input rows, all of `n` values.
void resize_column(const uint8_t* in, int64_t n, const int32_t* weight, int32_t count, uint8_t* out) {
  constexpr int64_t kBlock = 64;  // a block of sums stays in registers or L1
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

// The part of an n-pixel axis that a window of `size` pixels at `start` shows.
Span2 visible(int64_t n, int64_t start, int64_t size) {
  int64_t begin = std::clamp<int64_t>(start, 0, n);
  return {begin, std::clamp<int64_t>(start + size, begin, n)};
}

// Leaves the window of the resized crop in `out`, [px_h,px_w,3]; `in` is the whole source image, `w` pixels wide.
template <class Record>
void make_window(const uint8_t* in, int64_t w, const Record& r, int64_t px_h, int64_t px_w, Workspace& work, uint8_t* out) {
  Span2 rows = visible(r.resized_height, r.window_top, px_h), columns = visible(r.resized_width, r.window_left, px_w);
  int64_t row_values = columns.size() * 3;
  if (rows.size() < px_h || columns.size() < px_w) std::fill_n(out, px_h * px_w * 3, uint8_t(0));
  if (rows.size() == 0 || columns.size() == 0) return;
  const ResizeTable* across = r.crop.width == r.resized_width ? nullptr : &work.table(r.crop.width, r.resized_width, r.resample);
  const ResizeTable* down = r.crop.height == r.resized_height ? nullptr : &work.table(r.crop.height, r.resized_height, r.resample);

  int64_t left = columns.begin - r.window_left;
  if (r.flip) left = px_w - left - columns.size();
  auto out_row = [&](int64_t y) { return out + ((y - r.window_top) * px_w + left) * 3; };
  auto horizontal = [&](int64_t y, uint8_t* to) {
    const uint8_t* from = in + ((r.crop.top + y) * w + r.crop.left) * 3;
    if (across)
      resize_row(from, *across, columns, r.flip, to);
    else
      copy_row(from, columns, r.flip, to);
  };
  if (!down) {
    for (int64_t y = rows.begin; y < rows.end; ++y) horizontal(y, out_row(y));
    return;
  }
  auto last = size_t(rows.end - 1);
  int64_t first_row = down->first[size_t(rows.begin)], end_row = down->first[last] + down->count[last];
  work.rows.resize(size_t((end_row - first_row) * row_values));
  for (int64_t y = first_row; y < end_row; ++y) horizontal(y, &work.rows[size_t((y - first_row) * row_values)]);
  for (int64_t y = rows.begin; y < rows.end; ++y)
    resize_column(&work.rows[size_t((down->first[size_t(y)] - first_row) * row_values)], row_values, &down->weights[size_t(y * down->stride)],
                  down->count[size_t(y)], out_row(y));
}

// Colours.

using Table = std::array<std::array<uint8_t, 256>, 3>;  // [channel][value]
using Histogram = std::array<std::array<int32_t, 256>, 3>;

template <class F>
Table same_for_all(F&& value_of) {
  Table table;
  for (int v = 0; v < 256; ++v) table[0][size_t(v)] = value_of(v);
  table[1] = table[2] = table[0];
  return table;
}

void look_up(RgbImage& image, const Table& table) {
  for (uint8_t *p = image.pixels.data(), *end = p + image.pixels.size(); p != end; p += 3)
    for (size_t c = 0; c < 3; ++c) p[c] = table[c][p[c]];
}

Histogram histogram(const RgbImage& image) {
  Histogram h{};
  for (const uint8_t *p = image.pixels.data(), *end = p + image.pixels.size(); p != end; p += 3)
    for (size_t c = 0; c < 3; ++c) ++h[c][p[c]];
  return h;
}

int mean_luma(const RgbImage& image) {
  int64_t sum = 0, n = image.h * image.w;
  const uint8_t* p = image.pixels.data();
  for (int64_t i = 0; i < n; ++i) sum += pixel::luma(p[3 * i], p[3 * i + 1], p[3 * i + 2]);
  return int(double(sum) / double(n) + 0.5);
}

void color(RgbImage& image, float factor) {
  uint8_t* p = image.pixels.data();
  for (int64_t i = 0, n = image.h * image.w; i < n; ++i, p += 3) {
    int grey = pixel::luma(p[0], p[1], p[2]);
    for (int c = 0; c < 3; ++c) p[c] = pixel::blend(grey, p[c], factor);
  }
}

// The outermost pixels have no full neighbourhood and stay as they are.
void sharpness(RgbImage& image, float factor, Workspace& work, RgbImage& out) {
  int64_t n = image.w * 3;
  out = image;
  work.sums.resize(size_t(n));
  int* sums = work.sums.data();
  for (int64_t y = 1; y + 1 < image.h; ++y) {
    const uint8_t *here = &image.pixels[size_t(y * n)], *above = here - n, *below = here + n;
    for (int64_t i = 0; i < n; ++i) sums[i] = above[i] + here[i] + below[i];
    uint8_t* to = &out.pixels[size_t(y * n)];
    for (int64_t i = 3; i < n - 3; ++i) to[i] = pixel::blend(pixel::smooth(sums[i - 3] + sums[i] + sums[i + 3] + 4 * here[i]), here[i], factor);
  }
}

void autocontrast(RgbImage& image) {
  Histogram bins = histogram(image);
  Table table;
  for (size_t c = 0; c < 3; ++c) {
    auto occupied = [](int32_t count) { return count > 0; };
    auto low = std::find_if(bins[c].begin(), bins[c].end(), occupied) - bins[c].begin();
    auto high = bins[c].rend() - std::find_if(bins[c].rbegin(), bins[c].rend(), occupied) - 1;
    for (int v = 0; v < 256; ++v) table[c][size_t(v)] = pixel::autocontrast(v, int(low), int(high));
  }
  look_up(image, table);
}

// A single occupied bin holds all pixels, so its step is 0 too.
void equalize(RgbImage& image) {
  Histogram bins = histogram(image);
  Table table;
  for (size_t c = 0; c < 3; ++c) {
    int32_t last = *std::find_if(bins[c].rbegin(), bins[c].rend(), [](int32_t count) { return count > 0; });
    int32_t step = pixel::equalize_step(int32_t(image.h * image.w), last), below = 0;
    for (size_t v = 0; v < 256; ++v) {
      table[c][v] = step == 0 ? uint8_t(v) : pixel::equalize(below, step);
      below += bins[c][v];
    }
  }
  look_up(image, table);
}

// Geometry.

void fill_pixel(uint8_t* to, const Rgb& fill) { to[0] = fill.r, to[1] = fill.g, to[2] = fill.b; }

void turn_nearest(const RgbImage& image, const PreparedOp& call, RgbImage& out) {
  const FixedAffine& m = call.turn_nearest;
  set_size(out, image.h, image.w);
  uint8_t* to = out.pixels.data();
  const uint8_t filler[3] = {call.fill.r, call.fill.g, call.fill.b};
  for (int64_t y = 0; y < image.h; ++y) {
    int32_t source_x = m.c + int32_t(y) * m.b, source_y = m.f + int32_t(y) * m.e;
    for (int64_t x = 0; x < image.w; ++x, to += 3, source_x += m.a, source_y += m.d) {
      uint32_t sx = uint32_t(source_x >> 16), sy = uint32_t(source_y >> 16);  // negative: larger than any side
      bool inside = sx < uint32_t(image.w) && sy < uint32_t(image.h);
      copy_pixel(to, inside ? &image.pixels[size_t((sy * image.w + sx) * 3)] : filler);
    }
  }
}

void turn(const RgbImage& image, const PreparedOp& call, RgbImage& out) {
  const auto h = int(image.h), w = int(image.w);
  const pixel::Affine m = pixel::about_centre(call.turn, h, w);
  set_size(out, image.h, image.w);
  uint8_t* to = out.pixels.data();
  for (int y = 0; y < h; ++y)
    for (int x = 0; x < w; ++x, to += 3) {
      const double from_x = m.x(x + 0.5, y + 0.5), from_y = m.y(x + 0.5, y + 0.5);
      if (from_x < 0 || from_x >= w || from_y < 0 || from_y >= h) {
        fill_pixel(to, call.fill);
        continue;
      }
      const pixel::Between across(from_x), down(from_y);
      for (int c = 0; c < 3; ++c) {
        const pixel::Plane plane{image.pixels.data() + c, h, w};
        to[c] = call.resample == Resample::bicubic ? pixel::cubic_at(plane, across, down) : pixel::linear_at(plane, across, down);
      }
    }
}

// Shears, and translations between pixels.
void slide(const RgbImage& image, const PreparedOp& call, RgbImage& out) {
  const bool along_x = call.op == PixelOp::shear_x || call.op == PixelOp::translate_x;
  const auto h = int(image.h), w = int(image.w), n = along_x ? w : h;
  set_size(out, image.h, image.w);
  uint8_t* to = out.pixels.data();
  for (int y = 0; y < h; ++y)
    for (int x = 0; x < w; ++x, to += 3) {
      double from = along_x ? pixel::mapped_position(x, y, call.line) : pixel::mapped_position(y, x, call.line);
      if (from < 0 || from >= n) {
        fill_pixel(to, call.fill);
        continue;
      }
      const uint8_t* line = image.pixels.data() + int64_t(along_x ? y * w : x) * 3;
      const pixel::Between between(from);
      for (int c = 0; c < 3; ++c) {
        pixel::Line values{line + c, n, along_x ? 3 : 3 * w};
        to[c] = pixel::truncated(call.resample == Resample::bicubic ? pixel::cubic_at(values, between) : pixel::linear_at(values, between));
      }
    }
}

void shift_nearest(const RgbImage& image, const PreparedOp& call, RgbImage& out) {
  set_size(out, image.h, image.w);
  const int64_t n = image.w * 3;
  const bool along_x = call.op == PixelOp::translate_x;
  auto source = [&](int64_t i, int64_t size) {  // -1: outside
    int64_t from = i + call.shift.by + (i >= call.shift.carry);
    return from < size ? std::max<int64_t>(from, -1) : -1;
  };
  for (int64_t y = 0; y < image.h; ++y) {
    const int64_t row = along_x ? y : source(y, image.h);
    uint8_t* to = &out.pixels[size_t(y * n)];
    if (row >= 0 && !along_x) {
      std::memcpy(to, &image.pixels[size_t(row * n)], size_t(n));
      continue;
    }
    for (int64_t x = 0; x < image.w; ++x, to += 3)
      if (int64_t from = row < 0 || !along_x ? -1 : source(x, image.w); from < 0)
        fill_pixel(to, call.fill);
      else
        copy_pixel(to, &image.pixels[size_t(row * n + from * 3)]);
  }
}

// The result is in `image`; `work.spare` holds whatever was left over.
void apply(RgbImage& image, const PreparedOp& call, Workspace& work) {
  const bool nearest = call.resample == Resample::nearest;
  switch (call.op) {
    case PixelOp::none: return;
    case PixelOp::brightness: return look_up(image, same_for_all([&](int v) { return pixel::blend(0, v, call.factor); }));
    case PixelOp::contrast: {
      int grey = mean_luma(image);
      return look_up(image, same_for_all([&](int v) { return pixel::blend(grey, v, call.factor); }));
    }
    case PixelOp::color: return color(image, call.factor);
    case PixelOp::autocontrast: return autocontrast(image);
    case PixelOp::equalize: return equalize(image);
    case PixelOp::invert: return look_up(image, same_for_all([](int v) { return uint8_t(255 - v); }));
    case PixelOp::solarize: return look_up(image, same_for_all([&](int v) { return pixel::solarize(v, call.level); }));
    case PixelOp::solarize_add: return look_up(image, same_for_all([&](int v) { return pixel::solarize_add(v, call.level); }));
    case PixelOp::posterize: return look_up(image, same_for_all([&](int v) { return pixel::posterize(v, call.level); }));
    case PixelOp::sharpness: sharpness(image, call.factor, work, work.spare); break;
    case PixelOp::shear_x:
    case PixelOp::shear_y: slide(image, call, work.spare); break;
    case PixelOp::translate_x:
    case PixelOp::translate_y: (nearest ? shift_nearest : slide)(image, call, work.spare); break;
    case PixelOp::rotate: (nearest ? turn_nearest : turn)(image, call, work.spare); break;
  }
  std::swap(image, work.spare);
}

void cut_out(RgbImage& image, const PixelRect& hole) {
  for (int64_t y = hole.top; y < hole.top + hole.height; ++y) std::fill_n(image.pixels.begin() + (y * image.w + hole.left) * 3, hole.width * 3, uint8_t(0));
}

// Preparation.

bool inside(const PixelRect& r, int64_t h, int64_t w) {
  return r.top >= 0 && r.left >= 0 && r.height >= 0 && r.width >= 0 && r.top + int64_t(r.height) <= h && r.left + int64_t(r.width) <= w;
}

// Pillow's: sine and cosine are rounded to 15 decimals.
Turn turn_by(double degrees) {
  auto decimals = [](double v) { return std::rint(v * 1e15) / 1e15; };
  double angle = -(degrees - 360 * std::floor(degrees / 360)) * (3.14159265358979323846 / 180);
  return {.cosine = decimals(std::cos(angle)), .sine = decimals(std::sin(angle))};
}

// Each coefficient to 1/65536, the pixel centre's half step included.
FixedAffine fixed_point(const pixel::Affine& m) {
  auto fixed = [](double v) { return int32_t(std::floor(v * 65536.0 + 0.5)); };
  return {fixed(m.a), fixed(m.b), fixed(m.c + m.a * 0.5 + m.b * 0.5), fixed(m.d), fixed(m.e), fixed(m.f + m.d * 0.5 + m.e * 0.5)};
}

// Pillow starts at by + 1/2 and adds 1.0 step by step. A sum that gets rounded becomes whole, so its integer part is one ahead from there on, for good.
PixelShift translation(double by, int64_t n) {
  double position = std::clamp(by, double(-n - 1), double(n + 1)) + 0.5;
  PixelShift shift{.by = int32_t(std::floor(position)), .carry = 0};
  for (; shift.carry < n && std::floor(position) == shift.carry + shift.by; ++shift.carry) position += 1.0;
  return shift;
}

PreparedOp prepare(const OpCall& call, int64_t h, int64_t w) {
  PreparedOp p;
  p.op = call.op, p.resample = call.resample, p.fill = call.fill;
  const double value = call.value;
  KD_CHECK(std::isfinite(value), "{} by {}", to_string(call.op), value);
  const bool nearest = call.resample == Resample::nearest;
  auto translate = [&](int64_t n) {
    if (nearest)
      p.shift = translation(value, n);
    else
      p.line = {.slope = 0, .offset = value};
  };
  switch (call.op) {
    case PixelOp::none:
    case PixelOp::autocontrast:
    case PixelOp::equalize:
    case PixelOp::invert: break;
    case PixelOp::brightness:
    case PixelOp::contrast:
    case PixelOp::color:
    case PixelOp::sharpness: p.factor = float(value); break;
    case PixelOp::solarize: p.level = int32_t(std::ceil(std::clamp(value, 0.0, 256.0))); break;  // v < value is v < ceil(value) for a whole v
    case PixelOp::solarize_add:
      KD_CHECK(std::fabs(value) <= 255, "solarize_add: {}, -255..255 expected", value);
      p.level = int32_t(value);
      break;
    case PixelOp::posterize:
      KD_CHECK(value >= 0 && value <= 8, "posterize: {} bits, 0..8 expected", value);
      p.level = int32_t(value);
      break;
    case PixelOp::shear_x:
    case PixelOp::shear_y:
      KD_CHECK(!nearest, "{}: bilinear or bicubic, not nearest", to_string(call.op));
      p.line = {.slope = value, .offset = 0};
      break;
    case PixelOp::translate_x: translate(w); break;
    case PixelOp::translate_y: translate(h); break;
    case PixelOp::rotate:
      if (nearest)
        p.turn_nearest = fixed_point(pixel::about_centre(turn_by(value), int(h), int(w)));
      else
        p.turn = turn_by(value);
      break;
  }
  return p;
}

void check_shape(const AugmentShape& s) {
  auto fits = [](int64_t side) { return side > 0 && side <= kMaxSide; };
  KD_CHECK(fits(s.h) && fits(s.w) && fits(s.px), "augment: images of {}x{} to a view of side {}, sides 1..{} expected", s.h, s.w, s.px, kMaxSide);
}

// Crop, resize and window of a record.
void check_window(const AugmentRecord& r, int64_t h, int64_t w, int64_t most) {
  KD_CHECK(inside(r.crop, h, w) && r.crop.height > 0 && r.crop.width > 0, "augment: crop of {}x{} at ({}, {}) in images of {}x{}", r.crop.height, r.crop.width,
           r.crop.top, r.crop.left, h, w);
  KD_CHECK(r.resized_height > 0 && r.resized_width > 0 && r.resized_height <= most && r.resized_width <= most, "augment: resize to {}x{}", r.resized_height,
           r.resized_width);
  KD_CHECK(r.resample != Resample::nearest, "augment: bilinear or bicubic resize, not nearest");
  KD_CHECK(std::abs(int64_t(r.window_top)) <= most && std::abs(int64_t(r.window_left)) <= most, "augment: window at ({}, {})", r.window_top, r.window_left);
}

}  // namespace

PreparedRecord prepare(const AugmentRecord& r, const AugmentShape& s) {
  check_shape(s);
  KD_CHECK(r.image >= 0 && r.image < s.n, "augment: image {} of {}", r.image, s.n);
  check_window(r, s.h, s.w, kMaxSide);
  KD_CHECK(inside(r.cutout, s.px, s.px), "augment: cutout of {}x{} at ({}, {}) in a view of side {}", r.cutout.height, r.cutout.width, r.cutout.top,
           r.cutout.left, s.px);
  PreparedRecord p{.image = r.image,
                   .crop = r.crop,
                   .resized_height = r.resized_height,
                   .resized_width = r.resized_width,
                   .resample = r.resample,
                   .window_top = r.window_top,
                   .window_left = r.window_left,
                   .flip = r.flip,
                   .cutout = r.cutout};
  for (int k = 0; k < kViewOps; ++k) p.ops[k] = prepare(r.ops[k], s.px, s.px);
  return p;
}

void make_window(const uint8_t* image, int64_t h, int64_t w, const AugmentRecord& r, int64_t px, uint8_t* window) {
  check_window(r, h, w, kMaxHostSide);
  make_window(image, w, r, px, px, workspace(), window);
}

AugmentRecord whole_window(const AugmentRecord& r, int64_t image, int64_t px) {
  const auto side = int32_t(px);
  AugmentRecord whole{.image = image, .crop = {0, 0, side, side}, .resized_height = side, .resized_width = side, .cutout = r.cutout};
  std::copy_n(r.ops, kViewOps, whole.ops);
  return whole;
}

void check_args(const AugmentRecordsArgs& args) {
  check_shape(args.shape);
  const bool floats = args.type == DType::f32 || args.type == DType::bf16;
  KD_CHECK((args.channels == 3 && (floats || args.type == DType::u8)) || (floats && (args.channels == 4 || args.channels == 8)),
           "augment: {} channels of {}; 3, 4 or 8 of f32 or bf16, or 3 of u8 expected", args.channels, to_string(args.type));
}

std::string to_string(PixelOp op) {
  static const char* const names[] = {"none",     "brightness",   "contrast",  "color",   "sharpness", "autocontrast", "equalize",    "invert",
                                      "solarize", "solarize_add", "posterize", "shear_x", "shear_y",   "translate_x",  "translate_y", "rotate"};
  KD_CHECK(size_t(op) < std::size(names), "pixel operation {}", int(op));
  return names[size_t(op)];
}

void apply_op(RgbImage& image, const OpCall& call) {
  KD_CHECK(image.h > 0 && image.w > 0 && image.h <= kMaxSide && image.w <= kMaxSide && int64_t(image.pixels.size()) == image.h * image.w * 3,
           "{}: image of {}x{} with {} bytes", to_string(call.op), image.h, image.w, image.pixels.size());
  apply(image, prepare(call, image.h, image.w), workspace());
}

RgbImage crop_resize(const RgbImage& image, const PixelRect& crop, int64_t height, int64_t width, Resample resample) {
  KD_CHECK(inside(crop, image.h, image.w) && crop.height > 0 && crop.width > 0, "crop of {}x{} at ({}, {}) in an image of {}x{}", crop.height, crop.width,
           crop.top, crop.left, image.h, image.w);
  RgbImage out;
  set_size(out, height, width);
  AugmentRecord record{.crop = crop, .resized_height = int32_t(height), .resized_width = int32_t(width), .resample = resample};
  make_window(image.pixels.data(), image.w, record, height, width, workspace(), out.pixels.data());
  return out;
}

namespace cpu {

void augment_records(Stream, const AugmentRecordsArgs& args) {
  check_args(args);
  const AugmentShape& shape = args.shape;
  const int64_t view_values = shape.px * shape.px * 3;
  auto for_each_view = [&](auto&& write) {
    parallel_for(args.batch, [&](int64_t i) {
      const PreparedRecord& record = args.records[i];
      Workspace& work = workspace();
      set_size(work.image, shape.px, shape.px);
      make_window(args.images + record.image * shape.h * shape.w * 3, shape.w, record, shape.px, shape.px, work, work.image.pixels.data());
      for (const PreparedOp& call : record.ops) apply(work.image, call, work);
      cut_out(work.image, record.cutout);
      write(i, work.image.pixels.data());
    });
  };
  if (args.type == DType::u8) {
    auto* out = static_cast<uint8_t*>(args.out);
    return for_each_view([&](int64_t i, const uint8_t* view) { std::memcpy(out + i * view_values, view, size_t(view_values)); });
  }
  with_float_type(args.type, [&](auto zero) {
    using T = decltype(zero);
    std::array<std::array<T, 256>, 3> table;  // [channel][value]
    for (size_t c = 0; c < 3; ++c)
      for (size_t v = 0; v < 256; ++v) table[c][v] = T(pixel::normalised(int(v), args.mean[c], args.std[c]));
    for_each_view([&](int64_t i, const uint8_t* view) {
      T* out = static_cast<T*>(args.out) + i * shape.px * shape.px * args.channels;
      for (int64_t p = 0; p < view_values; p += 3, out += args.channels) {
        for (size_t c = 0; c < 3; ++c) out[c] = table[c][view[p + int64_t(c)]];
        for (int64_t c = 3; c < args.channels; ++c) out[c] = T(0.f);
      }
    });
  });
}

}  // namespace cpu

static profile::Work work_of(const AugmentRecordsArgs& a) {
  const int64_t px = a.shape.px;
  return {fmt::format("{} {}x{}x{}", to_string(a.type), a.batch, px, px), 0, double(a.batch * px * px * a.channels * size_of(a.type))};
}

KD_KERNEL(augment_records, AugmentRecordsArgs)

}  // namespace kd
