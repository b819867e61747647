#include "bench/stats.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "engine/base/check.h"
#include "engine/base/rng.h"

namespace kd {
namespace {

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();
// What is left of a sum of squares when it should be 0: columns are sums of up to thousands of doubles.
constexpr double kZeroShare = 1e-10;
constexpr uint64_t kBootstrapSeed = 240500739;

// How often each of `units` is drawn in each resample: [kResamples, units]. The same for every statistic, so made once.
const std::vector<uint16_t>& draws(int64_t units) {
  KD_CHECK(units < 1 << 16, "{} units", units);
  thread_local std::map<int64_t, std::vector<uint16_t>> made;
  std::vector<uint16_t>& times = made[units];
  if (!times.empty()) return times;
  times.assign(size_t(kResamples * units), 0);
  for (int64_t r = 0; r < kResamples; ++r) {
    Rng rng(kBootstrapSeed, Purpose::bootstrap, uint32_t(r));
    for (int64_t i = 0; i < units; ++i) ++times[size_t(r * units + rng.below(uint32_t(units)))];
  }
  return times;
}

// The percentile interval of a statistic of how often each unit was drawn.
template <class Statistic>
Interval bootstrap(int64_t units, Statistic statistic) {
  const std::vector<uint16_t>& drawn = draws(units);
  std::vector<double> values, times;
  for (auto row = drawn.begin(); row != drawn.end(); row += units) {
    times.assign(row, row + units);
    if (const double value = statistic(times); std::isfinite(value)) values.push_back(value);
  }
  if (int64_t(values.size()) * 2 < kResamples) return {};
  return {percentile(values, 0.025), percentile(std::move(values), 0.975)};
}

Interval fisher_interval(double r, double variance) {
  const double z = std::atanh(std::clamp(r, -1 + 1e-12, 1 - 1e-12)), half = 1.959964 * std::sqrt(variance);
  return {std::tanh(z - half), std::tanh(z + half)};
}

// Columns whose correlation is asked for again and again with other weights. A row of weight w counts as w equal rows.
class Columns {
 public:
  Columns(Correlation kind, std::vector<std::vector<double>> columns) : kind_(kind), columns_(std::move(columns)) {
    if (kind == Correlation::pearson) return;
    for (const auto& column : columns_) {
      std::vector<size_t> order(column.size());
      std::iota(order.begin(), order.end(), size_t{0});
      std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return column[a] < column[b]; });
      orders_.push_back(std::move(order));
    }
  }

  // Of the first two columns given the others.
  double correlation(const std::vector<double>& weights) const {
    const size_t n = weights.size(), k = columns_.size() - 2;
    if (size_t(std::count_if(weights.begin(), weights.end(), [](double w) { return w > 0; })) < 3 + k) return kNaN;
    auto& centred = centred_;
    auto& squares = squares_;
    centred.resize(columns_.size()), squares.resize(columns_.size());
    for (size_t c = 0; c < columns_.size(); ++c) {
      std::vector<double>& column = centred[c];
      column = columns_[c];
      if (kind_ == Correlation::spearman) rank(c, weights, column);
      double sum = 0, total = 0, size = 0;
      for (size_t i = 0; i < n; ++i) {
        sum += weights[i] * column[i], total += weights[i];
        if (weights[i] > 0) size = std::max(size, std::abs(column[i]));
      }
      for (double& v : column) v -= sum / total;
      squares[c] = product(column, column, weights);
      // Constant up to the rounding of its mean.
      if (squares[c] <= total * size * size * 1e-24) squares[c] = 0;
    }
    // Gram-Schmidt: the confounders one after the other out of all that come before them in `centred` and after them.
    for (size_t g = 2; g < centred.size(); ++g) {
      const double square = product(centred[g], centred[g], weights);
      if (square <= kZeroShare * squares[g]) continue;
      for (size_t c = 0; c < centred.size(); ++c) {
        if (c == g || (c > 1 && c < g)) continue;
        const double share = product(centred[g], centred[c], weights) / square;
        for (size_t i = 0; i < n; ++i) centred[c][i] -= share * centred[g][i];
      }
    }
    const double aa = product(centred[0], centred[0], weights), bb = product(centred[1], centred[1], weights);
    if (aa <= kZeroShare * squares[0] || bb <= kZeroShare * squares[1] || squares[0] == 0 || squares[1] == 0) return kNaN;
    return std::clamp(product(centred[0], centred[1], weights) / std::sqrt(aa * bb), -1.0, 1.0);
  }

 private:
  static double product(const std::vector<double>& a, const std::vector<double>& b, const std::vector<double>& weights) {
    double sum = 0;
    for (size_t i = 0; i < a.size(); ++i) sum += weights[i] * a[i] * b[i];
    return sum;
  }
  void rank(size_t c, const std::vector<double>& weights, std::vector<double>& out) const {
    const auto& column = columns_[c];
    const auto& order = orders_[c];
    double below = 0;
    for (size_t begin = 0, end; begin < order.size(); begin = end) {
      double tied = 0;
      for (end = begin; end < order.size() && column[order[end]] == column[order[begin]]; ++end) tied += weights[order[end]];
      for (size_t i = begin; i < end; ++i) out[order[i]] = below + (tied + 1) / 2;
      below += tied;
    }
  }

  Correlation kind_;
  std::vector<std::vector<double>> columns_;
  std::vector<std::vector<size_t>> orders_;
  mutable std::vector<std::vector<double>> centred_;  // scratch: ten thousand calls allocate nothing
  mutable std::vector<double> squares_;
};

bool all_finite(const std::vector<double>& values) {
  return std::all_of(values.begin(), values.end(), [](double v) { return std::isfinite(v); });
}

// Complete observations with units numbered from 0; returns how many units there are.
int64_t complete(std::vector<Observation>& rows) {
  for (const Observation& row : rows) KD_CHECK(row.given.size() == rows[0].given.size(), "{} and {} confounders", row.given.size(), rows[0].given.size());
  std::erase_if(rows, [](const Observation& o) { return !std::isfinite(o.x) || !std::isfinite(o.y) || !all_finite(o.given); });
  std::map<int64_t, int64_t> numbers;
  for (Observation& row : rows) row.unit = numbers.try_emplace(row.unit, int64_t(numbers.size())).first->second;
  return int64_t(numbers.size());
}

}  // namespace

bool Interval::known() const { return std::isfinite(lo) && std::isfinite(hi); }
bool Interval::excludes(double value) const { return known() && (lo > value || hi < value); }
bool Interval::inside(double from, double to) const { return known() && lo > from && hi < to; }

std::string with_sign(double value, int decimals) {
  std::string text = fmt::format("{:+.{}f}", value, decimals);
  return text[0] == '-' ? text.replace(0, 1, "−") : text;
}
std::string to_string(Interval interval, int decimals) {
  return interval.known() ? with_sign(interval.lo, decimals) + " to " + with_sign(interval.hi, decimals) : std::string();
}

double student_t975(int64_t freedom) {
  KD_CHECK(freedom >= 1, "student_t975: {} degrees of freedom", freedom);
  // For 1 to 30 from the table; beyond, the first two terms of the Cornish-Fisher expansion (error below 1e-4).
  constexpr double kQuantiles[] = {12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281, 2.2010, 2.1788, 2.1604, 2.1448, 2.1314,
                                   2.1199,  2.1098, 2.1009, 2.0930, 2.0860, 2.0796, 2.0739, 2.0687, 2.0639, 2.0595, 2.0555, 2.0518, 2.0484, 2.0452, 2.0423};
  if (freedom <= 30) return kQuantiles[freedom - 1];
  constexpr double z = 1.959964;
  const double nu = double(freedom);
  return z + (z * z * z + z) / (4 * nu) + (5 * std::pow(z, 5) + 16 * z * z * z + 3 * z) / (96 * nu * nu);
}

double percentile(std::vector<double> values, double share) {
  KD_CHECK(share >= 0 && share <= 1, "percentile: share {}", share);
  if (values.empty() || !all_finite(values)) return kNaN;
  const double place = share * double(values.size() - 1), below = std::floor(place);
  const auto at = values.begin() + ptrdiff_t(below);
  std::nth_element(values.begin(), at, values.end());
  return at + 1 == values.end() ? *at : *at + (place - below) * (*std::min_element(at + 1, values.end()) - *at);
}

Estimate mean_estimate(const std::vector<double>& values) {
  std::vector<double> finite;
  std::copy_if(values.begin(), values.end(), std::back_inserter(finite), [](double v) { return std::isfinite(v); });
  const auto n = double(finite.size());
  Estimate out{.n = int64_t(finite.size())};
  if (finite.empty()) return out;
  out.value = std::accumulate(finite.begin(), finite.end(), 0.0) / n;
  if (finite.size() < 2) return out;
  double squares = 0;
  for (double v : finite) squares += (v - out.value) * (v - out.value);
  const double half = student_t975(out.n - 1) * std::sqrt(squares / (n - 1) / n);
  out.parametric = {out.value - half, out.value + half};
  if (finite.size() < 3) return out;
  out.bootstrap = bootstrap(out.n, [&](const std::vector<double>& times) {
    double sum = 0;
    for (size_t i = 0; i < finite.size(); ++i) sum += times[i] * finite[i];
    return sum / n;
  });
  return out;
}

std::vector<double> paired_differences(const std::map<int64_t, double>& a, const std::map<int64_t, double>& b) {
  std::vector<double> out;
  for (const auto& [seed, value] : a)
    if (auto other = b.find(seed); other != b.end() && std::isfinite(value) && std::isfinite(other->second)) out.push_back(value - other->second);
  return out;
}

std::vector<double> mean_ranks(const std::vector<double>& values) {
  std::vector<double> out;
  for (double v : values) {
    const auto below = std::count_if(values.begin(), values.end(), [=](double o) { return o < v; }), equal = std::count(values.begin(), values.end(), v);
    out.push_back(double(below) + double(equal + 1) / 2);
  }
  return out;
}

std::vector<double> least_squares(const std::vector<double>& y, const std::vector<std::vector<double>>& columns) {
  const size_t n = y.size(), p = columns.size() + 1;
  for (const auto& column : columns) KD_CHECK(column.size() == n, "least_squares: {} and {} values", column.size(), n);
  std::vector<double> coefficients(p, kNaN);
  if (n < p || !all_finite(y) || !std::all_of(columns.begin(), columns.end(), all_finite)) return coefficients;
  // QR by Gram-Schmidt, twice over each column for accuracy; the first column is the constant.
  std::vector<std::vector<double>> q, r(p, std::vector<double>(p, 0.0));
  for (size_t c = 0; c < p; ++c) {
    std::vector<double> v = c == 0 ? std::vector<double>(n, 1.0) : columns[c - 1];
    const double before = std::inner_product(v.begin(), v.end(), v.begin(), 0.0);
    for (int pass = 0; pass < 2; ++pass)
      for (size_t k = 0; k < q.size(); ++k) {
        const double share = std::inner_product(v.begin(), v.end(), q[k].begin(), 0.0);
        r[k][c] += share;
        for (size_t i = 0; i < n; ++i) v[i] -= share * q[k][i];
      }
    const double square = std::inner_product(v.begin(), v.end(), v.begin(), 0.0);
    if (!(square > before * 1e-20)) return coefficients;
    r[c][c] = std::sqrt(square);
    for (double& value : v) value /= r[c][c];
    q.push_back(std::move(v));
  }
  for (size_t c = p; c-- > 0;) {
    double sum = std::inner_product(q[c].begin(), q[c].end(), y.begin(), 0.0);
    for (size_t k = c + 1; k < p; ++k) sum -= r[c][k] * coefficients[k];
    coefficients[c] = sum / r[c][c];
  }
  return coefficients;
}

std::vector<double> residuals(const std::vector<double>& y, const std::vector<std::vector<double>>& columns) {
  const std::vector<double> b = least_squares(y, columns);
  std::vector<double> out;
  for (size_t i = 0; i < y.size(); ++i) {
    double fitted = b[0];
    for (size_t c = 0; c < columns.size(); ++c) fitted += b[c + 1] * columns[c][i];
    out.push_back(y[i] - fitted);
  }
  return out;
}

double partial_correlation(Correlation kind, const std::vector<double>& a, const std::vector<double>& b, const std::vector<std::vector<double>>& given) {
  std::vector<std::vector<double>> columns{a, b};
  columns.insert(columns.end(), given.begin(), given.end());
  for (const auto& column : columns) {
    KD_CHECK(column.size() == a.size(), "correlation: {} and {} values", a.size(), column.size());
    if (!all_finite(column)) return kNaN;
  }
  return Columns(kind, std::move(columns)).correlation(std::vector<double>(a.size(), 1.0));
}
double pearson(const std::vector<double>& a, const std::vector<double>& b) { return partial_correlation(Correlation::pearson, a, b, {}); }
double spearman(const std::vector<double>& a, const std::vector<double>& b) { return partial_correlation(Correlation::spearman, a, b, {}); }

Interval spearman_interval(double rho, size_t n, size_t confounders) {
  if (!std::isfinite(rho) || n < confounders + 4) return {};
  return fisher_interval(rho, 1.06 / double(n - confounders - 3));
}

Estimate correlation_estimate(Correlation kind, std::vector<Observation> rows) {
  Estimate out{.n = complete(rows)};
  if (rows.empty()) return out;
  const size_t k = rows[0].given.size();
  std::vector<std::vector<double>> columns(2 + k);
  for (const Observation& row : rows) {
    columns[0].push_back(row.x), columns[1].push_back(row.y);
    for (size_t g = 0; g < k; ++g) columns[2 + g].push_back(row.given[g]);
  }
  const Columns prepared(kind, std::move(columns));
  std::vector<double> weights(rows.size(), 1.0);
  out.value = prepared.correlation(weights);
  if (!std::isfinite(out.value) || out.n < kMinUnits + int64_t(k)) return out;
  out.parametric = fisher_interval(out.value, (kind == Correlation::spearman ? 1.06 : 1.0) / double(out.n - int64_t(k) - 3));
  out.bootstrap = bootstrap(out.n, [&](const std::vector<double>& times) {
    for (size_t i = 0; i < rows.size(); ++i) weights[i] = times[size_t(rows[i].unit)];
    return prepared.correlation(weights);
  });
  return out;
}

Estimate adjusted_difference(std::vector<Observation> rows) {
  Estimate out{.n = complete(rows)};
  if (rows.empty()) return out;
  const auto units = size_t(out.n);
  const size_t k = rows[0].given.size(), p = k + 2;  // the confounders, x, y
  // Sums of products about each unit's own means: its level is gone, and a unit that is drawn twice counts twice.
  std::vector<std::vector<double>> products(units, std::vector<double>(p * p, 0.0));
  std::vector<double> size(p, 0.0);
  for (size_t u = 0; u < units; ++u) {
    std::vector<std::vector<double>> values;
    std::vector<double> means(p, 0.0);
    for (const Observation& row : rows) {
      if (size_t(row.unit) != u) continue;
      values.push_back(row.given);
      values.back().insert(values.back().end(), {row.x, row.y});
      for (size_t c = 0; c < p; ++c) means[c] += values.back()[c], size[c] = std::max(size[c], std::abs(values.back()[c]));
    }
    for (const auto& v : values)
      for (size_t a = 0; a < p; ++a)
        for (size_t b = 0; b < p; ++b) products[u][a * p + b] += (v[a] - means[a] / double(values.size())) * (v[b] - means[b] / double(values.size()));
  }
  std::vector<size_t> rows_of(units, 0);
  for (const Observation& row : rows) ++rows_of[size_t(row.unit)];
  auto coefficient = [&](const std::vector<double>& times) {
    size_t drawn = 0, different = 0;
    for (size_t u = 0; u < units; ++u)
      if (times[u] > 0) ++drawn, different += rows_of[u];
    if (different < drawn + k + 2) return kNaN;
    std::vector<double> m(p * p, 0.0);
    for (size_t u = 0; u < units; ++u)
      for (size_t i = 0; i < p * p; ++i) m[i] += times[u] * products[u][i];
    std::vector<double> before;
    for (size_t c = 0; c < p; ++c) before.push_back(std::max(m[c * p + c], double(rows.size()) * size[c] * size[c] * 1e-20));
    for (size_t g = 0; g < k; ++g) {  // sweep the confounders out
      const double pivot = m[g * p + g];
      if (pivot <= kZeroShare * before[g]) continue;
      for (size_t a = g + 1; a < p; ++a) {
        const double share = m[a * p + g] / pivot;
        for (size_t b = g; b < p; ++b) m[a * p + b] -= share * m[g * p + b];
      }
    }
    const double xx = m[k * p + k];
    return xx > kZeroShare * before[k] ? m[k * p + k + 1] / xx : kNaN;
  };
  std::vector<double> times(units, 1.0);
  out.value = coefficient(times);
  if (!std::isfinite(out.value) || units < 3) return out;
  out.bootstrap = bootstrap(out.n, coefficient);
  std::vector<double> without;
  for (size_t u = 0; u < units; ++u) {
    times[u] = 0;
    without.push_back(coefficient(times));
    times[u] = 1;
  }
  const double mean = std::accumulate(without.begin(), without.end(), 0.0) / double(units);
  double squares = 0;
  for (double v : without) squares += (v - mean) * (v - mean);
  const double half = student_t975(out.n - 1) * std::sqrt(squares * double(units - 1) / double(units));
  if (std::isfinite(half)) out.parametric = {out.value - half, out.value + half};
  return out;
}

}  // namespace kd
