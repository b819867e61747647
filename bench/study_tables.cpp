// study_tables: the tables that the study is reported in, R1 to R11 and the overview. Rows are groups of runs (seeds of one experiment), often one for each
// pair or model as well; what a cell holds is read from the runs' files and averaged over seeds, differences over the seeds that both sides have. Here: what
// their builders share (study_tables.h), which tables there are, and printing them.
#include "bench/study_tables.h"

#include <algorithm>
#include <cmath>
#include <cstdio>

#include "bench/findings.h"
#include "engine/base/check.h"
#include "kd/recipe.h"

namespace kd::study {

// ---- orders and names

namespace {

auto view_order(const std::string& view) {
  constexpr const char* kOrder[] = {"test", "student_view", "train", "train_view"};
  return std::tuple(std::find(std::begin(kOrder), std::end(kOrder), view) - std::begin(kOrder), view);
}

}  // namespace

std::string view_title(const std::string& view) {
  return view == "test"           ? "test view"
         : view == "student_view" ? "student's view"
         : view == "train"        ? "training images"
         : view == "train_view"   ? "training images, student's view"
                                  : view;
}

std::string dashed(const std::string& models) {
  std::string out;
  for (char c : models) out += c == '-' ? std::string("–") : std::string(1, c);
  return out;
}

std::string slug(const std::string& models) {
  std::string out;
  for (char c : models) out += c == '-' ? '_' : char(std::tolower(static_cast<unsigned char>(c)));
  return out;
}

std::string joined(const std::vector<std::string>& words, const char* between) { return fmt::format("{}", fmt::join(words, between)); }

std::vector<std::string> split(const std::string& text, char at) {
  std::vector<std::string> out(1);
  for (char c : text) c == at ? void(out.emplace_back()) : void(out.back() += c);
  return out;
}

std::vector<std::string> views_of(const Groups& groups, const std::function<bool(const ViewEval&)>& has_some) {
  return ordered(keys_of(groups,
                         [&](const RunSummary& r, auto& keys) {
                           for (const auto& [view, eval] : r.views)
                             if (has_some(eval)) keys.insert(view);
                         }),
                 view_order);
}

// ---- a table of measurements

Column text_column(std::string key, std::string name) { return {std::move(key), std::move(name)}; }
Column count_column() { return {"seeds", "n", Column::Kind::number, 0}; }
Column spread_column(std::string key, std::string name, int decimals, Best best, Definition definition) {
  return {std::move(key), std::move(name), Column::Kind::spread, decimals, best, definition};
}
Column difference_column(std::string key, std::string name, int decimals) { return {std::move(key), std::move(name), Column::Kind::difference, decimals}; }

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

std::vector<Row> rows_by_name(const Groups& groups) {
  std::vector<Row> rows;
  for (const RunGroup& g : groups)
    rows.push_back({.lead = {g.label}, .group = &g, .starts_group = !rows.empty() && g.front().kind != rows.back().group->front().kind});
  return rows;
}

std::vector<Row> rows_by_key(const Groups& groups, const std::vector<std::string>& keys, const std::function<std::string(const std::string&)>& shown_key) {
  std::vector<Row> rows;
  for (const std::string& key : keys)
    for (const RunGroup& g : groups) rows.push_back({.lead = {shown_key(key), g.label}, .group = &g, .key = key, .starts_group = &g == &groups[0]});
  return rows;
}

Quantity of_model(const std::string& key, const std::string& name, int decimals, const std::string& view, const std::string& model, Best best,
                  Definition definition, std::string column_key) {
  return {spread_column(column_key.empty() ? key : std::move(column_key), name, decimals, best, definition),
          [=](const RunSummary& r, const std::string&) { return model_number(r, view, model, key); }};
}

// ---- what is read of runs

double selected(const RunSummary& r) { return r.test_top1_selected; }
double last(const RunSummary& r) { return r.test_top1_last; }

Cell paired(const RunGroup& a, const RunGroup* b, const std::function<double(const RunSummary&)>& get) {
  return b && b != &a ? Cell(stat_of(paired_differences(a, *b, get)), int64_t(a.runs.size())) : Cell(kNotMeasured);
}

std::vector<std::string> dirs_of(const RunGroup& group) {
  std::vector<std::string> dirs;
  for (const RunSummary& r : group.runs) dirs.push_back(r.dir.string());
  return dirs;
}

Config config_of(const RunSummary& r) {
  Config config;
  const Path path = r.dir / "config.yaml";
  if (!std::filesystem::exists(path)) return config;
  for (const RecipeValue& v : recipe_values(read_settings(path))) config[v.key] = v.value;
  return config;
}

// ---- sections: runs on the same images

Groups of_kind(const Groups& groups, const std::function<bool(const RunSummary&)>& is) {
  Groups out;
  for (const RunGroup& g : groups)
    if (is(g.front())) out.push_back(g);
  return out;
}

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

}  // namespace kd::study

namespace kd {

using namespace study;

namespace {

// ---- which tables there are

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

// ---- printing

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
