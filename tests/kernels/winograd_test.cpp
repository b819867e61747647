// Winograd on every instruction set that this machine runs, and on the emulated ones, against seven loops in double.
#include <gtest/gtest.h>
#include <omp.h>

#include <cmath>
#include <cstring>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/conv/conv_algorithm.h"

namespace kd::cpu {
namespace {

// Numbers in the type that a kernel sees.
class Array {
 public:
  Array(DType type, size_t n) : type_(type), f32_(type == DType::f32 ? n : 0), bf16_(type == DType::bf16 ? n : 0) {}
  Array(DType type, const std::vector<double>& values) : Array(type, values.size()) {
    for (size_t i = 0; i < values.size(); ++i) type == DType::f32 ? void(f32_[i] = float(values[i])) : void(bf16_[i] = bf16(float(values[i])));
  }
  void* raw() { return type_ == DType::f32 ? static_cast<void*>(f32_.data()) : static_cast<void*>(bf16_.data()); }
  std::vector<double> values() const {
    std::vector<double> all(f32_.begin(), f32_.end());
    for (bf16 v : bf16_) all.push_back(float(v));
    return all;
  }

 private:
  DType type_;
  std::vector<float> f32_;
  std::vector<bf16> bf16_;
};

// Uniform in [-1, 1), from a fixed linear congruence.
Array random_array(DType type, int64_t n, uint32_t seed) {
  std::vector<double> values(static_cast<size_t>(n));
  uint32_t state = seed * 2654435761u + 1;
  for (double& v : values) v = int32_t(state = state * 1664525u + 1013904223u) / 2147483648.0;
  return Array(type, values);
}

// y, dx and dw of the definition. Pointers, because a test that is instrumented would spend its time here.
void add_products(const ConvShape& s, const double* x, const double* dy, const double* w, double* y, double* dx, double* dw) {
  const int64_t P = s.p(), Q = s.q(), K = s.k, C = s.c;
  for (int64_t n = 0; n < s.n; ++n)
    for (int64_t p = 0; p < P; ++p)
      for (int64_t q = 0; q < Q; ++q)
        for (int64_t r = 0; r < 3; ++r)
          for (int64_t t = 0; t < 3; ++t) {
            const int64_t i = p * s.stride + r - s.pad, j = q * s.stride + t - s.pad;
            if (i < 0 || i >= s.h || j < 0 || j >= s.w) continue;
            const int64_t from = ((n * s.h + i) * s.w + j) * C, to = ((n * P + p) * Q + q) * K;
            for (int64_t k = 0; k < K; ++k) {
              const int64_t tap = ((k * 3 + r) * 3 + t) * C;
              double sum = 0;
              for (int64_t c = 0; c < C; ++c) {
                sum += x[from + c] * w[tap + c];
                dx[from + c] += dy[to + k] * w[tap + c];
                dw[tap + c] += dy[to + k] * x[from + c];
              }
              y[to + k] += sum;
            }
          }
}

struct Types {
  DType activations, parameters;
};
const Types kTypes[] = {{DType::f32, DType::f32}, {DType::bf16, DType::f32}, {DType::bf16, DType::bf16}};

struct Data {
  ConvShape s;
  Types types;
  Array x, dy, w, bias, z, dx, dw;  // dx, dw: what is added to
  std::vector<double> want_y, want_dx, want_dw;
  Data(const ConvShape& shape, Types t)
      : s(shape),
        types(t),
        x(random_array(t.activations, s.n * s.h * s.w * s.c, 1)),
        dy(random_array(t.activations, s.n * s.p() * s.q() * s.k, 2)),
        w(random_array(t.parameters, s.k * 9 * s.c, 3)),
        bias(random_array(t.parameters, s.k, 4)),
        z(random_array(t.activations, s.n * s.p() * s.q() * s.k, 5)),
        dx(random_array(t.activations, s.n * s.h * s.w * s.c, 6)),
        dw(random_array(t.parameters, s.k * 9 * s.c, 7)) {
    const auto xs = x.values(), dys = dy.values(), ws = w.values();
    want_y.resize(dys.size()), want_dx.resize(xs.size()), want_dw.resize(ws.size());
    add_products(s, xs.data(), dys.data(), ws.data(), want_y.data(), want_dx.data(), want_dw.data());
  }
};

struct Result {
  std::string form;
  std::vector<double> got, want;
};

// winograd6 can do what it does not offer, f32 and maps where it gains nothing: its formulas are tested with them.
bool is_wide(const ConvAlgorithm& a) { return std::string_view(a.name).starts_with("winograd6"); }

// Every form of the three operations by one algorithm.
std::vector<Result> run_all(const ConvAlgorithm& algorithm, Data& d) {
  const ConvShape& s = d.s;
  const auto [type, parameters] = d.types;
  const auto zs = d.z.values(), biases = d.bias.values();
  std::vector<Result> results;
  const auto packed = [&](ConvOp op) {
    const ConvProblem problem{op, s, type};
    EXPECT_TRUE(is_wide(algorithm) || algorithm.offers(problem));
    std::vector<float> memory(static_cast<size_t>(algorithm.packed_bytes(problem, parameters)) / 4, std::nanf(""));
    if (!memory.empty()) algorithm.pack(problem, d.w.raw(), parameters, memory.data());
    return memory;
  };
  std::vector<float> filter = packed(ConvOp::fprop);
  for (const bool biased : {false, true})
    for (const int residual : {0, 1, 2})  // none, apart, in y
      for (const Epilogue epilogue : {Epilogue::none, Epilogue::relu}) {
        Array y = residual == 2 ? d.z : Array(type, std::vector<double>(zs.size(), std::nan("")));
        const size_t channels = size_t(s.k);
        std::vector<float> partial(size_t(algorithm.sum_parts(s)) * 2 * channels, std::nanf("")), shift(channels);
        for (size_t k = 0; k < channels; ++k) shift[k] = 0.25f * float(k % 3) - 0.2f;
        algorithm.fprop({.shape = s,
                         .type = type,
                         .x = d.x.raw(),
                         .w = d.w.raw(),
                         .w_type = parameters,
                         .y = y.raw(),
                         .z = residual == 0   ? nullptr
                              : residual == 1 ? d.z.raw()
                                              : y.raw(),
                         .bias = biased ? d.bias.raw() : nullptr,
                         .bias_type = parameters,
                         .epilogue = epilogue,
                         .partial = partial.data(),
                         .shift = shift.data()},
                        filter.empty() ? d.w.raw() : filter.data());
        auto want = d.want_y;
        for (size_t i = 0; i < want.size(); ++i) {
          if (residual) want[i] += zs[i];
          if (biased) want[i] += biases[i % biases.size()];
          if (epilogue == Epilogue::relu) want[i] = std::max(want[i], 0.0);
        }
        std::string form = "fprop";
        form += biased ? " bias" : "", form += residual == 1 ? " z" : residual == 2 ? " z in y" : "", form += epilogue == Epilogue::relu ? " relu" : "";
        std::vector<double> sums(2 * channels), want_sums(2 * channels);
        for (size_t i = 0; i < partial.size(); ++i) sums[i % sums.size()] += double(partial[i]);
        for (size_t i = 0; i < want.size(); ++i) {
          const double from_shift = want[i] - double(shift[i % channels]);
          want_sums[i % channels] += from_shift, want_sums[channels + i % channels] += from_shift * from_shift;
        }
        results.push_back({form + " sums", sums, want_sums});
        results.push_back({form, y.values(), want});
      }
  EXPECT_EQ(d.z.values(), zs);
  filter = packed(ConvOp::dgrad);
  for (const Accumulate accumulate : {Accumulate::no, Accumulate::yes}) {
    const bool adds = accumulate == Accumulate::yes;
    Array dx = adds ? d.dx : Array(type, std::vector<double>(d.want_dx.size(), std::nan("")));
    Array dw = adds ? d.dw : Array(parameters, std::vector<double>(d.want_dw.size(), std::nan("")));
    algorithm.dgrad({.shape = s, .type = type, .dy = d.dy.raw(), .w = d.w.raw(), .w_type = parameters, .dx = dx.raw(), .accumulate = accumulate},
                    filter.empty() ? d.w.raw() : filter.data());
    algorithm.wgrad({.shape = s, .type = type, .x = d.x.raw(), .dy = d.dy.raw(), .dw = dw.raw(), .dw_type = parameters, .accumulate = accumulate});
    const auto plus = [&](std::vector<double> a, const Array& b) {
      const auto more = b.values();
      for (size_t i = 0; adds && i < a.size(); ++i) a[i] += more[i];
      return a;
    };
    results.push_back({adds ? "dgrad add" : "dgrad", dx.values(), plus(d.want_dx, d.dx)});
    results.push_back({adds ? "wgrad add" : "wgrad", dw.values(), plus(d.want_dw, d.dw)});
  }
  return results;
}

// The largest difference over the largest value; NaN counts as infinite.
double error(const std::vector<double>& got, const std::vector<double>& want) {
  double worst = 0, largest = 0;
  for (size_t i = 0; i < want.size(); ++i) {
    const double difference = std::abs(got[i] - want[i]);
    worst = difference <= worst ? worst : std::isnan(difference) ? INFINITY : difference;
    largest = std::max(largest, std::abs(want[i]));
  }
  return got.size() == want.size() && largest > 0 ? worst / largest : INFINITY;
}

ConvShape shape(int64_t n, int64_t h, int64_t w, int64_t c, int64_t k, int64_t pad) {
  return {.n = n, .h = h, .w = w, .c = c, .k = k, .r = 3, .s = 3, .stride = 1, .pad = pad};
}
ConvShape strided(int64_t n, int64_t h, int64_t w, int64_t c, int64_t k) {
  return {.n = n, .h = h, .w = w, .c = c, .k = k, .r = 3, .s = 3, .stride = 2, .pad = 1};
}
const ConvShape kShapes[] = {
    strided(1, 1, 1, 16, 16),    strided(2, 8, 8, 32, 48),   shape(1, 1, 1, 16, 16, 1),   shape(2, 1, 1, 32, 16, 2),
    shape(3, 2, 2, 16, 32, 1),   shape(1, 3, 3, 16, 16, 0),  shape(1, 4, 4, 32, 48, 1),   shape(3, 5, 7, 48, 32, 1),
    shape(2, 5, 7, 32, 16, 2),   shape(1, 5, 7, 16, 16, 0),  shape(2, 13, 9, 16, 48, 1),  shape(1, 13, 9, 48, 48, 0),
    shape(1, 13, 9, 48, 16, 2),  shape(3, 2, 13, 80, 80, 1), shape(1, 26, 30, 16, 48, 1),  // 56 tiles: all threads on one block
    shape(3, 33, 40, 16, 16, 1),  // 270 tiles: blocks for all of two threads, and more than one block for wgrad
    shape(5, 33, 41, 16, 32, 1),  // 495 tiles: threads with blocks of their own, the last one partly filled
    shape(9, 33, 41, 16, 16, 1),  // 891 tiles: wgrad in three parts
    shape(1, 6, 3, 336, 352, 1),  // a filter that is transformed where it is used
    shape(1, 3, 6, 352, 368, 1), strided(1, 2, 3, 48, 16),   strided(2, 9, 7, 16, 80),    strided(1, 16, 17, 32, 32),
    strided(3, 23, 31, 80, 48),  strided(8, 42, 41, 32, 16),  // 288 tiles: threads with blocks of their own; wgrad in two parts
    strided(3, 41, 42, 16, 32),                               // 108 tiles: wgrad in four blocks, all threads on each
    strided(1, 6, 5, 336, 352),                               // a filter that is transformed where it is used
};

// Emulated kernels, by those that they stand for.
const std::map<std::string, std::string> kStandsFor{{"winograd.avx2", "winograd.emulated8"},
                                                    {"winograd6.avx2", "winograd6.emulated8"},
                                                    {"winograd.avx512", "winograd.emulated16"},
                                                    {"winograd6.avx512", "winograd6.emulated16"}};

// Whether the instruction set's own kernels run here and will do: the same template, which takes minutes when it is instrumented.
bool real_ones_will_do([[maybe_unused]] const ConvAlgorithm& emulated) {
#if defined(__SANITIZE_ADDRESS__)
  for (const ConvAlgorithm& a : winograd_algorithms())
    if (a.isa <= cpu_isa() && kStandsFor.at(a.name) == emulated.name) return true;
#endif
  return false;
}

// For the tests that compare algorithms with each other: MeetsTheDefinition has looked at the memory of all.
std::span<const ConvShape> few_if_instrumented() {
#if defined(__SANITIZE_ADDRESS__)
  return std::span(kShapes).first(5);
#else
  return kShapes;
#endif
}

std::vector<const ConvAlgorithm*> algorithms() {
  std::vector<const ConvAlgorithm*> all;
  for (const ConvAlgorithm& a : winograd_algorithms())
    if (a.isa <= cpu_isa()) all.push_back(&a);
  for (const ConvAlgorithm& a : emulated_winograd_algorithms())
    if (!real_ones_will_do(a)) all.push_back(&a);
  return all;
}
bool does(const ConvAlgorithm& a, const ConvShape& s) { return !is_wide(a) || s.stride == 1; }
std::vector<const ConvAlgorithm*> algorithms(const ConvShape& s) {
  std::vector<const ConvAlgorithm*> some;
  for (const ConvAlgorithm* a : algorithms())
    if (does(*a, s)) some.push_back(a);
  return some;
}

TEST(Winograd, MeetsTheDefinition) {
  std::map<std::string, double> worst;
  for (const ConvShape& s : kShapes)
    for (const Types types : kTypes) {
      Data data(s, types);
      for (const ConvAlgorithm* a : algorithms(s))
        for (const Result& r : run_all(*a, data)) {
          const double e = error(r.got, r.want);
          EXPECT_LE(e, types.activations == DType::f32 ? 2e-5 : 1e-2)
              << a->name << " " << r.form << " " << to_string(s) << " " << to_string(types.activations) << " parameters " << to_string(types.parameters);
          double& w = worst[std::string(a->name) + " " + r.form.substr(0, 5) + " " + to_string(types.activations)];
          w = std::max(w, e);
        }
    }
  for (const auto& [what, e] : worst) std::printf("%-32s worst error %.2e of the largest value\n", what.c_str(), e);
}

// Tiles at the edges need fewer products the fewer of their outputs lie in the tensor: every number of rows with every number of columns, behind a whole tile.
TEST(Winograd, ShortTilesMeetTheDefinition) {
  for (int64_t rows = 1; rows <= 6; ++rows)
    for (int64_t columns = 1; columns <= 6; ++columns)
      for (const ConvShape& s : {shape(2, 6 + rows, 6 + columns, 16, 32, 1), strided(2, 7 + 2 * rows, 8 + 2 * columns, 32, 16)}) {
        Data data(s, kTypes[0]);
        for (const ConvAlgorithm* a : algorithms(s))
          for (const Result& r : run_all(*a, data)) EXPECT_LE(error(r.got, r.want), 2e-5) << a->name << " " << r.form << " " << to_string(s);
      }
}

// As above, with a filter that is transformed again for a second block of tiles: too much work for the emulated sets.
TEST(Winograd, FilterInPlaceUnderTwoBlocks) {
  Data data(shape(80, 1, 1, 352, 336, 1), kTypes[0]);
  for (const ConvAlgorithm& a : winograd_algorithms())
    if (a.isa <= cpu_isa()) {
      EXPECT_EQ(a.packed_bytes({ConvOp::fprop, data.s, DType::f32}, DType::f32), 0);
      for (const Result& r : run_all(a, data)) EXPECT_LE(error(r.got, r.want), 2e-5) << a.name << " " << r.form;
    }
}

// conv.h's own way, which is the library where the product does not choose Winograd.
TEST(Winograd, AgreesWithConv) {
  set_conv_math(ConvMath::exact);  // or conv would be Winograd's
  for (const ConvShape& s : few_if_instrumented()) {
    Data d(s, {DType::f32, DType::f32});
    Array y(DType::f32, d.want_y.size()), dx(DType::f32, d.want_dx.size()), dw(DType::f32, d.want_dw.size());
    conv_fprop({}, {.shape = s, .type = DType::f32, .x = d.x.raw(), .w = d.w.raw(), .y = y.raw()});
    conv_dgrad({}, {.shape = s, .type = DType::f32, .dy = d.dy.raw(), .w = d.w.raw(), .dx = dx.raw()});
    conv_wgrad({}, {.shape = s, .type = DType::f32, .x = d.x.raw(), .dy = d.dy.raw(), .dw = dw.raw(), .accumulate = Accumulate::no});
    const std::map<std::string, std::vector<double>> conv{{"fprop", y.values()}, {"dgrad", dx.values()}, {"wgrad", dw.values()}};
    for (const ConvAlgorithm* a : algorithms(s)) {
      int compared = 0;
      for (const Result& r : run_all(*a, d))
        if (const auto found = conv.find(r.form); found != conv.end()) {
          EXPECT_LE(error(r.got, found->second), 2e-5) << a->name << " " << r.form << " " << to_string(s);
          ++compared;
        }
      EXPECT_EQ(compared, 3);
    }
  }
}

// The instruction set's kernels do the portable ones' operations in the same order.
TEST(Winograd, EmulatedHasTheBitsOfTheInstructionSet) {
  int compared = 0;
  for (const ConvAlgorithm& real : winograd_algorithms()) {
    if (real.isa > cpu_isa()) continue;
    for (const ConvAlgorithm& emulated : emulated_winograd_algorithms()) {
      if (kStandsFor.at(real.name) != emulated.name) continue;
      for (const ConvShape& s : few_if_instrumented())
        for (const Types types : kTypes) {
          if (!does(real, s)) continue;
          Data data(s, types);
          const auto a = run_all(real, data), b = run_all(emulated, data);
          for (size_t i = 0; i < a.size(); ++i) EXPECT_EQ(a[i].got, b[i].got) << real.name << " " << a[i].form << " " << to_string(s);
          ++compared;
        }
    }
  }
  if (!compared) GTEST_SKIP() << "this machine runs none of the instruction sets";
}

TEST(Winograd, SameBitsForEveryNumberOfThreads) {
  const int threads = omp_get_max_threads();
  for (const ConvShape& s : few_if_instrumented())
    for (const ConvAlgorithm* a : algorithms(s)) {
      Data data(s, kTypes[0]);
      omp_set_num_threads(1);
      const auto one = run_all(*a, data);
      for (int more : {2, 5}) {  // 5: more than wgrad has parts, so all share every block
        omp_set_num_threads(more);
        const auto got = run_all(*a, data);
        for (size_t i = 0; i < one.size(); ++i)
          EXPECT_EQ(one[i].got, got[i].got) << a->name << " " << one[i].form << " " << to_string(s) << ", " << more << " threads";
      }
      omp_set_num_threads(threads);
    }
}

TEST(Winograd, NaNComesOut) {
  for (const ConvAlgorithm* a : algorithms()) {
    const ConvShape s = shape(1, 4, 4, 16, 16, 1);
    auto values = random_array(DType::f32, s.n * s.h * s.w * s.c, 1).values();
    values[100] = std::nan("");
    Array x(DType::f32, values), w = random_array(DType::f32, s.k * 9 * s.c, 2), y(DType::f32, size_t(s.n * 16 * s.k));
    const ConvProblem problem{ConvOp::fprop, s, DType::f32};
    std::vector<float> packed(size_t(a->packed_bytes(problem, DType::f32)) / 4);
    a->pack(problem, w.raw(), DType::f32, packed.data());
    a->fprop({.shape = s, .type = DType::f32, .x = x.raw(), .w = w.raw(), .y = y.raw(), .epilogue = Epilogue::relu}, packed.data());
    bool seen = false;
    for (double v : y.values()) seen |= std::isnan(v);
    EXPECT_TRUE(seen) << a->name << ": the ReLU has swallowed a NaN";
  }
}

TEST(Winograd, OffersWhatItCanDo) {
  for (const ConvAlgorithm* a : algorithms()) {
    const auto offers = [&](auto change, DType type = DType::f32) {
      ConvShape s = shape(1, 8, 8, 32, 32, 1);
      change(s);
      return a->offers({ConvOp::wgrad, s, type});
    };
    EXPECT_NE(offers([](ConvShape&) {}), is_wide(*a));
    EXPECT_NE(offers([](ConvShape&) {}, DType::bf16), is_wide(*a)) << "8 px: 12 points along an axis in either";
    EXPECT_TRUE(offers([](ConvShape& s) { s.h = s.w = 16; }, DType::bf16));
    EXPECT_NE(offers([](ConvShape& s) { s.h = s.w = 16; }), is_wide(*a)) << "f32";
    EXPECT_FALSE(offers([](ConvShape&) {}, DType::u8));
    EXPECT_EQ(offers([](ConvShape& s) { s.stride = 2; }), !is_wide(*a));
    EXPECT_FALSE(offers([](ConvShape& s) { s.stride = 2, s.pad = 0; }));
    EXPECT_FALSE(offers([](ConvShape& s) { s.stride = 3; }));
    EXPECT_FALSE(offers([](ConvShape& s) { s.r = 1; }));
    EXPECT_FALSE(offers([](ConvShape& s) { s.s = 5; }));
    EXPECT_FALSE(offers([](ConvShape& s) { s.pad = 3; }));
    EXPECT_FALSE(offers([](ConvShape& s) { s.c = 24; }));
    EXPECT_FALSE(offers([](ConvShape& s) { s.k = 8; }));
    EXPECT_FALSE(offers([](ConvShape& s) { s.h = 2, s.pad = 0; }));  // no output
  }
}

}  // namespace
}  // namespace kd::cpu
