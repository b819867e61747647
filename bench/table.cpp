#include "bench/table.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <utility>

#include "bench/svg.h"
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
      {"κ", "$\\kappa$"}, {"·", "$\\cdot$"},
      {"→", "$\\to$"}, {"Δ", "$\\Delta$"}, {"α", "$\\alpha$"}, {"τ", "$\\tau$"}, {"ρ", "$\\rho$"}, {"…", "\\ldots{}"}};
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

constexpr size_t kLine = 120;  // of a terminal

// In lines of at most so many cells, broken at spaces, and within words that are longer than a line; never without a line.
std::vector<std::string> lines_of(const std::string& text, size_t cells) {
  std::vector<std::string> lines(1);
  size_t used = 0;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = std::min(text.find(' ', begin), text.size());
    std::string word = text.substr(begin, end - begin);
    for (; cells_of(word) > cells && cells > 1; used = 0) {
      if (used > 0) lines.emplace_back();
      std::string part;
      for (const Letter& letter : letters_of(word))
        if (cells_of(part) + cells_of(letter.bytes) <= cells)
          part += letter.bytes;
        else
          break;
      lines.back() = part;
      lines.emplace_back();
      word.erase(0, part.size());
    }
    if (used > 0 && used + 1 + cells_of(word) > cells) lines.emplace_back(), used = 0;
    if (used > 0) lines.back() += ' ', ++used;
    lines.back() += word;
    used += cells_of(word);
    begin = end + 1;
  }
  return lines;
}

std::string wrapped(const std::string& text) { return fmt::format("{}\n", fmt::join(lines_of(text, 110), "\n")); }

// The columns that say what a row is: those before the first measured one, the number of seeds included.
size_t leading_columns(const Table& table) {
  size_t lead = 0;
  while (lead < table.columns.size() && (!is_number(table.columns[lead]) || table.columns[lead].key == "seeds")) ++lead;
  return lead;
}

// Every row by itself: its first cell, then the others that say something, each behind its column's name.
std::string as_entries(const Table& table, const std::vector<std::vector<std::string>>& entries) {
  size_t width = 0;
  for (size_t c = 1; c < table.columns.size(); ++c) width = std::max(width, cells_of(table.columns[c].name));
  std::string out = table.title + "\n";
  for (const auto& row : entries) {
    out += "\n" + row[0] + "\n";
    for (size_t c = 1; c < row.size(); ++c) {
      if (row[c].empty() || row[c] == "–") continue;
      std::string name = table.columns[c].name;
      for (const std::string& line : lines_of(row[c], kLine - width - 4)) out += "  " + padded(std::exchange(name, ""), width, false) + "  " + line + "\n";
    }
  }
  out += "\n";
  for (const std::string& note : table.notes) out += wrapped(note);
  if (!table.caveat.empty()) out += wrapped(table.caveat);
  return out;
}

std::string as_text(const Table& table) {
  constexpr size_t kGap = 2, kNarrow = 14, kLongWord = 24;
  const size_t n = table.columns.size();
  std::vector<std::vector<std::string>> entries(table.rows.size());
  std::vector<size_t> widths, narrowest(n, kNarrow);  // a word of a text column is only broken if it is a long one
  for (const Column& c : table.columns) widths.push_back(cells_of(c.name));
  for (size_t r = 0; r < table.rows.size(); ++r)
    for (size_t c = 0; c < n; ++c) {
      std::string text = one_line(shown(table.columns[c], table.rows[r][c]));
      if (table.columns[c].best != Best::none) text += is_best(table, r, c) ? "*" : " ";
      widths[c] = std::max(widths[c], cells_of(text));
      for (const std::string& word : lines_of(text, 1)) narrowest[c] = std::max(narrowest[c], std::min(cells_of(word), kLongWord));
      entries[r].push_back(std::move(text));
    }
  auto width_of = [&](size_t first, size_t last) {
    size_t sum = 0;
    for (size_t c = first; c < last; ++c) sum += widths[c] + kGap;
    return sum;
  };
  // Long words wrap, the longest first, until all columns fit.
  while (width_of(0, n) > kLine + kGap) {
    size_t longest = n;
    for (size_t c = 0; c < n; ++c)
      if (!is_number(table.columns[c]) && widths[c] > narrowest[c] && (longest == n || widths[c] > widths[longest])) longest = c;
    if (longest == n) break;
    --widths[longest];
  }
  // Sentences in columns of a few words are no table any more: a row is then read top down.
  constexpr size_t kTallest = 6;
  for (const auto& row : entries)
    for (size_t c = 0; c < n && leading_columns(table) == n; ++c)
      if (lines_of(row[c], widths[c]).size() > kTallest) return as_entries(table, entries);
  // What still does not fit goes below, in blocks that begin with the leading columns.
  const size_t lead = leading_columns(table);
  std::vector<std::pair<size_t, size_t>> blocks;
  for (size_t first = lead; first < n || blocks.empty();) {
    size_t last = std::min(first + 1, n);
    while (last < n && width_of(0, lead) + width_of(first, last + 1) <= kLine + kGap) ++last;
    blocks.push_back({first, last});
    first = last;
  }
  bool grouped = false;  // blank lines help only between groups worth the name
  for (size_t r = 0; r < table.rows.size(); ++r) grouped |= group_end(table, r) - group_begin(table, r) > 1;

  std::string out = table.title + "\n";
  for (const auto& [first, last] : blocks) {
    std::vector<size_t> columns;
    for (size_t c = 0; c < last; ++c)
      if (c < lead || c >= first) columns.push_back(c);
    auto row = [&](auto&& entry_of) {
      std::vector<std::vector<std::string>> cells;
      size_t height = 1;
      for (size_t c : columns) {
        cells.push_back(is_number(table.columns[c]) ? std::vector{std::string(entry_of(c))} : lines_of(entry_of(c), widths[c]));
        height = std::max(height, cells.back().size());
      }
      for (size_t k = 0; k < height; ++k) {
        std::string line;
        for (size_t i = 0; i < columns.size(); ++i)
          line += (i ? "  " : "") + padded(k < cells[i].size() ? cells[i][k] : "", widths[columns[i]], is_number(table.columns[columns[i]]));
        out += line.substr(0, line.find_last_not_of(' ') + 1) + "\n";
      }
    };
    out += "\n";
    row([&](size_t c) { return table.columns[c].name; });
    row([&](size_t c) { return std::string(widths[c], '-'); });
    for (size_t r = 0; r < table.rows.size(); ++r) {
      if (grouped && starts_group(table, r)) out += "\n";
      row([&](size_t c) { return entries[r][c]; });
    }
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

std::string as_separated(const std::vector<Table>& tables, Format format, bool with_titles) {
  auto number = [](double v) { return std::isfinite(v) ? fmt::format("{:.9g}", v) : std::string(); };
  std::vector<std::string> keys;
  std::vector<std::map<std::string, std::string>> records;
  auto add_key = [&](const std::string& key) {
    if (std::find(keys.begin(), keys.end(), key) == keys.end()) keys.push_back(key);
  };
  if (with_titles) add_key("table");
  for (const Table& table : tables) {
    for (const Column& c : table.columns) {
      add_key(c.key);
      if (c.kind == Column::Kind::spread || c.kind == Column::Kind::difference)
        for (const char* part : {"_sd", "_ci95", "_n"}) add_key(c.key + part);
    }
    for (const auto& row : table.rows) {
      auto& record = records.emplace_back();
      if (with_titles) record["table"] = table.title;
      if (!table.caveat.empty()) record["caveat"] = table.caveat;
      for (size_t c = 0; c < row.size(); ++c) {
        const Column& column = table.columns[c];
        record[column.key] = is_number(column) ? number(row[c].value) : row[c].text;
        if (column.kind != Column::Kind::spread && column.kind != Column::Kind::difference) continue;
        record[column.key + "_sd"] = number(row[c].sd);
        record[column.key + "_ci95"] = number(row[c].ci95);
        record[column.key + "_n"] = row[c].n > 0 ? fmt::format("{}", row[c].n) : "";
      }
    }
  }
  if (std::any_of(tables.begin(), tables.end(), [](const Table& t) { return !t.caveat.empty(); })) add_key("caveat");
  std::stable_partition(keys.begin(), keys.end(), [](const std::string& key) { return key != "runs"; });  // last, whichever table brought it
  std::string out;
  auto line = [&](auto&& text_of) {
    std::vector<std::string> fields;
    for (const std::string& key : keys) fields.push_back(format == Format::csv ? csv_field(text_of(key)) : one_line(text_of(key)));
    out += fmt::format("{}{}", fmt::join(fields, format == Format::csv ? "," : "\t"), format == Format::csv ? "\r\n" : "\n");
  };
  line([](const std::string& key) { return key; });
  for (auto& record : records) line([&](const std::string& key) { return record[key]; });
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
      out += (c ? " & " : "") + (is_best(table, r, c) ? "\\textbf{" + text + "}" : is_second(table, r, c) ? "\\underline{" + text + "}" : text);
    }
    out += " \\\\\n";
  }
  out += "\\bottomrule\n\\end{tabular}\n";
  std::vector<std::string> notes = table.notes;
  if (!table.caveat.empty()) notes.push_back(table.caveat);
  for (const std::string& note : notes) out += "\\par\\smallskip{\\footnotesize " + latex_text(note) + "}\n";
  return out + "\\end{table}\n";
}

std::string as_html(const Table& table) {
  auto tag = [](const char* name, const std::string& text) { return fmt::format("<{}>{}</{}>", name, text, name); };
  auto align = [](const Column& c) { return is_number(c) ? " style=\"text-align:right\"" : ""; };
  std::string out = "<table>\n" + tag("caption", svg::escape(table.title)) + "\n<thead>\n<tr>";
  for (const Column& c : table.columns) out += fmt::format("<th scope=\"col\"{}>{}</th>", align(c), svg::escape(c.name));
  out += "</tr>\n</thead>\n<tbody>\n";
  for (size_t r = 0; r < table.rows.size(); ++r) {
    if (starts_group(table, r)) out += "</tbody>\n<tbody>\n";
    out += "<tr>";
    for (size_t c = 0; c < table.columns.size(); ++c) {
      const std::string text = svg::escape(shown(table.columns[c], table.rows[r][c]));
      out += fmt::format("<td{}>{}</td>", align(table.columns[c]), is_best(table, r, c) ? tag("b", text) : is_second(table, r, c) ? tag("u", text) : text);
    }
    out += "</tr>\n";
  }
  out += "</tbody>\n</table>\n";
  for (const std::string& note : table.notes) out += tag("p", svg::escape(note)) + "\n";
  return table.caveat.empty() ? out : out + tag("p", svg::escape(table.caveat)) + "\n";
}

// Whether a value is the best (0) or second (1) among the distinct ones of its group, as people read them.
bool has_rank(const Table& table, size_t row, size_t column, size_t rank) {
  const Column& c = table.columns[column];
  if (c.best == Best::none || !std::isfinite(table.rows[row][column].value)) return false;
  auto read = [&](size_t r) { return std::round(table.rows[r][column].value * std::pow(10, c.decimals)); };
  std::vector<double> values;
  for (size_t r = group_begin(table, row); r < group_end(table, row); ++r)
    if (std::isfinite(read(r))) values.push_back(read(r));
  if (values.size() < rank + 2) return false;
  std::sort(values.begin(), values.end());
  values.erase(std::unique(values.begin(), values.end()), values.end());
  if (c.best == Best::highest) std::reverse(values.begin(), values.end());
  return rank < values.size() && values[rank] == read(row);
}

}  // namespace

Format format_from_name(const std::string& name) {
  constexpr std::pair<const char*, Format> kNames[] = {{"text", Format::text}, {"md", Format::markdown}, {"csv", Format::csv},
                                                       {"tsv", Format::tsv},   {"latex", Format::latex}, {"html", Format::html}};
  for (auto [known, format] : kNames)
    if (name == known) return format;
  throw Error(fmt::format("table format '{}' is unknown; choose text, md, csv, tsv, latex or html", name));
}

std::string shown(const Column& column, const Cell& cell) {
  if (column.kind == Column::Kind::text) return cell.text.empty() ? "–" : cell.text;
  if (!std::isfinite(cell.value)) return "–";
  auto rounded = [&](double v, const char* plus) {
    const std::string digits = fmt::format("{:.{}f}", std::abs(v), column.decimals);
    const bool is_zero = digits.find_first_not_of("0.") == digits.npos;
    return (v < 0 && !is_zero ? "−" : plus) + digits;
  };
  std::string text;
  if (column.kind == Column::Kind::difference) {
    text = rounded(cell.value, "+");
    if (std::isfinite(cell.ci95)) text += fmt::format(" [{}, {}]", rounded(cell.value - cell.ci95, "+"), rounded(cell.value + cell.ci95, "+"));
  } else {
    text = rounded(cell.value, "");
    if (column.kind == Column::Kind::spread && std::isfinite(cell.sd)) text += fmt::format(" ± {:.{}f}", cell.sd, column.decimals);
  }
  return cell.n < cell.of ? fmt::format("{} (n={})", text, cell.n) : text;
}

bool is_best(const Table& table, size_t row, size_t column) { return has_rank(table, row, column, 0); }
bool is_second(const Table& table, size_t row, size_t column) { return has_rank(table, row, column, 1); }

std::string render(const std::vector<Table>& tables, Format format) {
  for (const Table& table : tables)
    for (const auto& row : table.rows)
      KD_CHECK(row.size() == table.columns.size(), "table '{}': a row of {} cells under {} columns", table.title, row.size(), table.columns.size());
  if (format == Format::csv || format == Format::tsv) return as_separated(tables, format, true);
  std::string out;
  for (const Table& table : tables) {
    if (!out.empty()) out += format == Format::text ? "\n\n" : "\n";
    out += format == Format::text       ? as_text(table)
           : format == Format::markdown ? as_markdown(table)
           : format == Format::latex    ? as_latex(table)
                                        : as_html(table);
  }
  return out;
}

std::string render(const Table& table, Format format) {
  const bool separated = format == Format::csv || format == Format::tsv;
  return separated ? as_separated({table}, format, false) : render(std::vector{table}, format);
}

void add_trace(Table& table, Format format) {
  if (table.sources.empty()) return;
  KD_CHECK(table.sources.size() == table.rows.size(), "table '{}': sources of {} rows, it has {}", table.title, table.sources.size(), table.rows.size());
  const bool separated = format == Format::csv || format == Format::tsv;
  table.columns.push_back({"runs", "runs"});
  std::vector<std::string> footnotes;
  for (size_t r = 0; r < table.rows.size(); ++r) {
    const std::string runs = fmt::format("{}", fmt::join(table.sources[r], separated ? ";" : ", "));
    if (separated || runs.empty()) {
      table.rows[r].push_back(runs);
      continue;
    }
    auto known = std::find(footnotes.begin(), footnotes.end(), runs);
    if (known == footnotes.end()) known = footnotes.insert(known, runs);
    table.rows[r].push_back(fmt::format("[{}]", known - footnotes.begin() + 1));
  }
  for (size_t i = 0; i < footnotes.size(); ++i) table.notes.push_back(fmt::format("[{}] {}", i + 1, footnotes[i]));
}

}  // namespace kd
