// The correlations of every fidelity metric with accuracy, and N2, the verdict on them.
#include "bench/metric_correlations.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <map>
#include <set>
#include <utility>

#include "bench/verdict_rules.h"
#include "engine/base/check.h"

namespace kd::verdicts {
namespace {

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

}  // namespace

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

}  // namespace kd::verdicts

namespace kd {

using namespace verdicts;

MetricCorrelations metric_correlations(const std::vector<RunGroup>& groups, const std::string& view) {
  MetricCorrelations best{.view = view, .scope = ""};
  for (const Study& study : studies_of(groups))
    for (const Stratum& stratum : strata_of(study))
      if (MetricCorrelations m = correlations_of(stratum, view); m.runs.size() > best.runs.size()) best = std::move(m);
  return best;
}

}  // namespace kd
