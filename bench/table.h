// table: one Table type that prints itself in five formats, and the tables that the study is reported in.
#pragma once
#include <string>
#include <vector>

#include "bench/runs.h"

namespace kd {

enum class Format { text, markdown, csv, tsv, latex };
Format format_from_name(const std::string&);  // text, md, csv, tsv, latex

enum class Best { none, highest, lowest };
struct Column {
  enum class Kind { text, number, spread /* mean ± sd */ };
  std::string key, name;  // for programs (CSV, TSV) and for people
  Kind kind = Kind::text;
  int decimals = 2;
  Best best = Best::none;  // which value of each group of rows is bold
};

struct Cell {
  Cell(std::string words) : text(std::move(words)) {}
  Cell(const char* words) : text(words) {}
  Cell(double v, double spread = kNotMeasured) : value(v), sd(spread) {}
  std::string text;  // of a text column
  double value = kNotMeasured, sd = kNotMeasured;
};

struct Table {
  std::string title;
  std::vector<Column> columns;
  std::vector<std::vector<Cell>> rows = {};
  std::vector<size_t> group_starts = {};  // rows that begin a group, besides row 0
  std::vector<std::string> notes = {};
  std::string caveat = {};  // a note that no reader may miss: in CSV and TSV, where notes are left out, a column of every row
};

// As people read it: rounded, "–" for what was not measured. For people's formats; CSV and TSV carry nine digits, and sd in a column of its own.
std::string shown(const Column&, const Cell&);
// Equal after rounding counts as equal; a group with fewer than two values has no best.
bool is_best(const Table&, size_t row, size_t column);
// Markdown is GitHub's; CSV is RFC 4180; LaTeX needs the booktabs package. In text the best values carry a star.
std::string render(const Table&, Format);

// The study's tables; a row for each group that has the numbers. Spread is the sample standard deviation over seeds.
Table accuracy_table(const std::vector<RunGroup>&);
Table fidelity_table(const std::vector<RunGroup>&, const std::string& view = "test");
Table calibration_table(const std::vector<RunGroup>&, const std::string& view = "test");
Table attention_table(const std::vector<RunGroup>&);  // always with its caveat

// which: accuracy, fidelity, calibration, attention or all. format: text, md, csv, tsv or latex. To stdout.
void print_tables(const Path& runs, const std::string& format, const std::string& which);

}  // namespace kd
