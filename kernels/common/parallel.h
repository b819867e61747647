// parallel: the two ways our CPU kernels share work. Ranges depend only on n and the thread count, so sums that are combined
// in range order give the same bits in every run with the same number of threads.
#pragma once
#include <omp.h>

#include <algorithm>
#include <cstdint>
#include <exception>

namespace kd {

// Below this many elements a fork costs more than it saves.
constexpr int64_t kParallelGrain = 16384;

inline int parallel_parts(int64_t n, int64_t grain) { return int(std::clamp<int64_t>(n / std::max<int64_t>(grain, 1), 1, omp_get_max_threads())); }

// Calls f(begin, end) for contiguous ranges, boundaries at multiples of 64 elements so that no two threads share a cache line.
template <class F>
void parallel_ranges(int64_t n, F&& f, int64_t grain = kParallelGrain) {
  int parts = parallel_parts(n, grain);
  if (parts == 1) return f(int64_t(0), n);
  int64_t step = ((n + parts - 1) / parts + 63) / 64 * 64;
#pragma omp parallel for num_threads(parts) schedule(static, 1)
  for (int part = 0; part < parts; ++part) {
    int64_t begin = std::min(n, part * step), end = std::min(n, begin + step);
    if (begin < end) f(begin, end);
  }
}

// Calls f(i) for each i, one unit of real work each; the first exception comes out on the calling thread.
template <class F>
void parallel_for(int64_t n, F&& f) {
  std::exception_ptr error;
#pragma omp parallel for schedule(static)
  for (int64_t i = 0; i < n; ++i) {
    try {
      f(i);
    } catch (...) {
#pragma omp critical(kd_parallel_for_error)
      if (!error) error = std::current_exception();
    }
  }
  if (error) std::rethrow_exception(error);
}

}  // namespace kd
