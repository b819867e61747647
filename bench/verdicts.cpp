// The verdicts, and those of them that are association, because the teachers differ in more than their view: H1 to H3, H5, E1, the controls of H1, E2.
// E3 with H4, and N1: verdicts_interventions.cpp. N2: metric_correlations.cpp.
#include "bench/verdicts.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <map>
#include <set>

#include "bench/verdict_rules.h"
#include "engine/base/check.h"

namespace kd::verdicts {
namespace {

// Correlations this near 0, interval and all, count as none.
constexpr double kNoCorrelation = 0.2;

double gap_on_view(const RunSummary& r) { return number_in(r.gap, "gap_view"); }

// ---- which teachers students had

// "T1w", "T2w_far": w; 0 for any other name.
char view_mark(const std::string& teacher) {
  size_t at = 1;
  while (at < teacher.size() && teacher[at] >= '0' && teacher[at] <= '9') ++at;
  const bool marks = teacher[0] == 'T' && at > 1 && at < teacher.size() && (teacher[at] == 'w' || teacher[at] == 's');
  return marks && (at + 1 == teacher.size() || teacher[at + 1] == '_') ? teacher[at] : '\0';
}
int64_t strong_teachers(const RunSummary& r) {
  return std::count_if(r.teachers.begin(), r.teachers.end(), [](const std::string& t) { return view_mark(t) == 's'; });
}
bool known_teachers(const RunSummary& r) {
  return !r.teachers.empty() && std::none_of(r.teachers.begin(), r.teachers.end(), [](const std::string& t) { return view_mark(t) == 0; });
}
double share_of_strong(const RunSummary& r) { return known_teachers(r) ? double(strong_teachers(r)) / double(r.teachers.size()) : kNotMeasured; }

// Teachers all weak, mixed, all strong.
enum class Mix { weak, mixed, strong };
Pool with_mix(const Pool& students, Mix mix) {
  Pool out;
  for (const RunGroup* g : students) {
    const RunSummary& r = g->front();
    const int64_t strong = strong_teachers(r), all = int64_t(r.teachers.size());
    if (known_teachers(r) && mix == (strong == 0 ? Mix::weak : strong == all ? Mix::strong : Mix::mixed)) out.push_back(g);
  }
  return out;
}

// ---- correlations of overlap, accuracy and agreement

Reading read_association(const Judge& judge, const Association& a, int sign) {
  if (a.runs == 0) return {Verdict::not_measured, ""};
  if (!std::isfinite(a.rho.value)) return {Verdict::undecided, a.runs < 3 ? plural(a.runs, "run") + "; a correlation needs 3" : "one side never changes"};
  if (a.rho.n < kMinUnits) return {Verdict::undecided, fmt::format("{}; an interval needs {}", plural(a.rho.n, "set") + " of teachers", kMinUnits)};
  if (judge.inside(a.rho, -kNoCorrelation, kNoCorrelation)) return {Verdict::contradicted, "there is no correlation"};
  const int found = judge.beyond(a.rho, 0);
  if (found == -sign) return {Verdict::contradicted, "the correlation has the other sign"};
  if (found == 0) return {Verdict::undecided, a.rho.bootstrap.excludes(0) ? "the bootstrap interval excludes 0, Fisher's does not" : "the interval holds 0"};
  if (!std::isfinite(a.given_ensemble.value)) return {Verdict::undecided, "whether ensemble accuracy explains it is not known"};
  if (judge.beyond(a.given_ensemble, 0) != sign)
    return {Verdict::undecided, a.given_ensemble.value * sign <= 0 ? "gone at equal ensemble accuracy" : "no longer clear at equal ensemble accuracy"};
  return {Verdict::supported, ""};
}

VerdictRow association_row(const std::string& id, const std::string& scope, const std::string& statement, const std::string& what, const Association& a) {
  VerdictRow row{.id = id, .scope = scope, .statement = statement, .statistic = "Spearman's ρ of " + what, .estimate = a.rho};
  if (std::isfinite(a.pearson)) row.statistic += fmt::format(" (Pearson's r {})", with_sign(a.pearson, 2));
  if (a.runs > 0) {
    row.counted = fmt::format("{}, {}", plural(a.rho.n, "set of teachers"), plural(a.runs, "run"));
    row.confounders = fmt::format("ρ given ensemble top-1 {}; given teachers' mean top-1 {}", in_words(a.given_ensemble, 2), in_words(a.given_teachers, 2));
  }
  return row;
}

// ---- strong against weak teachers, one student view

std::string statistic_of(const std::string& quantity) { return quantity + ", s/s − w/w"; }

class Strength {
 public:
  Strength(const Stratum& stratum, const Judge& judge)
      : stratum_(stratum),
        judge_(judge),
        weak_(with_mix(stratum.students, Mix::weak)),
        mixed_(with_mix(stratum.students, Mix::mixed)),
        strong_(with_mix(stratum.students, Mix::strong)) {
    if (measured()) {
      const std::map<int64_t, std::string> teachers = teachers_by_seed(strong_, weak_);
      std::set<std::string> distinct;
      for (const auto& [seed, key] : teachers) distinct.insert(key);
      const bool known =
          std::any_of(strong_.front()->runs.begin(), strong_.front()->runs.end(), [](const RunSummary& r) { return std::isfinite(teacher_accuracy(r)); });
      if (known && teachers.size() > 1 && distinct.size() == 1) same_teachers_ = "the same teachers in every seed: nothing is said about others";
      confounders_ =
          fmt::format("ensemble top-1 {}; teachers' mean top-1 {}; student top-1 at equal ensemble accuracy {}", in_words(delta(ensemble_accuracy), 2),
                      in_words(delta(teacher_accuracy), 2), in_words(at_equal_ensemble(stratum.students, share_of_strong, accuracy), 2));
    }
  }
  bool measured() const { return !weak_.empty() && !strong_.empty(); }
  Estimate delta(const Get& get) const { return difference(strong_, weak_, get); }
  Estimate teacher_delta(const Get& get) const { return teacher_difference(strong_, weak_, get); }

  VerdictRow row(const std::string& id, const std::string& statement, const std::string& quantity, const Estimate& e, int decimals) const {
    return {.id = id,
            .scope = stratum_.label,
            .statement = statement,
            .statistic = statistic_of(quantity),
            .estimate = e,
            .decimals = decimals,
            .counted = seeds(e),
            .confounders = confounders_};
  }
  VerdictRow judged(const std::string& id, const std::string& statement, const std::string& quantity, const Get& get, int sign, double threshold,
                    int decimals) const {
    VerdictRow out = row(id, statement, quantity, delta(get), decimals);
    set(out, judge_.read(out.estimate, {sign, threshold}));
    return out;
  }
  // Strong above mixed above weak, or below.
  VerdictRow ordered(const std::string& id, const std::string& statement, const std::string& quantity, const Get& get, int sign) const {
    const Estimate all = delta(get), upper = difference(strong_, mixed_, get), lower = difference(mixed_, weak_, get);
    VerdictRow out = row(id, statement, quantity, all, 2);
    out.statistic += fmt::format(" (s/s − s/w {}, s/w − w/w {})", in_words(upper, 2), in_words(lower, 2));
    Reading reading = judge_.read(all, {sign, kPoints, "seed", Absence::contradicts});
    if (reading.verdict == Verdict::contradicted) reading.reason = "no ordering: " + reading.reason;
    if (reading.verdict == Verdict::supported) {
      if (!std::isfinite(upper.value) || !std::isfinite(lower.value))
        reading = {Verdict::undecided, "no students of one strong and one weak teacher"};
      else if (judge_.effect(upper, kPoints) == -sign || judge_.effect(lower, kPoints) == -sign)
        reading = {Verdict::contradicted, "no ordering: s/w does not lie between"};
      else if (upper.value * sign <= 0 || lower.value * sign <= 0)
        reading = {Verdict::undecided, "s/w does not lie between, though not clearly"};
    }
    set(out, reading);
    return out;
  }
  // Fills in the verdict, and what limits it.
  void set(VerdictRow& row, const Reading& reading) const {
    row.verdict = reading.verdict, row.reason = reading.reason;
    if (!same_teachers_.empty() && row.verdict != Verdict::not_measured) row.reason += (row.reason.empty() ? "" : "; ") + same_teachers_;
  }

 private:
  const Stratum& stratum_;
  const Judge& judge_;
  Pool weak_, mixed_, strong_;
  std::string same_teachers_, confounders_;
};

bool learned(const std::string& kind) { return kind != "class_sum" && kind != "random_projection"; }

// The kinds of map that any of the runs has, as people list them.
std::vector<std::string> map_kinds(const Pool& pool) {
  std::set<std::string> found;
  for (const RunGroup* g : pool)
    for (const RunSummary& r : g->runs)
      for (const auto& [kind, map] : maps_of(r)) found.insert(kind);
  std::vector<std::string> out;
  for (const char* kind : {"pred_class", "label_class", "prob_weighted", "energy", "class_sum", "random_projection"})
    if (found.erase(kind)) out.push_back(kind);
  out.insert(out.end(), found.begin(), found.end());
  return out;
}
std::string main_kind(const std::vector<std::string>& kinds) {
  auto it = std::find_if(kinds.begin(), kinds.end(), learned);
  return it == kinds.end() ? "pred_class" : *it;
}

// ---- the experiments

struct All {
  Rows hypotheses, augmentation, controls, overlap, zscore, regularization, metrics;
};

void add_hypotheses(const Stratum& stratum, const Strength& strength, const Judge& judge, Rows& into) {
  const std::string kind = main_kind(map_kinds(stratum.students));
  if (strength.measured()) {
    if (stratum.teachers >= 2) {
      VerdictRow h1 = strength.row("H1", "Stronger augmentation of the teachers diversifies their attention", fmt::format("IoU(T1,T2) of {} maps", kind),
                                   strength.teacher_delta(overlap_of(kind)), 3);
      h1.counted = h1.estimate.n == 0 ? "" : plural(h1.estimate.n, "set") + " of teachers";
      Reading reading = judge.read(h1.estimate, {-1, kShare, "set of teachers"});
      if (h1.estimate.n == 1) reading.reason = "one set of teachers: the same in every seed, or one seed";
      h1.verdict = reading.verdict, h1.reason = reading.reason;
      into.push_back(h1);
    }
    into.push_back(strength.judged("H2", "The student gains from strongly augmented teachers", "top-1 points", accuracy, 1, kPoints, 2));
    into.push_back(strength.judged("H2.gap", "… and generalizes with a smaller gap", "train − test points", gap, -1, kPoints, 2));
  }
  if (stratum.teachers >= 2) {
    const Association top1 = associate(stratum.students, overlap_of(kind), accuracy), of_gap = associate(stratum.students, overlap_of(kind), gap);
    if (top1.runs > 0) {
      VerdictRow row = association_row("H2.overlap", stratum.label, "… so across students less overlap goes with more accuracy",
                                       fmt::format("IoU(T1,T2) of {} maps and top-1", kind), top1);
      const Reading reading = read_association(judge, top1, -1);
      row.verdict = reading.verdict, row.reason = reading.reason;
      into.push_back(row);
      row = association_row("H2.overlap_gap", stratum.label, "… and with a smaller gap", fmt::format("IoU(T1,T2) of {} maps and gap", kind), of_gap);
      const Reading gap_reading = read_association(judge, of_gap, 1);
      row.verdict = gap_reading.verdict, row.reason = gap_reading.reason;
      into.push_back(row);
    }
  }
  if (strength.measured()) {
    const bool gains = judge.effect(strength.delta(accuracy), kPoints) > 0;
    auto imitate = [](const char* key) { return Get([key](const RunSummary& r) { return imitation(r, "test", key); }); };
    auto add = [&](const char* id, const char* statement, const char* quantity, const Get& get, int sign, double threshold) {
      VerdictRow row = strength.judged(id, statement, quantity, get, sign, threshold, 3);
      if (row.verdict == Verdict::supported && !gains)
        row.reason += std::string(row.reason.empty() ? "" : "; ") + "but no gain in accuracy is shown that it could come with";
      into.push_back(row);
    };
    add("H3", "That gain comes with less imitation: agreement falls", "agreement with the teachers", agreement, -1, kShare);
    add("H3.mi", "… mutual information falls", "adjusted mutual information, nats", imitate("mi_adjusted"), -1, 0);
    add("H3.kl", "… KL(teachers‖student) rises", "KL, nats", imitate("kl_ab"), 1, 0);
  }
  const Association fidelity = associate(stratum.students, accuracy, agreement);
  if (fidelity.runs > 0) {
    VerdictRow row = association_row("H5", stratum.label, "Low fidelity is a property, not a defect: more accurate students agree less",
                                     "top-1 and agreement with the teachers", fidelity);
    const Reading reading = read_association(judge, fidelity, -1);
    row.verdict = reading.verdict, row.reason = reading.reason;
    into.push_back(row);
  }
}

// The student's own view, with which everything changes, also without teachers.
VerdictRow own_view_row(const Study& study, size_t teachers, const std::string& arm, const Judge& judge) {
  Pool strong, weak, alone_strong, alone_weak;
  for (const Stratum& s : strata_of(study)) {
    if (s.teachers != teachers || s.arm != arm) continue;
    if (s.view == "strong") strong = with_mix(s.students, Mix::strong);
    if (s.view == "weak") weak = with_mix(s.students, Mix::weak);
  }
  for (const RunGroup* g : study.baselines) (g->front().view == "strong" ? alone_strong : alone_weak).push_back(g);
  auto paired = [](const Pool& a, const Pool& b) {
    std::map<int64_t, double> out, of_b = by_seed(b, accuracy);
    for (const auto& [seed, value] : by_seed(a, accuracy))
      if (of_b.count(seed)) out[seed] = value - of_b.at(seed);
    return out;
  };
  const std::map<int64_t, double> whole = paired(strong, weak), alone = paired(alone_strong, alone_weak);
  std::vector<double> wholes, alones;
  for (const auto& [seed, value] : whole) wholes.push_back(value);
  for (const auto& [seed, value] : alone) alones.push_back(value);
  const Estimate gain = mean_estimate(wholes), view_alone = mean_estimate(alones), excess = mean_estimate(paired_differences(whole, alone));
  VerdictRow row{.id = "E1.view",
                 .scope = fmt::format("{}, Ss and Sw, {}{}", study.label, plural(int64_t(teachers), "teacher"), arm.empty() ? "" : ", " + arm),
                 .statement = "The gain is more than the student's own view brings without teachers",
                 .statistic = fmt::format("top-1 points, (s/s_Ss − w/w_Sw) − (only_Ss − only_Sw): {} less {}", in_words(gain, 2), in_words(view_alone, 2)),
                 .estimate = excess,
                 .counted = seeds(excess)};
  row.confounders = fmt::format("ensemble top-1 {}; teachers' mean top-1 {}", in_words(difference(strong, weak, ensemble_accuracy), 2),
                                in_words(difference(strong, weak, teacher_accuracy), 2));
  Reading reading = judge.read(excess, {1, kPoints, "seed", Absence::contradicts});
  if (reading.verdict == Verdict::contradicted && judge.effect(gain, kPoints) <= 0) reading = {Verdict::undecided, "there is no gain to explain"};
  if (reading.verdict == Verdict::contradicted) reading.reason = "the student's own view explains it: " + reading.reason;
  row.verdict = reading.verdict, row.reason = reading.reason;
  if (reading.verdict == Verdict::not_measured) row.reason = "needs s/s_Ss, w/w_Sw, only_Ss and only_Sw with common seeds";
  return row;
}

void add_augmentation(const Study& study, const Stratum& stratum, const Strength& strength, const Judge& judge, Rows& into) {
  if (!strength.measured()) return;
  Rows parts, more;
  parts.push_back(strength.ordered("E1.accuracy", "There is an ordering: accuracy s/s > s/w > w/w", "top-1 points", accuracy, 1));
  parts.push_back(strength.ordered("E1.gap", "The gap has the reverse order", "train − test points", gap, -1));
  if (std::isfinite(strength.delta(gap_on_view).value))
    more.push_back(strength.ordered("E1.gap_view", "… on the student's view, too", "train − test points, student's view", gap_on_view, -1));

  VerdictRow agree = strength.row("E1.agreement", "Agreement with the teachers is not higher", "agreement with the teachers", strength.delta(agreement), 3);
  Reading reading = judge.read(agree.estimate, {-1, kShare});
  if (reading.verdict == Verdict::undecided && !judge.degenerate(agree.estimate) && judge.beyond(agree.estimate, kShare) < 0)
    reading = {Verdict::supported, fmt::format("the interval excludes a rise of {:g}", kShare)};
  strength.set(agree, reading);
  parts.push_back(agree);

  VerdictRow equal = strength.row("E1.ensemble", "The ordering does not vanish once ensemble accuracy is regressed out",
                                  "top-1 points at equal ensemble accuracy", at_equal_ensemble(stratum.students, share_of_strong, accuracy), 2);
  reading = judge.read(equal.estimate, {1, kPoints, "seed", Absence::contradicts});
  if (reading.verdict == Verdict::not_measured) reading.reason = "ensemble accuracy is not known, or follows from the teachers' views";
  if (reading.verdict == Verdict::contradicted) {
    if (judge.effect(strength.delta(accuracy), kPoints) <= 0)
      reading = {Verdict::undecided, "there is no ordering to explain"};
    else
      reading.reason = "ensemble accuracy explains it: " + reading.reason;
  }
  strength.set(equal, reading);
  parts.push_back(equal);
  const VerdictRow own_view = own_view_row(study, stratum.teachers, stratum.arm, judge);
  parts.push_back(own_view);

  VerdictRow whole = strength.row("E1", "Strongly augmented teachers help by diversity, not by accuracy or by the student's view", "top-1 points",
                                  strength.delta(accuracy), 2);
  strength.set(whole, combined(parts));
  // It belongs to both views.
  if (std::any_of(into.begin(), into.end(), [&](const VerdictRow& r) { return r.id == own_view.id && r.scope == own_view.scope; })) parts.pop_back();
  into.push_back(whole);
  for (const Rows* rows : {&parts, &more}) into.insert(into.end(), rows->begin(), rows->end());
}

// Does a map without learned weights show what the learned ones show?
void add_controls(const Stratum& stratum, const Strength& strength, const Judge& judge, Rows& into) {
  if (!strength.measured() || stratum.teachers < 2) return;
  const std::vector<std::string> kinds = map_kinds(stratum.students);
  const std::string kind = main_kind(kinds);
  const Estimate shown = strength.teacher_delta(overlap_of(kind));
  if (!std::isfinite(shown.value)) return;
  std::vector<std::string> others;
  for (const std::string& k : kinds)
    if (learned(k)) others.push_back(fmt::format("{} {}", k, in_words(strength.teacher_delta(overlap_of(k)), 3)));
  for (const char* control : {"random_projection", "class_sum"}) {
    const Estimate own = strength.teacher_delta(overlap_of(control));
    const Estimate more = strength.teacher_delta([&](const RunSummary& r) { return overlap(r, kind) - overlap(r, control); });
    VerdictRow row = strength.row(fmt::format("C.{}", control), fmt::format("{} maps do not reproduce the fall of IoU(T1,T2) that learned maps show", control),
                                  fmt::format("fall of IoU in {} maps beyond that in {}", kind, control), more, 3);
    row.statistic += fmt::format(" ({} {}; {})", control, in_words(own, 3), fmt::join(others, "; "));
    row.counted = row.estimate.n == 0 ? "" : plural(row.estimate.n, "set") + " of teachers";
    Reading reading = judge.read(more, {-1, kShare, "set of teachers"});
    if (reading.verdict != Verdict::not_measured && more.n >= 3) {
      if (judge.effect(shown, kShare) >= 0)
        reading = {Verdict::undecided, fmt::format("{} maps show no clear fall that could be reproduced", kind)};
      else if (judge.effect(own, kShare) < 0)
        reading = {Verdict::contradicted, "it shows the fall as well: the measure is at work, not learned attention"};
      else if (reading.verdict == Verdict::contradicted)
        reading = {Verdict::contradicted, "it falls more than the learned maps"};
    }
    row.verdict = reading.verdict, row.reason = reading.reason;
    into.push_back(row);
  }
}

void add_overlap(const Stratum& stratum, const Judge& judge, Rows& into) {
  if (stratum.teachers < 2) return;
  const std::vector<std::string> kinds = map_kinds(stratum.students);
  const std::string main = main_kind(kinds);
  struct Measure {
    const char *key, *name, *statement;
    Get get;
    int sign;  // of its correlation with overlap
  };
  const Measure measures[] = {{"top1", "top-1", "less overlap of the teachers goes with more accuracy", accuracy, -1},
                              {"gap", "gap", "less overlap of the teachers goes with a smaller gap", gap, 1},
                              {"agreement", "agreement with the teachers", "less overlap of the teachers goes with less agreement", agreement, 1}};
  Rows rows;
  for (const Measure& m : measures) {
    const Association control = associate(stratum.students, overlap_of("random_projection"), m.get);
    const int of_control = judge.beyond(control.rho, 0);
    for (const std::string& kind : kinds) {
      const Association a = associate(stratum.students, overlap_of(kind), m.get);
      if (a.runs == 0) continue;
      VerdictRow row =
          association_row(fmt::format("E2.{}.{}", kind, m.key), stratum.label, m.statement, fmt::format("IoU(T1,T2) of {} maps and {}", kind, m.name), a);
      Reading reading = read_association(judge, a, m.sign);
      if (learned(kind)) {
        row.confounders += "; random_projection ρ " + in_words(control.rho, 2);
        if (reading.verdict == Verdict::supported && !std::isfinite(control.rho.value))
          reading = {Verdict::undecided, "the random_projection control is not measured"};
        else if (reading.verdict == Verdict::supported && of_control == m.sign)
          reading = {Verdict::contradicted, "the random_projection control shows it, too: the measure is at work, not attention"};
      } else {
        row.statement = fmt::format("control: in {} maps, {}", kind, m.statement);
      }
      row.verdict = reading.verdict, row.reason = reading.reason;
      rows.push_back(row);
    }
  }
  auto whole = std::find_if(rows.begin(), rows.end(), [&](const VerdictRow& r) { return r.id == fmt::format("E2.{}.top1", main); });
  if (whole == rows.end()) return;
  into.push_back(*whole);
  into.back().id = "E2";
  into.back().statement = "Less overlap of the teachers' attention goes with more accuracy, also at equal ensemble accuracy, and the control does not show it";
  into.insert(into.end(), rows.begin(), rows.end());
}

std::string title_of(const std::string& id) { return id.substr(0, id.find('.')); }

}  // namespace
}  // namespace kd::verdicts

namespace kd {

using namespace verdicts;

const char* to_string(Verdict verdict) {
  switch (verdict) {
    case Verdict::supported: return "supported";
    case Verdict::contradicted: return "contradicted";
    case Verdict::undecided: return "undecided";
    case Verdict::not_measured: break;
  }
  return "not measured";
}

std::vector<VerdictRow> verdicts_of(const std::vector<RunGroup>& groups, IntervalRule rule) {
  const Judge judge(rule);
  All all;
  Rows h4;
  for (const Study& study : studies_of(groups)) {
    for (const Stratum& stratum : strata_of(study)) {
      add_metrics(stratum, judge, all.metrics);
      if (!stratum.arm.empty() && stratum.arm != stratum.students[0]->front().name) continue;  // variants of the loss are compared below
      const Strength strength(stratum, judge);
      add_hypotheses(stratum, strength, judge, all.hypotheses);
      add_augmentation(study, stratum, strength, judge, all.augmentation);
      add_controls(stratum, strength, judge, all.controls);
      add_overlap(stratum, judge, all.overlap);
    }
    add_zscore(study, judge, all.zscore, h4);
    add_regularization(study, judge, all.regularization);
  }
  all.hypotheses.insert(all.hypotheses.end(), h4.begin(), h4.end());
  auto has = [](const Rows& rows, const std::string& id) {  // itself, or a part of it
    return std::any_of(rows.begin(), rows.end(), [&](const VerdictRow& r) { return r.id == id || r.id.starts_with(id + "."); });
  };
  auto missing = [&](Rows& rows, const char* id, const char* statement, const char* needs) {
    if (!has(rows, id)) rows.push_back({.id = id, .statement = statement, .reason = needs});
  };
  const char* two = "needs evaluated students of only-strong and of only-weak teachers, the view of the students equal";
  missing(all.hypotheses, "H1", "Stronger augmentation of the teachers diversifies their attention", two);
  missing(all.hypotheses, "H2", "The student gains from strongly augmented teachers", two);
  missing(all.hypotheses, "H3", "That gain comes with less imitation: agreement falls", two);
  missing(all.hypotheses, "H4", "z-scored logits help accuracy, not fidelity", "needs the arms plain, zscore, plain_9 and zscore_9 (recipes/e3_shapes.yaml)");
  missing(all.hypotheses, "H5", "Low fidelity is a property, not a defect: more accurate students agree less", "needs evaluated students");
  // One hypothesis after the other, each for all its data sets and views.
  std::stable_sort(all.hypotheses.begin(), all.hypotheses.end(), [](const VerdictRow& a, const VerdictRow& b) { return title_of(a.id) < title_of(b.id); });
  missing(all.augmentation, "E1", "Strongly augmented teachers help by diversity, not by accuracy or by the student's view", two);
  missing(all.controls, "C.random_projection", "random_projection maps do not reproduce the fall of IoU(T1,T2) that learned maps show", two);
  missing(all.overlap, "E2", "Less overlap of the teachers' attention goes with more accuracy", "needs evaluated students of two or more teachers");
  missing(all.zscore, "E3", "z-score gains accuracy over its weight control", "needs the arms plain, zscore, plain_9 and zscore_9 (recipes/e3_shapes.yaml)");
  missing(all.regularization, "N1", "Less similar attention of the teachers makes the student more accurate",
          "needs students of second teachers that were trained with different attention_weight");
  missing(all.metrics, "N2", "Fidelity falls as accuracy rises in every metric, on every view and however averaged", "needs evaluated students");
  Rows out;
  for (Rows* rows : {&all.hypotheses, &all.augmentation, &all.controls, &all.overlap, &all.zscore, &all.regularization, &all.metrics})
    out.insert(out.end(), std::make_move_iterator(rows->begin()), std::make_move_iterator(rows->end()));
  return out;
}

Table verdict_table(const std::vector<VerdictRow>& rows) {
  Table table{
      .title = "Verdicts",
      .columns = {{"id", ""},
                  {"scope", "runs"},
                  {"statement", "statement"},
                  {"statistic", "statistic"},
                  {"interval", "95 % interval"},
                  {"n", "n"},
                  {"verdict", "verdict"},
                  {"confounders", "confounders"}},
      .notes = {fmt::format("s/s, s/w, w/w: students of only strongly, mixed and only weakly augmented teachers, equal student view, paired by seed. Interval: "
                            "percentiles of {} bootstrap resamples of seeds (or sets of teachers), beside it that of Student's t (of Fisher's z for ρ). "
                            "Supported or contradicted only where both exclude 0 and the effect reaches {:g} points of accuracy or gap, or {:g} of IoU or "
                            "agreement. Over three seeds the bootstrap interval is their range.",
                            kResamples, kPoints, kShare),
                "Nothing corrects for the number of rows: one 95 % interval in twenty misses. All but E3 and N1 is association. Rules and reasons: "
                "docs/verdicts.md."}};
  for (const VerdictRow& row : rows) {
    if (!table.rows.empty() && title_of(row.id) != title_of(table.rows.back()[0].text)) table.group_starts.push_back(table.rows.size());
    const Estimate& e = row.estimate;
    std::string interval = to_string(e.bootstrap, row.decimals);
    if (e.parametric.known())
      interval +=
          fmt::format("{}{} {}", interval.empty() ? "" : "; ", row.statistic.starts_with("Spearman") ? "z" : "t", to_string(e.parametric, row.decimals));
    table.rows.push_back({row.id, row.scope, row.statement, row.statistic + (std::isfinite(e.value) ? ": " + with_sign(e.value, row.decimals) : ""), interval,
                          row.counted, to_string(row.verdict) + (row.reason.empty() ? "" : ": " + row.reason), row.confounders});
  }
  return table;
}

}  // namespace kd
