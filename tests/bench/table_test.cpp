// The study's tables over small sets of runs whose numbers are worked out by hand, and every format as people get it.
#include "bench/table.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <sstream>

#include "engine/base/check.h"
#include "tests/harness/error_of.h"

namespace kd {
namespace {

// ---- runs in memory

RunSummary run(const std::string& name, int64_t seed, double top1, std::vector<std::string> teachers = {}) {
  RunSummary r;
  r.dir = Path("runs") / "shapes" / name / fmt::format("seed{}", seed);
  r.name = name;
  r.dataset = "shapes";
  r.kind = !teachers.empty() ? "student" : name.starts_with("only_") ? "baseline" : "teacher";
  r.view = name.find("Ss") == name.npos ? "weak" : "strong";
  r.teachers = std::move(teachers);
  r.arch = "resnet18";
  r.seed = seed, r.epochs = r.epochs_done = 3, r.train_images = 90, r.test_images = 30, r.params = 1000, r.selected_epoch = 1;
  r.test_top1_last = top1, r.test_top1_selected = top1 + 1, r.train_top1_last = top1 + 5;
  r.combine = "mean_loss", r.alpha = .6, r.soft_weight = .4, r.tau = 3;
  return r;
}

RunSummary student(const std::string& name, int64_t seed, double top1) {
  std::vector<std::string> teachers;
  for (size_t i = 0; name[i] == 'T'; i += 4) teachers.push_back(name.substr(i, 3));
  return run(name, seed, top1, teachers);
}

// Weak and strong pairs of teachers, two seeds, and their baselines.
std::vector<RunSummary> study() {
  std::vector<RunSummary> runs;
  for (int64_t seed : {0, 1}) {
    const double luck = 2 * double(seed);
    runs.push_back(student("T1s_T2s_Sw", seed, 84 + 2 * luck));
    runs.push_back(student("T1w_T2w_Ss", seed, 78));
    runs.push_back(student("T1w_T2s_Sw", seed, 83 + luck));
    runs.push_back(student("T1w_T2w_Sw", seed, 82 + luck));
    runs.push_back(student("T1w_T2w_T3w_Sw", seed, 85));
    runs.push_back(run("only_Ss", seed, 70));
    runs.push_back(run("only_Sw", seed, 80 + luck));
    runs.push_back(run("T1w", seed, 79));
  }
  return runs;
}

const Table* find_table(const std::vector<Table>& tables, const std::string& title) {
  for (const Table& t : tables)
    if (t.title == title) return &t;
  return nullptr;
}

// A table as text by row name and column key.
std::string cell(const Table& t, const std::string& name, const std::string& key) {
  size_t column = t.columns.size(), names = t.columns.size();
  for (size_t c = 0; c < t.columns.size(); ++c) {
    if (t.columns[c].key == key) column = c;
    if (t.columns[c].key == "name" || (t.columns[c].key == "id" && names == t.columns.size())) names = c;
  }
  if (column == t.columns.size()) return "no column " + key;
  for (const auto& row : t.rows)
    if (row[names].text == name) return shown(t.columns[column], row[column]);
  return "no row " + name;
}

std::vector<std::string> names_of(const Table& t) {
  std::vector<std::string> names;
  for (const auto& row : t.rows) names.push_back(row[0].text);
  return names;
}

// ---- formats, letter by letter

Table small() {
  return {.title = "Small & <odd>",
          .columns = {{"name", "name"},
                      {"seeds", "n", Column::Kind::number, 0},
                      {"top1", "top-1 %", Column::Kind::spread, 2, Best::highest},
                      {"gain", "Δ|κ", Column::Kind::difference, 1}},
          .rows = {{"a_1", 2.0, Cell(Stat{2, 90.5, 0.75, 6.5}, 2), Cell(Stat{2, -0.5, 2.125, 19.0}, 2)},
                   {"b|2", 2.0, Cell(Stat{1, 89.5}, 2), kNotMeasured},
                   {"c", 2.0, Cell(Stat{2, 81, 1.5, 13.5}, 2), Cell(Stat{1, -0.04}, 1)}},
          .notes = {"A note."},
          .caveat = "Mind: this.",
          .sources = {{"r/a/0", "r/a/1"}, {"r/b/0"}, {"r/a/0", "r/a/1"}}};
}

TEST(TableGolden, Text) {
  EXPECT_EQ(render(small(), Format::text),
            "Small & <odd>\n"
            "\n"
            "name  n        top-1 %                  Δ|κ\n"
            "----  -  -------------  -------------------\n"
            "a_1   2  90.50 ± 0.75*  −0.5 [−19.5, +18.5]\n"
            "b|2   2   89.50 (n=1)                     –\n"
            "c     2  81.00 ± 1.50                  +0.0\n"
            "\n"
            "A note.\n"
            "Mind: this.\n");
}

TEST(TableGolden, Markdown) {
  EXPECT_EQ(render(small(), Format::markdown),
            "**Small &amp; &lt;odd>**\n"
            "\n"
            "| name | n | top-1 % | Δ\\|κ |\n"
            "| --- | ---: | ---: | ---: |\n"
            "| a_1 | 2 | **90.50 ± 0.75** | −0.5 \\[−19.5, +18.5\\] |\n"
            "| b\\|2 | 2 | 89.50 (n=1) | – |\n"
            "| c | 2 | 81.00 ± 1.50 | +0.0 |\n"
            "\n"
            "A note.\n"
            "\n"
            "Mind: this.\n");
}

TEST(TableGolden, Latex) {
  EXPECT_EQ(render(small(), Format::latex),
            "% needs \\usepackage{booktabs}\n"
            "\\begin{table}[t]\n"
            "\\centering\n"
            "\\caption{Small \\& $<$odd$>$}\n"
            "\\begin{tabular}{lrrr}\n"
            "\\toprule\n"
            "name & n & top-1 \\% & $\\Delta$$|$$\\kappa$ \\\\\n"
            "\\midrule\n"
            "a\\_1 & 2 & \\textbf{90.50 $\\pm$ 0.75} & $-$0.5 [$-$19.5, +18.5] \\\\\n"
            "b$|$2 & 2 & \\underline{89.50 (n=1)} & -- \\\\\n"
            "c & 2 & 81.00 $\\pm$ 1.50 & +0.0 \\\\\n"
            "\\bottomrule\n"
            "\\end{tabular}\n"
            "\\par\\smallskip{\\footnotesize A note.}\n"
            "\\par\\smallskip{\\footnotesize Mind: this.}\n"
            "\\end{table}\n");
}

TEST(TableGolden, Html) {
  Table table = small();
  table.rows.resize(2);
  table.group_starts = {1};
  EXPECT_EQ(render(table, Format::html),
            "<table>\n"
            "<caption>Small &amp; &lt;odd&gt;</caption>\n"
            "<thead>\n"
            "<tr><th scope=\"col\">name</th><th scope=\"col\" style=\"text-align:right\">n</th><th scope=\"col\" style=\"text-align:right\">top-1 %</th>"
            "<th scope=\"col\" style=\"text-align:right\">Δ|κ</th></tr>\n"
            "</thead>\n"
            "<tbody>\n"
            "<tr><td>a_1</td><td style=\"text-align:right\">2</td><td style=\"text-align:right\">90.50 ± 0.75</td><td style=\"text-align:right\">−0.5 [−19.5, "
            "+18.5]</td></tr>\n"
            "</tbody>\n"
            "<tbody>\n"
            "<tr><td>b|2</td><td style=\"text-align:right\">2</td><td style=\"text-align:right\">89.50 (n=1)</td><td style=\"text-align:right\">–</td></tr>\n"
            "</tbody>\n"
            "</table>\n"
            "<p>A note.</p>\n"
            "<p>Mind: this.</p>\n");
}

TEST(TableGolden, CsvOfSeveralTablesIsOneTable) {
  Table other{.title = "Other", .columns = {{"name", "name"}, {"x", "x", Column::Kind::number}}, .rows = {{"d", 0.5}}, .sources = {{"r/d"}}};
  Table first = small();
  first.rows.resize(2), first.sources.resize(2);
  for (Table* t : {&first, &other}) add_trace(*t, Format::csv);
  EXPECT_EQ(render({first, other}, Format::csv),
            "table,name,seeds,top1,top1_sd,top1_ci95,top1_n,gain,gain_sd,gain_ci95,gain_n,x,caveat,runs\r\n"
            "Small & <odd>,a_1,2,90.5,0.75,6.5,2,-0.5,2.125,19,2,,Mind: this.,r/a/0;r/a/1\r\n"
            "Small & <odd>,b|2,2,89.5,,,1,,,,,,Mind: this.,r/b/0\r\n"
            "Other,d,,,,,,,,,,0.5,,r/d\r\n");
}

TEST(TableGolden, TraceIsFootnotes) {
  Table table = small();
  add_trace(table, Format::text);
  const std::string text = render(table, Format::text);
  EXPECT_NE(text.find("+0.0  [1]\n"), text.npos) << text;
  EXPECT_NE(text.find("–  [2]\n"), text.npos) << text;
  EXPECT_NE(text.find("\n[1] r/a/0, r/a/1\n[2] r/b/0\n"), text.npos) << text;
}

// A table of sentences, such as the verdicts, would be columns of a few words each.
TEST(TableText, RowsOfSentencesAreReadTopDown) {
  std::string sentence = "word";
  for (int i = 0; i < 100; ++i) sentence += " word";
  const Table table{.title = "Said", .columns = {{"id", ""}, {"a", "first"}, {"b", "second one"}}, .rows = {{"H1", sentence, ""}, {"H2", "short", sentence}}};
  const std::string text = render(table, Format::text);
  EXPECT_NE(text.find("\nH1\n  first       word word"), text.npos) << text;
  EXPECT_NE(text.find("\nH2\n  first       short\n  second one  word"), text.npos) << text;
  EXPECT_EQ(text.find("second one"), text.rfind("second one")) << "what says nothing is left out: " << text;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) EXPECT_LE(line.size(), 120u) << line;
}

TEST(TableText, WideTablesFitATerminal) {
  Table table{.title = "Wide", .columns = {{"name", "name"}, {"seeds", "n", Column::Kind::number, 0}}};
  std::vector<Cell> row{"T1w_T2s_Sw_zscore_9", 3.0};
  for (int c = 0; c < 12; ++c)
    table.columns.push_back({fmt::format("x{}", c), fmt::format("column {}", c), Column::Kind::spread, 3}), row.emplace_back(0.5 + c, 0.25);
  table.columns.push_back({"words", "words"});
  row.emplace_back(
      "so many words that no line of a terminal could ever hold all of them without breaking one in the middle, and a/very/long/path/to/a/file.yaml");
  table.rows.push_back(row);
  const std::string text = render(table, Format::text);
  size_t names = 0, numbers = 0;
  for (size_t begin = 0, end; (end = text.find('\n', begin)) != text.npos; begin = end + 1) {
    size_t cells = 0;  // every letter here is one cell wide
    for (size_t i = begin; i < end; ++i) cells += (static_cast<unsigned char>(text[i]) & 0xC0) != 0x80;
    EXPECT_LE(cells, 120u) << text.substr(begin, end - begin);
    names += text.compare(begin, 19, "T1w_T2s_Sw_zscore_9") == 0;
  }
  for (size_t at = 0; (at = text.find(" ± 0.250", at)) != text.npos; ++at) ++numbers;
  EXPECT_EQ(numbers, 12u);
  EXPECT_GE(names, 2u) << "every block says what its rows are";
  for (const char* word : {"terminal", "a/very/long/path"}) EXPECT_NE(text.find(word), text.npos) << text;
}

TEST(TableRanks, SecondNeedsThree) {
  Table table{.title = "Ranks",
              .columns = {{"name", "name"}, {"x", "x", Column::Kind::number, 1, Best::lowest}},
              .rows = {{"a", 2.0}, {"b", 1.0}, {"c", 1.04}, {"d", 3.0}, {"e", kNotMeasured}, {"f", 5.0}, {"g", 6.0}},
              .group_starts = {5}};
  std::string ranks;
  for (size_t r = 0; r < table.rows.size(); ++r) ranks += is_best(table, r, 1) ? '1' : is_second(table, r, 1) ? '2' : '-';
  EXPECT_EQ(ranks, "211--1-");
}

// ---- names

TEST(Names, ReadAndWritten) {
  const auto name = read_name("T1w_T2s_T3w_Ss_zscore_9");
  ASSERT_TRUE(name);
  EXPECT_EQ(name->teachers, "wsw");
  EXPECT_EQ(name->view, 's');
  EXPECT_EQ(name->arm, "zscore_9");
  ASSERT_TRUE(read_name("only_Sw"));
  EXPECT_EQ(read_name("only_Sw")->teachers, "");
  for (const char* none : {"", "T1w", "T1w_", "T2w_Sw", "T1w_T3s_Sw", "T1x_Sw", "T1w_Sx", "T1w_Sw_", "T1w_Sww", "Sw", "only_", "only_T1w_Sw"})
    EXPECT_FALSE(read_name(none)) << none;
  EXPECT_EQ(paper_name("T1w_T2s_Sw"), "T1w/T2s → Sw");
  EXPECT_EQ(paper_name("T1w_Ss_plain_9"), "T1w → Ss (plain_9)");
  EXPECT_EQ(paper_name("only_Ss"), "only Ss");
  EXPECT_EQ(paper_name("T1w"), "T1w");
}

// ---- the study's tables

TEST(StudyTables, GridIsInCanonicalOrderWithPairedDifferences) {
  const auto tables = study_tables(group_runs(study()), "r2");
  const Table *accuracy = find_table(tables, "R2 shapes, 2 teachers: accuracy"), *differences = find_table(tables, "R2 shapes, 2 teachers: differences");
  ASSERT_TRUE(accuracy && differences && find_table(tables, "R2 shapes, 3 teachers: accuracy"));
  EXPECT_FALSE(find_table(tables, "R2 shapes, 2 teachers: generalisation gap")) << "nobody has measured one";
  EXPECT_EQ(names_of(*accuracy), (std::vector<std::string>{"only_Sw", "only_Ss", "T1w_T2w_Sw", "T1w_T2w_Ss", "T1w_T2s_Sw", "T1s_T2s_Sw"}));
  EXPECT_EQ(accuracy->group_starts, std::vector<size_t>{2});
  EXPECT_EQ(cell(*accuracy, "T1w_T2w_Sw", "test_top1_last"), "83.00 ± 1.41");
  EXPECT_EQ(cell(*accuracy, "T1w_T2w_Sw", "test_top1_selected"), "84.00 ± 1.41");
  EXPECT_EQ(cell(*accuracy, "T1w_T2w_Sw", "test_top1_last_ci95"), "12.71");  // 12.7062 * sqrt(2) / sqrt(2)
  EXPECT_EQ(cell(*accuracy, "T1w_T2w_Sw", "ens_top1"), "–") << "not evaluated is not 0";

  EXPECT_EQ(cell(*differences, "T1w_T2s_Sw", "last_minus_only"), "+3.00 [+3.00, +3.00]");   // 83 - 80, 85 - 82
  EXPECT_EQ(cell(*differences, "T1w_T2w_Ss", "last_minus_only"), "+8.00 [+8.00, +8.00]");   // against only_Ss
  EXPECT_EQ(cell(*differences, "T1s_T2s_Sw", "last_minus_weak"), "+3.00 [−9.71, +15.71]");  // 84 - 82, 88 - 84: 3 ± 12.7062 * sqrt(2) / sqrt(2)
  EXPECT_EQ(cell(*differences, "T1w_T2w_Sw", "last_minus_weak"), "–") << "against itself";
  ASSERT_EQ(differences->sources.size(), differences->rows.size());
  EXPECT_EQ(differences->sources.back(),
            (std::vector<std::string>{"runs/shapes/T1s_T2s_Sw/seed0", "runs/shapes/T1s_T2s_Sw/seed1", "runs/shapes/only_Sw/seed0", "runs/shapes/only_Sw/seed1",
                                      "runs/shapes/T1w_T2w_Sw/seed0", "runs/shapes/T1w_T2w_Sw/seed1"}));
}

TEST(StudyTables, OneSeedHasNoSpreadAndArmsHaveTablesOfTheirOwn) {
  std::vector<RunSummary> runs{student("T1w_Sw", 0, 80), student("T1w_Sw_p1", 0, 81), student("T1s_Sw_p1", 0, 83)};
  const auto tables = study_tables(group_runs(runs), "r2");
  const Table *plain = find_table(tables, "R2 shapes, 1 teacher: accuracy"), *arms = find_table(tables, "R2 shapes, 1 teacher, arms: differences");
  ASSERT_TRUE(plain && arms);
  EXPECT_EQ(names_of(*plain), std::vector<std::string>{"T1w_Sw"});
  EXPECT_EQ(cell(*plain, "T1w_Sw", "test_top1_last"), "80.00");
  EXPECT_EQ(cell(*plain, "T1w_Sw", "test_top1_last_ci95"), "–");
  EXPECT_EQ(cell(*arms, "T1s_Sw_p1", "last_minus_weak"), "+2.00") << "against the weak teacher of the same arm";
}

TEST(StudyTables, DatasetsAndSizesAreSections) {
  std::vector<RunSummary> runs{student("T1w_Sw", 0, 80), student("T1w_Sw", 0, 70), student("T1w_Sw", 0, 60)};
  runs[1].train_images = 45;
  runs[2].dataset = "cifar10";
  const auto tables = study_tables(group_runs(runs), "r2");
  for (const char* title : {"R2 cifar10, 1 teacher: accuracy", "R2 shapes, 45 images, 1 teacher: accuracy", "R2 shapes, 90 images, 1 teacher: accuracy"})
    EXPECT_TRUE(find_table(tables, title)) << title;
}

TEST(StudyTables, TeachersWithTheirAffinity) {
  std::vector<RunSummary> runs = study();
  for (RunSummary& r : runs)
    if (r.name == "T1w") r.affinity = {{"weak_base", r.seed == 0 ? 0.9 : NAN}, {"strong_base", 0.5}}, r.gap = {{"gap", 3}, {"gap_rk", 4}, {"train", 82}};
  const auto tables = study_tables(group_runs(runs), "r1");
  const Table *accuracy = find_table(tables, "R1 shapes, teachers and baselines: accuracy"),
              *affinity = find_table(tables, "R1 shapes, teachers and baselines: affinity"),
              *gap = find_table(tables, "R1 shapes, teachers and baselines: gap and calibration");
  ASSERT_TRUE(accuracy && affinity && gap);
  EXPECT_EQ(names_of(*accuracy), (std::vector<std::string>{"T1w", "only_Sw", "only_Ss"}));
  EXPECT_EQ(cell(*accuracy, "T1w", "epochs"), "3");
  EXPECT_EQ(cell(*accuracy, "T1w", "init"), "–") << "no config.yaml";
  EXPECT_EQ(cell(*accuracy, "T1w", "train_top1"), "82.00 ± 0.00");
  EXPECT_EQ(cell(*affinity, "T1w", "weak_base"), "0.900 (n=1)");
  EXPECT_EQ(cell(*affinity, "only_Sw", "weak_base"), "–");
  EXPECT_EQ(cell(*gap, "T1w", "gap_rk"), "4.00 ± 0.00");
}

TEST(StudyTables, FidelityOfBothDefinitions) {
  std::vector<RunSummary> runs;
  for (int64_t seed : {0, 1}) {
    RunSummary r = student("T1w_T2s_Sw", seed, 80);
    ViewEval& v = r.views["test"];
    for (const char* pair : {"T1-S", "T2-S", "Ens-S", "T1-T2", "Ens-T1", "Ens-T2"})
      v.pairs[pair] = {{"agreement", 0.8}, {"kappa", 0.7}, {"kl_ab", 0.25}, {"mi_plugin", 1.5}};
    v.pairs["Ens-S"]["agreement"] = 0.9;
    v.rk = {{"1Tand1S_f", 0.81},  {"2Tand1S_f", 0.91},  {"T1T2_f", 0.82},        {"2Tand1T_f", 0.83}, {"1Tand1S_kl", 3.5},
            {"1Tand1S_mi", 1.25}, {"1Tand1S_mis", 2.5}, {"T1SandT2S_mis", 2.25}, {"S_entropy", 0.5}};
    v.models["S"].numbers = {{"entropy", 0.375}};
    runs.push_back(r);
  }
  const auto groups = group_runs(runs);
  const auto r4 = study_tables(groups, "r4"), r5 = study_tables(groups, "r5"), r6 = study_tables(groups, "r6");
  const Table* agreement = find_table(r4, "R4 shapes, 2 teachers, test view: agreement");
  ASSERT_TRUE(agreement);
  EXPECT_EQ(cell(*agreement, "T1w_T2s_Sw", "agreement_ens_s_std"), "0.900 ± 0.000");
  EXPECT_EQ(cell(*agreement, "T1w_T2s_Sw", "2Tand1S_f"), "0.910 ± 0.000");
  EXPECT_EQ(cell(*agreement, "T1w_T2s_Sw", "2Tand1T_f"), "0.830 ± 0.000");
  EXPECT_TRUE(find_table(r4, "R4 shapes, 2 teachers, test view: Cohen's κ"));

  const Table *kl = find_table(r5, "R5 shapes, 2 teachers, test view: KL divergence"), *entropy = find_table(r5, "R5 shapes, 2 teachers, test view: entropy");
  ASSERT_TRUE(kl && entropy);
  EXPECT_EQ(names_of(*kl), (std::vector<std::string>{"T1–S", "T2–S", "Ens–S", "T1–T2", "Ens–T1", "Ens–T2"}));
  ASSERT_EQ(kl->columns[7].key, "kl_rk");
  EXPECT_EQ(shown(kl->columns[7], kl->rows[0][7]), "3.500 ± 0.000");
  EXPECT_EQ(shown(kl->columns[7], kl->rows[1][7]), "–") << "the published code has no number of T2 and S";
  EXPECT_EQ(cell(*entropy, "T1w_T2s_Sw", "entropy_s_std"), "0.375 ± 0.000");
  EXPECT_EQ(cell(*entropy, "T1w_T2s_Sw", "entropy_s_rk"), "0.500 ± 0.000");

  ASSERT_EQ(r6.size(), 1u);
  EXPECT_EQ(names_of(r6[0]).back(), "mean T1–S, T2–S");
  EXPECT_EQ(shown(r6[0].columns[7], r6[0].rows.back()[7]), "2.250 ± 0.000");
  EXPECT_EQ(r6[0].columns[7].key, "mis_rk");
}

TEST(StudyTables, OverlapNeverWithoutItsCaveat) {
  std::vector<RunSummary> runs;
  for (const char* name : {"T1w_T2s_Sw", "T1w_T2w_T3w_Sw"}) {
    RunSummary r = student(name, 0, 80);
    r.map_threshold = 0.4, r.sweep_thresholds = {0.2, 0.4};
    for (const char* view : {"test", "train"})
      for (const char* kind : {"random_projection", "pred_class"}) {
        MapEval& m = r.views[view].maps[kind];
        m.iou = {{"T1-S", 0.5}, {"T1-T2", 0.6}}, m.iou_rk = {{"T1-T2", 0.65}}, m.area = {{"S", 0.3}}, m.skipped = {{"T1-S", 4}};
        m.sweep["T1-T2"] = {0.75, 0.5};
        if (r.teachers.size() == 3) m.iou["T1-T2-T3"] = 0.25;
      }
    runs.push_back(r);
  }
  const auto tables = study_tables(group_runs(runs), "r3");
  ASSERT_EQ(tables.size(), 12u) << "two numbers of teachers, two views, three tables";
  for (const Table& t : tables)
    for (Format format : {Format::text, Format::markdown, Format::csv, Format::tsv, Format::latex, Format::html})
      EXPECT_NE(render(t, format).find("Caveat:"), std::string::npos) << t.title;
  const Table* three = find_table(tables, "R3 shapes, 3 teachers, training images: IoU");
  ASSERT_TRUE(three);
  EXPECT_EQ(three->columns[3].key, "iou_t1_t2_t3_std") << "all three first";
  EXPECT_EQ(names_of(*three), (std::vector<std::string>{"pred_class", "random_projection"}));
  EXPECT_EQ(cell(*three, "T1w_T2w_T3w_Sw", "iou_t1_t2_rk"), "0.650");
  EXPECT_EQ(cell(*find_table(tables, "R3 shapes, 2 teachers, test view: mask area, true object, skipped images"), "T1w_T2s_Sw", "skipped_t1_s"), "4.0");
  EXPECT_EQ(cell(*find_table(tables, "R3 shapes, 2 teachers, test view: IoU by threshold"), "T1w_T2s_Sw", "iou_at_0.2"), "0.750");
}

TEST(StudyTables, CalibrationHasItsBins) {
  RunSummary r = student("T1w_Sw", 0, 80);
  ModelEval& s = r.views["test"].models["S"];
  s.numbers = {{"top1", 80}, {"ece", 0.05}, {"ece_rk", 0.1}};
  s.reliability = {{9, 20, 0.9, 0.95}};
  const auto tables = study_tables(group_runs({r}), "r7");
  const Table *calibration = find_table(tables, "R7 shapes, test view: calibration"), *bins = find_table(tables, "R7 shapes, test view: reliability");
  ASSERT_TRUE(calibration && bins);
  EXPECT_EQ(cell(*calibration, "T1w_Sw", "ece_rk"), "0.100");
  EXPECT_EQ(cell(*calibration, "T1w_Sw", "mce"), "–");
  ASSERT_EQ(bins->rows.size(), 1u);
  EXPECT_EQ(bins->rows[0][2].text, "(0.9, 1.0]");
  EXPECT_EQ(cell(*bins, "T1w_Sw", "images"), "20.0");
}

TEST(StudyTables, ZscoreAgainstItsWeightControl) {
  std::vector<RunSummary> runs;
  for (int64_t seed : {0, 1})
    for (auto [arm, zscore, alpha, top1] : {std::tuple{"", false, .6, 50.0},
                                            {"_plain", false, .6, 80.0},
                                            {"_zscore", true, .6, 82.0},
                                            {"_plain_9", false, .1, 70.0},
                                            {"_zscore_9", true, .1, 73.0},
                                            {"_p1", false, .1, 20.0},
                                            {"_zscore_x", true, .3, 60.0},
                                            {"_plain_x", false, .2, 60.0}}) {
      RunSummary r = student(std::string("T1w_T2w_Sw") + arm, seed, top1 + (zscore ? double(seed) : 0));
      r.zscore = zscore, r.alpha = alpha, r.soft_weight = alpha == .6 ? .4 : 9, r.tau = alpha == .6 ? 3 : 2;
      r.views["test"].pairs["Ens-S"] = {{"agreement", zscore ? 0.85 : 0.8}};
      r.views["test"].models["S"].numbers = {{"logit_mean", 0}, {"logit_std", zscore ? 1.5 : 3}};
      runs.push_back(r);
    }
  const auto tables = study_tables(group_runs(runs), "r8");
  const Table *accuracy = find_table(tables, "R8 shapes, z-scored logits: accuracy"), *logits = find_table(tables, "R8 shapes, z-scored logits: logits"),
              *differences = find_table(tables, "R8 shapes, z-scored logits: against its weight control");
  ASSERT_TRUE(accuracy && logits && differences);
  EXPECT_EQ(names_of(*accuracy),
            (std::vector<std::string>{"T1w_T2w_Sw_plain", "T1w_T2w_Sw_zscore", "T1w_T2w_Sw_plain_9", "T1w_T2w_Sw_zscore_9", "T1w_T2w_Sw_zscore_x"}));
  EXPECT_EQ(cell(*accuracy, "T1w_T2w_Sw_zscore_9", "soft_weight"), "9");
  EXPECT_EQ(cell(*logits, "T1w_T2w_Sw_zscore", "logit_std_s"), "1.500 ± 0.000");
  EXPECT_EQ(cell(*differences, "T1w_T2w_Sw_zscore_9", "control"), "T1w_T2w_Sw_plain_9");
  EXPECT_EQ(cell(*differences, "T1w_T2w_Sw_zscore_9", "d_last"), "+3.50 [−2.85, +9.85]");  // 3, 4: 3.5 ± 12.7062 * 0.5
  EXPECT_EQ(cell(*differences, "T1w_T2w_Sw_zscore", "d_agreement"), "+0.050 [+0.050, +0.050]");
  EXPECT_EQ(cell(*differences, "T1w_T2w_Sw_zscore", "d_kl"), "–");
  EXPECT_EQ(cell(*differences, "T1w_T2w_Sw_zscore_x", "control"), "–") << "named alike, of another alpha";
}

TEST(StudyTables, LongTail) {
  RunSummary r = student("T1w_T2w_Sw", 0, 80);
  r.views["test"].models["S"].numbers = {{"top1_many", 90}, {"top1_medium", 50}, {"top1_few", NAN}};
  const auto tables = study_tables(group_runs({r}), "r9");
  ASSERT_EQ(tables.size(), 1u);
  EXPECT_EQ(cell(tables[0], "T1w_T2w_Sw", "top1_many"), "90.00");
  EXPECT_EQ(cell(tables[0], "T1w_T2w_Sw", "top1_few"), "–");
  EXPECT_TRUE(study_tables(group_runs(study()), "r9").empty());
}

TEST(StudyTables, SwitchesWithWhatTheyChange) {
  std::vector<RunSummary> runs;
  for (int64_t seed : {0, 1}) {
    runs.push_back(student("T1w_Sw_base", seed, 80));
    runs.push_back(student("T1w_Sw_p3", seed, 82 + 2 * double(seed)));
    runs.back().train_images = 100;  // no holdout
    runs.push_back(student("T1w_Sw_p27", seed, 70));
    runs.push_back(student("T1w_Ss_p2", seed, 60));  // without a base
    for (RunSummary& r : runs) {
      r.gap = {{"gap", 3}, {"gap_rk", 1}};
      r.views["test"].pairs["T1-S"] = {{"kl_ab", 0.25}};
      r.views["test"].rk = {{"1Tand1S_kl", 2.5}};
    }
    runs.back().gap["gap_rk"] = 100;  // a flipped run says nothing about the others' definitions
  }
  const auto tables = study_tables(group_runs(runs), "r11");
  ASSERT_EQ(tables.size(), 2u);
  ASSERT_EQ(tables[0].rows.size(), 30u);
  EXPECT_EQ(tables[0].rows[29][0].text, "P30");
  EXPECT_EQ(cell(tables[0], "P3", "setting"), "select, data.holdout");
  EXPECT_EQ(cell(tables[0], "P3", "published"), "test_best, 0");
  EXPECT_EQ(cell(tables[0], "P3", "used"), "–, –") << "no config.yaml";
  EXPECT_EQ(names_of(tables[1]), (std::vector<std::string>{"P3", "P6", "P7", "P27"}));
  EXPECT_EQ(cell(tables[1], "P3", "measured"), "top-1: T1w_Sw_p3 − base");
  EXPECT_EQ(cell(tables[1], "P3", "effect"), "+3.000 [−9.706, +15.706]");
  EXPECT_EQ(cell(tables[1], "P6", "effect"), "+2.250 [+2.250, +2.250]");
  EXPECT_EQ(cell(tables[1], "P7", "effect"), "−2.000 [−2.000, −2.000]");
  EXPECT_EQ(cell(tables[1], "P27", "effect"), "−10.000 [−10.000, −10.000]");
}

TEST(StudyTables, VerdictsAreATable) {
  const auto tables = study_tables(group_runs(study()), "r10");
  ASSERT_EQ(tables.size(), 1u);
  EXPECT_TRUE(tables[0].title.starts_with("R10 "));
  EXPECT_EQ(error_of([] { study_tables({}, "r77"); }).substr(0, 24), "table 'r77' is unknown; ");
}

TEST(Published, StandBesideOurs) {
  auto tables = study_tables(group_runs(study()), "r2");
  EXPECT_EQ(add_published(tables, "name,key,value\nT1w_T2s_Sw,test_top1_selected,81.5\nT1w_T2s_Sw,r2/2T/test_top1_last,80\r\nT1w_T2s_Sw,r3/test_top1_last,99\n",
                          "p.csv"),
            "p.csv: not in these tables: line 4");
  const Table* accuracy = find_table(tables, "R2 shapes, 2 teachers: accuracy");
  ASSERT_TRUE(accuracy);
  EXPECT_EQ(cell(*accuracy, "T1w_T2s_Sw", "test_top1_selected_published"), "81.50");
  EXPECT_EQ(cell(*accuracy, "T1w_T2s_Sw", "test_top1_last_published"), "80.00");
  EXPECT_EQ(cell(*accuracy, "T1w_T2w_Sw", "test_top1_selected_published"), "–");
  EXPECT_EQ(cell(*accuracy, "T1w_T2s_Sw", "ens_top1_published"), "no column ens_top1_published");
  render(tables, Format::text);  // rows are as long as the header

  tables = study_tables(group_runs(study()), "r2");
  EXPECT_EQ(add_published(tables, "", ""), "");
  EXPECT_EQ(cell(*find_table(tables, "R2 shapes, 2 teachers: accuracy"), "T1w_T2s_Sw", "test_top1_selected_published"), "–")
      << "a place, and no invented number";
  for (auto [csv, says] : {std::pair{"", "no values"},
                           {"a,b,c\n", "line 1"},
                           {"name,key,value\nx,y\n", "line 2 has 2 fields"},
                           {"name,key,value\nx,y,1.5z\n", "line 2: '1.5z'"},
                           {"name,key,value\nx,y,nan\n", "line 2: 'nan'"},
                           {"name,key,value\nx,y,1\nx,y,2\n", "line 3"},
                           {"name,key,value\nx,y,1\n", "none of its values"}}) {
    const std::string error = error_of([&, csv = std::string(csv)] { add_published(tables, csv, "p.csv"); });
    EXPECT_TRUE(error.starts_with("p.csv: ") && error.find(says) != error.npos && error.find('\n') == error.npos) << error;
  }
}

// ---- from files

class Folder : public testing::Test {
 protected:
  Folder() : root_(std::filesystem::temp_directory_path() / fmt::format("kd_table_test_{}", ::getpid())) { make_directories(root_); }
  ~Folder() override { std::filesystem::remove_all(root_); }
  void write(const Path& inside, const std::string& text) const {
    make_directories((root_ / inside).parent_path());
    std::ofstream(root_ / inside, std::ios::binary) << text;
  }
  Path root_;
};

constexpr const char* kSummary =
    R"({"name":"T1w_T2s_Sw_zscore","kind":"student","dataset":"shapes","seed":3,"test_top1_last":80.5,"test_top1_selected":81,"teachers":["T1w","T2s"],)"
    R"("combine":"mean_probs","alpha":0.1,"soft_weight":9,"tau":2,"zscore":true})";
constexpr const char* kEval =
    R"({"format":2,"views":{"train":{"models":{"S":{"top1":95,"top1_few":null}},"pairs":{"T1-S":{"agreement":0.75}},"rk":{"1Tand1S_f":0.5,"T1T2_mi":null}}},)"
    R"("gap":{"gap":14.5,"gap_rk":13},"affinity":{"weak_base":0.875},)"
    R"("attention":{"threshold":0.4,"sweep_thresholds":[0.2,0.4],"views":{"student_view":{"energy":{"iou":{"T1-T2":0.25},"iou_rk":{"T1-T2":0.375},"area":{"S":0.5},)"
    R"("truth_iou":{"S":0.125},"skipped":{"T1-T2":2},"sweep":{"T1-T2":[0.5,null]}}}}}})";

TEST_F(Folder, Format2IsReadBack) {
  write("a/summary.json", kSummary);
  write("a/analysis/eval.json", kEval);
  const auto runs = find_runs(root_);
  ASSERT_EQ(runs.size(), 1u);
  const RunSummary& r = runs[0];
  EXPECT_EQ(r.combine, "mean_probs");
  EXPECT_EQ(std::tuple(r.alpha, r.soft_weight, r.tau, r.zscore), std::tuple(0.1, 9.0, 2.0, true));
  EXPECT_EQ(model_number(r, "train", "S", "top1"), 95);
  EXPECT_TRUE(std::isnan(model_number(r, "train", "S", "top1_few")) && std::isnan(model_number(r, "test", "S", "top1")));
  EXPECT_EQ(pair_number(r, "train", "T1-S", "agreement"), 0.75);
  EXPECT_EQ(rk_number(r, "train", "1Tand1S_f"), 0.5);
  EXPECT_TRUE(std::isnan(rk_number(r, "train", "T1T2_mi")) && std::isnan(rk_number(r, "test", "1Tand1S_f")));
  EXPECT_EQ(number_in(r.gap, "gap_rk"), 13);
  EXPECT_EQ(number_in(r.affinity, "weak_base"), 0.875);
  EXPECT_EQ(r.sweep_thresholds, (std::vector<double>{0.2, 0.4}));
  EXPECT_EQ(map_number(r, "energy", &MapEval::iou, "T1-T2", "student_view"), 0.25);
  EXPECT_EQ(map_number(r, "energy", &MapEval::iou_rk, "T1-T2", "student_view"), 0.375);
  EXPECT_EQ(map_number(r, "energy", &MapEval::skipped, "T1-T2", "student_view"), 2);
  EXPECT_TRUE(std::isnan(map_number(r, "energy", &MapEval::iou, "T1-T2"))) << "not on the test view";
  const auto& sweep = maps_of(r, "student_view").at("energy").sweep.at("T1-T2");
  ASSERT_EQ(sweep.size(), 2u);
  EXPECT_TRUE(sweep[0] == 0.5 && std::isnan(sweep[1]));
  EXPECT_TRUE(read_gallery(r).items.empty()) << "no gallery.json";

  write("a/analysis/eval.json", R"({"format":3})");
  EXPECT_NE(error_of([&] { find_runs(root_); }).find("format 3"), std::string::npos);
  write("a/analysis/eval.json", R"({"attention":{"sweep_thresholds":["x"]}})");
  EXPECT_NE(error_of([&] { find_runs(root_); }).find("sweep_thresholds"), std::string::npos);
  write("a/summary.json", R"({"name":"x","kind":"student","dataset":"s","seed":0,"test_top1_last":1,"zscore":1})");
  EXPECT_NE(error_of([&] { find_runs(root_); }).find("zscore"), std::string::npos);
}

TEST_F(Folder, TablesGoToAFolderInFourFormats) {
  write("runs/a/summary.json", kSummary);
  write("runs/a/analysis/eval.json", kEval);
  testing::internal::CaptureStdout();
  print_tables(root_ / "runs", {.which = "r2,r4", .trace = true, .paper = true, .out = root_ / "out"});
  const std::string said = testing::internal::GetCapturedStdout();
  EXPECT_NE(said.find("r2: .txt"), said.npos);
  std::vector<std::string> files;
  for (const auto& entry : std::filesystem::directory_iterator(root_ / "out")) files.push_back(entry.path().filename().string());
  std::sort(files.begin(), files.end());
  EXPECT_EQ(files, (std::vector<std::string>{"r2.csv", "r2.md", "r2.tex", "r2.txt", "r4.csv", "r4.md", "r4.tex", "r4.txt"})) << "and no temporary file";
  const std::string text = read_text(root_ / "out" / "r2.txt"), csv = read_text(root_ / "out" / "r4.csv");
  EXPECT_NE(text.find("T1w/T2s → Sw (zscore)  1      81.00           –"), text.npos) << text;
  EXPECT_NE(text.find("[1] " + (root_ / "runs/a").string()), text.npos) << text;
  EXPECT_NE(csv.find("agreement_t1_s_std"), csv.npos);
  EXPECT_NE(csv.find(",runs\r\n"), csv.npos);

  const std::string before = read_text(root_ / "out" / "r2.tex");
  EXPECT_NE(error_of([&] { print_tables(root_ / "runs", {.which = "r2,r9x", .out = root_ / "out"}); }).find("'r9x' is unknown"), std::string::npos);
  EXPECT_EQ(read_text(root_ / "out" / "r2.tex"), before);
}

TEST_F(Folder, WhatCannotBePrintedIsSaid) {
  write("a/summary.json", kSummary);
  auto error = [&](const TableOptions& options) { return error_of([&] { print_tables(root_, options); }); };
  EXPECT_NE(error({.format = "docx"}).find("'docx'"), std::string::npos);
  EXPECT_NE(error({.metrics = "all"}).find("--metrics is 'all'"), std::string::npos);
  EXPECT_NE(error({.published = "p.csv"}).find("--paper"), std::string::npos);
  EXPECT_NE(error({.which = "r4"}).find("no run has what table r4 needs"), std::string::npos);
  write("a/analysis/eval.json", kEval);
  testing::internal::CaptureStdout();
  print_tables(root_, {.format = "csv", .which = "r4", .metrics = "rk"});
  const std::string rk = testing::internal::GetCapturedStdout();
  EXPECT_NE(rk.find("1Tand1S_f"), rk.npos);
  EXPECT_EQ(rk.find("_std"), rk.npos) << rk;
  EXPECT_NE(error({.which = "r6", .metrics = "rk"}).find("r6"), std::string::npos) << "the only number is null";
}

}  // namespace
}  // namespace kd
