// The tables that the study is reported in. Rows are groups of runs (seeds of one experiment), often one for each pair or model as well; what a cell holds
// is read from the runs' files and averaged over seeds, differences over the seeds that both sides have.
#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <functional>
#include <set>
#include <tuple>

#include "bench/findings.h"
#include "bench/table.h"
#include "engine/base/check.h"
#include "kd/recipe.h"
#include "kd/switches.h"

namespace kd {
namespace {

using Groups = std::vector<RunGroup>;

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

auto model_order(const std::string& model) { return std::tuple(model == "S" ? 0 : model == "Ens" ? 2 : 1, model); }

auto view_order(const std::string& view) {
  constexpr const char* kOrder[] = {"test", "student_view", "train", "train_view"};
  return std::tuple(std::find(std::begin(kOrder), std::end(kOrder), view) - std::begin(kOrder), view);
}

std::string view_title(const std::string& view) {
  return view == "test"           ? "test view"
         : view == "student_view" ? "student's view"
         : view == "train"        ? "training images"
         : view == "train_view"   ? "training images, student's view"
                                  : view;
}

// "T1–S" of T1-S.
std::string dashed(const std::string& models) {
  std::string out;
  for (char c : models) out += c == '-' ? std::string("–") : std::string(1, c);
  return out;
}

// "t1_s" of T1-S.
std::string slug(const std::string& models) {
  std::string out;
  for (char c : models) out += c == '-' ? '_' : char(std::tolower(static_cast<unsigned char>(c)));
  return out;
}

template <class Order>
std::vector<std::string> ordered(const std::set<std::string>& keys, Order order) {
  std::vector<std::string> out(keys.begin(), keys.end());
  std::sort(out.begin(), out.end(), [&](const std::string& a, const std::string& b) { return order(a) < order(b); });
  return out;
}

// Whatever `visit` names over all runs.
template <class Visit>
std::set<std::string> keys_of(const Groups& groups, Visit visit) {
  std::set<std::string> keys;
  for (const RunGroup& g : groups)
    for (const RunSummary& r : g.runs) visit(r, keys);
  return keys;
}

std::vector<std::string> views_of(const Groups& groups, const std::function<bool(const ViewEval&)>& has_some) {
  return ordered(keys_of(groups,
                         [&](const RunSummary& r, auto& keys) {
                           for (const auto& [view, eval] : r.views)
                             if (has_some(eval)) keys.insert(view);
                         }),
                 view_order);
}

template <class Get>
std::vector<std::string> distinct(const std::vector<RunSummary>& runs, Get get) {
  std::vector<std::string> out;
  for (const RunSummary& r : runs)
    if (std::string value = get(r); std::find(out.begin(), out.end(), value) == out.end()) out.push_back(std::move(value));
  return out;
}

std::string joined(const std::vector<std::string>& words, const char* between = " / ") { return fmt::format("{}", fmt::join(words, between)); }

// ---- a table of measurements

struct Quantity {
  Column column;
  std::function<double(const RunSummary&, const std::string& row_key)> get;
  bool interval = false;  // half the 95 % interval in a column of its own
};

struct Row {
  std::vector<Cell> lead;
  const RunGroup* group;
  std::string key = {};  // handed to the quantities: a pair, a model, ...
  bool starts_group = false;
};

Column text_column(std::string key, std::string name) { return {std::move(key), std::move(name)}; }
Column count_column() { return {"seeds", "n", Column::Kind::number, 0}; }
Column spread_column(std::string key, std::string name, int decimals, Best best = Best::none, Definition definition = Definition::any) {
  return {std::move(key), std::move(name), Column::Kind::spread, decimals, best, definition};
}
Column difference_column(std::string key, std::string name, int decimals) { return {std::move(key), std::move(name), Column::Kind::difference, decimals}; }

std::vector<std::string> dirs_of(const RunGroup& group) {
  std::vector<std::string> dirs;
  for (const RunSummary& r : group.runs) dirs.push_back(r.dir.string());
  return dirs;
}

// Lead columns, the number of seeds, the quantities. A row of a pair or model that its group does not have is left out; so are all rows where there is
// nothing at all.
Table measured(std::string title, std::vector<std::string> tags, std::vector<Column> lead, const std::vector<Quantity>& quantities,
               const std::vector<Row>& rows, std::vector<std::string> notes) {
  Table table{.title = std::move(title), .columns = std::move(lead), .notes = std::move(notes), .tags = std::move(tags)};
  table.columns.push_back(count_column());
  for (const Quantity& q : quantities) {
    table.columns.push_back(q.column);
    if (q.interval) table.columns.push_back({q.column.key + "_ci95", "±95 %", Column::Kind::number, q.column.decimals, Best::none, q.column.definition});
  }
  bool starts = false, any = false;
  for (const Row& row : rows) {
    const int64_t seeds = int64_t(row.group->runs.size());
    std::vector<Cell> cells = row.lead;
    cells.emplace_back(double(seeds));
    bool some = false;
    for (const Quantity& q : quantities) {
      const Stat stat = stat_of(*row.group, [&](const RunSummary& r) { return q.get(r, row.key); });
      some |= stat.n > 0;
      cells.emplace_back(stat, seeds);
      if (q.interval) cells.emplace_back(stat.ci95);
    }
    starts |= row.starts_group;
    any |= some;
    if (!some && !row.key.empty()) continue;
    if (starts && !table.rows.empty()) table.group_starts.push_back(table.rows.size());
    starts = false;
    table.rows.push_back(std::move(cells));
    table.sources.push_back(dirs_of(*row.group));
  }
  if (!any) table.rows.clear(), table.sources.clear(), table.group_starts.clear();
  return table;
}

constexpr const char* kSeedNote = "Mean ± sample standard deviation over n seeds; one seed has no spread, (n=k) marks values that only k seeds have.";
constexpr const char* kDefinitionNote =
    "std: over the whole set, in evaluation mode. rk: as the code published with arXiv 2405.00739 computes it, the mean over batches of 128.";
constexpr const char* kDifferenceNote = "Differences are paired by seed: mean [95 % t interval over seeds].";

// ---- sections: runs on the same images

struct Section {
  std::string title, dataset;
  Groups groups;
};

std::vector<Section> sections_of(const Groups& groups) {
  std::vector<Section> sections;
  std::map<std::string, std::set<int64_t>> sizes;
  for (const RunGroup& g : groups) sizes[g.front().dataset].insert(g.front().train_images);
  for (const RunGroup& g : groups) {
    const RunSummary& r = g.front();
    if (sections.empty() || sections.back().dataset != r.dataset || sections.back().groups[0].front().train_images != r.train_images)
      sections.push_back({sizes[r.dataset].size() > 1 ? fmt::format("{}, {} images", r.dataset, r.train_images) : r.dataset, r.dataset, {}});
    sections.back().groups.push_back({r.name, g.runs});
  }
  return sections;
}

Groups of_kind(const Groups& groups, const std::function<bool(const RunSummary&)>& is) {
  Groups out;
  for (const RunGroup& g : groups)
    if (is(g.front())) out.push_back(g);
  return out;
}

// The students of a section by their number of teachers, those of the plain grid before those of arms and of other names; each set with the title and
// tags that its tables have in common.
struct StudentSet {
  std::string title, dataset;
  size_t teachers;
  Groups groups;
  std::vector<std::string> tags(const std::string& id, const std::string& view = "") const {
    std::vector<std::string> out{id, dataset, fmt::format("{}T", teachers)};
    if (!view.empty()) out.push_back(view);
    return out;
  }
};
std::vector<StudentSet> student_sets(const Section& section) {
  std::map<std::pair<size_t, bool>, Groups> sets;
  for (const RunGroup& g : section.groups) {
    const auto name = read_name(g.front().name);
    if (g.front().kind == "student") sets[{g.front().teachers.size(), !name || !name->arm.empty()}].push_back(g);
  }
  std::vector<StudentSet> out;
  for (auto& [key, groups] : sets) {
    const auto& [n, arms] = key;
    const std::string grid = fmt::format("{}, {} teacher{}", section.title, n, n == 1 ? "" : "s");
    out.push_back({arms ? grid + ", arms" : grid, section.dataset, n, std::move(groups)});
  }
  return out;
}

std::vector<Row> rows_by_name(const Groups& groups) {
  std::vector<Row> rows;
  for (const RunGroup& g : groups)
    rows.push_back({.lead = {g.label}, .group = &g, .starts_group = !rows.empty() && g.front().kind != rows.back().group->front().kind});
  return rows;
}

// A row for each key and name, the keys in groups.
std::vector<Row> rows_by_key(const Groups& groups, const std::vector<std::string>& keys, const std::function<std::string(const std::string&)>& shown_key) {
  std::vector<Row> rows;
  for (const std::string& key : keys)
    for (const RunGroup& g : groups) rows.push_back({.lead = {shown_key(key), g.label}, .group = &g, .key = key, .starts_group = &g == &groups[0]});
  return rows;
}

Quantity of_model(const std::string& key, const std::string& name, int decimals, const std::string& view, const std::string& model, Best best = Best::none,
                  Definition definition = Definition::any, std::string column_key = "") {
  return {spread_column(column_key.empty() ? key : std::move(column_key), name, decimals, best, definition),
          [=](const RunSummary& r, const std::string&) { return model_number(r, view, model, key); }};
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

// The pair that stands for "the teachers": their ensemble, or the only teacher.
std::string teachers_pair(const RunSummary& r) { return r.teachers.size() > 1 ? "Ens-S" : "T1-S"; }

double selected(const RunSummary& r) { return r.test_top1_selected; }
double last(const RunSummary& r) { return r.test_top1_last; }

// A setting of the run's recipe as config.yaml has it; empty where there is no such file or setting.
using Config = std::map<std::string, std::string>;
Config config_of(const RunSummary& r) {
  Config config;
  const Path path = r.dir / "config.yaml";
  if (!std::filesystem::exists(path)) return config;
  for (const RecipeValue& v : recipe_values(read_settings(path))) config[v.key] = v.value;
  return config;
}

// ---- R1: teachers and baselines

double holdout_of(const RunSummary& r) {
  for (const Epoch& e : read_epochs(r))
    if (e.epoch == r.selected_epoch) return e.holdout_top1;
  return kNotMeasured;
}

std::vector<Table> teacher_tables(const Section& section) {
  const Groups groups = of_kind(section.groups, [](const RunSummary& r) { return r.kind != "student"; });
  std::vector<Row> rows = rows_by_name(groups);
  const std::string title = fmt::format("R1 {}, teachers and baselines: ", section.title);
  const std::vector<std::string> tags{"r1", section.dataset};
  auto plain = [](auto get) { return [get](const RunSummary& r, const std::string&) { return get(r); }; };
  auto gap = [&](const char* key) { return plain([key](const RunSummary& r) { return number_in(r.gap, key); }); };

  std::vector<Table> out;
  std::vector<Row> described = rows;
  for (Row& row : described) {
    const RunGroup& g = *row.group;
    row.lead.emplace_back(joined(distinct(g.runs, [](const RunSummary& r) { return fmt::format("{}", r.epochs_done); })));
    const Config config = config_of(g.front());
    const auto init = config.find("model.init");
    row.lead.emplace_back(init == config.end() ? "" : init->second.empty() || init->second == "\"\"" ? "random" : init->second);
  }
  out.push_back(measured(title + "accuracy", tags, {text_column("name", "name"), text_column("epochs", "epochs"), text_column("init", "init")},
                         {{spread_column("test_top1_selected", "selected %", 2, Best::highest), plain(selected), true},
                          {spread_column("test_top1_last", "last %", 2, Best::highest), plain(last), true},
                          {spread_column("holdout_top1", "holdout %", 2), plain(holdout_of)},
                          {spread_column("train_top1", "train %", 2), gap("train")}},
                         described,
                         {std::string(kSeedNote) + " Top-1 on the test images after the selected and the last epoch, ±95 %: half the t interval; holdout and "
                                                   "training images at the selected epoch, test view."}));
  out.push_back(measured(title + "gap and calibration", tags, {text_column("name", "name")},
                         {{spread_column("gap_std", "gap std", 2, Best::lowest, Definition::std), gap("gap")},
                          {spread_column("gap_view_std", "gap std, own view", 2, Best::lowest, Definition::std), gap("gap_view")},
                          {spread_column("gap_rk", "gap rk", 2, Best::none, Definition::rk), gap("gap_rk")},
                          of_model("ece", "ECE std", 3, "test", "S", Best::lowest, Definition::std, "ece_std"),
                          of_model("ece_rk", "ECE rk", 3, "test", "S", Best::none, Definition::rk)},
                         rows,
                         {std::string(kSeedNote) + " gap std: training − test images, points, test view or the view trained on, evaluation mode; rk: running "
                                                   "training accuracy of the selected epoch − test. ECE std: 10 bins weighted by count, test images; rk: "
                                                   "unweighted, training images."}));
  std::vector<Quantity> affinity;
  for (auto [key, name, definition] : {std::tuple{"weak_base", "weak/base", Definition::rk},
                                       {"strong_base", "strong/base", Definition::rk},
                                       {"weak_test", "weak/test", Definition::std},
                                       {"strong_test", "strong/test", Definition::std}})
    affinity.push_back({spread_column(key, name, 3, Best::none, definition),
                        [key = std::string(key)](const RunSummary& r, const std::string&) { return number_in(r.affinity, key); }});
  std::vector<Quantity> augmented;
  for (auto [key, name] : {std::pair{"top1_test", "test %"}, {"top1_base", "base %"}, {"top1_weak", "weak %"}, {"top1_strong", "strong %"}})
    augmented.push_back(
        {spread_column(key, name, 2), [key = std::string(key)](const RunSummary& r, const std::string&) { return number_in(r.affinity, key); }});
  out.push_back(
      measured(title + "affinity", tags, {text_column("name", "name")}, affinity, rows,
               {std::string(kSeedNote) + " Accuracy on test images under an augmentation ÷ accuracy under random resized crops (base, as published) or on the "
                                         "test view; lower is a stronger shift."}));
  out.push_back(measured(title + "accuracy by augmentation", tags, {text_column("name", "name")}, augmented, rows,
                         {std::string(kSeedNote) + " Top-1 on test images: test view, random resized crops (base), weak and strong view."}));
  return out;
}

// ---- R2: the distillation grid

// The run without teachers that a student is compared with: same images, view and network; of the same arm where baselines have arms.
const RunGroup* baseline_of(const Groups& groups, const RunGroup& student) {
  const RunSummary& s = student.front();
  const auto name = read_name(s.name);
  const RunGroup* plain = nullptr;
  for (const RunGroup& g : groups) {
    const RunSummary& b = g.front();
    if (b.kind != "baseline" || b.view != s.view || b.arch != s.arch || b.params != s.params) continue;
    const auto own = read_name(b.name);
    if (name && own && own->arm == name->arm) return &g;
    if (!plain && (!own || own->arm.empty())) plain = &g;
  }
  return plain;
}

// The student of as many weakly augmented teachers, same view and arm.
const RunGroup* weak_weak_of(const Groups& groups, const RunGroup& student) {
  const auto name = read_name(student.front().name);
  if (!name || name->teachers.empty()) return nullptr;
  for (const RunGroup& g : groups) {
    const auto other = read_name(g.front().name);
    if (other && other->arm == name->arm && other->view == name->view && other->teachers == std::string(name->teachers.size(), 'w')) return &g;
  }
  return nullptr;
}

Cell paired(const RunGroup& a, const RunGroup* b, const std::function<double(const RunSummary&)>& get) {
  return b && b != &a ? Cell(stat_of(paired_differences(a, *b, get)), int64_t(a.runs.size())) : Cell(kNotMeasured);
}

std::vector<Table> grid_tables(const Section& section) {
  std::vector<Table> out;
  const Groups baselines = of_kind(section.groups, [](const RunSummary& r) { return r.kind == "baseline"; });
  auto plain = [](auto get) { return [get](const RunSummary& r, const std::string&) { return get(r); }; };
  auto gap = [&](const char* key) { return plain([key](const RunSummary& r) { return number_in(r.gap, key); }); };
  for (const StudentSet& set : student_sets(section)) {
    Groups groups = baselines;
    groups.insert(groups.end(), set.groups.begin(), set.groups.end());
    const std::vector<Row> rows = rows_by_name(groups);
    const std::string title = fmt::format("R2 {}: ", set.title);
    out.push_back(
        measured(title + "accuracy", set.tags("r2"), {text_column("name", "name")},
                 {{spread_column("test_top1_selected", "selected %", 2, Best::highest), plain(selected), true},
                  {spread_column("test_top1_last", "last %", 2, Best::highest), plain(last), true},
                  of_model("top1", "student view %", 2, "student_view", "S", Best::highest, Definition::any, "student_view_top1"),
                  of_model("top1", "ensemble %", 2, "test", "Ens", Best::none, Definition::any, "ens_top1")},
                 rows,
                 {std::string(kSeedNote) + " Top-1 on test images, test view, after the selected and the last epoch, ±95 %: half the t interval; on the "
                                           "student's view and of the teachers' ensemble (mean probabilities, test view), selected epoch."}));
    out.push_back(
        measured(title + "generalisation gap", set.tags("r2"), {text_column("name", "name")},
                 {{spread_column("train_top1", "train %", 2), gap("train")},
                  {spread_column("gap_std", "gap std", 2, Best::lowest, Definition::std), gap("gap")},
                  {spread_column("gap_view_std", "gap std, own view", 2, Best::lowest, Definition::std), gap("gap_view")},
                  {spread_column("gap_rk", "gap rk", 2, Best::none, Definition::rk), gap("gap_rk")}},
                 rows,
                 {std::string(kSeedNote) + " Selected epoch. gap std: training − test images, points, test view or the student's view, evaluation mode; rk: "
                                           "running training accuracy of that epoch − test."}));
    Table differences{
        .title = title + "differences",
        .columns = {text_column("name", "name"), count_column(), difference_column("selected_minus_only", "selected − only S", 2),
                    difference_column("last_minus_only", "last − only S", 2), difference_column("selected_minus_weak", "selected − weak teachers", 2),
                    difference_column("last_minus_weak", "last − weak teachers", 2)},
        .notes = {std::string(kDifferenceNote) + " Points of test top-1, selected and last epoch, against the student without teachers and against the "
                                                 "student of weakly augmented teachers, both of the same view."},
        .tags = set.tags("r2")};
    for (const RunGroup& g : set.groups) {
      const RunGroup *alone = baseline_of(baselines, g), *weak = weak_weak_of(set.groups, g);
      differences.rows.push_back(
          {g.label, double(g.runs.size()), paired(g, alone, selected), paired(g, alone, last), paired(g, weak, selected), paired(g, weak, last)});
      differences.sources.push_back(dirs_of(g));
      for (const RunGroup* other : {alone, weak})
        if (other && other != &g)
          for (const std::string& dir : dirs_of(*other)) differences.sources.back().push_back(dir);
    }
    out.push_back(std::move(differences));
  }
  return out;
}

// ---- R3: attention

std::vector<Table> overlap_tables(const Section& section) {
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

std::vector<Table> agreement_tables(const Section& section) {
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

std::vector<Table> divergence_tables(const Section& section) {
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

std::vector<Table> information_tables(const Section& section) {
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

// ---- R7: calibration

std::vector<Quantity> calibration_quantities(const std::string& view) {
  auto model = [&](const char* key, const char* name, int decimals, Best best, Definition definition = Definition::any) {
    return Quantity{spread_column(key, name, decimals, best, definition),
                    [=, key = std::string(key)](const RunSummary& r, const std::string& of) { return model_number(r, view, of, key); }};
  };
  std::vector<Quantity> out{model("top1", "top-1 %", 2, Best::highest),
                            model("ece", "ECE", 3, Best::lowest, Definition::std),
                            model("ece_unweighted", "ECE unw.", 3, Best::lowest, Definition::std),
                            model("mce", "MCE", 3, Best::lowest),
                            model("nll", "NLL", 3, Best::lowest),
                            model("brier", "Brier", 3, Best::lowest),
                            model("mean_confidence", "confidence", 3, Best::none)};
  if (view == "test") out.insert(out.begin() + 3, model("ece_rk", "ECE rk", 3, Best::lowest, Definition::rk));
  return out;
}

std::vector<Row> rows_by_model(const Groups& groups, const std::string& view) {
  std::vector<Row> rows;
  for (const RunGroup& g : groups) {
    const auto models = ordered(keys_of({g},
                                        [&](const RunSummary& r, auto& keys) {
                                          if (auto v = r.views.find(view); v != r.views.end())
                                            for (const auto& [model, eval] : v->second.models) keys.insert(model);
                                        }),
                                model_order);
    for (const std::string& model : models) rows.push_back({.lead = {g.label, model}, .group = &g, .key = model, .starts_group = model == models[0]});
  }
  return rows;
}

const std::string& calibration_note() {
  static const std::string note =
      std::string(kSeedNote) +
      " S: the run's own model, selected epoch; Ens: mean of its teachers' probabilities. ECE over 10 bins, weighted by count, unweighted, and as "
      "published (rk: unweighted, training images); MCE: the largest gap of a bin; NLL in nats.";
  return note;
}

std::vector<Table> reliability_tables(const Section& section) {
  std::vector<Table> out;
  for (const std::string& view : views_of(section.groups, [](const ViewEval& v) { return !v.models.empty(); }))
    out.push_back(measured(fmt::format("R7 {}, {}: calibration", section.title, view_title(view)), {"r7", section.dataset, view},
                           {text_column("name", "name"), text_column("model", "model")}, calibration_quantities(view), rows_by_model(section.groups, view),
                           {calibration_note()}));
  auto bin_of = [](const RunSummary& r, const std::string& key) -> const ReliabilityBin* {
    const size_t at = key.find('/');
    const auto view = r.views.find("test");
    if (view == r.views.end()) return nullptr;
    const auto model = view->second.models.find(key.substr(0, at));
    if (model == view->second.models.end()) return nullptr;
    for (const ReliabilityBin& bin : model->second.reliability)
      if (fmt::format("{}", bin.index) == key.substr(at + 1)) return &bin;
    return nullptr;
  };
  std::vector<Row> rows;
  for (const Row& row : rows_by_model(section.groups, "test")) {
    if (row.key != "S" && row.key != "Ens") continue;  // a teacher's bins are its own run's
    for (int bin = 0; bin < 10; ++bin)
      rows.push_back({.lead = {row.lead[0], row.lead[1], fmt::format("({:.1f}, {:.1f}]", bin / 10.0, (bin + 1) / 10.0)},
                      .group = row.group,
                      .key = fmt::format("{}/{}", row.key, bin),
                      .starts_group = bin == 0});
  }
  auto of_bin = [&](const char* key, const char* name, int decimals, auto get) {
    return Quantity{spread_column(key, name, decimals), [=](const RunSummary& r, const std::string& of) {
                      const ReliabilityBin* bin = bin_of(r, of);
                      return bin ? double(get(*bin)) : kNotMeasured;
                    }};
  };
  out.push_back(measured(
      fmt::format("R7 {}, test view: reliability", section.title), {"r7", section.dataset, "test"},
      {text_column("name", "name"), text_column("model", "model"), text_column("confidence", "confidence")},
      {of_bin("images", "images", 1, [](const ReliabilityBin& b) { return b.n; }), of_bin("acc", "accuracy", 3, [](const ReliabilityBin& b) { return b.acc; }),
       of_bin("conf", "mean confidence", 3, [](const ReliabilityBin& b) { return b.conf; })},
      rows, {std::string(kSeedNote) + " Bins without images are left out."}));
  return out;
}

// ---- R8: z-score

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

std::vector<Table> zscore_tables(const Section& section) {
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

// ---- R9: long tail

std::vector<Table> shot_tables(const Section& section) {
  std::vector<Quantity> quantities;
  for (const char* model : {"S", "Ens"})
    for (auto [key, name] : {std::pair{"top1_many", "many %"}, {"top1_medium", "medium %"}, {"top1_few", "few %"}})
      quantities.push_back(of_model(key, (model[0] == 'E' ? "Ens " : "") + std::string(name), 2, "test", model, model[0] == 'E' ? Best::none : Best::highest,
                                    Definition::any, (model[0] == 'E' ? "ens_" : "") + std::string(key)));
  return {measured(
      fmt::format("R9 {}, test view: accuracy by class size", section.title), {"r9", section.dataset, "test"}, {text_column("name", "name")}, quantities,
      rows_by_name(section.groups),
      {std::string(kSeedNote) + " Top-1 over the classes of more than 100, 20 to 100 and fewer than 20 training images; Ens: the teachers' ensemble."})};
}

// ---- R11: switches

// Published − clean of one number on the same runs: the mean over runs of each seed, then over seeds.
struct MetricSwitch {
  const char *id, *measured;
  int decimals;
  std::function<double(const RunSummary&)> difference;
};
std::vector<MetricSwitch> metric_switches() {
  auto pair = [](const RunSummary& r, const char* p, const char* key) { return pair_number(r, "test", p, key); };
  auto rk = [](const RunSummary& r, const std::string& key) { return rk_number(r, "test", key); };
  auto iou = [](const RunSummary& r, const char* kind, Numbers MapEval::*quantity) { return map_number(r, kind, quantity, "T1-T2"); };
  return {
      {"P5", "agreement T1–S: rk − std", 3, [=](const RunSummary& r) { return rk(r, "1Tand1S_f") - pair(r, "T1-S", "agreement"); }},
      {"P6", "KL of T1 and S: rk − KL(T1‖S)", 3, [=](const RunSummary& r) { return rk(r, "1Tand1S_kl") - pair(r, "T1-S", "kl_ab"); }},
      {"P7", "gap, points: rk − std", 2, [](const RunSummary& r) { return number_in(r.gap, "gap_rk") - number_in(r.gap, "gap"); }},
      {"P18", "IoU T1–T2: class_sum − pred_class", 3,
       [=](const RunSummary& r) { return iou(r, "class_sum", &MapEval::iou) - iou(r, "pred_class", &MapEval::iou); }},
      {"P19", "IoU T1–T2: rk − std", 3, [=](const RunSummary& r) { return iou(r, "pred_class", &MapEval::iou_rk) - iou(r, "pred_class", &MapEval::iou); }},
      {"P20", "MI T1–S, nats: rk − plug-in", 3, [=](const RunSummary& r) { return rk(r, "1Tand1S_mi") - pair(r, "T1-S", "mi_plugin"); }},
      {"P21", "ECE of S: rk − std", 3, [](const RunSummary& r) { return model_number(r, "test", "S", "ece_rk") - model_number(r, "test", "S", "ece"); }},
      {"P22", "agreement Ens–S: rk − std", 3,
       [=](const RunSummary& r) {
         return rk(r, fmt::format("{}Tand1S_f", r.teachers.size())) - (r.teachers.size() > 1 ? pair(r, "Ens-S", "agreement") : kNotMeasured);
       }},
      {"P28", "affinity, weak: base − test", 3, [](const RunSummary& r) { return number_in(r.affinity, "weak_base") - number_in(r.affinity, "weak_test"); }},
      {"P28", "affinity, strong: base − test", 3,
       [](const RunSummary& r) { return number_in(r.affinity, "strong_base") - number_in(r.affinity, "strong_test"); }},
  };
}

std::vector<Table> switch_tables(const std::string& dataset, const Groups& groups) {
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

// ---- which tables there are

bool measures(const Column& c) { return c.kind != Column::Kind::text && c.key != "seeds"; }

// Something to read: a number, or words in a table of words alone.
bool has_content(const Table& table) {
  if (std::none_of(table.columns.begin(), table.columns.end(), measures)) return !table.rows.empty();
  for (size_t c = 0; c < table.columns.size(); ++c)
    for (const auto& row : table.rows)
      if (measures(table.columns[c]) && std::isfinite(row[c].value)) return true;
  return false;
}

// Without the columns of one definition; empty if nothing else is measured.
void leave_out(Table& table, Definition definition) {
  if (std::none_of(table.columns.begin(), table.columns.end(), measures)) return;
  for (size_t c = table.columns.size(); c-- > 0;) {
    if (table.columns[c].definition != definition) continue;
    table.columns.erase(table.columns.begin() + ptrdiff_t(c));
    for (auto& row : table.rows) row.erase(row.begin() + ptrdiff_t(c));
  }
  if (std::none_of(table.columns.begin(), table.columns.end(), measures)) table.rows.clear(), table.sources.clear();
}

struct Kind {
  std::string id;
  std::function<std::vector<Table>(const Groups&)> make;
};
const std::vector<Kind>& kinds() {
  auto by_section = [](std::vector<Table> (*make)(const Section&)) {
    return [=](const Groups& groups) {
      std::vector<Table> out;
      for (const Section& section : sections_of(groups))
        for (Table& table : make(section)) out.push_back(std::move(table));
      return out;
    };
  };
  static const std::vector<Kind> all{
      {"accuracy", [](const Groups& g) { return std::vector{accuracy_table(g)}; }},
      {"fidelity", [](const Groups& g) { return std::vector{fidelity_table(g)}; }},
      {"calibration", [](const Groups& g) { return std::vector{calibration_table(g)}; }},
      {"attention", [](const Groups& g) { return std::vector{attention_table(g)}; }},
      {"r1", by_section(teacher_tables)},
      {"r2", by_section(grid_tables)},
      {"r3", by_section(overlap_tables)},
      {"r4", by_section(agreement_tables)},
      {"r5", by_section(divergence_tables)},
      {"r6", by_section(information_tables)},
      {"r7", by_section(reliability_tables)},
      {"r8", by_section(zscore_tables)},
      {"r9", by_section(shot_tables)},
      {"r10",
       [](const Groups& g) {
         Table table = findings_of(g).hypotheses;
         if (!table.title.starts_with("R10")) table.title = "R10 " + table.title;
         return std::vector{table};
       }},
      {"r11",
       [](const Groups& groups) {
         std::vector<std::string> datasets;
         for (const RunGroup& g : groups)
           if (datasets.empty() || datasets.back() != g.front().dataset) datasets.push_back(g.front().dataset);
         std::vector<Table> out;
         for (const std::string& dataset : datasets)
           for (Table& table : switch_tables(dataset, of_kind(groups, [&](const RunSummary& r) { return r.dataset == dataset; })))
             out.push_back(std::move(table));
         return out;
       }},
  };
  return all;
}

const Kind& kind_of(const std::string& id) {
  for (const Kind& kind : kinds())
    if (kind.id == id) return kind;
  throw Error(fmt::format("table '{}' is unknown; choose overview, all, or of {}{}", id, joined(study_table_ids(), ", "), did_you_mean(id, study_table_ids())));
}

}  // namespace

// ---- the overview

Table accuracy_table(const Groups& groups) {
  auto plain = [](double (*get)(const RunSummary&)) { return [=](const RunSummary& r, const std::string&) { return get(r); }; };
  std::vector<Row> rows = rows_by_name(groups);
  std::tuple<std::string, int64_t, std::string> section;
  for (Row& row : rows) {
    const RunSummary& r = row.group->front();
    const std::tuple now(r.dataset, r.train_images, r.kind);
    row.starts_group = now != section;
    section = now;
  }
  Table table =
      measured("Accuracy", {"accuracy"}, {text_column("name", "name")},
               {{spread_column("test_top1_last", "test last %", 2, Best::highest), plain(last), true},
                {spread_column("test_top1_selected", "selected %", 2, Best::highest), plain(selected)},
                {spread_column("train_top1_last", "train %", 2), plain([](const RunSummary& r) { return r.train_top1_last; })},
                {spread_column("gap", "gap", 2, Best::lowest), plain([](const RunSummary& r) { return r.train_top1_last - r.test_top1_last; })},
                {spread_column("ece", "ECE", 3, Best::lowest), plain([](const RunSummary& r) { return model_number(r, "test", "S", "ece"); })}},
               rows,
               {std::string(kSeedNote) + " ±95 %: half the t interval of the mean. Top-1 of the last and of the selected epoch, test view; gap: train − test, "
                                         "last epoch.",
                "ECE: 10 bins weighted by count, selected epoch. Seconds: median."});
  table.columns.push_back({"seconds", "seconds", Column::Kind::number, 0});
  for (size_t r = 0; r < table.rows.size(); ++r) {
    std::vector<double> seconds;
    for (const RunSummary& run : rows[r].group->runs)
      if (std::isfinite(run.seconds)) seconds.push_back(run.seconds);
    std::sort(seconds.begin(), seconds.end());
    const size_t n = seconds.size();
    table.rows[r].emplace_back(n == 0 ? kNotMeasured : (seconds[(n - 1) / 2] + seconds[n / 2]) / 2);
  }
  return table;
}

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

Table calibration_table(const Groups& groups, const std::string& view) {
  return measured("Calibration, " + view_title(view), {"calibration", view}, {text_column("name", "name"), text_column("model", "model")},
                  calibration_quantities(view), rows_by_model(groups, view), {calibration_note()});
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

// ---- choosing and printing

const std::vector<std::string>& study_table_ids() {
  static const std::vector<std::string> ids = [] {
    std::vector<std::string> out;
    for (const Kind& kind : kinds()) out.push_back(kind.id);
    return out;
  }();
  return ids;
}

std::vector<Table> study_tables(const Groups& groups, const std::string& id) {
  std::vector<Table> tables = kind_of(id).make(groups);
  std::erase_if(tables, [](const Table& t) { return !has_content(t); });
  return tables;
}

std::string paper_name(const std::string& name) {
  const auto read = read_name(name);
  if (!read) return name;
  std::string out;
  for (size_t i = 0; i < read->teachers.size(); ++i) out += fmt::format("{}T{}{}", i ? "/" : "", i + 1, read->teachers[i]);
  out += out.empty() ? fmt::format("only S{}", read->view) : fmt::format(" → S{}", read->view);
  return read->arm.empty() ? out : fmt::format("{} ({})", out, read->arm);
}

namespace {

struct PublishedValue {
  std::string name, key;                // of the row; of the column
  std::vector<std::string> qualifiers;  // what tables and rows are told apart by
  double value;
  int64_t line;
  bool used = false;
};

std::vector<std::string> split(const std::string& text, char at) {
  std::vector<std::string> out(1);
  for (char c : text) c == at ? void(out.emplace_back()) : void(out.back() += c);
  return out;
}

// Lines of three fields without quotes: names, keys and numbers need none.
std::vector<PublishedValue> read_published(const std::string& csv, const std::string& file) {
  std::vector<PublishedValue> out;
  std::set<std::string> seen;
  int64_t number = 0;
  for (std::string line : split(csv, '\n')) {
    ++number;
    if (!line.empty() && line.back() == '\r') line.pop_back();
    if (line.empty()) continue;
    const std::vector<std::string> fields = split(line, ',');
    KD_INPUT(fields.size() == 3, "{}: line {} has {} fields, expected name,key,value", file, number, fields.size());
    if (number == 1) {
      KD_INPUT(line == "name,key,value", "{}: line 1 is '{}', expected the header name,key,value", file, line);
      continue;
    }
    PublishedValue entry{fields[0], {}, split(fields[1], '/'), 0, number};
    entry.key = entry.qualifiers.back();
    entry.qualifiers.pop_back();
    const auto [end, error] = std::from_chars(fields[2].data(), fields[2].data() + fields[2].size(), entry.value);
    KD_INPUT(error == std::errc() && end == fields[2].data() + fields[2].size() && std::isfinite(entry.value), "{}: line {}: '{}' is no number", file, number,
             fields[2]);
    KD_INPUT(seen.insert(fields[0] + "," + fields[1]).second, "{}: line {}: {} of {} is there twice", file, number, fields[1], fields[0]);
    out.push_back(std::move(entry));
  }
  KD_INPUT(!out.empty(), "{}: no values; expected lines name,key,value below that header", file);
  return out;
}

// The entry for a cell, the most closely described if several fit; null if none does.
PublishedValue* find_published(std::vector<PublishedValue>& values, const Table& table, const std::vector<Cell>& row, const std::string& name,
                               const std::string& key) {
  PublishedValue* best = nullptr;
  for (PublishedValue& entry : values) {
    if (entry.name != name || entry.key != key) continue;
    const bool fits = std::all_of(entry.qualifiers.begin(), entry.qualifiers.end(), [&](const std::string& word) {
      return std::find(table.tags.begin(), table.tags.end(), word) != table.tags.end() ||
             std::any_of(row.begin(), row.end(), [&](const Cell& cell) { return cell.text == word || cell.text == dashed(word); });
    });
    if (fits && (!best || entry.qualifiers.size() > best->qualifiers.size())) best = &entry;
  }
  return best;
}

}  // namespace

std::string add_published(std::vector<Table>& tables, const std::string& csv, const std::string& file) {
  std::vector<PublishedValue> values;
  if (!file.empty()) values = read_published(csv, file);
  for (Table& table : tables) {
    const auto name = std::find_if(table.columns.begin(), table.columns.end(), [](const Column& c) { return c.key == "name"; });
    if (name == table.columns.end()) continue;
    const auto name_at = size_t(name - table.columns.begin());
    for (size_t c = 0; c < table.columns.size(); ++c) {
      const Column column = table.columns[c];
      if (column.kind == Column::Kind::text || column.key == "seeds") continue;
      std::vector<double> found;
      bool any = column.key == "test_top1_selected";  // what the paper's tables have: there is a place for it even if nothing is known
      for (const auto& row : table.rows) {
        PublishedValue* entry = find_published(values, table, row, row[name_at].text, column.key);
        found.push_back(entry ? entry->value : kNotMeasured);
        if (entry) any = entry->used = true;
      }
      if (!any) continue;
      ++c;
      table.columns.insert(table.columns.begin() + ptrdiff_t(c), Column{column.key + "_published", "published", Column::Kind::number, column.decimals});
      for (size_t r = 0; r < table.rows.size(); ++r) table.rows[r].insert(table.rows[r].begin() + ptrdiff_t(c), Cell(found[r]));
    }
  }
  std::vector<std::string> unused;
  for (const PublishedValue& v : values)
    if (!v.used) unused.push_back(fmt::format("{}", v.line));
  KD_INPUT(values.empty() || unused.size() < values.size(), "{}: none of its values is of a row and column here; the CSV of a table has the keys", file);
  return unused.empty() ? "" : fmt::format("{}: not in these tables: line{} {}", file, unused.size() == 1 ? "" : "s", joined(unused, ", "));
}

void print_tables(const Path& runs, const TableOptions& options) {
  const Format format = format_from_name(options.format);
  KD_INPUT(options.metrics == "std" || options.metrics == "rk" || options.metrics == "both", "--metrics is '{}'; choose std, rk or both", options.metrics);
  KD_INPUT(options.paper || options.published.empty(), "--published fills the columns that --paper adds; give both");
  std::vector<std::string> ids;
  for (const std::string& word : split(options.which, ',')) {
    if (word == "all" || word == "overview")
      ids.insert(ids.end(), study_table_ids().begin(), word == "all" ? study_table_ids().end() : study_table_ids().begin() + 4);
    else
      ids.push_back(word);
  }
  const bool several = ids.size() > 1;
  for (const std::string& id : ids) kind_of(id);  // unknown ids, before anything is read
  const Groups groups = group_runs(find_runs(runs));

  std::vector<Table> tables;
  std::vector<std::pair<std::string, size_t>> counts;  // of each id that has tables
  for (const std::string& id : ids) {
    std::vector<Table> of_id = study_tables(groups, id);
    if (options.metrics != "both") {
      for (Table& table : of_id) leave_out(table, options.metrics == "std" ? Definition::rk : Definition::std);
      std::erase_if(of_id, [](const Table& t) { return !has_content(t); });
    }
    KD_INPUT(several || !of_id.empty(), "{}: no run has what table {} needs; 'kd_bench eval RUN...' makes analysis/eval.json", runs.string(), id);
    if (of_id.empty()) continue;
    counts.push_back({id, of_id.size()});
    std::move(of_id.begin(), of_id.end(), std::back_inserter(tables));
  }
  KD_INPUT(!tables.empty(), "{}: no run has what these tables need; 'kd_bench eval RUN...' makes analysis/eval.json", runs.string());
  if (options.paper) {
    const std::string unused = add_published(tables, options.published.empty() ? "" : read_text(options.published), options.published.string());
    if (!unused.empty()) fmt::print(stderr, "kd_bench table: {}\n", unused);
    for (Table& table : tables)
      for (size_t c = 0; c < table.columns.size(); ++c)
        if (table.columns[c].key == "name" || table.columns[c].key == "control")
          for (auto& row : table.rows) row[c].text = paper_name(row[c].text);
  }
  auto traced = [&](std::vector<Table> some, Format as) {
    if (options.trace)
      for (Table& table : some) add_trace(table, as);
    return render(some, as);
  };
  if (options.out.empty()) {
    const std::string text = traced(tables, format);
    std::fwrite(text.data(), 1, text.size(), stdout);
  } else {
    make_directories(options.out);
    auto from = tables.begin();
    for (const auto& [id, n] : counts) {
      const std::vector<Table> of_id(from, from + ptrdiff_t(n));
      from += ptrdiff_t(n);
      for (auto [extension, as] : {std::pair{"txt", Format::text}, {"md", Format::markdown}, {"csv", Format::csv}, {"tex", Format::latex}})
        write_atomically(options.out / fmt::format("{}.{}", id, extension), traced(of_id, as));
      fmt::print("{}: .txt, .md, .csv, .tex\n", (options.out / id).string());
    }
  }
  KD_INPUT(std::fflush(stdout) == 0, "the tables could not be written to the output");
}

}  // namespace kd
