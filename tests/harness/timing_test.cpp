#include "bench/timing.h"

#include <gtest/gtest.h>

#include <string>
#include <thread>

namespace kd::bench {
namespace {

TEST(Timing, PercentilesOfKnownSamples) {
  Spread s = spread_of({5, 1, 4, 2, 3, 6, 11, 8, 9, 10, 7});  // 1..11, shuffled
  EXPECT_DOUBLE_EQ(s.median, 6);
  EXPECT_DOUBLE_EQ(s.p10, 2);
  EXPECT_DOUBLE_EQ(s.p90, 10);
  EXPECT_EQ(s.runs, 11);
  Spread two = spread_of({1, 2});
  EXPECT_DOUBLE_EQ(two.median, 1.5);
  EXPECT_DOUBLE_EQ(two.p90, 1.9);
  EXPECT_DOUBLE_EQ(spread_of({3}).p10, 3);
  EXPECT_THROW(spread_of({}), Error);
}

TEST(Timing, WarmsUpOnceThenRunsAtLeastAsOftenAsAsked) {
  std::string order;
  Spread s = measure([&] { order += 'r'; }, 0, 3, [&] { order += 'b'; });
  EXPECT_EQ(order, "rbrbrbr");
  EXPECT_EQ(s.runs, 3);
  EXPECT_EQ(measure([] {}, 0, 0).runs, 1);
}

TEST(Timing, RunsForAsLongAsAskedAndTimesTheRunAlone) {
  using namespace std::chrono_literals;
  Spread s = measure([] { std::this_thread::sleep_for(2ms); }, 0.05, 1, [] { std::this_thread::sleep_for(6ms); });
  EXPECT_GE(s.runs, 2);
  EXPECT_LE(s.runs, 7);  // 8 ms a sample
  EXPECT_GE(s.p10, 0.002);
  EXPECT_LT(s.p10, 0.008) << "the time of `before` was counted";
}

}  // namespace
}  // namespace kd::bench
