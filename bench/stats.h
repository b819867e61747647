// stats: what a handful of seeds can say: means, correlations and adjusted differences, each with its 95 % intervals.
// The same numbers give the same intervals. What too few or constant values cannot say is NaN.
// Behind every interval stands an independent unit (a seed, a pair of teachers); runs that share one are resampled together.
#pragma once
#include <cstdint>
#include <limits>
#include <map>
#include <string>
#include <vector>

namespace kd {

struct Interval {
  double lo = std::numeric_limits<double>::quiet_NaN(), hi = lo;
  bool known() const;                         // neither end is NaN
  bool excludes(double value) const;          // an unknown interval excludes nothing ...
  bool inside(double from, double to) const;  // ... and lies nowhere
};
std::string with_sign(double value, int decimals);  // "+0.25", "−0.25" with a true minus
std::string to_string(Interval, int decimals);      // "+0.25 to +1.50", or "" when unknown

struct Estimate {
  double value = std::numeric_limits<double>::quiet_NaN();
  Interval bootstrap = {};   // percentiles 2.5 and 97.5 over kResamples resamples of the units
  Interval parametric = {};  // from Student's t or Fisher's z, see the functions; wider than the bootstrap's for few units
  int64_t n = 0;             // independent units
};
constexpr int64_t kResamples = 10'000;

// Student's t at 0.975.
double student_t975(int64_t freedom);
// Between order statistics linearly, as numpy.percentile does; share is 0 to 1. NaN for no values.
double percentile(std::vector<double> values, double share);

// The mean of what is finite. Bootstrap from 3 values on: over three it is the range of the values. Parametric: t, from 2 values on.
Estimate mean_estimate(const std::vector<double>& values);
// a - b for the seeds that both have, where both are finite; ordered by seed.
std::vector<double> paired_differences(const std::map<int64_t, double>& a, const std::map<int64_t, double>& b);

// Ranks from 1; ties get their mean rank.
std::vector<double> mean_ranks(const std::vector<double>& values);
// Coefficients of y = b0 + sum_k b_k columns[k], least squares; b0 first. NaN, all of them, where the columns do not determine them.
std::vector<double> least_squares(const std::vector<double>& y, const std::vector<std::vector<double>>& columns);
// y without what its regression on the columns explains.
std::vector<double> residuals(const std::vector<double>& y, const std::vector<std::vector<double>>& columns);

enum class Correlation { pearson, spearman };
// NaN for fewer than 3 points or a constant side.
double pearson(const std::vector<double>& a, const std::vector<double>& b);
double spearman(const std::vector<double>& a, const std::vector<double>& b);
// Of the residuals of a and b on the confounders (Spearman: of their ranks on the confounders' ranks). A confounder that is constant or follows from
// the others changes nothing. NaN for fewer than 3 points more than confounders, or when the confounders explain a side completely.
double partial_correlation(Correlation, const std::vector<double>& a, const std::vector<double>& b, const std::vector<std::vector<double>>& given);
// Fisher's z with variance 1.06 / (n - k - 3), k confounders (Fieller, Hartley & Pearson 1957); NaN for n < k + 4.
Interval spearman_interval(double rho, size_t n, size_t confounders = 0);

struct Observation {
  double x, y;
  std::vector<double> given = {};  // confounders, as many in every observation
  int64_t unit = 0;
};
// Of x and y given the confounders; observations with a number that is not finite are left out. Intervals from kMinUnits units on, and one more for each
// confounder: of fewer than five, not even a perfect order differs from chance at 5 %. Resamples without a correlation are left out; NaN when they
// are more than half. Parametric: Fisher's z with n the number of units (Pearson: variance 1 / (n - k - 3)).
constexpr int64_t kMinUnits = 5;
Estimate correlation_estimate(Correlation, std::vector<Observation>);

// The coefficient of x in y = level of the unit + b x + sum_k c_k given[k]: how much y differs between x = 0 and x = 1 within a unit, at equal
// confounders. NaN without a degree of freedom left (such resamples are left out) or when the confounders determine x. Intervals from 3 units on.
// Parametric: t of the jackknife that leaves out one unit.
Estimate adjusted_difference(std::vector<Observation>);

}  // namespace kd
