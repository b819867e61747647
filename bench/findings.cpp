#include "bench/findings.h"

#include <algorithm>
#include <cmath>
#include <set>
#include <tuple>

#include "bench/verdicts.h"
#include "engine/base/check.h"

namespace kd {
namespace {

std::string mean_of(const Stat& s, int decimals) {
  return std::isfinite(s.sd) ? fmt::format("{:.{}f} ± {:.{}f}", s.mean, decimals, s.sd, decimals) : fmt::format("{:.{}f}", s.mean, decimals);
}
std::string seeds(int64_t n) { return n == 1 ? "one seed" : fmt::format("{} seeds", n); }

std::string interval(double lo, double hi, int decimals) { return fmt::format("95 % interval {} to {}", with_sign(lo, decimals), with_sign(hi, decimals)); }

std::string listed(const std::vector<std::string>& words) {
  if (words.size() < 2) return words.empty() ? "" : words[0];
  return fmt::format("{} and {}", fmt::join(words.begin(), words.end() - 1, ", "), words.back());
}

double last(const RunSummary& r) { return r.test_top1_last; }

const RunGroup* best_of(const std::vector<RunGroup>& groups, const RunGroup& like, const std::string& kind) {
  const RunGroup* best = nullptr;
  for (const RunGroup& g : groups)
    if (g.front().kind == kind && same_data(g, like) && (!best || stat_of(g, last).mean > stat_of(*best, last).mean)) best = &g;
  return best;
}

void describe_student(const std::vector<RunGroup>& groups, const RunGroup& best, Findings& into) {
  const RunSummary& run = best.front();
  auto say = [&](const char* topic, std::string text) { into.sentences.push_back({topic, std::move(text)}); };
  const Stat accuracy = stat_of(best, last);
  say("Accuracy",
      fmt::format("The best student, {}, is right on {} % of the test images after its last epoch ({}).", best.label, mean_of(accuracy, 2), seeds(accuracy.n)));

  if (const RunGroup* alone = baseline_of(groups, best)) {
    const Stat gain = stat_of(paired_differences(best, *alone, last));
    const std::string without = fmt::format("The same network without teachers, {}, reaches {} %", alone->label, mean_of(stat_of(*alone, last), 2));
    if (gain.n == 0)
      say("Gain", without + "; no seed is shared, so there is no paired difference.");
    else {
      const std::string sure = gain.n == 1 ? "one seed" : fmt::format("{}, {}", interval(gain.mean - gain.ci95, gain.mean + gain.ci95, 2), seeds(gain.n));
      say("Gain", fmt::format("{}: distillation changes accuracy by {} points ({}).", without, with_sign(gain.mean, 2), sure));
    }
  } else {
    into.warnings.push_back(
        fmt::format("{} has no baseline: without an only_S run of the same network and view, nothing says what distillation adds.", best.label));
  }

  std::vector<std::string> teachers, fidelity;
  for (size_t i = 1; i <= run.teachers.size(); ++i) {
    const std::string id = fmt::format("T{}", i);
    const Stat top1 = stat_of(best, [&](const RunSummary& r) { return model_number(r, "test", id, "top1"); });
    const Stat agree = stat_of(best, [&](const RunSummary& r) { return pair_number(r, "test", id + "-S", "agreement"); });
    if (top1.n) teachers.push_back(fmt::format("{} % ({})", mean_of(top1, 2), run.teachers[i - 1]));
    if (agree.n) fidelity.push_back(fmt::format("{} ({})", mean_of(agree, 3), id));
  }
  const Stat ensemble = stat_of(best, [](const RunSummary& r) { return model_number(r, "test", "Ens", "top1"); });
  if (!teachers.empty())
    say("Teachers", fmt::format("Its {} {} {}{}.", teachers.size() == 1 ? "teacher" : "teachers", teachers.size() == 1 ? "reaches" : "reach", listed(teachers),
                                ensemble.n ? fmt::format("; their ensemble {} %", mean_of(ensemble, 2)) : ""));
  const Stat between = stat_of(best, [](const RunSummary& r) { return pair_number(r, "test", "T1-T2", "agreement"); });
  const Stat with_ensemble = stat_of(best, [](const RunSummary& r) { return pair_number(r, "test", "Ens-S", "agreement"); });
  if (!fidelity.empty())
    say("Fidelity", fmt::format("It gives its teachers' answer on a share of {} of the test images{}{}.", listed(fidelity),
                                with_ensemble.n ? fmt::format(", the ensemble's on {}", mean_of(with_ensemble, 3)) : "",
                                between.n ? fmt::format("; the teachers give each other's on {}", mean_of(between, 3)) : ""));

  const std::string kind = main_map(run);
  const bool two = run.teachers.size() >= 2;
  auto iou = [&](const std::string& of) {
    return stat_of(best, [&](const RunSummary& r) { return map_number(r, of, &MapEval::iou, two ? "T1-T2" : "T1-S"); });
  };
  const Stat learned = iou(kind), control = iou("random_projection");
  if (learned.n) {
    std::string sentence = fmt::format("The {} maps of {} overlap with an IoU of {}", kind, two ? "T1 and T2" : "T1 and the student", mean_of(learned, 3));
    if (control.n)
      sentence += fmt::format("; the random-projection control gives {}{}", mean_of(control, 3),
                              learned.mean <= control.mean         ? ", so the overlap is no more than any projection of the features would show"
                              : learned.mean - control.mean < 0.05 ? ", so the overlap is hardly more than any projection of the features would show"
                                                                   : "");
    say("Attention", sentence + ".");
  }
  const Stat ece = stat_of(best, [](const RunSummary& r) { return model_number(r, "test", "S", "ece"); });
  const Stat ensemble_ece = stat_of(best, [](const RunSummary& r) { return model_number(r, "test", "Ens", "ece"); });
  if (ece.n)
    say("Calibration", fmt::format("Its ECE is {}{}.", mean_of(ece, 3), ensemble_ece.n ? fmt::format(", the ensemble's {}", mean_of(ensemble_ece, 3)) : ""));
}

// Names of the groups for which `is` holds, the first few spelled out.
template <class Is>
std::string names_where(const std::vector<RunGroup>& groups, Is is) {
  std::vector<std::string> names;
  for (const RunGroup& g : groups)
    if (is(g)) names.push_back(g.label);
  constexpr size_t kShown = 8;
  if (names.size() <= kShown) return listed(names);
  const size_t more = names.size() - kShown;
  names.resize(kShown);
  return fmt::format("{} and {} more", fmt::join(names, ", "), more);
}

void warn(const std::vector<RunGroup>& groups, std::vector<std::string>& warnings) {
  auto some_run = [](const RunGroup& g, auto&& is) { return std::any_of(g.runs.begin(), g.runs.end(), is); };
  auto add = [&](const char* text, auto&& is) {
    const std::string names = names_where(groups, is);
    if (!names.empty()) warnings.push_back(fmt::format(fmt::runtime(text), names));
  };
  add("One seed only, so differences may be luck: {}.", [](const RunGroup& g) { return g.runs.size() == 1; });
  add("Not every epoch was run: {}.", [&](const RunGroup& g) { return some_run(g, [](const RunSummary& r) { return r.epochs_done < r.epochs; }); });
  add("The selected epoch was chosen on the test images, so its accuracy is optimistic: {}.",
      [&](const RunGroup& g) { return some_run(g, [](const RunSummary& r) { return r.select.rfind("test", 0) == 0; }); });
  add("The selected epoch and the last differ by more than one point: {}.",
      [&](const RunGroup& g) { return some_run(g, [](const RunSummary& r) { return std::abs(r.test_top1_selected - r.test_top1_last) > 1; }); });
  add("The same seed was found twice: {}.", [](const RunGroup& g) {
    std::set<int64_t> distinct;
    for (const RunSummary& r : g.runs) distinct.insert(r.seed);
    return distinct.size() < g.runs.size();
  });
  add("The seeds do not share their settings, so their spread is not that of luck alone: {}.", [&](const RunGroup& g) {
    auto settings = [](const RunSummary& r) {
      return std::tie(r.arch, r.stem, r.width, r.px, r.view, r.epochs, r.precision, r.select, r.teachers, r.classes, r.test_images);
    };
    return some_run(g, [&](const RunSummary& r) { return settings(r) != settings(g.front()); });
  });
  std::set<double> thresholds;
  for (const RunGroup& g : groups)
    for (const RunSummary& r : g.runs)
      if (std::isfinite(r.map_threshold)) thresholds.insert(r.map_threshold);
  if (thresholds.size() > 1)
    warnings.push_back(fmt::format("Attention masks were cut at different thresholds ({}), so their IoU cannot be compared.", fmt::join(thresholds, ", ")));
}

}  // namespace

std::string main_map(const RunSummary& run) {
  const auto& maps = maps_of(run);
  return maps.empty() || maps.count("pred_class") ? "pred_class" : maps.begin()->first;
}

Findings findings_of(const std::vector<RunGroup>& groups) {
  Findings findings;
  const RunGroup* first_of_data = nullptr;
  for (const RunGroup& g : groups) {
    if (first_of_data && same_data(*first_of_data, g)) continue;
    first_of_data = &g;
    if (const RunGroup* student = best_of(groups, g, "student")) {
      describe_student(groups, *student, findings);
      continue;
    }
    const RunGroup* best = best_of(groups, g, "teacher") ? best_of(groups, g, "teacher") : best_of(groups, g, "baseline");
    const Stat accuracy = stat_of(*best, last);
    findings.sentences.push_back({"Accuracy", fmt::format("There is no student here yet. The best model, {}, is right on {} % of the test images ({}).",
                                                          best->label, mean_of(accuracy, 2), seeds(accuracy.n))});
  }
  warn(groups, findings.warnings);
  findings.hypotheses = verdict_table(verdicts_of(groups));
  return findings;
}

}  // namespace kd
