#include "bench/report.h"

#include <algorithm>
#include <cmath>
#include <set>

#include "bench/figures.h"
#include "bench/findings.h"
#include "bench/gallery.h"
#include "bench/png.h"
#include "bench/report_page.h"
#include "bench/svg.h"
#include "engine/base/check.h"

namespace kd {
namespace {

using svg::escape;

// ---- HTML

enum class Sorting { no, yes };
enum class Cells { one_line, wrapped };
constexpr size_t kLongTable = 60;  // rows; longer tables are closed at first, and too long to paste into a paper

// Pages have no carriage returns: where CSV ends a line with two characters they keep one.
std::string csv_of(const Table& table) {
  std::string csv = render(table, Format::csv);
  std::erase(csv, '\r');
  return csv;
}

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
    const bool closed = table.rows.size() > kLongTable;
    if (closed) body_ += fmt::format("<details><summary>All {} rows</summary>\n", table.rows.size());
    body_ += table_html(table, sorting, cells) + "<div class=\"bar\">" + copy_button(csv_of(table), "Copy as CSV") +
             (closed ? std::string() : copy_button(render(table, Format::latex), "Copy as LaTeX")) + "</div>\n";
    if (closed) body_ += "</details>\n";
    for (const std::string& n : table.notes) note(n);
  }

  // With its numbers below it; what is missing is said. Its id is made unique.
  void figure(ReportFigure figure) {
    const std::string wanted = figure.id;
    for (int n = 2; !ids_.insert(figure.id).second; ++n) figure.id = fmt::format("{}_{}", wanted, n);
    body_ += fmt::format("<figure id=\"fig-{}\" data-name=\"{}\" data-columns=\"{}\"", figure.id, figure.id, figure.columns);
    if (figure.panels.size() == 1) body_ += fmt::format(" style=\"width:{:.0f}px\"", std::max(440.0, svg::width_of(figure.panels[0])));
    body_ += fmt::format("{}>\n<figcaption><b>{}</b> <span>{}</span></figcaption>\n", figure.panels.size() == 1 ? "" : " class=\"wide\"", escape(figure.title),
                         escape(figure.panels.empty() ? figure.missing : figure.caption));
    if (!figure.panels.empty()) {
      if (!figure.legend.empty()) body_ += "<div class=\"keys\">" + figure.legend + "</div>\n";
      const bool small = svg::width_of(figure.panels[0]) < 240;
      body_ += fmt::format("<div class=\"panels{}\"{}>\n{}\n</div>\n", small ? " small" : "",
                           figure.least_px > 0 ? fmt::format(" style=\"--least:{:.0f}px\"", figure.least_px) : "", fmt::join(figure.panels, "\n"));
      const std::string copy = fmt::format("copy{}", ++copies_);
      body_ += fmt::format(
          "<div class=\"bar\"><button type=\"button\" data-copy=\"{0}\" hidden>Copy as CSV</button><button type=\"button\" data-save=\"svg\" "
          "hidden>SVG</button>"
          "<button type=\"button\" data-save=\"png\" hidden>PNG</button><details class=\"numbers\"><summary>Numbers</summary><pre "
          "id=\"{0}\">{1}</pre></details></div>\n",
          copy, escape(csv_of(figure.data)));
    }
    body_ += "</figure>\n";
    if (!figure.panels.empty()) figures_.push_back(std::move(figure));
  }
  void figures(std::vector<ReportFigure> all) {
    body_ += "<div class=\"figs\">\n";
    for (ReportFigure& f : all) figure(std::move(f));
    body_ += "</div>\n";
  }
  const std::vector<ReportFigure>& drawn() const { return figures_; }

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
  std::vector<ReportFigure> figures_;
  std::set<std::string> ids_;
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

// ---- sections

// "H2": a question, whose parts are H2.gap and the like. C.random_projection has no whole.
bool is_question(const std::string& id) { return id.find('.') == id.npos || id.starts_with("C."); }

// "H1 supported; H3 supported, contradicted": one word for each student view and kind of runs, in the table's order, once each.
std::string verdicts_in_a_line(const Table& verdicts) {
  size_t id = 0, verdict = 0;
  for (size_t c = 0; c < verdicts.columns.size(); ++c) {
    if (verdicts.columns[c].key == "id") id = c;
    if (verdicts.columns[c].key == "verdict") verdict = c;
  }
  std::vector<std::pair<std::string, std::vector<std::string>>> said;
  for (const auto& row : verdicts.rows) {
    const std::string question = row[id].text, word = row[verdict].text.substr(0, row[verdict].text.find(':'));
    if (question.find('.') != question.npos || word == "not measured") continue;
    auto at = std::find_if(said.begin(), said.end(), [&](const auto& s) { return s.first == question; });
    if (at == said.end()) at = said.insert(at, {question, {}});
    if (std::find(at->second.begin(), at->second.end(), word) == at->second.end()) at->second.push_back(word);
  }
  std::string line;
  for (const auto& [question, words] : said) line += fmt::format("{}{} {}", line.empty() ? "" : "; ", question, fmt::join(words, ", "));
  return line.empty() ? line : line + ".";
}

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
  if (const std::string verdicts = verdicts_in_a_line(findings.hypotheses); !verdicts.empty())
    page.html(fmt::format("<dt>Verdicts</dt><dd>{}</dd>\n", escape(verdicts)));
  page.html("</dl>\n");
}

// The questions first; what they were taken apart into below.
void add_hypotheses(Page& page, const Table& verdicts) {
  Table questions = verdicts, parts = verdicts;
  parts.title = "Their parts";
  parts.notes.clear();
  for (Table* table : {&questions, &parts}) {
    table->group_starts.clear();
    std::erase_if(table->rows, [&](const std::vector<Cell>& row) { return is_question(row[0].text) != (table == &questions); });
  }
  page.section("hypotheses", "Hypotheses");
  page.table(questions, Sorting::no, Cells::wrapped);
  if (parts.rows.empty()) return;
  page.html(fmt::format("<details><summary>The {} rows behind these</summary>\n", parts.rows.size()));
  page.table(parts, Sorting::no, Cells::wrapped);
  page.html("</details>\n");
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
  page.figures(accuracy_figures(groups));
}

void add_fidelity(Page& page, const Groups& groups, const Groups& students) {
  page.section("fidelity", "Fidelity");
  const Table table = fidelity_table(groups);
  if (table.rows.empty()) {
    page.paragraph(students.empty() ? "Fidelity compares a student with its teachers; there is no student here."
                                    : "No student has been evaluated yet; see the command above.");
    return;
  }
  page.figures(fidelity_figures(groups));
  page.table(table);
  const Table other = fidelity_table(groups, "student_view");
  if (!other.rows.empty()) {
    page.html("<details><summary>The same on the student's training view, with one fixed draw of its augmentation</summary>\n");
    page.table(other);
    page.html("</details>\n");
  }
}

void add_calibration(Page& page, const Groups& groups) {
  page.section("calibration", "Calibration");
  page.figures(calibration_figures(groups));
  const Table table = calibration_table(groups);
  if (!table.rows.empty()) page.table(table);
}

// Stands for the gallery until the size of everything else is known. No file can bring it in: text from files is escaped.
constexpr const char* kGalleryMark = "<!--gallery-->";

void add_attention(Page& page, const Groups& groups) {
  page.section("attention", "Attention");
  page.figures(attention_figures(groups));
  const Table table = attention_table(groups);
  if (table.rows.empty()) return;
  page.html("<h3>Every kept image</h3>\n");
  page.html(kGalleryMark);
  page.html("<h3>Overlap of the masks</h3>\n");
  page.table(table);
}

// Each experiment by itself, closed: there may be many.
void add_experiments(Page& page, const Groups& groups) {
  page.section("experiments", "Each experiment");
  for (const RunGroup& g : groups) {
    std::vector<ReportFigure> figures = experiment_figures(g, groups.size());
    if (figures.empty()) continue;
    const Stat top1 = stat_of(g, [](const RunSummary& r) { return r.test_top1_last; });
    page.html(fmt::format("<details class=\"run\"><summary>{} <span>{}, {} view, {}, test {:.2f} %</span></summary>\n", escape(g.label), g.front().kind,
                          escape(g.front().view), g.runs.size() == 1 ? "1 seed" : fmt::format("{} seeds", g.runs.size()), top1.mean));
    page.figures(std::move(figures));
    page.html("</details>\n");
  }
}

// ---- configuration

void add_configuration(Page& page, const Groups& groups, const std::string& runs_dir, const Path& out) {
  page.section("configuration", "Configuration");
  Table table{.title = "Configuration",
              .columns = {{"name", "name"},
                          {"kind", "kind"},
                          {"recipe_id", "recipe"},
                          {"seeds", "seeds"},
                          {"arch", "network"},
                          {"params", "parameters", Column::Kind::number, 0},
                          {"px", "px", Column::Kind::number, 0},
                          {"view", "view"},
                          {"teachers", "teachers"},
                          {"epochs", "epochs", Column::Kind::number, 0},
                          {"select", "selected by"},
                          {"precision", "precision"},
                          {"img_per_s", "images/s", Column::Kind::number, 0}},
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

void write_figures(const std::vector<ReportFigure>& figures, const Path& folder) {
  make_directories(folder);
  for (const ReportFigure& f : figures) {
    const std::string svg = file_svg(f);
    write_atomically(folder / (f.id + ".svg"), svg);
    write_atomically(folder / (f.id + ".csv"), render(f.data, Format::csv));
    if (!draws_png()) continue;
    const std::vector<uint8_t> png = draw_png(svg, 2);
    write_atomically(folder / (f.id + ".png"), [&](FileWriter& out) { out.write(std::span<const uint8_t>(png)); });
  }
}

}  // namespace

int64_t write_report(const Path& runs_dir, const Path& out_html, const Path& figures_dir) {
  const Groups groups = group_runs(find_runs(runs_dir)), students = students_of(groups);
  const Findings findings = findings_of(groups);

  Page head, page;
  add_head(head, groups, findings);
  add_warnings(head, groups, findings);
  add_accuracy(page, groups);
  if (!students.empty()) {
    add_hypotheses(page, findings.hypotheses);
    page.section("diversity", "Accuracy, attention and fidelity");
    page.figures(diversity_figures(groups));
  }
  add_fidelity(page, groups, students);
  add_calibration(page, groups);
  page.section("training", "Training");
  page.figures(training_figures(groups));
  add_attention(page, groups);
  add_experiments(page, groups);
  page.section("cost", "Cost");
  page.figures(cost_figures(groups));
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
    html.replace(at, std::string(kGalleryMark).size(), gallery_html(students.empty() ? groups : students, room));
  }
  if (const Path folder = out_html.parent_path(); !folder.empty()) make_directories(folder);
  write_atomically(out_html, html);
  if (!figures_dir.empty()) write_figures(page.drawn(), figures_dir);
  return int64_t(page.drawn().size());
}

}  // namespace kd
