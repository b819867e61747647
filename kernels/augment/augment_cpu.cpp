#include <algorithm>
#include <cstring>
#include <unordered_map>
#include <utility>

#include "kernels/augment/augment_loops.h"
#include "kernels/common/parallel.h"

namespace kd {
namespace {

constexpr int64_t kMaxSide = 8192;         // source coordinates of a rotated image stay within 16.16 fixed point
constexpr int64_t kMaxHostSide = 1 << 24;  // of what is only cut, enlarged and shrunk, by the host

// What a thread keeps between samples: images to work in, and resize tables, of which a 32-pixel source has 32 per output side.
struct Workspace {
  Canvas image, spare;
  std::vector<uint8_t> rows;
  std::unordered_map<uint64_t, ResizeTable> tables;

  void forget_tables() {  // where there are many; before any of an image's is asked for
    constexpr size_t kMostTables = 1024;
    if (tables.size() >= kMostTables) tables.clear();
  }
  ResizeTable& table(int64_t n_in, int64_t n_out, Resample resample) {
    KD_CHECK(resample != Resample::nearest, "resize: bilinear or bicubic, not nearest");
    bool cubic = resample == Resample::bicubic;
    return tables.try_emplace((uint64_t(n_in) << 33) | (uint64_t(n_out) << 1) | uint64_t(cubic), n_in, n_out, cubic).first->second;
  }
};
Workspace& workspace() {
  thread_local Workspace w;
  return w;
}

const AugmentLoops& loops() { return augment_loops(); }  // not before main: KD_CPU may be wrong

// Crop, resize, window, flip.

// The part of an n-pixel axis that a window of `size` pixels at `start` shows.
Span2 visible(int64_t n, int64_t start, int64_t size) {
  int64_t begin = std::clamp<int64_t>(start, 0, n);
  return {begin, std::clamp<int64_t>(start + size, begin, n)};
}

// Leaves the window of the resized crop in `out`, [px_h,px_w,3]; `in` is the whole source image [h,w,3].
template <class Record>
void make_window(const uint8_t* in, int64_t h, int64_t w, const Record& r, int64_t px_h, int64_t px_w, Workspace& work, uint8_t* out) {
  Span2 rows = visible(r.resized_height, r.window_top, px_h), columns = visible(r.resized_width, r.window_left, px_w);
  const int64_t row_bytes = columns.size() * 3;
  if (rows.size() < px_h || columns.size() < px_w) std::fill_n(out, px_h * px_w * 3, uint8_t(0));
  if (rows.size() == 0 || columns.size() == 0) return;
  work.forget_tables();
  ResizeTable* across = r.crop.width == r.resized_width ? nullptr : &work.table(r.crop.width, r.resized_width, r.resample);
  const ResizeTable* down = r.crop.height == r.resized_height ? nullptr : &work.table(r.crop.height, r.resized_height, r.resample);
  if (across && avx512_loops()) across->make_blocks();

  int64_t left = columns.begin - r.window_left;
  if (r.flip) left = px_w - left - columns.size();
  uint8_t* first_out = out + ((rows.begin - r.window_top) * px_w + left) * 3;
  auto horizontal = [&](Span2 source, uint8_t* to, int64_t to_stride) {
    const uint8_t* from = in + ((r.crop.top + source.begin) * w + r.crop.left) * 3;
    if (across) return loops().resize_across(from, w * 3, source.size(), r.crop.width, in + h * w * 3, *across, columns, r.flip, to, to_stride);
    for (int64_t y = 0; y < source.size(); ++y, from += w * 3, to += to_stride)
      if (r.flip)
        loops().mirror(from + columns.begin * 3, columns.size(), to);
      else
        std::memcpy(to, from + columns.begin * 3, size_t(row_bytes));
  };
  if (!down) return horizontal(rows, first_out, px_w * 3);
  auto last = size_t(rows.end - 1);
  const Span2 source{down->first[size_t(rows.begin)], down->first[last] + down->count[last]};
  work.rows.resize(size_t(source.size() * row_bytes));
  horizontal(source, work.rows.data(), row_bytes);
  loops().resize_down(work.rows.data(), row_bytes, *down, rows, first_out, px_w * 3);
}

// Colours.

template <class F>
LookUp table_of(F&& value_of) {
  LookUp table;
  for (int v = 0; v < 256; ++v) table[size_t(v)] = value_of(v);
  return table;
}

// Neighbours often fall into the same bin, and a bin can be added to once in several cycles: even and odd pixels have bins of their own.
using Histogram = std::array<std::array<int32_t, 256>, 3>;
Histogram histogram(const Canvas& image) {
  Histogram even{}, odd{};
  const uint8_t* p = image.data();
  const int64_t n = image.pixels();
  for (int64_t i = 0; i + 1 < n; i += 2, p += 6)
    for (size_t c = 0; c < 3; ++c) ++even[c][p[c]], ++odd[c][p[c + 3]];
  if (n % 2 != 0)
    for (size_t c = 0; c < 3; ++c) ++even[c][p[c]];
  for (size_t c = 0; c < 3; ++c)
    for (size_t v = 0; v < 256; ++v) even[c][v] += odd[c][v];
  return even;
}

int mean_luma(const Canvas& image) { return int(double(loops().luma_sum(image)) / double(image.pixels()) + 0.5); }

void autocontrast(Canvas& image) {
  const Extremes e = loops().extremes(image);
  LookUpRgb table;
  for (size_t c = 0; c < 3; ++c) table[c] = table_of([&](int v) { return pixel::autocontrast(v, e.low[c], e.high[c]); });
  loops().look_up_rgb(image, table);
}

// A single occupied bin holds all pixels, so its step is 0 too.
void equalize(Canvas& image) {
  const Histogram bins = histogram(image);
  LookUpRgb table;
  for (size_t c = 0; c < 3; ++c) {
    int32_t last = *std::find_if(bins[c].rbegin(), bins[c].rend(), [](int32_t count) { return count > 0; });
    int32_t step = pixel::equalize_step(int32_t(image.h * image.w), last), below = 0;
    for (size_t v = 0; v < 256; ++v) {
      table[c][v] = step == 0 ? uint8_t(v) : pixel::equalize(below, step);
      below += bins[c][v];
    }
  }
  loops().look_up_rgb(image, table);
}

// Geometry.

void fill_pixels(uint8_t* to, int64_t pixels, const Rgb& fill) {
  for (int64_t i = 0; i < pixels; ++i, to += 3) to[0] = fill.r, to[1] = fill.g, to[2] = fill.b;
}

void shift_nearest(const Canvas& image, const PreparedOp& call, Canvas& out) {
  const int64_t row_bytes = image.w * 3, n = call.op == PixelOp::translate_x ? image.w : image.h;
  struct Part {  // outputs that come from the same distance away
    Span2 to;
    int64_t by;
  };
  const PixelShift& shift = call.shift;
  std::array<Part, 2> parts{Part{{0, shift.carry}, shift.by}, Part{{shift.carry, n}, int64_t(shift.by) + 1}};
  for (Part& part : parts) {  // ... and that come from inside
    part.to.begin = std::clamp<int64_t>(-part.by, part.to.begin, part.to.end);
    part.to.end = std::clamp<int64_t>(n - part.by, part.to.begin, part.to.end);
  }
  if (call.op == PixelOp::translate_y) {
    fill_pixels(out.data(), image.pixels(), call.fill);
    for (const auto& [to, by] : parts)
      std::memcpy(out.data() + to.begin * row_bytes, image.data() + (to.begin + by) * row_bytes, size_t(to.size() * row_bytes));
    return;
  }
  for (int64_t y = 0; y < image.h; ++y) {
    uint8_t* row = out.data() + y * row_bytes;
    int64_t done = 0;
    for (const auto& [to, by] : parts) {
      if (to.size() == 0) continue;
      fill_pixels(row + done * 3, to.begin - done, call.fill);
      std::memcpy(row + to.begin * 3, image.data() + y * row_bytes + (to.begin + by) * 3, size_t(to.size() * 3));
      done = to.end;
    }
    fill_pixels(row + done * 3, image.w - done, call.fill);
  }
}

// Operations without neighbours, as tables; `image` is asked for its mean only.
template <class Mean>
bool as_table(const PreparedOp& call, Mean&& mean, LookUp& table) {
  switch (call.op) {
    case PixelOp::brightness: table = table_of([&](int v) { return pixel::blend(0, v, call.factor); }); return true;
    case PixelOp::contrast: table = table_of([&, grey = mean()](int v) { return pixel::blend(grey, v, call.factor); }); return true;
    case PixelOp::invert: table = table_of([](int v) { return uint8_t(255 - v); }); return true;
    case PixelOp::solarize: table = table_of([&](int v) { return pixel::solarize(v, call.level); }); return true;
    case PixelOp::solarize_add: table = table_of([&](int v) { return pixel::solarize_add(v, call.level); }); return true;
    case PixelOp::posterize: table = table_of([&](int v) { return pixel::posterize(v, call.level); }); return true;
    default: return false;
  }
}

// The result is in `image`; `work.spare` holds whatever was left over.
void apply(Canvas& image, const PreparedOp& call, Workspace& work) {
  if (call.op == PixelOp::none) return;
  if (LookUp table; as_table(
          call, [&] { return mean_luma(image); }, table))
    return loops().look_up(image, table);
  if (call.op == PixelOp::color) return loops().color(image, call.factor);
  if (call.op == PixelOp::autocontrast) return autocontrast(image);
  if (call.op == PixelOp::equalize) return equalize(image);
  const bool nearest = call.resample == Resample::nearest;
  work.spare.set_size(image.h, image.w);
  if (call.op == PixelOp::sharpness)
    loops().sharpness(image, call.factor, work.spare);
  else if (call.op == PixelOp::rotate)
    (nearest ? loops().turn_nearest : loops().turn)(image, call, work.spare);
  else
    (nearest ? shift_nearest : loops().slide)(image, call, work.spare);
  std::swap(image, work.spare);
}

void cut_out(Canvas& image, const PixelRect& hole) {
  for (int64_t y = hole.top; y < hole.top + hole.height; ++y) std::fill_n(image.data() + (y * image.w + hole.left) * 3, hole.width * 3, uint8_t(0));
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
  make_window(image, h, w, r, px, px, workspace(), window);
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
  const PreparedOp prepared = prepare(call, image.h, image.w);
  Workspace& work = workspace();
  work.image.set_size(image.h, image.w);
  std::copy(image.pixels.begin(), image.pixels.end(), work.image.data());
  apply(work.image, prepared, work);
  std::copy_n(work.image.data(), image.pixels.size(), image.pixels.begin());
}

RgbImage crop_resize(const RgbImage& image, const PixelRect& crop, int64_t height, int64_t width, Resample resample) {
  KD_CHECK(inside(crop, image.h, image.w) && crop.height > 0 && crop.width > 0, "crop of {}x{} at ({}, {}) in an image of {}x{}", crop.height, crop.width,
           crop.top, crop.left, image.h, image.w);
  RgbImage out{.h = height, .w = width, .pixels = std::vector<uint8_t>(size_t(height * width * 3))};
  AugmentRecord record{.crop = crop, .resized_height = int32_t(height), .resized_width = int32_t(width), .resample = resample};
  make_window(image.pixels.data(), image.h, image.w, record, height, width, workspace(), out.pixels.data());
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
      work.image.set_size(shape.px, shape.px);
      make_window(args.images + record.image * shape.h * shape.w * 3, shape.h, shape.w, record, shape.px, shape.px, work, work.image.data());
      for (const PreparedOp& call : record.ops) apply(work.image, call, work);
      cut_out(work.image, record.cutout);
      write(i, work.image);
    });
  };
  if (args.type == DType::u8) {
    auto* out = static_cast<uint8_t*>(args.out);
    return for_each_view([&](int64_t i, const Canvas& view) { std::memcpy(out + i * view_values, view.data(), size_t(view_values)); });
  }
  Normalisation normalisation(args.mean, args.std);
  if (args.type == DType::f32 && args.channels == 3) {
    normalisation.computed = loops().computes(normalisation);
    auto* out = static_cast<float*>(args.out);
    return for_each_view([&](int64_t i, const Canvas& view) { loops().normalise(view, normalisation, out + i * view_values); });
  }
  with_float_type(args.type, [&](auto zero) {
    using T = decltype(zero);
    std::array<std::array<T, 256>, 3> table;  // [channel][value]
    for (size_t c = 0; c < 3; ++c)
      for (size_t v = 0; v < 256; ++v) table[c][v] = T(normalisation.table[c][v]);
    for_each_view([&](int64_t i, const Canvas& view) {
      T* out = static_cast<T*>(args.out) + i * shape.px * shape.px * args.channels;
      const uint8_t* p = view.data();
      for (const uint8_t* end = p + view_values; p != end; p += 3, out += args.channels) {
        for (size_t c = 0; c < 3; ++c) out[c] = table[c][p[c]];
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
