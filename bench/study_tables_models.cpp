// study_tables, one model at a time: accuracy and generalisation gap (R1, R2), calibration (R7), the long tail (R9); the overview's accuracy and calibration.
#include <algorithm>
#include <cmath>
#include <tuple>

#include "bench/study_tables.h"
#include "engine/base/check.h"

namespace kd {

using namespace study;

// ---- R1: teachers and baselines

namespace {

template <class Get>
std::vector<std::string> distinct(const std::vector<RunSummary>& runs, Get get) {
  std::vector<std::string> out;
  for (const RunSummary& r : runs)
    if (std::string value = get(r); std::find(out.begin(), out.end(), value) == out.end()) out.push_back(std::move(value));
  return out;
}

double holdout_of(const RunSummary& r) {
  for (const Epoch& e : read_epochs(r))
    if (e.epoch == r.selected_epoch) return e.holdout_top1;
  return kNotMeasured;
}

}  // namespace

std::vector<Table> study::teacher_tables(const Section& section) {
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

namespace {

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

}  // namespace

std::vector<Table> study::grid_tables(const Section& section) {
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

// ---- R7: calibration

namespace {

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

}  // namespace

std::vector<Table> study::reliability_tables(const Section& section) {
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

// ---- R9: long tail

std::vector<Table> study::shot_tables(const Section& section) {
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

Table calibration_table(const Groups& groups, const std::string& view) {
  return measured("Calibration, " + view_title(view), {"calibration", view}, {text_column("name", "name"), text_column("model", "model")},
                  calibration_quantities(view), rows_by_model(groups, view), {calibration_note()});
}

}  // namespace kd
