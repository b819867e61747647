// study_tables, one setting changed and all else equal: z-scored logits against their control (R8), the switches of the published code (R11).
#include <algorithm>
#include <cmath>

#include "bench/findings.h"
#include "bench/study_tables.h"
#include "engine/base/check.h"
#include "kd/switches.h"

namespace kd {

using namespace study;

// ---- R8: z-score

namespace {

// A run "X_p3" of a flip grid: "X" with switch P3 flipped; its control is "X_base".
bool is_flip(const std::string& name, std::string* control = nullptr, std::string* id = nullptr) {
  const size_t at = name.rfind("_p");
  if (at == name.npos || at + 2 == name.size() || name.find_first_not_of("0123456789", at + 2) != name.npos) return false;
  if (control) *control = name.substr(0, at) + "_base";
  if (id) *id = "P" + name.substr(at + 2);
  return true;
}

// The run with plain logits and otherwise the same loss: of the arm that is named so, else of the grid without arms, else of any arm that flips nothing.
const RunGroup* weight_control_of(const Groups& groups, const RunGroup& zscore) {
  const RunSummary& z = zscore.front();
  const auto name = read_name(z.name);
  if (!name) return nullptr;
  std::string plain = name->arm;
  if (const size_t at = plain.find("zscore"); at != plain.npos) plain.replace(at, 6, "plain");
  const RunGroup* control = nullptr;
  int best = 3;
  for (const RunGroup& g : groups) {
    const RunSummary& r = g.front();
    const auto other = read_name(r.name);
    if (r.zscore || is_flip(r.name) || !other || other->teachers != name->teachers || other->view != name->view || r.alpha != z.alpha ||
        r.soft_weight != z.soft_weight || r.tau != z.tau || r.combine != z.combine)
      continue;
    const int rank = other->arm == plain ? 0 : other->arm.empty() ? 1 : 2;
    if (rank < best) control = &g, best = rank;
  }
  return control;
}

// The pair that stands for "the teachers": their ensemble, or the only teacher.
std::string teachers_pair(const RunSummary& r) { return r.teachers.size() > 1 ? "Ens-S" : "T1-S"; }

}  // namespace

std::vector<Table> study::zscore_tables(const Section& section) {
  Groups groups;
  std::vector<Row> rows;
  {  // cell by cell, each z-scored run after its control
    const Groups students = of_kind(section.groups, [](const RunSummary& r) { return r.kind == "student"; });
    std::set<const RunGroup*> taken;
    for (const RunGroup& g : students) {
      if (!g.front().zscore) continue;
      if (const RunGroup* control = weight_control_of(students, g); control && taken.insert(control).second) groups.push_back(*control);
      groups.push_back(g);
    }
  }
  auto cell = [](const RunGroup& g) {
    const auto name = read_name(g.front().name);
    return name ? name->teachers + name->view : g.front().name;
  };
  for (const RunGroup& g : groups) rows.push_back({.lead = {g.label}, .group = &g, .starts_group = !rows.empty() && cell(g) != cell(*rows.back().group)});
  const std::string title = fmt::format("R8 {}, z-scored logits: ", section.title);
  const std::vector<std::string> tags{"r8", section.dataset};
  auto teachers = [](const char* key, const char* name, int decimals) {
    return Quantity{spread_column(std::string(key) + "_std", name, decimals, Best::none, Definition::std),
                    [=](const RunSummary& r, const std::string&) { return pair_number(r, "test", teachers_pair(r), key); }};
  };
  std::vector<Row> described = rows;
  for (Row& row : described) {
    const RunSummary& r = row.group->front();
    for (double v : {r.alpha, r.soft_weight, r.tau}) row.lead.emplace_back(std::isfinite(v) ? fmt::format("{:g}", v) : "");
  }
  std::vector<Table> out;
  out.push_back(
      measured(title + "accuracy", tags, {text_column("name", "name"), text_column("alpha", "α"), text_column("soft_weight", "soft"), text_column("tau", "τ")},
               {{spread_column("test_top1_selected", "selected %", 2, Best::highest), [](const RunSummary& r, const std::string&) { return selected(r); }},
                {spread_column("test_top1_last", "last %", 2, Best::highest), [](const RunSummary& r, const std::string&) { return last(r); }},
                {spread_column("gap_std", "gap std", 2, Best::lowest, Definition::std),
                 [](const RunSummary& r, const std::string&) { return number_in(r.gap, "gap"); }}},
               described, {std::string(kSeedNote) + " α and soft: weights of cross-entropy and distillation; τ: temperature."}));
  out.push_back(measured(title + "fidelity", tags, {text_column("name", "name")},
                         {teachers("agreement", "agreement", 3), teachers("kappa", "κ", 3), teachers("kl_ab", "KL(T‖S)", 3)}, rows,
                         {std::string(kSeedNote) + " The teachers' ensemble, or the only teacher, and the student; test view."}));
  std::vector<Quantity> logits;
  for (const std::string& model : ordered(keys_of(groups,
                                                  [](const RunSummary&r, auto&keys) {
                                                    if (auto v = r.views.find("test"); v != r.views.end())
                                                      for (const auto& [name, eval] : v->second.models)
                                                        if (eval.numbers.count("logit_std")) keys.insert(name);
                                                  }),
                                          model_order))
    for (const char* key : {"logit_mean", "logit_std"})
      logits.push_back(
          of_model(key, model + (key[6] == 'm' ? " mean" : " sd"), 3, "test", model, Best::none, Definition::any, std::string(key) + "_" + slug(model)));
  out.push_back(measured(title + "logits", tags, {text_column("name", "name")}, logits, rows,
                         {std::string(kSeedNote) + " Mean and standard deviation over a test image's logits, averaged over images."}));

  Table differences{
      .title = title + "against its weight control",
      .columns = {text_column("name", "name"), text_column("control", "control"), count_column(), difference_column("d_selected", "selected", 2),
                  difference_column("d_last", "last", 2), difference_column("d_gap", "gap std", 2), difference_column("d_agreement", "agreement", 3),
                  difference_column("d_kappa", "κ", 3), difference_column("d_kl", "KL(T‖S)", 3)},
      .notes = {std::string(kDifferenceNote) + " z-scored − plain logits at equal weights and temperature."},
      .tags = tags};
  for (const RunGroup& g : groups) {
    const RunGroup* control = g.front().zscore ? weight_control_of(groups, g) : nullptr;
    if (!g.front().zscore) continue;
    auto pair = [&](const char* key) { return paired(g, control, [=](const RunSummary& r) { return pair_number(r, "test", teachers_pair(r), key); }); };
    differences.rows.push_back({g.label, control ? control->label : "", double(g.runs.size()), paired(g, control, selected), paired(g, control, last),
                                paired(g, control, [](const RunSummary& r) { return number_in(r.gap, "gap"); }), pair("agreement"), pair("kappa"),
                                pair("kl_ab")});
    differences.sources.push_back(dirs_of(g));
    if (control)
      for (const std::string& dir : dirs_of(*control)) differences.sources.back().push_back(dir);
  }
  out.push_back(std::move(differences));
  return out;
}

// ---- R11: switches

namespace {

// Published − clean of one number on the same runs: the mean over runs of each seed, then over seeds.
struct MetricSwitch {
  const char *id, *measured;
  std::function<double(const RunSummary&)> difference;
};
std::vector<MetricSwitch> metric_switches() {
  auto pair = [](const RunSummary& r, const char* p, const char* key) { return pair_number(r, "test", p, key); };
  auto rk = [](const RunSummary& r, const std::string& key) { return rk_number(r, "test", key); };
  auto iou = [](const RunSummary& r, const char* kind, Numbers MapEval::*quantity) { return map_number(r, kind, quantity, "T1-T2"); };
  return {
      {"P5", "agreement T1–S: rk − std", [=](const RunSummary& r) { return rk(r, "1Tand1S_f") - pair(r, "T1-S", "agreement"); }},
      {"P6", "KL of T1 and S: rk − KL(T1‖S)", [=](const RunSummary& r) { return rk(r, "1Tand1S_kl") - pair(r, "T1-S", "kl_ab"); }},
      {"P7", "gap, points: rk − std", [](const RunSummary& r) { return number_in(r.gap, "gap_rk") - number_in(r.gap, "gap"); }},
      {"P18", "IoU T1–T2: class_sum − pred_class",
       [=](const RunSummary& r) { return iou(r, "class_sum", &MapEval::iou) - iou(r, "pred_class", &MapEval::iou); }},
      {"P19", "IoU T1–T2: rk − std", [=](const RunSummary& r) { return iou(r, "pred_class", &MapEval::iou_rk) - iou(r, "pred_class", &MapEval::iou); }},
      {"P20", "MI T1–S, nats: rk − plug-in", [=](const RunSummary& r) { return rk(r, "1Tand1S_mi") - pair(r, "T1-S", "mi_plugin"); }},
      {"P21", "ECE of S: rk − std", [](const RunSummary& r) { return model_number(r, "test", "S", "ece_rk") - model_number(r, "test", "S", "ece"); }},
      {"P22", "agreement Ens–S: rk − std",
       [=](const RunSummary& r) {
         return rk(r, fmt::format("{}Tand1S_f", r.teachers.size())) - (r.teachers.size() > 1 ? pair(r, "Ens-S", "agreement") : kNotMeasured);
       }},
      {"P28", "affinity, weak: base − test", [](const RunSummary& r) { return number_in(r.affinity, "weak_base") - number_in(r.affinity, "weak_test"); }},
      {"P28", "affinity, strong: base − test", [](const RunSummary& r) { return number_in(r.affinity, "strong_base") - number_in(r.affinity, "strong_test"); }},
  };
}

}  // namespace

std::vector<Table> study::switch_tables(const std::string& dataset, const Groups& groups) {
  Table table{.title = fmt::format("R11 {}: what the published code does", dataset),
              .columns = {text_column("id", "id"), text_column("fact", "published code"), text_column("setting", "setting"),
                          text_column("published", "published"), text_column("used", "these runs")},
              .notes = {"These runs: values of their config.yaml (the flip grid's arms left out), or what this program does instead."},
              .tags = {"r11", dataset}};
  Table effects{.title = fmt::format("R11 {}: what it changes", dataset),
                .columns = {text_column("id", "id"), text_column("measured", "measured"), count_column(), difference_column("effect", "difference", 3)},
                .notes = {std::string(kDifferenceNote) +
                          " pN − base: test top-1 of the selected epoch, points, with that switch alone flipped. rk − std: the published definition less the "
                          "textbook's, points for the gap, on the same runs, averaged over the runs of each seed."},
                .tags = {"r11", dataset}};
  std::vector<std::pair<const RunGroup*, Config>> configs;
  bool students = false;  // else the teachers and baselines stand for the runs
  for (const RunGroup& g : groups)
    if (!is_flip(g.front().name)) configs.push_back({&g, config_of(g.front())}), students |= g.front().kind == "student";
  auto used = [&](const std::string& key) {
    std::vector<std::string> values;
    for (const auto& [g, config] : configs) {
      if (key == "teacher_bn" && students && g->front().kind != "student") continue;
      const auto it = config.find(key);
      if (it != config.end() && std::find(values.begin(), values.end(), it->second) == values.end()) values.push_back(it->second);
    }
    return values.empty() ? std::string("–") : joined(values);
  };
  for (const Switch& s : switches()) {
    std::vector<std::string> keys, published, values;
    for (const Switch::Value& v : s.settings) keys.push_back(v.key), published.push_back(v.published), values.push_back(used(v.key));
    if (!s.reproduced.empty()) published.push_back(s.reproduced);
    table.rows.push_back({s.id, s.fact, joined(keys, ", "), joined(published, ", "), s.settings.empty() ? s.here : joined(values, ", ")});
    auto add = [&](const std::string& what, const std::vector<double>& by_seed, std::vector<std::string> dirs) {
      const Stat effect = stat_of(by_seed);
      if (effect.n == 0) return;
      effects.rows.push_back({s.id, what, double(effect.n), effect});
      effects.sources.push_back(std::move(dirs));
    };
    for (const RunGroup& g : groups) {
      std::string control_name, id;
      if (!is_flip(g.front().name, &control_name, &id) || id != s.id) continue;
      const RunGroup* control = nullptr;  // a switch may change the number of training images: without a holdout there are more
      for (const RunGroup& other : groups)
        if (other.front().name == control_name && (!control || other.front().train_images == g.front().train_images)) control = &other;
      if (!control) continue;
      std::vector<std::string> dirs = dirs_of(g);
      for (const std::string& dir : dirs_of(*control)) dirs.push_back(dir);
      add(fmt::format("top-1: {} − base", g.front().name), paired_differences(g, *control, selected), std::move(dirs));
    }
    for (const MetricSwitch& metric : metric_switches()) {
      if (metric.id != s.id) continue;
      std::map<int64_t, std::vector<double>> by_seed;
      std::vector<std::string> dirs;
      for (const auto& [g, config] : configs)
        for (const RunSummary& r : g->runs)
          if (students && r.kind != "student")
            continue;
          else if (const double d = metric.difference(r); std::isfinite(d))
            by_seed[r.seed].push_back(d), dirs.push_back(r.dir.string());
      std::vector<double> means;
      for (const auto& [seed, values_of_seed] : by_seed) means.push_back(stat_of(values_of_seed).mean);
      add(metric.measured, means, std::move(dirs));
    }
  }
  return {table, effects};
}

}  // namespace kd
