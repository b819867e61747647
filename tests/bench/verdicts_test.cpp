// Verdicts over runs whose truth is planted: each experiment supported, contradicted, explained by a confounder, undecided for want of seeds or numbers.
#include "bench/verdicts.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>

#include "bench/metric_correlations.h"
#include "engine/base/check.h"
#include "engine/base/rng.h"

namespace kd {
namespace {

// ---- planted runs

// What one student run measures. Every number has its own small, seeded deviation, so that no interval is empty.
struct Planted {
  double top1 = 70, gap = 10, gap_view = 8, agreement = 0.8, mi = 1.0, kl = 0.3, ensemble = 80, teacher1 = 77, teacher2 = 77;
  std::map<std::string, double> iou{{"pred_class", 0.5}, {"energy", 0.6}, {"class_sum", 0.4}, {"random_projection", 0.4}};
};
struct Student {
  std::vector<std::string> teachers;
  std::string view;  // weak or strong
  int64_t seed;
  double strong() const {
    double n = 0;
    for (const std::string& t : teachers) n += t[2] == 's';
    return n / double(teachers.size());
  }
};
using Truth = std::function<Planted(const Student&)>;

// Reproducible deviation in [-size, size] of one quantity of one run.
double noise(uint32_t quantity, int64_t seed, uint32_t which, double size) {
  return size * (2 * Rng(uint64_t(seed) * 131 + quantity, Purpose::test, which).uniform_double() - 1);
}

class Runs {
 public:
  explicit Runs(double noise_size = 1) : noise_(noise_size) {}

  void student(const std::string& name, const Student& s, Planted p, const std::string& dataset = "shapes") {
    ++count_;
    auto n = [&](uint32_t quantity, double size) { return noise(quantity, s.seed, count_, size * noise_); };
    RunSummary r = summary(name, "student", s.view, s.seed, dataset);
    r.teachers = s.teachers;
    r.evaluated = true;
    r.test_top1_selected = p.top1 + n(0, .1);
    r.gap = {{"gap", p.gap + n(1, .1)}, {"gap_view", p.gap_view + n(2, .1)}};
    ViewEval& test = r.views["test"];
    test.models["S"].numbers = {{"top1", r.test_top1_selected}};
    // What belongs to the teachers is the same in every run that has them.
    uint32_t which = 0;
    for (const std::string& teacher : s.teachers)
      for (char c : teacher) which = which * 31 + uint32_t(c);
    auto of_teachers = [&](uint32_t quantity, double size) { return noise(quantity, s.seed, which, size * noise_); };
    for (size_t i = 0; i < s.teachers.size(); ++i)
      test.models[fmt::format("T{}", i + 1)].numbers = {{"top1", (i == 0 ? p.teacher1 : p.teacher2) + of_teachers(3 + uint32_t(i), .05)},
                                                        {"nll", .7 + of_teachers(5 + uint32_t(i), .1)}};
    test.models["Ens"].numbers = {{"top1", p.ensemble + of_teachers(7, .1)}};
    test.pairs["Ens-S"] = {{"agreement", p.agreement + n(8, .001)}, {"mi_adjusted", p.mi + n(9, .01)}, {"kl_ab", p.kl + n(10, .005)}};
    uint32_t k = 20;
    for (const auto& [kind, value] : p.iou) test.maps[kind].iou = {{"T1-T2", value + of_teachers(k++, .004)}};
    runs_.push_back(r);
  }
  void baseline(const std::string& view, int64_t seed, double top1) {
    ++count_;
    RunSummary r = summary(view == "weak" ? "only_Sw" : "only_Ss", "baseline", view, seed, "shapes");
    r.test_top1_selected = top1 + noise(0, seed, count_, .1 * noise_);
    runs_.push_back(r);
  }
  void teacher(const std::string& name, int64_t seed, double attention_weight, const std::string& mode = "similarity") {
    RunSummary r = summary(name, "teacher", "weak", seed, "shapes");
    r.attention_weight = attention_weight;
    if (std::isfinite(attention_weight)) r.attention_mode = mode;
    runs_.push_back(r);
  }
  // All four pairs on both views; the teachers of a seed are its own.
  void grid(const Truth& truth, const std::vector<int64_t>& seeds = {0, 1, 2}, const std::string& arm = "", const std::string& dataset = "shapes") {
    for (int64_t seed : seeds)
      for (const char* view : {"weak", "strong"})
        for (const char* first : {"T1w", "T1s"})
          for (const char* second : {"T2w", "T2s"}) {
            const Student s{{first, second}, view, seed};
            student(fmt::format("{}_{}_S{}{}{}", first, second, view[0], arm.empty() ? "" : "_", arm), s, truth(s), dataset);
          }
  }
  std::vector<RunSummary>& list() { return runs_; }
  std::vector<VerdictRow> verdicts(IntervalRule rule = IntervalRule::bootstrap_and_t) const { return verdicts_of(group_runs(runs_), rule); }
  std::vector<RunGroup> groups() const { return group_runs(runs_); }

 private:
  static RunSummary summary(const std::string& name, const std::string& kind, const std::string& view, int64_t seed, const std::string& dataset) {
    RunSummary r;
    r.name = name, r.kind = kind, r.view = view, r.seed = seed, r.dataset = dataset;
    r.arch = "resnet18", r.width = 0.25, r.px = 32, r.train_images = 3600, r.test_images = 1000;
    return r;
  }
  double noise_;
  uint32_t count_ = 0;
  std::vector<RunSummary> runs_;
};

// The first row of that id, of the runs whose scope holds `scope`.
VerdictRow find(const std::vector<VerdictRow>& rows, const std::string& id, const std::string& scope = "") {
  for (const VerdictRow& row : rows)
    if (row.id == id && row.scope.find(scope) != row.scope.npos) return row;
  VerdictRow none;
  none.reason = "no row " + id + " " + scope;
  return none;
}
testing::AssertionResult reads(const std::vector<VerdictRow>& rows, const std::string& id, Verdict verdict, const std::string& reason = "",
                               const std::string& scope = "") {
  const VerdictRow row = find(rows, id, scope);
  if (row.id == id && row.verdict == verdict && row.reason.find(reason) != row.reason.npos) return testing::AssertionSuccess();
  return testing::AssertionFailure() << id << " is '" << to_string(row.verdict) << ": " << row.reason << "', expected '" << to_string(verdict) << ": " << reason
                                     << "'; " << row.statistic << ", " << row.estimate.value << ", " << to_string(row.estimate.bootstrap, 3) << " t "
                                     << to_string(row.estimate.parametric, 3) << "; " << row.confounders;
}
constexpr Verdict kYes = Verdict::supported, kNo = Verdict::contradicted, kOpen = Verdict::undecided, kMissing = Verdict::not_measured;

// What the paper says, sign 1, or its opposite, sign -1: strong teachers, more diverse and no more accurate, make better students who imitate less.
Planted paper(const Student& s, double sign = 1) {
  Planted p;
  const double x = s.strong() * sign, luck = 0.4 * double(s.seed);
  p.top1 = 70 + luck + 3 * x + (s.view == "strong" ? 0.2 : 0);
  p.gap = 10 - 2 * x, p.gap_view = 8 - 2 * x;
  p.agreement = 0.8 - 0.06 * x, p.mi = 1 - 0.1 * x, p.kl = 0.3 + 0.05 * x;
  for (const char* kind : {"pred_class", "energy"}) p.iou[kind] -= 0.1 * x;
  // Unlike from seed to seed, so that within a seed it tells nothing of the teachers' views.
  p.ensemble = 80 + 0.5 * std::sin(double(s.seed * 7) + 5 * s.strong());
  return p;
}
void add_baselines(Runs& runs, double view_effect = 0.2) {
  for (int64_t seed : {0, 1, 2}) {
    runs.baseline("weak", seed, 66 + 0.3 * double(seed));
    runs.baseline("strong", seed, 66 + 0.3 * double(seed) + view_effect);
  }
}

// ---- H1 to H3 and E1

TEST(Verdicts, WhatIsPlantedIsSupportedAndItsOppositeContradicted) {
  for (double sign : {1.0, -1.0}) {
    Runs runs;
    runs.grid([=](const Student& s) { return paper(s, sign); });
    add_baselines(runs);
    const auto rows = runs.verdicts();
    const Verdict expected = sign > 0 ? kYes : kNo;
    for (const char* view : {"Sw", "Ss"}) {
      for (const char* id : {"H1", "H2", "H2.gap", "H3", "H3.mi", "H3.kl", "E1.accuracy", "E1.gap", "E1.gap_view", "E1.agreement", "E1"})
        EXPECT_TRUE(reads(rows, id, expected, "", view));
      EXPECT_NEAR(find(rows, "H2", view).estimate.value, 3 * sign, 0.3);
      EXPECT_NEAR(find(rows, "H1", view).estimate.value, -0.1 * sign, 0.01);
      EXPECT_EQ(find(rows, "H2", view).estimate.n, 3);
      EXPECT_EQ(find(rows, "H2", view).counted, "3 seeds");
      EXPECT_EQ(find(rows, "H1", view).counted, "3 sets of teachers");
    }
    EXPECT_TRUE(sign > 0 ? reads(rows, "E1.view", kYes) : reads(rows, "E1.view", kOpen, "no gain to explain"));
    for (const char* id : {"H2", "E1.accuracy", "H3"}) {
      EXPECT_NE(find(rows, id).confounders.find("ensemble top-1 "), std::string::npos);
      EXPECT_NE(find(rows, id).confounders.find("teachers' mean top-1 "), std::string::npos);
    }
  }
}

TEST(Verdicts, ViewsAndDataSetsAreNotPooled) {
  Runs runs;
  runs.grid([](const Student& s) { return paper(s, s.view == "weak" ? 1 : -1); });
  runs.grid([](const Student& s) { return paper(s, -1); }, {0, 1, 2}, "", "cifar100");
  const auto rows = runs.verdicts();
  for (const char* id : {"H1", "H2", "H3", "E1.accuracy"}) {
    EXPECT_TRUE(reads(rows, id, kYes, "", "shapes, Sw"));
    EXPECT_TRUE(reads(rows, id, kNo, "", "shapes, Ss"));
    EXPECT_TRUE(reads(rows, id, kNo, "", "cifar100, Sw"));
  }
}

TEST(Verdicts, EnsembleAccuracyExplainsIt) {
  Runs runs;
  runs.grid([](const Student& s) {
    Planted p = paper(s);
    p.ensemble = 80 + 4 * s.strong() + 1.5 * std::sin(double(s.seed * 3) + 17 * s.strong());
    p.top1 = 70 + 0.8 * (p.ensemble - 80);  // nothing but the ensemble
    return p;
  });
  add_baselines(runs);
  // The ensemble's noise is not the student's: tie them exactly.
  for (RunSummary& r : runs.list())
    if (r.kind == "student")
      r.views["test"].models["S"].numbers["top1"] =
          70 + 0.8 * (r.views["test"].models["Ens"].numbers["top1"] - 80) + noise(40, r.seed, uint32_t(r.name[1] + r.name[2] * 7 + r.name[6] * 31), .05);
  const auto rows = runs.verdicts();
  EXPECT_TRUE(reads(rows, "H2", kYes));
  EXPECT_TRUE(reads(rows, "E1.accuracy", kYes));
  EXPECT_TRUE(reads(rows, "E1.ensemble", kNo, "ensemble accuracy explains it"));
  EXPECT_TRUE(reads(rows, "E1", kNo, "E1.ensemble"));
}

TEST(Verdicts, EnsembleThatFollowsTheTeachersLeavesItOpen) {
  Runs runs(0.2);
  runs.grid([](const Student& s) {
    Planted p = paper(s);
    p.ensemble = 80 + 2 * s.strong();
    return p;
  });
  for (RunSummary& r : runs.list()) r.views["test"].models["Ens"].numbers["top1"] = 80 + double(r.seed) + (r.teachers[0][2] == 's') + (r.teachers[1][2] == 's');
  EXPECT_TRUE(reads(runs.verdicts(), "E1.ensemble", kMissing, "follows from the teachers' views"));
  EXPECT_TRUE(reads(runs.verdicts(), "E1", kOpen, "E1.ensemble"));
}

TEST(Verdicts, TheStudentsOwnViewExplainsIt) {
  Runs runs;
  // From all weak to all strong 3 points, of which the view brings 3 without any teacher.
  runs.grid([](const Student& s) {
    Planted p = paper(s);
    p.top1 = 70 + (s.view == "strong" ? 3 : 0);
    return p;
  });
  add_baselines(runs, 3);
  const auto rows = runs.verdicts();
  EXPECT_TRUE(reads(rows, "E1.view", kNo, "own view explains it"));
  EXPECT_TRUE(reads(rows, "E1.accuracy", kNo, "no ordering"));
  EXPECT_TRUE(reads(rows, "E1.ensemble", kOpen, "no ordering to explain"));
  EXPECT_TRUE(reads(rows, "H2", kOpen));
  EXPECT_TRUE(reads(rows, "H3", kYes, "no gain in accuracy"));
  EXPECT_EQ(std::count_if(rows.begin(), rows.end(), [](const VerdictRow& r) { return r.id == "E1.view"; }), 1) << "it is about both views";
}

TEST(Verdicts, MixedTeachersMustLieBetween) {
  Runs runs;
  runs.grid([](const Student& s) {
    Planted p = paper(s);
    if (s.strong() == 0.5) p.top1 += 4;
    return p;
  });
  EXPECT_TRUE(reads(runs.verdicts(), "E1.accuracy", kNo, "s/w does not lie between"));
  std::erase_if(runs.list(), [](const RunSummary& r) { return r.teachers.size() == 2 && r.teachers[0][2] != r.teachers[1][2]; });
  EXPECT_TRUE(reads(runs.verdicts(), "E1.accuracy", kOpen, "one strong and one weak"));
  EXPECT_TRUE(reads(runs.verdicts(), "H2", kYes));
}

TEST(Verdicts, TooFewSeedsDecideNothing) {
  for (int64_t n : {1, 2}) {
    Runs runs;
    std::vector<int64_t> seeds{0, 1};
    seeds.resize(size_t(n));
    runs.grid([](const Student& s) { return paper(s); }, seeds);
    for (const auto& row : runs.verdicts()) {
      if (row.counted.find("seed") == row.counted.npos) continue;  // pairs of teachers are counted otherwise
      EXPECT_FALSE(row.verdict == kYes || row.verdict == kNo) << row.id;
    }
    EXPECT_TRUE(reads(runs.verdicts(), "H2", kOpen, n == 1 ? "one seed" : "2 seeds"));
  }
}

TEST(Verdicts, TheSameTeachersInEverySeedAreOneObservation) {
  Runs runs;
  runs.grid([](const Student& s) { return paper(s); });
  std::map<std::string, RunSummary> first;
  for (RunSummary& r : runs.list()) {
    const RunSummary& f = first.try_emplace(r.name, r).first->second;
    for (const char* teacher : {"T1", "T2", "Ens"}) r.views["test"].models[teacher] = f.views.at("test").models.at(teacher);
    r.views["test"].maps = f.views.at("test").maps;
  }
  const auto rows = runs.verdicts();
  EXPECT_TRUE(reads(rows, "H1", kOpen, "the same in every seed"));
  EXPECT_EQ(find(rows, "H1").estimate.n, 1);
  EXPECT_TRUE(reads(rows, "H2", kYes, "nothing is said about others"));
  EXPECT_TRUE(reads(rows, "C.random_projection", kOpen));
}

TEST(Verdicts, CopiesAreNoRepetitions) {
  Runs runs(0);
  runs.grid([](const Student& s) { return paper(s); });
  EXPECT_TRUE(reads(runs.verdicts(), "H2", kOpen, "no independent repetitions"));
  EXPECT_TRUE(reads(runs.verdicts(), "E1.agreement", kOpen, "no independent repetitions"));
}

TEST(Verdicts, SmallEffectsAreNone) {
  Runs runs(0.2);
  runs.grid([](const Student& s) {
    Planted p = paper(s);
    p.top1 = 70 + double(s.seed) + 0.3 * s.strong();
    p.agreement = 0.8 + 0.01 * s.strong();
    return p;
  });
  const auto rows = runs.verdicts();
  EXPECT_TRUE(reads(rows, "H2", kOpen, "smaller than 0.5"));
  EXPECT_TRUE(reads(rows, "H3", kOpen, "smaller than 0.02"));
  EXPECT_TRUE(reads(rows, "E1.accuracy", kNo, "no ordering: the interval excludes an effect of 0.5"));
  EXPECT_TRUE(reads(rows, "E1.agreement", kYes, "excludes a rise of 0.02"));
}

TEST(Verdicts, TheIntervalRule) {
  // Gains of 0.6, 0.9 and 2.9: all positive, so the bootstrap over three excludes 0; t does not.
  Runs runs(0);
  const double gains[] = {0.6, 0.9, 2.9};
  runs.grid([&](const Student& s) {
    Planted p = paper(s);
    p.top1 = 70 + s.strong() * gains[s.seed];
    return p;
  });
  EXPECT_TRUE(reads(runs.verdicts(), "H2", kOpen, "the t interval does not"));
  EXPECT_TRUE(reads(runs.verdicts(IntervalRule::bootstrap), "H2", kYes));
  const VerdictRow row = find(runs.verdicts(), "H2");
  EXPECT_NEAR(row.estimate.bootstrap.lo, 0.6, 1e-9);
  EXPECT_NEAR(row.estimate.bootstrap.hi, 2.9, 1e-9);
  EXPECT_LT(row.estimate.parametric.lo, 0);
}

TEST(Verdicts, MissingNumbersAreSaidToBeMissing) {
  Runs runs;
  runs.grid([](const Student& s) { return paper(s); });
  for (RunSummary& r : runs.list()) r.views.clear(), r.gap.clear(), r.evaluated = false;
  auto rows = runs.verdicts();
  EXPECT_TRUE(reads(rows, "H1", kMissing));
  EXPECT_TRUE(reads(rows, "H2", kYes)) << "accuracy is in summary.json";
  EXPECT_TRUE(reads(rows, "H3", kMissing));
  EXPECT_TRUE(reads(rows, "E1.ensemble", kMissing));
  EXPECT_TRUE(reads(rows, "E1", kOpen));
  for (const char* id : {"H4", "H5", "E2", "E3", "N1", "N2", "C.random_projection"}) {
    EXPECT_TRUE(reads(rows, id, kMissing, "needs")) << id;
  }
  // NaN in one seed leaves two.
  Runs holes;
  holes.grid([](const Student& s) { return paper(s); });
  for (RunSummary& r : holes.list())
    if (r.seed == 1) r.views["test"].pairs["Ens-S"]["agreement"] = kNotMeasured;
  EXPECT_TRUE(reads(holes.verdicts(), "H3", kOpen, "2 seeds"));
  EXPECT_TRUE(reads(holes.verdicts(), "H2", kYes));
  EXPECT_FALSE(verdicts_of({}).empty());
  for (const VerdictRow& row : verdicts_of({})) EXPECT_EQ(row.verdict, kMissing) << row.id;
}

// ---- the control

TEST(Verdicts, AControlAsGoodAsTheLearnedMaps) {
  for (bool falls : {false, true}) {
    Runs runs;
    runs.grid([=](const Student& s) {
      Planted p = paper(s);
      if (falls) p.iou["random_projection"] -= 0.09 * s.strong();
      return p;
    });
    const auto rows = runs.verdicts();
    EXPECT_TRUE(reads(rows, "H1", kYes));
    EXPECT_TRUE(reads(rows, "C.random_projection", falls ? kNo : kYes, falls ? "the measure is at work" : ""));
    EXPECT_TRUE(reads(rows, "C.class_sum", kYes));
  }
  Runs flat;
  flat.grid([](const Student& s) {
    Planted p = paper(s);
    for (auto& [kind, value] : p.iou) value = 0.5;
    return p;
  });
  EXPECT_TRUE(reads(flat.verdicts(), "C.random_projection", kOpen, "no clear fall"));
}

// ---- E2, H2.overlap and H5: correlations over a pool of teachers

// Twelve pairs, one student each on the weak view. `d` runs from 0 to 1: how diverse the pair is.
Runs pool(const std::function<Planted(double d, double other)>& truth, size_t pairs = 12, double noise_size = 1) {
  Runs runs(noise_size);
  for (size_t i = 0; i < pairs; ++i) {
    const double d = double(i) / double(pairs - 1), other = 0.5 + 0.5 * std::sin(double(i) * 2.1);
    const Student s{{fmt::format("T1{}", i % 2 ? 's' : 'w'), fmt::format("T2{}", i % 3 ? 's' : 'w')}, "weak", int64_t(i)};
    runs.student(fmt::format("{}_{}_Sw", s.teachers[0], s.teachers[1]), s, truth(d, other));
  }
  return runs;
}
Planted diverse(double d, double other, double sign = 1) {
  Planted p;
  p.top1 = 70 + 4 * d * sign, p.gap = 10 - 3 * d * sign, p.agreement = 0.85 - 0.1 * d * sign;
  p.iou["pred_class"] = 0.6 - 0.2 * d, p.iou["energy"] = 0.7 - 0.2 * d;
  p.iou["class_sum"] = p.iou["random_projection"] = 0.4 + 0.1 * other;
  p.ensemble = 80 + 2 * other;
  return p;
}

TEST(Verdicts, OverlapAgainstAccuracy) {
  for (double sign : {1.0, -1.0}) {
    const auto rows = pool([=](double d, double other) { return diverse(d, other, sign); }).verdicts();
    const Verdict expected = sign > 0 ? kYes : kNo;
    for (const char* id : {"E2", "E2.pred_class.top1", "E2.pred_class.gap", "E2.pred_class.agreement", "E2.energy.top1", "H2.overlap", "H2.overlap_gap"})
      EXPECT_TRUE(reads(rows, id, expected)) << sign;
    EXPECT_TRUE(reads(rows, "E2.random_projection.top1", kOpen));
    EXPECT_TRUE(reads(rows, "H5", kYes)) << "both rise or both fall with d";
    const VerdictRow row = find(rows, "E2");
    EXPECT_EQ(row.estimate.n, 12);
    EXPECT_EQ(row.counted, "12 sets of teachers, 12 runs");
    EXPECT_LT(row.estimate.value * sign, -0.9);
    EXPECT_NE(row.statistic.find("Pearson"), row.statistic.npos);
    EXPECT_NE(row.confounders.find("ρ given ensemble top-1"), row.confounders.npos);
  }
}

TEST(Verdicts, FidelityThatRisesWithAccuracyContradicts) {
  const auto rows = pool([](double d, double other) {
                      Planted p = diverse(d, other);
                      p.agreement = 0.7 + 0.1 * d;
                      return p;
                    }).verdicts();
  EXPECT_TRUE(reads(rows, "H5", kNo, "other sign"));
}

TEST(Verdicts, OverlapThatIsTheEnsemblesAccuracy) {
  Runs runs = pool([](double, double other) {
    Planted p = diverse(other, other);
    p.ensemble = 80 + 3 * other, p.top1 = 70 + 3 * other, p.iou["pred_class"] = 0.6 - 0.2 * other;
    return p;
  });
  for (RunSummary& r : runs.list()) {  // both follow the ensemble and each their own luck
    const double ensemble = r.views["test"].models["Ens"].numbers["top1"];
    r.views["test"].models["S"].numbers["top1"] = 70 + (ensemble - 80) + noise(50, r.seed, 1, .3);
    r.views["test"].maps["pred_class"].iou["T1-T2"] = 0.6 - 0.06 * (ensemble - 80) + noise(51, r.seed, 1, .02);
  }
  const auto rows = runs.verdicts();
  EXPECT_LT(find(rows, "E2").estimate.value, -0.7);
  EXPECT_TRUE(reads(rows, "E2", kOpen, "at equal ensemble accuracy"));
}

TEST(Verdicts, OverlapThatTheControlShowsToo) {
  auto rows = pool([](double d, double other) {
                Planted p = diverse(d, other);
                p.iou["random_projection"] = 0.5 - 0.2 * d;
                return p;
              }).verdicts();
  EXPECT_TRUE(reads(rows, "E2", kNo, "random_projection control shows it"));
  EXPECT_TRUE(reads(rows, "E2.energy.top1", kNo, "random_projection control shows it"));
  EXPECT_TRUE(reads(rows, "H2.overlap", kYes)) << "the hypothesis itself does not ask for the control";
  rows = pool([](double d, double other) {
           Planted p = diverse(d, other);
           p.iou.erase("random_projection");
           return p;
         }).verdicts();
  EXPECT_TRUE(reads(rows, "E2", kOpen, "control is not measured"));
}

TEST(Verdicts, FewPairsOfTeachersAreNoPool) {
  EXPECT_TRUE(reads(pool([](double d, double other) { return diverse(d, other); }, 4).verdicts(), "E2", kOpen, "4 sets of teachers"));
  // Many seeds of the student do not make more teachers.
  Runs runs;
  for (int64_t seed = 0; seed < 6; ++seed)
    for (int i = 0; i < 3; ++i) {
      const Student s{{i > 0 ? "T1s" : "T1w", i > 1 ? "T2s" : "T2w"}, "weak", seed};
      runs.student(fmt::format("{}_{}_Sw", s.teachers[0], s.teachers[1]), s, diverse(i / 2.0, 0.5));
    }
  std::map<std::string, RunSummary> first;
  for (RunSummary& r : runs.list()) {
    const RunSummary& f = first.try_emplace(r.name, r).first->second;
    for (const char* teacher : {"T1", "T2", "Ens"}) r.views["test"].models[teacher] = f.views.at("test").models.at(teacher);
  }
  const VerdictRow row = find(runs.verdicts(), "E2");
  EXPECT_EQ(row.verdict, kOpen);
  EXPECT_EQ(row.counted, "3 sets of teachers, 18 runs");
  EXPECT_FALSE(row.estimate.bootstrap.known());
}

TEST(Verdicts, TiesAndConstantsHaveNoCorrelation) {
  const auto rows = pool(
                        [](double d, double other) {
                          Planted p = diverse(d, other);
                          p.iou["pred_class"] = 0.5;
                          return p;
                        },
                        12, 0)
                        .verdicts();
  EXPECT_TRUE(reads(rows, "E2", kOpen, "never changes"));
  EXPECT_TRUE(std::isnan(find(rows, "E2").estimate.value));
}

// ---- E3 and H4

struct Arm {
  double top1, agreement;
};
Runs arms(const std::map<std::string, Arm>& planted, double noise_size = 1) {
  Runs runs(noise_size);
  for (const auto& [arm, p] : planted)
    for (int64_t seed : {0, 1, 2})
      for (const char* teachers : {"T1w_T2w", "T1s_T2s"})
        for (const char* view : {"weak", "strong"}) {
          const Student s{{std::string(teachers, 3), std::string(teachers + 4)}, view, seed};
          Planted of_run;
          of_run.top1 = p.top1 + double(seed), of_run.agreement = p.agreement;
          runs.student(fmt::format("{}_S{}_{}", teachers, view[0], arm), s, of_run);
        }
  return runs;
}

TEST(Verdicts, ZScore) {
  auto rows = arms({{"plain", {70, .8}}, {"zscore", {72, .8}}, {"plain_9", {71, .82}}, {"zscore_9", {73, .82}}}).verdicts();
  for (const char* id : {"H4", "E3.equal_weights", "E3.heavy_weights", "E3.weights"}) EXPECT_TRUE(reads(rows, id, kYes, "", "Sw")) << id;
  EXPECT_TRUE(std::none_of(rows.begin(), rows.end(), [](const VerdictRow& r) { return r.id == "E3"; })) << "nothing is missing";
  EXPECT_NEAR(find(rows, "H4").estimate.value, 2, 0.3);
  EXPECT_NE(find(rows, "H4").statistic.find("agreement"), std::string::npos);

  // The weights alone do it.
  rows = arms({{"plain", {70, .8}}, {"plain_9", {73, .8}}, {"zscore_9", {73, .8}}}).verdicts();
  EXPECT_TRUE(reads(rows, "E3.weights", kNo, "the weights explain it"));
  EXPECT_TRUE(reads(rows, "E3.heavy_weights", kNo, "no gain"));
  EXPECT_TRUE(reads(rows, "H4", kNo));

  // Agreement rises with accuracy; it falls; it moves within the noise.
  rows = arms({{"plain", {70, .8}}, {"zscore", {72, .85}}}).verdicts();
  EXPECT_TRUE(reads(rows, "H4", kNo, "E3.equal_weights"));
  EXPECT_TRUE(reads(rows, "E3.equal_weights", kNo, "agreement rises"));
  rows = arms({{"plain", {70, .8}}, {"zscore", {72, .75}}}).verdicts();
  EXPECT_TRUE(reads(rows, "H4", kOpen));
  EXPECT_TRUE(reads(rows, "E3.equal_weights", kOpen, "agreement falls"));
  Runs unclear = arms({{"plain", {70, .8}}, {"zscore", {72, .8}}});
  for (RunSummary& r : unclear.list())
    if (r.name.ends_with("zscore")) r.views["test"].pairs["Ens-S"]["agreement"] += 0.015 * double(r.seed - 1);
  rows = unclear.verdicts();
  EXPECT_TRUE(reads(rows, "E3.equal_weights", kOpen, "is not clear"));

  rows = arms({{"plain", {70, .8}}, {"zscore", {68, .8}}}).verdicts();  // the sign flipped
  EXPECT_TRUE(reads(rows, "H4", kNo));

  // One setting for it, one against.
  rows = arms({{"plain", {70, .8}}, {"zscore", {72, .8}}, {"plain_9", {73, .8}}, {"zscore_9", {73, .8}}}).verdicts();
  EXPECT_TRUE(reads(rows, "H4", kOpen, "contradicts it"));
}

// A grid of z-score arms beside one that has the plain students already, under their own names.
TEST(Verdicts, StudentsWithoutAnArmArePlainWhereOnlyTheZScoreSetsThemApart) {
  auto contrasts = [](double alpha) {
    Runs runs = arms({{"plain", {70, .8}}, {"zscore", {72, .8}}});
    for (RunSummary& r : runs.list()) {
      r.alpha = .6, r.soft_weight = .4, r.tau = 3;
      if (r.name.ends_with("_plain")) r.name.resize(r.name.size() - 6), r.alpha = alpha;
      r.zscore = r.name.ends_with("_zscore");
    }
    return runs.verdicts();
  };
  EXPECT_TRUE(reads(contrasts(.6), "E3.equal_weights", kYes, "", "Sw"));
  const auto others = contrasts(.1);
  EXPECT_TRUE(std::none_of(others.begin(), others.end(), [](const VerdictRow& r) { return r.id == "E3.equal_weights"; })) << "weights differ";
}

TEST(Verdicts, ArmsAreNoStudentsOfE1) {
  Runs runs = arms({{"plain", {70, .8}}, {"zscore", {72, .8}}});
  runs.grid([](const Student& s) { return paper(s); });
  const auto rows = runs.verdicts();
  EXPECT_EQ(find(rows, "H2").estimate.n, 3);
  EXPECT_NEAR(find(rows, "H2").estimate.value, 3, 0.3);
  EXPECT_EQ(std::count_if(rows.begin(), rows.end(), [](const VerdictRow& r) { return r.id == "H2"; }), 2) << "Sw and Ss, none of the arms";
}

// ---- N1

struct Push {
  double weight, iou, top1, teacher2, ensemble;
};
Runs regularized(const std::vector<Push>& pushes) {
  Runs runs;
  for (const Push& push : pushes) {
    const std::string arm = push.weight > 0 ? "apart" : push.weight < 0 ? "together" : "free";
    for (int64_t seed : {0, 1, 2}) {
      runs.teacher("T2w_" + arm, seed, push.weight);
      Planted p;
      p.top1 = push.top1 + double(seed), p.teacher2 = push.teacher2, p.ensemble = push.ensemble + 0.4 * std::sin(double(seed) * 5 + push.weight * 9);
      p.iou["energy"] = push.iou, p.iou["pred_class"] = push.iou;
      const Student s{{"T1w", "T2w_" + arm}, "weak", seed};
      runs.student("T1w_T2w_Sw_" + arm, s, p);
    }
  }
  return runs;
}

TEST(Verdicts, AttentionRegularization) {
  auto rows = regularized({{-.5, .8, 70, 77, 80}, {0, .7, 71, 77, 80}, {.5, .6, 72.5, 77, 80}}).verdicts();
  for (const char* id : {"N1", "N1.overlap", "N1.matched", "N1.accuracy", "N1.ensemble"}) EXPECT_TRUE(reads(rows, id, kYes)) << id;
  EXPECT_NEAR(find(rows, "N1").estimate.value, 2.5, 0.3);
  EXPECT_NE(find(rows, "N1").confounders.find("T2 top-1"), std::string::npos);

  rows = regularized({{-.5, .8, 72.5, 77, 80}, {0, .7, 71, 77, 80}, {.5, .6, 70, 77, 80}}).verdicts();
  EXPECT_TRUE(reads(rows, "N1", kNo, "N1.accuracy"));
  rows = regularized({{-.5, .8, 70, 77, 80}, {0, .7, 70, 77, 80}, {.5, .6, 70, 77, 80}}).verdicts();
  EXPECT_TRUE(reads(rows, "N1.accuracy", kNo, "flat or opposite"));
  EXPECT_TRUE(reads(rows, "N1.ensemble", kOpen, "no gain to explain"));
  EXPECT_TRUE(reads(rows, "N1", kNo));
  rows = regularized({{-.5, .8, 70, 74, 80}, {0, .7, 71, 77, 80}, {.5, .6, 72.5, 77, 80}}).verdicts();
  EXPECT_TRUE(reads(rows, "N1.matched", kNo, "more than 0.5 points apart"));
  EXPECT_TRUE(reads(rows, "N1", kOpen, "N1.matched"));
  rows = regularized({{-.5, .61, 70, 77, 80}, {0, .6, 71, 77, 80}, {.5, .6, 72.5, 77, 80}}).verdicts();
  EXPECT_TRUE(reads(rows, "N1.overlap", kNo));
  EXPECT_TRUE(reads(rows, "N1", kOpen, "N1.overlap"));
}

TEST(Verdicts, AttentionRegularizationThatTracksTheEnsemble) {
  Runs runs = regularized({{-.5, .8, 70, 77, 80}, {0, .7, 71, 77, 81}, {.5, .6, 72.5, 77, 82.5}});
  for (RunSummary& r : runs.list())
    if (r.kind == "student") {
      double& ensemble = r.views["test"].models["Ens"].numbers["top1"];
      ensemble += noise(61, r.seed, uint32_t(r.name.size()), 1.0);
      r.views["test"].models["S"].numbers["top1"] = ensemble - 10 + noise(60, r.seed, uint32_t(r.name.size()), .02);
    }
  const auto rows = runs.verdicts();
  EXPECT_TRUE(reads(rows, "N1.accuracy", kYes));
  EXPECT_TRUE(reads(rows, "N1.ensemble", kNo, "it tracks ensemble accuracy"));
  EXPECT_TRUE(reads(rows, "N1", kNo, "N1.ensemble"));
}

TEST(Verdicts, StudentsWithAnAttentionLossOfTheirOwn) {
  for (double sign : {1.0, -1.0}) {
    Runs runs;
    for (double weight : {-.5, 0., .5})
      for (int64_t seed : {0, 1, 2}) {
        Planted p;
        p.top1 = 70 + double(seed) - 3 * weight * sign;
        runs.student(fmt::format("T1w_T2w_Sw_{}", weight > 0 ? "imitate" : weight < 0 ? "diverge" : "none"), {{"T1w", "T2w"}, "weak", seed}, p);
        runs.list().back().attention_mode = "distance";
        runs.list().back().attention_weight = weight;
      }
    EXPECT_TRUE(reads(runs.verdicts(), "N1.student", sign > 0 ? kYes : kNo));
    EXPECT_NEAR(find(runs.verdicts(), "N1.student").estimate.value, 3 * sign, 0.3) << "a distance that is minimized with weight above 0 pulls together";
  }
}

// ---- N2

// Twelve sets of teachers; every metric falls with accuracy, save those in `rising`.
Runs metrics(const std::vector<std::string>& rising = {}) {
  Runs runs = pool([](double d, double other) { return diverse(d, other); });
  for (RunSummary& r : runs.list()) {
    const double d = (r.views["test"].models["S"].numbers["top1"] - 70) / 4;
    uint32_t k = 0;
    for (const char* view : {"test", "student_view"}) {
      Numbers& pair = r.views[view].pairs["Ens-S"];
      auto set = [&](Numbers& into, const std::string& key, int fidelity) {
        const bool up = std::find(rising.begin(), rising.end(), std::string(view) + "." + key) != rising.end();
        into[key] = 1 + (up ? 1 : -1) * fidelity * 0.2 * d + noise(70 + ++k, r.seed, 1, .005);
      };
      for (const char* key : {"agreement", "kappa", "agreement_when_a_errs", "top5_overlap", "mi_plugin", "mi_adjusted", "mi_soft"}) set(pair, key, 1);
      for (const char* key : {"kl_ab", "kl_ba", "kl_ab_t3", "js", "kl_code", "tv", "hellinger", "wasserstein_confidence", "wasserstein_class"})
        set(pair, key, -1);
      Numbers& rk = r.views[view].rk;
      for (const char* key : {"2Tand1S_f", "2Tand1S_mi", "2Tand1S_mis"}) set(rk, key, 1);
      set(rk, "2Tand1S_kl", -1);
    }
  }
  return runs;
}

TEST(Verdicts, AllMetricsFallTogether) {
  const auto rows = metrics().verdicts();
  for (const char* id : {"N2", "N2.view", "N2.averaging"}) EXPECT_TRUE(reads(rows, id, kYes)) << id;
}

TEST(Verdicts, OneMetricThatRisesContradicts) {
  auto rows = metrics({"test.hellinger", "student_view.hellinger"}).verdicts();
  EXPECT_TRUE(reads(rows, "N2", kNo, "hellinger"));
  EXPECT_TRUE(reads(rows, "N2.view", kYes)) << "it is the same on both views";
  rows = metrics({"student_view.kappa"}).verdicts();
  EXPECT_TRUE(reads(rows, "N2", kNo, "kappa on student_view"));
  EXPECT_TRUE(reads(rows, "N2.view", kNo, "kappa on student_view"));
  EXPECT_TRUE(reads(rows, "N2.averaging", kYes));
  rows = metrics({"test.2Tand1S_f"}).verdicts();
  EXPECT_TRUE(reads(rows, "N2.averaging", kNo, "rk.f against agreement"));
}

TEST(MetricCorrelations, MatrixOfRunsAndMetrics) {
  const Runs runs = metrics({"test.tv"});
  const MetricCorrelations m = metric_correlations(runs.groups(), "test");
  const size_t n = m.metrics.size();
  ASSERT_EQ(n, 1 + 16 + 4u);
  EXPECT_EQ(m.metrics[0].key, "top1");
  EXPECT_EQ(m.runs.size(), 12u);
  ASSERT_EQ(m.values.size(), n * 12);
  ASSERT_EQ(m.rho.size(), n * n);
  for (size_t i = 0; i < n; ++i) {
    EXPECT_NEAR(m.at(i, i), 1, 1e-12);
    std::vector<double> row(m.values.begin() + ptrdiff_t(i * 12), m.values.begin() + ptrdiff_t(i * 12 + 12));
    for (size_t j = 0; j < n; ++j) {
      EXPECT_EQ(m.at(i, j), m.at(j, i));
      EXPECT_NEAR(m.at(i, j), spearman(row, {m.values.begin() + ptrdiff_t(j * 12), m.values.begin() + ptrdiff_t(j * 12 + 12)}), 1e-12);
    }
    if (i == 0) continue;
    const bool up = m.metrics[i].key == "tv";
    EXPECT_LT(m.at(0, i) * m.metrics[i].fidelity * (up ? -1 : 1), -0.8) << m.metrics[i].key;
    EXPECT_EQ(m.metrics[i].with_accuracy.n, 12);
    EXPECT_TRUE(m.metrics[i].with_accuracy.bootstrap.excludes(0));
  }
  EXPECT_EQ(m.flipped, (std::vector<std::string>{"tv"}));
  EXPECT_TRUE(metric_correlations(runs.groups(), "train").metrics.empty());
  EXPECT_TRUE(metric_correlations({}, "test").metrics.empty());
}

TEST(MetricCorrelations, OneTeacherStandsForItsEnsemble) {
  Runs runs;
  for (int64_t seed = 0; seed < 6; ++seed) {
    Planted p;
    p.top1 = 70 + double(seed);
    runs.student("T1w_Sw", {{"T1w"}, "weak", seed}, p);
    ViewEval& test = runs.list().back().views["test"];
    test.pairs = {{"T1-S", {{"agreement", 0.9 - 0.01 * double(seed)}}}};
    test.rk = {{"1Tand1S_f", 0.9 - 0.01 * double(seed)}, {"2Tand1S_f", double(seed)}};
  }
  const MetricCorrelations m = metric_correlations(runs.groups());
  ASSERT_EQ(m.metrics.size(), 3u);
  EXPECT_EQ(m.metrics[1].key, "agreement");
  EXPECT_NEAR(m.at(0, 1), -1, 1e-12);
  EXPECT_EQ(m.metrics[2].key, "rk.f");
  EXPECT_NEAR(m.at(0, 2), -1, 1e-12);
}

// ---- the table

TEST(VerdictTable, RowsAsPeopleReadThem) {
  Runs runs;
  runs.grid([](const Student& s) { return paper(s); });
  const auto rows = runs.verdicts();
  const Table table = verdict_table(rows);
  std::vector<std::string> keys;
  for (const Column& c : table.columns) keys.push_back(c.key);
  EXPECT_EQ(keys, (std::vector<std::string>{"id", "scope", "statement", "statistic", "interval", "n", "verdict", "confounders"}));
  ASSERT_EQ(table.rows.size(), rows.size());
  for (size_t i = 0; i < rows.size(); ++i) {
    ASSERT_EQ(table.rows[i].size(), keys.size());
    EXPECT_EQ(table.rows[i][0].text, rows[i].id);
    EXPECT_FALSE(table.rows[i][2].text.empty());
    EXPECT_EQ(table.rows[i][6].text.rfind(to_string(rows[i].verdict), 0), 0u);
    for (const Cell& cell : table.rows[i]) EXPECT_EQ(cell.text.find("nan"), std::string::npos) << rows[i].id << ": " << cell.text;
    if (rows[i].verdict == kOpen || rows[i].verdict == kNo) {
      EXPECT_FALSE(rows[i].reason.empty()) << rows[i].id;
    }
  }
  const VerdictRow h2 = find(rows, "H2");
  const auto row = std::find_if(table.rows.begin(), table.rows.end(), [](const auto& r) { return r[0].text == "H2"; });
  EXPECT_NE((*row)[3].text.find(with_sign(h2.estimate.value, 2)), std::string::npos);
  EXPECT_EQ((*row)[4].text, to_string(h2.estimate.bootstrap, 2) + "; t " + to_string(h2.estimate.parametric, 2));
  // Experiment after experiment.
  std::vector<std::string> families;
  for (const VerdictRow& r : rows)
    if (const std::string family = r.id.substr(0, r.id.find('.')); families.empty() || families.back() != family) families.push_back(family);
  EXPECT_EQ(families, (std::vector<std::string>{"H1", "H2", "H3", "H4", "H5", "E1", "C", "E2", "E3", "N1", "N2"}));
  for (Format format : {Format::text, Format::markdown, Format::csv, Format::latex}) EXPECT_FALSE(render(table, format).empty());
  const auto again = runs.verdicts();
  EXPECT_EQ(render(verdict_table(again), Format::csv), render(table, Format::csv)) << "the same numbers, the same bits";
}

}  // namespace
}  // namespace kd
