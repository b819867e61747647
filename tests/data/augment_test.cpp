// augment: against Pillow's bytes (tests/golden/augment, written by tools/make_golden_augment.py), against numbers worked out by hand, and the policy's
// statistics. Every device makes the same bytes, so pixels are compared on all that are there.
#include "data/augment.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <map>
#include <numeric>
#include <optional>
#include <set>
#include <sstream>
#include <thread>

#include "engine/base/file.h"
#include "engine/base/hash.h"
#include "kernels/augment/augment_loops.h"

namespace kd {
namespace {

// The input images of the golden vectors; `image` in the script is the same formula.
RgbImage make_image(const std::string& pattern, int64_t h, int64_t w) {
  RgbImage image{h, w, {}};
  const auto n = uint32_t(h * w * 3);
  for (uint32_t i = 0; i < n; ++i) {
    uint32_t mix = (i + 1) * 2654435761u;
    mix ^= mix >> 15;
    mix *= 2246822519u;
    uint32_t noise = mix >> 24, value = 0;
    if (pattern == "noise")
      value = noise;
    else if (pattern == "dim")
      value = 90 + noise / 8;
    else if (pattern == "flat")
      value = 60 + 70 * (i % 3);
    else if (pattern == "ramp")
      value = i * 255 / std::max(1u, n - 1);
    else if (pattern == "levels")
      value = noise < 128 ? 40 + i % 3 : 200 - i % 3;
    else
      KD_FAIL("pattern '{}'", pattern);
    image.pixels.push_back(uint8_t(value));
  }
  return image;
}

RgbImage grey_image(int64_t h, int64_t w, const std::vector<int>& values) {
  RgbImage image{h, w, {}};
  for (int v : values) image.pixels.insert(image.pixels.end(), 3, uint8_t(v));
  return image;
}
std::vector<int> red(const RgbImage& image, int64_t row) {
  std::vector<int> values;
  for (int64_t x = 0; x < image.w; ++x) values.push_back(image.pixels[size_t((row * image.w + x) * 3)]);
  return values;
}
using Ints = std::vector<int>;
Ints all(const RgbImage& image) { return {image.pixels.begin(), image.pixels.end()}; }
RgbImage with_op(RgbImage image, const OpCall& call) {
  apply_op(image, call);
  return image;
}

std::vector<Device> devices() {
  std::vector<Device> all{Device::cpu, Device::emulated};
  if (is_available(Device::cuda)) all.push_back(Device::cuda);
  return all;
}

Tensor as_tensor(const RgbImage& image) { return Tensor::of<uint8_t>({1, image.h, image.w, 3}, image.pixels); }

RgbImage view_on(Device device, const RgbImage& image, const AugmentRecord& record, int64_t px) {
  const AugmentShape shape{.n = 1, .h = image.h, .w = image.w, .px = px};
  const PreparedRecord prepared = prepare(record, shape);
  Tensor images = as_tensor(image).to(device), records = Tensor::empty({int64_t(sizeof prepared)}, DType::u8, device);
  Tensor out = Tensor::empty({1, px, px, 3}, DType::u8, device);
  copy_bytes(records.raw(), device, &prepared, Device::cpu, records.bytes());
  augment_records(current_stream(device), {.images = images.data<uint8_t>(),
                                           .shape = shape,
                                           .records = static_cast<const PreparedRecord*>(records.raw()),
                                           .batch = 1,
                                           .out = out.raw(),
                                           .type = DType::u8,
                                           .mean = {},
                                           .std = {}});
  out = out.to(Device::cpu);
  return {px, px, {out.data<uint8_t>(), out.data<uint8_t>() + out.bytes()}};
}
// All of the image, as it is.
AugmentRecord whole(const RgbImage& image) {
  const auto h = int32_t(image.h), w = int32_t(image.w);
  return {.crop = {0, 0, h, w}, .resized_height = h, .resized_width = w};
}
RgbImage with_op_on(Device device, const RgbImage& square, const OpCall& call) {
  AugmentRecord record = whole(square);
  record.ops[0] = call;
  return view_on(device, square, record, square.w);
}

template <class T>
T read(std::istream& in) {
  T value{};
  KD_CHECK(bool(in >> value), "a field is missing");
  return value;
}
PixelOp op_from_name(const std::string& name) {
  for (int i = 0; i <= int(PixelOp::rotate); ++i)
    if (to_string(PixelOp(i)) == name) return PixelOp(i);
  KD_FAIL("operation '{}'", name);
}
Resample resample_from_name(const std::string& name) {
  return name == "bilinear" ? Resample::bilinear : name == "bicubic" ? Resample::bicubic : Resample::nearest;
}
RgbImage read_image(std::istream& in) {
  auto pattern = read<std::string>(in);
  auto h = read<int64_t>(in), w = read<int64_t>(in);
  return make_image(pattern, h, w);
}
OpCall read_call(std::istream& in) {
  OpCall call{.op = op_from_name(read<std::string>(in))};
  call.value = read<double>(in);
  call.resample = resample_from_name(read<std::string>(in));
  std::istringstream fill(read<std::string>(in));  // "117", or "124,116,104"
  std::string level;
  std::vector<uint8_t> levels;
  while (std::getline(fill, level, ',')) levels.push_back(uint8_t(std::stoi(level)));
  KD_CHECK(levels.size() == 1 || levels.size() == 3, "fill of {} levels", levels.size());
  call.fill = {levels[0], levels[levels.size() / 2], levels.back()};
  return call;
}
PixelRect read_rect(std::istream& in) {
  PixelRect r;
  for (int32_t* field : {&r.top, &r.left, &r.height, &r.width}) *field = read<int32_t>(in);
  return r;
}

// Runs `make` on each vector of a file and compares the bytes; returns how many vectors were compared: those for which `make` returns an image.
int check_vectors(const std::string& file, const std::function<std::optional<RgbImage>(std::istream&)>& make) {
  std::istringstream lines(read_text(Path(KD_GOLDEN_DIR) / "augment" / file));
  int line_number = 0, compared = 0, wrong = 0;
  for (std::string line; std::getline(lines, line);) {
    ++line_number;
    std::istringstream in(line);
    const std::optional<RgbImage> got = make(in);
    if (!got) continue;
    ++compared;
    Fnv1a hash;
    hash.add(got->pixels);
    if (hex(hash.value()) == read<std::string>(in)) continue;
    std::string bytes;
    for (size_t i = 0; i < std::min<size_t>(12, got->pixels.size()); ++i) bytes += fmt::format("{:02x}", got->pixels[i]);
    if (++wrong <= 10) ADD_FAILURE() << file << ":" << line_number << ": " << line << "\n  got " << hex(hash.value()) << " " << bytes;
  }
  EXPECT_EQ(wrong, 0) << "of " << compared;
  return compared;
}

TEST(Golden, Operations) {
  for (Device device : devices()) {
    SCOPED_TRACE(to_string(device));
    std::set<PixelOp> seen;
    const int count = check_vectors("ops.txt", [&](std::istream& in) -> std::optional<RgbImage> {
      const OpCall call = read_call(in);
      RgbImage image = read_image(in);
      if (device != Device::cpu && image.h != image.w) return {};  // views are square
      seen.insert(call.op);
      return device == Device::cpu ? with_op(std::move(image), call) : with_op_on(device, image, call);
    });
    EXPECT_EQ(count, device == Device::cpu ? 1981 : 1134);
    EXPECT_EQ(seen.size(), size_t(PixelOp::rotate));  // all but none
  }
}

TEST(Golden, CropAndResize) {
  for (Device device : devices()) {
    SCOPED_TRACE(to_string(device));
    const int count = check_vectors("resize.txt", [&](std::istream& in) {
      const Resample resample = resample_from_name(read<std::string>(in));
      const RgbImage image = read_image(in);
      const PixelRect crop = read_rect(in);
      const auto h = read<int64_t>(in), w = read<int64_t>(in);
      if (device == Device::cpu) return crop_resize(image, crop, h, w, resample);
      // The corner of a view that shows all of it, black around it.
      const RgbImage view =
          view_on(device, image, {.crop = crop, .resized_height = int32_t(h), .resized_width = int32_t(w), .resample = resample}, std::max(h, w));
      RgbImage corner{h, w, {}};
      for (size_t i = 0; i < view.pixels.size(); ++i)
        if (int64_t(i) / 3 / view.w < h && int64_t(i) / 3 % view.w < w)
          corner.pixels.push_back(view.pixels[i]);
        else
          EXPECT_EQ(view.pixels[i], 0) << i;
      return corner;
    });
    EXPECT_EQ(count, 108);
  }
}

TEST(Golden, WholeViews) {
  for (Device device : devices()) {
    SCOPED_TRACE(to_string(device));
    const int count = check_vectors("views.txt", [&](std::istream& in) {
      RgbImage image = read_image(in);
      AugmentRecord r{.crop = read_rect(in)};
      auto px = read<int32_t>(in);
      r.resized_height = r.resized_width = px;
      if (image.h == px && image.w == px) {
        r.window_top = r.crop.top, r.window_left = r.crop.left;
        r.crop = {0, 0, px, px};
      }
      r.resample = resample_from_name(read<std::string>(in));
      r.flip = read<int>(in) == 1;
      for (OpCall* call : {&r.ops[0], &r.ops[1]}) *call = read_call(in);
      r.cutout = read_rect(in);
      return view_on(device, image, r, px);
    });
    EXPECT_EQ(count, 60);
  }
}

TEST(Golden, ImagenetViews) {
  for (Device device : devices()) {
    SCOPED_TRACE(to_string(device));
    std::set<PixelOp> seen;
    const int count = check_vectors("imagenet_views.txt", [&](std::istream& in) {
      const RgbImage image = read_image(in);
      AugmentRecord r{.crop = read_rect(in)};
      for (int32_t* field : {&r.resized_height, &r.resized_width, &r.window_top, &r.window_left}) *field = read<int32_t>(in);
      const auto px = read<int64_t>(in);
      r.resample = resample_from_name(read<std::string>(in));
      r.flip = read<int>(in) == 1;
      const auto calls = read<int>(in);
      KD_CHECK(calls <= kViewOps, "{} operations", calls);
      for (int k = 0; k < calls; ++k) seen.insert((r.ops[k] = read_call(in)).op);
      // What a packed image goes through: the same in two steps.
      RgbImage window{px, px, std::vector<uint8_t>(size_t(px * px * 3))};
      make_window(image.pixels.data(), image.h, image.w, r, px, window.pixels.data());
      const RgbImage view = view_on(device, image, r, px);
      EXPECT_EQ(view_on(device, window, whole_window(r, 0, px), px).pixels, view.pixels);
      return view;
    });
    EXPECT_EQ(count, 72);
    EXPECT_EQ(seen.size(), size_t(PixelOp::rotate) + 1);
  }
}

// torch's ToTensor and Normalize on every u8 value; bf16 is the rounding of that f32.
TEST(Golden, Normalisation) {
  Tensor image = Tensor::empty({1, 16, 16, 3}, DType::u8), f32 = Tensor::empty({1, 16, 16, 3}, DType::f32), half = Tensor::empty({1, 16, 16, 3}, DType::bf16);
  for (int64_t i = 0; i < image.elements(); ++i) image.data<uint8_t>()[i] = uint8_t(i / 3);
  const int64_t index = 0;
  AugmentConfig config{.px = 16};
  augment_batch(image, {&index, 1}, View::test, config, 0, 0, f32);
  augment_batch(image, {&index, 1}, View::test, config, 0, 0, half);
  std::istringstream lines(read_text(Path(KD_GOLDEN_DIR) / "augment" / "unit.txt"));
  int count = 0;
  for (std::string line; std::getline(lines, line); ++count) {
    std::istringstream in(line);
    auto v = read<int64_t>(in);
    for (int64_t c = 0; c < 3; ++c) {
      auto bits = uint32_t(std::stoul(read<std::string>(in), nullptr, 16));
      EXPECT_EQ(std::bit_cast<uint32_t>(f32.data<float>()[v * 3 + c]), bits) << "value " << v << " channel " << c;
      EXPECT_EQ(half.data<bf16>()[v * 3 + c].bits, bf16(std::bit_cast<float>(bits)).bits);
    }
  }
  EXPECT_EQ(count, 256);
}

// Numbers worked out apart from any implementation.

TEST(ByHand, Resize) {
  RgbImage row = grey_image(1, 4, {0, 100, 200, 50});
  auto resized = [&](int64_t n, Resample resample) { return red(crop_resize(row, {0, 0, 1, 4}, 1, n, resample), 0); };
  EXPECT_EQ(resized(8, Resample::bilinear), (Ints{0, 25, 75, 125, 175, 163, 88, 50}));
  EXPECT_EQ(resized(8, Resample::bicubic), (Ints{0, 17, 71, 131, 193, 174, 81, 37}));
  EXPECT_EQ(resized(2, Resample::bilinear), (Ints{71, 121}));
  EXPECT_EQ(resized(2, Resample::bicubic), (Ints{68, 127}));
}

TEST(ByHand, ShearTranslateRotate) {
  std::vector<int> values(16);
  for (int i = 0; i < 16; ++i) values[size_t(i)] = 10 * i;
  RgbImage ramp = grey_image(4, 4, values);
  RgbImage sheared = with_op(ramp, {.op = PixelOp::shear_x, .value = .3, .resample = Resample::bilinear, .fill = grey(128)});
  EXPECT_EQ(red(sheared, 0), (Ints{1, 11, 21, 30}));
  EXPECT_EQ(red(sheared, 2), (Ints{87, 97, 107, 128}));
  EXPECT_EQ(red(with_op(ramp, {.op = PixelOp::shear_x, .value = .3, .resample = Resample::bicubic, .fill = grey(128)}), 1), (Ints{43, 54, 65, 71}));
  EXPECT_EQ(red(with_op(ramp, {.op = PixelOp::translate_x, .value = 1.6, .fill = grey(128)}), 0), (Ints{20, 30, 128, 128}));
  EXPECT_EQ(red(with_op(ramp, {.op = PixelOp::translate_x, .value = -1.6, .fill = grey(128)}), 0), (Ints{128, 128, 0, 10}));

  RgbImage dot = grey_image(101, 101, std::vector<int>(101 * 101, 0));
  dot.pixels[(50 * 101 + 98) * 3] = 255;
  RgbImage turned = with_op(dot, {.op = PixelOp::rotate, .value = 10});
  EXPECT_EQ(turned.pixels[(42 * 101 + 97) * 3], 255);
  EXPECT_EQ(std::accumulate(turned.pixels.begin(), turned.pixels.end(), 0), 255);
}

// Pillow adds 1.0 step by step. From just below -1/2 the sum is -e, 1 - e (source 0), and then 2 - e is not a double: it becomes 2, and source 1 is skipped.
TEST(ByHand, TranslationRoundsAsPillowDoes) {
  std::vector<int> values;
  for (int y = 0; y < 5; ++y)
    for (int x = 0; x < 5; ++x) values.push_back(10 * x);
  for (Device device : devices()) {
    const RgbImage moved = with_op_on(device, grey_image(5, 5, values), {.op = PixelOp::translate_x, .value = std::nextafter(-.5, -1.), .fill = grey(128)});
    for (int y = 0; y < 5; ++y) EXPECT_EQ(red(moved, y), (Ints{128, 0, 20, 30, 40})) << to_string(device);
    for (double far : {1e300, -1e300}) {
      const RgbImage gone = with_op_on(device, grey_image(5, 5, values), {.op = PixelOp::translate_y, .value = far, .fill = {7, 8, 9}});
      for (size_t i = 0; i < 75; ++i) EXPECT_EQ(gone.pixels[i], 7 + i % 3) << to_string(device);
    }
  }
}

TEST(ByHand, Colours) {
  EXPECT_EQ(pixel::luma(200, 100, 50), 124);
  EXPECT_EQ(pixel::luma(10, 20, 30), 18);
  const RgbImage two{1, 2, {200, 100, 50, 10, 20, 30}};
  EXPECT_EQ(all(with_op(two, {.op = PixelOp::brightness, .value = 1.4})), (Ints{255, 140, 70, 14, 28, 42}));
  EXPECT_EQ(all(with_op(two, {.op = PixelOp::contrast, .value = 1.4})), (Ints{251, 111, 41, 0, 0, 13}));
  EXPECT_EQ(all(with_op(two, {.op = PixelOp::color, .value = .6})), (Ints{169, 109, 79, 13, 19, 25}));
  EXPECT_EQ(red(with_op(grey_image(1, 6, {10, 20, 30, 40, 50, 60}), {.op = PixelOp::autocontrast}), 0), (Ints{0, 51, 102, 153, 203, 255}));

  std::vector<int> values;
  for (auto [value, count] : {std::pair{10, 512}, {20, 256}, {30, 256}, {40, 256}, {50, 256}, {60, 512}}) values.insert(values.end(), size_t(count), value);
  RgbImage equalized = with_op(grey_image(32, 64, values), {.op = PixelOp::equalize});
  const std::map<int, int> want{{10, 0}, {20, 85}, {30, 128}, {40, 171}, {50, 213}, {60, 255}};
  for (size_t i = 0; i < values.size(); ++i) ASSERT_EQ(equalized.pixels[3 * i], want.at(values[i])) << "pixel " << i;

  RgbImage spot = grey_image(3, 3, {0, 0, 0, 0, 130, 0, 0, 0, 0});
  EXPECT_EQ(red(with_op(spot, {.op = PixelOp::sharpness, .value = .1}), 1), (Ints{0, 58, 0}));
  EXPECT_EQ(red(with_op(spot, {.op = PixelOp::sharpness, .value = 1.9}), 1), (Ints{0, 202, 0}));
}

TEST(ByHand, SolarizePosterizeInvert) {
  RgbImage row = grey_image(1, 4, {0, 127, 128, 255});
  EXPECT_EQ(red(with_op(row, {.op = PixelOp::invert}), 0), (Ints{255, 128, 127, 0}));
  EXPECT_EQ(red(with_op(row, {.op = PixelOp::solarize, .value = 127.5}), 0), (Ints{0, 127, 127, 0}));
  EXPECT_EQ(red(with_op(row, {.op = PixelOp::solarize_add, .value = 140}), 0), (Ints{140, 255, 128, 255}));
  EXPECT_EQ(red(with_op(row, {.op = PixelOp::posterize, .value = 4}), 0), (Ints{0, 112, 128, 240}));
}

// The policy.

Tensor noise_images(int64_t n, int64_t h, int64_t w) {
  Tensor images = Tensor::empty({n, h, w, 3}, DType::u8);
  RgbImage noise = make_image("noise", n * h, w);
  std::copy(noise.pixels.begin(), noise.pixels.end(), images.data<uint8_t>());
  return images;
}
std::vector<uint8_t> view_bytes(const Tensor& images, const std::vector<int64_t>& indices, View view, const AugmentConfig& config, uint64_t seed,
                                uint32_t epoch) {
  Tensor out = Tensor::empty({int64_t(indices.size()), config.px, config.px, 3}, DType::u8);
  augment_u8(images, indices, view, config, seed, epoch, out);
  return {out.data<uint8_t>(), out.data<uint8_t>() + out.bytes()};
}
constexpr View kViews[] = {View::weak, View::strong, View::base, View::test};

// Every vector loop beside the plain one, bit for bit, at sizes that no vector divides.

Canvas random_canvas(Rng& rng, int64_t h, int64_t w, int levels = 256) {
  Canvas canvas;
  canvas.set_size(h, w);
  for (uint8_t& byte : canvas.bytes) byte = uint8_t(rng.below(uint32_t(levels)) * 255 / uint32_t(std::max(levels - 1, 1)));
  return canvas;
}
Canvas blank_canvas(const Canvas& like) {
  Canvas canvas;
  canvas.set_size(like.h, like.w);
  return canvas;
}
std::vector<uint8_t> pixels_of(const Canvas& c) { return {c.bytes.begin(), c.bytes.begin() + c.pixels() * 3}; }

// The forms that this build and machine have besides the plain one. KD_CPU takes them away, as it does from the kernel.
struct Form {
  const char* name;
  const AugmentLoops* loops;
};
const std::vector<Form>& vector_forms() {
  static const std::vector<Form> forms = [] {
    std::vector<Form> found;
#if defined(KD_AUGMENT_AVX2)
    found.push_back({"avx2", &avx2_loops()});
#endif
    if (avx512_loops())
      found.push_back({"avx512", avx512_loops()});
    else
      fmt::print("not compared: the loops for AVX-512 with VBMI and VNNI, which this machine, KD_CPU or the compiler lacks\n");
    return found;
  }();
  return forms;
}
template <class F>
void for_vector_forms(F&& f) {
  for (const Form& form : vector_forms()) {
    SCOPED_TRACE(form.name);
    f(*form.loops);
  }
}

constexpr int64_t kAwkward[] = {1, 2, 3, 5, 7, 8, 31, 32, 33, 65};

template <class F>
void for_awkward_sizes(F&& f) {  // f(h, w, rng)
  Rng rng(11, Purpose::test);
  for (int64_t h : kAwkward)
    for (int64_t w : kAwkward) {
      SCOPED_TRACE(fmt::format("{}x{}", h, w));
      f(h, w, rng);
    }
}

TEST(Loops, ResizeAcrossReadsTheRowAloneAndHasThePlainBits) {
  for_vector_forms([](const AugmentLoops& fast) {
    const AugmentLoops& plain = plain_loops();
    Rng rng(12, Purpose::test);
    for (int64_t n_in : {1, 2, 3, 4, 5, 7, 33, 100, 371})
      for (int64_t n_out : {1, 2, 7, 33, 64, 200})
        for (bool cubic : {false, true})
          for (int64_t rows : {1, 2, 4, 7, 17}) {
            SCOPED_TRACE(fmt::format("{} to {}, {} rows", n_in, n_out, rows));
            ResizeTable table(n_in, n_out, cubic);
            table.make_blocks();
            ASSERT_TRUE(n_in > 2 * n_out || !table.block_at.empty());
            // Exactly the rows, in a buffer of their size: the sanitizer sees a read past them.
            std::vector<uint8_t> in(size_t(rows * n_in * 3));
            for (uint8_t& byte : in) byte = uint8_t(rng.below(4) == 0 ? 255 * rng.below(2) : rng.below(256));
            for (bool flip : {false, true})
              for (Span2 columns : {Span2{0, n_out}, Span2{n_out / 3, n_out - n_out / 4}}) {
                const int64_t stride = columns.size() * 3 + 5;  // what lies between stays as it is
                std::vector<uint8_t> want(size_t(rows * stride), 7), got = want;
                plain.resize_across(in.data(), n_in * 3, rows, n_in, in.data() + in.size(), table, columns, flip, want.data(), stride);
                fast.resize_across(in.data(), n_in * 3, rows, n_in, in.data() + in.size(), table, columns, flip, got.data(), stride);
                ASSERT_EQ(got, want);
              }
          }
  });
}

// What a row's loop reads is 64 bytes from these places on, of which the last may lie behind the row.
TEST(Loops, BlocksOfARowBeginWithinIt) {
  int checked = 0;
  for (int64_t n_in = 1; n_in <= 120; ++n_in)
    for (int64_t n_out : {1, 2, 7, 15, 16, 17, 33, 48, 64, 100})
      for (bool cubic : {false, true}) {
        ResizeTable table(n_in, n_out, cubic);
        table.make_blocks();
        for (int32_t at : table.block_at) {
          ASSERT_GE(at, 0);
          ASSERT_LT(at, n_in * 3) << n_in << " to " << n_out;
          ++checked;
        }
      }
  EXPECT_GT(checked, 10000);
}

TEST(Loops, ResizeDown) {
  for_vector_forms([](const AugmentLoops& fast) {
    Rng rng(13, Purpose::test);
    for (int64_t n : {1, 3, 31, 32, 33, 63, 64, 65, 99, 672})
      for (auto [n_in, n_out] : {std::pair<int64_t, int64_t>{5, 7}, {7, 5}, {100, 3}, {2, 33}, {1, 4}, {2000, 2}})
        for (bool cubic : {false, true}) {
          SCOPED_TRACE(fmt::format("{} values, {} to {}", n, n_in, n_out));
          const ResizeTable table(n_in, n_out, cubic);
          std::vector<uint8_t> in(size_t(n_in * n));
          for (uint8_t& byte : in) byte = uint8_t(rng.below(4) == 0 ? 255 * rng.below(2) : rng.below(256));
          for (Span2 outputs : {Span2{0, n_out}, Span2{n_out / 3, n_out - n_out / 4}}) {
            const int64_t stride = n + 5;  // what lies between stays as it is
            std::vector<uint8_t> want(size_t(outputs.size() * stride), 7), got = want;
            const uint8_t* first_row = in.data() + table.first[size_t(outputs.begin)] * n;
            plain_loops().resize_down(first_row, n, table, outputs, want.data(), stride);
            fast.resize_down(first_row, n, table, outputs, got.data(), stride);
            ASSERT_EQ(got, want);
          }
        }
  });
}

TEST(Loops, Mirror) {
  for_vector_forms([](const AugmentLoops& fast) {
    Rng rng(14, Purpose::test);
    for (int64_t n = 0; n < 70; ++n) {
      const std::vector<uint8_t> in = pixels_of(random_canvas(rng, 1, n));
      std::vector<uint8_t> want(in.size()), got(in.size());
      plain_loops().mirror(in.data(), n, want.data());
      fast.mirror(in.data(), n, got.data());
      ASSERT_EQ(got, want) << n;
    }
  });
}

TEST(Loops, Colours) {
  for_vector_forms([](const AugmentLoops& fast) {
    for_awkward_sizes([&](int64_t h, int64_t w, Rng& rng) {
      const Canvas image = random_canvas(rng, h, w, h % 2 ? 256 : 3);
      LookUp table;
      for (uint8_t& value : table) value = uint8_t(rng.below(256));
      Canvas want = image, got = image;
      plain_loops().look_up(want, table);
      fast.look_up(got, table);
      ASSERT_EQ(pixels_of(got), pixels_of(want));
      LookUpRgb tables;
      for (LookUp& t : tables)
        for (uint8_t& value : t) value = uint8_t(rng.below(256));
      want = image, got = image;
      plain_loops().look_up_rgb(want, tables);
      fast.look_up_rgb(got, tables);
      ASSERT_EQ(pixels_of(got), pixels_of(want));
      for (float factor : {0.f, .1f, 1.f, rng.uniform(.1f, 1.9f), -3.f, 1e9f, -1e30f, std::numeric_limits<float>::infinity()}) {
        want = image, got = image;
        plain_loops().color(want, factor);
        fast.color(got, factor);
        ASSERT_EQ(pixels_of(got), pixels_of(want)) << factor;
        plain_loops().sharpness(image, factor, want);
        fast.sharpness(image, factor, got);
        ASSERT_EQ(pixels_of(got), pixels_of(want)) << factor;
      }
      ASSERT_EQ(fast.luma_sum(image), plain_loops().luma_sum(image));
      const Extremes a = fast.extremes(image), b = plain_loops().extremes(image);
      for (int c = 0; c < 3; ++c) ASSERT_TRUE(a.low[c] == b.low[c] && a.high[c] == b.high[c]) << c;
    });
  });
}

// A table that is the identity finds every value; the luma of all greys and of all primaries.
TEST(Loops, ColoursAtEveryValue) {
  for_vector_forms([](const AugmentLoops& fast) {
    Canvas all;
    all.set_size(64, 64);
    for (int64_t i = 0; i < all.pixels() * 3; ++i) all.bytes[size_t(i)] = uint8_t(i / 3 / (i % 3 == 0 ? 1 : i % 3 == 1 ? 16 : 7) % 256);
    LookUp identity;
    for (size_t v = 0; v < 256; ++v) identity[v] = uint8_t(v);
    Canvas same = all;
    fast.look_up(same, identity);
    EXPECT_EQ(pixels_of(same), pixels_of(all));
    EXPECT_EQ(fast.luma_sum(all), plain_loops().luma_sum(all));
  });
}

// Colours whose luma is just reached or just missed, where a float that is not exact would show.
TEST(Loops, LumaAtItsSteps) {
  std::vector<uint8_t> colours;
  for (int r = 0; r < 256; ++r)
    for (int g = 0; g < 256; ++g)
      for (int b = 0; b < 256; ++b)
        if (const int past = (19595 * r + 38470 * g + 7471 * b + 32768) & 65535; past == 0 || past == 65535)
          for (int v : {r, g, b}) colours.push_back(uint8_t(v));
  ASSERT_GT(colours.size(), 300u);
  Canvas image;
  image.set_size(1, int64_t(colours.size() / 3));
  std::copy(colours.begin(), colours.end(), image.data());
  Canvas want = image;
  plain_loops().color(want, 0);
  for_vector_forms([&](const AugmentLoops& fast) {
    Canvas got = image;
    fast.color(got, 0);
    EXPECT_EQ(pixels_of(got), pixels_of(want));
    EXPECT_EQ(fast.luma_sum(image), plain_loops().luma_sum(image));
  });
}

TEST(Loops, Geometry) {
  for_vector_forms([](const AugmentLoops& fast) {
    for_awkward_sizes([&](int64_t h, int64_t w, Rng& rng) {
      const Canvas image = random_canvas(rng, h, w, w % 2 ? 256 : 2);
      const auto prepared = [&](const OpCall& call) {
        AugmentRecord r{.crop = {0, 0, int32_t(h), int32_t(w)}, .resized_height = int32_t(h), .resized_width = int32_t(w)};
        r.ops[0] = call;
        return prepare(r, {.n = 1, .h = h, .w = w, .px = h}).ops[0];
      };
      for (double value : {0.0, .25, -.3, 1.0, 17.5, -90.0, 180.0, double(rng.uniform(-40, 40))})
        for (Resample resample : {Resample::nearest, Resample::bilinear, Resample::bicubic}) {
          const Rgb fill{uint8_t(rng.below(256)), 128, uint8_t(rng.below(256))};
          Canvas want = blank_canvas(image), got = blank_canvas(image);
          const PreparedOp turn = prepared({.op = PixelOp::rotate, .value = value, .resample = resample, .fill = fill});
          const bool nearest = resample == Resample::nearest;
          (nearest ? plain_loops().turn_nearest : plain_loops().turn)(image, turn, want);
          (nearest ? fast.turn_nearest : fast.turn)(image, turn, got);
          ASSERT_EQ(pixels_of(got), pixels_of(want)) << value << " degrees, " << int(resample);
          if (nearest) continue;
          for (PixelOp op : {PixelOp::shear_x, PixelOp::shear_y, PixelOp::translate_x, PixelOp::translate_y}) {
            const PreparedOp call = prepared({.op = op, .value = value / 8, .resample = resample, .fill = fill});
            plain_loops().slide(image, call, want);
            fast.slide(image, call, got);
            ASSERT_EQ(pixels_of(got), pixels_of(want)) << to_string(op) << " by " << value / 8;
          }
        }
    });
  });
}

TEST(Loops, Normalise) {
  for_vector_forms([](const AugmentLoops& fast) {
    const float nan = std::numeric_limits<float>::quiet_NaN();
    Rng rng(15, Purpose::test);
    std::vector<std::array<float, 3>> means{{.5071f, .4867f, .4408f}, {.485f, .456f, .406f}, {0, 1, nan}},
        stds{{.2675f, .2565f, .2761f}, {.229f, .224f, .225f}, {0, 1e-40f, 3}};
    for (int i = 0; i < 20; ++i) means.push_back({rng.uniform(), rng.uniform(), rng.uniform()}), stds.push_back({rng.uniform(), rng.uniform(), rng.uniform()});
    for (size_t k = 0; k < means.size(); ++k) {
      Normalisation normalisation(means[k], stds[k]);
      normalisation.computed = fast.computes(normalisation);
      EXPECT_FALSE(k == 2 && normalisation.computed);
      for (int64_t w : kAwkward) {
        const Canvas image = random_canvas(rng, 3, w);
        std::vector<float> want(size_t(image.pixels() * 3)), got = want;
        plain_loops().normalise(image, normalisation, want.data());
        fast.normalise(image, normalisation, got.data());
        ASSERT_EQ(std::memcmp(got.data(), want.data(), want.size() * sizeof(float)), 0) << k << " " << w;
      }
    }
  });
}

TEST(Policy, ViewNamesRoundTripAndUnknownOnesAreListed) {
  for (View view : kViews) EXPECT_EQ(view_from_name(to_string(view)), view);
  try {
    view_from_name("Weak");
    FAIL() << "accepted";
  } catch (const Error& e) {
    EXPECT_STREQ(e.what(), "view 'Weak' is unknown; one of weak, strong, base, test expected");
  }
}

TEST(Policy, IsAFunctionOfSeedEpochIndexAndViewAlone) {
  Tensor images = noise_images(16, 32, 32);
  for (const AugmentConfig& config : {AugmentConfig{.px = 32}, {.px = 48}, {.px = 24, .pipeline = Pipeline::imagenet}})
    for (View view : kViews) {
      const int64_t px = config.px;
      auto size = size_t(px * px * 3);
      auto batch = view_bytes(images, {3, 9, 0, 15, 9}, view, config, 7, 2), alone = view_bytes(images, {9}, view, config, 7, 2);
      EXPECT_EQ(batch, view_bytes(images, {3, 9, 0, 15, 9}, view, config, 7, 2));
      for (size_t at : {1, 4}) EXPECT_TRUE(std::equal(alone.begin(), alone.end(), batch.begin() + int64_t(at * size))) << to_string(view) << " " << px;
      auto next_epoch = view_bytes(images, {3, 9, 0, 15, 9}, view, config, 7, 3), other_seed = view_bytes(images, {3, 9, 0, 15, 9}, view, config, 8, 2);
      EXPECT_EQ(batch == next_epoch, view == View::test);
      EXPECT_EQ(batch == other_seed, view == View::test);
    }
}

TEST(Policy, NormalisedViewsAreTheU8ViewsNormalised) {
  Tensor images = noise_images(6, 13, 20);
  const std::vector<int64_t> indices{5, 0, 3};
  for (View view : kViews) {
    AugmentConfig config{.px = 40, .mean = {.1f, .2f, .3f}, .std = {.5f, .6f, .7f}};
    auto u8 = view_bytes(images, indices, view, config, 1, 1);
    Tensor f32 = Tensor::empty({3, 40, 40, 3}, DType::f32), half = Tensor::empty({3, 40, 40, 3}, DType::bf16);
    augment_batch(images, indices, view, config, 1, 1, f32);
    augment_batch(images, indices, view, config, 1, 1, half);
    for (size_t i = 0; i < u8.size(); ++i) {
      float want = (float(u8[i]) / 255.f - config.mean[i % 3]) / config.std[i % 3];
      ASSERT_EQ(f32.data<float>()[i], want) << to_string(view) << " at " << i;
      ASSERT_EQ(half.data<bf16>()[i].bits, bf16(want).bits) << to_string(view) << " at " << i;
    }
  }
}

TEST(Policy, EveryDeviceMakesTheSameBits) {
  const Tensor images = noise_images(6, 17, 23);
  const std::vector<int64_t> indices{4, 0, 3, 3, 5};
  for (int k = 0; k < 4 * 3 * 2; ++k) {
    const View view = kViews[k % 4];
    const int64_t channels = std::array{3, 4, 8}[size_t(k / 4 % 3)];
    const AugmentConfig config{.px = 37, .pipeline = k < 12 ? Pipeline::cifar : Pipeline::imagenet};
    auto made_on = [&](Device device) {
      Tensor out = Tensor::empty({5, 37, 37, channels}, DType::bf16, device);
      augment_batch(images.to(device), indices, view, config, 1, 1, out);
      return out.to(Device::cpu);
    };
    const Tensor want = made_on(Device::cpu), plain = Tensor::empty({5, 37, 37, 3}, DType::bf16);
    augment_batch(images, indices, view, config, 1, 1, plain);
    for (int64_t i = 0; i < want.elements(); ++i) {
      const int64_t c = i % channels;
      ASSERT_EQ(want.data<bf16>()[i].bits, c < 3 ? plain.data<bf16>()[i / channels * 3 + c].bits : 0) << i;
    }
    for (Device device : devices()) {
      const Tensor got = made_on(device);
      EXPECT_EQ(std::memcmp(got.raw(), want.raw(), size_t(want.bytes())), 0) << to_string(view) << " " << channels << " " << to_string(device);
    }
  }
}

// Decisions and pixels of the cifar pipeline, as they were when the imagenet pipeline came: runs of before and after can be compared.
TEST(Policy, CifarViewsKeepTheirBits) {
  const Tensor images = noise_images(64, 32, 32);
  std::vector<int64_t> indices(64);
  std::iota(indices.begin(), indices.end(), 0);
  const char* const want[] = {"49d8be68fc0e3213", "98de81591bc16e42", "13b830ea7f034066", "9e614acdf83cd994",
                              "68c9b7e284aa3977", "946c59430d403bce", "77398e634d4001b0", "70255b6328a231f6"};
  for (size_t k = 0; k < 8; ++k) {
    Fnv1a hash;
    hash.add(view_bytes(images, indices, kViews[k % 4], {.px = k < 4 ? 32 : 48}, 5, 3));
    EXPECT_EQ(hex(hash.value()), want[k]) << to_string(kViews[k % 4]);
  }
}

TEST(Policy, NativeTestViewIsTheImage) {
  Tensor images = noise_images(2, 32, 32);
  auto got = view_bytes(images, {1}, View::test, {}, 0, 0);
  EXPECT_TRUE(std::equal(got.begin(), got.end(), images.data<uint8_t>() + got.size()));
}

// torchvision's Resize(64) makes a 50x37 (h x w) image 86x64: trunc(64 * 50 / 37).
TEST(Policy, EnlargedTestViewResizesTheShortSideAndCropsTheCentre) {
  AugmentConfig config{.px = 64};
  AugmentRecord tall = draw_record(50, 37, 0, View::test, config, 0, 0), wide = draw_record(37, 50, 0, View::test, config, 0, 0);
  EXPECT_EQ(tall.resized_height, 86);
  EXPECT_EQ(tall.resized_width, 64);
  EXPECT_EQ(tall.window_top, 11);
  EXPECT_EQ(tall.window_left, 0);
  EXPECT_EQ(wide.resized_width, 86);
  EXPECT_EQ(wide.window_left, 11);
  EXPECT_EQ(wide.resample, Resample::bilinear);
  Tensor images = noise_images(1, 37, 50);
  RgbImage source{37, 50, {images.data<uint8_t>(), images.data<uint8_t>() + images.bytes()}};
  RgbImage whole = crop_resize(source, {0, 0, 37, 50}, 64, 86, Resample::bilinear);
  auto got = view_bytes(images, {0}, View::test, config, 0, 0);
  for (size_t y = 0; y < 64; ++y)
    for (size_t x = 0; x < 64 * 3; ++x) ASSERT_EQ(got[y * 64 * 3 + x], whole.pixels[(y * 86 + 11) * 3 + x]) << y << " " << x;
}

TEST(Policy, RejectsWhatItCannotMake) {
  Tensor images = noise_images(2, 32, 48);
  auto message = [&](const AugmentConfig& config, std::vector<int64_t> indices) -> std::string {
    try {
      view_bytes(images, indices, View::weak, config, 0, 0);
    } catch (const Error& e) {
      return e.what();
    }
    return "accepted";
  };
  EXPECT_EQ(message({.px = 40}, {0}), "px 40 is smaller than the 32x48 images; give px of at least 48");
  EXPECT_NE(message({.px = 48, .cutout_length = -1}, {0}).find("cutout_length -1"), std::string::npos);
  EXPECT_NE(message({.px = 48}, {2}).find("index 2 of"), std::string::npos);
  EXPECT_EQ(message({.px = 48}, {1}), "accepted");
  const int64_t index = 0;
  EXPECT_THROW(augment_batch(images, {&index, 1}, View::weak, {.px = 48}, 0, 0, Tensor::empty({1, 32, 32, 3}, DType::f32)), Error);
  EXPECT_THROW(augment_batch(images, {&index, 1}, View::weak, {.px = 48}, 0, 0, Tensor::empty({1, 48, 48, 3}, DType::u8)), Error);
}

// A thread keeps the resize tables of 1024 pairs of sizes and then forgets them. The first view needs one, the others two each, so the last one that is kept
// and the first one that is not are the two axes of one view.
TEST(Records, ManySizesDoNotSpoilEachOther) {
  const RgbImage image = make_image("noise", 64, 64);
  constexpr int64_t kPx = 24;
  std::vector<AugmentRecord> records{{.crop = {0, 0, 30, 10}, .resized_height = 30, .resized_width = 5}};
  for (int32_t i = 0; i < 700; ++i)
    records.push_back({.crop = {0, 0, 20 + i % 41, 20 + i % 41}, .resized_height = 61 + i / 41, .resized_width = 1 + i / 41, .window_top = 20});
  using Bytes = std::vector<uint8_t>;
  const auto window = [&](const AugmentRecord& record) {
    Bytes bytes(size_t(kPx * kPx * 3));
    make_window(image.pixels.data(), image.h, image.w, record, kPx, bytes.data());
    return bytes;
  };
  std::vector<Bytes> together, alone(records.size());
  std::thread([&] {
    for (const AugmentRecord& record : records) together.push_back(window(record));
  }).join();
  for (size_t i = 0; i < records.size(); ++i) std::thread([&] { alone[i] = window(records[i]); }).join();
  EXPECT_EQ(together, alone);
}

TEST(Records, AreRefusedWhereTheyDoNotFit) {
  const AugmentShape shape{.n = 2, .h = 20, .w = 30, .px = 16};
  const AugmentRecord good{
      .image = 1, .crop = {4, 5, 16, 25}, .resized_height = 16, .resized_width = 16, .ops = {{.op = PixelOp::invert}}, .cutout = {8, 8, 8, 8}};
  EXPECT_EQ(prepare(good, shape).crop.width, 25);
  auto refused = [&](auto&& change) {
    AugmentRecord bad = good;
    change(bad);
    EXPECT_THROW(prepare(bad, shape), Error);
  };
  for (int64_t image : {-1, 2}) refused([&](AugmentRecord& r) { r.image = image; });
  refused([](AugmentRecord& r) { r.crop.left = 6; });
  refused([](AugmentRecord& r) { r.crop.height = 0; });
  refused([](AugmentRecord& r) { r.resized_height = 0; });
  refused([](AugmentRecord& r) { r.resized_width = 8193; });
  refused([](AugmentRecord& r) { r.window_top = -8193; });
  refused([](AugmentRecord& r) { r.resample = Resample::nearest; });
  refused([](AugmentRecord& r) { r.cutout.top = 9; });
  refused([](AugmentRecord& r) { r.ops[1] = {.op = PixelOp::posterize, .value = 9}; });
  refused([](AugmentRecord& r) { r.ops[1] = {.op = PixelOp::solarize_add, .value = 256}; });
  refused([](AugmentRecord& r) { r.ops[1] = {.op = PixelOp::shear_x, .value = .1, .resample = Resample::nearest}; });
  refused([](AugmentRecord& r) { r.ops[1] = {.op = PixelOp::rotate, .value = std::nan("")}; });
  EXPECT_THROW(prepare(good, {.n = 2, .h = 20, .w = 30, .px = 8193}), Error);
  const Tensor images = noise_images(1, 16, 16);
  const int64_t index = 0;
  for (Device device : devices())
    for (auto [type, channels] : {std::pair{DType::f32, int64_t(5)}, {DType::bf16, int64_t(2)}, {DType::u8, int64_t(4)}}) {
      const Tensor out = Tensor::empty({1, 16, 16, channels}, type, device);
      EXPECT_THROW((type == DType::u8 ? augment_u8 : augment_batch)(images.to(device), {&index, 1}, View::test, {.px = 16}, 0, 0, out), Error);
    }
}

TEST(Policy, RandomResizedCrop) {
  Rng rng(5, Purpose::test);
  PixelRect fallback = random_resized_crop(rng, 10, 100, {.9f, 1.f});
  EXPECT_EQ((Ints{fallback.top, fallback.left, fallback.height, fallback.width}), (Ints{0, 43, 10, 13}));
  PixelRect tall = random_resized_crop(rng, 100, 10, {.9f, 1.f});
  EXPECT_EQ((Ints{tall.top, tall.left, tall.height, tall.width}), (Ints{43, 0, 13, 10}));

  const int attempts = 100000;
  double accepted = 0, sides = 0;
  std::set<std::pair<int, int>> corners;
  for (int i = 0; i < attempts; ++i) {
    auto crop = try_random_crop(rng, 32, 32, {.2f, 1.f});
    if (!crop) continue;
    ++accepted, sides += (crop->height + crop->width) / 2.0;
    ASSERT_TRUE(crop->top >= 0 && crop->left >= 0 && crop->height > 0 && crop->width > 0);
    ASSERT_TRUE(crop->top + crop->height <= 32 && crop->left + crop->width <= 32);
    corners.insert({crop->top, crop->left});
  }
  EXPECT_NEAR(accepted / attempts, .869, .004);
  EXPECT_NEAR(sides / accepted, 23.4, .1);
  EXPECT_GT(corners.size(), 150u);
}

TEST(Policy, WeakDecisions) {
  const int n = 40000;
  std::map<int, int> tops, lefts;
  double flips = 0, sum = 0, squares = 0, most = 0, agreements = 0;
  for (int i = 0; i < n; ++i) {
    AugmentRecord r = draw_record(32, 32, i, View::weak, {}, 11, 4), strong = draw_record(32, 32, i, View::strong, {}, 11, 4);
    ++tops[r.window_top], ++lefts[r.window_left];
    flips += r.flip;
    agreements += r.window_top == strong.window_top && r.window_left == strong.window_left;
    ASSERT_EQ(r.ops[0].op, PixelOp::rotate);
    ASSERT_EQ(r.ops[0].fill, Rgb{});
    for (int k = 1; k < kViewOps; ++k) ASSERT_EQ(r.ops[k].op, PixelOp::none);
    ASSERT_EQ(r.cutout.height, 0);
    double angle = r.ops[0].value;
    sum += angle, squares += angle * angle, most = std::max(most, std::fabs(angle));
  }
  EXPECT_NEAR(flips / n, .5, .01);
  EXPECT_NEAR(sum / n, 0, .2);
  EXPECT_NEAR(squares / n, 75, 1.5);  // variance of U(-15, 15)
  EXPECT_LE(most, 15);
  EXPECT_NEAR(agreements / n, 1.0 / 81, .003);  // weak and strong crops are independent
  for (auto* offsets : {&tops, &lefts}) {
    ASSERT_EQ(offsets->size(), 9u);
    for (auto [offset, count] : *offsets) {
      EXPECT_LE(std::abs(offset), 4);
      EXPECT_NEAR(count * 9.0 / n, 1, .08) << offset;
    }
  }
}

TEST(Policy, BaseIsOnlyACrop) {
  for (int64_t px : {32, 64}) {
    AugmentRecord r = draw_record(32, 32, 3, View::base, {.px = px}, 1, 1);
    EXPECT_FALSE(r.flip);
    for (const OpCall& call : r.ops) EXPECT_EQ(call.op, PixelOp::none);
    EXPECT_EQ(r.cutout.height, 0);
  }
}

// Every (position, operation, strength) of the strong view at the rate that torchvision's table of the policy gives it.
TEST(Policy, AutoAugmentRates) {
  using Key = std::tuple<int, std::string, int64_t>;  // strength in thousandths, sign dropped
  constexpr double px = 224;
  auto strength = [](const std::string& op, int magnitude) {
    const int bits[] = {8, 8, 7, 7, 6, 6, 5, 5, 4, 4};
    if (op == "shear_y") return .3 * magnitude / 9;
    if (op.starts_with("translate")) return px * 150 / 331 * magnitude / 9;
    if (op == "rotate") return 30.0 * magnitude / 9;
    if (op == "posterize") return double(bits[magnitude]);
    if (op == "solarize") return 256.0 - 256.0 * magnitude / 9;
    if (op == "brightness" || op == "color" || op == "contrast" || op == "sharpness") return .1 * magnitude;  // distance from factor 1
    return 0.0;
  };
  auto thousandths = [](double x) { return int64_t(std::llround(1000 * x)); };
  std::map<Key, double> want;
  std::istringstream lines(read_text(Path(KD_GOLDEN_DIR) / "augment" / "policy.txt"));
  int rows = 0;
  for (std::string line; std::getline(lines, line); ++rows) {
    std::istringstream in(line);
    EXPECT_EQ(read<int>(in), rows);
    for (int slot : {0, 1}) {
      auto op = read<std::string>(in);
      auto p = read<double>(in);
      auto magnitude = read<int>(in);
      if (p > 0) want[{slot, op, thousandths(strength(op, magnitude))}] += p / 25;
    }
  }
  ASSERT_EQ(rows, kAutoAugmentRows);

  const int n = 60000;
  std::map<Key, double> got, negative;
  for (int i = 0; i < n; ++i) {
    AugmentRecord r = draw_record(32, 32, i, View::strong, {.px = int64_t(px)}, 3, 1);
    for (int slot : {0, 1}) {
      const OpCall& call = r.ops[size_t(slot)];
      if (call.op == PixelOp::none) continue;
      std::string op = to_string(call.op);
      bool enhance = op == "brightness" || op == "color" || op == "contrast" || op == "sharpness";
      double value = enhance ? call.value - 1 : call.value;
      Key key{slot, op, thousandths(std::fabs(value))};
      got[key] += 1.0 / n;
      negative[key] += value < 0;
      ASSERT_EQ(call.fill, grey(128));
      ASSERT_EQ(call.resample, op == "shear_y" ? Resample::bicubic : Resample::nearest);
    }
  }
  EXPECT_EQ(got.size(), want.size());
  for (const auto& [key, rate] : want) {
    const auto& [slot, op, thousand] = key;
    std::string name = fmt::format("op{} {} {}", slot + 1, op, double(thousand) / 1000);
    EXPECT_NEAR(got[key], rate, 4.5 * std::sqrt(rate / n)) << name;
    bool is_signed = thousand != 0 && op != "rotate" && op != "posterize" && op != "solarize";
    double times = got[key] * n;
    EXPECT_NEAR(negative[key], is_signed ? times / 2 : 0, is_signed ? 2.3 * std::sqrt(times) : 0) << name;
  }
}

TEST(Policy, AutoAugmentRowsAsPublished) {
  Rng rng(2, Purpose::test);
  int both = 0;
  for (int i = 0; i < 200; ++i) {
    auto [first, second] = draw_autoaugment_row(rng, 21, 224);  // translateY, twice
    for (const OpCall& call : {first, second})
      if (call.op != PixelOp::none) {
        EXPECT_EQ(call.op, PixelOp::translate_y);
        EXPECT_NEAR(std::fabs(call.value), 101.511, .001);
      }
    both += first.op != PixelOp::none && second.op != PixelOp::none;
    EXPECT_EQ(draw_autoaugment_row(rng, 14, 224)[1].op, PixelOp::none);  // invert, with probability 0
  }
  EXPECT_NEAR(both, 200 * .63, 35);
  EXPECT_THROW(draw_autoaugment_row(rng, 25, 224), Error);
}

TEST(Policy, CutoutHoles) {
  const int n = 20000;
  double area = 0;
  std::map<int, int> heights;
  for (int i = 0; i < n; ++i) {
    PixelRect hole = draw_record(32, 32, i, View::strong, {}, 9, 0).cutout;
    ASSERT_TRUE(hole.top >= 0 && hole.left >= 0 && hole.top + hole.height <= 32 && hole.left + hole.width <= 32);
    area += double(hole.height * hole.width) / n;
    ++heights[hole.height];
  }
  // Centre y: [y-8, y+8) cut to 0..32 has 8..15 rows for y = 0..7, 16 for y = 8..24, 15..9 for y = 25..31. Mean (92 + 272 + 84) / 32 = 14.
  EXPECT_NEAR(area, 14 * 14, 1.5);
  EXPECT_EQ(heights.begin()->first, 8);
  EXPECT_EQ(heights.rbegin()->first, 16);
  EXPECT_NEAR(heights[16] / double(n), 17.0 / 32, .015);

  AugmentConfig none{.cutout_length = 0};
  EXPECT_EQ(draw_record(32, 32, 0, View::strong, none, 9, 0).cutout.height, 0);
}

// The imagenet pipeline.

AugmentConfig imagenet(int64_t px, RandAugment form = RandAugment::increasing) { return {.px = px, .pipeline = Pipeline::imagenet, .randaugment = form}; }

// torchvision's Resize(256) makes 375x500 (h x w) 256x341, and CenterCrop(224) begins at 16 and at round(58.5) = 58, half to even.
TEST(Imagenet, TestViewShowsTheCentreOfASlightlyLargerImage) {
  const AugmentRecord r = draw_record(375, 500, 0, View::test, imagenet(224), 0, 0);
  EXPECT_EQ((Ints{r.resized_height, r.resized_width, r.window_top, r.window_left}), (Ints{256, 341, 16, 58}));
  EXPECT_EQ((Ints{r.crop.top, r.crop.left, r.crop.height, r.crop.width}), (Ints{0, 0, 375, 500}));
  EXPECT_EQ(r.resample, Resample::bilinear);
  const AugmentRecord tall = draw_record(500, 375, 0, View::test, imagenet(64), 0, 0);  // 64 * 256/224 = 73.14
  EXPECT_EQ((Ints{tall.resized_height, tall.resized_width, tall.window_top, tall.window_left}), (Ints{97, 73, 16, 4}));
  for (Pipeline pipeline : {Pipeline::cifar, Pipeline::imagenet}) {
    const AugmentConfig bicubic{.px = 64, .pipeline = pipeline, .test_resample = Resample::bicubic};
    EXPECT_EQ(draw_record(32, 32, 0, View::test, bicubic, 0, 0).resample, Resample::bicubic);
  }
}

TEST(Imagenet, CropsAreOfEightToAHundredPercentAndResizedBilinearly) {
  const int n = 20000;
  double least = 1, most = 0, sum = 0, narrowest = 9, widest = 0;
  for (int i = 0; i < n; ++i) {
    const AugmentRecord r = draw_record(375, 500, i, View::base, imagenet(224), 2, 0);
    ASSERT_EQ((Ints{r.resized_height, r.resized_width, r.window_top, r.window_left, r.flip, r.cutout.height}), (Ints{224, 224, 0, 0, 0, 0}));
    ASSERT_EQ(r.resample, Resample::bilinear);
    for (const OpCall& call : r.ops) ASSERT_EQ(call.op, PixelOp::none);
    const double share = double(r.crop.height) * r.crop.width / (375 * 500), aspect = double(r.crop.width) / r.crop.height;
    least = std::min(least, share), most = std::max(most, share), sum += share;
    narrowest = std::min(narrowest, aspect), widest = std::max(widest, aspect);
  }
  EXPECT_NEAR(least, .08, .002);
  EXPECT_GT(most, .95);
  EXPECT_NEAR(narrowest, .75, .01);
  EXPECT_NEAR(widest, 1.3333, .02);
  EXPECT_NEAR(sum / n, .4328, .006);  // from 200,000 draws of the formula in another language; U(.08, 1) has .54, but large crops often do not fit
}

TEST(Imagenet, WeakIsCropFlipAndJitterInAnyOrder) {
  const int n = 24000;
  std::map<std::vector<PixelOp>, int> orders;
  std::map<PixelOp, double> sums, squares;
  double flips = 0, agreements = 0;
  for (int i = 0; i < n; ++i) {
    const AugmentRecord r = draw_record(300, 400, i, View::weak, imagenet(224), 7, 1), strong = draw_record(300, 400, i, View::strong, imagenet(224), 7, 1);
    flips += r.flip;
    agreements += r.crop.height == strong.crop.height && r.crop.width == strong.crop.width;
    ++orders[{r.ops[0].op, r.ops[1].op, r.ops[2].op}];
    for (int k = 0; k < 3; ++k) {
      const double factor = r.ops[k].value;
      ASSERT_TRUE(factor >= double(.6f) && factor <= double(1.4f)) << factor;
      ASSERT_EQ(factor, double(float(factor)));
      sums[r.ops[k].op] += factor, squares[r.ops[k].op] += (factor - 1) * (factor - 1);
    }
    for (int k = 3; k < kViewOps; ++k) ASSERT_EQ(r.ops[k].op, PixelOp::none);
    ASSERT_EQ(r.cutout.height, 0);
  }
  EXPECT_NEAR(flips / n, .5, .015);
  EXPECT_LT(agreements / n, .01);  // weak and strong crops are independent
  EXPECT_EQ(orders.size(), 6u);
  for (const auto& [order, count] : orders) {
    EXPECT_EQ(std::set<PixelOp>(order.begin(), order.end()), (std::set<PixelOp>{PixelOp::brightness, PixelOp::contrast, PixelOp::color}));
    EXPECT_NEAR(count * 6.0 / n, 1, .07);
  }
  for (PixelOp op : {PixelOp::brightness, PixelOp::contrast, PixelOp::color}) {
    EXPECT_NEAR(sums[op] / n, 1, .005) << to_string(op);
    EXPECT_NEAR(squares[op] / n, .8 * .8 / 12, .001) << to_string(op);
  }
}

// timm's rand-m10-n2-mstd0.5: how often each operation comes, and with what argument. level = min(10, N(10, 1/2)): 10 half of the time, on average
// 10 - 1/2 / sqrt(2 pi) = 9.8005.
TEST(Imagenet, RandAugmentRatesAndArguments) {
  constexpr int n = 60000, px = 224;
  constexpr double level = 9.8005;
  struct Seen {
    int count = 0, negative = 0, at_ten = 0, bicubic = 0;
    double sum = 0;  // of |argument|
    std::set<double> values;
  };
  for (RandAugment form : {RandAugment::timm_old, RandAugment::increasing}) {
    const bool old = form == RandAugment::timm_old;
    std::map<PixelOp, Seen> seen[2];
    int none = 0, both_none = 0;
    for (int i = 0; i < n; ++i) {
      const AugmentRecord r = draw_record(300, 400, i, View::strong, imagenet(px, form), 3, 2);
      std::set<PixelOp> jitter;
      for (int k = 0; k < 3; ++k) jitter.insert(r.ops[k].op);
      ASSERT_EQ(jitter, (std::set<PixelOp>{PixelOp::brightness, PixelOp::contrast, PixelOp::color}));
      for (int slot : {0, 1}) {
        const OpCall& call = r.ops[3 + slot];
        none += call.op == PixelOp::none;
        Seen& s = seen[slot][call.op];
        ++s.count, s.negative += call.value < 0, s.sum += std::fabs(call.value), s.bicubic += call.resample == Resample::bicubic;
        s.values.insert(call.value);
        const bool moves = call.op >= PixelOp::shear_x;
        ASSERT_EQ(call.fill, moves ? (Rgb{124, 116, 104}) : Rgb{});
        ASSERT_EQ(call.resample == Resample::nearest, !moves);
        const std::map<PixelOp, double> most{
            {PixelOp::rotate, 30}, {PixelOp::shear_x, .3}, {PixelOp::shear_y, .3}, {PixelOp::translate_x, .45 * px}, {PixelOp::translate_y, .45 * px}};
        if (moves) s.at_ten += std::fabs(call.value) == most.at(call.op);
      }
      both_none += r.ops[3].op == PixelOp::none && r.ops[4].op == PixelOp::none;
      ASSERT_EQ(r.cutout.height, 0);
    }
    EXPECT_NEAR(none / (2.0 * n), .5, .01);
    EXPECT_NEAR(double(both_none) / n, .25, .01);
    const double rate = 1.0 / 30, spread = 4.5 * std::sqrt(rate / n);
    for (int slot : {0, 1}) {
      EXPECT_EQ(seen[slot].size(), 16u);  // with none
      for (int op = int(PixelOp::brightness); op <= int(PixelOp::rotate); ++op) {
        const Seen& s = seen[slot][PixelOp(op)];
        const std::string name = fmt::format("{} slot {}", to_string(PixelOp(op)), slot);
        EXPECT_NEAR(double(s.count) / n, rate, spread) << name;
        const double count = s.count, mean = s.sum / count;
        auto expect_move = [&](double most) {
          EXPECT_NEAR(mean, most * level / 10, .01 * most) << name;
          EXPECT_NEAR(s.at_ten / count, .5, .05) << name;
          EXPECT_NEAR(s.negative / count, .5, .05) << name;
          EXPECT_NEAR(s.bicubic / count, .5, .05) << name;
        };
        switch (PixelOp(op)) {
          case PixelOp::rotate: expect_move(30); break;
          case PixelOp::shear_x:
          case PixelOp::shear_y: expect_move(.3); break;
          case PixelOp::translate_x:
          case PixelOp::translate_y: expect_move(.45 * px); break;
          case PixelOp::posterize:
            EXPECT_EQ(s.values, (std::set<double>{3, 4})) << name;
            EXPECT_NEAR(mean, 3.5, .05) << name;
            break;
          case PixelOp::solarize: {
            const double none_at = old ? 256 : 0, other = old ? *s.values.begin() : *s.values.rbegin();
            EXPECT_EQ(old ? *s.values.rbegin() : *s.values.begin(), none_at) << name;
            EXPECT_NEAR(std::fabs(other - none_at), 50, 30) << name;                            // the lowest of some 2000 levels, 3.3 to 4 deviations down
            EXPECT_NEAR(std::fabs(mean - none_at), 256 * (10 - level) / 10 + .25, .6) << name;  // truncation is half a step where the level is not 10
            break;
          }
          case PixelOp::solarize_add:
            EXPECT_EQ(*s.values.rbegin(), 110) << name;
            EXPECT_NEAR(mean, 110 * level / 10 - .25, .3) << name;
            break;
          case PixelOp::brightness:
          case PixelOp::contrast:
          case PixelOp::color:
          case PixelOp::sharpness:
            if (old) {
              EXPECT_GT(*s.values.begin(), 1) << name;
              EXPECT_DOUBLE_EQ(*s.values.rbegin(), 1.9) << name;
              EXPECT_NEAR(mean, 1.864, .005) << name;
            } else {
              EXPECT_DOUBLE_EQ(*s.values.begin(), .1) << name;
              EXPECT_DOUBLE_EQ(*s.values.rbegin(), 1.9) << name;
              EXPECT_NEAR(mean, 1, .08) << name;
              EXPECT_EQ(s.values.lower_bound(.5), s.values.upper_bound(1.5)) << name << ": nothing close to 1";
            }
            break;
          default: EXPECT_EQ(s.sum, 0) << name;  // no argument
        }
      }
    }
  }
}

// An image that is in no tensor gets the view it would get in one, on every device.
TEST(Imagenet, WindowsOfImagesOfAnySizeBecomeTheSameViews) {
  const std::vector<std::pair<int64_t, int64_t>> sizes{{50, 70}, {33, 20}, {24, 24}, {9, 130}};
  std::vector<RgbImage> sources;
  std::vector<ImageView> images;
  for (auto [h, w] : sizes) sources.push_back(make_image("noise", h, w));
  for (const RgbImage& source : sources) images.push_back({source.pixels.data(), source.h, source.w});
  const std::vector<int64_t> indices{12, 3, 900, 7};
  const AugmentConfig config = imagenet(24);
  for (View view : kViews) {
    Tensor windows = Tensor::empty({4, 24, 24, 3}, DType::u8), records = Tensor::empty({int64_t(4 * sizeof(PreparedRecord))}, DType::u8);
    draw_windows(images, indices, view, config, 6, 2, windows.data<uint8_t>(), static_cast<PreparedRecord*>(records.raw()));
    for (Device device : devices()) {
      const Tensor there = windows.to(device), decisions = records.to(device), out = Tensor::empty({4, 24, 24, 3}, DType::u8, device);
      make_views(there, static_cast<const PreparedRecord*>(decisions.raw()), config, out);
      const Tensor got = out.to(Device::cpu);
      for (size_t i = 0; i < 4; ++i) {
        AugmentRecord record = draw_record(images[i].h, images[i].w, indices[i], view, config, 6, 2);
        record.image = 0;
        const RgbImage want = view_on(Device::cpu, sources[i], record, 24);
        EXPECT_EQ(std::memcmp(want.pixels.data(), got.data<uint8_t>() + i * want.pixels.size(), want.pixels.size()), 0)
            << to_string(view) << " " << i << " " << to_string(device);
      }
    }
  }
  const AugmentConfig small{.px = 24};
  uint8_t bytes[24 * 24 * 3];
  PreparedRecord record;
  EXPECT_THROW(draw_windows({images.data(), 1}, {indices.data(), 1}, View::weak, small, 0, 0, bytes, &record), Error);  // cifar cannot shrink
}

}  // namespace
}  // namespace kd
