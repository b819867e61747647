#include <cmath>
#include <vector>

#include "kernels/common/parallel.h"
#include "kernels/metrics/bilinear.h"
#include "kernels/metrics/metrics.h"

namespace kd {
namespace cpu {
namespace {

// One contiguous range of rows or images to each thread, at least `grain` of them; a thread allocates its scratch once per range.
template <class F>
void share(int64_t n, int64_t grain, F&& f) {
  const int64_t parts = parallel_parts(n, grain);
  if (parts == 1) return f(int64_t(0), n);
  parallel_for(parts, [&](int64_t part) { f(n * part / parts, n * (part + 1) / parts); });
}
int64_t row_grain(int64_t c) { return std::max<int64_t>(1, 1024 / c); }  // a row costs a few exp per class, not a few adds

// ln softmax(x/tau), relative to the largest logit so that a common offset of 1e4 costs no digits.
class LogSoftmax {
 public:
  LogSoftmax(const float* x, int64_t c, double tau) : x_(x), top_(*std::max_element(x, x + c)), tau_(tau) {
    double sum = 0;
    for (int64_t i = 0; i < c; ++i) sum += std::exp((x[i] - top_) / tau);
    log_sum_ = std::log(sum);
  }
  double operator[](int64_t i) const { return (x_[i] - top_) / tau_ - log_sum_; }
  double log_sum_exp() const { return top_ / tau_ + log_sum_; }

 private:
  const float* x_;
  double top_, tau_, log_sum_;
};

LogitRecord logit_record(const float* x, int64_t c) {
  LogitRecord record{{-1, -1, -1, -1, -1}, 0, 0, 0, 0};
  if (!std::all_of(x, x + c, [](float v) { return std::isfinite(v); })) return record;
  int found = 0;
  for (int64_t i = 0; i < c; ++i) {
    if (found == kTopClasses && !(x[i] > x[record.top[kTopClasses - 1]])) continue;
    int at = found < kTopClasses ? found++ : kTopClasses - 1;
    for (; at > 0 && x[i] > x[record.top[at - 1]]; --at) record.top[at] = record.top[at - 1];
    record.top[at] = int32_t(i);
  }
  const LogSoftmax log_p(x, c, 1);
  for (int64_t i = 0; i < c; ++i) {
    double lp = log_p[i], p = std::exp(lp);
    record.entropy -= p * lp;
    record.sum_squares += p * p;
  }
  record.confidence = std::exp(log_p[record.top[0]]);
  record.log_sum_exp = log_p.log_sum_exp();
  return record;
}

PairRecord pair_record(const float* a, const float* b, int64_t c, double tau) {
  const LogSoftmax log_p(a, c, tau), log_q(b, c, tau);
  double kl_ab = 0, kl_ba = 0, js = 0, tv = 0, squares = 0;
  for (int64_t i = 0; i < c; ++i) {
    const double lp = log_p[i], lq = log_q[i], p = std::exp(lp), q = std::exp(lq), m = 0.5 * (p + q);
    kl_ab += p * (lp - lq);
    kl_ba += q * (lq - lp);
    if (m > 0) js += p * (lp - std::log(m)) + q * (lq - std::log(m));
    tv += std::fabs(p - q);
    squares += std::pow(std::sqrt(p) - std::sqrt(q), 2);
  }
  // Rounding can leave -1e-17 where the true value is 0.
  return {std::max(0.0, kl_ab), std::max(0.0, kl_ba), std::max(0.0, 0.5 * js), 0.5 * tv, std::sqrt(0.5 * squares)};
}

std::vector<Tap> bilinear_taps(int64_t in, int64_t out) {
  std::vector<Tap> taps;
  for (int64_t i = 0; i < out; ++i) taps.push_back(bilinear_tap(i, in, out));
  return taps;
}

// Upsamples one image after another into its own buffer, columns first, then rows, and keeps the extremes.
class Upsampler {
 public:
  Upsampler(int64_t h, int64_t w, int64_t px)
      : h_(h),
        w_(w),
        px_(px),
        rows_(bilinear_taps(h, px)),
        columns_(bilinear_taps(w, px)),
        wide_(size_t(h * px)),
        out_(size_t(px * px)),
        low_(size_t(px)),
        high_(size_t(px)) {}

  void run(const float* map) {
    for (int64_t y = 0; y < h_; ++y) {
      const float* in = map + y * w_;
      double* wide = &wide_[size_t(y * px_)];
      for (const Tap& t : columns_) *wide++ = blend(in[t.low], in[t.high], t.weight);
    }
    // Extremes per column: a running minimum over one row would not vectorise.
    std::fill(low_.begin(), low_.end(), HUGE_VAL);
    std::fill(high_.begin(), high_.end(), -HUGE_VAL);
    double *low = low_.data(), *high = high_.data();
    for (int64_t y = 0; y < px_; ++y) {
      const Tap t = rows_[size_t(y)];
      const double *above = &wide_[size_t(t.low * px_)], *below = &wide_[size_t(t.high * px_)];
      double* out = &out_[size_t(y * px_)];
      for (int64_t x = 0; x < px_; ++x) {
        double v = blend(above[x], below[x], t.weight);
        out[x] = v;
        low[x] = v < low[x] ? v : low[x];
        high[x] = v > high[x] ? v : high[x];
      }
    }
    min_ = *std::min_element(low_.begin(), low_.end());
    max_ = *std::max_element(high_.begin(), high_.end());
  }
  const std::vector<double>& values() const { return out_; }
  double min() const { return min_; }
  double max() const { return max_; }

 private:
  int64_t h_, w_, px_;
  std::vector<Tap> rows_, columns_;
  std::vector<double> wide_, out_, low_, high_;
  double min_ = 0, max_ = 0;
};

}  // namespace

void metrics_logit_records(Stream, const MetricsLogitArgs& args) {
  share(args.n, row_grain(args.c), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) args.out[i] = logit_record(args.logits + i * args.c, args.c);
  });
}

void metrics_pair_records(Stream, const MetricsPairArgs& args) {
  share(args.n, row_grain(args.c), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) args.out[i] = pair_record(args.a + i * args.c, args.b + i * args.c, args.c, args.tau);
  });
}

void metrics_joint_counts(Stream, const MetricsJointCountsArgs& args) {
  std::fill(args.counts, args.counts + args.c * args.c, 0);
  for (int64_t i = 0; i < args.n; ++i) {
    KD_CHECK(args.a[i] >= 0 && args.a[i] < args.c && args.b[i] >= 0 && args.b[i] < args.c, "joint_counts: labels {} and {} at {} are not both in [0,{})",
             args.a[i], args.b[i], i, args.c);
    ++args.counts[args.a[i] * args.c + args.b[i]];
  }
}

void metrics_soft_joint(Stream, const MetricsSoftJointArgs& args) {
  constexpr int64_t kRows = 1024, kBlock = 32;  // samples between two forks; samples whose q stays in cache while the table takes them in
  const int64_t c = args.c;
  std::vector<double> p(static_cast<size_t>(std::min(kRows, args.n) * c)), q(p.size());
  std::fill(args.joint, args.joint + c * c, 0.0);
  for (int64_t first = 0; first < args.n; first += kRows) {
    const int64_t rows = std::min(kRows, args.n - first);
    share(rows, row_grain(c), [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r) {
        const LogSoftmax log_p(args.a + (first + r) * c, c, 1), log_q(args.b + (first + r) * c, c, 1);
        for (int64_t i = 0; i < c; ++i) p[size_t(r * c + i)] = std::exp(log_p[i]) / double(args.n), q[size_t(r * c + i)] = std::exp(log_q[i]);
      }
    });
    share(c, std::max<int64_t>(1, kParallelGrain / (rows * c)), [&](int64_t begin, int64_t end) {
      for (int64_t block = 0; block < rows; block += kBlock)
        for (int64_t i = begin; i < end; ++i) {
          double* joint = args.joint + i * c;
          for (int64_t r = block; r < std::min(rows, block + kBlock); ++r) {
            const double weight = p[size_t(r * c + i)], *other = &q[size_t(r * c)];
            for (int64_t j = 0; j < c; ++j) joint[j] += weight * other[j];
          }
        }
    });
  }
}

void metrics_class_map(Stream, const MetricsClassMapArgs& args) {
  const int64_t k = args.k, positions = args.h * args.w;
  share(args.n, 1, [&](int64_t begin, int64_t end) {
    std::vector<double> direction(static_cast<size_t>(k));
    for (int64_t n = begin; n < end; ++n) {
      double offset = 0;
      std::fill(direction.begin(), direction.end(), 0.0);
      for (int64_t c = 0; c < args.c; ++c) {
        const double alpha = args.alpha[n * args.c + c];
        if (alpha == 0) continue;
        offset += alpha * args.bias[c];
        for (int64_t i = 0; i < k; ++i) direction[size_t(i)] += alpha * args.weight[c * k + i];
      }
      for (int64_t at = 0; at < positions; ++at) {
        const float* f = args.features + (n * positions + at) * k;
        double sum = 0;
        for (int64_t i = 0; i < k; ++i) sum += direction[size_t(i)] * f[i];
        args.map[n * positions + at] = float(offset + sum);
      }
    }
  });
}

void metrics_energy_map(Stream, const MetricsEnergyMapArgs& args) {
  const int64_t positions = args.n * args.h * args.w;
  share(positions, std::max<int64_t>(1, kParallelGrain / args.k), [&](int64_t begin, int64_t end) {
    for (int64_t at = begin; at < end; ++at) {
      const float* f = args.features + at * args.k;
      double sum = 0;
      for (int64_t i = 0; i < args.k; ++i) sum += double(f[i]) * f[i];
      args.map[at] = float(sum / double(args.k));
    }
  });
}

void metrics_upsample(Stream, const MetricsUpsampleArgs& args) {
  const int64_t pixels = args.px * args.px;
  share(args.n, 1, [&](int64_t begin, int64_t end) {
    Upsampler up(args.h, args.w, args.px);
    for (int64_t n = begin; n < end; ++n) {
      up.run(args.map + n * args.h * args.w);
      const double shift = args.scale == MapScale::unit ? up.min() : 0, divisor = args.scale == MapScale::unit ? unit_range(up.min(), up.max()) : 1;
      for (int64_t i = 0; i < pixels; ++i) args.out[n * pixels + i] = float((up.values()[size_t(i)] - shift) / divisor);
    }
  });
}

void metrics_mask_counts(Stream, const MetricsMaskArgs& args) {
  const int masks = args.models + (args.truth ? 1 : 0);
  KD_CHECK(args.models >= 1 && masks <= kMaxMasks, "mask_counts: {} masks where 1 to {} are possible", masks, kMaxMasks);
  KD_CHECK(args.cuts >= 1 && args.cuts <= kMaxThresholds, "mask_counts: {} thresholds where 1 to {} are possible", args.cuts, kMaxThresholds);
  const int64_t pixels = args.px * args.px;
  share(args.n, 1, [&](int64_t begin, int64_t end) {
    std::vector<Upsampler> upsamplers;
    for (int m = 0; m < args.models; ++m) upsamplers.emplace_back(args.maps[m].h, args.maps[m].w, args.px);
    std::vector<uint8_t> bits(static_cast<size_t>(pixels));  // bit m of a pixel: inside mask m
    const uint8_t every = uint8_t((1 << masks) - 1);
    for (int64_t n = begin; n < end; ++n) {
      bool finite = true;
      for (int m = 0; m < args.models; ++m) {
        const auto& [data, h, w] = args.maps[m];
        const float* map = data + n * h * w;
        finite = finite && std::all_of(map, map + h * w, [](float v) { return std::isfinite(v); });
        upsamplers[size_t(m)].run(map);
      }
      MaskCounts counts;
      auto mark = [&](int m, auto inside) {
        int64_t area = 0;
        for (int64_t i = 0; i < pixels; ++i) {
          const bool in = inside(i);
          bits[size_t(i)] |= uint8_t(in << m);
          area += in;
        }
        counts.area[m] = area;
      };
      for (int t = 0; t < args.cuts; ++t) {
        counts = {0, 0, {}};
        std::fill(bits.begin(), bits.end(), uint8_t(0));
        for (int m = 0; m < args.models; ++m) {
          const Upsampler& up = upsamplers[size_t(m)];
          const double *value = up.values().data(), cut = mask_cut(up.min(), up.max(), args.thresholds[t]);
          mark(m, [=](int64_t i) { return value[i] > cut; });
        }
        if (args.truth) mark(args.models, [inside = args.truth + n * pixels](int64_t i) { return inside[i] != 0; });
        for (uint8_t b : bits) counts.any += b != 0, counts.all += b == every;
        if (!finite) counts.all = counts.any = -1;
        args.out[n * args.cuts + t] = counts;
      }
    }
  });
}

}  // namespace cpu

KD_KERNEL(metrics_logit_records, MetricsLogitArgs)
KD_KERNEL(metrics_pair_records, MetricsPairArgs)
KD_KERNEL(metrics_joint_counts, MetricsJointCountsArgs)
KD_KERNEL(metrics_soft_joint, MetricsSoftJointArgs)
KD_KERNEL(metrics_class_map, MetricsClassMapArgs)
KD_KERNEL(metrics_energy_map, MetricsEnergyMapArgs)
KD_KERNEL(metrics_upsample, MetricsUpsampleArgs)
KD_KERNEL(metrics_mask_counts, MetricsMaskArgs)

}  // namespace kd
