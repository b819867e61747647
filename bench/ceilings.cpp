#include "bench/ceilings.h"

#include <omp.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <numeric>

#include "bench/timing.h"
#include "engine/base/tensor.h"
#include "kernels/common/parallel.h"
#include "kernels/gemm/gemm.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace kd::bench {
namespace {

int64_t last_level_cache_bytes() {
  long bytes = ::sysconf(_SC_LEVEL3_CACHE_SIZE);  // 0 or -1 where the system does not say
  return bytes > 0 ? bytes : int64_t(32) << 20;
}

volatile float sink;  // keeps the compiler from dropping sums that nobody reads

// Each adds `rounds` times to kChains independent sums: enough to hide a latency of 4 cycles on two units. The sums start apart,
// or the compiler would notice that they are one.
constexpr int kChains = 12;
constexpr float kFactor = 0.999f, kAddend = 0.001f;  // the sums converge to 1: no overflow, no subnormals

float multiply_add(int64_t rounds) {
  constexpr int kLanes = 4 * kChains;
  float sums[kLanes];
  std::iota(sums, sums + kLanes, 0.f);
  for (int64_t r = 0; r < rounds; ++r)
    for (float& s : sums) s = s * kFactor + kAddend;
  return std::accumulate(sums, sums + kLanes, 0.f);
}

#if defined(__x86_64__)
__attribute__((target("avx2,fma"))) float multiply_add_avx2(int64_t rounds) {
  __m256 sums[kChains], factor = _mm256_set1_ps(kFactor), addend = _mm256_set1_ps(kAddend);
  for (int i = 0; i < kChains; ++i) sums[i] = _mm256_set1_ps(float(i));
  for (int64_t r = 0; r < rounds; ++r)
#pragma GCC unroll 12
    for (int i = 0; i < kChains; ++i) sums[i] = _mm256_fmadd_ps(sums[i], factor, addend);
  float total = 0;
  for (__m256& s : sums) total += _mm256_cvtss_f32(s);
  return total;
}

__attribute__((target("avx512f"))) float multiply_add_avx512(int64_t rounds) {
  __m512 sums[kChains], factor = _mm512_set1_ps(kFactor), addend = _mm512_set1_ps(kAddend);
  for (int i = 0; i < kChains; ++i) sums[i] = _mm512_set1_ps(float(i));
  for (int64_t r = 0; r < rounds; ++r)
#pragma GCC unroll 12
    for (int i = 0; i < kChains; ++i) sums[i] = _mm512_fmadd_ps(sums[i], factor, addend);
  float total = 0;
  for (__m512& s : sums) total += _mm512_cvtss_f32(s);
  return total;
}

__attribute__((target("avx512f,avx512bf16"))) float dot_bf16(int64_t rounds) {
  __m512 sums[kChains];
  __m512bh ones = (__m512bh)_mm512_set1_epi16(0x3f80), small = (__m512bh)_mm512_set1_epi16(0x0080);  // 1 and 2^-126
  for (int i = 0; i < kChains; ++i) sums[i] = _mm512_set1_ps(float(i));
  for (int64_t r = 0; r < rounds; ++r)
#pragma GCC unroll 12
    for (int i = 0; i < kChains; ++i) sums[i] = _mm512_dpbf16_ps(sums[i], ones, small);
  float total = 0;
  for (__m512& s : sums) total += _mm512_cvtss_f32(s);
  return total;
}

// Four sums of 16x16 f32, which cover the latency of a product (52 cycles, one every 16). All tiles are 16 rows of 64 bytes.
constexpr int kTileChains = 4;
__attribute__((target("amx-tile,amx-bf16"))) float dot_amx(int64_t rounds) {
  struct alignas(64) {
    uint8_t palette = 1, start_row = 0, reserved[14] = {};
    uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
    uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
  } config;
  static_assert(sizeof config == 64);
  alignas(64) uint16_t ones[16 * 32], small[16 * 32];  // bf16: 1 and 2^-126
  std::fill(std::begin(ones), std::end(ones), uint16_t(0x3f80)), std::fill(std::begin(small), std::end(small), uint16_t(0x0080));
  alignas(64) float sums[16 * 16];
  _tile_loadconfig(&config);
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  _tile_loadd(4, ones, 64);
  _tile_loadd(5, ones, 64);
  _tile_loadd(6, small, 64);
  _tile_loadd(7, small, 64);
  for (int64_t r = 0; r < rounds; ++r) {
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
  float total = 0;
  _tile_stored(0, sums, 64);
  total += sums[0];
  _tile_stored(3, sums, 64);
  total += sums[255];
  _tile_release();
  return total;
}
#endif

Rate rate_of(const Spread& seconds, double work) { return {work / seconds.p10 / 1e9, work / seconds.median / 1e9, work / seconds.p90 / 1e9}; }

// GFLOP/s of `kernel` on all threads, where a round does `flops` operations.
Rate peak_gflops(float (*kernel)(int64_t), int64_t rounds, int flops) {
  const Spread time = measure(
      [&] {
        float total = 0;
#pragma omp parallel reduction(+ : total)
        total += kernel(rounds);
        sink = total;
      },
      0.2, 10);
  return rate_of(time, double(rounds) * flops * omp_get_max_threads());
}

Rate gemm_gflops() {
  constexpr int64_t n = 1024;
  const Tensor a = Tensor::empty({n, n}, DType::f32), b = Tensor::empty({n, n}, DType::f32), c = Tensor::empty({n, n}, DType::f32);
  std::fill_n(a.data<float>(), n * n, 1.f), std::fill_n(b.data<float>(), n * n, 0.5f);
  const Spread time = measure([&] { gemm({}, {.a = a.raw(), .b = b.raw(), .c = c.raw(), .m = n, .n = n, .k = n}); }, 0.3, 8);
  KD_CHECK(c.data<float>()[n * n - 1] == 0.5f * n, "a product of {} came out as {}", 0.5f * n, c.data<float>()[n * n - 1]);
  return rate_of(time, 2.0 * n * n * n);
}

Rate triad_gbps() {
  const int64_t n = 2 * std::max(int64_t(32) << 20, last_level_cache_bytes()) / int64_t(sizeof(float));
  Tensor arrays = Tensor::empty({3, n}, DType::f32);
  float *a = arrays.data<float>(), *b = a + n, *c = b + n;
  parallel_ranges(n, [&](int64_t begin, int64_t end) {  // each page is first touched by the thread that will use it
    std::fill(a + begin, a + end, 0.f), std::fill(b + begin, b + end, 1.f), std::fill(c + begin, c + end, 2.f);
  });
  Spread time = measure(
      [&] {
        parallel_ranges(n, [&](int64_t begin, int64_t end) {
          int64_t i = begin;
#if defined(__x86_64__)
          for (const __m128 factor = _mm_set1_ps(3.f); i + 4 <= end; i += 4)
            _mm_stream_ps(a + i, _mm_add_ps(_mm_loadu_ps(b + i), _mm_mul_ps(factor, _mm_loadu_ps(c + i))));
#endif
          for (; i < end; ++i) a[i] = b[i] + 3.f * c[i];
        });
      },
      0.3, 8);
  KD_CHECK(a[0] == 7.f && a[n - 1] == 7.f, "triad computed {} and {}", a[0], a[n - 1]);
  return rate_of(time, 3.0 * double(n) * sizeof(float));
}

// Two threads answer each other through one line. Ends by the clock: threads that must share a core take a time slice for every answer.
Rate round_trip_ns() {
  constexpr int64_t kTrips = 200;
  constexpr double kSeconds = 0.05;
  struct alignas(128) Line {
    std::atomic<int64_t> turn{0};  // odd: asked; even: answered; negative: over
  } line;
  std::vector<double> ns;
#pragma omp parallel num_threads(2)
  if (omp_get_num_threads() == 2) {
    if (omp_get_thread_num() == 0) {
      int64_t turn = 0;
      for (double spent = 0; spent < kSeconds; spent += ns.back() * kTrips / 1e9) {
        const double begin = omp_get_wtime();
        for (int64_t i = 0; i < kTrips; ++i) {
          line.turn.store(++turn, std::memory_order_release), ++turn;
          while (line.turn.load(std::memory_order_acquire) != turn) {
          }
        }
        ns.push_back((omp_get_wtime() - begin) * 1e9 / kTrips);
      }
      line.turn.store(-1, std::memory_order_release);
    } else {
      for (int64_t turn = 0; turn >= 0;)
        if ((turn = line.turn.load(std::memory_order_acquire)) % 2 == 1) line.turn.store(turn + 1, std::memory_order_release);
    }
  }
  if (ns.empty()) return {};
  const Spread spread = spread_of(ns);
  return {spread.p10, spread.median, spread.p90};
}

}  // namespace

Ceilings measure_ceilings() {
  Ceilings top{};
  top.matrix_name = "none";
  constexpr int64_t kRounds = 2000000;
#if defined(__x86_64__)
  const CpuInfo& cpu = cpu_info();
  top.f32 = cpu.avx512 ? peak_gflops(multiply_add_avx512, kRounds, kChains * 2 * 16)
            : cpu.avx2 ? peak_gflops(multiply_add_avx2, kRounds, kChains * 2 * 8)
                       : peak_gflops(multiply_add, kRounds, kChains * 2 * 4);
  if (cpu.amx_bf16)
    top.matrix = peak_gflops(dot_amx, kRounds / 10, kTileChains * 2 * 16 * 16 * 32), top.matrix_name = "AMX";
  else if (cpu.avx512_bf16)
    top.matrix = peak_gflops(dot_bf16, kRounds, kChains * 2 * 32), top.matrix_name = "vdpbf16ps";
#else
  top.f32 = peak_gflops(multiply_add, kRounds, kChains * 2 * 4);
#endif
  top.gemm = gemm_gflops();
  top.triad = triad_gbps();
  top.round_trip = round_trip_ns();
  release_cached_memory();
  return top;
}

void scrub_caches() {
  static const std::vector<float> filler(size_t(2 * last_level_cache_bytes()) / sizeof(float), 1.f);
  float total = 0;
#pragma omp parallel for reduction(+ : total) schedule(static)
  for (size_t i = 0; i < filler.size(); i += 16) total += filler[i];  // one float a cache line
  sink = total;
}

}  // namespace kd::bench
