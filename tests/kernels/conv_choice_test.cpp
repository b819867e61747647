// Who does a convolution: the order of preference, the machine's file of timed choices, a run's pinned choices, and what each says of bad input.
#include "kernels/conv/conv_choice.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>

#include "engine/base/file.h"
#include "tests/harness/error_of.h"

namespace kd::cpu {
namespace {

ConvProblem problem(int64_t side, ConvOp op = ConvOp::fprop, DType type = DType::f32) {
  return {op, {.n = 2, .h = side, .w = side, .c = 16, .k = 16, .r = 3, .s = 3, .stride = 1, .pad = 1}, type};
}
std::string line_of(const ConvProblem& p, const std::string& rest) { return to_string(p) + " " + rest; }

// A file of choices of its own, and every switch as a process finds it.
class ConvChoice : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = Path(::testing::TempDir()) / ("conv_choices_" + std::string(::testing::UnitTest::GetInstance()->current_test_info()->name()));
    std::filesystem::remove_all(folder_);
    path_ = folder_ / fmt::format("conv_{}_{}threads.txt", to_string(cpu_isa()), cpu_info().threads);
    ::setenv("KD_CONV_CACHE", folder_.c_str(), 1);
  }
  void TearDown() override {
    set_conv_tuning(ConvTuning::fixed);
    set_conv_math(ConvMath::fast);
    ::unsetenv("KD_CONV_CACHE");
    std::filesystem::remove_all(folder_);
  }
  void write(const std::string& text) const {
    std::filesystem::create_directories(folder_);
    std::ofstream(path_) << text;
  }
  // Chooses with the file as it stands now.
  const ConvAlgorithm& timed(const ConvProblem& p) const {
    set_conv_tuning(ConvTuning::timed);
    return choose(p);
  }
  std::string first_line() const { return read_text(path_).substr(0, read_text(path_).find('\n')); }
  Path folder_, path_;
};

TEST_F(ConvChoice, staysTheSameAndFitsTheMachine) {
  const ConvAlgorithm& a = choose(problem(9));
  EXPECT_EQ(&a, &choose(problem(9)));
  EXPECT_LE(a.isa, cpu_isa());
  EXPECT_TRUE(a.offers(problem(9)));
  EXPECT_NE(conv_choices().find(line_of(problem(9), std::string("fast ") + a.name)), std::string::npos) << conv_choices();
  EXPECT_FALSE(std::filesystem::exists(path_)) << "fixed choices need no file";
}

// A residual is another tensor to read: who is fastest without one need not be with it.
TEST_F(ConvChoice, addingIsAProblemOfItsOwn) {
  for (ConvOp op : {ConvOp::fprop, ConvOp::dgrad}) {
    ConvProblem plain = problem(23, op), adding = plain;
    adding.adds = true;
    timed(adding);
    EXPECT_NE(read_text(path_).find(to_string(adding) + " fast "), std::string::npos) << read_text(path_);
    EXPECT_EQ(read_text(path_).find(to_string(plain) + " fast "), std::string::npos) << read_text(path_);
    const std::string other = choose(plain).name == std::string("onednn") ? "direct.avx2" : "onednn";
    if (cpu_isa() < CpuIsa::avx2) continue;
    pin_conv_choices(line_of(adding, "fast " + other) + "\n", "test");
    EXPECT_EQ(choose(adding).name, other);
    EXPECT_NE(choose(plain).name, other);
  }
  // The call says which of the two it is.
  const ConvShape s{.n = 1, .h = 24, .w = 24, .c = 16, .k = 16, .r = 1, .s = 1};
  std::vector<float> x(size_t(24 * 24 * 16)), y = x, w(size_t(16 * 16));
  conv_fprop({}, {.shape = s, .type = DType::f32, .x = x.data(), .w = w.data(), .y = y.data()});
  EXPECT_EQ(conv_choices().find("+add f32 n1h24"), std::string::npos) << conv_choices();
  conv_fprop({}, {.shape = s, .type = DType::f32, .x = x.data(), .w = w.data(), .y = y.data(), .z = y.data()});
  conv_dgrad({}, {.shape = s, .type = DType::f32, .dy = y.data(), .w = w.data(), .dx = x.data(), .accumulate = Accumulate::yes});
  EXPECT_NE(conv_choices().find("fprop+add f32 n1h24"), std::string::npos) << conv_choices();
  EXPECT_NE(conv_choices().find("dgrad+add f32 n1h24"), std::string::npos) << conv_choices();
  EXPECT_EQ(conv_choices().find("\ndgrad f32 n1h24"), std::string::npos) << conv_choices();
}

TEST_F(ConvChoice, largeBatchesShareOneChoice) {
  // 32 images; of 4 x 4 pixels 128, so that a large filter meets as many pixels as in a step.
  for (const auto& [side, most] : {std::pair<int64_t, int64_t>{10, 32}, {4, 128}, {7, 32}, {1, 2048}}) {
    EXPECT_EQ(timed_batch(problem(side).shape), most) << side;
    ConvProblem large = problem(side), larger = large;
    large.shape.n = most, larger.shape.n = 20 * most;
    EXPECT_EQ(&choose(large), &choose(larger));
    EXPECT_NE(conv_choices().find(to_string(large) + " fast "), std::string::npos) << conv_choices();
    EXPECT_EQ(conv_choices().find(to_string(larger)), std::string::npos) << conv_choices();
    // Not by one that whole tiles of 16 images suit better.
    ConvProblem odd = large;
    odd.shape.n = 3 * most + 4;
    choose(odd);
    EXPECT_EQ(conv_choices().find(to_string(odd)), std::string::npos) << conv_choices();
    odd.shape.n = most - 12;
    EXPECT_NE(conv_choices().find(to_string(odd)), std::string::npos) << conv_choices();
  }
}

// A map without pixels is refused like any other problem that nobody offers; it divided by zero.
TEST_F(ConvChoice, aMapWithoutPixelsIsNoDivision) {
  ConvProblem none = problem(2);
  none.shape.pad = 0;
  ASSERT_EQ(none.shape.p(), 0);
  EXPECT_GE(timed_batch(none.shape), 32);
}

TEST_F(ConvChoice, exactModeTakesNoWinograd) {
  set_conv_math(ConvMath::exact);
  for (ConvOp op : {ConvOp::fprop, ConvOp::dgrad, ConvOp::wgrad}) EXPECT_TRUE(choose(problem(11, op)).exact) << name_of(op);
}

// Untimed, Winograd does what it can, but not where bf16 instructions do more in the same time.
TEST_F(ConvChoice, withoutATimingTheLeastWorkWins) {
  if (cpu_isa() < CpuIsa::avx2) GTEST_SKIP() << "no Winograd without AVX2";
  for (const DType type : {DType::f32, DType::bf16})
    for (const int64_t stride : {1, 2})
      for (ConvOp op : {ConvOp::fprop, ConvOp::dgrad, ConvOp::wgrad}) {
        ConvProblem p = problem(30, op, type);
        p.shape.stride = stride;
        const bool products = type == DType::bf16 && (cpu_isa() >= CpuIsa::amx || (stride == 2 && cpu_isa() >= CpuIsa::avx512_bf16));
        EXPECT_EQ(choose(p).exact, products) << to_string(p) << " " << choose(p).name;
      }
}

TEST_F(ConvChoice, timedChoicesAreKeptAndTakenAgain) {
  const ConvAlgorithm& a = timed(problem(12));
  const std::string text = read_text(path_);
  EXPECT_NE(text.find(line_of(problem(12), std::string("fast ") + a.name) + "\n"), std::string::npos) << text;
  EXPECT_NE(text.find(cpu_info().name), std::string::npos) << text;
  // The file decides: it names another candidate for a problem that nobody has chosen for yet.
  write(first_line() + "\n" + line_of(problem(13), "fast onednn") + "\n");
  EXPECT_STREQ(timed(problem(13)).name, "onednn");
}

// What was fastest may not be after a change of the kernels.
TEST_F(ConvChoice, anotherVersionsFileIsReplaced) {
  timed(problem(25));
  const std::string ours = first_line(), number = "convolutions ";
  std::string older = read_text(path_);
  older.replace(older.find(number) + number.size(), older.find(" |") - older.find(number) - number.size(), "0");
  write(older);
  ::testing::internal::CaptureStderr();
  timed(problem(26));
  EXPECT_NE(::testing::internal::GetCapturedStderr().find("another version"), std::string::npos);
  EXPECT_EQ(first_line(), ours);
  EXPECT_EQ(read_text(path_).find(to_string(problem(25))), std::string::npos) << "a choice of the older version has been kept";
}

TEST_F(ConvChoice, aFileOfAnotherMachineIsReplaced) {
  write("retort convolutions 1 | Another CPU | amx | 64 threads\n" + line_of(problem(14), "fast onednn") + "\n");
  ::testing::internal::CaptureStderr();
  timed(problem(14));
  EXPECT_NE(::testing::internal::GetCapturedStderr().find("another machine"), std::string::npos);
  EXPECT_NE(first_line().find(cpu_info().name), std::string::npos);
}

TEST_F(ConvChoice, aHalfWrittenFileIsRead) {
  timed(problem(15));
  write(first_line() + "\n" + line_of(problem(16), "fast onednn") + "\nfprop f32 n2h17w17c16k");
  ::testing::internal::CaptureStderr();
  EXPECT_STREQ(timed(problem(16)).name, "onednn");
  const std::string said = ::testing::internal::GetCapturedStderr();
  EXPECT_NE(said.find(path_.string() + ":3"), std::string::npos) << said;
  EXPECT_EQ(std::count(said.begin(), said.end(), '\n'), 1) << said;
}

TEST_F(ConvChoice, anUnwritablePlaceIsSaidAndCostsNothing) {
  ::setenv("KD_CONV_CACHE", "/proc/no/such/place", 1);
  ::testing::internal::CaptureStderr();
  timed(problem(18));
  const std::string said = ::testing::internal::GetCapturedStderr();
  EXPECT_NE(said.find("/proc/no"), std::string::npos) << said;
  EXPECT_NE(said.find("--no-tune"), std::string::npos) << said;
}

TEST_F(ConvChoice, pinnedChoicesWin) {
  pin_conv_choices(line_of(problem(19), "fast onednn") + "\n", "run/conv_choices.txt");
  EXPECT_STREQ(choose(problem(19)).name, "onednn");
}

TEST_F(ConvChoice, pinnedLinesAreChecked) {
  const std::string unreadable = error_of([] { pin_conv_choices("fprop f32 n1h1\n", "run/conv_choices.txt"); });
  EXPECT_NE(unreadable.find("run/conv_choices.txt:1"), std::string::npos) << unreadable;
  EXPECT_NE(unreadable.find("delete the file"), std::string::npos) << unreadable;
  const std::string unknown =
      error_of([] { pin_conv_choices(line_of(problem(20), "fast onednn") + "\n" + line_of(problem(21), "fast quantum.v9") + "\n", "run/conv_choices.txt"); });
  EXPECT_NE(unknown.find("run/conv_choices.txt:2"), std::string::npos) << unknown;
  EXPECT_NE(unknown.find("quantum.v9"), std::string::npos) << unknown;
  EXPECT_EQ(conv_choices().find("h20w20"), std::string::npos) << "a file with an error pins nothing";
}

// A file that somebody edited: the algorithm exists and the machine has it, but it cannot do this. It was called, and crashed.
TEST_F(ConvChoice, aPinnedAlgorithmMustDoTheProblem) {
  ConvProblem odd = problem(31);
  odd.shape.c = 5, odd.shape.k = 3;
  std::string winograd;
  for (const ConvAlgorithm& a : winograd_algorithms())
    if (a.isa <= cpu_isa()) winograd = a.name;
  if (winograd.empty()) GTEST_SKIP() << "no Winograd on this CPU";
  pin_conv_choices(line_of(odd, "fast " + winograd) + "\n", "run/conv_choices.txt");
  EXPECT_NE(conv_choices().find(to_string(odd)), std::string::npos) << "a run keeps what it has not used yet";
  const std::string said = error_of([&] { choose(odd); });
  for (const std::string& words : {std::string("run/conv_choices.txt:1: "), winograd, std::string("n2h31w31c5k3"), std::string("delete the file")})
    EXPECT_NE(said.find(words), std::string::npos) << words << " in: " << said;
}

TEST_F(ConvChoice, aDamagedFileIsOneLine) {
  timed(problem(33));
  std::string garbage;
  for (int i = 0; i < 100; ++i) garbage += fmt::format("\x1b[31m{}\n", i);
  write(first_line() + "\n" + garbage);
  ::testing::internal::CaptureStderr();
  timed(problem(34));
  const std::string said = ::testing::internal::GetCapturedStderr();
  EXPECT_EQ(std::count(said.begin(), said.end(), '\n'), 1) << said;
  for (const char* words : {":2: ", "\\x1b[31m0", "99 more lines"}) EXPECT_NE(said.find(words), std::string::npos) << words << " in: " << said;
}

TEST_F(ConvChoice, aProblemThatNobodyCanDoIsNamed) {
  ConvProblem odd = problem(22, ConvOp::fprop, DType::bf16);
  odd.shape.c = 5, odd.shape.k = 3;
  for (const ConvAlgorithm& a : onednn_algorithms())
    if (a.offers(odd)) GTEST_SKIP() << "oneDNN has bf16 convolutions of every shape here";
  const std::string said = error_of([&] { choose(odd); });
  EXPECT_NE(said.find("n2h22w22c5k3"), std::string::npos) << said;
  EXPECT_NE(said.find("precision=fp32"), std::string::npos) << said;
}

}  // namespace
}  // namespace kd::cpu
