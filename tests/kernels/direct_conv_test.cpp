// Every direct algorithm that this machine can run, and every emulated one, against seven loops in double.
#include <gtest/gtest.h>
#include <omp.h>

#include <cmath>
#include <cstring>
#include <map>
#include <random>
#include <vector>

#include "engine/base/memory.h"
#include "kernels/common/tiles.h"
#include "kernels/conv/direct.h"
#include "kernels/conv/direct_tiles.h"
#include "tests/harness/error_of.h"

namespace kd {
namespace {

using cpu::ConvAlgorithm, cpu::ConvOp, cpu::ConvProblem;

const std::vector<ConvShape> kShapes{
    {.n = 2, .h = 8, .w = 8, .c = 16, .k = 16, .r = 3, .s = 3, .stride = 1, .pad = 1},
    {.n = 3, .h = 7, .w = 5, .c = 16, .k = 32, .r = 3, .s = 3, .stride = 2, .pad = 1},
    {.n = 1, .h = 1, .w = 1, .c = 32, .k = 32, .r = 1, .s = 1, .stride = 1, .pad = 0},
    {.n = 1, .h = 1, .w = 1, .c = 16, .k = 16, .r = 3, .s = 3, .stride = 2, .pad = 1},
    {.n = 2, .h = 9, .w = 9, .c = 32, .k = 64, .r = 1, .s = 1, .stride = 2, .pad = 0},
    {.n = 1, .h = 32, .w = 32, .c = 3, .k = 64, .r = 3, .s = 3, .stride = 1, .pad = 1},
    {.n = 1, .h = 33, .w = 32, .c = 3, .k = 64, .r = 7, .s = 7, .stride = 2, .pad = 3},
    {.n = 2, .h = 6, .w = 6, .c = 13, .k = 7, .r = 3, .s = 3, .stride = 1, .pad = 1},
    {.n = 2, .h = 5, .w = 7, .c = 13, .k = 48, .r = 3, .s = 3, .stride = 1, .pad = 1},  // odd channels in; a tile half full
    {.n = 2, .h = 5, .w = 7, .c = 48, .k = 13, .r = 3, .s = 3, .stride = 2, .pad = 1},  // odd channels out; parity classes of unequal size
    {.n = 2, .h = 4, .w = 4, .c = 24, .k = 40, .r = 3, .s = 3, .stride = 1, .pad = 1},
    {.n = 1, .h = 18, .w = 18, .c = 4, .k = 64, .r = 7, .s = 7, .stride = 2, .pad = 3},
    {.n = 1, .h = 10, .w = 6, .c = 80, .k = 32, .r = 5, .s = 3, .stride = 3, .pad = 2},  // nothing square; several chunks of the reduction
    {.n = 17, .h = 3, .w = 2, .c = 64, .k = 32, .r = 3, .s = 3, .stride = 1, .pad = 1},  // walked image-innermost, taps left out
    {.n = 16, .h = 4, .w = 4, .c = 32, .k = 32, .r = 3, .s = 3, .stride = 2, .pad = 1},
    // Whole tiles of images: one group, pairs of pixels with an odd one out and half a panel of filters; long rows; two groups and several chunks of the
    // reduction; three groups; strides; in place; more padding than image.
    {.n = 16, .h = 2, .w = 3, .c = 32, .k = 48, .r = 3, .s = 3, .stride = 1, .pad = 1},
    {.n = 16, .h = 1, .w = 42, .c = 32, .k = 32, .r = 1, .s = 3, .stride = 1, .pad = 1},
    {.n = 32, .h = 3, .w = 2, .c = 64, .k = 32, .r = 3, .s = 3, .stride = 1, .pad = 1},
    {.n = 48, .h = 3, .w = 2, .c = 32, .k = 32, .r = 3, .s = 3, .stride = 2, .pad = 1},
    {.n = 32, .h = 3, .w = 4, .c = 64, .k = 32, .r = 1, .s = 1, .stride = 2, .pad = 0},
    {.n = 16, .h = 3, .w = 2, .c = 64, .k = 64, .r = 1, .s = 1, .stride = 1, .pad = 0},
    {.n = 16, .h = 4, .w = 5, .c = 32, .k = 32, .r = 3, .s = 4, .stride = 3, .pad = 2},
    {.n = 16, .h = 2, .w = 1, .c = 32, .k = 32, .r = 1, .s = 1, .stride = 1, .pad = 1},
    {.n = 1, .h = 12, .w = 11, .c = 400, .k = 32, .r = 1, .s = 1, .stride = 1, .pad = 0},  // in place, two chunks, a ragged last block
    {.n = 1, .h = 2, .w = 3, .c = 16, .k = 272, .r = 1, .s = 1, .stride = 1, .pad = 2},    // more padding than image; two chunks of filters
};

// Exactly as long as its contents, so that AddressSanitizer sees a read or write beyond them.
struct Buffer {
  DType type;
  std::vector<std::byte> bytes;
  Buffer(DType t, int64_t elements) : type(t), bytes(size_t(elements * size_of(t)), std::byte{0xff}) {}
  int64_t size() const { return int64_t(bytes.size()) / size_of(type); }
  void* data() { return bytes.data(); }
  std::vector<double> values() const {
    std::vector<double> out;
    with_float_type(type, [&](auto zero) {
      for (int64_t i = 0; i < size(); ++i) {
        std::memcpy(&zero, bytes.data() + i * int64_t(sizeof zero), sizeof zero);
        out.push_back(double(float(zero)));
      }
    });
    return out;
  }
  static Buffer random(DType type, int64_t elements, unsigned seed) {
    Buffer b(type, elements);
    std::mt19937 gen(seed);
    std::uniform_real_distribution<float> uniform(-1.f, 1.f);
    with_float_type(type, [&](auto zero) {
      for (int64_t i = 0; i < elements; ++i) {
        zero = decltype(zero)(uniform(gen));
        std::memcpy(b.bytes.data() + i * int64_t(sizeof zero), &zero, sizeof zero);
      }
    });
    return b;
  }
};

struct Sums {
  std::vector<double> y, dx, dw;
};
Sums oracle(const ConvShape& s, const std::vector<double>& x, const std::vector<double>& w, const std::vector<double>& dy) {
  Sums sums{std::vector<double>(dy.size()), std::vector<double>(x.size()), std::vector<double>(w.size())};
  for (int64_t n = 0; n < s.n; ++n)
    for (int64_t p = 0; p < s.p(); ++p)
      for (int64_t q = 0; q < s.q(); ++q)
        for (int64_t r = 0; r < s.r; ++r)
          for (int64_t t = 0; t < s.s; ++t) {
            const int64_t h = p * s.stride + r - s.pad, v = q * s.stride + t - s.pad;
            if (h < 0 || h >= s.h || v < 0 || v >= s.w) continue;
            for (int64_t k = 0; k < s.k; ++k)
              for (int64_t c = 0; c < s.c; ++c) {
                const auto i = size_t(((n * s.h + h) * s.w + v) * s.c + c), j = size_t(((k * s.r + r) * s.s + t) * s.c + c),
                           o = size_t(((n * s.p() + p) * s.q() + q) * s.k + k);
                sums.y[o] += x[i] * w[j];
                sums.dx[i] += dy[o] * w[j];
                sums.dw[j] += dy[o] * x[i];
              }
          }
  return sums;
}

std::vector<double> plus(std::vector<double> a, const std::vector<double>& b) {  // b repeated
  for (size_t i = 0; i < a.size(); ++i) a[i] += b[i % b.size()];
  return a;
}
std::vector<double> relu(std::vector<double> a) {
  for (double& v : a) v = std::max(v, 0.0);
  return a;
}

// max |got - want| / max |want|; infinite for a NaN or a wrong size.
double distance(const std::vector<double>& got, const std::vector<double>& want) {
  double error = 0, largest = 1e-30;
  if (got.size() != want.size() || want.empty()) return HUGE_VAL;
  for (size_t i = 0; i < want.size(); ++i) {
    if (!std::isfinite(got[i])) return HUGE_VAL;
    error = std::max(error, std::abs(got[i] - want[i])), largest = std::max(largest, std::abs(want[i]));
  }
  return error / largest;
}

std::vector<ConvAlgorithm> algorithms() {
  std::vector<ConvAlgorithm> all;
  for (const ConvAlgorithm& a : cpu::direct_algorithms())
    if (a.isa <= cpu_isa()) all.push_back(a);
  for (const ConvAlgorithm& a : cpu::emulated_direct_algorithms()) all.push_back(a);
  return all;
}

constexpr const char* kOps[] = {"fprop", "dgrad", "wgrad"};
using Worst = std::map<std::string, double>;  // "direct.avx2 fprop f32" -> the largest distance

// Every form of one problem. Returns how many operators were offered.
int check(const ConvAlgorithm& a, const ConvShape& s, DType type, DType parameters, Worst& worst) {
  const double tolerance = type == DType::bf16 ? 1e-2 : 1e-5;
  const bool bf16_products = !a.offers({ConvOp::wgrad, s, DType::f32});
  Buffer x = Buffer::random(type, s.n * s.h * s.w * s.c, 1), w = Buffer::random(parameters, s.k * s.r * s.s * s.c, 2),
         dy = Buffer::random(type, s.n * s.p() * s.q() * s.k, 3), bias = Buffer::random(parameters, s.k, 4), z = Buffer::random(type, dy.size(), 5);
  std::vector<double> filter = w.values();
  if (bf16_products)
    for (double& v : filter) v = double(float(bf16(float(v))));
  // Of equal operands for every algorithm: computed once.
  static std::map<std::string, Sums> known;
  const std::string key = fmt::format("{} {} {} {}", to_string(s), to_string(type), to_string(parameters), bf16_products);
  if (!known.count(key)) known[key] = oracle(s, x.values(), filter, dy.values());
  const Sums& want = known[key];
  const auto expect = [&](ConvOp op, const char* what, const Buffer& got, const std::vector<double>& wanted) {
    const double d = distance(got.values(), wanted);
    EXPECT_LE(d, tolerance) << a.name << " " << kOps[int(op)] << " " << to_string(type) << " " << to_string(s) << " " << what << ", parameters "
                            << to_string(parameters);
    double& w_ = worst[fmt::format("{:28} {} {}", a.name, kOps[int(op)], to_string(type))];
    w_ = std::max(w_, d);
  };
  const auto pack = [&](ConvOp op) {
    const ConvProblem problem{op, s, type};
    auto packed = Storage::allocate(std::max<int64_t>(a.packed_bytes(problem, parameters), 1), Device::cpu);
    a.pack(problem, w.data(), parameters, packed->data());
    return packed;
  };
  int offered = 0;
  if (a.offers({ConvOp::fprop, s, type})) {
    ++offered;
    const auto packed = pack(ConvOp::fprop);
    ConvFpropArgs plain{.shape = s, .type = type, .x = x.data(), .w = w.data(), .w_type = parameters, .y = nullptr, .bias_type = parameters};
    const auto fprop = [&](const char* what, ConvFpropArgs args, Buffer out, const std::vector<double>& wanted) {
      args.y = out.data();
      a.fprop(args, packed->data());
      expect(ConvOp::fprop, what, out, wanted);
      return out;
    };
    const Buffer fresh(type, dy.size());
    auto args = plain;
    const Buffer y = fprop("y", args, fresh, want.y);
    omp_set_num_threads(2);
    EXPECT_EQ(fprop("y", args, fresh, want.y).bytes, y.bytes) << a.name << " two threads, other bits";
    omp_set_num_threads(1);
    args.bias = bias.data();
    fprop("y + bias", args, fresh, plus(want.y, bias.values()));
    args.z = z.data(), args.epilogue = Epilogue::relu;
    const auto fused = relu(plus(plus(want.y, bias.values()), z.values()));
    fprop("relu(y + z + bias)", args, fresh, fused);
    Buffer onto = z;
    args.z = args.y = onto.data();
    a.fprop(args, packed->data());
    expect(ConvOp::fprop, "relu(y + bias) onto z", onto, fused);
    args = plain, args.z = z.data();
    fprop("y + z", args, fresh, plus(want.y, z.values()));
    args = plain, args.epilogue = Epilogue::relu;
    fprop("relu(y)", args, fresh, relu(want.y));
    if (type == DType::f32) {
      Buffer library = fresh;
      plain.y = library.data();
      conv_fprop({}, plain);
      expect(ConvOp::fprop, "y beside oneDNN's", y, library.values());
    }
  }
  if (a.offers({ConvOp::dgrad, s, type})) {
    ++offered;
    const auto packed = pack(ConvOp::dgrad);
    const auto dgrad = [&](Buffer dx, Accumulate accumulate) {
      a.dgrad({.shape = s, .type = type, .dy = dy.data(), .w = w.data(), .w_type = parameters, .dx = dx.data(), .accumulate = accumulate}, packed->data());
      return dx;
    };
    const Buffer before = Buffer::random(type, x.size(), 6), dx = dgrad(Buffer(type, x.size()), Accumulate::no);
    expect(ConvOp::dgrad, "dx", dx, want.dx);
    expect(ConvOp::dgrad, "dx added", dgrad(before, Accumulate::yes), plus(want.dx, before.values()));
    omp_set_num_threads(2);
    EXPECT_EQ(dgrad(Buffer(type, x.size()), Accumulate::no).bytes, dx.bytes) << a.name << " two threads, other bits";
    omp_set_num_threads(1);
    if (type == DType::f32) {
      Buffer library(type, x.size());
      conv_dgrad({}, {.shape = s, .type = type, .dy = dy.data(), .w = w.data(), .w_type = parameters, .dx = library.data()});
      expect(ConvOp::dgrad, "dx beside oneDNN's", dx, library.values());
    }
  }
  if (a.offers({ConvOp::wgrad, s, type})) {
    ++offered;
    const auto wgrad = [&](Buffer dw, Accumulate accumulate) {
      a.wgrad({.shape = s, .type = type, .x = x.data(), .dy = dy.data(), .dw = dw.data(), .dw_type = parameters, .accumulate = accumulate});
      return dw;
    };
    const Buffer before = Buffer::random(parameters, w.size(), 7), dw = wgrad(Buffer(parameters, w.size()), Accumulate::no);
    expect(ConvOp::wgrad, "dw", dw, want.dw);
    expect(ConvOp::wgrad, "dw added", wgrad(before, Accumulate::yes), plus(want.dw, before.values()));
    omp_set_num_threads(2);
    EXPECT_EQ(wgrad(Buffer(parameters, w.size()), Accumulate::no).bytes, dw.bytes) << a.name << " two threads, other bits";
    omp_set_num_threads(1);
    if (type == DType::f32) {
      Buffer library(parameters, w.size());
      conv_wgrad({}, {.shape = s, .type = type, .x = x.data(), .dy = dy.data(), .dw = library.data(), .accumulate = Accumulate::no});
      expect(ConvOp::wgrad, "dw beside oneDNN's", dw, library.values());
    }
  }
  return offered;
}

TEST(DirectConv, MatchesTheDefinition) {
  omp_set_num_threads(1);
  poison_new_blocks(true);
  Worst worst;
  for (const ConvAlgorithm& a : algorithms())
    for (DType type : {DType::f32, DType::bf16}) {
      int offered = 0;
      for (const ConvShape& s : kShapes) {
        offered += check(a, s, type, DType::f32, worst);
        const bool slow = s.n >= 16 && a.isa == CpuIsa::none;  // emulated tiles, many images: the types of parameters are the driver's affair
        if (type == DType::bf16 && !slow) offered += check(a, s, type, DType::bf16, worst);
      }
      // Of the emulated and the real ones, those with bf16 products have nothing for f32.
      EXPECT_TRUE(offered > 2 * int(kShapes.size()) || (offered == 0 && type == DType::f32)) << a.name << " offers " << offered << " of " << to_string(type);
    }
  poison_new_blocks(false);
  for (const auto& [what, error] : worst) std::printf("  %-42s %.1e\n", what.c_str(), error);
  EXPECT_GE(worst.size(), 6u);
}

// An emulated set has the bits of the real one, so what is proven of the first holds for the second.
TEST(DirectConv, EmulationHasTheBitsOfTheMachine) {
  int compared = 0;
  for (const ConvAlgorithm& real : cpu::direct_algorithms())
    for (const ConvAlgorithm& emulated : cpu::emulated_direct_algorithms()) {
      if (real.isa > cpu_isa() || emulated.name != std::string(real.name) + "_emulated") continue;
      for (const ConvShape& s : {ConvShape{.n = 2, .h = 7, .w = 5, .c = 24, .k = 48, .r = 3, .s = 3, .stride = 2, .pad = 1},
                                 ConvShape{.n = 16, .h = 3, .w = 5, .c = 64, .k = 32, .r = 3, .s = 3, .stride = 2, .pad = 1},
                                 ConvShape{.n = 32, .h = 4, .w = 3, .c = 32, .k = 64, .r = 3, .s = 3, .stride = 1, .pad = 1},
                                 ConvShape{.n = 16, .h = 2, .w = 5, .c = 416, .k = 32, .r = 1, .s = 1, .stride = 1, .pad = 0}})
        for (DType type : {DType::f32, DType::bf16}) {
          if (!real.offers({ConvOp::wgrad, s, type})) continue;
          Buffer x = Buffer::random(type, s.n * s.h * s.w * s.c, 1), w = Buffer::random(DType::f32, s.k * s.r * s.s * s.c, 2),
                 dy = Buffer::random(type, s.n * s.p() * s.q() * s.k, 3);
          std::vector<std::vector<std::byte>> results;
          for (const ConvAlgorithm* a : {&real, &emulated}) {
            const auto packed = [&](ConvOp op) {
              const ConvProblem problem{op, s, type};
              auto words = Storage::allocate(a->packed_bytes(problem, DType::f32), Device::cpu);
              a->pack(problem, w.data(), DType::f32, words->data());
              return words;
            };
            Buffer y(type, dy.size()), dx(type, x.size()), dw(DType::f32, w.size());
            a->fprop({.shape = s, .type = type, .x = x.data(), .w = w.data(), .y = y.data()}, packed(ConvOp::fprop)->data());
            if (a->offers({ConvOp::dgrad, s, type}))
              a->dgrad({.shape = s, .type = type, .dy = dy.data(), .w = w.data(), .dx = dx.data()}, packed(ConvOp::dgrad)->data());
            a->wgrad({.shape = s, .type = type, .x = x.data(), .dy = dy.data(), .dw = dw.data(), .accumulate = Accumulate::no});
            for (const Buffer* out : {&y, &dx, &dw}) results.push_back(out->bytes);
          }
          for (size_t i = 0; i < 3; ++i) EXPECT_EQ(results[i], results[i + 3]) << real.name << " " << kOps[i] << " " << to_string(type) << " " << to_string(s);
          ++compared;
        }
    }
  EXPECT_EQ(compared > 0, cpu_isa() >= CpuIsa::avx2);
}

// The emulated tile registers themselves: C += A * B for every size of tile, beside a product in double.
TEST(EmulatedTiles, MultiplyAsTheDefinition) {
  struct Use;
  using Tiles = tiles::PortableTiles<Use>;
  std::mt19937 gen(3);
  std::uniform_real_distribution<float> uniform(-1.f, 1.f);
  for (auto [m, n, pairs] : {std::array{16, 16, 16}, {1, 16, 16}, {16, 1, 3}, {5, 7, 16}, {16, 16, 1}}) {
    tiles::Config config;
    config.rows[0] = config.rows[4] = uint8_t(m), config.rows[6] = uint8_t(pairs);
    config.row_bytes[0] = config.row_bytes[6] = uint16_t(4 * n), config.row_bytes[4] = uint16_t(4 * pairs);
    Tiles::configure(config);
    bf16 a[16][40], b[16][40];  // rows further apart than they are long
    float c[16][18], got[16][18];
    for (int i = 0; i < 16; ++i) {
      for (int j = 0; j < 40; ++j) a[i][j] = bf16(uniform(gen)), b[i][j] = bf16(uniform(gen));
      for (int j = 0; j < 18; ++j) c[i][j] = uniform(gen), got[i][j] = 77.f;
    }
    Tiles::load<0>(c, sizeof c[0]);
    Tiles::load<4>(a, sizeof a[0]);
    Tiles::load<6>(b, sizeof b[0]);
    Tiles::dot<0, 4, 6>();
    Tiles::store<0>(got, sizeof got[0]);
    for (int i = 0; i < 16; ++i)
      for (int j = 0; j < 18; ++j) {
        double want = c[i][j];
        for (int k = 0; k < 2 * pairs; ++k) want += double(float(a[i][k])) * double(float(b[k / 2][2 * j + k % 2]));
        if (i < m && j < n)
          EXPECT_NEAR(got[i][j], want, 1e-5) << m << "x" << n << "x" << pairs << " at " << i << "," << j;
        else
          EXPECT_EQ(got[i][j], 77.f) << "written beyond the tile";
      }
    Tiles::zero<0>();
    Tiles::store<0>(got, sizeof got[0]);
    EXPECT_EQ(got[m - 1][n - 1], 0.f);
    Tiles::release();
  }
}

TEST(EmulatedTiles, RefuseWhatTheMachineRefuses) {
  struct Use;
  using Tiles = tiles::PortableTiles<Use>;
  float memory[16 * 16] = {};
  EXPECT_NE(error_of([&] { Tiles::load<0>(memory, 64); }).find("before ldtilecfg"), std::string::npos);
  tiles::Config config;
  config.rows[0] = 17, config.row_bytes[0] = 64;
  EXPECT_NE(error_of([&] { Tiles::configure(config); }).find("at most 16 rows of 64 bytes"), std::string::npos);
  config.rows[0] = config.rows[1] = config.rows[2] = 16, config.row_bytes[1] = 64, config.row_bytes[2] = 32;
  Tiles::configure(config);
  EXPECT_NE(error_of([&] { Tiles::zero<3>(); }).find("not configured"), std::string::npos);
  EXPECT_NE(error_of([&] { Tiles::dot<0, 1, 2>(); }).find("tdpbf16ps: C is m x n"), std::string::npos);
  Tiles::release();
  EXPECT_NE(error_of([&] { Tiles::zero<0>(); }).find("before ldtilecfg"), std::string::npos);
}

// Denormals are zeros and the two products of a pair are rounded one after the other, the second one first.
TEST(EmulatedTiles, DotRoundsAsTheManualSays) {
  using Dot = tiles::PortableDot<4>;
  const auto word = [](float low, float high) { return uint32_t(bf16(low).bits) | uint32_t(bf16(high).bits) << 16; };
  const auto dot = [&](uint32_t a, uint32_t b, float sum) {
    const uint32_t as[4] = {a, a, a, a}, bs[4] = {b, b, b, b};
    return Dot::mac(Dot::words(as), Dot::words(bs), simd::Portable<4>::set1(sum)).v[3];
  };
  EXPECT_EQ(dot(word(2, 3), word(5, 7), 1.f), 32.f);
  EXPECT_EQ(dot(word(1, 0x1p-24f), word(1, 1), 0x1p24f), 0x1p24f);  // 2^24 + 2^-24, then + 1 to even
  EXPECT_EQ(dot(word(-0x1p24f, 1), word(1, 1), 0x1p24f), 0.f);      // 2^24 + 1 to even, then - 2^24; the other way around this were 1
  EXPECT_EQ(dot(word(0x1p-130f, 0), word(0x1p10f, 0), 0.f), 0.f);   // a denormal input
  EXPECT_EQ(dot(word(0x1p-70f, 0), word(0x1p-60f, 0), 0.f), 0.f);   // a denormal result
}

TEST(EmulatedTiles, TransposeWords) {
  struct Use;
  std::vector<uint32_t> from(32 * 50), to(48 * 40, 7u);
  for (size_t i = 0; i < from.size(); ++i) from[i] = uint32_t(i);
  cpu::direct::transpose_words<Use>(from.data(), 50, to.data(), 40, 32, 48);
  for (size_t i = 0; i < 48; ++i)
    for (size_t j = 0; j < 40; ++j) EXPECT_EQ(to[i * 40 + j], j < 32 ? from[j * 50 + i] : 7u);
}

}  // namespace
}  // namespace kd
