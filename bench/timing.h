// timing: how every bench program times a piece of work. Runs differ by clock steps, neighbours and page faults, so a time is reported
// as the median with the range from p10 to p90, never as a bare mean or a best case.
#pragma once
#include <algorithm>
#include <chrono>
#include <cstdint>
#include <functional>
#include <vector>

#include "engine/base/check.h"

namespace kd::bench {

struct Spread {
  double median, p10, p90;  // seconds of one run
  int64_t runs;
};

// Percentiles between two runs are interpolated linearly.
inline Spread spread_of(std::vector<double> seconds) {
  KD_CHECK(!seconds.empty(), "no run was timed");
  std::sort(seconds.begin(), seconds.end());
  auto percentile = [&](double share) {
    double at = share * double(seconds.size() - 1);
    size_t below = size_t(at), above = std::min(below + 1, seconds.size() - 1);
    return seconds[below] + (at - double(below)) * (seconds[above] - seconds[below]);
  };
  return {percentile(0.5), percentile(0.1), percentile(0.9), int64_t(seconds.size())};
}

// The seconds of single runs: times `run` alone, once per sample, until `min_seconds` have passed and `min_runs` samples exist; one untimed run comes first.
// `before`, if given, is called untimed ahead of every sample (to empty the caches, say); its time counts towards min_seconds.
inline std::vector<double> sample(const std::function<void()>& run, double min_seconds, int64_t min_runs, const std::function<void()>& before = {}) {
  using Clock = std::chrono::steady_clock;
  auto seconds_since = [](Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); };
  run();
  std::vector<double> samples;
  for (auto start = Clock::now(); int64_t(samples.size()) < std::max<int64_t>(min_runs, 1) || seconds_since(start) < min_seconds;) {
    if (before) before();
    auto begin = Clock::now();
    run();
    samples.push_back(seconds_since(begin));
  }
  return samples;
}

inline Spread measure(const std::function<void()>& run, double min_seconds, int64_t min_runs, const std::function<void()>& before = {}) {
  return spread_of(sample(run, min_seconds, min_runs, before));
}

}  // namespace kd::bench
