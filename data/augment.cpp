#include "data/augment.h"

#include <algorithm>
#include <cmath>

#include "kernels/common/parallel.h"

namespace kd {
namespace {

constexpr int kPad = 4;
constexpr double kMaxRotation = 15;  // degrees
constexpr AreaScale kCifarScale{0.2f, 1.f}, kImagenetScale{0.08f, 1.f};
constexpr Rgb kImagenetMean{124, 116, 104};  // .485 .456 .406 of 255, rounded

// AutoAugment's CIFAR-10 policy (Cubuk et al. 2019, appendix): operation, probability, magnitude index 0..9.
struct PolicyStep {
  PixelOp op;
  float probability;
  int magnitude = 0;
};
using enum PixelOp;
constexpr PolicyStep kAutoAugment[kAutoAugmentRows][2] = {
    {{invert, .1f}, {contrast, .2f, 6}},          {{rotate, .7f, 2}, {translate_x, .3f, 9}},
    {{sharpness, .8f, 1}, {sharpness, .9f, 3}},   {{shear_y, .5f, 8}, {translate_y, .7f, 9}},
    {{autocontrast, .5f}, {equalize, .9f}},       {{shear_y, .2f, 7}, {posterize, .3f, 7}},
    {{color, .4f, 3}, {brightness, .6f, 7}},      {{sharpness, .3f, 9}, {brightness, .7f, 9}},
    {{equalize, .6f}, {equalize, .5f}},           {{contrast, .6f, 7}, {sharpness, .6f, 5}},
    {{color, .7f, 7}, {translate_x, .5f, 8}},     {{equalize, .3f}, {autocontrast, .4f}},
    {{translate_y, .4f, 3}, {sharpness, .2f, 6}}, {{brightness, .9f, 6}, {color, .2f, 8}},
    {{solarize, .5f, 2}, {invert, 0.f}},          {{equalize, .2f}, {autocontrast, .6f}},
    {{equalize, .2f}, {equalize, .6f}},           {{color, .9f, 9}, {equalize, .6f}},
    {{autocontrast, .8f}, {solarize, .2f, 8}},    {{brightness, .1f, 3}, {color, .7f, 0}},
    {{solarize, .4f, 5}, {autocontrast, .9f}},    {{translate_y, .9f, 9}, {translate_y, .7f, 9}},
    {{autocontrast, .9f}, {solarize, .8f, 3}},    {{equalize, .8f}, {invert, .1f}},
    {{translate_y, .7f, 9}, {autocontrast, .9f}},
};

// Rotations are always counter-clockwise, as in the implementations that published results use; the other signed operations draw a sign each time.
OpCall policy_call(Rng& rng, PixelOp op, int magnitude, int64_t px) {
  OpCall call{.op = op, .fill = grey(128)};
  double m = magnitude / 9.0;
  auto sign = [&] { return rng.coin(0.5f) ? -1.0 : 1.0; };
  switch (op) {
    case shear_x:
    case shear_y: call.value = sign() * 0.3 * m, call.resample = Resample::bicubic; break;
    case translate_x:
    case translate_y: call.value = sign() * (150.0 / 331.0) * m * double(px); break;
    case rotate: call.value = 30 * m; break;
    case brightness:
    case contrast:
    case color:
    case sharpness: call.value = 1 + sign() * 0.1 * magnitude; break;
    case posterize: call.value = 8 - std::nearbyint(magnitude / 2.25); break;
    case solarize: call.value = 256 * (1 - m); break;
    default: break;  // no argument
  }
  return call;
}

// timm's RandAugment, its 15 operations in its order; posterize is what it calls PosterizeTpu.
constexpr PixelOp kRandAugment[] = {autocontrast, equalize,   invert,    rotate,  posterize, solarize,    solarize_add, color,
                                    contrast,     brightness, sharpness, shear_x, shear_y,   translate_x, translate_y};
constexpr double kLevel = 10, kLevelDeviation = 0.5, kMaxLevel = 10;

OpCall randaugment_call(Rng& rng, PixelOp op, RandAugment form, int64_t px) {
  OpCall call{.op = op};
  const double m = std::clamp(kLevel + kLevelDeviation * rng.normal(), 0.0, kMaxLevel) / kMaxLevel;
  const bool increasing = form == RandAugment::increasing;
  auto sign = [&] { return rng.coin(0.5f) ? -1.0 : 1.0; };
  auto move = [&](double most) {
    call.value = sign() * most * m;
    call.resample = rng.coin(0.5f) ? Resample::bilinear : Resample::bicubic;
    call.fill = kImagenetMean;
  };
  switch (op) {
    case rotate: move(30); break;
    case shear_x:
    case shear_y: move(0.3); break;
    case translate_x:
    case translate_y: move(0.45 * double(px)); break;
    case posterize: call.value = std::trunc(4 * m); break;
    case solarize: call.value = increasing ? 256 - std::trunc(256 * m) : std::trunc(256 * m); break;
    case solarize_add: call.value = std::trunc(110 * m); break;
    case color:
    case contrast:
    case brightness:
    case sharpness: call.value = increasing ? std::max(0.1, 1 + sign() * 0.9 * m) : 1.8 * m + 0.1; break;
    default: break;  // no argument
  }
  return call;
}

Purpose purpose_of(View view) {
  switch (view) {
    case View::weak: return Purpose::weak_view;
    case View::strong: return Purpose::strong_view;
    case View::base: return Purpose::base_view;
    case View::test: return Purpose::test_view;
  }
  KD_FAIL("view {}", int(view));
}

// Where the view comes from in the source; sets everything of the record but flip, ops and cutout.
void draw_window(Rng& rng, int64_t h, int64_t w, View view, const AugmentConfig& config, AugmentRecord& r) {
  const int64_t px = config.px;
  const bool imagenet = config.pipeline == Pipeline::imagenet, native = h == px && w == px;
  r.crop = {0, 0, int32_t(h), int32_t(w)};
  r.resized_height = r.resized_width = int32_t(px);
  if (view == View::test) {
    r.resample = config.test_resample;
    const int64_t side = imagenet ? (px * 256 + 112) / 224 : px;  // of the short side, to the nearest pixel
    r.resized_height = r.resized_width = int32_t(side);
    (h < w ? r.resized_width : r.resized_height) = int32_t(side * std::max(h, w) / std::min(h, w));
    r.window_top = int32_t(std::nearbyint(double(r.resized_height - px) / 2));  // half to even
    r.window_left = int32_t(std::nearbyint(double(r.resized_width - px) / 2));
  } else if (imagenet) {
    r.resample = Resample::bilinear;
    r.crop = random_resized_crop(rng, h, w, kImagenetScale);
  } else if (native) {
    r.window_top = int32_t(rng.below(2 * kPad + 1)) - kPad;
    r.window_left = int32_t(rng.below(2 * kPad + 1)) - kPad;
  } else {
    r.crop = random_resized_crop(rng, h, w, kCifarScale);
  }
}

// A square of side `length` around a uniform centre, cut to the view.
PixelRect draw_cutout(Rng& rng, int64_t length, int64_t px) {
  auto half = length / 2, y = int64_t(rng.below(uint32_t(px))), x = int64_t(rng.below(uint32_t(px)));
  int64_t top = std::max<int64_t>(0, y - half), left = std::max<int64_t>(0, x - half);
  return {int32_t(top), int32_t(left), int32_t(std::min(px, y + half) - top), int32_t(std::min(px, x + half) - left)};
}

AugmentShape augment_shape(const Shape& images, const AugmentConfig& config) {
  KD_CHECK(images.rank() == 4 && images[3] == 3, "augment: images {}, [N,H,W,3] expected", to_string(images));
  return {.n = images[0], .h = images[1], .w = images[2], .px = config.px};
}

void augment(const Tensor& images, std::span<const int64_t> indices, View view, const AugmentConfig& config, uint64_t seed, uint32_t epoch, const Tensor& out) {
  KD_CHECK(images.defined() && out.defined() && out.dim(0) == int64_t(indices.size()), "augment: {} indices, {}, {}", indices.size(), images.describe("images"),
           out.describe("out"));
  std::vector<PreparedRecord> records(indices.size());
  draw_records(images.shape(), indices, view, config, seed, epoch, records.data());
  const auto bytes = int64_t(records.size() * sizeof(PreparedRecord));
  Tensor there = Tensor::empty({bytes}, DType::u8, images.device());
  copy_bytes(there.raw(), images.device(), records.data(), Device::cpu, bytes);
  make_views(images, static_cast<const PreparedRecord*>(there.raw()), config, out);
}

constexpr std::pair<View, const char*> kViewNames[] = {{View::weak, "weak"}, {View::strong, "strong"}, {View::base, "base"}, {View::test, "test"}};

}  // namespace

View view_from_name(std::string_view name) {
  for (auto [view, known] : kViewNames)
    if (name == known) return view;
  throw Error(fmt::format("view '{}' is unknown; one of weak, strong, base, test expected", name));
}

std::string to_string(View view) {
  for (auto [known, name] : kViewNames)
    if (view == known) return name;
  KD_FAIL("view {}", int(view));
}

std::optional<PixelRect> try_random_crop(Rng& rng, int64_t h, int64_t w, AreaScale scale) {
  double area = double(h * w) * double(rng.uniform(scale.low, scale.high));
  double aspect = double(std::exp(rng.uniform(std::log(3.f / 4.f), std::log(4.f / 3.f))));
  auto width = int64_t(std::nearbyint(std::sqrt(area * aspect))), height = int64_t(std::nearbyint(std::sqrt(area / aspect)));
  if (width <= 0 || width > w || height <= 0 || height > h) return std::nullopt;
  auto top = int32_t(rng.below(uint32_t(h - height + 1))), left = int32_t(rng.below(uint32_t(w - width + 1)));
  return PixelRect{top, left, int32_t(height), int32_t(width)};
}

PixelRect random_resized_crop(Rng& rng, int64_t h, int64_t w, AreaScale scale) {
  for (int attempt = 0; attempt < 10; ++attempt)
    if (auto crop = try_random_crop(rng, h, w, scale)) return *crop;
  constexpr double narrowest = 3.0 / 4.0, widest = 4.0 / 3.0;
  double aspect = double(w) / double(h);
  int64_t width = aspect > widest ? int64_t(std::nearbyint(double(h) * widest)) : w;
  int64_t height = aspect < narrowest ? int64_t(std::nearbyint(double(w) / narrowest)) : h;
  return {int32_t((h - height) / 2), int32_t((w - width) / 2), int32_t(height), int32_t(width)};
}

std::array<OpCall, 2> draw_autoaugment_row(Rng& rng, int row, int64_t px) {
  KD_CHECK(row >= 0 && row < kAutoAugmentRows, "AutoAugment row {} of {}", row, kAutoAugmentRows);
  std::array<OpCall, 2> calls;
  for (size_t i = 0; i < 2; ++i) {
    const PolicyStep& step = kAutoAugment[row][i];
    if (rng.coin(step.probability)) calls[i] = policy_call(rng, step.op, step.magnitude, px);
  }
  return calls;
}

std::array<OpCall, 3> draw_color_jitter(Rng& rng) {
  std::array<PixelOp, 3> order{brightness, contrast, color};
  for (uint32_t left = 3; left > 1; --left) std::swap(order[left - 1], order[rng.below(left)]);
  std::array<OpCall, 3> calls;
  for (size_t i = 0; i < 3; ++i) calls[i] = {.op = order[i], .value = double(rng.uniform(0.6f, 1.4f))};
  return calls;
}

std::array<OpCall, 2> draw_randaugment(Rng& rng, RandAugment form, int64_t px) {
  std::array<OpCall, 2> calls;
  for (OpCall& call : calls) {
    const PixelOp op = kRandAugment[rng.below(uint32_t(std::size(kRandAugment)))];
    if (rng.coin(0.5f)) call = randaugment_call(rng, op, form, px);
  }
  return calls;
}

AugmentRecord draw_record(int64_t h, int64_t w, int64_t index, View view, const AugmentConfig& config, uint64_t seed, uint32_t epoch) {
  const bool imagenet = config.pipeline == Pipeline::imagenet;
  KD_INPUT(imagenet || config.px >= std::max(h, w), "px {} is smaller than the {}x{} images; give px of at least {}", config.px, h, w, std::max(h, w));
  KD_INPUT(config.cutout_length >= 0, "cutout_length {} is negative; give 0 for no Cutout", config.cutout_length);
  Rng rng(seed, purpose_of(view), uint32_t(index), epoch);
  AugmentRecord r{.image = index};
  draw_window(rng, h, w, view, config, r);
  if (view != View::weak && view != View::strong) return r;
  r.flip = rng.coin(0.5f);
  if (imagenet) {
    const auto jitter = draw_color_jitter(rng);
    OpCall* next = std::copy(jitter.begin(), jitter.end(), r.ops);
    if (view == View::weak) return r;
    const auto calls = draw_randaugment(rng, config.randaugment, config.px);
    std::copy(calls.begin(), calls.end(), next);
    return r;
  }
  if (view == View::weak) r.ops[0] = {.op = rotate, .value = kMaxRotation * (2 * rng.uniform_double() - 1), .fill = grey(0)};
  if (view == View::strong) {
    const auto calls = draw_autoaugment_row(rng, int(rng.below(kAutoAugmentRows)), config.px);
    std::copy(calls.begin(), calls.end(), r.ops);
    r.cutout = draw_cutout(rng, config.cutout_length, config.px);
  }
  return r;
}

void draw_records(const Shape& image_shape, std::span<const int64_t> indices, View view, const AugmentConfig& config, uint64_t seed, uint32_t epoch,
                  PreparedRecord* records) {
  const AugmentShape shape = augment_shape(image_shape, config);
  for (int64_t index : indices) {
    KD_CHECK(index >= 0 && index < shape.n, "augment: index {} of images {}", index, to_string(image_shape));
    *records++ = prepare(draw_record(shape.h, shape.w, index, view, config, seed, epoch), shape);
  }
}

void draw_windows(std::span<const ImageView> images, std::span<const int64_t> indices, View view, const AugmentConfig& config, uint64_t seed, uint32_t epoch,
                  uint8_t* windows, PreparedRecord* records) {
  KD_CHECK(images.size() == indices.size(), "augment: {} images for {} indices", images.size(), indices.size());
  const auto n = int64_t(images.size());
  const AugmentShape shape{.n = n, .h = config.px, .w = config.px, .px = config.px};
  parallel_for(n, [&](int64_t i) {
    const ImageView& image = images[size_t(i)];
    const AugmentRecord record = draw_record(image.h, image.w, indices[size_t(i)], view, config, seed, epoch);
    make_window(image.rgb, image.h, image.w, record, config.px, windows + i * config.px * config.px * 3);
    records[i] = prepare(whole_window(record, i, config.px), shape);
  });
}

void make_views(const Tensor& images, const PreparedRecord* records, const AugmentConfig& config, const Tensor& out) {
  KD_CHECK(out.device() == images.device(), "augment: {} to {}, the same device expected", images.describe("images"), out.describe("out"));
  make_views(images.data<uint8_t>(), images.shape(), records, config, out);
}

void make_views(const uint8_t* images, const Shape& image_shape, const PreparedRecord* records, const AugmentConfig& config, const Tensor& out) {
  const bool fits = out.rank() == 4 && out.dim(1) == config.px && out.dim(2) == config.px;
  KD_CHECK(fits, "augment: {}, [B,{},{},C] expected", out.describe("out"), config.px, config.px);
  augment_records(current_stream(out.device()), {.images = images,
                                                 .shape = augment_shape(image_shape, config),
                                                 .records = records,
                                                 .batch = out.dim(0),
                                                 .out = out.raw(),
                                                 .type = out.dtype(),
                                                 .channels = out.dim(3),
                                                 .mean = config.mean,
                                                 .std = config.std});
}

void augment_batch(const Tensor& images, std::span<const int64_t> indices, View view, const AugmentConfig& config, uint64_t seed, uint32_t epoch,
                   const Tensor& out) {
  KD_CHECK(out.dtype() == DType::f32 || out.dtype() == DType::bf16, "augment_batch: {}, f32 or bf16 expected", out.describe("out"));
  augment(images, indices, view, config, seed, epoch, out);
}

void augment_u8(const Tensor& images, std::span<const int64_t> indices, View view, const AugmentConfig& config, uint64_t seed, uint32_t epoch,
                const Tensor& out_u8) {
  KD_CHECK(out_u8.dtype() == DType::u8, "augment_u8: {}, u8 expected", out_u8.describe("out"));
  augment(images, indices, view, config, seed, epoch, out_u8);
}

}  // namespace kd
