// table: one Table type that prints itself in six formats, and the tables that the study is reported in (protocol: R1 to R11).
#pragma once
#include <string>
#include <vector>

#include "bench/runs.h"

namespace kd {

enum class Format { text, markdown, csv, tsv, latex, html };
Format format_from_name(const std::string&);  // text, md, csv, tsv, latex, html

enum class Best { none, highest, lowest };
enum class Definition { any, std, rk };  // of a number that the published code computes otherwise: the textbook's, or that code's
struct Column {
  enum class Kind { text, number, spread /* mean ± sd */, difference /* signed mean [95 % interval] */ };
  std::string key, name;  // for programs (CSV, TSV) and for people
  Kind kind = Kind::text;
  int decimals = 2;
  Best best = Best::none;  // which value of each group of rows is bold
  Definition definition = Definition::any;
};

struct Cell {
  Cell(std::string words) : text(std::move(words)) {}
  Cell(const char* words) : text(words) {}
  Cell(double v, double spread = kNotMeasured) : value(v), sd(spread) {}
  Cell(const Stat& s, int64_t row_seeds = 0) : value(s.mean), sd(s.sd), ci95(s.ci95), n(s.n), of(row_seeds) {}
  std::string text;  // of a text column
  double value = kNotMeasured, sd = kNotMeasured, ci95 = kNotMeasured /* half length */;
  int64_t n = 0, of = 0;  // seeds in the value and in its row: people are told where some lack it. 0: unknown
};

struct Table {
  std::string title;
  std::vector<Column> columns;
  std::vector<std::vector<Cell>> rows = {};
  std::vector<size_t> group_starts = {};  // rows that begin a group, besides row 0
  std::vector<std::string> notes = {};
  std::string caveat = {};                             // a note that no reader may miss: in CSV and TSV, where notes are left out, a column of every row
  std::vector<std::string> tags = {};                  // what it is about, for published values: "r4", "shapes", "test", ...
  std::vector<std::vector<std::string>> sources = {};  // by row: the run directories it is made of; may be empty
};

// As people read it: rounded, "–" for what was not measured. For people's formats; CSV and TSV carry nine digits, and sd, half the 95 % interval and n in
// columns of their own.
std::string shown(const Column&, const Cell&);
// Equal after rounding counts as equal. A group of fewer than two values has no best, one of fewer than three no second.
bool is_best(const Table&, size_t row, size_t column);
bool is_second(const Table&, size_t row, size_t column);
// Markdown is GitHub's; CSV is RFC 4180; LaTeX needs the booktabs package, and underlines the second best; HTML is a fragment. In text the best values
// carry a star, long words wrap, and columns beyond 120 characters go to a second block below, with the text columns again; rows of sentences are
// written one below the other.
std::string render(const Table&, Format);
// One after the other; CSV and TSV get one header with every column of any of them, and the title as a first column "table".
std::string render(const std::vector<Table>&, Format);

// Adds where the rows come from: a column "runs" in CSV and TSV, numbered footnotes in the others.
void add_trace(Table&, Format);

// ---- study_tables*.cpp

constexpr const char* kAttentionCaveat =
    "Caveat: class_sum weighs the features by the sum of the classifier's rows, which softmax training without weight decay leaves at its random start. "
    "Its IoU compares random projections: what any two projections would give is in the random_projection column or rows. "
    "Teachers that share pretrained classifiers share that sum, so their class_sum IoU cannot be compared with that of teachers trained from scratch.";

// The overview: a row for each group that has the numbers. Spread is the sample standard deviation over seeds.
Table accuracy_table(const std::vector<RunGroup>&);
Table fidelity_table(const std::vector<RunGroup>&, const std::string& view = "test");
Table calibration_table(const std::vector<RunGroup>&, const std::string& view = "test");
Table attention_table(const std::vector<RunGroup>&);  // always with its caveat

// One of the ids below as the tables it consists of, by dataset, number of teachers, view and quantity; those without any number are left out.
// Differences are paired by seed. Input error for an id that does not exist.
std::vector<Table> study_tables(const std::vector<RunGroup>&, const std::string& id);
const std::vector<std::string>& study_table_ids();  // accuracy, fidelity, calibration, attention, r1, ..., r11

struct TableOptions {
  std::string format = "text";
  std::string which = "overview";  // ids, with commas; overview: accuracy to attention; all
  std::string metrics = "both";    // std | rk | both
  bool trace = false;              // the run directories of every row
  bool paper = false;              // names as the paper writes them and a column for published values
  Path published = {};             // CSV "name,key,value" that fills it; key: a column's, after the row's or table's words that tell it apart, "/" between
  Path out = {};                   // a folder for ID.txt, .md, .csv and .tex of each table; empty: to stdout in `format`
};
void print_tables(const Path& runs, const TableOptions&);

// Puts the values of a published CSV (its text; `file` is for messages; both empty: none yet) beside the columns that they are of. Returns a line about
// those that no table has; input error if that is all of them, and for a damaged line.
std::string add_published(std::vector<Table>& tables, const std::string& csv, const std::string& file);
std::string paper_name(const std::string& name);  // "T1w/T2s → Sw (plain)" of T1w_T2s_Sw_plain; other names as they are

}  // namespace kd
