// The oracle: every product of the convolution in double, straight from the contract, on all four stored channels.
#include "kernels/common/cases.h"
#include "kernels/stem/stem.h"
#include "kernels/stem/stem_forms.h"
#include "simt/simt.h"

namespace kd::cases {
namespace {

constexpr size_t kFilters = kStemFilters, kTaps = 7 * 7 * kStemChannels;

int64_t pooled(int64_t size) { return (size - 1) / 2 + 1; }

// f(index in x, tap, index of filter 0 in y) for every pixel channel that an output adds up; tap is the index in a filter, (7 r + s) 4 + c.
template <class F>
void each_tap(const StemShape& s, F&& f) {
  for (int64_t n = 0; n < s.n; ++n)
    for (int64_t p = 0; p < s.p(); ++p)
      for (int64_t q = 0; q < s.q(); ++q)
        for (int64_t r = 0; r < 7; ++r)
          for (int64_t t = 0; t < 7; ++t) {
            const int64_t h = 2 * p + r - 3, w = 2 * q + t - 3;
            if (h < 0 || h >= s.h || w < 0 || w >= s.w) continue;
            for (int64_t c = 0; c < 4; ++c)
              f(size_t(((n * s.h + h) * s.w + w) * 4 + c), size_t((r * 7 + t) * 4 + c), size_t(((n * s.p() + p) * s.q() + q) * kFilters));
          }
}

std::vector<double> convolve(const StemShape& s, const std::vector<double>& x, const std::vector<double>& w) {
  std::vector<double> y(size_t(s.n * s.p() * s.q()) * kFilters), by_tap(w.size());  // filters together: the innermost loop runs over them
  for (size_t i = 0; i < w.size(); ++i) by_tap[i % kTaps * kFilters + i / kTaps] = w[i];
  each_tap(s, [&](size_t from, size_t tap, size_t to) {
    for (size_t k = 0; k < kFilters; ++k) y[to + k] += x[from] * by_tap[tap * kFilters + k];
  });
  return y;
}

Tensor pixels(const StemShape& s, Stream stream) { return random_tensor({s.n, s.h, s.w, 4}, DType::bf16, 1).to(stream.device); }
Tensor filters(Stream stream) { return random_tensor({64, 7, 7, 4}, DType::bf16, 2).to(stream.device); }

std::vector<Checked> check_fprop(const StemShape& s, StemForm form, Stream stream) {
  const Tensor x = pixels(s, stream), w = filters(stream), shift = random_tensor({64}, DType::f32, 3, -2.f, 2.f).to(stream.device);
  const auto fprop = [&](const Tensor& y, const Tensor* partial) {
    stem_fprop(stream, {.shape = s,
                        .x = x.data<bf16>(),
                        .w = w.data<bf16>(),
                        .y = y.data<bf16>(),
                        .partial = partial ? partial->data<float>() : nullptr,
                        .shift = partial ? shift.data<float>() : nullptr,
                        .form = form});
  };
  const Tensor y = Tensor::empty({s.n, s.p(), s.q(), 64}, DType::bf16, stream.device), alone = Tensor::empty(y.shape(), DType::bf16, stream.device);
  const int64_t parts = stem_parts(stream, s, form);
  const Tensor partial = Tensor::empty({parts, 2, 64}, DType::f32, stream.device);
  fprop(y, &partial);
  fprop(alone, nullptr);

  // The sums are of the stored values, so their oracle is too.
  const auto stored = to_doubles(y), shifts = to_doubles(shift), parted = to_doubles(partial);
  std::vector<double> got(128), want(128);
  for (size_t i = 0; i < parted.size(); ++i) got[i % 128] += parted[i];
  for (size_t i = 0; i < stored.size(); ++i) {
    const double d = stored[i] - shifts[i % 64];
    want[i % 64] += d;
    want[64 + i % 64] += d * d;
  }
  const auto half = [](const std::vector<double>& v, bool second) { return std::vector<double>(v.begin() + second * 64, v.begin() + 64 + second * 64); };
  return {{"y", stored, convolve(s, to_doubles(x), to_doubles(w)), tolerance(DType::bf16)},
          {"y without sums", to_doubles(alone), stored, 0},
          {"sums", half(got, false), half(want, false), 1e-5},
          {"squares", half(got, true), half(want, true), 1e-5}};
}

// A low bias leaves most windows negative before the ReLU; flat pixels make neighbouring outputs equal.
struct Look {
  float bias_low, bias_high;
  bool flat;
};

std::vector<Checked> check_infer(const StemShape& s, const Look& look, StemForm form, Stream stream) {
  Tensor drawn = random_tensor({s.n, s.h, s.w, 4}, DType::bf16, 1);
  if (look.flat)
    for (int64_t i = 0; i < drawn.elements(); ++i) drawn.data<bf16>()[i] = bf16(0.5f * float(1 + i % 4));
  const Tensor x = drawn.to(stream.device), w = filters(stream), bias = random_tensor({64}, DType::f32, 4, look.bias_low, look.bias_high).to(stream.device);
  const int64_t pp = pooled(s.p()), pq = pooled(s.q());
  const Tensor y = Tensor::empty({s.n, pp, pq, 64}, DType::bf16, stream.device);
  stem_infer(stream, {.shape = s, .x = x.data<bf16>(), .w = w.data<bf16>(), .bias = bias.data<float>(), .y = y.data<bf16>(), .form = form});

  const auto z = convolve(s, to_doubles(x), to_doubles(w)), biases = to_doubles(bias);
  std::vector<double> want(size_t(y.elements()));
  for (int64_t n = 0; n < s.n; ++n)
    for (int64_t p = 0; p < s.p(); ++p)
      for (int64_t q = 0; q < s.q(); ++q)
        for (int64_t k = 0; k < 64; ++k) {
          const double value = z[size_t(((n * s.p() + p) * s.q() + q) * 64 + k)] + biases[size_t(k)];
          for (int64_t to_p = p / 2; to_p <= (p + 1) / 2 && to_p < pp; ++to_p)  // an odd row is in two windows
            for (int64_t to_q = q / 2; to_q <= (q + 1) / 2 && to_q < pq; ++to_q) {
              double& largest = want[size_t(((n * pp + to_p) * pq + to_q) * 64 + k)];
              largest = std::max(largest, value);  // begins at 0: the ReLU
            }
        }
  return {{"y", to_doubles(y), want, tolerance(DType::bf16)}};
}

std::vector<Checked> check_wgrad(const StemShape& s, StemForm form, Stream stream) {
  const Tensor x = pixels(s, stream), dy = random_tensor({s.n, s.p(), s.q(), 64}, DType::bf16, 5).to(stream.device);
  const Tensor dw = Tensor::empty({64, 7, 7, 4}, DType::bf16, stream.device);
  stem_wgrad(stream, {.shape = s, .x = x.data<bf16>(), .dy = dy.data<bf16>(), .dw = dw.data<bf16>(), .form = form});
  const auto xs = to_doubles(x), dys = to_doubles(dy);
  std::vector<double> by_tap(kTaps * kFilters), want(by_tap.size());
  each_tap(s, [&](size_t from, size_t tap, size_t to) {
    for (size_t k = 0; k < kFilters; ++k) by_tap[tap * kFilters + k] += dys[to + k] * xs[from];
  });
  for (size_t i = 0; i < want.size(); ++i) want[i] = by_tap[i % kTaps * kFilters + i / kTaps];
  return {{"dw", to_doubles(dw), want, tolerance(DType::bf16)}};
}

// The emulated device holds four blocks at once, too few for the sum over blocks to have more than one round.
struct ManyBlocks {
  ManyBlocks() { simt::set_max_resident_blocks(70); }
  ~ManyBlocks() { simt::set_max_resident_blocks(before); }
  const int before = simt::max_resident_blocks(static_cast<void (*)()>(nullptr), 0, 0);
};

double flops(const StemShape& s) { return 2.0 * double(s.n * s.p() * s.q()) * 64 * 7 * 7 * 3; }

Tensor random_on(Stream stream, Shape shape) {  // repeats after 2^20 numbers: drawing all of them would take longer than timing
  const Tensor out = Tensor::empty(shape, DType::bf16, stream.device), drawn = random_tensor({1 << 20}, DType::bf16, 6).to(stream.device);
  for (int64_t at = 0; at < out.elements(); at += drawn.elements()) {
    const Shape part{std::min(drawn.elements(), out.elements() - at)};
    out.slice(at, part).copy_from(drawn.slice(0, part));
  }
  return out;
}

Work perf_fprop(const StemShape& s, StemForm form, Stream stream) {
  const Tensor x = random_on(stream, {s.n, s.h, s.w, 4}), w = filters(stream), y = Tensor::empty({s.n, s.p(), s.q(), 64}, DType::bf16, stream.device);
  const Tensor shift = Tensor::zeros({64}, DType::f32, stream.device), partial = Tensor::empty({stem_parts(stream, s, form), 2, 64}, DType::f32, stream.device);
  return {.run =
              [=] {
                stem_fprop(stream, {.shape = s,
                                    .x = x.data<bf16>(),
                                    .w = w.data<bf16>(),
                                    .y = y.data<bf16>(),
                                    .partial = partial.data<float>(),
                                    .shift = shift.data<float>(),
                                    .form = form});
              },
          .bytes = double(x.bytes() + w.bytes() + y.bytes()),
          .flops = flops(s)};
}

Work perf_infer(const StemShape& s, StemForm form, Stream stream) {
  const Tensor x = random_on(stream, {s.n, s.h, s.w, 4}), w = filters(stream), bias = Tensor::zeros({64}, DType::f32, stream.device);
  const Tensor y = Tensor::empty({s.n, pooled(s.p()), pooled(s.q()), 64}, DType::bf16, stream.device);
  return {
      .run = [=] { stem_infer(stream, {.shape = s, .x = x.data<bf16>(), .w = w.data<bf16>(), .bias = bias.data<float>(), .y = y.data<bf16>(), .form = form}); },
      .bytes = double(x.bytes() + w.bytes() + y.bytes()),
      .flops = flops(s)};
}

Work perf_wgrad(const StemShape& s, StemForm form, Stream stream) {
  const Tensor x = random_on(stream, {s.n, s.h, s.w, 4}), dy = random_on(stream, {s.n, s.p(), s.q(), 64}), dw = filters(stream);
  return {.run = [=] { stem_wgrad(stream, {.shape = s, .x = x.data<bf16>(), .dy = dy.data<bf16>(), .dw = dw.data<bf16>(), .form = form}); },
          .bytes = double(x.bytes() + dy.bytes() + dw.bytes()),
          .flops = flops(s)};
}

}  // namespace

void add_stem_cases(Cases& all) {
  for (StemForm form : {StemForm::portable, StemForm::hopper}) {
    const auto add = [&](const std::string& kernel, const StemShape& s, const std::string& what, Case c) {
      c.name = fmt::format("stem:{}:n{}h{}w{}{}:{}", kernel, s.n, s.h, s.w, what, form == StemForm::hopper ? "hopper" : "portable");
      if (!c.can_run) c.can_run = [form](Device device) { return stem::can_run(form, device); };
      all.push_back(std::move(c));
    };
    const auto checked = [&](const std::string& kernel, const StemShape& s, const std::string& what, std::function<std::vector<Checked>(Stream)> check) {
      add(kernel, s, what, {.name = {}, .check = std::move(check), .grad = {}, .perf = {}});
    };
    // Images smaller and larger than a window; odd numbers of output rows and columns; tiles of 16 and 112 columns, one more and one less; blocks whose share
    // begins inside an image, and such that go through several images and every ring of rows and barriers more than once.
    for (const StemShape& s : {StemShape{1, 2, 2},
                               {2, 2, 4},
                               {3, 4, 2},
                               {5, 18, 6},
                               {2, 6, 10},
                               {1, 12, 18},
                               {2, 20, 14},
                               {1, 14, 30},
                               {1, 10, 32},
                               {1, 6, 34},
                               {1, 34, 36},
                               {1, 6, 224},
                               {1, 4, 226},
                               {1, 2, 448}}) {
      checked("fprop", s, "", [=](Stream stream) { return check_fprop(s, form, stream); });
      checked("infer", s, "", [=](Stream stream) { return check_infer(s, {-1, 1, false}, form, stream); });
      if (s.w > 2) checked("wgrad", s, "", [=](Stream stream) { return check_wgrad(s, form, stream); });  // with fewer pixels most of dw is zero
    }
    for (const StemShape& s : {StemShape{2, 6, 10}, {1, 14, 36}}) {
      checked("infer", s, ":negative", [=](Stream stream) { return check_infer(s, {-20, -3, false}, form, stream); });
      checked("infer", s, ":ties", [=](Stream stream) { return check_infer(s, {-1, 1, true}, form, stream); });
    }
    const StemShape tall{1, 140, 4};
    checked("wgrad", tall, ":many_blocks", [=](Stream stream) {
      const ManyBlocks scope;
      return check_wgrad(tall, form, stream);
    });
    // Of a GPU's size: so many rows that every block has several.
    const auto on_gpu = [form](Device device) { return device == Device::cuda && stem::can_run(form, device); };
    const StemShape many{300, 34, 36};
    add("fprop", many, "", {.name = {}, .check = [=](Stream stream) { return check_fprop(many, form, stream); }, .grad = {}, .perf = {}, .can_run = on_gpu});
    add("infer", many, "",
        {.name = {},
         .check =
             [=](Stream stream) {
               return check_infer(many, {-1, 1, false}, form, stream);
             },
         .grad = {},
         .perf = {},
         .can_run = on_gpu});
    add("wgrad", many, "", {.name = {}, .check = [=](Stream stream) { return check_wgrad(many, form, stream); }, .grad = {}, .perf = {}, .can_run = on_gpu});
    for (int64_t n : {128, 256}) {
      const StemShape s{n, 224, 224};
      const auto timed = [&](const std::string& kernel, Work (*perf)(const StemShape&, StemForm, Stream)) {
        add(kernel, s, "", {.name = {}, .check = {}, .grad = {}, .perf = [=](Stream stream) { return perf(s, form, stream); }, .can_run = on_gpu});
      };
      timed("fprop", perf_fprop);
      timed("infer", perf_infer);
      timed("wgrad", perf_wgrad);
    }
  }
}

}  // namespace kd::cases
