// Tables, figures and the report over run directories written here: numbers worked out by hand, formats read back by small parsers of their own,
// hostile names, damaged files.
#include "bench/report.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>
#include <regex>
#include <set>

#include "bench/figures.h"
#include "bench/findings.h"
#include "bench/png.h"
#include "bench/svg.h"
#include "bench/table.h"
#include "data/image.h"
#include "engine/base/check.h"
#include "tests/harness/error_of.h"

namespace kd {
namespace {

using nlohmann::json;

// ---- a tree of runs

class Tree {
 public:
  Tree() : root_(std::filesystem::temp_directory_path() / fmt::format("kd_report_test_{}_{}", ::getpid(), counter_++)) { make_directories(root_); }
  ~Tree() { std::filesystem::remove_all(root_); }
  Path path(const Path& inside = {}) const { return inside.empty() ? root_ : root_ / inside; }
  void write(const Path& inside, const std::string& text) const {
    make_directories((root_ / inside).parent_path());
    std::ofstream(root_ / inside, std::ios::binary) << text;  // no sync to the disk: hundreds of small files
  }

 private:
  static inline int counter_ = 0;
  Path root_;
};

struct RunSpec {
  std::string name = "T1w", kind = "teacher", view = "weak";
  int64_t seed = 0;
  double top1 = 80;
  std::vector<std::string> teachers = {};
  double iou = 0.5, agreement = 0.9;  // of T1 and T2; of the student with either teacher
  bool evaluated = true;
};

json summary_of(const RunSpec& s) {
  return {{"name", s.name},
          {"kind", s.kind},
          {"recipe_id", "0123456789"},
          {"dataset", "shapes"},
          {"arch", "resnet18"},
          {"stem", "cifar"},
          {"width", 0.25},
          {"px", 4},
          {"seed", s.seed},
          {"view", s.view},
          {"teachers", s.teachers},
          {"epochs", 2},
          {"epochs_done", 2},
          {"classes", 3},
          {"train_images", 90},
          {"test_images", 30},
          {"params", 700000},
          {"precision", "fp32"},
          {"select", "holdout"},
          {"selected_epoch", 1},
          {"test_top1_last", s.top1},
          {"test_top1_selected", s.top1 - 0.5},
          {"train_top1_last", s.top1 + 4},
          {"seconds", 30 + s.seed},
          {"img_per_s", 1500},
          {"command", "kd_bench train name=" + s.name}};
}

json pair_of(double agreement) {
  return {{"agreement", agreement}, {"kappa", agreement - 0.02}, {"kl_ab", 0.2},         {"kl_ba", 0.3},   {"js", 0.05},
          {"mi_plugin", 0.9},       {"mi_adjusted", 0.8},        {"mi_normalized", 0.7}, {"mi_soft", 0.6}, {"agreement_when_a_errs", nullptr}};
}

// Images of 4 x 4 pixels, maps of 2 x 2. The true mask is the left half.
json gallery_of(const std::vector<std::string>& models, int64_t px = 4, int items = 2) {
  auto base64 = [](const std::vector<uint8_t>& bytes) {  // the plain way: bit by bit
    std::string bits, out;
    for (uint8_t b : bytes)
      for (int k = 7; k >= 0; --k) bits += char('0' + (b >> k & 1));
    while (bits.size() % 6) bits += '0';
    for (size_t i = 0; i < bits.size(); i += 6)
      out += "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"[std::stoi(bits.substr(i, 6), nullptr, 2)];
    while (out.size() % 4) out += '=';
    return out;
  };
  json list = json::array();
  for (int k = 0; k < items; ++k) {
    std::vector<uint8_t> image(size_t(px * px * 3)), truth(static_cast<size_t>(px * px));
    for (size_t i = 0; i < image.size(); ++i) image[i] = uint8_t(i * 7 + size_t(k) * 31);
    for (size_t i = 0; i < truth.size(); ++i) truth[i] = int64_t(i) % px < px / 2;
    json seen = json::object();
    for (const std::string& m : models) seen[m] = {{"pred", k % 3}, {"conf", 0.75}, {"cam", {1.5, 0.25, -1.0, 0.125}}, {"cam_side", 2}};
    list.push_back({{"index", 10 + k}, {"label", 1}, {"image", base64(image)}, {"truth", base64(truth)}, {"models", seen}});
  }
  return {{"px", px}, {"cam_side", 2}, {"kind", "pred_class"}, {"class_names", {"circle", "square", "star"}}, {"items", list}};
}

json eval_of(const RunSpec& s) {
  json models = json::object(), pairs = json::object(), iou = json::object(), per_model = json::object();
  std::vector<std::string> names{"S"};
  for (size_t i = 0; i < s.teachers.size(); ++i) names.push_back(fmt::format("T{}", i + 1));
  if (names.size() > 2) names.push_back("Ens");
  for (const std::string& name : names)
    models[name] = {{"top1", s.top1},
                    {"nll", 0.5},
                    {"brier", 0.3},
                    {"entropy", 0.4},
                    {"ece", 0.05},
                    {"ece_unweighted", 0.08},
                    {"mce", 0.2},
                    {"mean_confidence", 0.85},
                    {"per_class_top1", {80.0, nullptr, 81.0}},
                    {"reliability", {{{"bin", 8}, {"n", 10}, {"acc", 0.8}, {"conf", 0.85}}, {{"bin", 9}, {"n", 20}, {"acc", 0.9}, {"conf", 0.95}}}}};
  for (size_t i = 1; i < names.size(); ++i) pairs[names[i] + "-S"] = pair_of(s.agreement);
  if (names.size() > 2) pairs["T1-T2"] = pair_of(s.agreement - 0.1);
  std::erase(names, "Ens");
  for (const std::string& name : names) per_model[name] = 0.3;
  for (size_t i = 1; i < names.size(); ++i) iou[names[i] + "-S"] = s.iou + 0.1;
  if (names.size() > 2) iou["T1-T2"] = s.iou;
  const json map{{"iou", iou}, {"area", per_model}, {"truth_iou", per_model}};
  const json view{{"models", models}, {"pairs", pairs}};
  return {{"views", {{"test", view}, {"student_view", view}}},
          {"gap", {{"train", 84.0}, {"test", 80.0}, {"gap", 4.0}}},
          {"attention", {{"threshold", 0.4}, {"kinds", {{"pred_class", map}, {"random_projection", map}}}}},
          {"gallery", gallery_of(names)}};
}

constexpr const char* kEpochs =
    "{\"event\":\"start\",\"pid\":1}\n"
    "{\"event\":\"epoch\",\"epoch\":0,\"lr\":0.1,\"loss\":2.0,\"ce\":2.0,\"kd\":0,\"train_top1\":30,\"holdout_top1\":28,\"test_top1\":29}\n"
    "{\"event\":\"epoch\",\"epoch\":1,\"lr\":0.05,\"loss\":1.0,\"ce\":1.0,\"kd\":0,\"train_top1\":60,\"test_top1\":58}\n";

// What an evaluation writes: the gallery has a file of its own.
void write_analysis(const Tree& tree, const Path& dir, json eval) {
  tree.write(dir / "analysis" / "gallery.json", eval["gallery"].dump());
  eval.erase("gallery");
  tree.write(dir / "analysis" / "eval.json", eval.dump());
}

Path add(const Tree& tree, const RunSpec& s) {
  const Path dir = Path("shapes") / s.name / fmt::format("seed{}", s.seed);
  tree.write(dir / "summary.json", summary_of(s).dump());
  tree.write(dir / "metrics.jsonl", kEpochs);
  if (s.evaluated) write_analysis(tree, dir, eval_of(s));
  return dir;
}

// Two teachers, a baseline and two students, each with three seeds.
void add_study(const Tree& tree) {
  for (int64_t seed : {0, 1, 2}) {
    const double luck = 0.1 * double(seed * seed);
    add(tree, {.name = "T1w", .seed = seed, .top1 = 80 + luck});
    add(tree, {.name = "T2s", .view = "strong", .seed = seed, .top1 = 82 + luck});
    add(tree, {.name = "only_Sw", .kind = "baseline", .seed = seed, .top1 = 78 - luck});
    add(tree, {.name = "T1w_T2w_Sw", .kind = "student", .seed = seed, .top1 = 81, .teachers = {"T1w", "T2w"}, .iou = 0.6, .agreement = 0.90});
    add(tree, {.name = "T1s_T2s_Sw",
               .kind = "student",
               .seed = seed,
               .top1 = 83 + luck,
               .teachers = {"T1s", "T2s"},
               .iou = 0.5 + luck / 10,
               .agreement = 0.85 - luck / 10});
  }
}

void expect_one_line_with(const std::string& message, const std::vector<std::string>& parts) {
  EXPECT_EQ(message.find('\n'), message.npos) << message;
  for (const std::string& part : parts) EXPECT_NE(message.find(part), message.npos) << "no '" << part << "' in: " << message;
}

std::string report_of(const Tree& tree) {
  write_report(tree.path(), tree.path("out/report.html"));
  return read_text(tree.path("out/report.html"));
}

size_t count(const std::string& text, const std::string& part) {
  size_t n = 0;
  for (size_t at = 0; (at = text.find(part, at)) != text.npos; at += part.size()) ++n;
  return n;
}

// ---- a parser of tags: every element closed in order, attributes quoted, no stray '<' or '&'. Empty means well-formed.

std::string markup_fault(const std::string& text, bool html) {
  static const std::regex kTag(R"re(<(/?)([a-zA-Z][a-zA-Z0-9]*)((?:\s+[a-zA-Z_:-]+(?:="[^"<]*")?)*)\s*(/?)>)re");
  static const std::regex kEntity("&(amp|lt|gt|quot|#39);");
  std::vector<std::string> open;
  for (size_t at = 0; at < text.size();) {
    const size_t next = text.find('<', at);
    const std::string words = text.substr(at, next == text.npos ? text.npos : next - at);
    for (size_t k = words.find('&'); k != words.npos; k = words.find('&', k + 1)) {
      std::smatch match;
      const std::string rest = words.substr(k, 8);
      if (!std::regex_search(rest, match, kEntity, std::regex_constants::match_continuous)) return "stray & in: " + words.substr(k, 30);
    }
    if (next == text.npos) break;
    if (html && text.compare(next, 9, "<!DOCTYPE") == 0) {
      at = text.find('>', next) + 1;
      continue;
    }
    std::smatch match;
    const std::string tag = text.substr(next, text.find('>', next) - next + 1);
    if (!std::regex_match(tag, match, kTag)) return "not a tag: " + tag.substr(0, 200);
    at = next + tag.size();
    const std::string name = match[2];
    if (html && (name == "meta" || name == "input" || name == "br")) continue;
    if (match[1] == "/") {
      if (open.empty() || open.back() != name) return fmt::format("</{}> closes {}", name, open.empty() ? "nothing" : open.back());
      open.pop_back();
    } else if (match[4] != "/") {
      open.push_back(name);
      if (html && (name == "script" || name == "style")) at = text.find("</" + name + ">", at);
    }
  }
  return open.empty() ? "" : "not closed: " + open.back();
}

// ---- statistics

TEST(Stat, MeanDeviationAndIntervalByHand) {
  const Stat s = stat_of({90, 91, NAN, 92.5});
  EXPECT_EQ(s.n, 3);
  EXPECT_NEAR(s.mean, 273.5 / 3, 1e-12);
  EXPECT_NEAR(s.sd, std::sqrt(19.0 / 12), 1e-12);                             // squares 49/36 + 1/36 + 64/36 = 19/6, over 2
  EXPECT_NEAR(s.ci95, 4.302653 * std::sqrt(19.0 / 12) / std::sqrt(3), 1e-4);  // t(0.975, 2)
  EXPECT_NEAR(stat_of({1, 2}).ci95, 12.7062 * std::sqrt(0.5) / std::sqrt(2), 1e-4);
  EXPECT_EQ(stat_of({7}).mean, 7);
  EXPECT_TRUE(std::isnan(stat_of({7}).sd) && std::isnan(stat_of({7}).ci95));
  EXPECT_TRUE(std::isnan(stat_of(std::vector<double>{}).mean));
}

TEST(Stat, QuantilesBeyondTheTable) {
  for (auto [n, t] : {std::pair{31, 2.042272}, {32, 2.039513}, {51, 2.008559}, {1001, 1.962339}}) {  // published t(0.975, n - 1)
    std::vector<double> values(static_cast<size_t>(n));
    for (size_t i = 0; i < values.size(); ++i) values[i] = double(i % 2);
    const Stat s = stat_of(values);
    EXPECT_NEAR(s.ci95 / s.sd * std::sqrt(double(n)), t, 2e-4) << n;
  }
}

// ---- formats

Table odd_table() {
  return {.title = "Odd",
          .columns = {{"name", "name"}, {"top1", "top-1 %", Column::Kind::spread, 2, Best::highest}},
          .rows = {{"a, \"b\"\nc", Cell(90.004, 0.5)}, {"模型|x", Cell(90.001, 0.25)}, {"a_b%&#{}\\~^$<", 7.0}, {"", kNotMeasured}}};
}

// RFC 4180 read back: fields, quotes doubled inside quotes, CRLF between records.
std::vector<std::vector<std::string>> parse_csv(const std::string& text) {
  std::vector<std::vector<std::string>> records(1, {""});
  bool quoted = false;
  for (size_t i = 0; i < text.size(); ++i) {
    std::string& field = records.back().back();
    if (quoted) {
      if (text[i] != '"')
        field += text[i];
      else if (i + 1 < text.size() && text[i + 1] == '"')
        field += text[++i];
      else
        quoted = false;
    } else if (text[i] == '"')
      quoted = true;
    else if (text[i] == ',')
      records.back().push_back("");
    else if (text.compare(i, 2, "\r\n") == 0)
      records.push_back({""}), ++i;
    else
      field += text[i];
  }
  records.pop_back();
  return records;
}

TEST(Table, CsvReadsBack) {
  const auto records = parse_csv(render(odd_table(), Format::csv));
  const std::vector<std::vector<std::string>> expected{{"name", "top1", "top1_sd", "top1_ci95", "top1_n"},
                                                       {"a, \"b\"\nc", "90.004", "0.5", "", ""},
                                                       {"模型|x", "90.001", "0.25", "", ""},
                                                       {"a_b%&#{}\\~^$<", "7", "", "", ""},
                                                       {"", "", "", "", ""}};
  EXPECT_EQ(records, expected);
}

TEST(Table, TsvHasOneLineForEachRow) {
  Table table = odd_table();
  table.rows[2][0] = "tab\there";
  const std::string tsv = render(table, Format::tsv);
  EXPECT_EQ(count(tsv, "\n"), 5u);
  EXPECT_EQ(count(tsv, "\t"), 20u);
}

TEST(Table, TextAlignsByTerminalCells) {
  EXPECT_EQ(render({.title = "Odd", .columns = odd_table().columns, .rows = {odd_table().rows[1], {"four", Cell(8.5, 10.0)}}}, Format::text),
            "Odd\n\n"
            "name          top-1 %\n"
            "------  -------------\n"
            "模型|x  90.00 ± 0.25*\n"
            "four    8.50 ± 10.00\n\n");
}

TEST(Table, MarkdownAndLatexEscape) {
  const std::string markdown = render(odd_table(), Format::markdown), latex = render(odd_table(), Format::latex);
  EXPECT_NE(markdown.find("| 模型\\|x | **90.00 ± 0.25** |"), markdown.npos) << markdown;
  EXPECT_NE(markdown.find("&lt;"), markdown.npos);
  EXPECT_NE(latex.find("a\\_b\\%\\&\\#\\{\\}\\textbackslash{}\\textasciitilde{}\\textasciicircum{}\\$$<$ & \\underline{7.00} \\\\"), latex.npos) << latex;
  EXPECT_NE(latex.find("\\textbf{90.00 $\\pm$ 0.50}"), latex.npos) << latex;
  EXPECT_NE(latex.find("-- & -- \\\\"), latex.npos) << latex;
  EXPECT_EQ(count(latex, "\\begin{"), count(latex, "\\end{"));
  for (const char* rule : {"\\toprule", "\\midrule", "\\bottomrule"}) EXPECT_EQ(count(latex, rule), 1u);
}

TEST(Table, BestWithinItsGroup) {
  Table table{.title = "Groups",
              .columns = {{"name", "name"}, {"x", "x", Column::Kind::number, 1, Best::lowest}},
              .rows = {{"a", 1.0}, {"b", 1.04}, {"c", 2.0}, {"d", 9.0}, {"e", 3.0}, {"f", kNotMeasured}},
              .group_starts = {3}};
  std::vector<bool> best;
  for (size_t r = 0; r < table.rows.size(); ++r) best.push_back(is_best(table, r, 1));
  EXPECT_EQ(best, (std::vector<bool>{true, true, false, false, true, false}));  // 1.0 and 1.04 read the same
  table.group_starts = {3, 4};
  EXPECT_FALSE(is_best(table, 3, 1)) << "alone in its group";
  EXPECT_EQ(shown(table.columns[1], -0.04), "0.0");
}

TEST(Table, FormatNames) {
  EXPECT_EQ(format_from_name("md"), Format::markdown);
  expect_one_line_with(error_of([] { format_from_name("docx"); }), {"docx", "latex", "html"});
}

// ---- runs and their tables

TEST(Runs, GroupedAndOrdered) {
  Tree tree;
  add_study(tree);
  const auto groups = group_runs(find_runs(tree.path()));
  std::vector<std::string> labels;
  for (const RunGroup& g : groups) labels.push_back(g.label);
  EXPECT_EQ(labels, (std::vector<std::string>{"T1w", "T2s", "only_Sw", "T1w_T2w_Sw", "T1s_T2s_Sw"}));  // weak before strong
  for (const RunGroup& g : groups) {
    ASSERT_EQ(g.runs.size(), 3u);
    for (int64_t seed : {0, 1, 2}) EXPECT_EQ(g.runs[size_t(seed)].seed, seed);
  }
  EXPECT_EQ(find_runs(tree.path("shapes/T1w/seed1")).size(), 1u);
}

TEST(Runs, AccuracyTableByHand) {
  Tree tree;
  for (auto [seed, top1] : {std::pair{0, 90.0}, {1, 91.0}, {2, 92.5}}) add(tree, {.name = "T1w", .seed = seed, .top1 = top1});
  add(tree, {.name = "T2w", .top1 = 88, .evaluated = false});
  const auto records = parse_csv(render(accuracy_table(group_runs(find_runs(tree.path()))), Format::csv));
  ASSERT_EQ(records.size(), 3u);
  std::map<std::string, std::string> three, one;
  for (size_t c = 0; c < records[0].size(); ++c) three[records[0][c]] = records[1][c], one[records[0][c]] = records[2][c];
  EXPECT_EQ(three["seeds"], "3");
  EXPECT_NEAR(std::stod(three["test_top1_last"]), 91.1666667, 1e-6);
  EXPECT_NEAR(std::stod(three["test_top1_last_sd"]), 1.25830574, 1e-6);
  EXPECT_NEAR(std::stod(three["test_top1_last_ci95"]), 3.12579, 1e-4);
  EXPECT_NEAR(std::stod(three["test_top1_selected"]), 90.6666667, 1e-6);
  EXPECT_NEAR(std::stod(three["gap"]), 4, 1e-9);
  EXPECT_NEAR(std::stod(three["ece"]), 0.05, 1e-9);
  EXPECT_EQ(three["seconds"], "31");
  EXPECT_EQ(one["test_top1_last"], "88");
  for (const char* key : {"test_top1_last_sd", "test_top1_last_ci95", "ece"}) EXPECT_EQ(one[key], "") << key;
  const std::string text = render(accuracy_table(group_runs(find_runs(tree.path()))), Format::text);
  EXPECT_NE(text.find("91.17 ± 1.26*"), text.npos) << text;
}

TEST(Runs, FidelityRowsComparePairs) {
  Tree tree;
  add_study(tree);
  const Table table = fidelity_table(group_runs(find_runs(tree.path())));
  std::vector<std::string> rows;
  for (const auto& row : table.rows) rows.push_back(row[0].text + " " + row[1].text);
  EXPECT_EQ(rows, (std::vector<std::string>{"T1–S T1w_T2w_Sw", "T1–S T1s_T2s_Sw", "T2–S T1w_T2w_Sw", "T2–S T1s_T2s_Sw", "Ens–S T1w_T2w_Sw", "Ens–S T1s_T2s_Sw",
                                            "T1–T2 T1w_T2w_Sw", "T1–T2 T1s_T2s_Sw"}));
  EXPECT_TRUE(is_best(table, 0, 3)) << "0.90 against 0.85";
  EXPECT_FALSE(is_best(table, 1, 3));
  EXPECT_TRUE(fidelity_table(group_runs(find_runs(tree.path("shapes/T1w")))).rows.empty());
}

TEST(Runs, AttentionNeverWithoutItsCaveat) {
  Tree tree;
  add_study(tree);
  const Table table = attention_table(group_runs(find_runs(tree.path())));
  ASSERT_FALSE(table.rows.empty());
  ASSERT_FALSE(table.caveat.empty());
  for (Format format : {Format::text, Format::markdown, Format::csv, Format::tsv, Format::latex}) {
    const std::string out = render(table, format);
    EXPECT_NE(out.find("Caveat:"), out.npos);
    EXPECT_TRUE(std::regex_search(out, std::regex(R"(random\\?_projection)")));
  }
  EXPECT_EQ(table.columns[3].key, "pred_class");
  EXPECT_EQ(table.columns.back().key, "random_projection");
  EXPECT_NE(report_of(tree).find(svg::escape(table.caveat)), std::string::npos);
}

TEST(Runs, DatasetsAreToldApart) {
  Tree tree;
  json a = summary_of({}), b = a, c = a;
  b["dataset"] = "cifar10";
  c["train_images"] = 45;
  tree.write("a/summary.json", a.dump());
  tree.write("b/summary.json", b.dump());
  tree.write("c/summary.json", c.dump());
  std::set<std::string> labels;
  for (const RunGroup& g : group_runs(find_runs(tree.path()))) labels.insert(g.label);
  EXPECT_EQ(labels, (std::set<std::string>{"T1w · shapes · 90 images", "T1w · shapes · 45 images", "T1w · cifar10 · 90 images"}));
}

TEST(Runs, MissingAndDamagedFilesAreNamed) {
  Tree tree;
  expect_one_line_with(error_of([&] { find_runs(tree.path("nothing")); }), {"nothing", "no such folder"});
  expect_one_line_with(error_of([&] { find_runs(tree.path()); }), {tree.path().string(), "summary.json"});
  expect_one_line_with(error_of([&] { write_report(tree.path(), tree.path("r.html")); }), {tree.path().string()});
  EXPECT_FALSE(std::filesystem::exists(tree.path("r.html")));

  const Path dir = add(tree, {.name = "S", .kind = "student", .teachers = {"T1w"}});
  auto with = [&](const Path& file, const std::string& text, const std::vector<std::string>& says) {
    const std::string before = read_text(tree.path(dir / file));
    tree.write(dir / file, text);
    std::vector<std::string> parts = says;
    parts.push_back(tree.path(dir / file).string());
    expect_one_line_with(error_of([&] { write_report(tree.path(), tree.path("r.html")); }), parts);
    tree.write(dir / file, before);
  };
  const json good = summary_of({.name = "S", .kind = "student", .teachers = {"T1w"}});
  with("summary.json", good.dump().substr(0, 100), {"not valid JSON"});
  with("summary.json", "", {"not valid JSON"});
  with("summary.json", "[1]", {"expected an object"});
  with("summary.json", "{\"name\": 1e999}", {"number"});
  for (const char* key : {"name", "kind", "dataset", "seed", "test_top1_last"}) {
    json bad = good;
    bad.erase(key);
    with("summary.json", bad.dump(), {key});
  }
  for (auto [key, value] :
       {std::pair<const char*, json>{"seed", 1.5}, {"name", 3}, {"test_top1_last", "x"}, {"teachers", "T1w"}, {"teachers", {1}}, {"kind", "pupil"}}) {
    json bad = good;
    bad[key] = value;
    with("summary.json", bad.dump(), {key});
  }
  const json eval = eval_of({.name = "S", .kind = "student", .teachers = {"T1w"}});
  with("analysis/eval.json", eval.dump().substr(0, 300), {"not valid JSON"});
  for (const char* where : {"/views", "/views/test/models/S/reliability", "/attention/kinds/pred_class/iou"}) {
    json bad = eval;
    bad[json::json_pointer(where)] = "AA";
    with("analysis/eval.json", bad.dump(), {});
  }
  for (const char* where : {"/items", "/items/0/models/S/cam", "/px", "/items/1/image", "/items/0/truth"}) {
    json bad = eval["gallery"];
    bad[json::json_pointer(where)] = "AA";
    with("analysis/gallery.json", bad.dump(), {});
  }
  with("metrics.jsonl", std::string(kEpochs) + "{\"event\":\"epo", {"line 4"});
  with("metrics.jsonl", "{\"event\":\"epoch\"}\n", {"line 1", "epoch"});
  with("metrics.jsonl", "{\"event\":\"epoch\",\"epoch\":0,\"loss\":\"big\"}\n", {"line 1", "loss"});
  write_report(tree.path(), tree.path("r.html"));  // all is well again
  expect_one_line_with(error_of([&] { write_report(tree.path(), tree.path(dir / "summary.json" / "r.html")); }), {"summary.json"});
}

// ---- findings

std::map<std::string, std::string> readings(const Tree& tree) {
  std::map<std::string, std::string> out;
  for (const auto& row : findings_of(group_runs(find_runs(tree.path()))).hypotheses.rows) out.emplace(row[0].text, row[6].text);
  return out;
}

TEST(Findings, HypothesesFollowTheNumbers) {
  Tree tree;
  add_study(tree);  // strong teachers: IoU 0.6 -> 0.5 .. 0.54, top-1 81 -> 83 .. 83.4, agreement 0.90 -> 0.85 .. 0.81
  auto r = readings(tree);
  EXPECT_EQ(r["H1"], "supported");
  EXPECT_EQ(r["H2"], "supported");
  EXPECT_EQ(r["H3"], "supported");
  EXPECT_EQ(r["H4"].substr(0, 12), "not measured");
  EXPECT_EQ(r["H5"], "undecided: 4 sets of teachers; an interval needs 5") << "the weak ones are the same in every seed";

  for (int64_t seed : {0, 1, 2})  // now strong teachers agree more, help less, and by less than the spread
    add(tree, {.name = "T1s_T2s_Sw",
               .kind = "student",
               .seed = seed,
               .top1 = 81 - 2 * double(seed - 1),
               .teachers = {"T1s", "T2s"},
               .iou = 0.7 + 0.01 * double(seed),
               .agreement = 0.9 + 0.001 * double(seed + 1)});
  r = readings(tree);
  EXPECT_EQ(r["H1"], "contradicted: the effect is the other way round");
  EXPECT_EQ(r["H2"], "undecided: the interval holds 0");
  EXPECT_EQ(r["H3"].substr(0, 9), "undecided");

  for (int64_t seed : {0, 1, 2}) add(tree, {.name = "T1s_T2s_Sw", .kind = "student", .seed = seed, .top1 = 83, .teachers = {"T1s", "T2s"}, .iou = 0.5});
  EXPECT_EQ(readings(tree)["H1"], "undecided: one set of teachers: the same in every seed, or one seed");
}

TEST(Findings, OneSeedDecidesNothing) {
  Tree tree;
  add(tree, {.name = "T1w_T2w_Sw", .kind = "student", .top1 = 81, .teachers = {"T1w", "T2w"}, .iou = 0.6});
  add(tree, {.name = "T1s_T2s_Sw", .kind = "student", .top1 = 85, .teachers = {"T1s", "T2s"}, .iou = 0.3});
  auto r = readings(tree);
  EXPECT_EQ(r["H1"], "undecided: one set of teachers: the same in every seed, or one seed");
  EXPECT_EQ(r["H2"], "undecided: one seed; an interval needs 3");
  const Findings f = findings_of(group_runs(find_runs(tree.path())));
  ASSERT_FALSE(f.warnings.empty());
  const std::string all = fmt::format("{}", fmt::join(f.warnings, "\n"));
  EXPECT_NE(all.find("One seed only, so differences may be luck: T1w_T2w_Sw and T1s_T2s_Sw."), all.npos) << all;
  EXPECT_NE(all.find("no baseline"), all.npos) << all;
}

TEST(Findings, GainIsPairedBySeed) {
  Tree tree;
  for (auto [seed, alone, taught] : {std::tuple{0, 70.0, 72.0}, {1, 80.0, 83.0}, {2, 90.0, 94.0}}) {
    add(tree, {.name = "only_Sw", .kind = "baseline", .seed = seed, .top1 = alone});
    add(tree, {.name = "T1w_Sw", .kind = "student", .seed = seed, .top1 = taught, .teachers = {"T1w"}});
  }
  add(tree, {.name = "only_Sw", .kind = "baseline", .seed = 9, .top1 = 10});  // no partner
  std::string gain;
  for (const auto& s : findings_of(group_runs(find_runs(tree.path()))).sentences)
    if (s.topic == "Gain") gain = s.text;
  EXPECT_NE(gain.find("by +3.00 points (95 % interval +0.52 to +5.48, 3 seeds)"), gain.npos) << gain;  // differences 2, 3, 4
}

// As in the tables: a grid's arms have baselines of their own, and another arm's was trained otherwise.
TEST(Findings, GainIsOverTheBaselineOfTheSameArm) {
  Tree tree;
  for (int64_t seed : {0, 1, 2}) {
    add(tree, {.name = "only_Sw_mixup", .kind = "baseline", .seed = seed, .top1 = 60});
    add(tree, {.name = "only_Sw_plain", .kind = "baseline", .seed = seed, .top1 = 70});
    add(tree, {.name = "T1w_Sw_plain", .kind = "student", .seed = seed, .top1 = 75, .teachers = {"T1w"}});
  }
  std::string gain;
  for (const auto& s : findings_of(group_runs(find_runs(tree.path()))).sentences)
    if (s.topic == "Gain") gain = s.text;
  EXPECT_NE(gain.find("only_Sw_plain, reaches 70.00"), gain.npos) << gain;
}

// ---- figures

TEST(Svg, LineChartPutsPointsWhereTheNumbersSay) {
  const std::string chart =
      svg::line_chart({.label = "l", .width = 400, .height = 300}, {"epoch"}, {"y", 0, 10}, {{"a", svg::kBlue, {0, 1, 2}, {0, 5, 10}, {}, {}}});
  std::vector<std::pair<double, double>> dots;
  static const std::regex kCircle("<circle cx=\"([0-9.]+)\" cy=\"([0-9.]+)\"");
  for (std::sregex_iterator it(chart.begin(), chart.end(), kCircle), end; it != end; ++it) dots.push_back({std::stod((*it)[1]), std::stod((*it)[2])});
  ASSERT_EQ(dots.size(), 3u);
  EXPECT_NEAR(dots[1].first - dots[0].first, dots[2].first - dots[1].first, 0.11);
  EXPECT_NEAR(dots[0].second - dots[1].second, dots[1].second - dots[2].second, 0.11);
  EXPECT_NEAR(dots[2].first, 388, 0.01);   // the right edge
  EXPECT_NEAR(dots[0].second, 258, 0.01);  // the bottom, above 42 px of axis
  EXPECT_GT(dots[0].second, dots[2].second) << "upwards is more";
  for (const char* tick : {">0<", ">2<", ">10<"}) EXPECT_NE(chart.find(tick), chart.npos) << tick;
  EXPECT_EQ(chart.find(">0.5<"), chart.npos) << "epochs are whole";
}

TEST(Svg, EveryChartIsWellFormedAndDeterministic) {
  const double nan = std::nan("");
  const std::string evil = "</svg><script>alert('1')</script>&\"\x01";
  const svg::Figure figure{.label = evil};
  const std::vector<std::function<std::string()>> charts{
      [&] {
        return svg::line_chart(
            figure, {evil}, {evil},
            {{evil, svg::kBlue, {0, 1, 2}, {1, nan, 3}, {0, nan, 2}, {2, nan, 4}}, {"b", svg::kGreen, {0}, {5}, {}, {}, svg::Stroke::dashed}});
      },
      [&] { return svg::line_chart(figure, {"x"}, {"y"}, {}); },
      [&] {
        return svg::line_chart(figure, {"x"}, {"y"}, {{"a", svg::kBlue, {3}, {0}, {}, {}}});
      },
      [&] {
        return svg::scatter_plot(
            figure, {evil}, {evil},
            {{evil, svg::kBlue, 1, 2, 0.1, 0.2, svg::Mark::square}, {"n", svg::kBlue, nan, 1}, {"d", svg::kSky, 1, 2, nan, 0, svg::Mark::diamond}});
      },
      [&] { return svg::scatter_plot(figure, {"x"}, {"y"}, {}); },
      [&] {
        return svg::bar_chart(figure, {evil}, {evil, "b"}, {{evil, svg::kBlue, {1, nan}, {0.1, nan}}, {"t", svg::kSky, {-2, 3}, {}}}, 2);
      },
      [&] { return svg::bar_chart(figure, {"v"}, {}, {}, 2); },
      [&] {
        return svg::dot_plot(figure, {evil}, {evil, "b"}, {{evil, svg::kBlue, {1, nan}, {0.1, nan}}, {"t", svg::kSky, {2, 3}, {}}}, 2);
      },
      [&] {
        return svg::dot_plot(figure, {"v"}, {"a"}, {{"s", svg::kBlue, {5}, {}}}, 2);
      },
      [&] {
        return svg::reliability_diagram(figure, svg::kBlue,
                                        std::vector<svg::ReliabilityBar>{{9, 20, 0.9, 0.95}, {12, 5, 0.5, 0.5}, {3, 0, nan, nan}, {4, 2, nan, 0.4}}, 10);
      },
      [&] {
        return svg::heat_map(figure, {evil, "r"}, {"c", evil}, {1, nan, -5, 99}, 0, 1, 2);
      },
      [&] {
        return svg::heat_map(figure, {"r"}, {"c", "d"}, {-0.5, nan}, -1, 1, 2);
      },
      [&] {
        return svg::overlays({.label = evil, .title = evil, .notes = {evil}},
                             {.id = "i",
                              .png_base64 = "AAAA",
                              .px = 2,
                              .says = evil,
                              .truth = {0, 1, 1, 0},
                              .masks = {{evil, evil, "#fff", {1, 0, 0, 1}}, {"none", "", "#fff", {0, 0, 0, 0}}}});
      },
      [&] {
        return svg::composed(evil, svg::legend({{evil, svg::kBlue, svg::Glyph::square}, {"d", svg::kSky, svg::Glyph::dashes}}, 100),
                             {svg::line_chart(figure, {evil}, {"y"}, {}), svg::heat_map(figure, {"r"}, {"c"}, {nan}, 0, 1, 2)}, 1);
      },
  };
  for (size_t i = 0; i < charts.size(); ++i) {
    const std::string chart = charts[i]();
    EXPECT_EQ(markup_fault(chart, false), "") << "chart " << i;
    EXPECT_EQ(chart, charts[i]());
    EXPECT_EQ(chart.find("<script"), chart.npos);
    EXPECT_EQ(chart.rfind("<svg xmlns=", 0), 0u);
    EXPECT_FALSE(std::regex_search(chart, std::regex("[\" ML](-?nan|-?inf)"))) << "chart " << i << "\n" << chart;
    EXPECT_NE(chart.find("role=\"img\" aria-label=\""), chart.npos);
    EXPECT_EQ(chart.find('\x01'), chart.npos);
  }
}

TEST(Svg, TheFaultFinderFindsFaults) {
  EXPECT_EQ(markup_fault("<svg><g a=\"1\"/><text>x &amp; y</text></svg>", false), "");
  for (const char* bad : {"<svg><g></svg></g>", "<svg>", "</svg>", "<svg a=1></svg>", "<svg>a & b</svg>", "<svg>a < b</svg>", "<svg a=\"<\"></svg>"})
    EXPECT_NE(markup_fault(bad, false), "") << bad;
}

// Every byte of small drawings: a change of the writer shows here, and is looked at, before it changes every figure.
TEST(Svg, GoldenTexts) {
  const std::string scatter = svg::scatter_plot({.label = "a < b", .width = 200, .height = 150, .notes = {"ρ −1"}}, {"x"}, {"y"},
                                                {{"p", svg::kBlue, 0, 1, 0, 0.5, svg::Mark::square}, {"q", svg::kVermilion, 2, 0}});
  EXPECT_EQ(
      scatter,
      R"svg(<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 200 150" width="200" height="150" role="img" aria-label="a &lt; b" font-size="12" fill="currentColor">
<text x="2" y="13" fill-opacity=".72" font-size="11">ρ −1</text>
<path d="M52.9 108L188 108M52.9 80.7L188 80.7M52.9 53.3L188 53.3M52.9 26L188 26" stroke="currentColor" stroke-opacity=".13"/>
<g text-anchor="end" fill-opacity=".72">
<text x="45.9" y="112">0.0</text>
<text x="45.9" y="84.7">0.5</text>
<text x="45.9" y="57.3">1.0</text>
<text x="45.9" y="30">1.5</text>
</g>
<text x="13" y="67" text-anchor="middle" fill-opacity=".72" transform="rotate(-90 13 67)">y</text>
<path d="M52.9 108L188 108" stroke="currentColor" stroke-opacity=".45"/>
<path d="M52.9 26L52.9 108M86.7 26L86.7 108M120.5 26L120.5 108M154.2 26L154.2 108M188 26L188 108" stroke="currentColor" stroke-opacity=".13"/>
<g text-anchor="middle" fill-opacity=".72">
<text x="52.9" y="125">0.0</text>
<text x="86.7" y="125">0.5</text>
<text x="120.5" y="125">1.0</text>
<text x="154.2" y="125">1.5</text>
<text x="188" y="125">2.0</text>
</g>
<text x="120.5" y="143" text-anchor="middle" fill-opacity=".72">x</text>
<path d="M52.9 80.7L52.9 26" stroke="#0072B2" stroke-opacity=".55" stroke-width="1.5"/>
<rect x="48.4" y="48.8" width="9" height="9" fill="#0072B2"><title>p: x 0, y 1</title></rect>
<circle cx="188" cy="108" r="5" fill="#D55E00"><title>q: x 2, y 0</title></circle>
<text x="60.9" y="57.3" fill-opacity=".72" font-size="11">p</text>
<text x="184.5" y="98" fill-opacity=".72" font-size="11">q</text>
</svg>)svg")
      << scatter;

  const std::string open =
      R"svg(<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 100 60" width="100" height="60" role="img" aria-label="h" font-size="12" fill="currentColor">
)svg";
  const std::string cell = R"svg(<text x="37.4" y="14" text-anchor="middle" fill-opacity=".72">a</text>
<text x="79.1" y="14" text-anchor="middle" fill-opacity=".72">b</text>
<text x="8.6" y="45" text-anchor="end" fill-opacity=".72">r</text>
<rect x="17.6" y="23" width="39.7" height="36" fill="#D55E00" fill-opacity="0.60"/>
<rect x="59.3" y="23" width="39.7" height="36" fill="#0072B2" fill-opacity="0.33"/>
<g text-anchor="middle">
<text x="37.4" y="45">−1.0</text>
<text x="79.1" y="45">0.5</text>
</g>
)svg";
  const std::string drawing = svg::heat_map({"h", 100, 60}, {"r"}, {"a", "b"}, {-1, 0.5}, -1, 1, 1);
  EXPECT_EQ(drawing, open + cell + "</svg>") << drawing;

  const std::string file = svg::composed("two", svg::legend({{"k", svg::kSky}}, 80), {drawing, drawing, drawing}, 2);
  std::string expected =
      R"svg(<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 240 195" width="240" height="195" role="img" aria-label="two" font-family="Helvetica,Arial,'DejaVu Sans',sans-serif" font-size="12" fill="#1c2126">
<rect width="100%" height="100%" fill="#ffffff"/>
<g transform="translate(12 12)">
<path d="M2 10L18 10" stroke="#56B4E9" stroke-width="3"/>
<text x="24" y="14">k</text>
</g>
)svg";
  for (const char* place : {"12 47", "128 47", "12 123"}) expected += fmt::format("<g transform=\"translate({})\">\n{}</g>\n", place, cell);
  EXPECT_EQ(file, expected + "</svg>\n") << file;
}

// The signed area of all paths of an outline, holes counting negative, is the number of pixels inside.
TEST(Svg, OutlinesEncloseTheirMask) {
  static const std::regex kPath("<path d=\"M0 0h9v9h-9z([^\"]*)\""), kMove("M(\\d+) (\\d+)|([hv])(-?\\d+)|z");
  uint32_t noise = 7;
  for (int round = 0; round < 40; ++round) {
    std::vector<uint8_t> mask(81);
    for (uint8_t& m : mask) m = ((noise = noise * 1664525u + 1013904223u) >> 16) % 5 < uint32_t(round % 6);
    const std::string drawing =
        svg::overlays({.label = "o"}, {.id = "i", .png_base64 = "", .px = 9, .says = "", .truth = {}, .masks = {{"S", "", "#fff", mask}}});
    std::smatch match;
    ASSERT_TRUE(std::regex_search(drawing, match, kPath)) << drawing;
    const std::string d = match[1];
    int64_t x = 0, y = 0, from_x = 0, from_y = 0, twice = 0;
    for (std::sregex_iterator it(d.begin(), d.end(), kMove), end; it != end; ++it) {
      const std::smatch& m = *it;
      if (m[1].matched) {
        x = from_x = std::stoi(m[1]), y = from_y = std::stoi(m[2]);
      } else if (m[3].matched) {
        const int64_t dx = m[3] == "h" ? std::stoi(m[4]) : 0, dy = m[3] == "v" ? std::stoi(m[4]) : 0;
        twice += x * (y + dy) - (x + dx) * y;
        x += dx, y += dy;
      } else {
        EXPECT_TRUE(x == from_x && y == from_y) << "an open path: " << d;
      }
    }
    EXPECT_EQ(twice, 2 * std::count(mask.begin(), mask.end(), 1)) << "round " << round << ": " << d;
  }
}

TEST(Svg, EmptyDrawingsSaySo) {
  const double nan = std::nan("");
  EXPECT_NE(svg::line_chart({.label = "l"}, {"x"}, {"y"}, {{"a", svg::kBlue, {0, 1}, {nan, nan}, {}, {}}}).find("no data"), std::string::npos);
  EXPECT_NE(svg::scatter_plot({.label = "l"}, {"x"}, {"y"}, {{"p", svg::kBlue, nan, 1}}).find("no data"), std::string::npos);
  EXPECT_EQ(svg::scatter_plot({.label = "l"}, {"x"}, {"y"}, {{"p", svg::kBlue, 1, 1}}).find("no data"), std::string::npos);
}

// ---- PNG

TEST(Png, PixelsComeBack) {
  std::vector<uint8_t> rgb(5 * 3 * 3);
  for (size_t i = 0; i < rgb.size(); ++i) rgb[i] = uint8_t(i * 5);
  const std::vector<uint8_t> file = encode_png(rgb.data(), 5, 3);
  const RgbImage image = decode_image(file, "test.png");
  EXPECT_EQ(image.h, 5);
  EXPECT_EQ(image.w, 3);
  EXPECT_TRUE(std::equal(rgb.begin(), rgb.end(), image.pixels.begin(), image.pixels.end()));
}

TEST(Png, Base64OfTheStandard) {
  auto of = [](const std::string& text) { return base64(std::span(reinterpret_cast<const uint8_t*>(text.data()), text.size())); };
  for (auto [plain, coded] :
       {std::pair{"", ""}, {"f", "Zg=="}, {"fo", "Zm8="}, {"foo", "Zm9v"}, {"foob", "Zm9vYg=="}, {"fooba", "Zm9vYmE="}, {"foobar", "Zm9vYmFy"}})
    EXPECT_EQ(of(plain), coded);
}

TEST(Png, ThumbnailsAverageAreas) {
  std::vector<uint8_t> image(4 * 4 * 3);
  for (size_t i = 0; i < image.size(); ++i) image[i] = uint8_t(i);
  EXPECT_EQ(thumbnail(image, 4, 4), image);
  const std::vector<uint8_t> small = thumbnail(image, 4, 2);
  ASSERT_EQ(small.size(), 12u);
  EXPECT_EQ(small[0], 8);    // (0 + 3 + 12 + 15 + 2) / 4
  EXPECT_EQ(small[11], 40);  // (32 + 35 + 44 + 47 + 2) / 4
}

struct PngSize {
  uint32_t width, height;
};
PngSize png_size(const std::string& file) {  // as the PNG specification lays it out: signature, length, "IHDR", width, height
  EXPECT_EQ(file.substr(0, 8), std::string("\x89PNG\r\n\x1a\n", 8));
  EXPECT_EQ(file.substr(12, 4), "IHDR");
  auto word = [&](size_t at) {
    uint32_t value = 0;
    for (size_t k = 0; k < 4; ++k) value = value << 8 | uint8_t(file[at + k]);
    return value;
  };
  return {word(16), word(20)};
}

TEST(Png, DrawsSvgOnWhiteAtItsScale) {
  const std::string svg = svg::composed("h", "", {svg::heat_map({"h", 100, 60}, {"r"}, {"a"}, {1}, 0, 1, 1)}, 1);
  if (!draws_png()) {
    expect_one_line_with(error_of([&] { draw_png(svg, 2); }), {"librsvg"});
    return;
  }
  const std::vector<uint8_t> bytes = draw_png(svg, 2);
  const PngSize size = png_size(std::string(bytes.begin(), bytes.end()));
  EXPECT_EQ(size.width, 2u * (100 + 24));
  EXPECT_EQ(size.height, 2u * (60 + 24));
  const RgbImage image = decode_image(bytes, "h.png");
  EXPECT_EQ(image.pixels[0], 255) << "the ground is white";
  const auto middle = size_t(((12 + 22 + 19) * 2 * image.w + (12 + 30) * 2) * 3);  // inside the only cell, beside its number
  EXPECT_LT(image.pixels[middle], 130) << "the cell is blue: little red";
  EXPECT_GT(image.pixels[middle + 2], 180);
  expect_one_line_with(error_of([] { draw_png("<svg>", 1); }), {"librsvg"});
}

// ---- what the figures show

std::vector<ReportFigure> all_figures(const Groups& groups) {
  std::vector<ReportFigure> all;
  for (const auto& part : {accuracy_figures(groups), diversity_figures(groups), fidelity_figures(groups), calibration_figures(groups), training_figures(groups),
                           attention_figures(groups), cost_figures(groups)})
    all.insert(all.end(), part.begin(), part.end());
  for (const RunGroup& g : groups)
    for (const ReportFigure& f : experiment_figures(g, groups.size())) all.push_back(f);
  return all;
}
const ReportFigure& figure_named(const std::vector<ReportFigure>& all, const std::string& id) {
  auto it = std::find_if(all.begin(), all.end(), [&](const ReportFigure& f) { return f.id == id; });
  if (it == all.end()) throw Error("no figure " + id);
  return *it;
}

// Four students of two teachers whose numbers make every rank correlation known; each with affinity and few-shot classes.
void add_ranked_study(const Tree& tree) {
  struct Row {
    const char *name, *view;
    double top1, iou, agreement, gap;
  };
  for (const Row& r : {Row{"T1w_T2w_Sw", "weak", 80, 0.60, 0.90, 4},
                       {"T1w_T2s_Sw", "weak", 82, 0.55, 0.85, 3},
                       {"T1s_T2s_Sw", "weak", 83, 0.50, 0.80, 2},
                       {"T1s_T2s_Ss", "strong", 79, 0.45, 0.95, 1}}) {
    const std::string name = r.name;
    const RunSpec spec{.name = name,
                       .kind = "student",
                       .view = r.view,
                       .top1 = r.top1,
                       .teachers = {name.substr(0, 3), name.substr(4, 3)},
                       .iou = r.iou,
                       .agreement = r.agreement};
    const Path dir = add(tree, spec);
    json eval = eval_of(spec);
    eval["gap"]["gap"] = r.gap;
    eval["affinity"] = {{"weak_base", 0.95}, {"weak_test", 0.9}, {"strong_base", 0.85}, {"strong_test", 0.8}};
    eval["views"]["test"]["models"]["S"].update({{"top1_many", 90.0}, {"top1_medium", 70.0}, {"top1_few", 40.0}});
    write_analysis(tree, dir, eval);
  }
}

TEST(Figures, EveryFigureOfTheStudyWithItsNumbers) {
  Tree tree;
  add_ranked_study(tree);
  const auto all = all_figures(group_runs(find_runs(tree.path())));
  std::set<std::string> ids;
  for (const ReportFigure& f : all) {
    EXPECT_TRUE(ids.insert(f.id).second) << f.id << " twice";
    EXPECT_TRUE(std::regex_match(f.id, std::regex("[A-Za-z0-9_.-]+"))) << f.id;
    EXPECT_FALSE(f.panels.empty()) << f.id << ": " << f.missing;
    EXPECT_FALSE(f.data.rows.empty()) << f.id;
    for (const auto& row : f.data.rows) EXPECT_EQ(row.size(), f.data.columns.size()) << f.id;
    const std::string svg = file_svg(f);
    EXPECT_EQ(markup_fault(svg, false), "") << f.id;
    EXPECT_FALSE(std::regex_search(svg, std::regex("[\" MLlhv](-?nan|-?inf)\\b"))) << f.id;
    EXPECT_EQ(svg.find("currentColor"), svg.npos) << f.id;
    EXPECT_EQ(svg.find("no data"), svg.npos) << f.id;
  }
  for (const char* id :
       {"f1", "f2", "f3", "f4", "f5", "f6", "f7", "f8", "long_tail", "divergence", "cost", "f5_T1w_T2s_Sw", "f4_T1w_T2s_Sw", "pairs_T1w_T2s_Sw"})
    EXPECT_EQ(ids.count(id), 1u) << id;

  const ReportFigure& f1 = figure_named(all, "f1");
  ASSERT_EQ(f1.panels.size(), 2u) << "the control beside it";
  EXPECT_EQ(f1.data.rows.size(), 8u);
  // IoU .60 .55 .50 .45 against top-1 80 82 83 79: ranks 4 3 2 1 and 2 3 4 1, squared differences 4 0 4 0: rho = 1 - 6*8/60. Weak view: reversed.
  EXPECT_NE(f1.panels[0].find("Spearman ρ +0.20 (95 %: "), std::string::npos) << f1.panels[0];
  EXPECT_NE(f1.panels[0].find("Spearman ρ −1.00, n = 3, weak view"), std::string::npos) << f1.panels[0];
  EXPECT_NE(f1.panels[0].find("needs three students, n = 1, strong view"), std::string::npos) << f1.panels[0];
  EXPECT_EQ(count(f1.panels[0], svg::kBlue), 3u);
  EXPECT_EQ(count(f1.panels[0], svg::kVermilion), 1u);
  EXPECT_NE(f1.legend.find("2 strong teachers"), std::string::npos);
  EXPECT_EQ(f1.data.rows[1][1].text, "T1w_T2s_Sw");
  EXPECT_EQ(f1.data.rows[1][3].value, 1) << "one of its teachers is strong";
  EXPECT_NE(figure_named(all, "f2").panels[0].find("Spearman ρ −1.00 ("), std::string::npos);
  EXPECT_NE(figure_named(all, "f3").panels[0].find("Spearman ρ +1.00 ("), std::string::npos);
  const Table& affinity = figure_named(all, "f7").data;
  EXPECT_EQ(affinity.columns.size(), 5u);
  EXPECT_NEAR(affinity.rows[0][4].value, 0.8, 1e-12);
}

TEST(Figures, WhatIsMissingIsSaid) {
  Tree tree;
  add(tree, {.name = "T1w_T2w_Sw", .kind = "student", .teachers = {"T1w", "T2w"}, .evaluated = false});
  std::filesystem::remove(tree.path("shapes/T1w_T2w_Sw/seed0/metrics.jsonl"));
  const auto all = all_figures(group_runs(find_runs(tree.path())));
  const std::string html = report_of(tree);
  for (const char* id : {"f1", "f2", "f3", "f4", "f5", "f6", "f7", "f8"}) {
    const ReportFigure& f = figure_named(all, id);
    EXPECT_TRUE(f.panels.empty()) << id;
    ASSERT_FALSE(f.missing.empty()) << id;
    EXPECT_NE(html.find(svg::escape(f.missing)), html.npos) << id << ": " << f.missing;
  }
  EXPECT_NE(figure_named(all, "f1").missing.find("here are 0"), std::string::npos);
}

TEST(Figures, SeveralDataSetsAreNotMixed) {
  Tree tree;
  for (int k = 0; k < 3; ++k)
    for (const char* dataset : {"shapes", "cifar100"}) {
      const RunSpec spec{.name = fmt::format("T1w_T2w_S{}", k), .kind = "student", .top1 = 80.0 + k, .teachers = {"T1w", "T2w"}, .iou = 0.5 + 0.1 * k};
      json summary = summary_of(spec);
      summary["dataset"] = dataset;
      const Path dir = Path(dataset) / spec.name;
      tree.write(dir / "summary.json", summary.dump());
      tree.write(dir / "analysis" / "eval.json", eval_of(spec).dump());
    }
  const auto all = all_figures(group_runs(find_runs(tree.path())));
  for (const char* id : {"f1_shapes", "f1_cifar100", "f8_shapes"}) EXPECT_EQ(figure_named(all, id).panels.empty(), false) << id;
  EXPECT_NE(figure_named(all, "f1_shapes").panels[0].find("n = 3"), std::string::npos);
}

TEST(Figures, MetricMatrixByHand) {
  Tree tree;
  add_ranked_study(tree);
  add(tree, {.name = "T1w", .top1 = 99});  // a teacher: not a student's number
  const MetricMatrix m = metric_matrix(group_runs(find_runs(tree.path())), "test");
  EXPECT_EQ(m.runs, 4u);
  auto rho = [&](const std::string& a, const std::string& b) {
    const auto i = size_t(std::find(m.names.begin(), m.names.end(), a) - m.names.begin()),
               j = size_t(std::find(m.names.begin(), m.names.end(), b) - m.names.begin());
    EXPECT_TRUE(i < m.names.size() && j < m.names.size()) << a << ", " << b;
    return m.rho.at(i * m.names.size() + j);
  };
  EXPECT_NEAR(rho("accuracy", "IoU(T1,T2)"), 0.2, 1e-12);
  EXPECT_NEAR(rho("accuracy", "agreement"), -1, 1e-12);
  EXPECT_NEAR(rho("agreement", "accuracy"), -1, 1e-12);
  EXPECT_NEAR(rho("kappa", "kappa"), 1, 1e-12);
  EXPECT_TRUE(std::isnan(rho("KL(T‖S)", "accuracy"))) << "constant in these runs";
  EXPECT_EQ(std::count(m.names.begin(), m.names.end(), "top-5 overlap"), 0) << "no run has it";
  EXPECT_TRUE(metric_matrix(group_runs(find_runs(tree.path())), "elsewhere").names == (std::vector<std::string>{"gap", "IoU(T1,T2)", "IoU(T,S)"}));
}

// Maps of 2 x 2 on 4 x 4 pixels: enlarged, {1,0,1,0} is above 0.4 exactly in the left half, {1,1,0,0} in the upper one.
TEST(Figures, ImagesAreChosenByRule) {
  const std::vector<double> left{1, 0, 1, 0}, right{0, 1, 0, 1}, upper{1, 1, 0, 0};
  Tree tree;
  const RunSpec spec{.name = "T1w_T2s_Sw", .kind = "student", .teachers = {"T1w", "T2s"}};
  const Path dir = add(tree, spec);
  json eval = eval_of(spec), gallery = gallery_of({"S", "T1", "T2"}, 4, 12);
  for (size_t k = 0; k < 12; ++k) {
    json& models = gallery["items"][k]["models"];
    for (const char* name : {"S", "T1", "T2"}) models[name]["pred"] = 1;  // the label
    models["T1"]["cam"] = models["S"]["cam"] = left;
    models["T2"]["cam"] = k < 5 ? left : k < 10 ? upper : right;  // IoU 1, 1/3, 0
  }
  for (const char* name : {"T1", "T2"}) gallery["items"][0]["models"][name]["pred"] = 2;
  eval["gallery"] = gallery;
  write_analysis(tree, dir, eval);
  const ReportFigure f6 = attention_figures(group_runs(find_runs(tree.path()))).at(0);
  ASSERT_EQ(f6.panels.size(), 8u);
  ASSERT_EQ(f6.data.rows.size(), 24u) << "three models each";
  std::vector<std::string> shown;
  for (size_t i = 0; i < 24; i += 3) {
    ASSERT_EQ(f6.data.rows[i + 1][3].text, "T2");
    shown.push_back(fmt::format("{} {} {:.3f}", f6.data.rows[i][0].value, f6.data.rows[i][2].text, f6.data.rows[i + 1][7].value));
    EXPECT_NEAR(f6.data.rows[i][6].value, 0.5, 1e-12) << "area";
  }
  EXPECT_EQ(shown, (std::vector<std::string>{"20 lowest overlap 0.000", "21 lowest overlap 0.000", "18 median overlap 0.333", "17 median overlap 0.333",
                                             "14 highest overlap 1.000", "13 highest overlap 1.000", "10 student right, teachers wrong 1.000", "15  0.333"}));
  EXPECT_NE(f6.panels[6].find("✗ star"), std::string::npos) << "wrong answers are marked";
}

TEST(Figures, FilesStandAlone) {
  Tree tree;
  add_ranked_study(tree);
  const int64_t figures = write_report(tree.path(), tree.path("out/report.html"), tree.path("out/figures"));
  std::map<std::string, int64_t> files;
  for (const auto& entry : std::filesystem::directory_iterator(tree.path("out/figures"))) ++files[entry.path().extension().string()];
  EXPECT_EQ(files[".svg"], figures);
  EXPECT_EQ(files[".csv"], figures);
  EXPECT_EQ(files[".png"], draws_png() ? figures : 0);
  EXPECT_GE(figures, 8);
  const std::string svg = read_text(tree.path("out/figures/f1.svg"));
  EXPECT_EQ(markup_fault(svg, false), "");
  EXPECT_NE(svg.find("<rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>"), svg.npos);
  const auto records = parse_csv(read_text(tree.path("out/figures/f1.csv")));
  ASSERT_EQ(records.size(), 9u);
  EXPECT_EQ(records[0][4], "iou_t1_t2");
  EXPECT_EQ(records[1][4], "0.6");
  if (draws_png()) {
    std::smatch match;
    ASSERT_TRUE(std::regex_search(svg, match, std::regex("width=\"([0-9.]+)\" height=\"([0-9.]+)\"")));
    const PngSize size = png_size(read_text(tree.path("out/figures/f1.png")));
    EXPECT_EQ(double(size.width), std::ceil(2 * std::stod(match[1])));
    EXPECT_EQ(double(size.height), std::ceil(2 * std::stod(match[2])));
  }
  const std::string html = read_text(tree.path("out/report.html"));
  EXPECT_EQ(count(html, "<figure id="), size_t(figures)) << "what is drawn in the page is what is written";
  EXPECT_EQ(count(html, "data-save=\"svg\""), size_t(figures));
  EXPECT_EQ(count(html, "data-save=\"png\""), size_t(figures));
}

// ---- the report

TEST(Report, WellFormedOfflineSmallAndDeterministic) {
  Tree tree;
  add_study(tree);
  add(tree, {.name = "T1w_T2s_Sw", .kind = "student", .top1 = 82, .teachers = {"T1w", "T2s"}, .iou = 0.55});
  const std::string html = report_of(tree);
  EXPECT_EQ(markup_fault(html, true), "");
  EXPECT_EQ(html, report_of(tree));
  EXPECT_LT(html.size(), size_t(kReportBytes));
  EXPECT_TRUE(html.ends_with("</html>\n"));
  std::string rest = std::regex_replace(html, std::regex("xmlns=\"http://www\\.w3\\.org/2000/svg\""), "");
  for (const char* outside : {"http://", "https://", "src=", "url(", "@import", "<link", "<iframe"}) EXPECT_EQ(rest.find(outside), rest.npos) << outside;
  for (const char* id :
       {"accuracy", "hypotheses", "diversity", "fidelity", "calibration", "training", "attention", "experiments", "cost", "configuration", "reproduce"}) {
    EXPECT_EQ(count(html, fmt::format("<section id=\"{}\">", id)), 1u) << id;
    EXPECT_EQ(count(html, fmt::format("href=\"#{}\"", id)), 1u) << id;
  }
  std::set<std::string> ids;
  size_t buttons = 0;
  static const std::regex kId(" id=\"([^\"]+)\"");
  for (std::sregex_iterator it(html.begin(), html.end(), kId), end; it != end; ++it) EXPECT_TRUE(ids.insert((*it)[1]).second) << "id twice: " << (*it)[1];
  static const std::regex kButton("data-copy=\"([^\"]+)\"");
  for (std::sregex_iterator it(html.begin(), html.end(), kButton), end; it != end; ++it, ++buttons) EXPECT_TRUE(ids.count((*it)[1])) << (*it)[1];
  EXPECT_GT(buttons, 10u);
  EXPECT_GE(count(html, "<svg "), count(html, "<summary>Numbers</summary>"));
  EXPECT_EQ(html.find("\xEF\xBF\xBD"), html.npos) << "a character that pages cannot hold";
}

json gallery_data(const std::string& html) {
  const std::string open = "id=\"gallery-data\">";
  const size_t from = html.find(open);
  if (from == html.npos) return nullptr;
  return json::parse(html.substr(from + open.size(), html.find("</script>", from) - from - open.size()));
}

TEST(Report, GalleryKeepsPixelsMapsAndMasks) {
  Tree tree;
  add(tree, {.name = "T1w_T2s_Sw", .kind = "student", .teachers = {"T1w", "T2s"}});
  add(tree, {.name = "T1w_T2s_Ss", .kind = "student", .view = "strong", .teachers = {"T1w", "T2s"}});
  const json data = gallery_data(report_of(tree)), source = gallery_of({"S", "T1", "T2"});
  ASSERT_EQ(data["galleries"].size(), 2u);
  EXPECT_EQ(data["pictures"].size(), 2u) << "both runs show the same two pictures";
  EXPECT_EQ(data["maps"].size(), 2u) << "one map and one object: all are alike";
  const json& gallery = data["galleries"][0];
  EXPECT_EQ(gallery["models"], (json{"T1", "T2", "S"}));
  ASSERT_EQ(gallery["items"].size(), 2u);
  for (size_t i = 0; i < 2; ++i) {
    const json &item = gallery["items"][i], &from = source["items"][i];
    EXPECT_EQ(data["pictures"][item["picture"].get<size_t>()], from["image"]);
    EXPECT_EQ(data["maps"][item["truth"].get<size_t>()], "MzM=") << "rows 1100 1100 1100 1100, lowest bit first: 0x33 0x33";
    const json& seen = item["models"]["S"];
    EXPECT_EQ(seen[0], from["models"]["S"]["pred"]);
    EXPECT_EQ(seen[1], 0.75);
    EXPECT_EQ(seen[2], 2);
    // 1.5 0.25 -1 0.125 as shares of their range: 1 0.5 0 0.45, times 65535: 0xFFFF 0x8000 0 0x7333, low bytes first
    EXPECT_EQ(data["maps"][seen[3].get<size_t>()], "//8AgAAAM3M=");
  }
}

TEST(Report, HostileNamesStayText) {
  Tree tree;
  const std::string evil = "<script>alert(1)</script><!--gallery-->\"' onload=x & \x02";
  json summary = summary_of({.kind = "student", .teachers = {evil}}), eval = eval_of({.kind = "student", .teachers = {evil}});
  for (const char* key : {"name", "dataset", "arch", "stem", "view", "precision", "select", "command", "recipe_id"}) summary[key] = evil;
  eval["views"]["test"]["models"][evil] = eval["views"]["test"]["models"]["S"];
  eval["views"]["test"]["pairs"][evil] = pair_of(0.5);
  eval["attention"]["kinds"][evil] = eval["attention"]["kinds"]["pred_class"];
  eval["gallery"]["kind"] = evil;
  eval["gallery"]["class_names"] = {evil, evil, evil};
  eval["gallery"]["items"][0]["models"][evil] = eval["gallery"]["items"][0]["models"]["S"];
  eval["gallery"]["items"][1]["models"][evil] = eval["gallery"]["items"][1]["models"]["S"];
  tree.write("a b'c/summary.json", summary.dump());
  write_analysis(tree, "a b'c", eval);
  tree.write("a b'c/metrics.jsonl", kEpochs);
  const std::string html = report_of(tree);
  EXPECT_EQ(markup_fault(html, true), "");
  EXPECT_EQ(count(html, "<script"), 2u) << "the gallery's data and the page's own";
  EXPECT_EQ(html.find("<script>alert"), html.npos);
  EXPECT_EQ(count(html, "<!--"), 0u);
  const json data = gallery_data(html);
  EXPECT_EQ(data["galleries"][0]["class_names"][0], evil);
  EXPECT_NE(html.find("&lt;script&gt;alert(1)&lt;/script&gt;"), html.npos);
  EXPECT_NE(html.find("a b&#39;\\&#39;&#39;c"), html.npos) << "quoted for the shell";
}

TEST(Report, SaysWhatIsMissingAndWhatMakesIt) {
  Tree tree;
  const Path dir = add(tree, {.name = "T1w_Sw", .kind = "student", .teachers = {"T1w"}, .evaluated = false});
  std::filesystem::remove(tree.path(dir / "metrics.jsonl"));
  const std::string html = report_of(tree);
  EXPECT_EQ(markup_fault(html, true), "");
  EXPECT_NE(html.find("kd_bench eval " + tree.path(dir).string()), html.npos);
  EXPECT_NE(html.find(tree.path(dir / "metrics.jsonl").string() + " is missing"), html.npos);
  EXPECT_NE(html.find("No student has been evaluated yet"), html.npos);
  EXPECT_EQ(html.find("gallery-data\""), html.npos);
  EXPECT_NE(html.find("80.00"), html.npos);
}

TEST(Report, LeavesGalleriesOutToStaySmall) {
  Tree tree;
  for (int k = 0; k < 4; ++k) {
    const RunSpec spec{.name = fmt::format("S{}", k), .kind = "student", .teachers = {"T1w"}};
    json eval = eval_of(spec), gallery = gallery_of({"S", "T1"}, 128, 1);
    json items = json::array();
    for (int i = 0; i < 24; ++i) {  // 24 pictures that no other run has, each about 37 kB once it is brought to 96 x 96
      json item = gallery["items"][0];
      std::string image = item["image"];
      uint32_t noise = uint32_t(1000 * k + i);
      for (size_t at = 0; at < image.size() - 4; ++at) image[at] = "ABCDEFGH"[(noise = noise * 1664525u + 1013904223u) >> 29];
      item["image"] = image;
      items.push_back(item);
    }
    gallery["items"] = items;
    eval["gallery"] = gallery;
    const Path dir = add(tree, spec);
    write_analysis(tree, dir, eval);
  }
  const std::string html = report_of(tree);
  EXPECT_LE(html.size(), size_t(kReportBytes));
  const json data = gallery_data(html);
  ASSERT_GE(data["galleries"].size(), 2u);
  EXPECT_LT(data["galleries"].size(), 4u);
  EXPECT_EQ(data["pictures"][0].get<std::string>().size(), size_t(96 * 96 * 3 / 3 * 4));
  EXPECT_NE(html.find("were left out"), html.npos);
}

}  // namespace
}  // namespace kd
