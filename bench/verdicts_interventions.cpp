// E3 and N1, the experiments that change one thing: z-scored logits, and attention of teachers or students that was pushed apart.
#include <algorithm>
#include <cmath>
#include <map>
#include <tuple>
#include <utility>

#include "bench/verdict_rules.h"
#include "engine/base/check.h"

namespace kd::verdicts {

// ---- E3

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

namespace {

// N1: how far the overlap of the teachers must have moved for the experiment to have happened.
constexpr double kMovedOverlap = 0.1;

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

}  // namespace

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

}  // namespace kd::verdicts
