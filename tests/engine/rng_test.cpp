#include "engine/base/rng.h"

#include <gtest/gtest.h>

#include <cmath>
#include <set>
#include <vector>

namespace kd {
namespace {

struct KnownAnswer {
  Philox4 counter;
  uint32_t key0, key1;
  Philox4 want;
};

// The philox4x32-10 vectors of the Random123 distribution (kat_vectors).
TEST(Philox, KnownAnswers) {
  const KnownAnswer answers[] = {
      {{{0, 0, 0, 0}}, 0, 0, {{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}}},
      {{{~0u, ~0u, ~0u, ~0u}}, ~0u, ~0u, {{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}}},
      {{{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}}, 0xa4093822, 0x299f31d0, {{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}}},
  };
  for (const KnownAnswer& a : answers) {
    Philox4 got = philox4x32(a.counter, a.key0, a.key1);
    for (int i = 0; i < 4; ++i) EXPECT_EQ(got.v[i], a.want.v[i]) << "word " << i << " for counter " << std::hex << a.counter.v[0];
  }
}

// Resuming depends on this layout: counter = (sample, epoch, purpose, draw / 4), key = the two halves of the seed.
TEST(Rng, CounterLayout) {
  const uint64_t seed = 0x0123456789abcdef;
  Rng rng(seed, Purpose::shuffle, 7, 11);
  for (uint32_t block = 0; block < 3; ++block) {
    Philox4 want = philox4x32({{7, 11, uint32_t(Purpose::shuffle), block}}, 0x89abcdef, 0x01234567);
    for (uint32_t word : want.v) EXPECT_EQ(rng.next_u32(), word);
  }
}

TEST(Rng, StreamsDiffer) {
  const Purpose purposes[] = {Purpose::weak_view, Purpose::strong_view, Purpose::base_view, Purpose::test_view, Purpose::shuffle,
                              Purpose::init,      Purpose::split,       Purpose::shapes,    Purpose::control,   Purpose::test};
  std::set<std::vector<uint32_t>> seen;
  int streams = 0;
  for (uint64_t seed : {uint64_t(1), uint64_t(2), uint64_t(1) << 32})
    for (Purpose purpose : purposes)
      for (uint32_t sample : {0u, 1u, 49999u})
        for (uint32_t epoch : {0u, 1u}) {
          Rng rng(seed, purpose, sample, epoch), again(seed, purpose, sample, epoch);
          std::vector<uint32_t> first_two{rng.next_u32(), rng.next_u32()};
          EXPECT_EQ(first_two, (std::vector<uint32_t>{again.next_u32(), again.next_u32()}));
          seen.insert(first_two);
          ++streams;
        }
  EXPECT_EQ(seen.size(), size_t(streams));
}

struct Moments {
  double mean = 0, variance = 0, third = 0, fourth = 0;  // central
};

template <class Draw>
Moments moments(int n, Draw&& draw) {
  std::vector<double> x(static_cast<size_t>(n));
  Moments m;
  for (double& v : x) v = draw(), m.mean += v / n;
  for (double v : x) {
    double d = v - m.mean;
    m.variance += d * d / n, m.third += d * d * d / n, m.fourth += d * d * d * d / n;
  }
  return m;
}

// Bounds below are five standard errors of the moment at this n; the seeds are fixed, so a pass stays a pass.
constexpr int kDraws = 200000;
const double kRootN = std::sqrt(double(kDraws));

TEST(Rng, UniformMoments) {
  Rng narrow(5, Purpose::test), wide(6, Purpose::test);
  for (bool use_double : {false, true}) {
    Moments m = moments(kDraws, [&] {
      double u = use_double ? wide.uniform_double() : double(narrow.uniform());
      EXPECT_TRUE(u >= 0 && u < 1) << u;
      return u;
    });
    EXPECT_NEAR(m.mean, 0.5, 5 * std::sqrt(1 / 12.0) / kRootN);
    EXPECT_NEAR(m.variance, 1 / 12.0, 5 * std::sqrt(1 / 180.0) / kRootN);
    EXPECT_NEAR(m.fourth, 1 / 80.0, 5 * std::sqrt(1 / 2304.0 - 1 / 6400.0) / kRootN);
  }
}

TEST(Rng, UniformUsesEveryBit) {
  Rng rng(8, Purpose::test);
  uint32_t ones = 0;
  uint64_t wide_ones = 0;
  for (int i = 0; i < 200; ++i) {
    ones |= uint32_t(std::ldexp(rng.uniform(), 24));
    wide_ones |= uint64_t(std::ldexp(rng.uniform_double(), 53));
  }
  EXPECT_EQ(ones, (1u << 24) - 1);
  EXPECT_EQ(wide_ones, (uint64_t(1) << 53) - 1);
}

TEST(Rng, UniformRangeAndCoin) {
  Rng rng(9, Purpose::test);
  Moments m = moments(kDraws, [&] {
    float x = rng.uniform(-3.f, 1.f);
    EXPECT_TRUE(x >= -3.f && x <= 1.f) << x;
    return double(x);
  });
  EXPECT_NEAR(m.mean, -1, 5 * std::sqrt(16 / 12.0) / kRootN);
  int heads = 0;
  for (int i = 0; i < kDraws; ++i) heads += rng.coin(0.3f);
  EXPECT_NEAR(heads / double(kDraws), 0.3, 5 * std::sqrt(0.21) / kRootN);
  for (int i = 0; i < 1000; ++i) {
    EXPECT_FALSE(rng.coin(0.f));
    EXPECT_TRUE(rng.coin(1.f));
  }
}

TEST(Rng, NormalMoments) {
  Rng rng(10, Purpose::test);
  int within_one = 0;
  Moments m = moments(kDraws, [&] {
    double z = rng.normal();
    EXPECT_TRUE(std::isfinite(z));
    within_one += std::fabs(z) < 1;
    return z;
  });
  EXPECT_NEAR(m.mean, 0, 5 / kRootN);
  EXPECT_NEAR(m.variance, 1, 5 * std::sqrt(2) / kRootN);
  EXPECT_NEAR(m.third, 0, 5 * std::sqrt(15) / kRootN);
  EXPECT_NEAR(m.fourth, 3, 5 * std::sqrt(96) / kRootN);
  EXPECT_NEAR(within_one / double(kDraws), std::erf(std::sqrt(0.5)), 5 * 0.4655 / kRootN);
}

double chi_square(const std::vector<int>& counts, double expected) {
  double sum = 0;
  for (int count : counts) sum += (count - expected) * (count - expected) / expected;
  return sum;
}

TEST(Rng, BelowIsUniform) {
  Rng rng(11, Purpose::test);
  std::vector<int> counts(7);
  for (int i = 0; i < 70000; ++i) {
    uint32_t k = rng.below(7);
    ASSERT_LT(k, 7u);
    ++counts[k];
  }
  double chi = chi_square(counts, 10000);
  EXPECT_LT(chi, 27.86);  // 99.99 % of chi-square with 6 degrees of freedom
  EXPECT_GT(chi, 0.2);    // 0.02 %: too even to be random
  for (int i = 0; i < 100; ++i) EXPECT_EQ(rng.below(1), 0u);
}

// With n = 3 * 2^30 a multiply without rejection would give residues 0, 1, 2 with shares 2:1:1.
TEST(Rng, BelowRejectsTheBiasedDraws) {
  Rng rng(12, Purpose::test);
  std::vector<int> counts(3);
  for (int i = 0; i < 30000; ++i) ++counts[rng.below(3u << 30) % 3];
  EXPECT_LT(chi_square(counts, 10000), 18.42);  // 99.99 %, 2 degrees of freedom
}

}  // namespace
}  // namespace kd
