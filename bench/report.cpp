#include "bench/report.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <nlohmann/json.hpp>
#include <set>

#include "bench/findings.h"
#include "bench/report_page.h"
#include "bench/svg.h"
#include "engine/base/check.h"

namespace kd {
namespace {

using nlohmann::json;
using svg::escape;
using Groups = std::vector<RunGroup>;

constexpr size_t kCurvePoints = 120;  // of a training curve; longer ones are thinned

const char* model_color(const std::string& model) {
  return model == "S" ? svg::kVermilion : model == "T1" ? svg::kBlue : model == "T2" ? svg::kGreen : model == "T3" ? svg::kSky : svg::kPurple;
}

// ---- HTML

enum class Sorting { no, yes };
enum class Cells { one_line, wrapped };

class Page {
 public:
  void section(const std::string& id, const std::string& title) {
    close_section();
    nav_ += fmt::format("<a href=\"#{}\">{}</a>\n", id, escape(title));
    body_ += fmt::format("<section id=\"{}\">\n<h2>{}</h2>\n", id, escape(title));
    open_ = true;
  }
  void close_section() {
    if (open_) body_ += "</section>\n";
    open_ = false;
  }
  void html(const std::string& text) { body_ += text; }
  void paragraph(const std::string& text) { body_ += "<p>" + escape(text) + "</p>\n"; }
  void note(const std::string& text) { body_ += "<p class=\"note\">" + escape(text) + "</p>\n"; }
  void command(const std::string& text) { body_ += "<pre>" + escape(text) + "</pre>\n"; }

  void table(const Table& table, Sorting sorting = Sorting::yes, Cells cells = Cells::one_line) {
    // Ahead of the numbers: a long table would hide it.
    if (!table.caveat.empty()) body_ += "<p class=\"caveat\">" + escape(table.caveat) + "</p>\n";
    body_ += table_html(table, sorting, cells) + "<div class=\"bar\">" + copy_button(render(table, Format::csv), "Copy as CSV") +
             copy_button(render(table, Format::latex), "Copy as LaTeX") + "</div>\n";
    for (const std::string& n : table.notes) note(n);
  }

  // A drawing with its caption, and its numbers below it.
  void figure(const std::string& title, const std::string& caption, const std::string& drawing, const Table& data, const char* style = "") {
    body_ += fmt::format("<figure{}>\n<figcaption><b>{}</b> <span>{}</span></figcaption>\n{}\n", style, escape(title), escape(caption), drawing) +
             data_of(data) + "</figure>\n";
  }
  // The numbers of figures that share them.
  std::string data_of(const Table& data) {
    return "<details><summary>Numbers</summary>" + table_html(data, Sorting::no, Cells::one_line) + "<div class=\"bar\">" +
           copy_button(render(data, Format::csv), "Copy as CSV") + "</div></details>\n";
  }

  const std::string& body() const { return body_; }
  const std::string& nav() const { return nav_; }

 private:
  static std::string table_html(const Table& table, Sorting sorting, Cells cells) {
    auto align = [](const Column& c) { return c.kind == Column::Kind::text ? "" : " class=\"r\""; };
    std::string out =
        fmt::format("<div class=\"scroll\"><table class=\"{}{}\"><thead><tr>", sorting == Sorting::yes ? "sort " : "", cells == Cells::wrapped ? "wrap" : "");
    for (const Column& c : table.columns) out += fmt::format("<th scope=\"col\"{}>{}</th>", align(c), escape(c.name));
    out += "</tr></thead>\n<tbody>\n";
    const std::set<size_t> starts(table.group_starts.begin(), table.group_starts.end());
    for (size_t r = 0; r < table.rows.size(); ++r) {
      if (r > 0 && starts.count(r)) out += "</tbody><tbody>\n";
      out += "<tr>";
      for (size_t c = 0; c < table.columns.size(); ++c) {
        const std::string text = escape(shown(table.columns[c], table.rows[r][c]));
        out += fmt::format("<td{}>{}</td>", align(table.columns[c]), is_best(table, r, c) ? fmt::format("<b>{}</b>", text) : text);
      }
      out += "</tr>\n";
    }
    return out + "</tbody></table></div>\n";
  }

  std::string copy_button(const std::string& text, const char* label) {
    ++copies_;
    return fmt::format("<button type=\"button\" data-copy=\"copy{0}\" hidden>{1}</button><pre id=\"copy{0}\" hidden>{2}</pre>", copies_, label, escape(text));
  }

  std::string body_, nav_;
  bool open_ = false;
  int64_t copies_ = 0;
};

// Numbers stay on one line with their spread and their unit.
std::string unbroken(std::string text) {
  for (const char* word : {" ±", " %", "± "})
    for (size_t at = 0; (at = text.find(word, at)) != text.npos; at += 2) text.replace(text.find(' ', at), 1, "\u00a0");
  return text;
}

std::string shell_word(const std::string& word) {
  if (!word.empty() && word.find_first_not_of("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_./=:,+-") == word.npos) return word;
  std::string quoted = "'";
  for (char c : word) quoted += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return quoted + "'";
}

Column text_column(const char* key, const char* name) { return {key, name}; }
Column number_column(const std::string& key, const std::string& name, int decimals) { return {key, name, Column::Kind::number, decimals}; }

bool is_student(const RunGroup& g) { return g.front().kind == "student"; }
Groups students_of(const Groups& groups) {
  Groups out;
  std::copy_if(groups.begin(), groups.end(), std::back_inserter(out), is_student);
  return out;
}
const RunSummary* evaluated_run(const RunGroup& g) {
  for (const RunSummary& r : g.runs)
    if (r.evaluated) return &r;
  return nullptr;
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
      out.data.rows[i].push_back({stats[i][m].mean, stats[i][m].sd});
    }
  }
  return out;
}

constexpr const char* kWhiskers = "Whiskers: sample standard deviation over seeds.";

// ---- sections

void add_head(Page& page, const Groups& groups, const Findings& findings) {
  std::set<std::string> datasets;
  size_t runs = 0, teachers = 0, baselines = 0, students = 0;
  for (const RunGroup& g : groups) {
    const RunSummary& r = g.front();
    datasets.insert(fmt::format("{} ({} classes, {} training and {} test images)", r.dataset, r.classes, r.train_images, r.test_images));
    runs += g.runs.size();
    (r.kind == "teacher" ? teachers : r.kind == "baseline" ? baselines : students) += 1;
  }
  auto count = [](size_t n, const char* what) { return fmt::format("{} {}{}", n, what, n == 1 ? "" : "s"); };
  page.html(fmt::format("<h1>Distillation report</h1>\n<p class=\"lead\">{} of {}, {} and {} on {}.</p>\n", count(runs, "run"), count(teachers, "teacher"),
                        count(baselines, "baseline"), count(students, "student"), escape(fmt::format("{}", fmt::join(datasets, "; ")))));
  page.html("<dl class=\"says\">\n");
  for (const Findings::Sentence& s : findings.sentences) page.html(fmt::format("<dt>{}</dt><dd>{}</dd>\n", escape(s.topic), unbroken(escape(s.text))));
  page.html("</dl>\n");
}

void add_warnings(Page& page, const Groups& groups, const Findings& findings) {
  std::vector<std::string> warnings = findings.warnings;
  std::vector<std::string> unevaluated;
  for (const RunGroup& g : groups)
    for (const RunSummary& r : g.runs) {
      if (!r.evaluated) unevaluated.push_back(shell_word(r.dir.string()));
      if (!std::filesystem::exists(r.dir / "metrics.jsonl"))
        warnings.push_back(fmt::format("{} is missing, so this run has no training curves.", (r.dir / "metrics.jsonl").string()));
    }
  if (warnings.empty() && unevaluated.empty()) return;
  page.html("<div class=\"warn\"><b>Before you rely on this</b>\n<ul>\n");
  for (const std::string& warning : warnings) page.html("<li>" + escape(warning) + "</li>\n");
  if (!unevaluated.empty())
    page.html(fmt::format(
        "<li>Without analysis/eval.json a run has no fidelity, calibration or attention. For {} of the runs, make it with<br><code>{}</code></li>\n",
        unevaluated.size(), escape(fmt::format("kd_bench eval {}", fmt::join(unevaluated, " ")))));
  page.html("</ul></div>\n");
}

void add_accuracy(Page& page, const Groups& groups) {
  page.section("accuracy", "Accuracy");
  page.table(accuracy_table(groups));

  const Compared c = compare(groups, "Accuracy", 2,
                             {{"test_top1_last", "test, last", svg::kBlue, [](const RunSummary& r) { return r.test_top1_last; }},
                              {"test_top1_selected", "test, selected", svg::kVermilion, [](const RunSummary& r) { return r.test_top1_selected; }},
                              {"train_top1_last", "train, last", svg::kSky, [](const RunSummary& r) { return r.train_top1_last; }}});
  page.html("<div class=\"figs\">\n");
  page.figure("Top-1 accuracy", std::string("Test view. ") + kWhiskers,
              svg::dot_plot({.label = "Top-1 accuracy of every experiment, on test and training images", .width = 480}, {"top-1 %"}, c.labels, c.series, 2),
              c.data, " style=\"width:480px\"");
  page.html("</div>\n");
}

void add_scatter(Page& page, const Groups& students) {
  struct Axis {
    const char *title, *key, *label;
    double (*get)(const RunSummary&);
  };
  const Axis axes[] = {
      {"Accuracy and attention overlap", "iou_t1_t2", "IoU(T1,T2)", [](const RunSummary& r) { return map_number(r, main_map(r), &MapEval::iou, "T1-T2"); }},
      {"Accuracy and fidelity", "agreement", "agreement with the teachers",
       [](const RunSummary& r) {
         const double ensemble = pair_number(r, "test", "Ens-S", "agreement");
         return std::isfinite(ensemble) ? ensemble : pair_number(r, "test", "T1-S", "agreement");
       }},
  };
  page.section("diversity", "Accuracy, attention and fidelity");
  bool strong_view = false;
  page.html("<div class=\"figs\">\n");
  for (const Axis& axis : axes) {
    std::vector<svg::Point> points;
    std::vector<double> xs, ys;
    Table data{.title = axis.title,
               .columns = {text_column("name", "name"), {axis.key, axis.label, Column::Kind::spread, 3}, {"test_top1", "test %", Column::Kind::spread, 2}}};
    for (const RunGroup& g : students) {
      const Stat x = stat_of(g, axis.get), y = stat_of(g, [](const RunSummary&r) { return r.test_top1_last; });
      if (x.n == 0 || y.n == 0) continue;
      const auto& teachers = g.front().teachers;
      const auto strong = std::count_if(teachers.begin(), teachers.end(), [](const std::string& t) { return !t.empty() && t.back() == 's'; });
      const svg::Mark mark = strong == 0 ? svg::Mark::circle : strong == int64_t(teachers.size()) ? svg::Mark::diamond : svg::Mark::square;
      const bool on_strong = g.front().view == "strong";
      strong_view |= on_strong;
      points.push_back({g.label, on_strong ? svg::kVermilion : svg::kBlue, x.mean, y.mean, x.sd, y.sd, mark});
      xs.push_back(x.mean), ys.push_back(y.mean);
      data.rows.push_back({g.label, Cell(x.mean, x.sd), Cell(y.mean, y.sd)});
    }
    if (points.size() < 3) {
      page.html(fmt::format("<p class=\"note\">{} needs three evaluated students; here are {}.</p>\n", axis.title, points.size()));
      continue;
    }
    const double rho = spearman(xs, ys);
    const auto [lo, hi] = spearman_interval(rho, xs.size());
    const std::string correlation = !std::isfinite(rho) ? ""
                                    : !std::isfinite(lo)
                                        ? fmt::format("Spearman ρ = {:+.2f} over {} students.", rho, xs.size())
                                        : fmt::format("Spearman ρ = {:+.2f} (95 % interval {:+.2f} to {:+.2f}) over {} students.", rho, lo, hi, xs.size());
    page.figure(axis.title, correlation, svg::scatter_plot({.label = axis.title, .height = 320}, {axis.label}, {"test top-1 %"}, points), data);
  }
  page.html("</div>\n");
  page.note(
      fmt::format("Blue: the student sees weakly augmented images{}. Circle: all its teachers were trained on weak views; square: some; diamond: none. "
                  "Whiskers: sample standard deviation "
                  "over seeds.",
                  strong_view ? "; vermilion: strongly augmented ones" : ""));
}

// Agreement and divergence between all models of one experiment.
void add_matrices(Page& page, const RunGroup& group) {
  const ViewEval* view = nullptr;
  for (const RunSummary& r : group.runs)
    if (auto it = r.views.find("test"); it != r.views.end() && !view) view = &it->second;
  if (!view || view->models.size() < 2) return;
  std::vector<std::string> models;
  for (const auto& [name, eval] : view->models)
    if (name != "Ens" && name != "S") models.push_back(name);
  for (const char* name : {"Ens", "S"})
    if (view->models.count(name)) models.push_back(name);
  std::vector<double> agreement, divergence;
  double largest = 0;
  Table data{.title = "Pairs",
             .columns = {text_column("a", "A"), text_column("b", "B"), number_column("agreement", "agreement", 3), number_column("kl_ab", "KL(A‖B)", 3)}};
  for (const std::string& a : models)
    for (const std::string& b : models) {
      auto mean = [&](const char* forward, const char* backward) {
        return stat_of(group,
                       [&](const RunSummary& r) {
                         const double value = pair_number(r, "test", a + "-" + b, forward);
                         return std::isfinite(value) ? value : pair_number(r, "test", b + "-" + a, backward);
                       })
            .mean;
      };
      agreement.push_back(a == b ? 1 : mean("agreement", "agreement"));
      divergence.push_back(a == b ? 0 : mean("kl_ab", "kl_ba"));
      if (std::isfinite(divergence.back())) largest = std::max(largest, divergence.back());
      if (a != b) data.rows.push_back({a, b, agreement.back(), divergence.back()});
    }
  const double size = 60 + 58 * double(models.size()), height = 26 + 40 * double(models.size());
  page.html("<div class=\"figs\">\n");
  page.figure("Agreement", "Share of test images with the same answer.",
              svg::heat_map({"Agreement between the models of " + group.label, size, height}, models, models, agreement, 0.0, 1.0, 3), data);
  page.figure("KL(row‖column)", "Nats, temperature 1.",
              svg::heat_map({"Divergence between the models of " + group.label, size, height}, models, models, divergence, 0.0, std::max(largest, 1e-9), 3),
              data);
  page.html("</div>\n");
}

// One <details> for each group for which `has` holds, the first one open.
template <class Has, class Fill>
void add_each(Page& page, const Groups& groups, Has has, Fill fill) {
  bool first = true;
  for (const RunGroup& g : groups) {
    if (!has(g)) continue;
    page.html(fmt::format("<details class=\"run\"{}><summary>{}</summary>\n", first ? " open" : "", escape(g.label)));
    fill(g);
    page.html("</details>\n");
    first = false;
  }
}

void add_fidelity(Page& page, const Groups& groups, const Groups& students) {
  page.section("fidelity", "Fidelity");
  const Table table = fidelity_table(groups);
  if (table.rows.empty()) {
    page.paragraph(students.empty() ? "Fidelity compares a student with its teachers; there is no student here."
                                    : "No student has been evaluated yet; see the command above.");
    return;
  }
  std::vector<Measure> measures;
  for (auto [pair, color] : {std::pair{"T1-S", svg::kBlue}, {"T2-S", svg::kGreen}, {"T3-S", svg::kSky}, {"Ens-S", svg::kPurple}, {"T1-T2", svg::kOrange}}) {
    std::string name = pair;
    name.replace(name.find('-'), 1, "–");
    measures.push_back({pair, name, color, [key = std::string(pair)](const RunSummary& r) { return pair_number(r, "test", key, "agreement"); }});
  }
  const Compared c = compare(students, "Agreement", 3, measures);
  page.html("<div class=\"figs\">\n");
  page.figure("Agreement", std::string("Share of the test images on which two models give the same answer. ") + kWhiskers,
              svg::dot_plot({.label = "Agreement of students with their teachers", .width = 480}, {"agreement"}, c.labels, c.series, 3), c.data,
              " style=\"width:480px\"");
  page.html("</div>\n");
  page.table(table);
  const Table other = fidelity_table(groups, "student_view");
  if (!other.rows.empty()) {
    page.html("<details><summary>The same on the student's training view, with one fixed draw of its augmentation</summary>\n");
    page.table(other);
    page.html("</details>\n");
  }
  page.html("<h3>Between all models of an experiment</h3>\n");
  add_each(
      page, students, [](const RunGroup& g) { return evaluated_run(g) != nullptr; }, [&](const RunGroup& g) { add_matrices(page, g); });
}

void add_calibration(Page& page, const Groups& groups, const Groups& students) {
  page.section("calibration", "Calibration");
  const Table table = calibration_table(groups);
  if (table.rows.empty()) {
    page.paragraph("No run has been evaluated yet; see the command above.");
    return;
  }
  page.html("<h3>Reliability diagrams</h3>\n");
  page.note(
      "A calibrated model's bars end on the dashed diagonal; the hatched part is the gap between accuracy and mean confidence of a bin. Below: how many test "
      "images fall "
      "into each bin. One seed is drawn, the first evaluated one.");
  const Groups& drawn = students.empty() ? groups : students;
  add_each(
      page, drawn, [](const RunGroup& g) { return evaluated_run(g) && evaluated_run(g)->views.count("test"); },
      [&](const RunGroup& g) {
        const RunSummary& run = *evaluated_run(g);
        const auto& models = run.views.at("test").models;
        std::vector<std::string> names{"S"};
        for (const auto& [name, eval] : models)
          if (name != "S" && name != "Ens") names.push_back(name);
        names.push_back("Ens");
        Table data{.title = "Reliability",
                   .columns = {text_column("model", "model"), number_column("bin", "bin", 0), number_column("n", "n", 0), number_column("acc", "accuracy", 4),
                               number_column("conf", "confidence", 4)}};
        std::string panels;
        for (const std::string& name : names) {
          auto it = models.find(name);
          if (it == models.end() || it->second.reliability.empty()) continue;
          std::vector<svg::ReliabilityBar> bars;
          for (const ReliabilityBin& b : it->second.reliability) {
            bars.push_back({b.index, b.n, b.acc, b.conf});
            data.rows.push_back({name, double(b.index), double(b.n), b.acc, b.conf});
          }
          const size_t teacher = name.size() == 2 && name[0] == 'T' && name[1] >= '1' && name[1] <= '9' ? size_t(name[1] - '0') : 0;
          const std::string who = name == "S"                                      ? (run.kind == "student" ? "Student" : "Model")
                                  : name == "Ens"                                  ? "Ensemble"
                                  : teacher >= 1 && teacher <= run.teachers.size() ? fmt::format("{}: {}", name, run.teachers[teacher - 1])
                                                                                   : name;
          panels += fmt::format("<div class=\"panel\"><h4>{} <span>ECE {:.3f}</span></h4>{}</div>\n", escape(who), model_number(run, "test", name, "ece"),
                                svg::reliability_diagram({"Reliability of " + who + " in " + g.label, 228, 0}, model_color(name), bars, 10));
        }
        page.html(fmt::format("<figure class=\"wide\"><figcaption><span>seed {}</span></figcaption><div class=\"panels\">\n{}</div>{}</figure>\n", run.seed,
                              panels, page.data_of(data)));
      });
  page.html("<h3>All models</h3>\n");
  std::vector<Measure> measures;
  for (const char* model : {"S", "T1", "T2", "T3", "Ens"})
    measures.push_back({model, model, model_color(model), [model](const RunSummary& r) { return model_number(r, "test", model, "ece"); }});
  const Compared c = compare(drawn, "Expected calibration error", 4, measures);
  page.html("<div class=\"figs\">\n");
  page.figure("Expected calibration error", std::string("10 bins weighted by count, test view. ") + kWhiskers,
              svg::bar_chart({.label = "Expected calibration error of students, teachers and ensembles", .width = 480}, {"ECE"}, c.labels, c.series, 3), c.data,
              " style=\"width:480px\"");
  page.html("</div>\n");
  page.table(table);
}

// ---- training curves

struct Curve {
  std::vector<double> epoch, mean, lo, hi;  // lo and hi: the lowest and the highest seed; empty for one seed
  bool known() const {
    return std::any_of(mean.begin(), mean.end(), [](double v) { return std::isfinite(v); });
  }
};

Curve curve_of(const std::vector<std::vector<Epoch>>& seeds, double Epoch::*what) {
  std::map<int64_t, std::vector<double>> by_epoch;
  for (const auto& epochs : seeds)
    for (const Epoch& e : epochs)
      if (std::isfinite(e.*what)) by_epoch[e.epoch].push_back(e.*what);
  Curve curve;
  const size_t stride = (by_epoch.size() + kCurvePoints - 1) / std::max<size_t>(kCurvePoints, 1);
  size_t i = 0;
  for (const auto& [epoch, values] : by_epoch) {
    if (++i != by_epoch.size() && (i - 1) % std::max<size_t>(stride, 1) != 0) continue;
    curve.epoch.push_back(double(epoch));
    curve.mean.push_back(stat_of(values).mean);
    if (seeds.size() > 1) {
      curve.lo.push_back(*std::min_element(values.begin(), values.end()));
      curve.hi.push_back(*std::max_element(values.begin(), values.end()));
    }
  }
  return curve;
}

svg::Line line_of(const std::string& name, const char* color, const Curve& c, svg::Stroke stroke = svg::Stroke::solid) {
  return {name, color, c.epoch, c.mean, c.lo, c.hi, stroke};
}

void add_training(Page& page, const Groups& groups) {
  page.section("training", "Training");
  std::vector<std::vector<std::vector<Epoch>>> records;  // [group][seed]
  for (const RunGroup& g : groups) {
    records.emplace_back();
    for (const RunSummary& r : g.runs)
      if (auto epochs = read_epochs(r); !epochs.empty()) records.back().push_back(std::move(epochs));
  }
  if (std::all_of(records.begin(), records.end(), [](const auto& seeds) { return seeds.empty(); })) {
    page.paragraph("No run has a metrics.jsonl with epochs, so there are no training curves.");
    return;
  }

  constexpr size_t kLines = 12;
  const bool all = groups.size() <= kLines;
  std::vector<svg::Line> lines;
  Table data{.title = "Test accuracy by epoch",
             .columns = {text_column("name", "name"), number_column("epoch", "epoch", 0), number_column("test_top1", "test %", 2)}};
  for (size_t i = 0; i < groups.size() && lines.size() < kLines; ++i) {
    if (!all && !is_student(groups[i])) continue;
    const Curve c = curve_of(records[i], &Epoch::test_top1);
    if (!c.known()) continue;
    lines.push_back(line_of(groups[i].label, svg::color(lines.size()), c, lines.size() >= 6 ? svg::Stroke::dashed : svg::Stroke::solid));
    for (size_t k = 0; k < c.epoch.size(); ++k) data.rows.push_back({groups[i].label, c.epoch[k], c.mean[k]});
  }
  page.html("<div class=\"figs\">\n");
  if (!lines.empty())
    page.figure("Test accuracy by epoch",
                all ? "Mean over seeds; band: lowest to highest seed." : "The first twelve students; mean over seeds; band: lowest to highest seed.",
                svg::line_chart({.label = "Test accuracy by epoch", .width = 480, .height = 300}, {"epoch"}, {"test top-1 %"}, lines), data,
                " style=\"width:480px\"");
  page.html("</div>\n");

  size_t at = 0;
  add_each(
      page, groups, [&](const RunGroup& g) { return !records[size_t(&g - groups.data())].empty(); },
      [&](const RunGroup& g) {
        at = size_t(&g - groups.data());
        const auto& seeds = records[at];
        const std::pair<const char*, double Epoch::*> kColumns[] = {{"lr", &Epoch::lr},
                                                                    {"loss", &Epoch::loss},
                                                                    {"ce", &Epoch::ce},
                                                                    {"kd", &Epoch::kd},
                                                                    {"train_top1", &Epoch::train_top1},
                                                                    {"holdout_top1", &Epoch::holdout_top1},
                                                                    {"test_top1", &Epoch::test_top1}};
        Table numbers{.title = "Training of " + g.label, .columns = {number_column("epoch", "epoch", 0)}};
        std::map<double, std::vector<Cell>> rows;
        std::map<std::string, Curve> curves;
        for (const auto& [key, what] : kColumns) {
          const Curve& c = curves[key] = curve_of(seeds, what);
          if (!c.known()) continue;
          numbers.columns.push_back(number_column(key, key, key == std::string("lr") ? 5 : key[1] == 'r' || key[0] == 'h' || key[1] == 'e' ? 2 : 4));
          for (size_t k = 0; k < c.epoch.size(); ++k) {
            auto& row = rows[c.epoch[k]];
            row.resize(numbers.columns.size() - 2, kNotMeasured);
            row.push_back(c.mean[k]);
          }
        }
        for (auto& [epoch, cells] : rows) {
          cells.resize(numbers.columns.size() - 1, kNotMeasured);
          cells.insert(cells.begin(), epoch);
          numbers.rows.push_back(cells);
        }
        auto chart = [&](const char* title, const char* caption, const char* y, const std::vector<svg::Line>& drawn, const svg::Axis& axis) {
          std::vector<svg::Line> known;
          for (const svg::Line& l : drawn)
            if (!l.x.empty()) known.push_back(l);
          if (!known.empty())
            page.html(fmt::format("<figure style=\"width:320px\"><figcaption><b>{}</b> <span>{}</span></figcaption>{}</figure>\n", title, caption,
                                  svg::line_chart({fmt::format("{} of {}", y, g.label), 320, 230}, {"epoch"}, axis, known)));
        };
        const Curve& kd = curves["kd"];
        const bool distilled = std::any_of(kd.mean.begin(), kd.mean.end(), [](double v) { return v > 0; });
        page.html("<div class=\"figs\">\n");
        chart("Accuracy", "", "Accuracy",
              {line_of("train", svg::kSky, curves["train_top1"]), line_of("holdout", svg::kGreen, curves["holdout_top1"]),
               line_of("test", svg::kVermilion, curves["test_top1"])},
              {"top-1 %"});
        std::vector<svg::Line> losses{line_of("loss", svg::kBlue, curves["loss"])};
        if (distilled) losses.insert(losses.end(), {line_of("cross-entropy", svg::kOrange, curves["ce"]), line_of("distillation", svg::kPurple, kd)});
        chart("Loss", "", "Loss", losses, {"loss", 0, kNotMeasured});
        chart("Learning rate", "", "Learning rate", {line_of("lr", svg::kGreen, curves["lr"])}, {"learning rate", 0, kNotMeasured});
        page.html("</div>\n" + page.data_of(numbers));
      });
  page.note(
      "Training accuracy here is counted while the weights change and on augmented images; the table at the top measures it afterwards on the test view.");
}

// ---- attention

std::string base64(const std::vector<uint8_t>& bytes) {
  constexpr char kDigits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string out;
  for (size_t i = 0; i < bytes.size(); i += 3) {
    uint32_t bits = 0;
    for (size_t k = 0; k < 3; ++k) bits = bits << 8 | (i + k < bytes.size() ? bytes[i + k] : 0u);
    for (size_t k = 0; k < 4; ++k) out += i + k <= bytes.size() ? kDigits[bits >> (18 - 6 * k) & 63] : '=';
  }
  return out;
}

// Area averages, for pictures that are larger than they will be drawn.
std::vector<uint8_t> thumbnail(const std::vector<uint8_t>& image, int64_t px) {
  constexpr int64_t kLargest = 96;
  if (px <= kLargest) return image;
  std::vector<uint8_t> out;
  for (int64_t y = 0; y < kLargest; ++y)
    for (int64_t x = 0; x < kLargest; ++x)
      for (int64_t c = 0; c < 3; ++c) {
        int64_t sum = 0, count = 0;
        for (int64_t v = y * px / kLargest; v < (y + 1) * px / kLargest; ++v)
          for (int64_t u = x * px / kLargest; u < (x + 1) * px / kLargest; ++u) sum += image[size_t((v * px + u) * 3 + c)], ++count;
        out.push_back(uint8_t((sum + count / 2) / count));
      }
  return out;
}

std::string packed_bits(const std::vector<uint8_t>& mask) {
  std::vector<uint8_t> bits((mask.size() + 7) / 8);
  for (size_t i = 0; i < mask.size(); ++i) bits[i / 8] |= uint8_t((mask[i] != 0) << (i % 8));
  return base64(bits);
}

// What the page's script draws from. Runs that show the same images share them.
class GalleryData {
 public:
  // Adds a run's gallery unless that would need more than `room` bytes in all; says whether it did.
  bool add(const std::string& label, const Gallery& gallery, size_t room) {
    std::vector<std::string> models;
    for (const GalleryModel& m : gallery.items[0].models)
      if (m.name != "S") models.push_back(m.name);
    models.push_back("S");
    json items = json::array();
    std::map<std::string, size_t> fresh;
    size_t added = 0;
    for (const GalleryItem& item : gallery.items) {
      json maps = json::object();
      for (const GalleryModel& m : item.models) {
        json values = json::array();
        for (float v : m.map) values.push_back(json::parse(fmt::format("{}", v)));  // as short as a float allows
        maps[m.name] = {{"pred", m.pred}, {"conf", std::isfinite(m.conf) ? json(std::round(m.conf * 1e4) / 1e4) : json()}, {"side", m.side}, {"map", values}};
      }
      if (!std::all_of(models.begin(), models.end(), [&](const std::string& name) { return maps.contains(name); })) continue;
      const std::string image = base64(thumbnail(item.image, gallery.px));
      if (!known_.count(image) && fresh.emplace(image, known_.size() + fresh.size()).second) added += image.size() + 4;
      json entry{{"index", item.index}, {"label", item.label}, {"image", known_.count(image) ? known_[image] : fresh[image]}, {"models", maps}};
      if (!item.truth.empty()) entry["truth"] = packed_bits(item.truth);
      items.push_back(std::move(entry));
    }
    if (items.empty()) return true;
    const json entry{{"px", gallery.px}, {"models", models}, {"class_names", gallery.class_names}, {"items", items}};
    added += entry.dump().size() + 8;
    if (size_ + added > room) return false;
    size_ += added;
    galleries_.push_back(entry);
    labels_.push_back(label);
    images_.resize(known_.size() + fresh.size());
    for (const auto& [image, at] : fresh) images_[at] = image;
    known_.insert(fresh.begin(), fresh.end());
    return true;
  }
  const std::vector<std::string>& labels() const { return labels_; }
  // For a <script> element: "<" could end it.
  std::string text() const {
    const std::string plain = json{{"images", images_}, {"galleries", galleries_}}.dump();
    std::string out;
    for (char c : plain) c == '<' ? out += "\\u003c" : out += c;
    return out;
  }

 private:
  json galleries_ = json::array();
  std::vector<std::string> labels_, images_;
  std::map<std::string, size_t> known_;  // base64 of a picture -> its place in images_
  size_t size_ = 0;
};

// Stands for the gallery until the size of everything else is known. No file can bring it in: text from files is escaped.
constexpr const char* kGalleryMark = "<!--gallery-->";

// At most about `room` bytes.
std::string gallery_html(const Groups& groups, const Groups& students, size_t room) {
  GalleryData galleries;
  std::vector<std::string> left_out;
  double threshold = 0.4;
  std::string kind;
  for (const RunGroup& g : students.empty() ? groups : students) {
    const RunSummary* run = evaluated_run(g);
    if (!run) continue;
    const Gallery gallery = read_gallery(*run);
    if (gallery.items.empty()) continue;
    if (!galleries.add(fmt::format("{}, seed {}", g.label, run->seed), gallery, room - std::min<size_t>(room, 10'000))) left_out.push_back(g.label);
    if (std::isfinite(run->map_threshold)) threshold = run->map_threshold;
    kind = gallery.kind;
  }
  std::string out;
  if (!galleries.labels().empty()) {
    std::string runs;
    for (size_t i = 0; i < galleries.labels().size(); ++i) runs += fmt::format("<option value=\"{}\">{}</option>", i, escape(galleries.labels()[i]));
    constexpr const char* kControls = R"(<p>Where each model finds the evidence for its answer ({0} maps). The coloured outline is the mask above the threshold;
the white one, where the data know it, is the object. Move the threshold: masks and IoU follow.</p>
<div class="tools" id="gallery-tools" hidden>
<label>Run <select id="gallery-run">{1}</select></label>
<label>Show <select id="gallery-filter"><option value="all">all images</option><option value="wrong">student wrong</option><option value="differ">models disagree</option></select></label>
<label>Layer <select id="gallery-layer"><option value="heat">heat and mask</option><option value="mask">mask only</option></select></label>
<label>Threshold <input id="gallery-threshold" type="range" min="0.05" max="0.95" step="0.01" value="{2:.2f}"> <output id="gallery-value" for="gallery-threshold"></output></label>
</div>
<p class="note" id="gallery-mean" aria-live="polite"></p>
<div class="cards" id="gallery"><noscript>The gallery is drawn by a script, which this browser does not run.</noscript></div>
<script type="application/json" id="gallery-data">{3}</script>
)";
    out += fmt::format(fmt::runtime(kControls), escape(kind), runs, threshold, galleries.text());
  }
  if (!left_out.empty())
    out += fmt::format(
        "<p class=\"note\">To keep this file below {} MB the galleries of {} were left out; a report of such a run's own folder shows its gallery.</p>\n",
        kReportBytes / 1'000'000, escape(fmt::format("{}", fmt::join(left_out, ", "))));
  return out;
}

void add_attention(Page& page, const Groups& groups) {
  page.section("attention", "Attention");
  const Table table = attention_table(groups);
  if (table.rows.empty()) {
    page.paragraph("No run has been evaluated yet; see the command above.");
    return;
  }
  page.html(kGalleryMark);
  page.html("<h3>Overlap of the masks</h3>\n");
  page.table(table);
}

// ---- configuration

void add_configuration(Page& page, const Groups& groups, const std::string& runs_dir, const Path& out) {
  page.section("configuration", "Configuration");
  Table table{.title = "Configuration",
              .columns = {text_column("name", "name"), text_column("kind", "kind"), text_column("recipe_id", "recipe"), text_column("seeds", "seeds"),
                          text_column("arch", "network"), number_column("params", "parameters", 0), number_column("px", "px", 0), text_column("view", "view"),
                          text_column("teachers", "teachers"), number_column("epochs", "epochs", 0), text_column("select", "selected by"),
                          text_column("precision", "precision"), number_column("img_per_s", "images/s", 0)},
              .notes = {"One row for each experiment, from its first seed; images/s: mean over seeds, evaluation included. Teachers and student see the same "
                        "augmented images, in the student's view."}};
  for (const RunGroup& g : groups) {
    const RunSummary& r = g.front();
    std::set<std::string> recipes;
    std::vector<int64_t> numbers;
    for (const RunSummary& run : g.runs) recipes.insert(run.recipe_id), numbers.push_back(run.seed);
    table.rows.push_back({g.label, r.kind, recipes.size() == 1 ? *recipes.begin() : fmt::format("{} (first of {})", r.recipe_id, recipes.size()),
                          fmt::format("{}", fmt::join(numbers, ", ")), fmt::format("{}, {} stem, width {:g}", r.arch, r.stem, r.width), double(r.params),
                          double(r.px), r.view, fmt::format("{}", fmt::join(r.teachers, ", ")), double(r.epochs), r.select, r.precision,
                          stat_of(g, [](const RunSummary& run) { return run.img_per_s; }).mean});
  }
  page.table(table);

  page.section("reproduce", "How to reproduce");
  std::vector<std::string> commands;
  std::string dirs;
  for (const RunGroup& g : groups)
    for (const RunSummary& r : g.runs) {
      if (!r.command.empty() && std::find(commands.begin(), commands.end(), r.command) == commands.end()) commands.push_back(r.command);
      dirs += " \\\n  " + shell_word(r.dir.string());
    }
  page.paragraph(
      "The commands that made these runs, teachers first. A finished run is left alone and an unfinished one goes on, so all of this can be run again. Each "
      "run directory keeps its full recipe in config.yaml.");
  if (!commands.empty()) page.command(fmt::format("{}", fmt::join(commands, "\n")));
  page.paragraph("Evaluation and this report:");
  page.command(fmt::format("kd_bench eval{}\nkd_bench report {} -o {}", dirs, shell_word(runs_dir), shell_word(out.string())));
}

}  // namespace

void write_report(const Path& runs_dir, const Path& out_html) {
  const Groups groups = group_runs(find_runs(runs_dir)), students = students_of(groups);
  const Findings findings = findings_of(groups);

  Page head, page;
  add_head(head, groups, findings);
  add_warnings(head, groups, findings);
  add_accuracy(page, groups);
  if (!students.empty()) {
    page.section("hypotheses", "Hypotheses");
    page.table(findings.hypotheses, Sorting::no, Cells::wrapped);
    if (students.size() >= 3) add_scatter(page, students);
  }
  add_fidelity(page, groups, students);
  add_calibration(page, groups, students);
  add_training(page, groups);
  add_attention(page, groups);
  add_configuration(page, groups, runs_dir.string(), out_html);
  page.close_section();

  std::string html =
      "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\n";
  html +=
      fmt::format("<title>Distillation report: {}</title>\n<style>{}</style>\n</head>\n<body>\n<main>\n", escape(runs_dir.filename().string()), kReportStyle);
  html += head.body() + "<nav aria-label=\"Sections\">\n" + page.nav() + "</nav>\n" + page.body();
  html += fmt::format("</main>\n<script>{}</script>\n</body>\n</html>\n", kReportScript);
  if (const size_t at = html.find(kGalleryMark); at != html.npos) {
    const size_t used = html.size(), room = size_t(kReportBytes) - std::min(size_t(kReportBytes), used);
    html.replace(at, std::string(kGalleryMark).size(), gallery_html(groups, students, room));
  }
  if (const Path folder = out_html.parent_path(); !folder.empty()) make_directories(folder);
  write_atomically(out_html, html);
}

}  // namespace kd
