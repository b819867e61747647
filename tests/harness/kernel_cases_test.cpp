// kernel_cases: every case of every kernel family as a GoogleTest.
//   Check.<case>    the kernel's outputs against the oracle
//   Grad.<case>     the backward kernel against central differences of the oracle's forward
//   Bitwise.<case>  check run twice: the same bits both times
//   Emulated.<case> the CUDA kernel, run thread by thread on the CPU, against the oracle; then in three other orders of its threads: the same bits
//   Cuda.<case>     the same on a GPU, run twice; only where there is one, and KD_REQUIRE_CUDA=1 makes its absence a failure
// Case names hold ':', which separates patterns in --gtest_filter; write '?' instead: --gtest_filter='Check.conv?f32*'.
// The Harness tests at the top test the tester: each feeds it something wrong and expects a complaint.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <map>
#include <set>

#include "kernels/common/cases.h"
#include "simt/simt.h"

namespace kd::cases {
namespace {

const char* const kFamilies[] = {"conv", "batchnorm", "pool", "gemm", "pointwise", "kd_loss", "attention_loss", "metrics", "augment", "sgd", "stem"};

std::string family_of(const std::string& case_name) { return case_name.substr(0, case_name.find(':')); }

// An oracle that says zero nearly everywhere would also be satisfied by a kernel that writes nothing.
bool mostly_zeros(const Checked& c) {
  auto zeros = std::count(c.want.begin(), c.want.end(), 0.0);
  return 10 * zeros > 9 * int64_t(c.want.size());
}

// What the runs used of their tolerances; printed at the end, so that a tolerance grown too wide or nearly spent is seen while all passes.
class Ledger {
 public:
  void add(const std::string& test, const std::string& family, const Checked& c, double error) {
    Row& row = rows_[family];
    ++row.outputs;
    if (mostly_zeros(c)) mistrusted_.push_back(fmt::format("MISTRUSTED {}: over 90 % of the oracle's '{}' is zero", test, c.what));
    double share = c.tolerance > 0 ? error / c.tolerance : 0;  // tolerance 0 demands equality: nothing to spend
    if (share >= row.worst_share) row.worst_share = share, row.worst = fmt::format("{} '{}'", test, c.what);
  }
  const std::vector<std::string>& mistrusted() const { return mistrusted_; }
  std::string print() const {
    std::string text;
    for (const std::string& line : mistrusted_) text += line + "\n";
    if (!rows_.empty()) text += "family      outputs  tolerance used by the worst\n";
    for (const auto& [family, row] : rows_) text += fmt::format("{:<12}{:>6}{:>10.1f} %  {}\n", family, row.outputs, 100 * row.worst_share, row.worst);
    return text;
  }

 private:
  struct Row {
    int outputs = 0;
    double worst_share = 0;
    std::string worst;
  };
  std::map<std::string, Row> rows_;
  std::vector<std::string> mistrusted_;
};

Ledger& ledger() {
  static Ledger all;
  return all;
}

// Everything wrong with the outputs of one run, one line each; none means passed.
std::vector<std::string> complaints(const std::string& test, const std::string& case_name, const std::vector<Checked>& outputs, Ledger& book) {
  if (outputs.empty()) return {case_name + ": nothing was compared"};
  std::vector<std::string> wrong;
  for (const Checked& c : outputs) {
    // The error is relative to the largest expected value, so at tolerance 1 an output of zeros would pass.
    if (!(c.tolerance >= 0 && c.tolerance < 1))
      wrong.push_back(fmt::format("{}: {}: tolerance {} cannot tell right from wrong", case_name, c.what, c.tolerance));
    Verdict verdict = judge(c);
    if (!verdict.ok) wrong.push_back(case_name + ": " + verdict.message);
    book.add(test, family_of(case_name), c, verdict.error);
  }
  return wrong;
}

std::vector<std::string> bit_differences(const std::string& case_name, const std::vector<Checked>& first, const std::vector<Checked>& second) {
  if (first.empty() || first.size() != second.size()) return {fmt::format("{}: {} outputs, then {}", case_name, first.size(), second.size())};
  std::vector<std::string> wrong;
  for (size_t i = 0; i < first.size(); ++i) {
    const auto &a = first[i].got, &b = second[i].got;
    if (a.empty() || a.size() != b.size()) {
      wrong.push_back(fmt::format("{}: {} has {} values, then {}", case_name, first[i].what, a.size(), b.size()));
      continue;
    }
    size_t at = 0;
    while (at < a.size() && std::memcmp(&a[at], &b[at], sizeof a[at]) == 0) ++at;
    if (at < a.size()) wrong.push_back(fmt::format("{}: {}[{}] = {:.17g}, then {:.17g}", case_name, first[i].what, at, a[at], b[at]));
  }
  return wrong;
}

enum class Mode { check, grad, bitwise, emulated, cuda };
const char* suite_name(Mode mode) {
  constexpr const char* kNames[] = {"Check", "Grad", "Bitwise", "Emulated", "Cuda"};
  return kNames[size_t(mode)];
}

class CaseTest : public testing::Test {
 public:
  CaseTest(Mode mode, const Case& problem) : mode_(mode), problem_(problem) {}
  void TestBody() override {
    const std::string test = fmt::format("{}.{}", suite_name(mode_), problem_.name);
    const std::vector<std::string> wrong = run(test);
    for (const std::string& line : wrong) ADD_FAILURE() << line;
    if (!wrong.empty()) {
      std::string filter = test;
      std::replace(filter.begin(), filter.end(), ':', '?');
      ADD_FAILURE() << "again: test_kernels --gtest_filter='" << filter << "'";
    }
  }

 private:
  std::vector<std::string> run(const std::string& test) const {
    const std::string& name = problem_.name;
    switch (mode_) {
      case Mode::check: return complaints(test, name, problem_.check({}), ledger());
      case Mode::grad: return complaints(test, name, problem_.grad({}), ledger());
      case Mode::bitwise: return bit_differences(name, problem_.check({}), problem_.check({}));
      case Mode::emulated: {
        const Stream stream = current_stream(Device::emulated);
        release_cached_memory(Device::emulated);  // every launch opens and closes all of it: what no case needs any more only costs
        const auto first = problem_.check(stream);
        std::vector<std::string> wrong = complaints(test, name, first, ledger());
        for (int schedule : {1, 2, 3}) {
          simt::ScheduleScope scope(schedule);
          for (const std::string& line : bit_differences(name, first, problem_.check(stream))) wrong.push_back(fmt::format("schedule {}: {}", schedule, line));
        }
        return wrong;
      }
      case Mode::cuda: {
        const Stream stream = current_stream(Device::cuda);
        const auto first = problem_.check(stream);
        std::vector<std::string> wrong = complaints(test, name, first, ledger());
        for (std::string& line : bit_differences(name, first, problem_.check(stream))) wrong.push_back(std::move(line));
        return wrong;
      }
    }
    return {"no such mode"};
  }

  Mode mode_;
  Case problem_;
};

void register_cases(const Cases& all) {
  for (const Case& problem : all) {
    auto add = [&](Mode mode) {
      testing::RegisterTest(suite_name(mode), problem.name.c_str(), nullptr, nullptr, __FILE__, __LINE__, [=] { return new CaseTest(mode, problem); });
    };
    const bool on_cpu = runs_on(problem, Device::cpu);
    if (problem.check && on_cpu) add(Mode::check), add(Mode::bitwise);
    if (problem.grad && on_cpu) add(Mode::grad);
    if (problem.check && runs_on(problem, Device::emulated)) add(Mode::emulated);
    if (problem.check && is_available(Device::cuda) && runs_on(problem, Device::cuda)) add(Mode::cuda);
  }
}

// The table itself.

TEST(Cases, EveryFamilyHasACheckedCase) {
  std::map<std::string, int> checked;
  for (const Case& problem : all_cases()) checked[family_of(problem.name)] += problem.check ? 1 : 0;
  for (const char* family : kFamilies)
    EXPECT_GT(checked[family], 0) << "no case in kernels/" << family << "/" << family << "_cases.cpp compares the kernel with an oracle";
  EXPECT_EQ(checked.size(), std::size(kFamilies)) << "a case is named after a family that is not in kFamilies";
}

TEST(Cases, NamesAreUniqueAndEveryCaseDoesSomething) {
  std::set<std::string> names;
  for (const Case& problem : all_cases()) {
    EXPECT_TRUE(names.insert(problem.name).second) << "two cases named " << problem.name;
    EXPECT_EQ(problem.name.find_first_of(" \t\n*?"), std::string::npos) << "'" << problem.name << "' cannot be written in a filter";
    EXPECT_TRUE(problem.check || problem.grad || problem.perf) << problem.name << " has nothing to run";
  }
  EXPECT_FALSE(names.empty());
}

// The tester.

std::vector<std::string> verdict_on(const std::vector<Checked>& outputs) {
  Ledger scratch;
  return complaints("Check.harness:self", "harness:self", outputs, scratch);
}

constexpr double kNan = std::numeric_limits<double>::quiet_NaN(), kInf = std::numeric_limits<double>::infinity();

TEST(Harness, PassesWhatIsRight) {
  EXPECT_TRUE(verdict_on({{"y", {1, 2}, {1, 2}, 0}}).empty());
  EXPECT_TRUE(verdict_on({{"y", {1, 2.01}, {1, 2}, 0.01}}).empty());
}

TEST(Harness, FailsNanAndInfinity) {
  for (double bad : {kNan, kInf, -kInf}) {
    EXPECT_EQ(verdict_on({{"y", {1, bad}, {1, 2}, 0.1}}).size(), 1u) << bad;
    EXPECT_EQ(verdict_on({{"y", {1, 2}, {1, bad}, 0.1}}).size(), 1u) << bad;
    EXPECT_EQ(verdict_on({{"y", {1, bad}, {1, bad}, 0.1}}).size(), 1u) << bad;
  }
}

TEST(Harness, FailsNothing) {
  EXPECT_EQ(verdict_on({}).size(), 1u);
  EXPECT_EQ(verdict_on({{"y", {}, {}, 0.1}}).size(), 1u);
}

TEST(Harness, FailsSizeMismatch) {
  EXPECT_EQ(verdict_on({{"y", {1, 2, 3}, {1, 2}, 0.1}}).size(), 1u);
  EXPECT_EQ(verdict_on({{"y", {}, {1}, 0.1}}).size(), 1u);
}

TEST(Harness, FailsATooWideTolerance) {
  EXPECT_EQ(verdict_on({{"y", {0, 0}, {1, 2}, 1}}).size(), 1u);
  EXPECT_FALSE(verdict_on({{"y", {1}, {1}, kNan}}).empty());
}

TEST(Harness, FailsOneWrongOutputAmongMany) {
  auto lines = verdict_on({{"y", {1}, {1}, 0}, {"dx", {1, 5}, {1, 4}, 1e-3}, {"dw", {2}, {2}, 0}});
  ASSERT_EQ(lines.size(), 1u);
  for (const char* part : {"harness:self", "dx[1]", "error 0.25", "tolerance 0.001"})  // where, by how much, against what
    EXPECT_NE(lines[0].find(part), std::string::npos) << lines[0];
}

TEST(Harness, FailsOneFlippedBit) {
  std::vector<Checked> first{{"y", {1, 2}, {}, 0}}, second{{"y", {1, std::nextafter(2, 3)}, {}, 0}};
  EXPECT_TRUE(bit_differences("c", first, first).empty());
  EXPECT_EQ(bit_differences("c", first, second).size(), 1u);
  EXPECT_EQ(bit_differences("c", {{"y", {0.0}, {}, 0}}, {{"y", {-0.0}, {}, 0}}).size(), 1u);
  EXPECT_EQ(bit_differences("c", {}, {}).size(), 1u);
  EXPECT_EQ(bit_differences("c", {{"y", {}, {}, 0}}, {{"y", {}, {}, 0}}).size(), 1u);
}

TEST(Harness, ReportsMistrustedOracle) {
  Ledger book;
  std::vector<double> zeros(100, 0.0), sparse = zeros, relu(100, 1.0);
  sparse[3] = 1;
  std::fill(relu.begin(), relu.begin() + 60, 0.0);
  EXPECT_TRUE(complaints("Check.a:1", "a:1", {{"zeros", zeros, zeros, 0.1}, {"sparse", sparse, sparse, 0.1}, {"relu", relu, relu, 0.1}}, book).empty());
  ASSERT_EQ(book.mistrusted().size(), 2u);
  EXPECT_NE(book.print().find("MISTRUSTED Check.a:1: over 90 % of the oracle's 'zeros' is zero"), std::string::npos) << book.print();
}

TEST(Harness, ReportsShareOfTolerance) {
  Ledger book;
  complaints("Check.a:1", "a:1", {{"y", {100, 1}, {100, 0.5}, 0.01}}, book);
  EXPECT_NE(book.print().find("50.0 %  Check.a:1 'y'"), std::string::npos) << book.print();
}

// f(x) = sum_i c_i softmax(x)_i; df/dx_j = q_j (c_j - f).
struct SoftmaxProblem {
  std::vector<double> x{0.3, -1.2, 2.0, 0.7}, c{0.9, -0.4, 0.2, -1.3};
  double value(const std::vector<double>& at) const {
    double sum = 0, f = 0;
    for (size_t i = 0; i < at.size(); ++i) sum += std::exp(at[i]), f += c[i] * std::exp(at[i]);
    return f / sum;
  }
  std::vector<double> gradient(double factor) const {
    double sum = 0, f = value(x);
    for (double v : x) sum += std::exp(v);
    std::vector<double> g;
    for (size_t j = 0; j < x.size(); ++j) g.push_back(factor * std::exp(x[j]) / sum * (c[j] - f));
    return g;
  }
  std::vector<std::string> verdict(double factor) const {
    return verdict_on({check_gradient(
        "dx", x, [this](const std::vector<double>& at) { return value(at); }, gradient(factor), 1e-5, 1e-6)});
  }
};

TEST(Harness, GradientCheckPassesOnlyTheGradient) {
  SoftmaxProblem problem;
  EXPECT_TRUE(problem.verdict(1).empty());
  for (double factor : {-7.0, -1.0, 0.0, 0.5, 1.001, kNan}) EXPECT_EQ(problem.verdict(factor).size(), 1u) << "a gradient scaled by " << factor << " passed";
}

TEST(Harness, GradientCheckProbesTheWholeInput) {
  std::vector<double> x(1000, 1.0), analytic(1000, 2.0);
  std::fill(analytic.begin() + 900, analytic.end(), 2.5);  // wrong in the last tenth only
  auto squares = [](const std::vector<double>& at) {
    double sum = 0;
    for (double v : at) sum += v * v;
    return sum;
  };
  EXPECT_EQ(verdict_on({check_gradient("dx", x, squares, analytic, 1e-4, 1e-6)}).size(), 1u);
  EXPECT_THROW(check_gradient("dx", x, squares, {1, 2}, 1e-4, 1e-6), Error);
  EXPECT_FALSE(verdict_on({check_gradient("dx", {}, squares, {}, 1e-4, 1e-6)}).empty());
}

}  // namespace
}  // namespace kd::cases

int main(int argc, char** argv) {
  kd::poison_new_blocks(true);  // what a kernel does not write is NaN, not the last run's answer
  testing::InitGoogleTest(&argc, argv);
  if (const char* wanted = std::getenv("KD_REQUIRE_CUDA"); wanted && std::string(wanted) == "1" && !kd::is_available(kd::Device::cuda)) {
    fmt::print(stderr, "KD_REQUIRE_CUDA=1 and there is no GPU\n");
    return 1;
  }
  try {
    kd::cases::register_cases(kd::cases::all_cases());
  } catch (const std::exception& e) {
    fmt::print(stderr, "the case table could not be built: {}\n", e.what());
    return 1;
  }
  int failed = RUN_ALL_TESTS();
  fmt::print("{}", kd::cases::ledger().print());
  if (testing::UnitTest::GetInstance()->successful_test_count() == 0 && !testing::GTEST_FLAG(list_tests)) {
    fmt::print(stderr, "no test passed\n");
    return 1;
  }
  return failed;
}
