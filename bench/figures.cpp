#include "bench/figures.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <set>

#include "bench/findings.h"
#include "bench/svg.h"
#include "engine/base/check.h"

namespace kd {
namespace {

// ---- the numbers that are drawn

double accuracy(const RunSummary& r) {
  const double evaluated = model_number(r, "test", "S", "top1");
  return std::isfinite(evaluated) ? evaluated : r.test_top1_last;
}
double learned_overlap(const RunSummary& r) { return map_number(r, main_map(r), &MapEval::iou, "T1-T2"); }
double control_overlap(const RunSummary& r) { return map_number(r, "random_projection", &MapEval::iou, "T1-T2"); }
// Of the pair that stands for "the teachers": their ensemble with the student, or the only teacher with it.
double with_teachers(const RunSummary& r, const std::string& view, const std::string& key) {
  const double ensemble = pair_number(r, view, "Ens-S", key);
  return std::isfinite(ensemble) ? ensemble : pair_number(r, view, "T1-S", key);
}
double agreement(const RunSummary& r) { return with_teachers(r, "test", "agreement"); }
double gap(const RunSummary& r) { return number_in(r.gap, "gap"); }

// How many of its teachers were trained on strong views, by their names: T1s.
size_t strong_teachers(const RunSummary& r) {
  auto strong = [](const std::string& t) { return t.size() >= 3 && t[0] == 'T' && t.back() == 's'; };
  return size_t(std::count_if(r.teachers.begin(), r.teachers.end(), strong));
}

constexpr const char* kEvaluate = "kd_bench eval makes it";
constexpr const char* kWhiskers = "Whiskers: sample standard deviation over seeds.";
constexpr size_t kManyGroups = 8;     // beyond this, bars and lines of every experiment would not be legible
constexpr size_t kCurvePoints = 120;  // of a training curve, at most; longer ones are thinned

const char* model_color(const std::string& model) {
  return model == "S" ? svg::kVermilion : model == "T1" ? svg::kBlue : model == "T2" ? svg::kGreen : model == "T3" ? svg::kSky : svg::kPurple;
}

Column text_column(const char* key, const char* name) { return {key, name}; }
Column number_column(const std::string& key, const std::string& name, int decimals) { return {key, name, Column::Kind::number, decimals}; }

// A label as part of a file's name.
std::string file_word(const std::string& label) {
  std::string word;
  for (char c : label) {
    const bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c == '.' || c == '-';
    if (plain || (!word.empty() && word.back() != '_')) word += plain ? c : '_';
  }
  return word.substr(0, 80);
}

ReportFigure absent(std::string id, std::string title, std::string what) {
  return {.id = std::move(id), .title = std::move(title), .caption = "", .missing = std::move(what)};
}

// ---- one number of several kinds for each experiment, as series and as a table

struct Measure {
  std::string key, name;
  const char* color;
  std::function<double(const RunSummary&)> get;
};
struct Compared {
  std::vector<std::string> labels;
  std::vector<svg::Series> series;
  Table data;
};

// Experiments and measures without a single value are left out.
Compared compare(const Groups& groups, const std::string& title, int decimals, const std::vector<Measure>& measures) {
  Compared out{{}, {}, {.title = title, .columns = {text_column("name", "name")}}};
  std::vector<std::vector<Stat>> stats;  // [group][measure]
  for (const RunGroup& g : groups) {
    std::vector<Stat> row;
    for (const Measure& m : measures) row.push_back(stat_of(g, m.get));
    if (std::all_of(row.begin(), row.end(), [](const Stat& s) { return s.n == 0; })) continue;
    out.labels.push_back(g.label);
    out.data.rows.push_back({g.label});
    stats.push_back(std::move(row));
  }
  for (size_t m = 0; m < measures.size(); ++m) {
    if (std::all_of(stats.begin(), stats.end(), [=](const auto& row) { return row[m].n == 0; })) continue;
    out.series.push_back({measures[m].name, measures[m].color, {}, {}});
    out.data.columns.push_back({measures[m].key, measures[m].name, Column::Kind::spread, decimals});
    for (size_t i = 0; i < stats.size(); ++i) {
      out.series.back().values.push_back(stats[i][m].mean);
      out.series.back().errors.push_back(stats[i][m].sd);
      out.data.rows[i].push_back(stats[i][m]);
    }
  }
  return out;
}

std::string dots(const std::string& label, const std::string& axis, const Compared& c, int decimals) {
  return svg::dot_plot({.label = label}, {axis}, c.labels, c.series, decimals);
}
std::string bars_or_dots(const std::string& label, const std::string& axis, const Compared& c, int decimals) {
  return c.labels.size() > kManyGroups ? dots(label, axis, c, decimals) : svg::bar_chart({.label = label}, {axis}, c.labels, c.series, decimals);
}

// ---- scatter

struct Quantity {
  const char *key, *label;
  int decimals;
  double (*get)(const RunSummary&);
};

std::string with_sign(double value) {
  std::string text = fmt::format("{:+.2f}", value);
  return text[0] == '-' ? "−" + text.substr(1) : text;
}

std::string rho_of(const std::vector<double>& xs, const std::vector<double>& ys, const std::string& who) {
  const double rho = spearman(xs, ys);
  const auto [lo, hi] = spearman_interval(rho, xs.size());
  const std::string n = fmt::format("n = {}{}", xs.size(), who);
  if (!std::isfinite(rho)) return fmt::format("Spearman ρ: {}", xs.size() < 3 ? "needs three students" : "one side is constant") + ", " + n;
  if (!std::isfinite(lo)) return fmt::format("Spearman ρ {}, {}", with_sign(rho), n);
  return fmt::format("Spearman ρ {} (95 %: {} to {}), {}", with_sign(rho), with_sign(lo), with_sign(hi), n);
}

constexpr svg::Mark kMarks[] = {svg::Mark::circle, svg::Mark::square, svg::Mark::diamond, svg::Mark::triangle};
svg::Mark mark_of(size_t strong) { return kMarks[std::min(strong, std::size(kMarks) - 1)]; }

// The students of one data set as points: colour by their view, shape by their strong teachers. Appends to `data`, whose first column is `panel`
// where there are several.
struct Scatter {
  std::string svg;  // empty: fewer than three students
  size_t students = 0;
  std::set<size_t> strong;
  std::set<std::string> views;
};
Scatter scatter(const std::string& title, const Groups& students, const Quantity& x, const Quantity& y, const char* panel, Table& data) {
  Scatter out;
  std::vector<svg::Point> points;
  std::map<std::string, std::pair<std::vector<double>, std::vector<double>>> by_view;
  std::vector<double> xs, ys;
  for (const RunGroup& g : students) {
    const Stat a = stat_of(g, x.get), b = stat_of(g, y.get);
    if (a.n == 0 || b.n == 0) continue;
    const std::string& view = g.front().view;
    const size_t strong = strong_teachers(g.front());
    points.push_back({g.label, view == "strong" ? svg::kVermilion : svg::kBlue, a.mean, b.mean, a.sd, b.sd, mark_of(strong)});
    xs.push_back(a.mean), ys.push_back(b.mean);
    by_view[view].first.push_back(a.mean), by_view[view].second.push_back(b.mean);
    out.strong.insert(strong), out.views.insert(view);
    std::vector<Cell> row{g.label, view, double(strong), a, b, double(std::min(a.n, b.n))};
    if (panel) row.insert(row.begin(), panel);
    data.rows.push_back(std::move(row));
  }
  out.students = points.size();
  if (points.size() < 3) return out;
  std::vector<std::string> notes{rho_of(xs, ys, by_view.size() > 1 ? ", all" : "")};
  if (by_view.size() > 1)
    for (const auto& [view, values] : by_view) notes.push_back(rho_of(values.first, values.second, fmt::format(", {} view", view.empty() ? "no" : view)));
  out.svg = svg::scatter_plot({.label = fmt::format("{}: {} and {}", title, y.label, x.label), .height = 340, .title = title, .notes = notes}, {x.label},
                              {y.label}, points);
  return out;
}

std::vector<svg::Key> scatter_keys(const std::vector<Scatter>& panels) {
  std::set<size_t> strong;
  std::set<std::string> views;
  for (const Scatter& p : panels) strong.insert(p.strong.begin(), p.strong.end()), views.insert(p.views.begin(), p.views.end());
  std::vector<svg::Key> keys;
  for (const std::string& view : std::set<std::string, std::greater<>>(views.begin(), views.end()))  // weak first
    keys.push_back({fmt::format("student sees {} views", view), view == "strong" ? svg::kVermilion : svg::kBlue, svg::Glyph::line});
  constexpr const char* kNumbers[] = {"no", "1", "2", "3 or more"};
  for (size_t n : strong)
    if (n <= 3) keys.push_back({fmt::format("{} strong teacher{}", kNumbers[n], n == 1 ? "" : "s"), "currentColor", mark_of(n)});
  return keys;
}

constexpr Quantity kAccuracy{"test_top1", "test top-1 %", 2, accuracy}, kOverlap{"iou_t1_t2", "IoU(T1,T2)", 3, learned_overlap},
    kControl{"iou_t1_t2", "IoU(T1,T2), random projection", 3, control_overlap}, kAgreement{"agreement", "agreement with the teachers", 3, agreement},
    kGap{"gap", "gap, points", 2, gap};

ReportFigure scatter_figure(const std::string& id, const std::string& title, const std::string& caption, const Groups& students, const Quantity& x,
                            const Quantity& y, const Quantity* control = nullptr) {
  Table data{.title = title,
             .columns = {text_column("name", "name"),
                         text_column("view", "student's view"),
                         number_column("strong_teachers", "strong teachers", 0),
                         {x.key, x.label, Column::Kind::spread, x.decimals},
                         {y.key, y.label, Column::Kind::spread, y.decimals},
                         number_column("seeds", "seeds", 0)}};
  if (control) data.columns.insert(data.columns.begin(), text_column("maps", "maps"));
  const std::string kind = students.empty() ? "pred_class" : main_map(students.front().front());
  std::vector<Scatter> panels{scatter(control ? kind + " maps" : std::string(), students, x, y, control ? kind.c_str() : nullptr, data)};
  if (panels[0].svg.empty())
    return absent(id, title,
                  fmt::format("Needs three students with {} and {}; here are {}. {}.", x.label, y.label, panels[0].students,
                              std::string("Without analysis/eval.json a run has neither: ") + kEvaluate));
  if (control) panels.push_back(scatter("random_projection maps, the control", students, *control, y, "random_projection", data));
  ReportFigure figure{.id = id, .title = title, .caption = caption, .legend = svg::legend(scatter_keys(panels), 440), .columns = 2, .data = std::move(data)};
  for (Scatter& p : panels)
    if (!p.svg.empty()) figure.panels.push_back(std::move(p.svg));
  return figure;
}

// ---- training curves

struct Curve {
  std::vector<double> epoch, mean, lo, hi;  // lo and hi: the lowest and the highest seed; empty for one seed
  bool known() const {
    return std::any_of(mean.begin(), mean.end(), [](double v) { return std::isfinite(v); });
  }
};

Curve curve_of(const std::vector<std::vector<Epoch>>& seeds, double Epoch::*what, size_t most_points) {
  std::map<int64_t, std::vector<double>> by_epoch;
  for (const auto& epochs : seeds)
    for (const Epoch& e : epochs)
      if (std::isfinite(e.*what)) by_epoch[e.epoch].push_back(e.*what);
  Curve curve;
  const size_t stride = std::max<size_t>(1, (by_epoch.size() + most_points - 1) / most_points);
  size_t i = 0;
  for (const auto& [epoch, values] : by_epoch) {
    if (++i != by_epoch.size() && (i - 1) % stride != 0) continue;
    curve.epoch.push_back(double(epoch));
    curve.mean.push_back(stat_of(values).mean);
    if (seeds.size() > 1) {
      curve.lo.push_back(*std::min_element(values.begin(), values.end()));
      curve.hi.push_back(*std::max_element(values.begin(), values.end()));
    }
  }
  return curve;
}

std::vector<std::vector<Epoch>> epochs_of(const RunGroup& g) {
  std::vector<std::vector<Epoch>> seeds;
  for (const RunSummary& r : g.runs)
    if (auto epochs = read_epochs(r); !epochs.empty()) seeds.push_back(std::move(epochs));
  return seeds;
}

struct Quantities {
  const char *key, *name;
  double Epoch::*what;
  int decimals;
};
constexpr Quantities kEpochColumns[] = {{"lr", "lr", &Epoch::lr, 5},
                                        {"loss", "loss", &Epoch::loss, 4},
                                        {"ce", "cross-entropy", &Epoch::ce, 4},
                                        {"kd", "distillation", &Epoch::kd, 4},
                                        {"train_top1", "train %", &Epoch::train_top1, 2},
                                        {"holdout_top1", "holdout %", &Epoch::holdout_top1, 2},
                                        {"test_top1", "test %", &Epoch::test_top1, 2},
                                        {"train_agreement", "agreement", &Epoch::train_agreement, 4}};

// Appends a row for each epoch: what comes before the numbers, the epoch, then the columns above, to five digits; metrics.csv has all of them.
void add_epoch_rows(Table& data, const std::vector<Cell>& before, const std::map<std::string, Curve>& curves) {
  std::map<double, std::vector<Cell>> rows;
  size_t column = 0;
  for (const Quantities& q : kEpochColumns) {
    const Curve& c = curves.at(q.key);
    for (size_t k = 0; k < c.epoch.size(); ++k) {
      auto& row = rows[c.epoch[k]];
      row.resize(std::size(kEpochColumns), kNotMeasured);
      row[column] = std::stod(fmt::format("{:.5g}", c.mean[k]));
    }
    ++column;
  }
  for (const auto& [epoch, cells] : rows) {
    std::vector<Cell> row = before;
    row.push_back(epoch);
    row.insert(row.end(), cells.begin(), cells.end());
    data.rows.push_back(std::move(row));
  }
}

Table epoch_table(const std::string& title) {
  Table table{.title = title, .columns = {number_column("epoch", "epoch", 0)}};
  for (const Quantities& q : kEpochColumns) table.columns.push_back(number_column(q.key, q.name, q.decimals));
  return table;
}

svg::Line line_of(const std::string& name, const char* color, const Curve& c) { return {name, color, c.epoch, c.mean, c.lo, c.hi}; }

void add_chart(ReportFigure& figure, const svg::Figure& frame, const svg::Axis& axis, const std::vector<svg::Line>& lines) {
  std::vector<svg::Line> known;
  for (const svg::Line& l : lines)
    if (!l.x.empty()) known.push_back(l);
  if (!known.empty()) figure.panels.push_back(svg::line_chart(frame, {"epoch"}, axis, known));
}

ReportFigure experiment_curves(const RunGroup& g, size_t points) {
  const auto seeds = epochs_of(g);
  ReportFigure figure{.id = "f5_" + file_word(g.label),
                      .title = "Training",
                      .caption = seeds.size() > 1 ? fmt::format("Mean over {} seeds; band: lowest to highest seed.", seeds.size()) : "One seed.",
                      .columns = 4,
                      .data = epoch_table("Training of " + g.label)};
  std::map<std::string, Curve> curves;
  for (const Quantities& q : kEpochColumns) curves[q.key] = curve_of(seeds, q.what, points);
  add_epoch_rows(figure.data, {}, curves);
  auto frame = [&](const char* title) {
    return svg::Figure{.label = fmt::format("{} of {} by epoch", title, g.label), .width = 258, .height = 220, .title = title};
  };
  add_chart(figure, frame("Accuracy"), {"top-1 %"},
            {line_of("train", svg::kSky, curves["train_top1"]), line_of("holdout", svg::kGreen, curves["holdout_top1"]),
             line_of("test", svg::kVermilion, curves["test_top1"])});
  const Curve& kd = curves["kd"];
  std::vector<svg::Line> losses{line_of("loss", svg::kBlue, curves["loss"])};
  if (std::any_of(kd.mean.begin(), kd.mean.end(), [](double v) { return v > 0; }))
    losses.insert(losses.end(), {line_of("hard", svg::kOrange, curves["ce"]), line_of("soft", svg::kPurple, kd)});
  add_chart(figure, frame("Loss"), {"nats", 0}, losses);
  add_chart(figure, frame("Agreement with the teachers"), {"share of images"}, {line_of("agreement", svg::kPurple, curves["train_agreement"])});
  add_chart(figure, frame("Learning rate"), {"learning rate", 0}, {line_of("lr", svg::kGreen, curves["lr"])});
  return figure;
}

// ---- reliability

std::vector<std::string> models_of(const RunSummary& run) {
  std::vector<std::string> names;
  const auto view = run.views.find("test");
  if (view == run.views.end()) return names;
  for (const auto& [name, eval] : view->second.models)
    if (name != "S" && name != "Ens") names.push_back(name);
  for (const char* name : {"Ens", "S"})
    if (view->second.models.count(name)) names.push_back(name);
  return names;
}

std::string who_is(const RunSummary& run, const std::string& model) {
  const size_t teacher = model.size() == 2 && model[0] == 'T' && model[1] >= '1' && model[1] <= '9' ? size_t(model[1] - '0') : 0;
  if (model == "S") return run.kind == "student" ? "Student" : "Model";
  if (model == "Ens") return "Ensemble";
  return teacher >= 1 && teacher <= run.teachers.size() ? fmt::format("{}: {}", model, run.teachers[teacher - 1]) : model;
}

Table reliability_table(const std::string& title) {
  return {.title = title,
          .columns = {text_column("model", "model"), number_column("bin", "bin", 0), number_column("n", "n", 0), number_column("acc", "accuracy", 4),
                      number_column("conf", "confidence", 4)}};
}

ReportFigure experiment_reliability(const RunGroup& g, const RunSummary& run) {
  ReportFigure figure{
      .id = "f4_" + file_word(g.label),
      .title = "Reliability",
      .caption = fmt::format("Bars should end on the diagonal; pale: the gap between accuracy and confidence; below: images in each bin. Seed {}.", run.seed),
      .columns = 5,
      .data = reliability_table("Reliability of " + g.label)};
  for (const std::string& name : models_of(run)) {
    const auto& rows = run.views.at("test").models.at(name).reliability;
    if (rows.empty()) continue;
    std::vector<svg::ReliabilityBar> bars;
    for (const ReliabilityBin& b : rows) {
      bars.push_back({b.index, b.n, b.acc, b.conf});
      figure.data.rows.push_back({name, double(b.index), double(b.n), b.acc, b.conf});
    }
    const double ece = model_number(run, "test", name, "ece");
    figure.panels.push_back(svg::reliability_diagram({.label = fmt::format("Reliability of {} in {}", who_is(run, name), g.label),
                                                      .width = 205,
                                                      .height = 0,
                                                      .title = who_is(run, name),
                                                      .notes = {std::isfinite(ece) ? fmt::format("ECE {:.3f}", ece) : "ECE not measured"}},
                                                     model_color(name), bars, 10));
  }
  return figure;
}

// ---- matrices

ReportFigure experiment_matrices(const RunGroup& g, const RunSummary& run) {
  ReportFigure figure{.id = "pairs_" + file_word(g.label),
                      .title = "Between its models",
                      .caption = "Test view; KL in nats at temperature 1; information: of the predicted labels, less its mean for shuffled labels, in nats.",
                      .columns = 3,
                      .data = {.title = "Pairs of " + g.label,
                               .columns = {text_column("a", "A"), text_column("b", "B"), number_column("agreement", "agreement", 3),
                                           number_column("kl_ab", "KL(A‖B)", 3), number_column("mi_adjusted", "information", 3)}}};
  const std::vector<std::string> models = models_of(run);
  if (models.size() < 2) return figure;
  std::vector<double> agree, divergence, information;
  for (const std::string& a : models)
    for (const std::string& b : models) {
      auto mean = [&](const char* forward, const char* backward) {
        return stat_of(g,
                       [&](const RunSummary& r) {
                         const double value = pair_number(r, "test", a + "-" + b, forward);
                         return std::isfinite(value) ? value : pair_number(r, "test", b + "-" + a, backward);
                       })
            .mean;
      };
      agree.push_back(a == b ? 1 : mean("agreement", "agreement"));
      divergence.push_back(a == b ? 0 : mean("kl_ab", "kl_ba"));
      information.push_back(a == b ? kNotMeasured : mean("mi_adjusted", "mi_adjusted"));
      if (a != b) figure.data.rows.push_back({a, b, agree.back(), divergence.back(), information.back()});
    }
  auto largest = [](const std::vector<double>& values) {
    double top = 1e-9;
    for (double v : values) top = std::isfinite(v) ? std::max(top, v) : top;
    return top;
  };
  auto frame = [&](const char* title) {
    return svg::Figure{.label = fmt::format("{} of the models of {}", title, g.label),
                       .width = 46 + 50 * double(models.size()),
                       .height = 48 + 34 * double(models.size()),
                       .title = title};
  };
  figure.panels = {svg::heat_map(frame("Agreement"), models, models, agree, 0, 1, 3),
                   svg::heat_map(frame("KL(row‖column)"), models, models, divergence, 0, largest(divergence), 3),
                   svg::heat_map(frame("Information"), models, models, information, 0, largest(information), 3)};
  return figure;
}

// Groups of one data set together, with a suffix for ids and titles where there are several.
struct DataSet {
  std::string id_suffix, title_suffix;
  Groups groups;
};
std::vector<DataSet> by_data(const Groups& groups) {
  std::map<std::pair<std::string, int64_t>, Groups> sets;
  for (const RunGroup& g : groups) sets[{g.front().dataset, g.front().train_images}].push_back(g);
  std::map<std::string, int> names;
  for (const auto& [key, members] : sets) ++names[key.first];
  std::vector<DataSet> out;
  for (auto& [key, members] : sets) {
    const std::string name = names[key.first] > 1 ? fmt::format("{} {}", key.first, key.second) : key.first;
    const bool only = sets.size() == 1;
    out.push_back({only ? "" : "_" + file_word(name), only ? "" : ": " + name, std::move(members)});
  }
  return out;
}

}  // namespace

std::string file_svg(const ReportFigure& figure) { return svg::composed(figure.title, figure.legend, figure.panels, figure.columns); }

Groups students_of(const Groups& groups) {
  Groups out;
  std::copy_if(groups.begin(), groups.end(), std::back_inserter(out), [](const RunGroup& g) { return g.front().kind == "student"; });
  return out;
}

const RunSummary* evaluated_run(const RunGroup& g) {
  for (const RunSummary& r : g.runs)
    if (r.evaluated) return &r;
  return nullptr;
}

std::vector<ReportFigure> accuracy_figures(const Groups& groups) {
  std::vector<ReportFigure> figures;
  const Compared top1 = compare(groups, "Top-1 accuracy", 2,
                                {{"test_top1_last", "test, last", svg::kBlue, [](const RunSummary& r) { return r.test_top1_last; }},
                                 {"test_top1_selected", "test, selected", svg::kVermilion, [](const RunSummary& r) { return r.test_top1_selected; }},
                                 {"train_top1_last", "train, last", svg::kSky, [](const RunSummary& r) { return r.train_top1_last; }}});
  figures.push_back({.id = "accuracy_by_name",
                     .title = "Top-1 accuracy",
                     .caption = std::string("Test view. ") + kWhiskers,
                     .panels = {dots("Top-1 accuracy of every experiment, on test and training images", "top-1 %", top1, 2)},
                     .data = top1.data});

  std::vector<Measure> measures;
  for (auto [key, name, color] : {std::tuple{"weak_base", "weak / base", svg::kSky},
                                  {"weak_test", "weak / test", svg::kBlue},
                                  {"strong_base", "strong / base", svg::kOrange},
                                  {"strong_test", "strong / test", svg::kVermilion}})
    measures.push_back({key, name, color, [key](const RunSummary& r) { return number_in(r.affinity, key); }});
  const Compared affinity = compare(groups, "Affinity", 4, measures);
  if (affinity.labels.empty())
    figures.push_back(absent("f7", "Affinity of the augmented views", std::string("No run has affinity in its analysis/eval.json; ") + kEvaluate + "."));
  else
    figures.push_back(
        {.id = "f7",
         .title = "Affinity of the augmented views",
         .caption = std::string("Accuracy on augmented test images over accuracy on unaugmented ones: lower is a stronger shift. Base: random crops only, "
                                "as published; test: the test view. ") +
                    kWhiskers,
         .panels = {bars_or_dots("Affinity of the weak and the strong view", "affinity", affinity, 3)},
         .data = affinity.data});

  measures.clear();
  for (auto [key, name, color] : {std::tuple{"top1_many", "many", svg::kBlue}, {"top1_medium", "medium", svg::kGreen}, {"top1_few", "few", svg::kVermilion}})
    measures.push_back({key, name, color, [key](const RunSummary& r) { return model_number(r, "test", "S", key); }});
  const Compared shots = compare(groups, "Accuracy by class size", 2, measures);
  if (shots.series.size() > 1)
    figures.push_back({.id = "long_tail",
                       .title = "Accuracy by class size",
                       .caption = std::string("Many: more than 100 training images; medium: 20 to 100; few: fewer than 20. ") + kWhiskers,
                       .panels = {bars_or_dots("Accuracy on classes with many, medium and few training images", "top-1 %", shots, 1)},
                       .data = shots.data});
  return figures;
}

std::vector<ReportFigure> diversity_figures(const Groups& groups) {
  std::vector<ReportFigure> figures;
  for (const auto& [suffix, name, students] : by_data(students_of(groups))) {
    const std::string spread = std::string(" ") + kWhiskers;
    figures.push_back(
        scatter_figure("f1" + suffix, "Accuracy and the teachers' attention overlap" + name,
                       "IoU of T1's and T2's masks on test images. An association that the control shows as well says nothing about what was learned." + spread,
                       students, kOverlap, kAccuracy, &kControl));
    figures.push_back(scatter_figure("f2" + suffix, "Accuracy and fidelity" + name,
                                     "Agreement with the ensemble of the teachers, or with the only one." + spread, students, kAgreement, kAccuracy));
    figures.push_back(scatter_figure("f3" + suffix, "Generalisation gap and the teachers' attention overlap" + name,
                                     "Gap: training minus test accuracy, both on the test view in evaluation mode." + spread, students, kOverlap, kGap));
    const MetricMatrix m = metric_matrix(students, "test");
    const std::string title = "How the measures go together" + name;
    if (m.names.size() < 2) {
      figures.push_back(absent("f8" + suffix, title,
                               fmt::format("Needs three evaluated runs of students; here are {}. {}.", m.runs, std::string("Evaluation: ") + kEvaluate)));
      continue;
    }
    Table data{.title = title, .columns = {text_column("measure", "measure")}};
    for (size_t i = 0; i < m.names.size(); ++i) {
      data.columns.push_back(number_column(m.names[i], m.names[i], 2));
      data.rows.push_back({m.names[i]});
      for (size_t j = 0; j < m.names.size(); ++j) data.rows[i].push_back(m.rho[i * m.names.size() + j]);
    }
    const double n = double(m.names.size());
    figures.push_back(
        {.id = "f8" + suffix,
         .title = title,
         .caption = fmt::format("Spearman's ρ over {} runs of students, test view; with the ensemble of the teachers, or with the only one. Blue: "
                                "together; vermilion: one up, the other down.",
                                m.runs),
         .panels = {svg::heat_map({.label = "Rank correlations between accuracy, fidelity and attention", .width = 130 + 42 * n, .height = 140 + 30 * n},
                                  m.names, m.names, m.rho, -1, 1, 2)},
         .least_px = 560,
         .data = std::move(data)});
  }
  return figures;
}

MetricMatrix metric_matrix(const Groups& groups, const std::string& view) {
  struct Named {
    const char* name;
    std::function<double(const RunSummary&)> get;
  };
  auto pair = [&](const char* name, const char* key) { return Named{name, [&view, key](const RunSummary& r) { return with_teachers(r, view, key); }}; };
  auto model = [&](const char* name, const char* key) { return Named{name, [&view, key](const RunSummary& r) { return model_number(r, view, "S", key); }}; };
  auto student_iou = [](const RunSummary& r) {
    std::vector<double> values;
    for (const char* p : {"T1-S", "T2-S", "T3-S"}) values.push_back(map_number(r, main_map(r), &MapEval::iou, p));
    return stat_of(values).mean;
  };
  const Named all[] = {model("accuracy", "top1"),
                       {"gap", gap},
                       model("ECE", "ece"),
                       pair("agreement", "agreement"),
                       pair("kappa", "kappa"),
                       pair("top-5 overlap", "top5_overlap"),
                       pair("KL(T‖S)", "kl_ab"),
                       pair("KL(S‖T)", "kl_ba"),
                       pair("JS", "js"),
                       pair("TV", "tv"),
                       pair("MI adjusted", "mi_adjusted"),
                       pair("MI normalized", "mi_normalized"),
                       {"IoU(T1,T2)", learned_overlap},
                       {"IoU(T,S)", student_iou}};
  std::vector<const RunSummary*> runs;
  for (const RunGroup& g : groups)
    for (const RunSummary& r : g.runs)
      if (r.evaluated && r.kind == "student") runs.push_back(&r);
  MetricMatrix out{{}, {}, runs.size()};
  std::vector<std::vector<double>> columns;
  for (const Named& metric : all) {
    std::vector<double> values;
    for (const RunSummary* r : runs) values.push_back(metric.get(*r));
    if (std::count_if(values.begin(), values.end(), [](double v) { return std::isfinite(v); }) < 3) continue;
    out.names.push_back(metric.name);
    columns.push_back(std::move(values));
  }
  for (const auto& a : columns)
    for (const auto& b : columns) {
      std::vector<double> xs, ys;
      for (size_t i = 0; i < a.size(); ++i)
        if (std::isfinite(a[i]) && std::isfinite(b[i])) xs.push_back(a[i]), ys.push_back(b[i]);
      out.rho.push_back(spearman(xs, ys));
    }
  return out;
}

std::vector<ReportFigure> fidelity_figures(const Groups& groups) {
  const Groups students = students_of(groups);
  constexpr std::pair<const char*, const char*> kPairs[] = {
      {"T1-S", svg::kBlue}, {"T2-S", svg::kGreen}, {"T3-S", svg::kSky}, {"Ens-S", svg::kPurple}, {"T1-T2", svg::kOrange}};
  auto compared = [&](const std::string& title, const char* key) {
    std::vector<Measure> measures;
    for (auto [pair, color] : kPairs) {
      std::string name = pair;
      name.replace(name.find('-'), 1, "–");
      measures.push_back({pair, name, color, [p = std::string(pair), key](const RunSummary& r) { return pair_number(r, "test", p, key); }});
    }
    return compare(students, title, 3, measures);
  };
  std::vector<ReportFigure> figures;
  const Compared agree = compared("Agreement", "agreement");
  if (agree.labels.empty()) {
    figures.push_back(absent("agreement", "Agreement", std::string("No student has been evaluated; ") + kEvaluate + "."));
    return figures;
  }
  figures.push_back({.id = "agreement",
                     .title = "Agreement",
                     .caption = std::string("Share of the test images on which two models give the same answer. ") + kWhiskers,
                     .panels = {dots("Agreement of students with their teachers", "agreement", agree, 3)},
                     .data = agree.data});

  // Divergence and information: every student a row, every pair a column.
  ReportFigure both{.id = "divergence",
                    .title = "Divergence and information",
                    .caption =
                        "Test view, mean over seeds. KL(teacher‖student) in nats at temperature 1: 0 is a perfect copy. Information: of the predicted "
                        "labels, less its mean for shuffled labels, in nats: 0 is none.",
                    .columns = 2,
                    .data = {.title = "Divergence and information", .columns = {text_column("name", "name")}}};
  both.data.rows.resize(students.size());
  for (size_t i = 0; i < students.size(); ++i) both.data.rows[i].push_back(students[i].label);
  for (auto [key, title] : {std::pair{"kl_ab", "KL(first‖second)"}, {"mi_adjusted", "Mutual information"}}) {
    const Compared c = compared(title, key);
    std::vector<std::string> columns;
    std::vector<double> values(c.labels.size() * c.series.size());
    double largest = 1e-9;
    for (size_t k = 0; k < c.series.size(); ++k) {
      columns.push_back(c.series[k].name);
      both.data.columns.push_back({fmt::format("{}_{}", key, c.data.columns[k + 1].key), fmt::format("{} {}", title, columns.back()), Column::Kind::spread, 3});
      for (size_t g = 0; g < c.labels.size(); ++g) {
        values[g * c.series.size() + k] = c.series[k].values[g];
        if (std::isfinite(c.series[k].values[g])) largest = std::max(largest, c.series[k].values[g]);
      }
      size_t g = 0;
      for (auto& row : both.data.rows) {
        const bool has = g < c.labels.size() && c.labels[g] == row[0].text;
        row.push_back(has ? c.data.rows[g][k + 1] : Cell(kNotMeasured));
        g += has;
      }
    }
    if (c.labels.empty()) continue;
    both.panels.push_back(
        svg::heat_map({.label = std::string(title) + " between teachers and students", .height = 50 + 24 * double(c.labels.size()), .title = title}, c.labels,
                      columns, values, 0, largest, 3));
  }
  figures.push_back(std::move(both));
  return figures;
}

std::vector<ReportFigure> calibration_figures(const Groups& groups) {
  const Groups students = students_of(groups), &drawn = students.empty() ? groups : students;
  ReportFigure curves{.id = "f4",
                      .title = "Reliability",
                      .caption =
                          "Accuracy against mean confidence in ten bins of test images; on the dashed diagonal a model is as sure as it is right. The first "
                          "evaluated seed of each experiment.",
                      .columns = 4,
                      .data = reliability_table("Reliability")};
  curves.data.columns.insert(curves.data.columns.begin(), {text_column("name", "name"), number_column("seed", "seed", 0)});
  std::set<std::string> drawn_models;
  for (const RunGroup& g : drawn) {
    const RunSummary* run = evaluated_run(g);
    if (!run) continue;
    std::vector<svg::Line> lines{{"calibrated", "currentColor", {0, 1}, {0, 1}, {}, {}, svg::Stroke::dashed, "", 1}};
    for (const std::string& name : models_of(*run)) {
      const auto& rows = run->views.at("test").models.at(name).reliability;
      svg::Line line{name, model_color(name), {}, {}, {}, {}, svg::Stroke::solid, "", 1.6};
      for (const ReliabilityBin& b : rows) {
        curves.data.rows.push_back({g.label, double(run->seed), name, double(b.index), double(b.n), b.acc, b.conf});
        if (b.n > 0) line.x.push_back(b.conf), line.y.push_back(b.acc);
      }
      if (line.x.empty()) continue;
      lines.push_back(std::move(line));
      drawn_models.insert(name);
    }
    if (lines.size() > 1)
      curves.panels.push_back(
          svg::line_chart({.label = "Reliability in " + g.label, .width = 206, .height = 206, .title = g.label, .keys = svg::Keys::left_out},
                          {"confidence", 0, 1}, {"accuracy", 0, 1}, lines));
  }
  std::vector<ReportFigure> figures;
  if (curves.panels.empty()) {
    figures.push_back(absent("f4", "Reliability", std::string("No run has been evaluated; ") + kEvaluate + "."));
    return figures;
  }
  std::vector<svg::Key> keys;
  for (const std::string& name : drawn_models)
    if (name != "S" && name != "Ens") keys.push_back({name, model_color(name)});
  if (drawn_models.count("Ens")) keys.push_back({"ensemble", model_color("Ens")});
  if (drawn_models.count("S")) keys.push_back({students.empty() ? "model" : "student", model_color("S")});
  keys.push_back({"calibrated", "currentColor", svg::Glyph::dashes});
  curves.legend = svg::legend(keys, 440);
  figures.push_back(std::move(curves));

  std::vector<Measure> measures;
  for (const char* model : {"S", "T1", "T2", "T3", "Ens"})
    measures.push_back({model, model, model_color(model), [model](const RunSummary& r) { return model_number(r, "test", model, "ece"); }});
  const Compared ece = compare(drawn, "Expected calibration error", 4, measures);
  figures.push_back({.id = "ece",
                     .title = "Expected calibration error",
                     .caption = std::string("10 bins weighted by count, test view. ") + kWhiskers,
                     .panels = {bars_or_dots("Expected calibration error of students, teachers and ensembles", "ECE", ece, 3)},
                     .data = ece.data});
  return figures;
}

std::vector<ReportFigure> training_figures(const Groups& groups) {
  const bool named = groups.size() <= kManyGroups;
  const size_t points = std::clamp<size_t>(900 / std::max<size_t>(groups.size(), 1), 20, kCurvePoints);
  ReportFigure figure{
      .id = "f5",
      .title = "Training",
      .caption = std::string(named ? "Mean over seeds; band: lowest to highest seed. " : "Mean over seeds; each experiment by itself is below. ") +
                 "Training accuracy, loss and agreement are counted while the weights change and on augmented images.",
      .columns = 3,
      .data = epoch_table("Training")};
  figure.data.columns.insert(figure.data.columns.begin(), text_column("name", "name"));
  std::map<std::string, std::vector<svg::Line>> lines;
  std::vector<svg::Key> keys;
  size_t index = 0;
  for (const RunGroup& g : groups) {
    const auto seeds = epochs_of(g);
    const RunSummary& r = g.front();
    const bool strong = r.view == "strong";
    const char* kind_color = r.kind == "student" ? (strong ? svg::kVermilion : svg::kBlue) : r.kind == "baseline" ? svg::kOrange : svg::kGreen;
    const std::string kind = r.kind == "student" ? fmt::format("student, {} view", r.view) : r.kind;
    std::map<std::string, Curve> curves;
    for (const Quantities& q : kEpochColumns) {
      Curve& c = curves[q.key] = curve_of(seeds, q.what, points);
      if (!c.known()) continue;
      svg::Line line = line_of(g.label, named ? svg::color(index) : kind_color, c);
      if (named && index >= 6) line.stroke = svg::Stroke::dashed;
      if (!named) line.lo.clear(), line.hi.clear(), line.width = 1.1;
      const svg::Key key{named ? g.label : kind, line.color, line.stroke == svg::Stroke::dashed ? svg::Glyph::dashes : svg::Glyph::line};
      if (std::none_of(keys.begin(), keys.end(), [&](const svg::Key& k) { return k.name == key.name; })) keys.push_back(key);
      lines[q.key].push_back(std::move(line));
    }
    add_epoch_rows(figure.data, {g.label}, curves);
    index += !seeds.empty();
  }
  auto chart = [&](const char* key, const char* title, const svg::Axis& axis) {
    if (lines.count(key))
      add_chart(figure, {.label = fmt::format("{} by epoch", title), .width = 350, .height = 240, .title = title, .keys = svg::Keys::left_out}, axis,
                lines[key]);
  };
  chart("loss", "Loss", {"nats", 0});
  chart("train_top1", "Training accuracy", {"top-1 %"});
  chart("holdout_top1", "Holdout accuracy", {"top-1 %"});
  chart("test_top1", "Test accuracy", {"top-1 %"});
  chart("train_agreement", "Agreement with the teachers", {"share of images"});
  chart("lr", "Learning rate", {"learning rate", 0});
  if (figure.panels.empty()) return {absent("f5", "Training", "No run has a metrics.jsonl with epochs, so there are no training curves.")};
  figure.legend = svg::legend(keys, 440);
  return {std::move(figure)};
}

std::vector<ReportFigure> cost_figures(const Groups& groups) {
  ReportFigure figure{
      .id = "cost",
      .title = "Cost",
      .caption = std::string("Of a whole run, evaluation during training included in the time, not in images per second. Runs that were trained side by "
                             "side, or on a busy machine, share its time. ") +
                 kWhiskers,
      .columns = 2};
  const Compared time = compare(groups, "Cost", 1, {{"seconds", "seconds", svg::kBlue, [](const RunSummary&r) { return r.seconds; }}}),
                 speed = compare(groups, "Cost", 0, {{"img_per_s", "images/s", svg::kGreen, [](const RunSummary&r) { return r.img_per_s; }}});
  figure.data = compare(groups, "Cost", 1,
                        {{"seconds", "seconds", svg::kBlue, [](const RunSummary& r) { return r.seconds; }},
                         {"img_per_s", "images/s", svg::kGreen, [](const RunSummary& r) { return r.img_per_s; }}})
                    .data;
  if (!time.labels.empty()) figure.panels.push_back(svg::bar_chart({.label = "Seconds of every run"}, {"seconds"}, time.labels, time.series, 0));
  if (!speed.labels.empty())
    figure.panels.push_back(svg::bar_chart({.label = "Training images a second of every run"}, {"images/s"}, speed.labels, speed.series, 0));
  if (figure.panels.empty()) return {absent("cost", "Cost", "No run says how long it took.")};
  return {std::move(figure)};
}

std::vector<ReportFigure> experiment_figures(const RunGroup& g, size_t experiments) {
  std::vector<ReportFigure> figures{experiment_curves(g, std::clamp<size_t>(1800 / std::max<size_t>(experiments, 1), 30, kCurvePoints))};
  if (const RunSummary* run = evaluated_run(g)) {
    figures.push_back(experiment_reliability(g, *run));
    figures.push_back(experiment_matrices(g, *run));
  }
  std::erase_if(figures, [](const ReportFigure& f) { return f.panels.empty(); });
  return figures;
}

}  // namespace kd
