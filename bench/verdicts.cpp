#include "bench/verdicts.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <set>
#include <tuple>

#include "engine/base/check.h"

namespace kd {
namespace {

using Get = std::function<double(const RunSummary&)>;
using Pool = std::vector<const RunGroup*>;
using Rows = std::vector<VerdictRow>;

// Correlations this near 0, interval and all, count as none.
constexpr double kNoCorrelation = 0.2;
// N1: how far the overlap of the teachers must have moved for the experiment to have happened.
constexpr double kMovedOverlap = 0.1;

// ---- numbers of one run

double value_or(double value, double otherwise) { return std::isfinite(value) ? value : otherwise; }

// Of the checkpoint that agreement and maps were measured on; of the selected one where nothing was evaluated.
double accuracy(const RunSummary& r) { return value_or(model_number(r, "test", "S", "top1"), value_or(r.test_top1_selected, r.test_top1_last)); }
double gap(const RunSummary& r) { return value_or(number_in(r.gap, "gap"), r.train_top1_last - r.test_top1_last); }
double gap_on_view(const RunSummary& r) { return number_in(r.gap, "gap_view"); }

// The pair that stands for the teachers' imitation: their ensemble and the student, or the only teacher and the student.
double imitation(const RunSummary& r, const std::string& view, const std::string& key) {
  return value_or(pair_number(r, view, "Ens-S", key), r.teachers.size() == 1 ? pair_number(r, view, "T1-S", key) : kNotMeasured);
}
double agreement(const RunSummary& r) { return imitation(r, "test", "agreement"); }

double ensemble_accuracy(const RunSummary& r) {
  return value_or(model_number(r, "test", "Ens", "top1"), r.teachers.size() == 1 ? model_number(r, "test", "T1", "top1") : kNotMeasured);
}
double teacher_accuracy(const RunSummary& r) {
  double sum = 0;
  for (size_t i = 1; i <= r.teachers.size(); ++i) sum += model_number(r, "test", fmt::format("T{}", i), "top1");
  return sum / double(r.teachers.size());
}
// Mean over the pairs of teachers.
double overlap(const RunSummary& r, const std::string& kind) {
  std::vector<double> pairs;
  for (size_t i = 1; i <= r.teachers.size(); ++i)
    for (size_t j = i + 1; j <= r.teachers.size(); ++j) pairs.push_back(map_number(r, kind, &MapEval::iou, fmt::format("T{}-T{}", i, j)));
  return stat_of(pairs).mean;
}
Get overlap_of(const std::string& kind) {
  return [kind](const RunSummary& r) { return overlap(r, kind); };
}

// Which teachers a run had. Their names do not say (each has several seeds), their numbers on the test images do.
std::string teachers_of(const RunSummary& r) {
  std::string key = fmt::format("{}", fmt::join(r.teachers, " "));
  for (size_t i = 1; i <= r.teachers.size(); ++i)
    for (const char* number : {"top1", "nll", "brier"}) key += fmt::format(" {:.7g}", model_number(r, "test", fmt::format("T{}", i), number));
  return key;
}

// ---- which runs may be compared

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
// The variant of distillation: a grid's arm, or the whole name where it is not one of the grid's.
std::string arm_of(const RunSummary& r) {
  const auto name = read_name(r.name);
  return name ? name->arm : r.name;
}

// One data set and network. Everything else that is compared lies within it.
struct Study {
  std::string label;
  Pool students, baselines, teachers;
};
std::vector<Study> studies_of(const std::vector<RunGroup>& groups) {
  auto key = [](const RunSummary& r) { return std::tuple(r.dataset, r.train_images, r.arch, r.width, r.px); };
  using Key = decltype(key(groups[0].front()));
  std::map<Key, Study> studies;
  std::set<std::string> datasets;
  std::set<std::pair<std::string, int64_t>> sizes;
  for (const RunGroup& g : groups)
    if (g.front().kind != "teacher") (g.front().kind == "student" ? studies[key(g.front())].students : studies[key(g.front())].baselines).push_back(&g);
  for (const auto& [k, study] : studies) datasets.insert(std::get<0>(k)), sizes.insert({std::get<0>(k), std::get<1>(k)});
  std::vector<Study> out;
  for (auto& [k, study] : studies) {
    study.label = std::get<0>(k);
    if (sizes.size() > datasets.size()) study.label += fmt::format(" {} images", std::get<1>(k));
    if (studies.size() > sizes.size()) study.label += fmt::format(" {} width {:g} at {} px", std::get<2>(k), std::get<3>(k), std::get<4>(k));
    for (const RunGroup& g : groups)  // teachers are larger networks than their students
      if (g.front().kind == "teacher" && g.front().dataset == std::get<0>(k)) study.teachers.push_back(&g);
    out.push_back(std::move(study));
  }
  return out;
}

std::string view_letter(const std::string& view) { return view == "weak" ? "Sw" : view == "strong" ? "Ss" : view; }

// Students of one study that differ in their teachers only.
struct Stratum {
  std::string label, view, arm;
  size_t teachers = 0;
  Pool students;
};
std::vector<Stratum> strata_of(const Study& study) {
  std::map<std::tuple<std::string, size_t, std::string>, Stratum> strata;
  for (const RunGroup* g : study.students) {
    const RunSummary& r = g->front();
    Stratum& s = strata[{arm_of(r), r.teachers.size(), r.view}];
    s.view = r.view, s.arm = arm_of(r), s.teachers = r.teachers.size();
    s.label =
        fmt::format("{}, {}, {} teacher{}{}", study.label, view_letter(r.view), s.teachers, s.teachers == 1 ? "" : "s", s.arm.empty() ? "" : ", " + s.arm);
    s.students.push_back(g);
  }
  std::vector<Stratum> out;
  for (auto& [key, stratum] : strata) out.push_back(std::move(stratum));
  // Weak before strong.
  std::stable_sort(out.begin(), out.end(), [](const Stratum& a, const Stratum& b) {
    return std::tuple(a.arm, a.teachers, a.view != "weak") < std::tuple(b.arm, b.teachers, b.view != "weak");
  });
  return out;
}

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

// ---- differences

// Mean over the groups, and over runs of one seed where there are several.
std::map<int64_t, double> by_seed(const Pool& pool, const Get& get) {
  std::map<int64_t, std::vector<double>> values;
  for (const RunGroup* g : pool)
    for (const RunSummary& r : g->runs) values[r.seed].push_back(get(r));
  std::map<int64_t, double> out;
  for (const auto& [seed, of_seed] : values) out[seed] = stat_of(of_seed).mean;
  return out;
}
Estimate difference(const Pool& a, const Pool& b, const Get& get) { return mean_estimate(paired_differences(by_seed(a, get), by_seed(b, get))); }

// Which teachers stand behind each seed of a difference.
std::map<int64_t, std::string> teachers_by_seed(const Pool& a, const Pool& b) {
  std::map<int64_t, std::set<std::string>> keys;
  for (const Pool* pool : {&a, &b})
    for (const RunGroup* g : *pool)
      for (const RunSummary& r : g->runs) keys[r.seed].insert(teachers_of(r));
  std::map<int64_t, std::string> out;
  for (const auto& [seed, of_seed] : keys) out[seed] = fmt::format("{}", fmt::join(of_seed, " | "));
  return out;
}
// The same for what belongs to the teachers alone: seeds that share them are one observation.
Estimate teacher_difference(const Pool& a, const Pool& b, const Get& get) {
  const std::map<int64_t, std::string> teachers = teachers_by_seed(a, b);
  const std::map<int64_t, double> of_a = by_seed(a, get), of_b = by_seed(b, get);
  std::map<std::string, std::vector<double>> values;
  for (const auto& [seed, value] : of_a)
    if (auto other = of_b.find(seed); other != of_b.end()) values[teachers.at(seed)].push_back(value - other->second);
  std::vector<double> means;
  for (const auto& [key, of_teachers] : values) means.push_back(stat_of(of_teachers).mean);
  return mean_estimate(means);
}
// y at x = 1 less y at x = 0, at equal ensemble accuracy, within seeds.
Estimate at_equal_ensemble(const Pool& pool, const std::function<double(const RunSummary&)>& x, const Get& y) {
  std::vector<Observation> rows;
  for (const RunGroup* g : pool)
    for (const RunSummary& r : g->runs) rows.push_back({x(r), y(r), {ensemble_accuracy(r)}, r.seed});
  return adjusted_difference(rows);
}
double share_of_strong(const RunSummary& r) { return known_teachers(r) ? double(strong_teachers(r)) / double(r.teachers.size()) : kNotMeasured; }

// ---- words

// "3 seeds", "1 set of teachers", "3 sets of teachers".
std::string plural(int64_t n, const std::string& what) {
  if (n == 1) return "1 " + what;
  const size_t noun = std::min(what.find(' '), what.size());
  return fmt::format("{} {}s{}", n, what.substr(0, noun), what.substr(noun));
}
std::string seeds(const Estimate& e) { return e.n == 0 ? std::string() : plural(e.n, "seed"); }
std::string in_words(const Estimate& e, int decimals) {
  if (!std::isfinite(e.value)) return "not measured";
  const Interval interval = e.bootstrap.known() ? e.bootstrap : e.parametric;
  return with_sign(e.value, decimals) + (interval.known() ? " (" + to_string(interval, decimals) + ")" : "");
}

// ---- rules

struct Reading {
  Verdict verdict;
  std::string reason;
};

struct Expected {
  int sign;          // of the effect
  double threshold;  // of its size
  std::string unit = "seed";
  // An interval that excludes an effect of that size: is the effect then disproved, or is only nothing shown?
  enum class Absence { undecided, contradicts } absence = Absence::undecided;
};
using Absence = Expected::Absence;

class Judge {
 public:
  explicit Judge(IntervalRule rule) : rule_(rule) {}

  // Whether every interval that the rule asks for lies on the far side of `value`: 1 above, -1 below, 0 neither.
  int beyond(const Estimate& e, double value) const {
    const bool both = rule_ == IntervalRule::bootstrap_and_t;
    if (!e.bootstrap.excludes(value) || (both && !e.parametric.excludes(value))) return 0;
    return e.value > value ? 1 : -1;
  }
  bool inside(const Estimate& e, double from, double to) const {
    return e.bootstrap.inside(from, to) && (rule_ == IntervalRule::bootstrap || e.parametric.inside(from, to));
  }
  // The sign of an effect that is clear and large; otherwise 0.
  int effect(const Estimate& e, double threshold) const { return degenerate(e) || std::abs(e.value) < threshold ? 0 : beyond(e, 0); }

  Reading read(const Estimate& e, const Expected& expected) const {
    if (!std::isfinite(e.value)) return {Verdict::not_measured, ""};
    if (e.n < 3) return {Verdict::undecided, fmt::format("{}; an interval needs 3", e.n == 1 ? "one " + expected.unit : plural(e.n, expected.unit))};
    if (degenerate(e)) return {Verdict::undecided, fmt::format("every {} gives the same number, so they are no independent repetitions", expected.unit)};
    const double towards = e.value * expected.sign;
    if (const int sign = effect(e, expected.threshold)) {
      if (sign == expected.sign) return {Verdict::supported, ""};
      return {Verdict::contradicted, "the effect is the other way round"};
    }
    if (expected.absence == Absence::contradicts && towards < expected.threshold && beyond(e, expected.sign * expected.threshold) != 0)
      return {Verdict::contradicted, fmt::format("the interval excludes an effect of {:g}", expected.threshold)};
    if (!e.bootstrap.excludes(0)) return {Verdict::undecided, "the interval holds 0"};
    if (std::abs(e.value) < expected.threshold) return {Verdict::undecided, fmt::format("smaller than {:g}", expected.threshold)};
    return {Verdict::undecided, fmt::format("the bootstrap interval excludes 0, the t interval does not: {} are too few", plural(e.n, expected.unit))};
  }

  // Seeds that give one number to the last digit are copies of one run, not repetitions.
  static bool degenerate(const Estimate& e) { return e.bootstrap.known() && e.bootstrap.hi - e.bootstrap.lo < 1e-9; }

 private:
  IntervalRule rule_;
};

// ---- correlations over single runs; the unit is the set of teachers

struct Association {
  Estimate rho, given_ensemble, given_teachers;
  double pearson = kNotMeasured;
  int64_t runs = 0;
};
Association associate(const Pool& students, const Get& x, const Get& y) {
  std::map<std::string, int64_t> units;
  std::vector<Observation> raw, ensemble, teachers;
  std::vector<double> xs, ys;
  for (const RunGroup* g : students)
    for (const RunSummary& r : g->runs) {
      const double a = x(r), b = y(r);
      if (!std::isfinite(a) || !std::isfinite(b)) continue;
      const int64_t unit = units.try_emplace(teachers_of(r), int64_t(units.size())).first->second;
      xs.push_back(a), ys.push_back(b);
      raw.push_back({a, b, {}, unit});
      ensemble.push_back({a, b, {ensemble_accuracy(r)}, unit});
      teachers.push_back({a, b, {teacher_accuracy(r)}, unit});
    }
  return {correlation_estimate(Correlation::spearman, raw), correlation_estimate(Correlation::spearman, ensemble),
          correlation_estimate(Correlation::spearman, teachers), kd::pearson(xs, ys), int64_t(raw.size())};
}

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

// What a statement is worth whose parts have been judged.
Reading combined(const Rows& parts) {
  std::vector<std::string> against, open;
  for (const VerdictRow& part : parts) {
    if (part.verdict == Verdict::contradicted) against.push_back(part.id);
    if (part.verdict == Verdict::undecided || part.verdict == Verdict::not_measured) open.push_back(part.id);
  }
  if (!against.empty()) return {Verdict::contradicted, fmt::format("by {}", fmt::join(against, ", "))};
  if (!open.empty()) return {Verdict::undecided, fmt::format("open: {}", fmt::join(open, ", "))};
  return {Verdict::supported, ""};
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

// z-score against plain at equal weights.
void add_zscore(const Study& study, const Judge& judge, Rows& into, Rows& hypotheses) {
  std::map<std::tuple<size_t, std::string>, std::map<std::string, Pool>> cells;  // by number of teachers and view, weak first
  for (const RunGroup* g : study.students) {
    const RunSummary& r = g->front();
    const std::string arm = arm_of(r);
    for (const char* known : {"plain", "zscore", "plain_9", "zscore_9"})
      if (arm == known) cells[{r.teachers.size(), r.view == "weak" ? "" : r.view}][arm].push_back(g);
  }
  // Students without an arm are plain where nothing but the z-score sets them apart from their arm zscore, and no arm plain repeats them.
  for (const RunGroup* g : study.students) {
    const RunSummary& r = g->front();
    if (!arm_of(r).empty()) continue;
    for (const RunGroup* other : study.students) {
      const RunSummary& o = other->front();
      const bool repeated = std::any_of(study.students.begin(), study.students.end(), [&](const RunGroup* p) { return p->front().name == r.name + "_plain"; });
      if (o.name == r.name + "_zscore" && !repeated && !r.zscore && o.alpha == r.alpha && o.soft_weight == r.soft_weight && o.tau == r.tau)
        cells[{r.teachers.size(), r.view == "weak" ? "" : r.view}]["plain"].push_back(g);
    }
  }
  for (auto& [cell, arms] : cells) {
    const auto& [teachers, view] = cell;
    const std::string scope = fmt::format("{}, {}, {}", study.label, view_letter(view.empty() ? "weak" : view), plural(int64_t(teachers), "teacher"));
    Rows contrasts;
    auto confounders = [](const Pool& a, const Pool& b) {
      return fmt::format("ensemble top-1 {}; teachers' mean top-1 {}", in_words(difference(a, b, ensemble_accuracy), 2),
                         in_words(difference(a, b, teacher_accuracy), 2));
    };
    // Only students that both arms have.
    auto common = [&](const std::string& a, const std::string& b) {
      auto cut = [](const RunGroup* g, const std::string& arm) {
        const std::string& name = g->front().name;
        return name.ends_with("_" + arm) ? name.substr(0, name.size() - arm.size() - 1) : name;
      };
      Pool left, right;
      for (const RunGroup* g : arms[a])
        for (const RunGroup* h : arms[b])
          if (cut(g, a) == cut(h, b)) left.push_back(g), right.push_back(h);
      return std::pair(left, right);
    };
    for (auto [id, with, without, settings] : {std::tuple{"E3.equal_weights", "zscore", "plain", "equal weights and temperature"},
                                               {"E3.heavy_weights", "zscore_9", "plain_9", "its weight control"}}) {
      const auto [a, b] = common(with, without);
      const Estimate gain = difference(a, b, accuracy), imitating = difference(a, b, agreement), of_gap = difference(a, b, gap);
      if (!std::isfinite(gain.value)) continue;
      VerdictRow row{.id = id,
                     .scope = scope,
                     .statement = fmt::format("{} gains accuracy over {} ({}) while agreement stays", with, without, settings),
                     .statistic = fmt::format("top-1 points, {} − {} (agreement {}; gap {})", with, without, in_words(imitating, 3), in_words(of_gap, 2)),
                     .estimate = gain,
                     .counted = seeds(gain),
                     .confounders = confounders(a, b)};
      Reading reading = judge.read(gain, {1, kPoints, "seed", Absence::contradicts});
      if (reading.verdict == Verdict::contradicted) reading.reason = "no gain: " + reading.reason;
      if (reading.verdict == Verdict::supported) {
        const int moved = judge.effect(imitating, kShare);
        if (!std::isfinite(imitating.value))
          reading = {Verdict::undecided, "agreement is not measured"};
        else if (moved > 0)
          reading = {Verdict::contradicted, "agreement rises with accuracy"};
        else if (moved < 0)
          reading = {Verdict::undecided, "accuracy rises, but agreement falls"};
        else if (std::abs(imitating.value) >= kShare || !judge.inside(imitating, -kShare, kShare))
          reading = {Verdict::undecided, fmt::format("accuracy rises; whether agreement moves by {:g} is not clear", kShare)};
      }
      row.verdict = reading.verdict, row.reason = reading.reason;
      contrasts.push_back(row);
    }
    // A gain over the usual setting may come from the weights alone.
    const auto [heavy, usual] = common("zscore_9", "plain");
    const auto [with, control] = common("zscore_9", "plain_9");
    const Estimate apparent = difference(heavy, usual, accuracy), left = difference(with, control, accuracy);
    if (std::isfinite(apparent.value) && std::isfinite(left.value)) {
      VerdictRow row{.id = "E3.weights",
                     .scope = scope,
                     .statement = "What zscore_9 gains over plain does not disappear against its weight control plain_9",
                     .statistic = fmt::format("top-1 points, zscore_9 − plain_9 (zscore_9 − plain {})", in_words(apparent, 2)),
                     .estimate = left,
                     .counted = seeds(left),
                     .confounders = confounders(with, control)};
      Reading reading = judge.read(left, {1, kPoints, "seed", Absence::contradicts});
      if (reading.verdict == Verdict::contradicted)
        reading = judge.effect(apparent, kPoints) > 0 ? Reading{Verdict::contradicted, "the weights explain it: " + reading.reason}
                                                      : Reading{Verdict::undecided, "zscore_9 has no clear gain over plain that could disappear"};
      row.verdict = reading.verdict, row.reason = reading.reason;
      contrasts.push_back(row);
    }
    if (contrasts.empty()) continue;
    // The hypothesis: in one setting at least, and against it in none.
    VerdictRow h4 = contrasts.back().id == "E3.weights" && contrasts.size() > 1 ? contrasts[contrasts.size() - 2] : contrasts[0];
    h4.id = "H4", h4.statement = "z-scored logits help accuracy, not fidelity";
    std::vector<std::string> against, in_favour;
    for (const VerdictRow& row : contrasts) {
      if (row.verdict == Verdict::contradicted) against.push_back(row.id);
      if (row.verdict == Verdict::supported && row.id != "E3.weights") in_favour.push_back(row.id);
    }
    h4.verdict = !against.empty() && in_favour.empty()   ? Verdict::contradicted
                 : against.empty() && !in_favour.empty() ? Verdict::supported
                                                         : Verdict::undecided;
    h4.reason = h4.verdict == Verdict::contradicted ? fmt::format("by {}", fmt::join(against, ", "))
                : h4.verdict == Verdict::supported  ? fmt::format("by {}", fmt::join(in_favour, ", "))
                : against.empty()                   ? "no contrast is clear"
                                                    : fmt::format("{} supports it, {} contradicts it", fmt::join(in_favour, ", "), fmt::join(against, ", "));
    hypotheses.push_back(h4);
    into.insert(into.end(), contrasts.begin(), contrasts.end());
  }
}

// ---- N1

// How strongly the attention loss pushes apart what it compares: the weight of a similarity, the negative weight of a distance. NaN without that loss.
double push_apart(const RunSummary& r) { return r.attention_mode == "distance" ? -r.attention_weight : r.attention_weight; }

const RunSummary* second_teacher(const Study& study, const RunSummary& student) {
  if (student.teachers.size() < 2) return nullptr;
  for (const RunGroup* g : study.teachers)
    if (g->front().name == student.teachers[1]) return &g->front();
  return nullptr;
}
// A teacher trained without that loss was not pushed.
double push_of_second_teacher(const Study& study, const RunSummary& student) {
  const RunSummary* teacher = second_teacher(study, student);
  return teacher ? value_or(push_apart(*teacher), 0) : kNotMeasured;
}

// Students by how strongly attention was pushed apart.
struct Weighted {
  std::map<double, Pool> by_weight;
  bool varied() const { return by_weight.size() >= 2; }
  const Pool& lowest() const { return by_weight.begin()->second; }
  const Pool& highest() const { return by_weight.rbegin()->second; }
  double low() const { return by_weight.begin()->first; }
  double high() const { return by_weight.rbegin()->first; }
  Pool all() const {
    Pool out;
    for (const auto& [weight, pool] : by_weight) out.insert(out.end(), pool.begin(), pool.end());
    return out;
  }
};

void add_regularization(const Study& study, const Judge& judge, Rows& into) {
  struct Family {
    std::string scope;
    Weighted students;
  };
  std::map<std::string, Family> by_teacher, by_student;
  for (const RunGroup* g : study.students) {
    const RunSummary& r = g->front();
    const auto name = read_name(r.name);
    const std::string base = name ? r.name.substr(0, r.name.size() - (name->arm.empty() ? 0 : name->arm.size() + 1)) : r.name;
    const std::string scope = fmt::format("{}, {}", study.label, base),
                      loss = fmt::format(" {} {} {} {} {}", r.combine, r.alpha, r.soft_weight, r.tau, r.zscore);
    const double teacher = push_of_second_teacher(study, r);
    const double own = push_apart(r);
    if (std::isfinite(teacher) && value_or(own, 0) == 0) {
      Family& family = by_teacher[base + " " + r.teachers[0] + loss];
      family.scope = scope;
      family.students.by_weight[teacher].push_back(g);
    }
    if (std::isfinite(own)) {
      Family& family = by_student[fmt::format("{} {}", base, fmt::join(r.teachers, " ")) + loss];
      family.scope = scope;
      family.students.by_weight[own].push_back(g);
    }
  }

  for (auto& [key, family] : by_teacher) {
    Weighted& w = family.students;
    if (!w.varied()) continue;
    // Where students of other experiments lie beside the arm of weight 0: it is the one whose teacher 2 says so.
    if (auto zero = w.by_weight.find(0); zero != w.by_weight.end()) {
      Pool explicitly;
      for (const RunGroup* g : zero->second)
        if (std::isfinite(push_apart(*second_teacher(study, g->front())))) explicitly.push_back(g);
      if (!explicitly.empty()) zero->second = explicitly;
    }
    const Pool &apart = w.highest(), &together = w.lowest();
    const std::string contrast = fmt::format("pushed apart {:+g} less {:+g}", w.high(), w.low());
    auto second = [](const RunSummary& r) { return model_number(r, "test", "T2", "top1"); };
    const std::string confounders =
        fmt::format("ensemble top-1 {}; teachers' mean top-1 {}; T2 top-1 {}", in_words(difference(apart, together, ensemble_accuracy), 2),
                    in_words(difference(apart, together, teacher_accuracy), 2), in_words(difference(apart, together, second), 2));
    auto row = [&](const char* id, const char* statement, const std::string& statistic, const Estimate& e, int decimals) {
      return VerdictRow{.id = id,
                        .scope = family.scope,
                        .statement = statement,
                        .statistic = fmt::format("{}, {}", statistic, contrast),
                        .estimate = e,
                        .decimals = decimals,
                        .counted = seeds(e),
                        .confounders = confounders};
    };
    auto set = [](VerdictRow& into_row, const Reading& reading) { into_row.verdict = reading.verdict, into_row.reason = reading.reason; };
    Rows parts;
    VerdictRow moved = row("N1.overlap", "The regularizer moved the overlap of the teachers' attention", "IoU(T1,T2) of energy maps",
                           teacher_difference(apart, together, overlap_of("energy")), 3);
    moved.counted = moved.estimate.n == 0 ? "" : plural(moved.estimate.n, "set") + " of teachers";
    set(moved, judge.read(moved.estimate, {-1, kMovedOverlap, "set of teachers", Absence::contradicts}));
    parts.push_back(moved);

    VerdictRow matched = row("N1.matched", "T2 is as accurate in both arms", "T2 top-1 points", teacher_difference(apart, together, second), 2);
    matched.counted = matched.estimate.n == 0 ? "" : plural(matched.estimate.n, "set") + " of teachers";
    if (std::isfinite(matched.estimate.value)) {
      const bool close = std::abs(matched.estimate.value) <= kPoints;
      set(matched, {close ? Verdict::supported : Verdict::contradicted,
                    fmt::format("{} {:g} points apart{}", close ? "at most" : "more than", kPoints,
                                close && !judge.inside(matched.estimate, -kPoints, kPoints) ? ", though the interval reaches beyond" : "")});
    }
    parts.push_back(matched);

    VerdictRow gain =
        row("N1.accuracy", "Students of teachers pushed apart are more accurate", "student top-1 points", difference(apart, together, accuracy), 2);
    if (auto zero = w.by_weight.find(0); zero != w.by_weight.end() && w.low() < 0 && w.high() > 0)
      gain.statistic += fmt::format(" (apart − free {}, free − together {})", in_words(difference(apart, zero->second, accuracy), 2),
                                    in_words(difference(zero->second, together, accuracy), 2));
    Reading reading = judge.read(gain.estimate, {1, kPoints, "seed", Absence::contradicts});
    if (reading.verdict == Verdict::contradicted) reading.reason = "flat or opposite: " + reading.reason;
    set(gain, reading);
    parts.push_back(gain);

    const double span = w.high() - w.low(), low = w.low();
    VerdictRow equal = row("N1.ensemble", "The gain is there at equal ensemble accuracy", "student top-1 points at equal ensemble accuracy",
                           at_equal_ensemble(
                               w.all(), [&](const RunSummary& r) { return (push_of_second_teacher(study, r) - low) / span; }, accuracy),
                           2);
    reading = judge.read(equal.estimate, {1, kPoints, "seed", Absence::contradicts});
    if (reading.verdict == Verdict::contradicted) {
      if (judge.effect(gain.estimate, kPoints) <= 0)
        reading = {Verdict::undecided, "there is no gain to explain"};
      else
        reading.reason = "it tracks ensemble accuracy: " + reading.reason;
    }
    set(equal, reading);
    parts.push_back(equal);

    VerdictRow whole = row("N1", "Less similar attention of the teachers makes the student more accurate, at matched accuracy of the teachers",
                           "student top-1 points", gain.estimate, 2);
    reading = combined({gain, equal});
    if (reading.verdict != Verdict::undecided && moved.verdict != Verdict::supported)
      reading = {Verdict::undecided, "N1.overlap: the attention was not moved clearly"};
    else if (reading.verdict != Verdict::undecided && matched.verdict != Verdict::supported)
      reading = {Verdict::undecided, "N1.matched: T2 is not as accurate in both arms"};
    set(whole, reading);
    into.push_back(whole);
    into.insert(into.end(), parts.begin(), parts.end());
  }

  for (auto& [key, family] : by_student) {
    const Weighted& w = family.students;
    if (!w.varied()) continue;
    const Pool &imitating = w.lowest(), &diverging = w.highest();
    const Estimate gain = difference(diverging, imitating, accuracy);
    VerdictRow row{.id = "N1.student",
                   .scope = family.scope,
                   .statement = "A student whose attention is pushed away from its teachers' is more accurate than one whose attention is pulled towards them",
                   .statistic = fmt::format("student top-1 points, pushed apart {:+g} less {:+g} (agreement {})", w.high(), w.low(),
                                            in_words(difference(diverging, imitating, agreement), 3)),
                   .estimate = gain,
                   .counted = seeds(gain),
                   .confounders = fmt::format("ensemble top-1 {}; teachers' mean top-1 {}", in_words(difference(diverging, imitating, ensemble_accuracy), 2),
                                              in_words(difference(diverging, imitating, teacher_accuracy), 2))};
    Reading reading = judge.read(gain, {1, kPoints, "seed", Absence::contradicts});
    row.verdict = reading.verdict, row.reason = reading.reason;
    into.push_back(row);
  }
}

// ---- N2

struct MetricName {
  const char *key, *name;
  int fidelity;
};
constexpr MetricName kMetrics[] = {{"agreement", "agreement", 1},
                                   {"kappa", "κ", 1},
                                   {"agreement_when_a_errs", "error agreement", 1},
                                   {"top5_overlap", "top-5 overlap", 1},
                                   {"mi_plugin", "MI plug-in", 1},
                                   {"mi_adjusted", "MI adjusted", 1},
                                   {"mi_normalized", "MI normalized", 1},
                                   {"mi_soft", "MI soft", 1},
                                   {"kl_ab", "KL(T‖S)", -1},
                                   {"kl_ba", "KL(S‖T)", -1},
                                   {"kl_ab_t3", "KL(T‖S) at T 3", -1},
                                   {"kl_ba_t3", "KL(S‖T) at T 3", -1},
                                   {"js", "JS", -1},
                                   {"js_t3", "JS at T 3", -1},
                                   {"kl_code", "10·KL(S‖T)", -1},
                                   {"tv", "TV", -1},
                                   {"hellinger", "Hellinger", -1},
                                   {"wasserstein_confidence", "W1 confidence", -1},
                                   {"wasserstein_class", "W1 class", -1}};
// The published code's numbers, batch by batch, and the whole-set number that means the same.
struct BatchName {
  const char *suffix, *name;
  int fidelity;
  const char* whole;
};
constexpr BatchName kBatchMetrics[] = {{"f", "agreement, per batch", 1, "agreement"},
                                       {"kl", "10·KL(S‖T), per batch", -1, "kl_code"},
                                       {"mis", "MI plug-in, per batch", 1, "mi_plugin"},
                                       {"mi", "MI kNN, per batch", 1, "mi_adjusted"}};

MetricCorrelations correlations_of(const Stratum& stratum, const std::string& view) {
  MetricCorrelations out{.view = view, .scope = stratum.label};
  struct Source {
    MetricCorrelations::Metric metric;
    Get get;
  };
  std::vector<Source> sources{{{"top1", "top-1", 0, {}}, accuracy}};
  for (const MetricName& m : kMetrics)
    sources.push_back({{m.key, m.name, m.fidelity, {}}, [&view, &m](const RunSummary& r) { return imitation(r, view, m.key); }});
  for (const BatchName& m : kBatchMetrics)
    sources.push_back({{fmt::format("rk.{}", m.suffix), m.name, m.fidelity, {}},
                       [&view, &m](const RunSummary& r) { return rk_number(r, view, fmt::format("{}Tand1S_{}", r.teachers.size(), m.suffix)); }});
  std::map<std::string, int64_t> units;
  std::vector<int64_t> unit;
  std::vector<const RunSummary*> runs;
  for (const RunGroup* g : stratum.students)
    for (const RunSummary& r : g->runs) {
      // A run counts when it has any fidelity at all.
      if (std::none_of(sources.begin() + 1, sources.end(), [&](const Source& s) { return std::isfinite(s.get(r)); })) continue;
      runs.push_back(&r);
      unit.push_back(units.try_emplace(teachers_of(r), int64_t(units.size())).first->second);
      out.runs.push_back(fmt::format("{} seed {}", g->label, r.seed));
    }
  std::vector<std::vector<double>> columns;
  for (Source& s : sources) {
    std::vector<double> column;
    for (const RunSummary* r : runs) column.push_back(s.get(*r));
    if (std::count_if(column.begin(), column.end(), [](double v) { return std::isfinite(v); }) < 3) continue;
    out.metrics.push_back(s.metric);
    out.values.insert(out.values.end(), column.begin(), column.end());
    columns.push_back(std::move(column));
  }
  if (out.metrics.size() < 2 || out.metrics[0].key != "top1") return {.view = view, .scope = stratum.label};
  double of_agreement = kNotMeasured;
  for (size_t a = 0; a < columns.size(); ++a)
    for (size_t b = 0; b < columns.size(); ++b) {
      std::vector<double> x, y;
      std::vector<Observation> rows;
      for (size_t i = 0; i < runs.size(); ++i)
        if (std::isfinite(columns[a][i]) && std::isfinite(columns[b][i])) {
          x.push_back(columns[a][i]), y.push_back(columns[b][i]);
          rows.push_back({columns[a][i], columns[b][i], {}, unit[i]});
        }
      out.rho.push_back(spearman(x, y));
      if (a == 0 && b > 0) out.metrics[b].with_accuracy = correlation_estimate(Correlation::spearman, rows);
      if (a == 0 && out.metrics[b].key == "agreement") of_agreement = out.rho.back();
    }
  for (const MetricCorrelations::Metric& m : out.metrics)
    if (m.fidelity != 0 && m.with_accuracy.value * m.fidelity * of_agreement < 0) out.flipped.push_back(m.key);
  return out;
}

// What one metric says on one view: turned so that more is more imitation.
struct Said {
  std::string key, view;
  double rho;
  int clear;  // the sign, where the interval excludes 0
};

void add_metrics(const Stratum& stratum, const Judge& judge, Rows& into) {
  std::vector<MetricCorrelations> views;
  for (const char* view : {"test", "student_view", "train", "train_view"})
    if (MetricCorrelations m = correlations_of(stratum, view); !m.metrics.empty()) views.push_back(std::move(m));
  if (views.empty()) return;
  std::vector<Said> said;
  int64_t units = 0, runs = 0;
  for (const MetricCorrelations& m : views) {
    runs = std::max(runs, int64_t(m.runs.size()));
    for (const auto& metric : m.metrics) {
      const double rho = metric.with_accuracy.value * metric.fidelity;
      if (metric.fidelity != 0 && std::isfinite(rho)) said.push_back({metric.key, m.view, rho, judge.beyond(metric.with_accuracy, 0) * metric.fidelity});
      units = std::max(units, metric.with_accuracy.n);
    }
  }
  const std::string counted = fmt::format("{}, {}", plural(units, "set of teachers"), plural(runs, "run"));
  const Estimate ensemble = associate(stratum.students, ensemble_accuracy, accuracy).rho;
  const std::string confounders = fmt::format("ρ of ensemble and student top-1 {}", in_words(ensemble, 2));
  auto names = [](const std::vector<Said>& list) {
    constexpr size_t kShown = 6;  // of up to 69: a row, not a page
    std::set<std::string> all;
    for (const Said& s : list) all.insert(s.key + (s.view == "test" ? "" : " on " + s.view));
    std::vector<std::string> out(all.begin(), all.end());
    const size_t more = out.size() - std::min(out.size(), kShown);
    out.resize(out.size() - more);
    return out.empty() ? std::string("none") : fmt::format("{}{}", fmt::join(out, ", "), more > 0 ? fmt::format(" and {} more", more) : "");
  };
  auto where = [&](auto is) {
    std::vector<Said> out;
    std::copy_if(said.begin(), said.end(), std::back_inserter(out), is);
    return out;
  };
  const std::vector<Said> rising = where([](const Said&s) { return s.rho > 0; }), clear_rise = where([](const Said&s) { return s.clear > 0; }),
                          clear_fall = where([](const Said&s) { return s.clear < 0; });
  auto too_few = [&]() -> std::string {
    if (said.empty()) return "one side never changes";
    return units < kMinUnits ? fmt::format("{}; an interval needs {}", plural(units, "set of teachers"), kMinUnits) : std::string();
  };

  VerdictRow all{.id = "N2", .scope = stratum.label, .statement = "Fidelity falls as accuracy rises in every metric, on every view and however averaged"};
  all.statistic =
      fmt::format("{} of {} correlations with top-1 negative, {} of them clearly; median", said.size() - rising.size(), said.size(), clear_fall.size());
  std::vector<double> rhos;
  for (const Said& s : said) rhos.push_back(s.rho);
  all.estimate.value = percentile(rhos, 0.5), all.counted = counted, all.confounders = confounders;
  Reading reading{Verdict::undecided, too_few()};
  if (reading.reason.empty()) {
    if (!clear_rise.empty())
      reading = {Verdict::contradicted, fmt::format("it rises clearly in {}", names(clear_rise))};
    else if (rising.empty() && clear_fall.size() * 2 > said.size())
      reading = {Verdict::supported, ""};
    else
      reading.reason =
          rising.empty() ? "fewer than half of the correlations are clear" : fmt::format("no clear rise, but the sign differs in {}", names(rising));
  }
  all.verdict = reading.verdict, all.reason = reading.reason;
  into.push_back(all);

  // Pairs of correlations that should have one sign.
  auto compare = [&](const char* id, const char* statement, const std::vector<std::pair<Said, Said>>& pairs) {
    VerdictRow row{.id = id, .scope = stratum.label, .statement = statement, .counted = counted, .confounders = confounders};
    std::vector<std::string> flips;
    size_t clear = 0, agreeing = 0;
    for (const auto& [a, b] : pairs) {
      if (a.rho * b.rho < 0) flips.push_back(a.key == b.key ? fmt::format("{} on {}", b.key, b.view) : fmt::format("{} against {}", b.key, a.key));
      clear += a.clear * b.clear < 0;
      agreeing += a.clear * b.clear > 0;
    }
    row.statistic = fmt::format("{} of {} correlations with top-1 change sign, {} of them clearly", flips.size(), pairs.size(), clear);
    if (!pairs.empty()) {
      row.verdict = clear > 0 ? Verdict::contradicted : flips.empty() && agreeing * 2 > pairs.size() ? Verdict::supported : Verdict::undecided;
      row.reason = !flips.empty() ? fmt::format("changed: {}", fmt::join(flips, ", ")) : row.verdict == Verdict::undecided ? too_few() : "";
      if (row.reason.empty() && row.verdict == Verdict::undecided) row.reason = "fewer than half of the correlations are clear on both sides";
    }
    into.push_back(row);
  };
  auto find = [&](const std::string& key, const std::string& view) {
    return std::find_if(said.begin(), said.end(), [&](const Said& s) { return s.key == key && s.view == view; });
  };
  std::vector<std::pair<Said, Said>> by_view, by_averaging;
  for (const Said& s : said)
    if (auto other = find(s.key, "test"); s.view != "test" && other != said.end()) by_view.push_back({*other, s});
  for (const MetricCorrelations& m : views)
    for (const BatchName& b : kBatchMetrics) {
      auto batch = find(fmt::format("rk.{}", b.suffix), m.view), whole = find(b.whole, m.view);
      if (batch != said.end() && whole != said.end()) by_averaging.push_back({*whole, *batch});
    }
  if (!by_view.empty()) compare("N2.view", "The sign does not depend on the view (test against the others)", by_view);
  if (!by_averaging.empty()) compare("N2.averaging", "The sign does not depend on averaging (whole set against the published batch averages)", by_averaging);
}

std::string title_of(const std::string& id) { return id.substr(0, id.find('.')); }

}  // namespace

const char* to_string(Verdict verdict) {
  switch (verdict) {
    case Verdict::supported: return "supported";
    case Verdict::contradicted: return "contradicted";
    case Verdict::undecided: return "undecided";
    case Verdict::not_measured: break;
  }
  return "not measured";
}

MetricCorrelations metric_correlations(const std::vector<RunGroup>& groups, const std::string& view) {
  MetricCorrelations best{.view = view, .scope = ""};
  for (const Study& study : studies_of(groups))
    for (const Stratum& stratum : strata_of(study))
      if (MetricCorrelations m = correlations_of(stratum, view); m.runs.size() > best.runs.size()) best = std::move(m);
  return best;
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
