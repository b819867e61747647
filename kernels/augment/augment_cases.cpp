#include <algorithm>
#include <cmath>
#include <functional>

#include "engine/base/rng.h"
#include "kernels/augment/augment.h"
#include "kernels/common/cases.h"

namespace kd::cases {
namespace {

// The oracle: one function per step, written from the definitions, on whole images of plain ints, one pixel at a time.
struct Picture {
  int h, w;
  std::vector<int> values;
  Picture(int height, int width) : h(height), w(width), values(size_t(height * width * 3)) {}
  int& at(int y, int x, int c) { return values[size_t((y * w + x) * 3 + c)]; }
  int at(int y, int x, int c) const { return values[size_t((y * w + x) * 3 + c)]; }
  int clamped(int y, int x, int c) const { return at(std::clamp(y, 0, h - 1), std::clamp(x, 0, w - 1), c); }
};
template <class F>
Picture picture(int h, int w, F&& value) {  // value(y, x, c)
  Picture p(h, w);
  for (int y = 0; y < h; ++y)
    for (int x = 0; x < w; ++x)
      for (int c = 0; c < 3; ++c) p.at(y, x, c) = value(y, x, c);
  return p;
}

double kernel(double x, Resample resample) {
  x = std::fabs(x);
  if (resample == Resample::bilinear) return std::max(0.0, 1 - x);
  return x < 1 ? 1.5 * x * x * x - 2.5 * x * x + 1 : x < 2 ? -.5 * x * x * x + 2.5 * x * x - 4 * x + 2 : 0;
}

// Value i of an axis of n_in values resized to n_out.
int resized(int i, int n_in, int n_out, Resample resample, const std::function<int(int)>& input) {
  if (n_in == n_out) return input(i);
  double scale = double(n_in) / n_out, widened = std::max(scale, 1.0), support = widened * (resample == Resample::bilinear ? 1 : 2), center = (i + .5) * scale;
  int low = std::max(0, int(center - support + .5)), high = std::min(n_in, int(center + support + .5));
  double total = 0;
  for (int j = low; j < high; ++j) total += kernel((j - center + .5) / widened, resample);
  int64_t sum = 1 << 21;
  for (int j = low; j < high; ++j) sum += std::llround(kernel((j - center + .5) / widened, resample) / total * (1 << 22)) * input(j);
  return int(std::clamp<int64_t>(sum >> 22, 0, 255));
}

Picture window(const Picture& source, const AugmentRecord& r, int px) {
  const PixelRect& crop = r.crop;
  Picture wide = picture(crop.height, r.resized_width, [&](int y, int x, int c) {
    return resized(x, crop.width, r.resized_width, r.resample, [&](int j) { return source.at(crop.top + y, crop.left + j, c); });
  });
  Picture whole = picture(r.resized_height, r.resized_width,
                          [&](int y, int x, int c) { return resized(y, crop.height, r.resized_height, r.resample, [&](int j) { return wide.at(j, x, c); }); });
  return picture(px, px, [&](int y, int x, int c) {
    int from_y = y + r.window_top, from_x = (r.flip ? px - 1 - x : x) + r.window_left;
    bool inside = from_y >= 0 && from_y < whole.h && from_x >= 0 && from_x < whole.w;
    return inside ? whole.at(from_y, from_x, c) : 0;
  });
}

int luma(const Picture& p, int y, int x) { return (19595 * p.at(y, x, 0) + 38470 * p.at(y, x, 1) + 7471 * p.at(y, x, 2) + 32768) >> 16; }
int mix(int degenerate, int value, double factor) { return int(std::clamp(float(degenerate) + float(factor) * float(value - degenerate), 0.f, 255.f)); }

int channel(const Rgb& color, int c) { return c == 0 ? color.r : c == 1 ? color.g : color.b; }

Picture rotated_nearest(const Picture& p, double degrees, const Rgb& fill) {
  double angle = -degrees * M_PI / 180, a = std::cos(angle), b = std::sin(angle), center_x = p.w / 2.0, center_y = p.h / 2.0;
  auto fixed = [](double v) { return int64_t(std::floor(65536 * v + .5)); };
  int64_t a0 = fixed(a), a1 = fixed(b), a3 = fixed(-b), a4 = a0;
  int64_t a2 = fixed(center_x - a * center_x - b * center_y + a / 2 + b / 2), a5 = fixed(center_y + b * center_x - a * center_y - b / 2 + a / 2);
  return picture(p.h, p.w, [&](int y, int x, int c) {
    auto from_x = (a2 + a1 * y + a0 * x) >> 16, from_y = (a5 + a4 * y + a3 * x) >> 16;
    return from_x >= 0 && from_x < p.w && from_y >= 0 && from_y < p.h ? p.at(int(from_y), int(from_x), c) : channel(fill, c);
  });
}

double cubic_weight(double x) {  // Keys' kernel, a = -1
  x = std::fabs(x);
  return x < 1 ? x * x * x - 2 * x * x + 1 : x < 2 ? -x * x * x + 5 * x * x - 8 * x + 4 : 0;
}
struct Matrix {  // from an output position to where it comes from
  double a, b, c, d, e, f;
};
Picture mapped(const Picture& p, const Matrix& m, const OpCall& call) {
  const Resample resample = call.resample;
  return picture(p.h, p.w, [&](int y, int x, int c) {
    double from_x = m.a * (x + .5) + m.b * (y + .5) + m.c, from_y = m.d * (x + .5) + m.e * (y + .5) + m.f;
    if (from_x < 0 || from_x >= p.w || from_y < 0 || from_y >= p.h) return channel(call.fill, c);
    int base_x = int(std::floor(from_x - .5)), base_y = int(std::floor(from_y - .5));
    double sum = 0;
    for (int j = base_y - 1; j <= base_y + 2; ++j)
      for (int i = base_x - 1; i <= base_x + 2; ++i) {
        double dx = from_x - .5 - i, dy = from_y - .5 - j;
        double weight = resample == Resample::bicubic ? cubic_weight(dx) * cubic_weight(dy) : kernel(dx, Resample::bilinear) * kernel(dy, Resample::bilinear);
        sum += weight * p.clamped(j, i, c);
      }
    // Truncated, not rounded: a sum of weights that is exact in the kernel may fall just short here.
    return int(std::clamp(sum + 1e-9, 0.0, 255.0));
  });
}

Matrix rotation(const Picture& p, double degrees) {
  double a = std::cos(-degrees * M_PI / 180), b = std::sin(-degrees * M_PI / 180), center_x = p.w / 2.0, center_y = p.h / 2.0;
  return {a, b, center_x - a * center_x - b * center_y, -b, a, center_y + b * center_x - a * center_y};
}

// Per channel: new value of each old one, from how often each occurs.
Picture remapped(const Picture& p, const std::function<std::vector<int>(const std::vector<int64_t>&)>& mapping) {
  std::vector<int> map[3];
  for (int c = 0; c < 3; ++c) {
    std::vector<int64_t> counts(256);
    for (size_t i = size_t(c); i < p.values.size(); i += 3) ++counts[size_t(p.values[i])];
    map[c] = mapping(counts);
  }
  return picture(p.h, p.w, [&](int y, int x, int c) { return map[c][size_t(p.at(y, x, c))]; });
}
std::vector<int> identity_map() {
  std::vector<int> map;
  for (int v = 0; v < 256; ++v) map.push_back(v);
  return map;
}
std::vector<int> stretched(const std::vector<int64_t>& counts) {
  std::vector<int> map = identity_map();
  int low = 0, high = 255;
  while (counts[size_t(low)] == 0) ++low;
  while (counts[size_t(high)] == 0) --high;
  if (low == high) return map;
  double scale = 255.0 / (high - low);
  for (int& v : map) v = std::clamp(int(v * scale - low * scale), 0, 255);
  return map;
}
std::vector<int> flattened(const std::vector<int64_t>& counts) {
  std::vector<int> map = identity_map();
  int64_t total = 0, last = 0, below = 0;
  for (int64_t n : counts) total += n, last = n > 0 ? n : last;
  int64_t step = (total - last) / 255;
  for (int v = 0; v < 256 && step > 0; ++v) {
    map[size_t(v)] = int(std::min<int64_t>(255, (step / 2 + below) / step));
    below += counts[size_t(v)];
  }
  return map;
}

Picture operated(const Picture& p, const OpCall& call) {
  double value = call.value;
  auto each = [&](auto&& f) { return picture(p.h, p.w, [&](int y, int x, int c) { return f(p.at(y, x, c)); }); };
  switch (call.op) {
    case PixelOp::none: return p;
    case PixelOp::brightness: return each([&](int v) { return mix(0, v, value); });
    case PixelOp::contrast: {
      double sum = 0;
      for (int y = 0; y < p.h; ++y)
        for (int x = 0; x < p.w; ++x) sum += luma(p, y, x);
      int mean = int(sum / (p.h * p.w) + .5);
      return each([&](int v) { return mix(mean, v, value); });
    }
    case PixelOp::color: return picture(p.h, p.w, [&](int y, int x, int c) { return mix(luma(p, y, x), p.at(y, x, c), value); });
    case PixelOp::sharpness:
      return picture(p.h, p.w, [&](int y, int x, int c) {
        if (y == 0 || x == 0 || y == p.h - 1 || x == p.w - 1) return p.at(y, x, c);
        double sum = 4 * p.at(y, x, c);
        for (int j = y - 1; j <= y + 1; ++j)
          for (int i = x - 1; i <= x + 1; ++i) sum += p.at(j, i, c);
        return mix(int(std::lround(sum / 13)), p.at(y, x, c), value);
      });
    case PixelOp::autocontrast: return remapped(p, stretched);
    case PixelOp::equalize: return remapped(p, flattened);
    case PixelOp::invert: return each([](int v) { return 255 - v; });
    case PixelOp::solarize: return each([&](int v) { return v < value ? v : 255 - v; });
    case PixelOp::solarize_add: return each([&](int v) { return v < 128 ? std::min(255, v + int(value)) : v; });
    case PixelOp::posterize: return each([&](int v) { return v / (1 << (8 - int(value))) * (1 << (8 - int(value))); });
    case PixelOp::shear_x: return mapped(p, {1, value, 0, 0, 1, 0}, call);
    case PixelOp::shear_y: return mapped(p, {1, 0, 0, value, 1, 0}, call);
    case PixelOp::translate_x:
    case PixelOp::translate_y:
      if (call.resample != Resample::nearest)
        return mapped(p, call.op == PixelOp::translate_x ? Matrix{1, 0, value, 0, 1, 0} : Matrix{1, 0, 0, 0, 1, value}, call);
      return picture(p.h, p.w, [&](int y, int x, int c) {
        bool along_x = call.op == PixelOp::translate_x;
        double from = (along_x ? x : y) + .5 + value;
        if (from < 0 || from >= (along_x ? p.w : p.h)) return channel(call.fill, c);
        return along_x ? p.at(y, int(from), c) : p.at(int(from), x, c);
      });
    case PixelOp::rotate: return call.resample == Resample::nearest ? rotated_nearest(p, value, call.fill) : mapped(p, rotation(p, value), call);
  }
  KD_FAIL("pixel operation {}", int(call.op));
}

// Problems.

struct Problem {
  AugmentShape shape;
  Tensor images;  // u8 [N,H,W,3]
  std::vector<AugmentRecord> records;
  std::array<float, 3> mean{.5071f, .4867f, .4408f}, std{.2675f, .2565f, .2761f};
};

// A problem in the memory of a device.
struct Placed {
  Tensor images, records;
  AugmentRecordsArgs args;

  Placed(const Problem& p, Device device) : images(p.images.to(device)) {
    std::vector<PreparedRecord> prepared;
    for (const AugmentRecord& r : p.records) prepared.push_back(prepare(r, p.shape));
    const auto bytes = int64_t(prepared.size() * sizeof(PreparedRecord));
    records = Tensor::empty({bytes}, DType::u8, device);
    copy_bytes(records.raw(), device, prepared.data(), Device::cpu, bytes);
    args = {.images = images.data<uint8_t>(),
            .shape = p.shape,
            .records = static_cast<const PreparedRecord*>(records.raw()),
            .batch = int64_t(prepared.size()),
            .out = nullptr,
            .type = DType::u8,
            .mean = p.mean,
            .std = p.std};
  }
  Tensor output(DType type, int64_t channels) const { return Tensor::empty({args.batch, args.shape.px, args.shape.px, channels}, type, images.device()); }
  void run(Stream stream, const Tensor& out) const {
    AugmentRecordsArgs a = args;
    a.out = out.raw(), a.type = out.dtype(), a.channels = out.dim(3);
    augment_records(stream, a);
  }
  Tensor made(Stream stream, DType type, int64_t channels) const {
    Tensor out = output(type, channels);
    run(stream, out);
    return out;
  }
};

// Smooth blobs under noise: histograms with gaps and peaks, as photographs have.
Tensor blobs(const AugmentShape& s, Rng& rng) {
  std::vector<uint8_t> values;
  for (int64_t i = 0; i < s.n * s.h * s.w * 3; ++i)
    values.push_back(uint8_t(std::clamp(120 + 70 * std::sin(double(i) * .013) + 25 * rng.normal(), 0.0, 255.0)));
  return Tensor::of<uint8_t>({s.n, s.h, s.w, 3}, values);
}

OpCall random_call(Rng& rng, PixelOp op, int64_t px) {
  OpCall call{.op = op, .fill = {uint8_t(rng.below(256)), uint8_t(rng.below(256)), uint8_t(rng.below(256))}};
  const auto smooth = [&] { return rng.coin(.5f) ? Resample::bilinear : Resample::bicubic; };
  switch (op) {
    case PixelOp::brightness:
    case PixelOp::contrast:
    case PixelOp::color:
    case PixelOp::sharpness: call.value = double(rng.uniform(.1f, 1.9f)); break;
    case PixelOp::solarize: call.value = double(rng.uniform(0, 256)); break;
    case PixelOp::solarize_add: call.value = rng.below(111); break;
    case PixelOp::posterize: call.value = 1 + rng.below(8); break;
    case PixelOp::shear_x:
    case PixelOp::shear_y: call.value = double(rng.uniform(-.3f, .3f)), call.resample = smooth(); break;
    case PixelOp::translate_x:
    case PixelOp::translate_y:
      call.value = double(rng.uniform(-.45f, .45f)) * double(px);
      if (rng.coin(.5f)) call.resample = smooth();
      break;
    case PixelOp::rotate:
      call.value = double(rng.uniform(-30, 30));
      if (rng.coin(.6f)) call.resample = smooth();
      break;
    default: break;
  }
  return call;
}

AugmentRecord random_window(Rng& rng, const Problem& p) {
  const auto [n, h, w, px] = p.shape;
  AugmentRecord r{.image = int64_t(rng.below(uint32_t(n)))};
  r.resized_height = r.resized_width = int32_t(px);
  if (h == px && w == px) {
    r.crop = {0, 0, int32_t(h), int32_t(w)};
    r.window_top = int32_t(rng.below(9)) - 4, r.window_left = int32_t(rng.below(9)) - 4;
  } else {
    int64_t height = h - rng.below(uint32_t(h / 2 + 1)), width = w - rng.below(uint32_t(w / 2 + 1));
    r.crop = {int32_t(rng.below(uint32_t(h - height + 1))), int32_t(rng.below(uint32_t(w - width + 1))), int32_t(height), int32_t(width)};
  }
  r.flip = rng.coin(.5f);
  return r;
}

AugmentRecord weak_record(Rng& rng, const Problem& p) {
  AugmentRecord r = random_window(rng, p);
  r.ops[0] = {.op = PixelOp::rotate, .value = double(rng.uniform(-15, 15))};
  return r;
}

AugmentRecord strong_record(Rng& rng, const Problem& p, std::initializer_list<PixelOp> ops) {
  AugmentRecord r = random_window(rng, p);
  const int64_t px = p.shape.px;
  OpCall* call = r.ops;
  for (PixelOp op : ops) *call++ = random_call(rng, op, px);
  auto side = int32_t(std::min<int64_t>(16, px / 2));
  r.cutout = {int32_t(rng.below(uint32_t(px - side + 1))), int32_t(rng.below(uint32_t(px - side + 1))), side, side};
  return r;
}

constexpr int kOps = int(PixelOp::rotate) + 1;

Problem random_problem(const AugmentShape& shape, int ops) {
  Rng rng(0x5eed, Purpose::test, uint32_t(shape.h * 1000 + shape.px));
  Problem problem{.shape = shape, .images = blobs(shape, rng), .records = {}};
  for (int i = 0; i < ops; ++i) {
    problem.records.push_back(weak_record(rng, problem));
    problem.records.push_back(strong_record(rng, problem, {PixelOp(i % kOps), PixelOp((i * 7 + 3) % kOps)}));
    problem.records.back().resample = Resample::bilinear;
    problem.records.push_back(strong_record(
        rng, problem,
        {PixelOp(i * 3 % kOps), PixelOp((i * 9 + 4) % kOps), PixelOp((i * 5 + 2) % kOps), PixelOp((i * 11 + 7) % kOps), PixelOp((i * 13 + 5) % kOps)}));
    static_assert(kViewOps == 5);
  }
  return problem;
}

// Every operation in every place, and all of it exact.
std::vector<Checked> check(const AugmentShape& shape, DType type, int64_t channels, Stream stream) {
  const Problem problem = random_problem(shape, kOps);
  const Placed placed(problem, stream.device);
  const auto h = int(shape.h), w = int(shape.w), px = int(shape.px);
  std::vector<double> want, want_view;
  for (const AugmentRecord& r : problem.records) {
    const uint8_t* pixels = problem.images.data<uint8_t>() + r.image * h * w * 3;
    Picture p = window(picture(h, w, [&](int y, int x, int c) { return pixels[(y * w + x) * 3 + c]; }), r, px);
    for (const OpCall& call : r.ops) p = operated(p, call);
    const PixelRect& hole = r.cutout;
    for (int y = hole.top; y < hole.top + hole.height; ++y)
      for (int x = hole.left; x < hole.left + hole.width; ++x)
        for (int c = 0; c < 3; ++c) p.at(y, x, c) = 0;
    for (size_t i = 0; i < p.values.size(); ++i) {
      const size_t c = i % 3;
      const float normalised = (float(p.values[i]) / 255.f - problem.mean[c]) / problem.std[c];
      want_view.push_back(p.values[i]);
      want.push_back(double(type == DType::bf16 ? float(bf16(normalised)) : normalised));
      if (c == 2) want.insert(want.end(), size_t(channels - 3), 0);
    }
  }
  return {{"view", to_doubles(placed.made(stream, DType::u8, 3)), want_view, 0}, {"out", to_doubles(placed.made(stream, type, channels)), want, 0}};
}

// The same bits as the CPU, at sizes for which the oracle is too slow.
std::vector<Checked> check_twin(const AugmentShape& shape, int ops, DType type, int64_t channels, Stream stream) {
  const Problem problem = random_problem(shape, ops);
  const Tensor got = Placed(problem, stream.device).made(stream, type, channels), want = Placed(problem, Device::cpu).made({}, type, channels);
  return {{"out", to_doubles(got), to_doubles(want), 0}};
}

enum class Strength { weak, strong };

Work perf(Strength strength, int64_t px, int64_t batch, DType type, int64_t channels, Stream stream) {
  Rng rng(0x5eed, Purpose::test, uint32_t(px));
  const AugmentShape shape{.n = 256, .h = 32, .w = 32, .px = px};
  Problem problem{.shape = shape, .images = blobs(shape, rng), .records = {}};
  double read_bytes = 0;
  for (int64_t i = 0; i < batch; ++i) {
    // AutoAugment applies 1.1 operations to a sample on average.
    problem.records.push_back(strength == Strength::weak ? weak_record(rng, problem)
                                                         : strong_record(rng, problem, {PixelOp(i % kOps), PixelOp(i % 8 ? 0 : i / 8 % kOps)}));
    const PixelRect& crop = problem.records.back().crop;
    read_bytes += 3.0 * crop.height * crop.width;
  }
  const Placed placed(problem, stream.device);
  const Tensor out = placed.output(type, channels);
  return {.run = [=] { placed.run(stream, out); }, .bytes = read_bytes + double(out.bytes()), .flops = 0};
}

}  // namespace

void add_augment_cases(Cases& all) {
  struct Size {
    int64_t h, w, px;
  };
  const auto name = [](const AugmentShape& s, DType type, int64_t channels) {
    return fmt::format("augment:{}:{}x{}:px{}:c{}", to_string(type), s.h, s.w, s.px, channels);
  };
  const auto add_check = [&](const Size& size, DType type, int64_t channels) {
    const AugmentShape shape{.n = 3, .h = size.h, .w = size.w, .px = size.px};
    all.push_back({.name = name(shape, type, channels), .check = [=](Stream stream) { return check(shape, type, channels, stream); }, .grad = {}, .perf = {}});
  };
  for (auto size : {Size{1, 1, 1}, {1, 1, 5}, {3, 2, 3}, {8, 8, 8}, {7, 13, 29}, {32, 32, 32}, {32, 32, 47}, {20, 33, 11}, {1, 2000, 5}, {700, 3, 4}})
    add_check(size, DType::f32, 3);
  for (int64_t channels : {4, 8}) add_check({7, 13, 29}, DType::f32, channels);
  for (int64_t channels : {3, 4, 8}) add_check({32, 32, 32}, DType::bf16, channels);

  const auto off_cpu = [](Device device) { return device != Device::cpu; };
  // A GPU's view and spare image in shared memory up to 190 px, the view alone up to 268, neither from there on.
  for (auto [px, ops] : {std::pair<int64_t, int>{190, 4}, {224, kOps}, {280, 3}}) {
    const AugmentShape shape{.n = 3, .h = 32, .w = 32, .px = px};
    all.push_back({.name = name(shape, DType::bf16, 4) + ":as_cpu",
                   .check = [=, n = ops](Stream stream) { return check_twin(shape, n, DType::bf16, 4, stream); },
                   .grad = {},
                   .perf = {},
                   .can_run = off_cpu});
  }

  const auto add_perf = [&](int64_t px, int64_t batch, DType type, int64_t channels, std::function<bool(Device)> can_run) {
    for (Strength strength : {Strength::weak, Strength::strong})
      all.push_back(
          {.name = fmt::format("augment:{}:{}:32x32:px{}:c{}:b{}", strength == Strength::weak ? "weak" : "strong", to_string(type), px, channels, batch),
           .check = {},
           .grad = {},
           .perf = [=](Stream stream) { return perf(strength, px, batch, type, channels, stream); },
           .can_run = can_run});
  };
  add_perf(32, 1024, DType::f32, 3, {});
  add_perf(224, 64, DType::f32, 3, {});
  const auto on_gpu = [](Device device) { return device == Device::cuda; };
  add_perf(32, 512, DType::bf16, 8, on_gpu);
  add_perf(224, 256, DType::bf16, 4, on_gpu);
}

}  // namespace kd::cases
