#include "bench/verdict_rules.h"

#include <algorithm>
#include <cmath>
#include <set>
#include <tuple>
#include <utility>

#include "engine/base/check.h"

namespace kd::verdicts {

// ---- numbers of one run

double value_or(double value, double otherwise) { return std::isfinite(value) ? value : otherwise; }

double accuracy(const RunSummary& r) { return value_or(model_number(r, "test", "S", "top1"), value_or(r.test_top1_selected, r.test_top1_last)); }
double gap(const RunSummary& r) { return value_or(number_in(r.gap, "gap"), r.train_top1_last - r.test_top1_last); }

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
double overlap(const RunSummary& r, const std::string& kind) {
  std::vector<double> pairs;
  for (size_t i = 1; i <= r.teachers.size(); ++i)
    for (size_t j = i + 1; j <= r.teachers.size(); ++j) pairs.push_back(map_number(r, kind, &MapEval::iou, fmt::format("T{}-T{}", i, j)));
  return stat_of(pairs).mean;
}
Get overlap_of(const std::string& kind) {
  return [kind](const RunSummary& r) { return overlap(r, kind); };
}

std::string teachers_of(const RunSummary& r) {
  std::string key = fmt::format("{}", fmt::join(r.teachers, " "));
  for (size_t i = 1; i <= r.teachers.size(); ++i)
    for (const char* number : {"top1", "nll", "brier"}) key += fmt::format(" {:.7g}", model_number(r, "test", fmt::format("T{}", i), number));
  return key;
}

// ---- which runs may be compared

std::string arm_of(const RunSummary& r) {
  const auto name = read_name(r.name);
  return name ? name->arm : r.name;
}

std::string view_letter(const std::string& view) { return view == "weak" ? "Sw" : view == "strong" ? "Ss" : view; }

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

// ---- differences

std::map<int64_t, double> by_seed(const Pool& pool, const Get& get) {
  std::map<int64_t, std::vector<double>> values;
  for (const RunGroup* g : pool)
    for (const RunSummary& r : g->runs) values[r.seed].push_back(get(r));
  std::map<int64_t, double> out;
  for (const auto& [seed, of_seed] : values) out[seed] = stat_of(of_seed).mean;
  return out;
}
Estimate difference(const Pool& a, const Pool& b, const Get& get) { return mean_estimate(paired_differences(by_seed(a, get), by_seed(b, get))); }

std::map<int64_t, std::string> teachers_by_seed(const Pool& a, const Pool& b) {
  std::map<int64_t, std::set<std::string>> keys;
  for (const Pool* pool : {&a, &b})
    for (const RunGroup* g : *pool)
      for (const RunSummary& r : g->runs) keys[r.seed].insert(teachers_of(r));
  std::map<int64_t, std::string> out;
  for (const auto& [seed, of_seed] : keys) out[seed] = fmt::format("{}", fmt::join(of_seed, " | "));
  return out;
}
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
Estimate at_equal_ensemble(const Pool& pool, const std::function<double(const RunSummary&)>& x, const Get& y) {
  std::vector<Observation> rows;
  for (const RunGroup* g : pool)
    for (const RunSummary& r : g->runs) rows.push_back({x(r), y(r), {ensemble_accuracy(r)}, r.seed});
  return adjusted_difference(rows);
}

// ---- words

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

int Judge::beyond(const Estimate& e, double value) const {
  const bool both = rule_ == IntervalRule::bootstrap_and_t;
  if (!e.bootstrap.excludes(value) || (both && !e.parametric.excludes(value))) return 0;
  return e.value > value ? 1 : -1;
}
bool Judge::inside(const Estimate& e, double from, double to) const {
  return e.bootstrap.inside(from, to) && (rule_ == IntervalRule::bootstrap || e.parametric.inside(from, to));
}
int Judge::effect(const Estimate& e, double threshold) const { return degenerate(e) || std::abs(e.value) < threshold ? 0 : beyond(e, 0); }

Reading Judge::read(const Estimate& e, const Expected& expected) const {
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

bool Judge::degenerate(const Estimate& e) { return e.bootstrap.known() && e.bootstrap.hi - e.bootstrap.lo < 1e-9; }

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

// ---- correlations over single runs; the unit is the set of teachers

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

}  // namespace kd::verdicts
