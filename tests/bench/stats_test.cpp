// Statistics against hand-computed values, numpy 2.4 and scipy 1.17 (rankdata, lstsq, corrcoef, spearmanr, t.interval), and exact enumeration of resamples.
#include "bench/stats.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "engine/base/rng.h"

namespace kd {
namespace {

testing::AssertionResult is_close(double got, double want, double tolerance) {
  if (std::isfinite(got) && std::fabs(got - want) <= tolerance) return testing::AssertionSuccess();
  return testing::AssertionFailure() << got << " where " << want << " +- " << tolerance << " is expected";
}
#define EXPECT_CLOSE(got, want, tolerance) EXPECT_TRUE(is_close(got, want, tolerance)) << #got " "

const double kNaN = std::nan("");
const std::vector<double> kX{0.61, 0.55, 0.58, 0.47, 0.52, 0.44, 0.49, 0.55}, kY{71.2, 72.9, 71.8, 73.1, 74.0, 73.6, 73.1, 72.0},
    kE{78.0, 79.5, 78.4, 80.2, 80.0, 80.9, 79.1, 78.9}, kT{75.0, 76.1, 75.2, 77.3, 75.2, 77.0, 76.4, 75.9};

// ---- intervals

TEST(Interval, UnknownExcludesNothing) {
  const Interval unknown, half{0.5, kNaN}, above{0.5, 1};
  for (const Interval& i : {unknown, half}) {
    EXPECT_FALSE(i.known());
    EXPECT_FALSE(i.excludes(0));
    EXPECT_FALSE(i.inside(-10, 10));
    EXPECT_EQ(to_string(i, 2), "");
  }
  EXPECT_TRUE(above.excludes(0) && above.excludes(2) && !above.excludes(0.5) && !above.excludes(0.7));
  EXPECT_TRUE(above.inside(0, 1.5) && !above.inside(0.6, 1.5) && !above.inside(0, 0.9));
  EXPECT_EQ(to_string(Interval{-0.5, 1}, 2), "−0.50 to +1.00");
}

// ---- means

TEST(Mean, ThreeValuesByHand) {
  const Estimate e = mean_estimate({2, kNaN, 3, 4});
  EXPECT_EQ(e.n, 3);
  EXPECT_CLOSE(e.value, 3, 1e-12);
  // 27 equally likely resamples: the smallest value three times has probability 1/27 > 2.5 %, so the interval is the range.
  EXPECT_CLOSE(e.bootstrap.lo, 2, 1e-12);
  EXPECT_CLOSE(e.bootstrap.hi, 4, 1e-12);
  EXPECT_CLOSE(e.parametric.lo, 3 - 4.302653 / std::sqrt(3), 1e-4);
  EXPECT_CLOSE(e.parametric.hi, 3 + 4.302653 / std::sqrt(3), 1e-4);
}

TEST(Mean, FourAndTenValues) {
  const Estimate four = mean_estimate({0.2, 1.1, 0.7, 2.9});  // the 7th and the 250th of all 256 resamples
  EXPECT_CLOSE(four.bootstrap.lo, 0.425, 1e-9);
  EXPECT_CLOSE(four.bootstrap.hi, 2.35, 1e-9);
  EXPECT_CLOSE(four.parametric.lo, -0.64595637, 1e-4);
  EXPECT_CLOSE(four.parametric.hi, 3.09595637, 1e-4);
  const Estimate ten = mean_estimate({0.2, 1.1, 0.7, 2.9, -.4, 1.9, .8, 1.3, 0.05, 2.2});
  EXPECT_CLOSE(ten.bootstrap.lo, 0.49, 0.03);  // numpy, two million resamples; 10,000 have a Monte Carlo error of 0.007
  EXPECT_CLOSE(ten.bootstrap.hi, 1.69, 0.03);
  EXPECT_CLOSE(ten.parametric.lo, 0.33863976, 1e-4);
  EXPECT_CLOSE(ten.parametric.hi, 1.81136024, 1e-4);
}

TEST(Mean, TooFewValuesHaveNoInterval) {
  EXPECT_TRUE(std::isnan(mean_estimate({}).value));
  EXPECT_TRUE(std::isnan(mean_estimate({kNaN}).value));
  const Estimate one = mean_estimate({7}), two = mean_estimate({1, 2});
  EXPECT_EQ(one.value, 7);
  EXPECT_FALSE(one.bootstrap.known() || one.parametric.known() || two.bootstrap.known());
  EXPECT_CLOSE(two.parametric.hi, 1.5 + 12.7062 * 0.5, 1e-4);
}

TEST(Mean, SameNumbersSameBitsAndSignsFlip) {
  const std::vector<double> values{0.3, 1.7, -0.2, 0.9, 1.1};
  std::vector<double> negative;
  for (double v : values) negative.push_back(-v);
  const Estimate a = mean_estimate(values), again = mean_estimate(values), b = mean_estimate(negative);
  EXPECT_EQ(a.bootstrap.lo, again.bootstrap.lo);
  EXPECT_EQ(a.bootstrap.hi, again.bootstrap.hi);
  EXPECT_CLOSE(a.bootstrap.lo, -b.bootstrap.hi, 1e-12);
  EXPECT_CLOSE(a.bootstrap.hi, -b.bootstrap.lo, 1e-12);
}

TEST(Mean, CoverageIsWhatTheDocumentSays) {
  // Of the mean of three normal values: the range covers it in 75 %, Student's t in 95 %.
  int range = 0, t = 0;
  constexpr int kTrials = 400;
  for (uint32_t trial = 0; trial < kTrials; ++trial) {
    Rng rng(5, Purpose::test, trial);
    const Estimate e = mean_estimate({rng.normal(), rng.normal(), rng.normal()});
    range += !e.bootstrap.excludes(0), t += !e.parametric.excludes(0);
  }
  EXPECT_NEAR(range / double(kTrials), 0.75, 0.07);
  EXPECT_NEAR(t / double(kTrials), 0.95, 0.04);
}

TEST(Percentile, BetweenOrderStatistics) {
  const std::vector<double> values{3.0, 1.0, 4.0, 1.5, 9.0};
  EXPECT_CLOSE(percentile(values, 0.025), 1.05, 1e-12);  // numpy.percentile
  EXPECT_CLOSE(percentile(values, 0.5), 3, 1e-12);
  EXPECT_CLOSE(percentile(values, 0.975), 8.5, 1e-12);
  EXPECT_EQ(percentile(values, 1), 9);
  EXPECT_TRUE(std::isnan(percentile({}, 0.5)));
  EXPECT_TRUE(std::isnan(percentile({1, kNaN}, 0.5)));
}

TEST(PairedDifferences, OnlySeedsThatBothHave) {
  EXPECT_EQ(paired_differences({{1, 5.0}, {2, 7.0}, {3, kNaN}, {4, 1.0}}, {{4, 3.0}, {2, 6.0}, {3, 1.0}, {9, 0.0}}), (std::vector<double>{1, -2}));
  EXPECT_TRUE(paired_differences({{1, 5.0}}, {{2, 5.0}}).empty());
}

// ---- regression

TEST(LeastSquares, NumpyAgrees) {
  const std::vector<double> b = least_squares(kY, {kE, kT});
  ASSERT_EQ(b.size(), 3u);
  EXPECT_CLOSE(b[0], 11.923043001295648, 1e-8);
  EXPECT_CLOSE(b[1], 1.080789418890493, 1e-10);
  EXPECT_CLOSE(b[2], -0.32886963493804744, 1e-10);
  const std::vector<double> r = residuals(kY, {kE, kT});
  EXPECT_CLOSE(r[0], -0.35939505, 1e-7);
  EXPECT_CLOSE(r[1], 0.08117742, 1e-7);
  const std::vector<double> line = least_squares({1, 3, 5}, {{0, 1, 2}});
  EXPECT_CLOSE(line[0], 1, 1e-12);
  EXPECT_CLOSE(line[1], 2, 1e-12);
}

TEST(LeastSquares, UndeterminedIsNotANumber) {
  std::vector<double> twice = kE;
  for (double& v : twice) v = 2 * v + 3;
  using Columns = std::vector<std::vector<double>>;
  for (const Columns& columns : {Columns{kE, twice}, Columns{std::vector<double>(8, 4.0)}})
    for (double b : least_squares(kY, columns)) EXPECT_TRUE(std::isnan(b));
  EXPECT_TRUE(std::isnan(least_squares({1}, {{1}})[0]));
  EXPECT_TRUE(std::isnan(least_squares({1, 2, kNaN}, {{1, 2, 4}})[0]));
}

// ---- correlations

TEST(Correlation, ScipyAgrees) {
  EXPECT_CLOSE(pearson(kX, kY), -0.8040787162204204, 1e-12);
  EXPECT_CLOSE(spearman(kX, kY), -0.8433734939759037, 1e-12);
  EXPECT_CLOSE(partial_correlation(Correlation::pearson, kX, kY, {kE}), -0.07525937677068063, 1e-10);
  EXPECT_CLOSE(partial_correlation(Correlation::pearson, kX, kY, {kE, kT}), -0.5647422957921479, 1e-10);
  EXPECT_CLOSE(partial_correlation(Correlation::spearman, kX, kY, {kE}), -0.23683926910368142, 1e-10);
  EXPECT_CLOSE(partial_correlation(Correlation::spearman, kX, kY, {kE, kT}), -0.7611273955074587, 1e-10);
  // The same from its parts.
  EXPECT_CLOSE(pearson(residuals(kX, {kE, kT}), residuals(kY, {kE, kT})), -0.5647422957921479, 1e-10);
  EXPECT_CLOSE(pearson(residuals(mean_ranks(kX), {mean_ranks(kE)}), residuals(mean_ranks(kY), {mean_ranks(kE)})), -0.23683926910368142, 1e-10);
}

TEST(Correlation, TiesByHand) {
  EXPECT_EQ(mean_ranks({1, 2, 2, 3}), (std::vector<double>{1, 2.5, 2.5, 4}));
  EXPECT_CLOSE(spearman({1, 2, 2, 3}, {1, 3, 2, 4}), 4.5 / std::sqrt(4.5 * 5), 1e-12);  // ranks 1 2.5 2.5 4 and 1 3 2 4
  EXPECT_CLOSE(spearman({1, 2, 3}, {30, 20, 10}), -1, 1e-12);
  EXPECT_CLOSE(spearman({1, 2, 3, 4}, {1, 10, 100, 1000}), 1, 1e-12);
}

TEST(Correlation, WhatHasNoneIsNotANumber) {
  for (Correlation kind : {Correlation::pearson, Correlation::spearman}) {
    auto of = [&](const std::vector<double>& a, const std::vector<double>& b, const std::vector<std::vector<double>>& given = {}) {
      return partial_correlation(kind, a, b, given);
    };
    EXPECT_TRUE(std::isnan(of({1, 2}, {1, 2})));
    EXPECT_TRUE(std::isnan(of({1, 2, 3}, {5, 5, 5})));
    EXPECT_TRUE(std::isnan(of({0.1, 0.1, 0.1, 0.1}, {1, 2, 3, 4})));
    EXPECT_TRUE(std::isnan(of({1, 2, kNaN}, {1, 2, 3})));
    EXPECT_TRUE(std::isnan(of({1, 2, 4}, {1, 3, 2}, {{2, 1, 3}}))) << "three points and one confounder always give 1 or -1";
    EXPECT_TRUE(std::isnan(of(kX, kY, {kX}))) << "nothing of x is left";
    EXPECT_CLOSE(of(kX, kY, {kE, std::vector<double>(8, 4.0)}), of(kX, kY, {kE}), 1e-12) << "a constant confounder";
    EXPECT_CLOSE(of(kX, kY, {kE, kE}), of(kX, kY, {kE}), 1e-9) << "the same confounder twice";
  }
}

TEST(Correlation, FishersInterval) {
  const auto [lo, hi] = spearman_interval(0.5, 28);
  EXPECT_CLOSE(lo, std::tanh(std::atanh(0.5) - 1.959964 * std::sqrt(1.06 / 25)), 1e-9);
  EXPECT_CLOSE(hi, std::tanh(std::atanh(0.5) + 1.959964 * std::sqrt(1.06 / 25)), 1e-9);
  EXPECT_CLOSE(spearman_interval(0.5, 29, 1).lo, lo, 1e-12);
  EXPECT_FALSE(spearman_interval(0.5, 3).known() || spearman_interval(0.5, 4, 1).known() || spearman_interval(kNaN, 30).known());
}

// Six units of two rows each; a unit's x is its own.
std::vector<Observation> clustered(double sign = 1) {
  const double x[] = {.60, .55, .52, .50, .45, .41}, y[] = {70., 71.5, 72., 70.4, 71.9, 72.3, 71.0, 73.2, 73., 72.8, 74.1, 72.6};
  std::vector<Observation> rows;
  for (size_t i = 0; i < 12; ++i) rows.push_back({x[i / 2], sign * y[i], {}, int64_t(100 + i / 2)});
  return rows;
}

TEST(CorrelationEstimate, ResamplesUnitsNotRows) {
  const Estimate e = correlation_estimate(Correlation::spearman, clustered());
  EXPECT_EQ(e.n, 6);
  EXPECT_CLOSE(e.value, -0.7774288420142416, 1e-12);
  // All resamples of six units, by scipy: 2.3 % lie at -0.932505 or below, 0.914035 comes next; 97.4 % at -0.346844, 97.5 % at -0.326377.
  EXPECT_CLOSE(e.bootstrap.lo, -0.923, 0.0095);
  EXPECT_CLOSE(e.bootstrap.hi, -0.33, 0.05);
  EXPECT_CLOSE(e.parametric.hi, spearman_interval(e.value, 6).hi, 1e-12);
  std::vector<Observation> single = clustered();
  for (size_t i = 0; i < single.size(); ++i) single[i].unit = int64_t(i);
  const Estimate rows = correlation_estimate(Correlation::spearman, single);
  EXPECT_LT(rows.parametric.hi - rows.parametric.lo, e.parametric.hi - e.parametric.lo) << "twelve units know more than six";
  const Estimate flipped = correlation_estimate(Correlation::spearman, clustered(-1));
  EXPECT_CLOSE(flipped.value, -e.value, 1e-12);
  EXPECT_CLOSE(flipped.bootstrap.lo, -e.bootstrap.hi, 1e-9);
}

TEST(CorrelationEstimate, AWeightedRowIsARowRepeated) {
  // Only unit 0 and copies of it: the estimate of repeated rows is spearman's of the same list.
  std::vector<Observation> rows = clustered();
  std::vector<double> x, y;
  for (const Observation& o : rows)
    for (int k = 0; k < int(o.unit % 3); ++k) x.push_back(o.x), y.push_back(o.y);
  std::vector<Observation> repeated;
  for (size_t i = 0; i < x.size(); ++i) repeated.push_back({x[i], y[i], {}, int64_t(i)});
  EXPECT_CLOSE(correlation_estimate(Correlation::spearman, repeated).value, spearman(x, y), 1e-12);
}

TEST(CorrelationEstimate, FewUnitsHaveNoInterval) {
  std::vector<Observation> rows;
  for (int64_t i = 0; i < 12; ++i) rows.push_back({double(i), double(i), {double(i * i % 7)}, i % 4});
  const Estimate four = correlation_estimate(Correlation::pearson, rows);
  EXPECT_EQ(four.n, 4);
  EXPECT_CLOSE(four.value, 1, 1e-12);
  EXPECT_FALSE(four.bootstrap.known() || four.parametric.known()) << "a perfect order of four units is no evidence";
  for (Observation& o : rows) o.unit = int64_t(o.x) % 5;
  EXPECT_FALSE(correlation_estimate(Correlation::pearson, rows).bootstrap.known()) << "one more for the confounder";
  for (Observation& o : rows) o.given.clear();
  EXPECT_TRUE(correlation_estimate(Correlation::pearson, rows).bootstrap.known());
  rows[0].y = kNaN;
  EXPECT_TRUE(std::isfinite(correlation_estimate(Correlation::pearson, rows).value)) << "the incomplete row is left out";
  EXPECT_TRUE(std::isnan(correlation_estimate(Correlation::pearson, {}).value));
  for (Observation& o : rows) o.y = 3;
  EXPECT_TRUE(std::isnan(correlation_estimate(Correlation::pearson, rows).value));
}

// ---- adjusted differences

std::vector<Observation> blocks() {
  const double x[] = {0, .5, 1}, y[] = {70.0, 70.9, 71.5, 68.9, 70.1, 70.6, 71.2, 71.7, 73.0}, g[] = {77., 77.6, 78.1, 76.2, 77.5, 77.3, 78.0, 78.1, 79.2};
  std::vector<Observation> rows;
  for (size_t i = 0; i < 9; ++i) rows.push_back({x[i % 3], y[i], {g[i]}, int64_t(i / 3)});
  return rows;
}

TEST(AdjustedDifference, NumpyAgrees) {
  const Estimate e = adjusted_difference(blocks());  // lstsq with a column for each unit, t from its jackknife
  EXPECT_EQ(e.n, 3);
  EXPECT_CLOSE(e.value, 1.0032520325203105, 1e-9);
  EXPECT_CLOSE(e.parametric.lo, -0.1892936, 1e-4);
  EXPECT_CLOSE(e.parametric.hi, 2.1957977, 1e-4);
  EXPECT_CLOSE(e.bootstrap.lo, 0.5974359, 1e-6);  // of the 24 resamples with more than one unit: one alone has no degree of freedom left
  EXPECT_CLOSE(e.bootstrap.hi, 1.1338164, 1e-6);
}

TEST(AdjustedDifference, FindsThePlantedCoefficient) {
  // y = 3 x + 2 g + level: whatever g does, x has 3.
  std::vector<Observation> rows = blocks();
  for (Observation& o : rows) o.y = 3 * o.x + 2 * o.given[0] + 10 * double(o.unit);
  EXPECT_CLOSE(adjusted_difference(rows).value, 3, 1e-9);
  for (Observation& o : rows) o.y = 2 * o.given[0] - 7 * double(o.unit);
  EXPECT_CLOSE(adjusted_difference(rows).value + 1, 1, 1e-9) << "g explains everything";
  for (Observation& o : rows) o.given[0] = 4 * o.x + double(o.unit);
  EXPECT_TRUE(std::isnan(adjusted_difference(rows).value)) << "g says no more than x";
  for (Observation& o : rows) o.given.clear(), o.x = 1;
  EXPECT_TRUE(std::isnan(adjusted_difference(rows).value)) << "x never changes";
  EXPECT_TRUE(std::isnan(adjusted_difference({}).value));
  EXPECT_TRUE(std::isnan(adjusted_difference({{0, 1, {2}, 0}, {1, 2, {3}, 0}}).value)) << "no degree of freedom";
}

}  // namespace
}  // namespace kd
