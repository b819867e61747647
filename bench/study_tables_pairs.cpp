// study_tables, two models side by side: where they look (R3), what they say (R4 to R6); the overview's fidelity and attention.
#include <algorithm>
#include <cmath>
#include <tuple>

#include "bench/study_tables.h"
#include "engine/base/check.h"

namespace kd {

using namespace study;

namespace {

// ---- orders and names

// Teachers against the student, the ensemble against it, teachers among themselves, the ensemble against them.
auto pair_order(const std::string& pair) {
  const bool ensemble = pair.rfind("Ens-", 0) == 0, student = pair.size() > 2 && pair.substr(pair.size() - 2) == "-S";
  return std::tuple((student ? 0 : 2) + (ensemble ? 1 : 0), pair);
}

auto map_order(const std::string& kind) {
  constexpr const char* kOrder[] = {"pred_class", "label_class", "prob_weighted", "energy", "class_sum", "random_projection"};
  return std::tuple(std::find(std::begin(kOrder), std::end(kOrder), kind) - std::begin(kOrder), kind);
}

// Three models before two, teachers before the student: T1-T2-T3, T1-T2-S, ..., T1-T2, ..., T1-S, ...
auto overlap_order(const std::string& models) {
  const auto dashes = std::count(models.begin(), models.end(), '-');
  return std::tuple(-dashes, models.ends_with("-S"), models);
}

// ---- pairs

// What the published code calls a pair of a student with n teachers; empty where it has no such number. "(T1,T2)" is the mean of two models' logits.
std::string rk_name(const std::string& pair, size_t n) {
  if (pair == "T1-S") return "1Tand1S";
  if (pair == "Ens-S") return fmt::format("{}Tand1S", n);
  if (pair == "T1-T2") return "T1T2";
  if (pair == "Ens-T1" && n == 2) return "2Tand1T";
  if (pair == "(T1,T2)-S" && n == 3) return "2Tand1S";
  if (pair == "(T1,T2)-T1" && n == 3) return "2Tand1T";
  if (pair == "(T1,T2)-T3" && n == 3) return "T1T2T3";
  if (pair == "T1-S,T2-S") return "T1SandT2S";
  return "";
}

std::vector<std::string> pairs_of(const StudentSet& set, const std::string& view) {
  std::vector<std::string> pairs = ordered(keys_of(set.groups,
                                                   [&](const RunSummary& r, auto& keys) {
                                                     if (auto v = r.views.find(view); v != r.views.end())
                                                       for (const auto& [pair, numbers] : v->second.pairs) keys.insert(pair);
                                                   }),
                                           pair_order);
  if (pairs.empty())  // an evaluation with the published numbers alone
    for (const char* pair : {"T1-S", "Ens-S", "T1-T2", "Ens-T1"}) pairs.push_back(pair);
  for (const char* pair : {"(T1,T2)-S", "(T1,T2)-T1", "(T1,T2)-T3", "T1-S,T2-S"})
    if (!rk_name(pair, set.teachers).empty()) pairs.push_back(pair);
  return pairs;
}

std::string pair_name(const std::string& pair) { return pair == "T1-S,T2-S" ? "mean T1–S, T2–S" : dashed(pair); }

std::vector<std::string> pair_views(const StudentSet& set) {
  return views_of(set.groups, [](const ViewEval& v) { return !v.pairs.empty() || !v.rk.empty(); });
}

Quantity of_pair(const std::string& key, const std::string& name, int decimals, const std::string& view, Best best = Best::none,
                 Definition definition = Definition::any) {
  return {spread_column(key, name, decimals, best, definition), [=](const RunSummary& r, const std::string& pair) { return pair_number(r, view, pair, key); }};
}
Quantity of_rk_pair(const std::string& suffix, const std::string& key, const std::string& name, int decimals, const std::string& view) {
  return {spread_column(key, name, decimals, Best::none, Definition::rk), [=](const RunSummary& r, const std::string& pair) {
            const std::string stem = rk_name(pair, r.teachers.size());
            return stem.empty() ? kNotMeasured : rk_number(r, view, stem + suffix);
          }};
}

constexpr const char* kDefinitionNote =
    "std: over the whole set, in evaluation mode. rk: as the code published with arXiv 2405.00739 computes it, the mean over batches of 128.";

}  // namespace

// ---- R3: attention

std::vector<Table> study::overlap_tables(const Section& section) {
  std::vector<Table> out;
  for (const StudentSet& set : student_sets(section))
    for (const std::string& view : views_of(set.groups, [](const ViewEval& v) { return !v.maps.empty(); })) {
      std::set<std::string> kinds, overlaps, swept, models, truths;
      std::set<double> thresholds;
      std::vector<double> sweep;
      for (const RunGroup& g : set.groups)
        for (const RunSummary& r : g.runs) {
          if (std::isfinite(r.map_threshold)) thresholds.insert(r.map_threshold);
          if (sweep.empty()) sweep = r.sweep_thresholds;
          for (const auto& [kind, map] : maps_of(r, view)) {
            kinds.insert(kind);
            for (const Numbers* numbers : {&map.iou, &map.iou_rk})
              for (const auto& [pair, iou] : *numbers) overlaps.insert(pair);
            for (const auto& [pair, values] : map.sweep) swept.insert(pair);
            for (const auto& [model, area] : map.area) models.insert(model);
            for (const auto& [model, iou] : map.truth_iou) truths.insert(model);
          }
        }
      const std::vector<std::string> pairs = ordered(overlaps, overlap_order);
      const std::vector<Column> lead{text_column("map", "map"), text_column("name", "name")};
      const std::vector<Row> rows = rows_by_key(set.groups, ordered(kinds, map_order), [](const std::string& kind) { return kind; });
      auto number = [&](std::string key, std::string name, int decimals, Numbers MapEval::*quantity, const std::string& of, Definition definition) {
        return Quantity{spread_column(std::move(key), std::move(name), decimals, Best::none, definition),
                        [=](const RunSummary& r, const std::string& kind) { return map_number(r, kind, quantity, of, view); }};
      };
      auto add = [&](const char* what, const std::vector<Column>& columns, const std::vector<Quantity>& quantities, const std::vector<Row>& of_rows,
                     const std::string& note) {
        Table table = measured(fmt::format("R3 {}, {}: {}", set.title, view_title(view), what), set.tags("r3", view), columns, quantities, of_rows,
                               {fmt::format("{} Masks: a map scaled to [0,1] above {:g}. {}", kSeedNote, fmt::join(thresholds, " or "), note)});
        table.caveat = kAttentionCaveat;
        out.push_back(std::move(table));
      };
      std::vector<Quantity> iou, area;
      for (const std::string& pair : pairs) iou.push_back(number("iou_" + slug(pair) + "_std", dashed(pair) + " std", 3, &MapEval::iou, pair, Definition::std));
      for (const std::string& pair : pairs) iou.push_back(number("iou_" + slug(pair) + "_rk", dashed(pair) + " rk", 3, &MapEval::iou_rk, pair, Definition::rk));
      add("IoU", lead, iou, rows, "std: mean over images of intersection/union; rk: pixels pooled over a batch. Three models: all three masks.");
      for (const std::string& model : ordered(models, model_order))
        area.push_back(number("area_" + slug(model), "area " + model, 3, &MapEval::area, model, Definition::any));
      for (const std::string& model : ordered(truths, model_order))
        area.push_back(number("truth_iou_" + slug(model), model + "–truth", 3, &MapEval::truth_iou, model, Definition::any));
      for (const std::string& pair : pairs)
        area.push_back(number("skipped_" + slug(pair), "skipped " + dashed(pair), 1, &MapEval::skipped, pair, Definition::any));
      add("mask area, true object, skipped images", lead, area, rows,
          "Area: share of the image inside the mask; unrelated masks of areas a and b overlap with an IoU near ab/(a+b−ab). Truth: IoU with the object's mask. "
          "Skipped: images on which none of the models has a mask.");

      std::vector<Quantity> by_threshold;
      for (size_t i = 0; i < sweep.size(); ++i)
        by_threshold.push_back(
            {spread_column(fmt::format("iou_at_{:g}", sweep[i]), fmt::format("{:g}", sweep[i]), 3), [=](const RunSummary& r, const std::string& key) {
               const size_t at = key.find('/');
               const auto& maps = maps_of(r, view);
               const auto map = maps.find(key.substr(0, at));
               if (map == maps.end() || r.sweep_thresholds != sweep) return kNotMeasured;
               const auto values = map->second.sweep.find(key.substr(at + 1));
               return values == map->second.sweep.end() || i >= values->second.size() ? kNotMeasured : values->second[i];
             }});
      std::vector<Row> sweep_rows;
      for (const std::string& kind : ordered(kinds, map_order))
        for (const std::string& pair : ordered(swept, overlap_order))
          for (const RunGroup& g : set.groups)
            sweep_rows.push_back({.lead = {kind, dashed(pair), g.label}, .group = &g, .key = kind + "/" + pair, .starts_group = &g == &set.groups[0]});
      add("IoU by threshold", {text_column("map", "map"), text_column("pair", "pair"), text_column("name", "name")}, by_threshold, sweep_rows,
          "Here cut at each column's threshold instead; mean over images.");
    }
  return out;
}

// ---- R4 to R6: two models

std::vector<Table> study::agreement_tables(const Section& section) {
  std::vector<Table> out;
  for (const StudentSet& set : student_sets(section))
    for (const std::string& view : pair_views(set)) {
      const std::vector<std::string> pairs = pairs_of(set, view);
      std::vector<Quantity> agreement, kappa;
      auto std_number = [&](const std::string& pair, const std::string& key) {
        return [=](const RunSummary& r, const std::string&) { return pair_number(r, view, pair, key); };
      };
      for (const std::string& pair : pairs) {
        if (pair.find(',') != pair.npos) continue;  // the published code's alone
        agreement.push_back(
            {spread_column("agreement_" + slug(pair) + "_std", dashed(pair) + " std", 3, Best::highest, Definition::std), std_number(pair, "agreement")});
        kappa.push_back({spread_column("kappa_" + slug(pair), dashed(pair), 3, Best::highest), std_number(pair, "kappa")});
      }
      for (const std::string& pair : pairs) {
        const std::string stem = rk_name(pair, set.teachers);
        if (stem.empty() || pair == "T1-S,T2-S") continue;
        agreement.push_back({spread_column(stem + "_f", pair_name(pair) + " rk", 3, Best::highest, Definition::rk),
                             [=](const RunSummary& r, const std::string&) { return rk_number(r, view, stem + "_f"); }});
      }
      const std::string title = fmt::format("R4 {}, {}: ", set.title, view_title(view));
      const std::vector<Row> rows = rows_by_name(set.groups);
      out.push_back(
          measured(title + "agreement", set.tags("r4", view), {text_column("name", "name")}, agreement, rows,
                   {kSeedNote, std::string(kDefinitionNote) + " Share of images with the same top class; Ens: mean probabilities (std), mean logits (rk)." +
                                   (set.teachers > 2 ? " (T1,T2): the mean of two teachers' logits." : "")}));
      out.push_back(measured(title + "Cohen's κ", set.tags("r4", view), {text_column("name", "name")}, kappa, rows,
                             {std::string(kSeedNote) + " Agreement beyond what the two models' class frequencies give by chance; 1 at most."}));
    }
  return out;
}

std::vector<Table> study::divergence_tables(const Section& section) {
  std::vector<Table> out;
  for (const StudentSet& set : student_sets(section))
    for (const std::string& view : pair_views(set)) {
      const std::vector<Row> rows = rows_by_key(set.groups, pairs_of(set, view), pair_name);
      const std::vector<Column> lead{text_column("pair", "pair"), text_column("name", "name")};
      const std::string title = fmt::format("R5 {}, {}: ", set.title, view_title(view));
      auto pair = [&](const char* key, const char* name) { return of_pair(key, name, 3, view, Best::none, Definition::std); };
      out.push_back(measured(title + "KL divergence", set.tags("r5", view), lead,
                             {pair("kl_ab", "KL(A‖B)"), pair("kl_ba", "KL(B‖A)"), pair("kl_ab_t3", "KL(A‖B), T=3"), pair("kl_ba_t3", "KL(B‖A), T=3"),
                              of_rk_pair("_kl", "kl_rk", "KL rk", 3, view)},
                             rows, {std::string(kSeedNote) + " Nats, pair A–B; T: temperature. rk: 10 · KL(B‖A), mean over batches."}));
      out.push_back(
          measured(title + "distances", set.tags("r5", view), lead,
                   {pair("js", "JS"), pair("js_t3", "JS, T=3"), pair("tv", "TV"), pair("hellinger", "Hellinger"),
                    pair("wasserstein_confidence", "W1 confidence"), pair("wasserstein_class", "W1 class")},
                   rows,
                   {std::string(kSeedNote) + " JS: Jensen–Shannon, nats; TV: total variation; W1 confidence: between the two models' distributions of top "
                                             "probability; W1 class: moving probability between classes costs 1 − the cosine of the teacher's rows."}));
      std::vector<Quantity> entropy;
      for (const std::string& model : ordered(keys_of(set.groups,
                                                      [&](const RunSummary&r, auto&keys) {
                                                        if (auto v = r.views.find(view); v != r.views.end())
                                                          for (const auto& [name, eval] : v->second.models) keys.insert(name);
                                                      }),
                                              model_order))
        entropy.push_back(of_model("entropy", model + " std", 3, view, model, Best::none, Definition::std, "entropy_" + slug(model) + "_std"));
      for (const char* model : {"S", "T1", "T2"})
        if (model[0] == 'S' || set.teachers >= size_t(model[1] - '0'))
          entropy.push_back({spread_column("entropy_" + slug(model) + "_rk", std::string(model) + " rk", 3, Best::none, Definition::rk),
                             [=](const RunSummary& r, const std::string&) { return rk_number(r, view, std::string(model) + "_entropy"); }});
      out.push_back(measured(title + "entropy", set.tags("r5", view), {text_column("name", "name")}, entropy, rows_by_name(set.groups),
                             {std::string(kSeedNote) + " Mean entropy of the predictions, nats, temperature 1. " + kDefinitionNote}));
    }
  return out;
}

std::vector<Table> study::information_tables(const Section& section) {
  std::vector<Table> out;
  for (const StudentSet& set : student_sets(section))
    for (const std::string& view : pair_views(set)) {
      auto pair = [&](const char* key, const char* name) { return of_pair(key, name, 3, view, Best::none, Definition::std); };
      out.push_back(
          measured(fmt::format("R6 {}, {}: mutual information", set.title, view_title(view)), set.tags("r6", view),
                   {text_column("pair", "pair"), text_column("name", "name")},
                   {pair("mi_plugin", "plug-in"), pair("mi_adjusted", "adjusted"), pair("mi_normalized", "normalized"), pair("mi_soft", "soft"),
                    of_rk_pair("_mis", "mis_rk", "mis rk", 3, view), of_rk_pair("_mi", "mi_rk", "mi rk", 3, view)},
                   rows_by_key(set.groups, pairs_of(set, view), pair_name),
                   {kSeedNote,
                    "Nats. Of the predicted labels over the whole set: plug-in; less its mean under 20 permutations; normalized by the mean entropy; of the "
                    "probabilities (soft). rk: per batch of 128, plug-in (mis) and by nearest neighbours on class numbers (mi); a batch that small says "
                    "much about unrelated labels, too."}));
    }
  return out;
}

// ---- the overview

Table fidelity_table(const Groups& groups, const std::string& view) {
  const std::set<std::string> pairs = keys_of(groups, [&](const RunSummary& r, auto& keys) {
    if (auto v = r.views.find(view); v != r.views.end())
      for (const auto& [pair, numbers] : v->second.pairs) keys.insert(pair);
  });
  auto pair = [&](const char* key, const char* name, Best best) { return of_pair(key, name, 3, view, best); };
  return measured(
      "Fidelity, " + view_title(view), {"fidelity", view}, {text_column("pair", "pair"), text_column("name", "name")},
      {pair("agreement", "agreement", Best::highest), pair("kappa", "κ", Best::highest), pair("kl_ab", "KL(A‖B)", Best::lowest),
       pair("kl_ba", "KL(B‖A)", Best::lowest), pair("js", "JS", Best::lowest), pair("mi_plugin", "MI", Best::highest),
       pair("mi_adjusted", "MI adj.", Best::highest), pair("mi_normalized", "MI norm.", Best::highest), pair("mi_soft", "MI soft", Best::highest)},
      rows_by_key(groups, ordered(pairs, pair_order), pair_name),
      {std::string(kSeedNote) + " Pair A–B over the whole test set, nats, temperature 1; MI of the predicted labels: plug-in, less its mean under 20 "
                                "permutations, normalised, and of the probabilities.",
       "Best means the closest imitation of its kind, which need not be the better student."});
}

Table attention_table(const Groups& groups) {
  std::set<std::string> kinds, pairs, models;
  std::set<double> thresholds;
  for (const RunGroup& g : groups)
    for (const RunSummary& r : g.runs) {
      if (std::isfinite(r.map_threshold)) thresholds.insert(r.map_threshold);
      for (const auto& [kind, map] : maps_of(r)) {
        kinds.insert(kind);
        for (const auto& [pair, iou] : map.iou) pairs.insert(pair);
        for (const auto& [model, iou] : map.truth_iou) models.insert(model);
        for (const auto& [model, area] : map.area) models.insert(model);
      }
    }
  std::map<std::string, std::pair<Numbers MapEval::*, std::string>> shown_as;  // a row's key: what it shows of which models
  std::vector<std::string> keys;
  auto add = [&](const std::string& key, Numbers MapEval::*quantity, const std::string& of) {
    keys.push_back(key);
    shown_as[key] = {quantity, of};
  };
  for (const std::string& pair : ordered(pairs, pair_order)) add("IoU " + dashed(pair), &MapEval::iou, pair);
  for (const std::string& model : ordered(models, model_order)) add("IoU " + model + "–truth", &MapEval::truth_iou, model);
  for (const std::string& model : ordered(models, model_order)) add("area " + model, &MapEval::area, model);
  std::vector<Quantity> quantities;
  for (const std::string& kind : ordered(kinds, map_order))
    quantities.push_back({spread_column(kind, kind, 3), [=](const RunSummary& r, const std::string& key) {
                            const auto& [quantity, of] = shown_as.at(key);
                            return map_number(r, kind, quantity, of);
                          }});
  Table table = measured(
      "Attention maps", {"attention", "test"}, {text_column("quantity", "quantity"), text_column("name", "name")}, quantities,
      rows_by_key(groups, keys, [](const std::string& key) { return key; }),
      {fmt::format("{} Mean IoU over the test images of masks where the map, scaled to [0,1], is above {:g}; truth: the object's true mask; area: share "
                   "of the image inside the mask (unrelated masks of areas a and b overlap with an IoU near ab/(a+b−ab)).",
                   kSeedNote, fmt::join(thresholds, " or "))});
  table.caveat = kAttentionCaveat;
  return table;
}

}  // namespace kd
