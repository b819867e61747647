#include "kernels/common/verified.h"

#include <gtest/gtest.h>

namespace kd {
namespace {

TEST(Verified, LinesSurviveTheirText) {
  const Verified line{"stem_fprop", "2026-01-31", "0a1b2c3", "NVIDIA H100 80GB HBM3"};
  std::vector<std::string> problems;
  EXPECT_EQ(parse_verified("# a comment\n\n  " + to_string(line) + "  # why\r\n" + to_string(line), "book", problems), (std::vector{line, line}));
  EXPECT_TRUE(problems.empty());
}

TEST(Verified, WhatIsNoLineIsLeftOutAndSaidOnce) {
  std::vector<std::string> problems;
  const auto lines = parse_verified(
      "stem_fprop 2026-01-31 0a1b2c3\nstem_infer 2026-01-31 0a1b2c3 NVIDIA H200\nstem_wgrad 31.1.2026 0a1b2c3 NVIDIA H200\n\x01\x02 x y z\n", "book", problems);
  ASSERT_EQ(lines.size(), 1u);
  EXPECT_EQ(lines[0].card, "NVIDIA H200");
  ASSERT_EQ(problems.size(), 1u);
  EXPECT_EQ(problems[0], "book:1: a kernel, a date, a commit and a card are needed; this and 2 more lines ignored");
  problems.clear();
  parse_verified("stem_wgrad 31.1.2026 0a1b2c3 NVIDIA H200", "book", problems);
  ASSERT_EQ(problems.size(), 1u);
  EXPECT_EQ(problems[0], "book:1: date '31.1.2026' is not YYYY-MM-DD; line ignored");
}

TEST(Verified, NothingIsVerifiedByItself) {
  EXPECT_FALSE(is_verified("stem_fprop", "no such card"));
  EXPECT_FALSE(is_verified("", ""));
}

}  // namespace
}  // namespace kd
