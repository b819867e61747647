#include "bench/table.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <set>
#include <tuple>

#include "engine/base/check.h"

namespace kd {
namespace {

// ---- characters

struct Letter {
  uint32_t code;
  std::string_view bytes;
};

std::vector<Letter> letters_of(std::string_view text) {
  std::vector<Letter> letters;
  for (size_t i = 0; i < text.size();) {
    const auto lead = static_cast<unsigned char>(text[i]);
    size_t length = lead < 0x80 ? 1 : lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
    length = std::min(length, text.size() - i);
    uint32_t code = length == 1 ? lead : lead & (0xFFu >> (length + 1));
    for (size_t k = 1; k < length; ++k) code = code << 6 | (static_cast<unsigned char>(text[i + k]) & 0x3F);
    letters.push_back({code, text.substr(i, length)});
    i += length;
  }
  return letters;
}

// Terminal cells: combining marks take none, East Asian wide letters and emoji take two (the wide blocks of Unicode's EastAsianWidth.txt).
size_t cells_of(std::string_view text) {
  struct Range {
    uint32_t first, last;
  };
  static constexpr Range kNone[] = {{0x0300, 0x036F}, {0x200B, 0x200F}, {0x20D0, 0x20FF}, {0xFE00, 0xFE0F}, {0xFE20, 0xFE2F}};
  static constexpr Range kWide[] = {{0x1100, 0x115F}, {0x2E80, 0x303E}, {0x3041, 0xA4CF}, {0xA960, 0xA97F},   {0xAC00, 0xD7A3},  {0xF900, 0xFAFF},
                                    {0xFE30, 0xFE6F}, {0xFF00, 0xFF60}, {0xFFE0, 0xFFE6}, {0x1F300, 0x1FAFF}, {0x20000, 0x3FFFD}};
  auto in = [](uint32_t code, const auto& ranges) {
    return std::any_of(std::begin(ranges), std::end(ranges), [=](Range r) { return code >= r.first && code <= r.last; });
  };
  size_t cells = 0;
  for (const Letter& letter : letters_of(text)) cells += in(letter.code, kNone) ? 0 : in(letter.code, kWide) ? 2 : 1;
  return cells;
}

// One line: what would break a row, and other control characters, becomes a space.
std::string one_line(std::string text) {
  for (char& c : text)
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = ' ';
  return text;
}

std::string csv_field(const std::string& text) {
  if (text.find_first_of(",\"\r\n") == text.npos) return text;
  std::string quoted = "\"";
  for (char c : text) quoted += c == '"' ? std::string("\"\"") : std::string(1, c);
  return quoted + "\"";
}

std::string markdown_text(const std::string& text) {
  std::string out;
  for (char c : one_line(text)) {
    if (c == '<')
      out += "&lt;";
    else if (c == '&')
      out += "&amp;";
    else {
      if (std::string_view("\\|`*[]").find(c) != std::string_view::npos) out += '\\';
      out += c;
    }
  }
  return out;
}

std::string latex_text(const std::string& text) {
  // clang-format off
  static const std::map<std::string_view, const char*> kEscapes{
      {"&", "\\&"}, {"%", "\\%"}, {"$", "\\$"}, {"#", "\\#"}, {"_", "\\_"}, {"{", "\\{"}, {"}", "\\}"}, {"<", "$<$"}, {">", "$>$"}, {"|", "$|$"}, {"\"", "''"},
      {"~", "\\textasciitilde{}"}, {"^", "\\textasciicircum{}"}, {"\\", "\\textbackslash{}"}, {"±", "$\\pm$"}, {"‖", "$\\Vert$"}, {"–", "--"}, {"−", "$-$"},
      {"κ", "$\\kappa$"}, {"·", "$\\cdot$"}};
  // clang-format on
  const std::string line = one_line(text);
  std::string out;
  for (const Letter& letter : letters_of(line)) {
    auto it = kEscapes.find(letter.bytes);
    out += it == kEscapes.end() ? std::string(letter.bytes) : it->second;
  }
  return out;
}

// ---- formats

bool is_number(const Column& column) { return column.kind != Column::Kind::text; }

size_t group_end(const Table& table, size_t row) {
  auto next = std::upper_bound(table.group_starts.begin(), table.group_starts.end(), row);
  return next == table.group_starts.end() ? table.rows.size() : *next;
}
size_t group_begin(const Table& table, size_t row) {
  auto next = std::upper_bound(table.group_starts.begin(), table.group_starts.end(), row);
  return next == table.group_starts.begin() ? 0 : *std::prev(next);
}
bool starts_group(const Table& table, size_t row) { return row > 0 && group_begin(table, row) == row; }

std::string padded(const std::string& text, size_t cells, bool right) {
  const std::string space(cells - std::min(cells, cells_of(text)), ' ');
  return right ? space + text : text + space;
}

std::string wrapped(const std::string& text) {
  constexpr size_t kLine = 110;
  std::string out;
  size_t used = 0;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = std::min(text.find(' ', begin), text.size());
    const std::string word = text.substr(begin, end - begin);
    if (used > 0 && used + 1 + cells_of(word) > kLine) out += '\n', used = 0;
    if (used > 0) out += ' ', ++used;
    out += word;
    used += cells_of(word);
    begin = end + 1;
  }
  return out + "\n";
}

std::string as_text(const Table& table) {
  std::vector<size_t> widths;
  for (const Column& c : table.columns) widths.push_back(cells_of(c.name));
  auto entry = [&](size_t r, size_t c) {
    std::string text = one_line(shown(table.columns[c], table.rows[r][c]));
    if (table.columns[c].best != Best::none) text += is_best(table, r, c) ? "*" : " ";
    return text;
  };
  for (size_t r = 0; r < table.rows.size(); ++r)
    for (size_t c = 0; c < widths.size(); ++c) widths[c] = std::max(widths[c], cells_of(entry(r, c)));

  auto row = [&](auto&& entry_of) {
    std::string line;
    for (size_t c = 0; c < widths.size(); ++c) line += (c ? "  " : "") + padded(entry_of(c), widths[c], is_number(table.columns[c]));
    return line.substr(0, line.find_last_not_of(' ') + 1) + "\n";
  };
  // Blank lines help only between groups worth the name.
  bool grouped = false;
  for (size_t r = 0; r < table.rows.size(); ++r) grouped |= group_end(table, r) - group_begin(table, r) > 1;
  std::string out = table.title + "\n\n";
  out += row([&](size_t c) { return table.columns[c].name; });
  out += row([&](size_t c) { return std::string(widths[c], '-'); });
  for (size_t r = 0; r < table.rows.size(); ++r) {
    if (grouped && starts_group(table, r)) out += "\n";
    out += row([&](size_t c) { return entry(r, c); });
  }
  out += "\n";
  for (const std::string& note : table.notes) out += wrapped(note);
  if (!table.caveat.empty()) out += wrapped(table.caveat);
  return out;
}

std::string as_markdown(const Table& table) {
  std::string out = "**" + markdown_text(table.title) + "**\n\n|", rule = "|";
  for (const Column& c : table.columns) out += fmt::format(" {} |", markdown_text(c.name)), rule += is_number(c) ? " ---: |" : " --- |";
  out += "\n" + rule + "\n";
  for (size_t r = 0; r < table.rows.size(); ++r) {
    out += "|";
    for (size_t c = 0; c < table.columns.size(); ++c) {
      const std::string text = markdown_text(shown(table.columns[c], table.rows[r][c]));
      out += is_best(table, r, c) ? fmt::format(" **{}** |", text) : fmt::format(" {} |", text);
    }
    out += "\n";
  }
  for (const std::string& note : table.notes) out += fmt::format("\n{}\n", markdown_text(note));
  if (!table.caveat.empty()) out += fmt::format("\n{}\n", markdown_text(table.caveat));
  return out;
}

std::string as_separated(const Table& table, Format format) {
  auto field = [&](const std::string& text) { return format == Format::csv ? csv_field(text) : one_line(text); };
  auto number = [](double v) { return std::isfinite(v) ? fmt::format("{:.9g}", v) : std::string(); };
  auto join = [&](const std::vector<std::string>& fields) {
    return fmt::format("{}{}", fmt::join(fields, format == Format::csv ? "," : "\t"), format == Format::csv ? "\r\n" : "\n");
  };
  std::vector<std::string> head;
  for (const Column& c : table.columns) {
    head.push_back(field(c.key));
    if (c.kind == Column::Kind::spread) head.push_back(field(c.key + "_sd"));
  }
  if (!table.caveat.empty()) head.push_back("caveat");
  std::string out = join(head);
  for (const auto& row : table.rows) {
    std::vector<std::string> fields;
    for (size_t c = 0; c < row.size(); ++c) {
      fields.push_back(is_number(table.columns[c]) ? number(row[c].value) : field(row[c].text));
      if (table.columns[c].kind == Column::Kind::spread) fields.push_back(number(row[c].sd));
    }
    if (!table.caveat.empty()) fields.push_back(field(table.caveat));
    out += join(fields);
  }
  return out;
}

std::string as_latex(const Table& table) {
  std::string out = "% needs \\usepackage{booktabs}\n\\begin{table}[t]\n\\centering\n\\caption{" + latex_text(table.title) + "}\n\\begin{tabular}{";
  for (const Column& c : table.columns) out += is_number(c) ? 'r' : 'l';
  out += "}\n\\toprule\n";
  for (size_t c = 0; c < table.columns.size(); ++c) out += (c ? " & " : "") + latex_text(table.columns[c].name);
  out += " \\\\\n\\midrule\n";
  for (size_t r = 0; r < table.rows.size(); ++r) {
    if (starts_group(table, r)) out += "\\midrule\n";
    for (size_t c = 0; c < table.columns.size(); ++c) {
      const std::string text = latex_text(shown(table.columns[c], table.rows[r][c]));
      out += (c ? " & " : "") + (is_best(table, r, c) ? "\\textbf{" + text + "}" : text);
    }
    out += " \\\\\n";
  }
  out += "\\bottomrule\n\\end{tabular}\n";
  std::vector<std::string> notes = table.notes;
  if (!table.caveat.empty()) notes.push_back(table.caveat);
  for (const std::string& note : notes) out += "\\par\\smallskip{\\footnotesize " + latex_text(note) + "}\n";
  return out + "\\end{table}\n";
}

// ---- the study's tables

// Teachers against the student, the ensemble against it, teachers among themselves, the ensemble against them.
auto pair_order(const std::string& pair) {
  const bool ensemble = pair.rfind("Ens-", 0) == 0, student = pair.size() > 2 && pair.substr(pair.size() - 2) == "-S";
  return std::tuple((student ? 0 : 2) + (ensemble ? 1 : 0), pair);
}

auto map_order(const std::string& kind) {
  constexpr const char* kOrder[] = {"pred_class", "label_class", "prob_weighted", "energy", "class_sum", "random_projection"};
  return std::tuple(std::find(std::begin(kOrder), std::end(kOrder), kind) - std::begin(kOrder), kind);
}

auto model_order(const std::string& model) { return std::tuple(model == "S" ? 0 : model == "Ens" ? 2 : 1, model); }

std::string dashed(std::string pair) {
  const size_t at = pair.find('-');
  return at == pair.npos ? pair : pair.replace(at, 1, "–");
}

template <class Order>
std::vector<std::string> ordered(const std::set<std::string>& keys, Order order) {
  std::vector<std::string> out(keys.begin(), keys.end());
  std::sort(out.begin(), out.end(), [&](const std::string& a, const std::string& b) { return order(a) < order(b); });
  return out;
}

double median(std::vector<double> values) {
  std::erase_if(values, [](double v) { return !std::isfinite(v); });
  if (values.empty()) return kNotMeasured;
  std::sort(values.begin(), values.end());
  const size_t n = values.size();
  return (values[(n - 1) / 2] + values[n / 2]) / 2;
}

Cell cell_of(const Stat& stat) { return {stat.mean, stat.sd}; }
Column text_column(std::string key, std::string name) { return {std::move(key), std::move(name)}; }
Column count_column() { return {"seeds", "n", Column::Kind::number, 0}; }
Column spread_column(std::string key, std::string name, int decimals, Best best = Best::none) {
  return {std::move(key), std::move(name), Column::Kind::spread, decimals, best};
}

constexpr const char* kAttentionCaveat =
    "Caveat: class_sum weighs the features by the sum of the classifier's rows, which softmax training without weight decay leaves at its random start. "
    "Its IoU compares random projections: what any two projections would give is in the random_projection column. "
    "Teachers that share pretrained classifiers share that sum, so their class_sum IoU cannot be compared with that of teachers trained from scratch.";
constexpr const char* kSeedNote = "Mean ± sample standard deviation over n seeds; one seed has no spread.";

}  // namespace

Format format_from_name(const std::string& name) {
  constexpr std::pair<const char*, Format> kNames[] = {
      {"text", Format::text}, {"md", Format::markdown}, {"csv", Format::csv}, {"tsv", Format::tsv}, {"latex", Format::latex}};
  for (auto [known, format] : kNames)
    if (name == known) return format;
  throw Error(fmt::format("table format '{}' is unknown; choose text, md, csv, tsv or latex", name));
}

std::string shown(const Column& column, const Cell& cell) {
  if (column.kind == Column::Kind::text) return cell.text.empty() ? "–" : cell.text;
  if (!std::isfinite(cell.value)) return "–";
  std::string value = fmt::format("{:.{}f}", cell.value, column.decimals);
  if (value.find_first_not_of("-0.") == value.npos && value[0] == '-') value.erase(0, 1);
  return column.kind == Column::Kind::spread && std::isfinite(cell.sd) ? fmt::format("{} ± {:.{}f}", value, cell.sd, column.decimals) : value;
}

bool is_best(const Table& table, size_t row, size_t column) {
  const Column& c = table.columns[column];
  if (c.best == Best::none || !std::isfinite(table.rows[row][column].value)) return false;
  const double unit = std::pow(10, c.decimals), own = std::round(table.rows[row][column].value * unit);
  int64_t values = 0;
  for (size_t r = group_begin(table, row); r < group_end(table, row); ++r) {
    const double other = std::round(table.rows[r][column].value * unit);
    if (!std::isfinite(other)) continue;
    ++values;
    if (c.best == Best::highest ? other > own : other < own) return false;
  }
  return values > 1;
}

std::string render(const Table& table, Format format) {
  for (const auto& row : table.rows)
    KD_CHECK(row.size() == table.columns.size(), "table '{}': a row of {} cells under {} columns", table.title, row.size(), table.columns.size());
  switch (format) {
    case Format::text: return as_text(table);
    case Format::markdown: return as_markdown(table);
    case Format::latex: return as_latex(table);
    default: return as_separated(table, format);
  }
}

Table accuracy_table(const std::vector<RunGroup>& groups) {
  Table table{.title = "Accuracy",
              .columns = {text_column("name", "name"),
                          count_column(),
                          spread_column("test_top1_last", "test last %", 2, Best::highest),
                          {"test_top1_last_ci95", "±95 %", Column::Kind::number, 2},
                          spread_column("test_top1_selected", "selected %", 2, Best::highest),
                          spread_column("train_top1_last", "train %", 2),
                          spread_column("gap", "gap", 2, Best::lowest),
                          spread_column("ece", "ECE", 3, Best::lowest),
                          {"seconds", "seconds", Column::Kind::number, 0}},
              .notes = {std::string(kSeedNote) +
                            " ±95 %: half the t interval of the mean. Top-1 of the last and of the selected epoch, test view; gap: train − test, last epoch.",
                        "ECE: 10 bins weighted by count, selected epoch. Seconds: median."}};
  std::tuple<std::string, int64_t, std::string> section;
  for (const RunGroup& g : groups) {
    const std::tuple now(g.front().dataset, g.front().train_images, g.front().kind);
    if (!table.rows.empty() && now != section) table.group_starts.push_back(table.rows.size());
    section = now;
    const Stat last = stat_of(g, [](const RunSummary& r) { return r.test_top1_last; });
    std::vector<double> seconds;
    for (const RunSummary& r : g.runs) seconds.push_back(r.seconds);
    table.rows.push_back({g.label, double(g.runs.size()), cell_of(last), last.ci95,
                          cell_of(stat_of(g, [](const RunSummary& r) { return r.test_top1_selected; })),
                          cell_of(stat_of(g, [](const RunSummary& r) { return r.train_top1_last; })),
                          cell_of(stat_of(g, [](const RunSummary& r) { return r.train_top1_last - r.test_top1_last; })),
                          cell_of(stat_of(g, [](const RunSummary& r) { return model_number(r, "test", "S", "ece"); })), median(seconds)});
  }
  return table;
}

Table fidelity_table(const std::vector<RunGroup>& groups, const std::string& view) {
  Table table{.title = view == "test" ? "Fidelity, test view" : "Fidelity, " + view,
              .columns = {text_column("pair", "pair"), text_column("name", "name"), count_column(), spread_column("agreement", "agreement", 3, Best::highest),
                          spread_column("kappa", "κ", 3, Best::highest), spread_column("kl_ab", "KL(A‖B)", 3, Best::lowest),
                          spread_column("kl_ba", "KL(B‖A)", 3, Best::lowest), spread_column("js", "JS", 3, Best::lowest),
                          spread_column("mi_plugin", "MI", 3, Best::highest), spread_column("mi_adjusted", "MI adj.", 3, Best::highest),
                          spread_column("mi_normalized", "MI norm.", 3, Best::highest), spread_column("mi_soft", "MI soft", 3, Best::highest)},
              .notes = {std::string(kSeedNote) +
                            " Pair A–B over the whole test set, nats, temperature 1; MI of the predicted labels: plug-in, less its mean under 20 permutations, "
                            "normalised, and of the probabilities.",
                        "Best means the closest imitation of its kind, which need not be the better student."}};
  std::set<std::string> pairs;
  for (const RunGroup& g : groups)
    for (const RunSummary& r : g.runs)
      if (auto v = r.views.find(view); v != r.views.end())
        for (const auto& [pair, numbers] : v->second.pairs) pairs.insert(pair);
  for (const std::string& pair : ordered(pairs, pair_order)) {
    if (!table.rows.empty()) table.group_starts.push_back(table.rows.size());
    for (const RunGroup& g : groups) {
      auto stat = [&](const std::string& key) { return stat_of(g, [&](const RunSummary& r) { return pair_number(r, view, pair, key); }); };
      const Stat agreement = stat("agreement");
      if (agreement.n == 0) continue;
      std::vector<Cell> row{dashed(pair), g.label, double(agreement.n)};
      for (size_t c = 3; c < table.columns.size(); ++c) row.push_back(cell_of(stat(table.columns[c].key)));
      table.rows.push_back(std::move(row));
    }
  }
  return table;
}

Table calibration_table(const std::vector<RunGroup>& groups, const std::string& view) {
  Table table{
      .title = view == "test" ? "Calibration, test view" : "Calibration, " + view,
      .columns = {text_column("name", "name"), text_column("model", "model"), count_column(), spread_column("top1", "top-1 %", 2, Best::highest),
                  spread_column("ece", "ECE", 3, Best::lowest), spread_column("ece_unweighted", "ECE unw.", 3, Best::lowest),
                  spread_column("mce", "MCE", 3, Best::lowest), spread_column("nll", "NLL", 3, Best::lowest), spread_column("brier", "Brier", 3, Best::lowest),
                  spread_column("mean_confidence", "confidence", 3)},
      .notes = {std::string(kSeedNote) +
                " S: the run's own model, selected epoch; Ens: mean of its teachers' probabilities. ECE over 10 bins, weighted by count and unweighted; MCE: "
                "the largest gap of a bin; NLL in nats."}};
  for (const RunGroup& g : groups) {
    std::set<std::string> models;
    for (const RunSummary& r : g.runs)
      if (auto v = r.views.find(view); v != r.views.end())
        for (const auto& [model, eval] : v->second.models) models.insert(model);
    if (!table.rows.empty() && !models.empty()) table.group_starts.push_back(table.rows.size());
    for (const std::string& model : ordered(models, model_order)) {
      auto stat = [&](const std::string& key) { return stat_of(g, [&](const RunSummary& r) { return model_number(r, view, model, key); }); };
      std::vector<Cell> row{g.label, model, double(stat("top1").n)};
      for (size_t c = 3; c < table.columns.size(); ++c) row.push_back(cell_of(stat(table.columns[c].key)));
      table.rows.push_back(std::move(row));
    }
  }
  return table;
}

Table attention_table(const std::vector<RunGroup>& groups) {
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
  Table table{.title = "Attention maps",
              .columns = {text_column("quantity", "quantity"), text_column("name", "name"), count_column()},
              .notes = {fmt::format(
                  "{} Mean IoU over the test images of masks where the map, scaled to [0,1], is above {:g}; truth: the object's true mask; area: share of the "
                  "image inside the mask (unrelated masks of areas a and b overlap with an IoU near ab/(a+b−ab)).",
                  kSeedNote, fmt::join(thresholds, " or "))},
              .caveat = kAttentionCaveat};
  const std::vector<std::string> columns = ordered(kinds, map_order);
  for (const std::string& kind : columns) table.columns.push_back(spread_column(kind, kind, 3));

  auto add = [&](const std::string& quantity, Numbers MapEval::*numbers, const std::string& key) {
    const size_t first = table.rows.size();
    for (const RunGroup& g : groups) {
      int64_t n = 0;
      std::vector<Cell> row{quantity, g.label, 0.0};
      for (const std::string& kind : columns) {
        const Stat stat = stat_of(g, [&](const RunSummary& r) { return map_number(r, kind, numbers, key); });
        n = std::max(n, stat.n);
        row.push_back(cell_of(stat));
      }
      row[2] = double(n);
      if (n > 0) table.rows.push_back(std::move(row));
    }
    if (table.rows.size() > first && first > 0) table.group_starts.push_back(first);
  };
  for (const std::string& pair : ordered(pairs, pair_order)) add("IoU " + dashed(pair), &MapEval::iou, pair);
  for (const std::string& model : ordered(models, model_order)) add("IoU " + model + "–truth", &MapEval::truth_iou, model);
  for (const std::string& model : ordered(models, model_order)) add("area " + model, &MapEval::area, model);
  return table;
}

void print_tables(const Path& runs, const std::string& format_name, const std::string& which) {
  const Format format = format_from_name(format_name);
  const std::pair<const char*, Table (*)(const std::vector<RunGroup>&)> kTables[] = {
      {"accuracy", accuracy_table},
      {"fidelity", [](const std::vector<RunGroup>& g) { return fidelity_table(g); }},
      {"calibration", [](const std::vector<RunGroup>& g) { return calibration_table(g); }},
      {"attention", attention_table},
  };
  const bool known = which == "all" || std::any_of(std::begin(kTables), std::end(kTables), [&](const auto& t) { return which == t.first; });
  KD_INPUT(known, "table '{}' is unknown; choose accuracy, fidelity, calibration, attention or all", which);
  const std::vector<RunGroup> groups = group_runs(find_runs(runs));
  std::string out;
  for (const auto& [name, build] : kTables) {
    if (which != "all" && which != name) continue;
    const Table table = build(groups);
    if (table.rows.empty() && which == "all") continue;
    KD_INPUT(!table.rows.empty(), "{}: no run has analysis/eval.json with what the {} table needs; make it with 'kd_bench eval RUN...'", runs.string(), name);
    if (!out.empty()) out += '\n';
    out += render(table, format);
  }
  std::fwrite(out.data(), 1, out.size(), stdout);
  KD_INPUT(std::fflush(stdout) == 0, "the tables could not be written to the output");
}

}  // namespace kd
