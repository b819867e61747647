// The loops of batch norm on every instruction set that this machine runs: the bits of the plain ones. What they compute the cases of test_kernels check.
// Which NaN comes of two is up to the compiler, so all NaNs count as one.
#include "kernels/batchnorm/batchnorm_rows.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "engine/base/device.h"

namespace kd::cpu::batchnorm {
namespace {

constexpr uint8_t kUntouched = 0xa5;

// Bytes that begin as kUntouched, or as given; a few more behind them show a write that goes too far.
class Bytes {
 public:
  explicit Bytes(int64_t n) : bytes_(size_t(n + 64), kUntouched) {}
  void* raw() { return bytes_.data(); }
  template <class T>
  T* as() {
    return reinterpret_cast<T*>(bytes_.data());
  }
  const std::vector<uint8_t>& all() const { return bytes_; }

 private:
  std::vector<uint8_t> bytes_;
};

uint32_t next(uint32_t& state) { return state = state * 1664525u + 1013904223u; }

// Values of the type in [-2, 2), some of them 0, tiny, infinite or NaN: `odd` in 256.
Bytes values(int type, int64_t n, uint32_t seed, uint32_t odd) {
  Bytes b(n * (type ? 2 : 4));
  uint32_t state = seed * 2654435761u + 1;
  constexpr float kOdd[] = {0.f, -0.f, 1e-40f, std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN()};
  for (int64_t i = 0; i < n; ++i) {
    float v = float(int32_t(next(state))) / 1073741824.f;
    if (next(state) >> 24 < odd) v = kOdd[(next(state) >> 16) % 5];
    uint32_t word;
    std::memcpy(&word, &v, 4);
    if (type)
      b.as<uint16_t>()[i] = uint16_t(word >> 16);
    else
      b.as<uint32_t>()[i] = word;
  }
  return b;
}
std::vector<float> per_channel(int64_t c, uint32_t seed) {
  std::vector<float> v(size_t(padded(c)), 0.f);
  uint32_t state = seed * 2654435761u + 1;
  for (int64_t i = 0; i < c; ++i) v[size_t(i)] = float(int32_t(next(state))) / 2147483648.f;
  return v;
}

struct Result {
  std::string what;
  std::vector<uint8_t> bytes;
};
// All NaNs of numbers of `size` bytes made the same.
std::vector<uint8_t> one_nan(std::vector<uint8_t> bytes, int64_t size) {
  for (size_t i = 0; i + size_t(size) <= bytes.size(); i += size_t(size)) {
    uint32_t word = 0;
    uint8_t* top = reinterpret_cast<uint8_t*>(&word) + 4 - size;  // bf16 is the upper half
    std::memcpy(top, &bytes[i], size_t(size));
    if ((word & 0x7fffffffu) > 0x7f800000u) word = 0x7fc00000u;
    std::memcpy(&bytes[i], top, size_t(size));
  }
  return bytes;
}
std::vector<uint8_t> bytes_of(const std::vector<float>& v) {
  const auto* p = reinterpret_cast<const uint8_t*>(v.data());
  return one_nan({p, p + v.size() * 4}, 4);
}

// All that the kernels write for rows [3, rows) of one size.
std::vector<Result> rows_of(const Kernels& k, int type, int64_t rows, int64_t c, uint32_t odd) {
  const int64_t size = type ? 2 : 4, begin = 3, mask_bytes = (c + 7) / 8;
  Bytes x = values(type, rows * c, 1, odd), residual = values(type, rows * c, 2, odd), dy = values(type, rows * c, 3, odd);
  const auto mean = per_channel(c, 4), scale = per_channel(c, 5), beta = per_channel(c, 6), slope = per_channel(c, 7), mean_dz = per_channel(c, 8);
  std::vector<Result> out;
  const auto sums = [&](const std::string& what, auto&& add) {
    std::vector<float> a(size_t(padded(c)), 0.f), b = a;
    add(a.data(), b.data());
    out.push_back({what, bytes_of(a)});
    out.push_back({what + " second", bytes_of(b)});
  };
  sums("sums", [&](float* a, float* b) { k.sums[type](x.raw(), mean.data(), begin, rows, c, a, b); });
  Bytes mask(rows * mask_bytes);
  for (const bool adds : {false, true})
    for (const int relu : {0, 1, 2}) {
      Bytes y(rows * c * size);
      k.apply[type]({.x = x.raw(),
                     .residual = adds ? residual.raw() : nullptr,
                     .y = y.raw(),
                     .mask = relu == 2 ? mask.as<uint8_t>() : nullptr,
                     .mean = mean.data(),
                     .scale = scale.data(),
                     .beta = beta.data(),
                     .c = c,
                     .relu = relu != 0},
                    begin, rows);
      const std::string what = std::string("apply") + (adds ? " residual" : "") + (relu == 2 ? " mask" : relu == 1 ? " relu" : "");
      out.push_back({what, one_nan(y.all(), size)});
      if (relu == 2) out.push_back({what + " bits", mask.all()});
    }
  for (const bool adds : {false, true})
    for (const int relu : {0, 1, 2}) {  // none, by sign, by mask
      if (adds && relu == 1) continue;
      Bytes dx(rows * c * size), dresidual(rows * c * size);
      const Backward b{.x = x.raw(),
                       .dy = dy.raw(),
                       .mask = relu == 2 ? mask.as<uint8_t>() : nullptr,
                       .dx = dx.raw(),
                       .dresidual = adds ? dresidual.raw() : nullptr,
                       .mean = mean.data(),
                       .scale = scale.data(),
                       .beta = beta.data(),
                       .slope = slope.data(),
                       .mean_dz = mean_dz.data(),
                       .c = c,
                       .relu = relu != 0};
      const std::string what = std::string("gradient") + (adds ? " residual" : "") + (relu == 2 ? " mask" : relu == 1 ? " sign" : "");
      sums(what, [&](float* first, float* second) { k.gradient_sums[type](b, begin, rows, first, second); });
      k.gradient_apply[type](b, begin, rows);
      out.push_back({what + " dx", one_nan(dx.all(), size)});
      out.push_back({what + " dresidual", one_nan(dresidual.all(), size)});
    }
  return out;
}

std::vector<Result> pool_of(const Kernels& k, int type, int64_t h, int64_t w, int64_t c, uint32_t odd) {
  const int64_t n = 2, size = type ? 2 : 4, out_h = (h - 1) / 2 + 1, out_w = (w - 1) / 2 + 1, pixels = n * h * w, outputs = n * out_h * out_w * c;
  Bytes x = values(type, pixels * c, 1, odd), dy = values(type, outputs, 2, odd), y(outputs * size), arg(outputs), dx(pixels * c * size);
  const auto mean = per_channel(c, 4), scale = per_channel(c, 5), beta = per_channel(c, 6), slope = per_channel(c, 7), mean_dz = per_channel(c, 8);
  for (int64_t row = 0; row < n * out_h; ++row)
    k.pool[type]({.x = x.raw(),
                  .y = y.raw(),
                  .arg = arg.as<uint8_t>(),
                  .mean = mean.data(),
                  .scale = scale.data(),
                  .beta = beta.data(),
                  .h = h,
                  .w = w,
                  .c = c,
                  .out_h = out_h,
                  .out_w = out_w},
                 row);
  const int64_t begin = 1;
  Bytes dz((pixels - begin) * c * 4);
  k.unpool[type]({.dy = dy.raw(), .arg = arg.as<uint8_t>(), .h = h, .w = w, .c = c, .out_h = out_h, .out_w = out_w}, begin, pixels, dz.as<float>());
  const Backward b{.x = x.raw(),
                   .dy = dz.raw(),
                   .dy_row = begin,
                   .dx = dx.raw(),
                   .mean = mean.data(),
                   .scale = scale.data(),
                   .beta = beta.data(),
                   .slope = slope.data(),
                   .mean_dz = mean_dz.data(),
                   .c = c,
                   .relu = true};
  std::vector<float> first(size_t(padded(c)), 0.f), second = first;
  k.unpooled_sums[type](b, begin, pixels, first.data(), second.data());
  k.unpooled_apply[type](b, begin, pixels);
  return {{"pool", one_nan(y.all(), size)},         {"pool arg", arg.all()},           {"unpool", one_nan(dz.all(), 4)},
          {"unpooled dx", one_nan(dx.all(), size)}, {"unpooled sum", bytes_of(first)}, {"unpooled product", bytes_of(second)}};
}

struct Set {
  const char* name;
  const Kernels* kernels;
};
std::vector<Set> sets() {  // the first is the one to be equal to
  std::vector<Set> all{{"portable8", portable8_kernels}, {"portable16", portable16_kernels}};
  if (avx2_kernels && cpu_isa() >= CpuIsa::avx2) all.push_back({"avx2", avx2_kernels});
  if (avx512_kernels && cpu_isa() >= CpuIsa::avx512) all.push_back({"avx512", avx512_kernels});
  return all;
}

constexpr uint32_t kOrdinary = 0, kOdd = 20;  // of 256 values, how many are 0, tiny, infinite or NaN

template <class Run>
void expect_same_bits(const std::string& size, Run&& run) {
  const auto all = sets();
  for (const int type : {0, 1})
    for (const uint32_t odd : {kOrdinary, kOdd}) {
      const std::vector<Result> want = run(*all[0].kernels, type, odd);
      for (size_t s = 1; s < all.size(); ++s) {
        const std::vector<Result> got = run(*all[s].kernels, type, odd);
        ASSERT_EQ(got.size(), want.size());
        for (size_t i = 0; i < got.size(); ++i)
          EXPECT_TRUE(got[i].bytes == want[i].bytes) << all[s].name << " " << got[i].what << " " << size << (type ? " bf16" : " f32")
                                                     << (odd ? " odd values" : "");
      }
    }
}

TEST(BatchNormRows, SameBitsOnEverySet) {
  for (const int64_t c : {1, 3, 7, 8, 9, 13, 15, 16, 17, 24, 31, 33, 64, 72, 200})
    for (const int64_t rows : {4, 7, 13, 67})
      expect_same_bits(std::to_string(rows) + "x" + std::to_string(c),
                       [&](const Kernels& k, int type, uint32_t odd) { return rows_of(k, type, rows, c, odd); });
}

TEST(BatchNormRows, PoolSameBitsOnEverySet) {
  for (const int64_t c : {1, 7, 8, 13, 16, 24, 64, 72})
    for (const auto& [h, w] : {std::pair<int64_t, int64_t>{1, 1}, {2, 2}, {5, 4}, {4, 9}})
      expect_same_bits(std::to_string(h) + "x" + std::to_string(w) + "x" + std::to_string(c),
                       [&, h = h, w = w](const Kernels& k, int type, uint32_t odd) { return pool_of(k, type, h, w, c, odd); });
}

// A NaN behind the ReLU is seen, in vectors and where a row ends; and what a kernel does not own it leaves alone.
TEST(BatchNormRows, NanStaysAndNothingElseIsTouched) {
  for (const Set& set : sets()) {
    constexpr int64_t c = 21, rows = 5;
    std::vector<float> x(size_t(rows * c), 1.f), scale(size_t(padded(c)), 1.f), zeros(size_t(padded(c)), 0.f);
    x[size_t(c + 2)] = x[size_t(c + 20)] = std::nanf("");
    Bytes y(rows * c * 4);
    set.kernels->apply[0]({.x = x.data(),
                           .residual = nullptr,
                           .y = y.raw(),
                           .mask = nullptr,
                           .mean = zeros.data(),
                           .scale = scale.data(),
                           .beta = zeros.data(),
                           .c = c,
                           .relu = true},
                          1, rows);
    for (int64_t i = 0; i < c * 4; ++i) EXPECT_EQ(y.all()[size_t(i)], kUntouched);
    for (size_t i = size_t(rows * c * 4); i < y.all().size(); ++i) EXPECT_EQ(y.all()[i], kUntouched);
    for (int64_t i = c; i < rows * c; ++i) EXPECT_EQ(std::isnan(y.as<float>()[i]), std::isnan(x[size_t(i)])) << set.name << " " << i;
  }
}

}  // namespace
}  // namespace kd::cpu::batchnorm
