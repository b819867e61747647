// The profiler that KD_VERBOSE=1 turns on: what counts, what does not, and what the table says. Run with KD_VERBOSE=1 (CMakeLists.txt sees to it).
#include "engine/base/profile.h"

#include <gtest/gtest.h>

#include <iterator>
#include <set>
#include <sstream>
#include <thread>
#include <vector>

#include "tests/harness/error_of.h"

namespace kd {

struct ShapedArgs {
  int n;
};
static profile::Work work_of(const ShapedArgs& args) { return {"n" + std::to_string(args.n), 2e9 * args.n, 1e9 * args.n}; }
struct PlainArgs {};

namespace {

using profile::Call;
using profile::Window;

void spend(int milliseconds) { std::this_thread::sleep_for(std::chrono::milliseconds(milliseconds)); }

void shaped(int n, int milliseconds, const char* algorithm = "") {
  const ShapedArgs args{n};
  const Call call("shaped", {}, args);
  profile::algorithm(algorithm);
  spend(milliseconds);
}
void plain(Device device = Device::cpu) {
  const PlainArgs args;
  const Call call("plain", {device}, args);
  spend(1);
}

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream in(text);
  for (std::string line; std::getline(in, line);) lines.push_back(line);
  return lines;
}
// "op what   calls ms share ..." -> the words after the first 66 columns
std::vector<std::string> cells(const std::string& line) {
  std::istringstream in(line.size() > 66 ? line.substr(66) : "");
  return {std::istream_iterator<std::string>(in), {}};
}
std::string name_in(const std::string& line) { return line.substr(0, line.find_last_not_of(' ', 65) + 1); }

class Profile : public testing::Test {
 protected:
  void SetUp() override {
    if (!profile::enabled) GTEST_SKIP() << "run me with KD_VERBOSE=1";
    profile::take_table();
  }
};

TEST_F(Profile, CallsOfOneShapeAndAlgorithmShareARow) {
  for (int step = 0; step < 2; ++step) {
    Window window;
    shaped(3, 20, "winograd");
    shaped(3, 20, "winograd");
    shaped(3, 5, "direct");
    shaped(4, 5);
    plain();
    window.steps = 1;
  }
  const auto lines = lines_of(profile::take_table());
  ASSERT_EQ(lines.size(), 8u);
  EXPECT_EQ(name_in(lines[1]), "shaped");  // the slowest op first, and so its rows
  EXPECT_EQ(name_in(lines[2]), "  n3 winograd");
  EXPECT_EQ((std::set<std::string>{name_in(lines[3]), name_in(lines[4])}), (std::set<std::string>{"  n3 direct", "  n4"}));
  EXPECT_EQ(name_in(lines[5]), "plain");
  EXPECT_EQ(cells(lines[1])[0], "4");  // a step
  EXPECT_EQ(cells(lines[2])[0], "2");
  EXPECT_EQ(cells(lines[5])[0], "1");
  const auto row = cells(lines[2]);  // calls, ms, share, %, GFLOP/s, GB/s
  ASSERT_EQ(row.size(), 6u);
  EXPECT_GE(std::stod(row[1]), 40);
  EXPECT_NEAR(std::stod(row[4]) * std::stod(row[1]) / 1e3, 2 * 6, 0.05);  // 6 GFLOP a call
  EXPECT_NEAR(std::stod(row[5]) * std::stod(row[1]) / 1e3, 2 * 3, 0.05);
  EXPECT_EQ(cells(lines[5])[4], "-") << "nothing is known of its work";
  EXPECT_NE(lines[6].find("the rest"), std::string::npos);
  EXPECT_NE(lines[7].find("2 steps counted"), std::string::npos);
}

TEST_F(Profile, TheRestIsWhatNoCallExplains) {
  {
    Window window;
    shaped(1, 30);
    spend(30);
    window.steps = 1;
  }
  const auto lines = lines_of(profile::take_table());
  ASSERT_GE(lines.size(), 2u);
  const double explained = std::stod(lines.back().substr(std::string("explained: ").size()));
  EXPECT_GT(explained, 5);
  EXPECT_LT(explained, 95);
}

TEST_F(Profile, ACallInsideACallBelongsToTheOuterOne) {
  {
    Window window;
    const ShapedArgs args{1};
    const Call outer("outer", {}, args);
    plain();
    window.steps = 1;
  }
  const std::string table = profile::take_table();
  EXPECT_NE(table.find("\nouter "), std::string::npos);
  EXPECT_EQ(table.find("\nplain "), std::string::npos);
}

TEST_F(Profile, OnlyWhatHappensInAWindowOfThisThreadCounts) {
  plain();
  EXPECT_EQ(profile::take_table(), "KD_VERBOSE: no step was counted\n");
  {
    Window window;
    std::thread([] { plain(); }).join();
    window.steps = 1;
  }
  EXPECT_EQ(profile::take_table(), "KD_VERBOSE: no step was counted\n");
  EXPECT_NE(error_of([] {
              Window outer;
              Window inner;
            }).find("a profile window inside another"),
            std::string::npos);
}

TEST_F(Profile, ATableIsGivenOnce) {
  {
    Window window;
    plain();
    window.steps = 1;
  }
  EXPECT_NE(profile::take_table().find("\nplain "), std::string::npos);
  EXPECT_EQ(profile::take_table(), "KD_VERBOSE: no step was counted\n");
}

TEST_F(Profile, LaunchesOnCudaAreNotCounted) {
  {
    Window window;
    plain(Device::cuda);
    window.steps = 1;
  }
  EXPECT_NE(profile::take_table().find("launches on CUDA return before their work is done"), std::string::npos);
}

}  // namespace
}  // namespace kd
