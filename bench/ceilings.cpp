#include "bench/ceilings.h"

#include <omp.h>
#include <unistd.h>

#include <numeric>

#include "bench/timing.h"
#include "engine/base/tensor.h"
#include "kernels/common/parallel.h"

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
#endif

// GFLOP/s of `kernel` on all threads, where a round of every chain does `flops` operations. A ceiling is a good run, hence p10.
double peak_gflops(float (*kernel)(int64_t), int flops) {
  constexpr int64_t kRounds = 2000000;
  Spread time = measure(
      [&] {
        float total = 0;
#pragma omp parallel reduction(+ : total)
        total += kernel(kRounds);
        sink = total;
      },
      0.2, 10);
  return double(kRounds) * kChains * flops * omp_get_max_threads() / time.p10 / 1e9;
}

double triad_gbps() {
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
  return 3.0 * double(n) * sizeof(float) / time.p10 / 1e9;
}

}  // namespace

Ceilings measure_ceilings() {
  Ceilings top{};
#if defined(__x86_64__)
  const CpuInfo& cpu = cpu_info();
  top.f32_gflops = cpu.avx512 ? peak_gflops(multiply_add_avx512, 2 * 16) : cpu.avx2 ? peak_gflops(multiply_add_avx2, 2 * 8) : peak_gflops(multiply_add, 2 * 4);
  top.bf16_gflops = cpu.amx_bf16 ? 0 : cpu.avx512_bf16 ? peak_gflops(dot_bf16, 2 * 32) : top.f32_gflops;
#else
  top.f32_gflops = top.bf16_gflops = peak_gflops(multiply_add, 2 * 4);
#endif
  top.triad_gbps = triad_gbps();
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
