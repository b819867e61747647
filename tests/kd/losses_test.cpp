// The distillation losses against three independent sources: numbers from PyTorch, the double oracle, and properties that must hold for
// any logits, on every device that there is. The kernel's own case table (sizes, designed inputs, central differences) runs in test_kernels.
#include "kd/losses.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <numeric>

#include "engine/base/rng.h"
#include "engine/ops.h"
#include "kernels/attention_loss/attention_loss_oracle.h"
#include "kernels/kd_loss/kd_loss_oracle.h"
#include "kernels/kd_loss/kd_loss_row.h"
#include "kernels/metrics/metrics.h"
#include "simt/simt.h"

namespace kd {
namespace {

using enum Combine;
constexpr Combine kCombines[] = {mean_loss, mean_probs, mean_logits, log_mean_prob};
constexpr Standardize kStandardizes[] = {Standardize::none, Standardize::zscore};
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

std::string describe(const DistillConfig& c) { return to_string(c.combine) + (c.standardize == Standardize::zscore ? ", z-score" : ""); }
std::vector<DistillConfig> all_configs(float alpha, float soft_weight) {
  std::vector<DistillConfig> all;
  for (Combine combine : kCombines)
    for (Standardize standardize : kStandardizes)
      all.push_back({.combine = combine, .alpha = alpha, .soft_weight = soft_weight, .tau = 3.f, .standardize = standardize});
  return all;
}

// Relative to the largest expected value; written so that a NaN fails.
void expect_close(const std::string& what, const std::vector<double>& got, const std::vector<double>& want, double tolerance) {
  ASSERT_EQ(got.size(), want.size()) << what;
  ASSERT_FALSE(want.empty()) << what;
  double scale = 0;
  for (double w : want) scale = std::max(scale, std::fabs(w));
  for (size_t i = 0; i < want.size(); ++i)
    EXPECT_TRUE(std::isfinite(got[i]) && std::fabs(got[i] - want[i]) <= tolerance * scale)
        << fmt::format("{}[{}] = {:.15g}, want {:.15g} within {} of {:.3g}", what, i, got[i], want[i], tolerance, scale);
}

std::vector<double> doubles(const Tensor& anywhere) {
  const Tensor t = anywhere.to(Device::cpu);
  return {t.data<float>(), t.data<float>() + t.elements()};
}
double scalar(const Var& v) { return doubles(v.value())[0]; }
Tensor matrix(int64_t n, int64_t k, const std::vector<float>& values) { return Tensor::of<float>({n, k}, values); }

Tensor random_logits(int64_t n, int64_t k, uint32_t stream, float scale = 4) {
  Tensor t = Tensor::empty({n, k}, DType::f32);
  Rng rng(1, Purpose::test, stream);
  for (int64_t i = 0; i < t.elements(); ++i) t.data<float>()[i] = rng.uniform(-scale, scale);
  return t;
}
Tensor some_labels(int64_t n, int64_t k) {
  Tensor t = Tensor::empty({n}, DType::i32);
  for (int64_t i = 0; i < n; ++i) t.data<int32_t>()[i] = int32_t(7 * i % k);
  return t;
}

struct Result {
  double total, ce, kd;
  std::vector<double> ds;
};
std::vector<Tensor> all_to(Device device, const std::vector<Tensor>& tensors) {
  std::vector<Tensor> there;
  for (const Tensor& t : tensors) there.push_back(t.to(device));
  return there;
}
Result run(const Tensor& student, const Tensor& labels, const std::vector<Tensor>& teachers, const DistillConfig& config, Device device = Device::cpu) {
  Tape::current().clear();
  Var s(student.to(device), true);
  LossValue loss = distill_loss(s, labels.to(device), all_to(device, teachers), config);
  Tape::current().backward(loss.total);
  const LossParts means = parts(loss);
  return {means.loss, means.ce, means.kd, doubles(s.grad())};
}

Result oracle_of(const oracle::KdProblem& problem) {
  oracle::KdAnswer answer = oracle::kd_loss(problem);
  return {oracle::total(problem), oracle::mean(answer.ce), oracle::mean(answer.kd), answer.ds};
}

// The kernel's row arithmetic on doubles.
Result row_arithmetic(const oracle::KdProblem& p) {
  Result r{0, 0, 0, std::vector<double>(p.n * p.k)};
  std::vector<const double*> teachers;
  for (const auto& t : p.teachers) teachers.push_back(t.data());
  for (size_t n = 0; n < p.n; ++n) {
    KdRow<double, double> row{.s = p.s.data(),
                              .label = p.labels[n],
                              .teachers = teachers.data(),
                              .n_teachers = int(teachers.size()),
                              .ds = r.ds.data(),
                              .first = int64_t(n * p.k),
                              .k = int64_t(p.k),
                              .work = r.ds.data() + n * p.k,
                              .combine = p.combine,
                              .standardize = p.standardize,
                              .hard_weight = p.alpha / double(p.n),
                              .soft_weight = p.soft_weight / double(p.n),
                              .tau = p.tau};
    KdRowLoss<double> loss = kd_loss_row<double>(SoleThread{}, row);
    r.ce += loss.ce / double(p.n), r.kd += loss.kd / double(p.n);
  }
  r.total = p.alpha * r.ce + p.soft_weight * r.kd;
  return r;
}

// Two samples, three classes; every expected number from PyTorch in float64: cross_entropy, kl_div(log_softmax, p, batchmean) * tau^2,
// std(unbiased) for the z-score, autograd for the gradients.
const std::vector<double> kS{1, 2, .5, 0, -1, 3}, kT1{2, 1, 0, .5, 0, 2.5}, kT2{0, 3, 1, -1, 1, 2};
const std::vector<int32_t> kLabels{1, 2};
constexpr double kCe = 0.265126343932687;

struct Fixture {
  const char* name;
  std::vector<std::vector<double>> teachers;
  Combine combine;
  Standardize standardize;
  double alpha, soft_weight, tau, kd, total;
  std::vector<double> ds;
};
std::vector<Fixture> fixtures() {
  constexpr Standardize none = Standardize::none, zscore = Standardize::zscore;
  const std::vector<double> mean_loss_ds{.061236771423, -.109021743899, .047784972476, .017261993054, -.067970405952, .050708412898};
  const std::vector<double> mean_loss_zscore_ds{-.078159633601, .026053225675, .052106407925, .027089547653, -.020317161628, -.006772386025};
  return {
      {"cross-entropy", {}, mean_loss, none, 1, 0, 3, 0, kCe, {.115611948811, -.185734140394, .070122191583, .023306311289, .008573912773, -.031880224062}},
      {"first teacher",
       {kT1},
       mean_loss,
       none,
       0,
       1,
       3,
       0.301428839216517,
       0.301428839216517,
       {-.209997372132, .163716640589, .046280731543, -.057105647816, -.092292401283, .149398049100}},
      {"second teacher",
       {kT2},
       mean_loss,
       none,
       0,
       1,
       3,
       0.602249998060235,
       0.602249998060235,
       {.169345382816, -.151622938903, -.017722443914, .073496679219, -.273281366794, .199784687574}},
      {"mean_loss", {kT1, kT2}, mean_loss, none, .6, .4, 3, 0.451839418638376, 0.339811573814963, mean_loss_ds},
      {"mean_probs", {kT1, kT2}, mean_probs, none, .6, .4, 3, 0.224166631664130, 0.248742459025264, mean_loss_ds},
      {"mean_logits",
       {kT1, kT2},
       mean_logits,
       none,
       .6,
       .4,
       3,
       0.208870401526635,
       0.242623966970266,
       {.069367169287, -.111440484236, .042073314950, .018415505435, -.065943298729, .047527793293}},
      {"log_mean_prob",
       {kT1, kT2},
       log_mean_prob,
       none,
       .6,
       .4,
       3,
       0.275011044941533,
       0.269080224336225,
       {.041329649555, -.099203733321, .057874083766, .015729990986, -.072515813879, .056785822893}},
      {"z-score",
       {kT1},
       mean_loss,
       zscore,
       0,
       1,
       2,
       0.266609801054488,
       0.266609801054488,
       {-.263745218227, .087915097316, .175830120911, .003464060137, -.002598045075, -.000866015062}},
      {"z-score, 0.1 CE + 9 KD",
       {kT1},
       mean_loss,
       zscore,
       .1,
       9,
       2,
       0.266609801054488,
       2.426000843883657,
       {-2.362145769160, .772662461807, 1.589483307353, .033507172365, -.022525014399, -.010982157966}},
      {"z-score, mean_loss", {kT1, kT2}, mean_loss, zscore, 0, 1, 2, 0.215243682400122, 0.215243682400122, mean_loss_zscore_ds},
      {"z-score, mean_probs", {kT1, kT2}, mean_probs, zscore, 0, 1, 2, 0.082443988880961, 0.082443988880961, mean_loss_zscore_ds},
      {"z-score, mean_logits",
       {kT1, kT2},
       mean_logits,
       zscore,
       0,
       1,
       2,
       0.070678181853876,
       0.070678181853876,
       {-.056242834207, .018747625415, .037495208792, .026545646547, -.019909235675, -.006636410872}},
      {"z-score, log_mean_prob",
       {kT1, kT2},
       log_mean_prob,
       zscore,
       0,
       1,
       2,
       0.096951969651074,
       0.096951969651074,
       {-.097183595519, .032394546740, .064789048779, .028153540896, -.021115156699, -.007038384197}},
  };
}
oracle::KdProblem problem_of(const Fixture& f) {
  return {.n = 2,
          .k = 3,
          .s = kS,
          .labels = kLabels,
          .teachers = f.teachers,
          .combine = f.combine,
          .standardize = f.standardize,
          .alpha = f.alpha,
          .soft_weight = f.soft_weight,
          .tau = f.tau};
}

void expect_fixture(const Fixture& f, const Result& got, double tolerance) {
  expect_close(std::string(f.name) + ": ce", {got.ce}, {kCe}, tolerance);
  if (f.kd != 0)
    expect_close(std::string(f.name) + ": kd", {got.kd}, {f.kd}, tolerance);
  else
    EXPECT_EQ(got.kd, 0) << f.name;
  expect_close(std::string(f.name) + ": total", {got.total}, {f.total}, tolerance);
  expect_close(std::string(f.name) + ": ds", got.ds, f.ds, tolerance);
}

TEST(Losses, PyTorchNumbersFromTheOracle) {
  for (const Fixture& f : fixtures()) expect_fixture(f, oracle_of(problem_of(f)), 1e-9);
}
TEST(Losses, PyTorchNumbersFromTheRowArithmeticInDouble) {
  for (const Fixture& f : fixtures()) expect_fixture(f, row_arithmetic(problem_of(f)), 1e-9);
}
TEST(Losses, PyTorchNumbersFromTheOp) {
  auto tensor = [](const std::vector<double>& x) { return matrix(2, 3, {x.begin(), x.end()}); };
  for (const Fixture& f : fixtures()) {
    std::vector<Tensor> teachers;
    for (const auto& t : f.teachers) teachers.push_back(tensor(t));
    DistillConfig config{.combine = f.combine, .alpha = float(f.alpha), .soft_weight = float(f.soft_weight), .tau = float(f.tau), .standardize = f.standardize};
    expect_fixture(f, run(tensor(kS), Tensor::of<int32_t>({2}, kLabels), teachers, config), 2e-6);
  }
}

TEST(Losses, PyTorchProbabilitiesAndZScores) {
  const std::vector<double> q{.308442616, .430466347, .261091037, .225488644, .161569673, .612941683};
  const std::vector<double> u{-.218217862, 1.091089308, -.872871447, -.320256292, -.800640731, 1.120897023};
  std::vector<double> got_q, got_u;
  for (const double* x : {kS.data(), kS.data() + 3})
    for (int64_t c = 0; c < 3; ++c) {
      got_q.push_back(std::exp(soft_row<double>(SoleThread{}, x, 3, 3.0, Standardize::none).log_prob(c)));
      auto row = soft_row<double>(SoleThread{}, x, 3, 1.0, Standardize::zscore);
      got_u.push_back(row.deviation(c) * row.slope);
    }
  expect_close("softmax(s/3)", got_q, q, 2e-9);
  expect_close("z-scores", got_u, u, 2e-9);
}

TEST(Losses, MeanLossExceedsMeanProbsByAConstant) {
  std::vector<Fixture> all = fixtures();
  EXPECT_NEAR(row_arithmetic(problem_of(all[3])).kd - row_arithmetic(problem_of(all[4])).kd, 0.227672786974242, 1e-12);
}

TEST(Losses, TheOpEqualsTheOracle) {
  constexpr int64_t n = 37, k = 100;
  const Tensor s = random_logits(n, k, 0), labels = some_labels(n, k);
  for (size_t n_teachers : {size_t(0), size_t(1), size_t(3), size_t(kMaxTeachers)}) {
    std::vector<Tensor> teachers;
    for (uint32_t i = 0; i < n_teachers; ++i) teachers.push_back(random_logits(n, k, 1 + i));
    for (const DistillConfig& c : all_configs(0.25f, 2.f)) {
      oracle::KdProblem problem{.n = n,
                                .k = k,
                                .s = doubles(s),
                                .labels = {labels.data<int32_t>(), labels.data<int32_t>() + n},
                                .teachers = {},
                                .combine = c.combine,
                                .standardize = c.standardize,
                                .alpha = double(c.alpha),
                                .soft_weight = double(c.soft_weight),
                                .tau = double(c.tau)};
      for (const Tensor& t : teachers) problem.teachers.push_back(doubles(t));
      const Result got = run(s, labels, teachers, c), want = oracle_of(problem);
      const std::string what = fmt::format("{} teachers, {}: ", n_teachers, describe(c));
      expect_close(what + "total, ce, kd", {got.total, got.ce, got.kd}, {want.total, want.ce, want.kd}, 1e-6);
      expect_close(what + "ds", got.ds, want.ds, 1e-6);
    }
  }
}

// Properties.

class Properties : public testing::TestWithParam<Device> {
 protected:
  Result run_here(const Tensor& student, const Tensor& labels, const std::vector<Tensor>& teachers, const DistillConfig& config) const {
    return run(student, labels, teachers, config, GetParam());
  }
  // What rounding may leave: the CPU computes in double, a GPU in float.
  double within(double in_double, double in_float) const { return GetParam() == Device::cpu ? in_double : in_float; }

  static constexpr int64_t n_ = 9, k_ = 13;
  Tensor s_ = random_logits(n_, k_, 0), labels_ = some_labels(n_, k_);
  std::vector<Tensor> teachers_{random_logits(n_, k_, 1), random_logits(n_, k_, 2), random_logits(n_, k_, 3)};
};

TEST_P(Properties, ShiftingLogitsChangesNothing) {
  auto eighths = [](const Tensor& t, float shift) {  // exact in float with and without the shift
    Tensor out = t.clone();
    for (int64_t i = 0; i < out.elements(); ++i) out.data<float>()[i] = std::round(out.data<float>()[i] * 8) / 8 + shift;
    return out;
  };
  for (const DistillConfig& c : all_configs(0.6f, 0.4f)) {
    std::vector<Tensor> plain, shifted;
    for (size_t i = 0; i < teachers_.size(); ++i) {
      plain.push_back(eighths(teachers_[i], 0));
      shifted.push_back(eighths(teachers_[i], float(i) * 1e4f - 1e4f));
    }
    const Result a = run_here(eighths(s_, 0), labels_, plain, c), b = run_here(eighths(s_, 1e4f), labels_, shifted, c);
    expect_close(describe(c), {b.total, b.ce, b.kd}, {a.total, a.ce, a.kd}, 1e-7);
    expect_close(describe(c), b.ds, a.ds, 1e-6);
  }
}

TEST_P(Properties, ATeacherEqualToTheStudentTeachesNothing) {
  for (const DistillConfig& c : all_configs(0, 1))
    for (size_t copies : {size_t(1), size_t(3)}) {
      const Result r = run_here(s_, labels_, std::vector<Tensor>(copies, s_), c);
      EXPECT_GT(r.ce, 0);
      EXPECT_NEAR(r.kd, 0, within(1e-13, 3e-6)) << describe(c);
      for (double g : r.ds) EXPECT_NEAR(g, 0, within(1e-15, 1e-7)) << describe(c);
    }
}

TEST_P(Properties, EqualTeachersAreOneTeacher) {
  const Result one = run_here(s_, labels_, {teachers_[0]}, {.combine = mean_loss});
  const Result one_zscore = run_here(s_, labels_, {teachers_[0]}, {.combine = mean_loss, .standardize = Standardize::zscore});
  for (const DistillConfig& c : all_configs(0.6f, 0.4f))
    for (size_t copies : {size_t(1), size_t(2), size_t(3), size_t(8)}) {
      const Result &want = c.standardize == Standardize::zscore ? one_zscore : one, got = run_here(s_, labels_, std::vector<Tensor>(copies, teachers_[0]), c);
      expect_close(describe(c), {got.total, got.ce, got.kd}, {want.total, want.ce, want.kd}, within(1e-7, 5e-6));
      expect_close(describe(c), got.ds, want.ds, within(1e-6, 5e-6));
    }
}

TEST_P(Properties, GradientRowsSumToZero) {
  for (const DistillConfig& c : all_configs(0.6f, 0.4f)) {
    const Result r = run_here(s_, labels_, teachers_, c);
    for (int64_t n = 0; n < n_; ++n) {
      double sum = 0, size = 0;
      for (int64_t i = n * k_; i < (n + 1) * k_; ++i) sum += r.ds[size_t(i)], size += std::fabs(r.ds[size_t(i)]);
      EXPECT_GT(size, 0.01) << describe(c);
      EXPECT_NEAR(sum / size, 0, within(1e-7, 1e-6)) << describe(c);
    }
  }
}

TEST_P(Properties, MeanLossAndMeanProbsHaveTheSameGradientBitForBit) {
  for (Standardize standardize : kStandardizes) {
    const Result a = run_here(s_, labels_, teachers_, {.combine = mean_loss, .standardize = standardize});
    const Result b = run_here(s_, labels_, teachers_, {.combine = mean_probs, .standardize = standardize});
    EXPECT_EQ(a.ds, b.ds);
    EXPECT_GT(a.kd, b.kd + 0.01);
  }
}

// Standardized distillation never changes the scale of the logits: its gradient is orthogonal to x - mean.
TEST_P(Properties, ZScoreGradientIsOrthogonalToTheDeviations) {
  for (Combine combine : kCombines) {
    const Result r = run_here(s_, labels_, teachers_, {.combine = combine, .alpha = 0, .soft_weight = 1, .standardize = Standardize::zscore});
    const std::vector<double> x = doubles(s_);
    for (size_t n = 0; n < size_t(n_); ++n) {
      double mean = std::accumulate(x.begin() + int64_t(n) * k_, x.begin() + int64_t(n + 1) * k_, 0.0) / k_, dot = 0, gg = 0, dd = 0;
      for (size_t i = n * k_; i < (n + 1) * k_; ++i) dot += r.ds[i] * (x[i] - mean), gg += r.ds[i] * r.ds[i], dd += (x[i] - mean) * (x[i] - mean);
      EXPECT_GT(gg, 1e-6);
      EXPECT_NEAR(dot / std::sqrt(gg * dd), 0, within(1e-6, 5e-6)) << to_string(combine) << " row " << n;
    }
  }
}

TEST_P(Properties, AConstantStudentRowHasNoZScoreGradient) {
  Tensor s = s_.clone();
  std::fill_n(s.data<float>() + k_, k_, 0.1f);
  for (Combine combine : kCombines) {
    const Result r = run_here(s, labels_, teachers_, {.combine = combine, .alpha = 0, .soft_weight = 1, .standardize = Standardize::zscore});
    EXPECT_TRUE(std::isfinite(r.kd));
    for (int64_t c = 0; c < k_; ++c) {
      EXPECT_EQ(r.ds[size_t(k_ + c)], 0);
      EXPECT_NE(r.ds[size_t(c)], 0);
    }
  }
}

TEST_P(Properties, OneClassIsCertain) {
  for (const DistillConfig& c : all_configs(0.6f, 0.4f)) {
    const Result r = run_here(matrix(2, 1, {3, -7}), Tensor::of<int32_t>({2}, {0, 0}), {matrix(2, 1, {1, 2}), matrix(2, 1, {-5, 100})}, c);
    EXPECT_EQ(r.total, 0) << describe(c);
    EXPECT_EQ(r.ds, (std::vector<double>{0, 0})) << describe(c);
  }
}

TEST_P(Properties, NanReachesTheLossAndItsRowsGradient) {
  constexpr int64_t row = 4;
  for (const DistillConfig& c : all_configs(0.6f, 0.4f))
    for (size_t who : {size_t(0), size_t(1), size_t(3)}) {  // the student, or one of three teachers
      Tensor s = s_.clone();
      std::vector<Tensor> teachers{teachers_[0].clone(), teachers_[1].clone(), teachers_[2].clone()};
      Tensor& poisoned = who == 0 ? s : teachers[who - 1];
      poisoned.data<float>()[row * k_ + 5] = kNan;
      const Result r = run_here(s, labels_, teachers, c);
      EXPECT_TRUE(std::isnan(r.total) && std::isnan(r.kd)) << describe(c);
      EXPECT_EQ(std::isnan(r.ce), who == 0);
      for (int64_t i = 0; i < n_ * k_; ++i) EXPECT_EQ(std::isnan(r.ds[size_t(i)]), i / k_ == row) << describe(c) << " element " << i;
    }
  EXPECT_TRUE(std::isnan(run_here(matrix(1, 2, {kNan, kNan}), Tensor::of<int32_t>({1}, {1}), {}, {}).total));
}

TEST_P(Properties, RareClassesCountAgainAtAHighTemperature) {
  // At temperature 1 both teachers give class 0 e^-1000, which is 0 in any float type; at tau = 1000 it is e^-1 of the other.
  const Result r = run_here(matrix(1, 2, {0, 0}), Tensor::of<int32_t>({1}, {1}), {matrix(1, 2, {-1000, 0}), matrix(1, 2, {-1000, 0})},
                            {.combine = log_mean_prob, .alpha = 0, .soft_weight = 1e-3f, .tau = 1000.f});
  expect_close("ds", r.ds, {0.5 - 1 / (1 + M_E), 1 / (1 + M_E) - 0.5}, within(1e-6, 5e-6));
}

TEST_P(Properties, AClassThatAllTeachersRuleOutIsOneOfProbabilityZero) {
  auto without_class_2 = [&](float logit) {
    std::vector<Tensor> teachers;
    for (const Tensor& t : teachers_) {
      teachers.push_back(t.clone());
      for (int64_t n = 0; n < n_; ++n) teachers.back().data<float>()[n * k_ + 2] = logit;
    }
    return teachers;
  };
  for (const Combine combine : kCombines) {  // without z-score, which no row with an infinity has
    const DistillConfig c{.combine = combine, .alpha = 0.6f, .soft_weight = 0.4f, .tau = 3.f};
    const Result got = run_here(s_, labels_, without_class_2(-INFINITY), c), want = run_here(s_, labels_, without_class_2(-1e30f), c);
    expect_close(describe(c) + ": total, kd", {got.total, got.kd}, {want.total, want.kd}, 0);
    expect_close(describe(c) + ": ds", got.ds, want.ds, 0);
  }
}

TEST_P(Properties, ABatchIsRightAndAgreesWhereTheFirstLargestClassesAre) {
  const Tensor s = matrix(4, 3, {2, 2, 1, 0, 5, 5, 1, 1, 1, -3, -2, -1}), labels = Tensor::of<int32_t>({4}, {0, 2, 0, 2});
  // The teachers' sums: class 0; 1 and 2 alike; 2; 2, where in float 2^24 + 1 would be 2^24, and class 0 the first.
  const std::vector<Tensor> teachers{matrix(4, 3, {1, 0, 0, 0, 1, 3, 0, 1, 4, 0x1p24f, 0, 0x1p24f}), matrix(4, 3, {1, 0, 1, 0, 3, 1, 1, 1, 0, 0, 0, 1})};
  const std::vector<int32_t> want_right{1, 0, 1, 1}, want_agree{1, 1, 0, 1};
  for (const DistillConfig& c : all_configs(0.6f, 0.4f))
    for (const std::vector<Tensor>& taught : {teachers, std::vector<Tensor>{}}) {
      const Tensor records = distill_loss(Var(s.to(GetParam())), labels.to(GetParam()), all_to(GetParam(), taught), c).records.to(Device::cpu);
      for (size_t n = 0; n < 4; ++n) {
        const KdRecord& r = static_cast<const KdRecord*>(records.raw())[n];
        EXPECT_EQ(r.right, want_right[n]) << "row " << n;
        EXPECT_EQ(r.agree, taught.empty() ? 0 : want_agree[n]) << "row " << n;
      }
    }
}

// The tape.

class OnTheTape : public Properties {
 protected:
  void SetUp() override {
    Tape::current().clear();
    s_ = s_.to(GetParam()), labels_ = labels_.to(GetParam()), teachers_ = all_to(GetParam(), teachers_);
  }
  void TearDown() override { Tape::current().clear(); }
};

TEST_P(OnTheTape, OneNodeWhoseBackwardGivesTheKernelsGradient) {
  for (const DistillConfig& c : all_configs(0.6f, 0.4f)) {
    Tensor ds = Tensor::empty({n_, k_}, DType::f32, GetParam()), records = Tensor::empty({n_, int64_t(sizeof(KdRecord))}, DType::u8, GetParam());
    KdLossArgs args{.s = s_.data<float>(),
                    .labels = labels_.data<int32_t>(),
                    .n_teachers = 3,
                    .ds = ds.data<float>(),
                    .records = static_cast<KdRecord*>(records.raw()),
                    .n = n_,
                    .k = k_,
                    .combine = c.combine,
                    .standardize = c.standardize,
                    .alpha = c.alpha,
                    .soft_weight = c.soft_weight,
                    .tau = c.tau};
    for (size_t i = 0; i < 3; ++i) args.teachers[i] = teachers_[i].data<float>();
    kd_loss(current_stream(GetParam()), args);

    Var s(s_, true);
    LossValue loss = distill_loss(s, labels_, teachers_, c);
    EXPECT_EQ(Tape::current().size(), 1u);
    EXPECT_EQ(loss.total.shape(), Shape{});
    const LossParts means = parts(loss);
    EXPECT_FLOAT_EQ(float(means.loss), float(double(c.alpha) * means.ce + double(c.soft_weight) * means.kd));
    Tape::current().backward(loss.total);
    EXPECT_EQ(doubles(s.grad()), doubles(ds));
  }
}

TEST_P(OnTheTape, BackwardScalesByTheIncomingGradient) {
  Var s(s_, true);
  Tape::current().backward(scale(distill_loss(s, labels_, teachers_, {}).total, -0.5f));
  std::vector<double> want = run_here(s_, labels_, teachers_, {}).ds;
  for (double& g : want) g *= -0.5;
  EXPECT_EQ(doubles(s.grad()), want);
}

TEST_P(OnTheTape, TheFusedLossEqualsTheSumOfItsParts) {
  for (const DistillConfig& c : all_configs(0.6f, 0.4f)) {
    DistillConfig soft_only = c;
    soft_only.alpha = 0, soft_only.soft_weight = 1;
    Var s(s_, true);
    Var hard = cross_entropy(s, labels_).total, soft = distill_loss(s, labels_, teachers_, soft_only).total;
    Var sum = add(scale(hard, c.alpha), scale(soft, c.soft_weight));
    Tape::current().backward(sum);
    const Result fused = run_here(s_, labels_, teachers_, c);
    expect_close(describe(c), {scalar(sum)}, {fused.total}, within(1e-6, 5e-6));
    expect_close(describe(c), doubles(s.grad()), fused.ds, within(1e-6, 5e-6));
  }
}

TEST_P(OnTheTape, SumsCountEveryBatchSinceTheyWereCleared) {
  const Tensor sums = Tensor::zeros({int64_t(sizeof(KdSums))}, DType::u8, GetParam());
  auto* counting = static_cast<KdSums*>(sums.raw());
  KdSums want;
  auto batch = [&](const LossValue& loss) {
    const LossParts means = parts(loss);
    want.loss += means.loss * n_, want.ce += means.ce * n_, want.kd += means.kd * n_;
    const Tensor records = loss.records.to(Device::cpu);
    for (int64_t i = 0; i < n_; ++i) {
      const KdRecord& r = static_cast<const KdRecord*>(records.raw())[i];
      ++want.images, want.right += r.right, want.agree += r.agree;
    }
  };
  Var s(s_, true);
  batch(distill_loss(s, labels_, teachers_, {}, counting));
  batch(distill_loss(s, labels_, {teachers_[1]}, {.combine = mean_logits, .tau = 1.f}, counting));
  batch(cross_entropy(s, labels_, counting));
  distill_loss(s, labels_, teachers_, {});  // not counted
  KdSums got;
  copy_bytes(&got, Device::cpu, counting, GetParam(), sums.bytes());
  expect_close("sums", {got.loss, got.ce, got.kd}, {want.loss, want.ce, want.kd}, 1e-6);
  EXPECT_EQ(got.images, 3 * n_);
  EXPECT_EQ(got.right, want.right);
  EXPECT_EQ(got.agree, want.agree);
  EXPECT_GT(got.agree, 0);
}

TEST_P(OnTheTape, NoGradAndConstantsRecordNothing) {
  const Result want = run_here(s_, labels_, teachers_, {});
  Var s(s_, true);
  {
    NoGrad evaluation;
    LossValue loss = distill_loss(s, labels_, teachers_, {});
    EXPECT_EQ(scalar(loss.total), want.total);
    EXPECT_FALSE(loss.total.requires_grad());
  }
  EXPECT_FALSE(distill_loss(Var(s_), labels_, teachers_, {}).total.requires_grad());
  EXPECT_EQ(Tape::current().size(), 0u);
  EXPECT_FALSE(s.grad().defined());
}

TEST_P(OnTheTape, WithoutTeachersItIsCrossEntropy) {
  const Result got = run_here(s_, labels_, {}, {.alpha = 0.1f, .soft_weight = 5.f});
  Var s(s_, true);
  LossValue want = cross_entropy(s, labels_);
  EXPECT_EQ(got.total, scalar(want.total));
  EXPECT_EQ(float(parts(want).ce), float(got.total));
  EXPECT_EQ(got.kd, 0);
  EXPECT_EQ(parts(want).kd, 0);
  Tape::current().backward(want.total);
  EXPECT_EQ(doubles(s.grad()), got.ds);
}

TEST_P(OnTheTape, WrongArgumentsAreNamed) {
  auto error = [&](const Tensor& s, const Tensor& labels, const std::vector<Tensor>& teachers, const DistillConfig& config) -> std::string {
    try {
      distill_loss(Var(s, true), labels, teachers, config);
    } catch (const Error& e) {
      return e.what();
    }
    return "no error";
  };
  EXPECT_EQ(error(s_, labels_, teachers_, {}), "no error");
  Tape::current().clear();
  const std::string here = to_string(GetParam());
  const Device elsewhere = GetParam() == Device::cpu ? Device::emulated : Device::cpu;
  auto expect_part = [](const std::string& message, const std::string& part) { EXPECT_NE(message.find(part), std::string::npos) << message; };
  expect_part(error(s_.view({n_ * k_}), labels_, {}, {}), "student logits f32 [B,C], got student f32[117]");
  expect_part(error(s_, some_labels(n_ - 1, k_), {}, {}), "student f32[9,13] " + here + " needs one i32 label a row, on its device, got labels i32[8]");
  expect_part(error(s_, labels_.to(elsewhere), {}, {}), "got labels i32[9] " + to_string(elsewhere));
  expect_part(error(s_, labels_, {teachers_[0].to(elsewhere)}, {}), "must agree in shape, type and device");
  expect_part(error(s_, Tensor::zeros({n_}, DType::i64), {}, {}), "got labels i64[9]");
  expect_part(error(s_, labels_, {random_logits(n_, k_ + 1, 1)}, {}), "student f32[9,13] " + here + " and teacher f32[9,14]");
  expect_part(error(s_, labels_, std::vector<Tensor>(9, s_), {}), "9 teachers, at most 8");
  for (float tau : {0.f, -1.f, kNan}) expect_part(error(s_, labels_, teachers_, {.tau = tau}), "temperature tau");
  expect_part(error(s_, labels_, teachers_, {.alpha = kNan}), "must be finite");
  EXPECT_EQ(Tape::current().size(), 0u);
}

// Attention.

constexpr AttentionMode kAttentionModes[] = {AttentionMode::similarity, AttentionMode::distance};

class Attention : public testing::TestWithParam<Device> {
 protected:
  void SetUp() override { Tape::current().clear(); }
  void TearDown() override { Tape::current().clear(); }

  static Tensor features(int64_t k, uint32_t stream, float scale = 1) {
    Tensor f = Tensor::empty({n_, h_, w_, k}, DType::f32);
    Rng rng(2, Purpose::test, stream);
    for (int64_t i = 0; i < f.elements(); ++i) f.data<float>()[i] = scale * std::max(0.f, rng.uniform(-1.f, 1.f)) * float(1 + i / k % 3);
    return f;
  }
  struct Result {
    double loss;
    std::vector<double> df;
  };
  static Result run(const Tensor& f, const std::vector<Tensor>& references, const AttentionConfig& config, KdSums* sums = nullptr) {
    Var x(f.to(GetParam()), true);
    const Var loss = attention_loss(x, all_to(GetParam(), references), config, sums);
    EXPECT_EQ(Tape::current().size(), 1u);
    Tape::current().backward(loss);
    return {scalar(loss), doubles(x.grad())};
  }
  static oracle::AttentionProblem problem(const Tensor& f, const std::vector<Tensor>& references, const AttentionConfig& config) {
    oracle::AttentionProblem p{.n = size_t(n_),
                               .positions = size_t(h_ * w_),
                               .k = size_t(f.dim(3)),
                               .f = doubles(f),
                               .references = {},
                               .mode = config.mode,
                               .weight = double(config.weight)};
    for (const Tensor& r : references) p.references.push_back({size_t(r.dim(3)), doubles(r)});
    return p;
  }

  static constexpr int64_t n_ = 5, h_ = 3, w_ = 4, k_ = 16;
  Tensor f_ = features(k_, 0);
  std::vector<Tensor> references_{features(24, 1), features(7, 2)};
};

// One image of two positions and two channels, by hand: u = (1/2, 2), a = (1, 4)/sqrt 17; the reference's u = (2, 1), a = (2, 1)/sqrt 5.
TEST_P(Attention, ByHand) {
  const Tensor f = Tensor::of<float>({1, 1, 2, 2}, {1, 0, 0, 2}), r = Tensor::of<float>({1, 2, 1, 1}, {std::sqrt(2.f), 1}).view({1, 1, 2, 1});
  const double s = 6 / std::sqrt(85.0), norm = std::sqrt(17.0) / 2;
  const double to_first = 2 / std::sqrt(5.0) - s / std::sqrt(17.0), to_second = 1 / std::sqrt(5.0) - 4 * s / std::sqrt(17.0);
  const Result similar = run(f, {r}, {AttentionMode::similarity, 0.5f}), apart = run(f, {r}, {AttentionMode::distance, 0.5f});
  EXPECT_NEAR(similar.loss, 0.5 * s, 1e-6);
  EXPECT_NEAR(apart.loss, 0.5 * (2 - 2 * s), 1e-6);
  expect_close("similarity", similar.df, {0.5 / norm * to_first, 0, 0, 0.5 / norm * 2 * to_second}, 1e-6);
  expect_close("distance", apart.df, {-1 / norm * to_first, 0, 0, -1 / norm * 2 * to_second}, 1e-6);
}

// The gradient as experiment N1 states it: d sim/d F = 2 F/K (a1 - sim a2)/|u2|, from the energy map that evaluation draws.
TEST_P(Attention, EqualsTheCompositionOfEnergyMapsAndItsStatedGradient) {
  auto energy = [](const Tensor& f) {
    Tensor map = Tensor::empty({f.dim(0), f.dim(1), f.dim(2)}, DType::f32);
    metrics_energy_map({}, {.features = f.data<float>(), .map = map.data<float>(), .n = f.dim(0), .h = f.dim(1), .w = f.dim(2), .k = f.dim(3)});
    return doubles(map);
  };
  const std::vector<double> u1 = energy(references_[0]), u2 = energy(f_), f = doubles(f_);
  double loss = 0;
  std::vector<double> df;
  for (size_t n = 0, p = size_t(h_ * w_); n < size_t(n_); ++n) {
    double norm1 = 0, norm2 = 0, sim = 0;
    for (size_t i = n * p; i < (n + 1) * p; ++i) norm1 += u1[i] * u1[i], norm2 += u2[i] * u2[i], sim += u1[i] * u2[i];
    norm1 = std::sqrt(norm1), norm2 = std::sqrt(norm2), sim /= norm1 * norm2;
    loss += 3 * sim / n_;
    for (size_t i = n * p; i < (n + 1) * p; ++i)
      for (size_t k = 0; k < size_t(k_); ++k) df.push_back(3.0 / n_ * 2 * f[i * k_ + k] / k_ * (u1[i] / norm1 - sim * u2[i] / norm2) / norm2);
  }
  const Result got = run(f_, {references_[0]}, {AttentionMode::similarity, 3.f});
  expect_close("loss", {got.loss}, {loss}, 1e-6);
  expect_close("df", got.df, df, 2e-6);
}

TEST_P(Attention, EqualsTheOracleAndItsDifferences) {
  for (AttentionMode mode : kAttentionModes)
    for (float weight : {2.f, -0.5f}) {
      const AttentionConfig config{mode, weight};
      const Result got = run(f_, references_, config);
      oracle::AttentionProblem p = problem(f_, references_, config);
      const oracle::AttentionAnswer want = oracle::attention_loss(p);
      expect_close(to_string(mode), {got.loss}, {want.loss}, 1e-6);
      expect_close(to_string(mode), got.df, want.df, 2e-6);
      std::vector<double> some, differences;
      for (size_t i = 0; i < p.f.size(); i += 37) {
        constexpr double kStep = 1e-5;
        oracle::AttentionProblem up = p, down = p;
        up.f[i] += kStep, down.f[i] -= kStep;
        some.push_back(got.df[i]);
        differences.push_back((oracle::attention_loss(up).loss - oracle::attention_loss(down).loss) / (2 * kStep));
      }
      expect_close(to_string(mode), some, differences, 1e-5);
    }
}

TEST_P(Attention, ScaleIsOfNoAccountAndTheGradientIsOrthogonalToTheFeatures) {
  for (AttentionMode mode : kAttentionModes) {
    const Result plain = run(f_, references_, {mode, 1.f});
    const Result scaled = run(features(k_, 0, 64.f), {features(24, 1, 0.125f), features(7, 2, 1024.f)}, {mode, 1.f});
    EXPECT_FLOAT_EQ(float(scaled.loss), float(plain.loss));
    std::vector<double> times = scaled.df;
    for (double& g : times) g *= 64;
    expect_close(to_string(mode), times, plain.df, 1e-6);
    const std::vector<double> f = doubles(f_);
    for (size_t n = 0, size = size_t(h_ * w_ * k_); n < size_t(n_); ++n) {
      double dot = 0, sizes = 0;
      for (size_t i = n * size; i < (n + 1) * size; ++i) dot += f[i] * plain.df[i], sizes += std::fabs(f[i] * plain.df[i]);
      EXPECT_GT(sizes, 1e-3);
      EXPECT_NEAR(dot / sizes, 0, 1e-6) << to_string(mode) << " image " << n;
    }
  }
}

TEST_P(Attention, DistanceOfOneReferenceIsTwiceWhatSimilarityLacks) {
  const Result similar = run(f_, {references_[0]}, {AttentionMode::similarity, 1.f}), apart = run(f_, {references_[0]}, {AttentionMode::distance, 1.f});
  EXPECT_NEAR(apart.loss, 2 - 2 * similar.loss, 1e-6);
  std::vector<double> twice = similar.df;
  for (double& g : twice) g *= -2;
  expect_close("df", apart.df, twice, 1e-6);
}

TEST_P(Attention, OfANetworkWithItselfIsPerfectAndWantsNothing) {
  for (size_t copies : {size_t(1), size_t(3)}) {
    EXPECT_NEAR(run(f_, std::vector<Tensor>(copies, f_), {AttentionMode::similarity, 1.f}).loss, 1, 1e-6);
    for (AttentionMode mode : kAttentionModes) {
      const Result r = run(f_, std::vector<Tensor>(copies, f_), {mode, 1.f});
      for (double g : r.df) EXPECT_NEAR(g, 0, 1e-7) << to_string(mode);
    }
  }
}

TEST_P(Attention, ADescentStepMovesItAsTheSignOfTheWeightSays) {
  for (AttentionMode mode : kAttentionModes)
    for (float weight : {1.f, -1.f}) {
      const Result before = run(f_, references_, {mode, weight});
      Tensor moved = f_.clone();
      for (int64_t i = 0; i < moved.elements(); ++i) moved.data<float>()[i] -= 0.5f * float(before.df[size_t(i)]);
      const double change = run(moved, references_, {mode, 1.f}).loss - run(f_, references_, {mode, 1.f}).loss;
      EXPECT_LT(weight * change, -1e-4) << to_string(mode) << " weight " << weight;
    }
  const Result none = run(f_, references_, {AttentionMode::similarity, 0.f});
  EXPECT_EQ(none.loss, 0);
  for (double g : none.df) EXPECT_EQ(g, 0);
}

TEST_P(Attention, MapsWithoutEnergyCountForNothing) {
  Tensor f = f_.clone(), r = references_[0].clone();
  const int64_t size = h_ * w_ * k_;
  std::fill_n(f.data<float>() + size, size, 0.f);                               // image 1 of the trained network
  std::fill_n(r.data<float>() + 3 * h_ * w_ * 24, h_ * w_ * int64_t(24), 0.f);  // image 3 of the reference
  for (AttentionMode mode : kAttentionModes) {
    const Tensor sums = Tensor::zeros({int64_t(sizeof(KdSums))}, DType::u8, GetParam());
    const Result whole = run(f_, {references_[0]}, {mode, 1.f}), got = run(f, {r}, {mode, 1.f}, static_cast<KdSums*>(sums.raw()));
    EXPECT_TRUE(std::isfinite(got.loss));
    EXPECT_LT(got.loss, whole.loss);
    for (int64_t i = 0; i < n_ * size; ++i) {
      const bool empty = i / size == 1 || i / size == 3;
      EXPECT_EQ(got.df[size_t(i)], empty ? 0 : whole.df[size_t(i)]) << i;
    }
  }
}

TEST_P(Attention, NanReachesTheLossAndItsImagesGradient) {
  const int64_t size = h_ * w_ * k_;
  for (AttentionMode mode : kAttentionModes)
    for (int who : {0, 1, 2}) {
      Tensor f = f_.clone();
      std::vector<Tensor> references{references_[0].clone(), references_[1].clone()};
      Tensor& poisoned = who == 0 ? f : references[size_t(who - 1)];
      poisoned.data<float>()[2 * h_ * w_ * poisoned.dim(3) + 5] = kNan;
      const Result r = run(f, references, {mode, 1.f});
      EXPECT_TRUE(std::isnan(r.loss)) << to_string(mode) << who;
      for (int64_t i = 0; i < n_ * size; ++i) EXPECT_EQ(std::isnan(r.df[size_t(i)]), i / size == 2) << i;
    }
}

// The features are consumed by the head too: their gradient is the sum of both, whichever was recorded first.
TEST_P(Attention, AddsToTheGradientOfTheHead) {
  const Tensor images = features(8, 5).to(GetParam()), labels = some_labels(n_, 3).to(GetParam()), filter = random_logits(16, 8, 6, 0.5f);
  const std::vector<Tensor> references = all_to(GetParam(), references_);
  const Tensor classifier = random_logits(3, 16, 7, 0.5f).to(GetParam()), bias = random_logits(1, 3, 8, 0.5f).view({3}).to(GetParam());
  enum class Order { head, attention, head_first, attention_first };
  auto gradient = [&](Order order) {
    Var w(filter.view({16, 1, 1, 8}).to(GetParam()), true);
    const Var f = conv2d(Var(images), w, 1, 0);
    auto of_head = [&] { return cross_entropy(linear(global_avg_pool(f), Var(classifier), Var(bias)), labels).total; };
    auto of_attention = [&] { return attention_loss(f, references, {AttentionMode::similarity, 2.f}); };
    Var loss;
    if (order == Order::head) loss = of_head();
    if (order == Order::attention) loss = of_attention();
    if (order == Order::head_first) loss = of_head(), loss = add(loss, of_attention());
    if (order == Order::attention_first) loss = of_attention(), loss = add(of_head(), loss);
    Tape::current().backward(loss);
    return doubles(w.grad());
  };
  std::vector<double> want = gradient(Order::head);
  const std::vector<double> other = gradient(Order::attention);
  double size = 0;
  for (size_t i = 0; i < want.size(); ++i) want[i] += other[i], size += std::fabs(other[i]);
  EXPECT_GT(size, 0.01);
  expect_close("head first", gradient(Order::head_first), want, 1e-5);
  expect_close("attention first", gradient(Order::attention_first), want, 1e-5);
}

TEST_P(Attention, SumsHoldTheValueAndTheWeightedLoss) {
  const Tensor sums = Tensor::zeros({int64_t(sizeof(KdSums))}, DType::u8, GetParam());
  auto* counting = static_cast<KdSums*>(sums.raw());
  const double value = run(f_, references_, {AttentionMode::distance, 1.f}).loss * n_;
  run(f_, references_, {AttentionMode::distance, -3.f}, counting);
  run(f_, references_, {AttentionMode::distance, 2.f}, counting);
  KdSums got;
  copy_bytes(&got, Device::cpu, counting, GetParam(), sums.bytes());
  expect_close("sums", {got.attention, got.loss}, {2 * value, -value}, 1e-6);
  EXPECT_EQ(got.ce, 0);
  EXPECT_EQ(got.images, 0) << "counted by the loss of the logits";
}

TEST_P(Attention, ConstantsRecordNothing) {
  const Var loss = attention_loss(Var(f_.to(GetParam())), all_to(GetParam(), references_), {AttentionMode::similarity, 1.f});
  EXPECT_FALSE(loss.requires_grad());
  EXPECT_EQ(scalar(loss), run(f_, references_, {AttentionMode::similarity, 1.f}).loss);
  EXPECT_EQ(Tape::current().size(), 0u);
}

TEST_P(Attention, WrongArgumentsAreNamed) {
  auto error = [&](const Tensor& f, const std::vector<Tensor>& references, float weight) -> std::string {
    try {
      attention_loss(Var(f, true), references, {AttentionMode::similarity, weight});
    } catch (const Error& e) {
      return e.what();
    }
    return "no error";
  };
  auto expect_part = [](const std::string& message, const std::string& part) { EXPECT_NE(message.find(part), std::string::npos) << message; };
  const Tensor f = f_.to(GetParam());
  expect_part(error(f.view({n_, h_ * w_, k_}), {f}, 1), "needs features f32|bf16 [N,h,w,K], got features f32[5,12,16]");
  expect_part(error(f, {}, 1), "0 references, needs 1 to 8");
  expect_part(error(f, std::vector<Tensor>(9, f), 1), "9 references");
  expect_part(error(f, {f.view({n_, w_, h_, k_})}, 1), "reference f32[5,4,3,16]");
  expect_part(error(f, {Tensor::zeros(f.shape(), DType::bf16, GetParam())}, 1), "must agree in images, height, width, type and device");
  expect_part(error(f, {f_.to(GetParam() == Device::cpu ? Device::emulated : Device::cpu)}, 1), "must agree");
  expect_part(error(f, {f}, kNan), "must be finite");
}

std::vector<Device> devices() {
  std::vector<Device> all{Device::cpu, Device::emulated};
  if (is_available(Device::cuda)) all.push_back(Device::cuda);
  return all;
}
std::string name_of(const testing::TestParamInfo<Device>& info) { return info.param == Device::cuda ? "cuda" : to_string(info.param); }
INSTANTIATE_TEST_SUITE_P(On, Properties, testing::ValuesIn(devices()), name_of);
INSTANTIATE_TEST_SUITE_P(On, OnTheTape, testing::ValuesIn(devices()), name_of);
INSTANTIATE_TEST_SUITE_P(On, Attention, testing::ValuesIn(devices()), name_of);

// The order in which a GPU runs threads and blocks must not show, not in one bit.
TEST(Losses, NoScheduleChangesABit) {
  const int64_t n = 300, k = 5;
  auto bits = [&](int schedule) {
    simt::ScheduleScope scope(schedule);
    const Tensor sums = Tensor::zeros({int64_t(sizeof(KdSums))}, DType::u8, Device::emulated);
    Var s(random_logits(n, k, 0).to(Device::emulated), true);
    const LossValue loss =
        distill_loss(s, some_labels(n, k).to(Device::emulated), {random_logits(n, k, 1).to(Device::emulated)}, {}, static_cast<KdSums*>(sums.raw()));
    Tape::current().backward(loss.total);
    std::vector<uint8_t> all;
    for (const Tensor& t : {sums, loss.records, loss.total.value(), s.grad()}) {
      const Tensor here = t.to(Device::cpu);
      all.insert(all.end(), static_cast<uint8_t*>(here.raw()), static_cast<uint8_t*>(here.raw()) + here.bytes());
    }
    return all;
  };
  const auto want = bits(0);
  for (int schedule : {1, 2, 3}) EXPECT_EQ(bits(schedule), want) << "schedule " << schedule;
}

TEST(Losses, AttentionModeNames) {
  for (AttentionMode mode : kAttentionModes) EXPECT_EQ(attention_mode_from_name(to_string(mode)), mode);
  EXPECT_THROW(attention_mode_from_name("none"), Error);
}

TEST(Losses, CombineNames) {
  for (Combine combine : kCombines) EXPECT_EQ(combine_from_name(to_string(combine)), combine);
  EXPECT_EQ(combine_from_name("log_mean_prob"), log_mean_prob);
  try {
    combine_from_name("mean");
    FAIL() << "an unknown name was accepted";
  } catch (const Error& e) {
    EXPECT_STREQ(e.what(), "combine 'mean' is not known; one of mean_loss, mean_probs, mean_logits, log_mean_prob");
  }
}

}  // namespace
}  // namespace kd
