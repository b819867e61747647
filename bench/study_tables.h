// study_tables: the words in which the study's tables are built: rows are groups of runs, columns are quantities read from the runs' files. Internal to
// bench/study_tables*.cpp; everybody else asks for tables by bench/table.h.
#pragma once
#include <algorithm>
#include <functional>
#include <map>
#include <set>
#include <string>
#include <tuple>
#include <vector>

#include "bench/table.h"
#include "engine/base/check.h"

namespace kd::study {

// ---- orders and names

inline auto model_order(const std::string& model) { return std::tuple(model == "S" ? 0 : model == "Ens" ? 2 : 1, model); }
std::string view_title(const std::string& view);
std::string dashed(const std::string& models);  // "T1–S" of T1-S
std::string slug(const std::string& models);    // "t1_s" of T1-S: part of a column's key
std::string joined(const std::vector<std::string>& words, const char* between = " / ");
std::vector<std::string> split(const std::string& text, char at);

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

// The views of which any run has what is asked for, in their order.
std::vector<std::string> views_of(const Groups& groups, const std::function<bool(const ViewEval&)>& has_some);

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

Column text_column(std::string key, std::string name);
Column count_column();  // of seeds
Column spread_column(std::string key, std::string name, int decimals, Best best = Best::none, Definition definition = Definition::any);
Column difference_column(std::string key, std::string name, int decimals);

// Lead columns, the number of seeds, the quantities. A row of a pair or model that its group does not have is left out; so are all rows where there is
// nothing at all.
Table measured(std::string title, std::vector<std::string> tags, std::vector<Column> lead, const std::vector<Quantity>& quantities,
               const std::vector<Row>& rows, std::vector<std::string> notes);

constexpr const char* kSeedNote = "Mean ± sample standard deviation over n seeds; one seed has no spread, (n=k) marks values that only k seeds have.";
constexpr const char* kDifferenceNote = "Differences are paired by seed: mean [95 % t interval over seeds].";

std::vector<Row> rows_by_name(const Groups& groups);
// A row for each key and name, the keys in groups.
std::vector<Row> rows_by_key(const Groups& groups, const std::vector<std::string>& keys, const std::function<std::string(const std::string&)>& shown_key);

// One number of one model on one view, whatever the row's key is.
Quantity of_model(const std::string& key, const std::string& name, int decimals, const std::string& view, const std::string& model, Best best = Best::none,
                  Definition definition = Definition::any, std::string column_key = "");

// ---- what is read of runs

double selected(const RunSummary& r);  // test top-1 of the selected and of the last epoch
double last(const RunSummary& r);
Cell paired(const RunGroup& a, const RunGroup* b, const std::function<double(const RunSummary&)>& get);  // a − b by seed; not measured without another b
std::vector<std::string> dirs_of(const RunGroup& group);                                                 // a row's sources

// A setting of the run's recipe as config.yaml has it; empty where there is no such file or setting.
using Config = std::map<std::string, std::string>;
Config config_of(const RunSummary& r);

// ---- sections: runs on the same images

struct Section {
  std::string title, dataset;
  Groups groups;
};

Groups of_kind(const Groups& groups, const std::function<bool(const RunSummary&)>& is);

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
std::vector<StudentSet> student_sets(const Section& section);

// ---- the tables

// study_tables_models.cpp
std::vector<Table> teacher_tables(const Section&);      // R1
std::vector<Table> grid_tables(const Section&);         // R2
std::vector<Table> reliability_tables(const Section&);  // R7
std::vector<Table> shot_tables(const Section&);         // R9
// study_tables_pairs.cpp
std::vector<Table> overlap_tables(const Section&);      // R3
std::vector<Table> agreement_tables(const Section&);    // R4
std::vector<Table> divergence_tables(const Section&);   // R5
std::vector<Table> information_tables(const Section&);  // R6
// study_tables_switches.cpp
std::vector<Table> zscore_tables(const Section&);                             // R8
std::vector<Table> switch_tables(const std::string& dataset, const Groups&);  // R11

}  // namespace kd::study
