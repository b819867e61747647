// Grids: which runs a file names, how they are grouped and shared out, and that a run in a group has the bits of the run alone.
#include "bench/grid.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <map>
#include <set>
#include <thread>

#include "bench/claim.h"
#include "bench/grid_cost.h"
#include "bench/run_dir.h"
#include "bench/runs.h"
#include "bench/verbs.h"
#include "kd/switches.h"
#include "tests/harness/error_of.h"

namespace kd {
namespace {

const char* kTiny =
    "data: {train_size: 60, test_size: 20}\n"
    "model.width: 0.125\n"
    "optim: {batch: 32, epochs: 2, warmup: 0, lr: 0.05}\n";

class GridFile : public testing::Test {
 protected:
  void SetUp() override {
    std::filesystem::remove_all(folder_);
    make_directories(folder_);
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  Path write(const std::string& text) {
    std::ofstream(file_) << text;
    return file_;
  }
  Grid plan(const std::string& text, const std::vector<std::string>& words = {}) { return plan_grid(write(text), words, folder_ / "runs"); }
  void expect_refused(const std::string& text, std::initializer_list<const char*> parts, const std::vector<std::string>& words = {}) {
    const std::string error = error_of([&] { plan(text, words); });
    for (const char* part : parts) EXPECT_NE(error.find(part), std::string::npos) << "'" << part << "' is missing in: " << error;
    EXPECT_EQ(error.find('\n'), std::string::npos) << error;
  }

  Path folder_ = std::filesystem::temp_directory_path() / fmt::format("kd_grid_{}", ::getpid());
  Path file_ = folder_ / "g.yaml";
};

std::vector<std::string> names_of(const Grid& grid) {
  std::vector<std::string> names;
  for (const GridRun& run : grid.runs) names.push_back(run.recipe.name);
  return names;
}

const GridRun& find(const Grid& grid, const std::string& name, int64_t seed) {
  for (const GridRun& run : grid.runs)
    if (run.recipe.name == name && run.recipe.seed == seed) return run;
  throw Error(fmt::format("no run {} with seed {}", name, seed));
}

// ---- Names. ----

TEST(GridNames, AllCombinationsInTheirOrder) {
  EXPECT_EQ(grid_names("1T"), (std::vector<std::string>{"T1w_Sw", "T1w_Ss", "T1s_Sw", "T1s_Ss"}));
  EXPECT_EQ(grid_names("2T"),
            (std::vector<std::string>{"T1w_T2w_Sw", "T1w_T2w_Ss", "T1w_T2s_Sw", "T1w_T2s_Ss", "T1s_T2w_Sw", "T1s_T2w_Ss", "T1s_T2s_Sw", "T1s_T2s_Ss"}));
  const auto three = grid_names("3T");
  ASSERT_EQ(three.size(), 16u);
  EXPECT_EQ(three.front(), "T1w_T2w_T3w_Sw");
  EXPECT_EQ(three[2], "T1w_T2w_T3s_Sw");
  EXPECT_EQ(three.back(), "T1s_T2s_T3s_Ss");
  std::set<std::string> all;
  for (const char* what : {"1T", "2T", "3T"})
    for (const std::string& name : grid_names(what)) {
      EXPECT_TRUE(all.insert(name).second) << name;
      EXPECT_EQ(teachers_of(name).size(), size_t(what[0] - '0')) << name;
      std::string again;  // a name is its teachers and its view
      for (const std::string& t : teachers_of(name)) again += t + "_";
      EXPECT_EQ(again + (view_of(name) == "weak" ? "Sw" : "Ss"), name);
    }
  EXPECT_EQ(all.size(), 28u);
  EXPECT_EQ(grid_names("only_Ss"), std::vector<std::string>{"only_Ss"});
  EXPECT_TRUE(teachers_of("only_Ss").empty());
  EXPECT_EQ(view_of("only_Ss"), "strong");
  EXPECT_EQ(teachers_of("T1w_T2s_T3w_T4s_Sw").size(), 4u);
  for (const char* wrong :
       {"", "4T", "0T", "T1w", "T1x_Sw", "T2w_Sw", "T1w_T3w_Sw", "T1w_T2w", "Sw", "only", "only_Sx", "T1w_Sw_", "T1w__Sw", "_Sw", "T1w_Sw_Sw", "T01w_Sw"})
    EXPECT_TRUE(grid_names(wrong).empty()) << wrong;
}

// ---- Expansion. ----

const char* kSixTeachers = "grid:\n  teachers: {T1w: 1, T1s: 2, T2w: 3, T2s: 4, T3w: 5, T3s: 6}\n";

TEST_F(GridFile, TheWholeTable) {
  const Grid grid = plan(std::string(kSixTeachers) + "  students: [only_Sw, only_Ss, 1T, 2T, 3T]\n  seeds: [0, 1]\n");
  EXPECT_EQ(grid.runs.size(), 6u + 30 * 2);
  const auto names = names_of(grid);
  EXPECT_EQ(std::vector<std::string>(names.begin(), names.begin() + 8),
            (std::vector<std::string>{"T1w", "T1s", "T2w", "T2s", "T3w", "T3s", "only_Sw", "only_Sw"}));
  EXPECT_EQ(std::set<std::string>(names.begin(), names.end()).size(), 36u);
  const std::map<std::string, std::string> seed_of{{"T1w", "seed1"}, {"T1s", "seed2"}, {"T2w", "seed3"}, {"T2s", "seed4"}, {"T3w", "seed5"}, {"T3s", "seed6"}};
  std::set<Path> dirs;
  for (const GridRun& run : grid.runs) {
    EXPECT_TRUE(dirs.insert(run.dir).second) << run.dir;
    EXPECT_EQ(run.dir, run_path(run.recipe, folder_ / "runs"));
    const bool teacher = run.recipe.name.size() == 3;
    EXPECT_EQ(run.recipe.view, run.recipe.name.back() == 'w' ? "weak" : "strong") << run.recipe.name;
    if (teacher) continue;
    const std::vector<std::string> expected = teachers_of(run.recipe.name);
    ASSERT_EQ(run.recipe.teachers.size(), expected.size()) << run.recipe.name;
    for (size_t i = 0; i < expected.size(); ++i)
      EXPECT_EQ(run.recipe.teachers[i], (folder_ / "runs" / "shapes" / expected[i] / seed_of.at(expected[i])).string());
  }
}

TEST_F(GridFile, SettingsStandInLayers) {
  const std::string text =
      "optim: {epochs: 5, batch: 16}\nloss.tau: 2\n"
      "grid:\n  teachers: {T1w: [1, 11]}\n  students: [T1w_Sw, only_Sw]\n  seeds: 0-1\n"
      "  teacher: {optim.epochs: 7}\n  student:\n    optim:\n      epochs: 3\n    loss.tau: 4\n"
      "  arms: {plain: {}, z: {loss.zscore: true, loss.tau: 9}}\n";
  Grid grid = plan(text);
  EXPECT_EQ(names_of(grid), (std::vector<std::string>{"T1w", "T1w", "T1w_Sw_plain", "T1w_Sw_plain", "T1w_Sw_z", "T1w_Sw_z", "only_Sw", "only_Sw"}));
  EXPECT_EQ(find(grid, "T1w", 11).recipe.optim.epochs, 7);
  EXPECT_EQ(find(grid, "T1w_Sw_z", 1).recipe.optim.epochs, 3);
  EXPECT_EQ(find(grid, "T1w_Sw_plain", 1).recipe.loss.tau, 4);
  EXPECT_EQ(find(grid, "T1w_Sw_z", 1).recipe.loss.tau, 9);
  EXPECT_TRUE(find(grid, "T1w_Sw_z", 1).recipe.loss.zscore);
  EXPECT_FALSE(find(grid, "T1w_Sw_plain", 0).recipe.loss.zscore);
  EXPECT_EQ(find(grid, "T1w_Sw_z", 0).recipe.teachers[0], find(grid, "T1w", 1).dir.string()) << "each seed has its own teacher";
  EXPECT_EQ(find(grid, "T1w_Sw_z", 1).recipe.teachers[0], find(grid, "T1w", 11).dir.string());
  for (const GridRun& run : grid.runs) EXPECT_EQ(run.recipe.optim.batch, 16);

  grid = plan(text, {"optim.epochs=2", "grid.student.loss.tau=5", "grid.seeds=[4, 6]", "grid.students=[T1w_Ss]", "grid.teachers.T1w=8", "optim.batch=64"});
  EXPECT_EQ(names_of(grid), (std::vector<std::string>{"T1w", "T1w_Ss_plain", "T1w_Ss_plain", "T1w_Ss_z", "T1w_Ss_z"}));
  for (const GridRun& run : grid.runs) {
    EXPECT_EQ(run.recipe.optim.epochs, 2) << "a word is above the file's roles";
    EXPECT_EQ(run.recipe.optim.batch, 64);
    if (!run.recipe.teachers.empty()) {
      EXPECT_EQ(run.recipe.loss.tau, 5);
    }
  }
  EXPECT_EQ(find(grid, "T1w_Ss_z", 6).recipe.teachers[0], find(grid, "T1w", 8).dir.string()) << "one teacher for all seeds";
  EXPECT_EQ(find(plan(text, {"optim.epochs=2", "grid.teacher.optim.epochs=9"}), "T1w", 1).recipe.optim.epochs, 9);
}

TEST_F(GridFile, PublishedRolesAndPaths) {
  make_directories(folder_ / "T1w" / "seed0" / "ckpt");
  std::ofstream(folder_ / "T1w" / "seed0" / "ckpt" / "best.safetensors") << "x";
  const std::string path = (folder_ / "T1w" / "seed0").string();
  const std::string text = "preset: as-published\ndata: {name: cifar100, imbalance: 100}\ngrid:\n  teachers: {T1w: " + path +
                           ", T2s: 7}\n  students: [T1w_T2s_Sw]\n  seeds: 3\n  teacher: {data.imbalance: 1}\n";
  EXPECT_NE(error_of([&] { plan(text); }).find("is not finished"), std::string::npos);
  std::ofstream(folder_ / "T1w" / "seed0" / "DONE") << "x";
  const Grid grid = plan(text);
  ASSERT_EQ(names_of(grid), (std::vector<std::string>{"T2s", "T1w_T2s_Sw"}));
  EXPECT_EQ(grid.runs[0].recipe.optim.epochs, 61);
  EXPECT_EQ(grid.runs[0].recipe.model.arch, "resnet50");
  EXPECT_EQ(grid.runs[0].recipe.data.imbalance, 1);
  EXPECT_EQ(grid.runs[1].recipe.optim.epochs, 175);
  EXPECT_EQ(grid.runs[1].recipe.data.imbalance, 100);
  EXPECT_EQ(grid.runs[1].recipe.teachers, (std::vector<std::string>{path, grid.runs[0].dir.string()}));
  ASSERT_EQ(grid.groups.size(), 2u);
  EXPECT_EQ(grid.groups[1].needs, std::vector<Path>{grid.runs[0].dir}) << "T1w is there";
}

// ---- Teachers in arms. ----

const char* kAttentionArms =
    "grid:\n  teachers: {T1w: [1, 11], T2w: [3, 13]}\n"
    "  teacher_arms:\n    T2w:\n"
    "      apart: {attention.mode: similarity, attention.weight: 0.5, attention.references: [T1w]}\n"
    "      free: {attention.mode: similarity, attention.references: [T1w]}\n"
    "  students: [only_Sw, T1w_T2w_Sw]\n  seeds: [0, 10]\n";

TEST_F(GridFile, TeachersInArmsAndTheirReferences) {
  const Grid grid = plan(kAttentionArms);
  EXPECT_EQ(names_of(grid), (std::vector<std::string>{"T1w", "T1w", "T2w_apart", "T2w_apart", "T2w_free", "T2w_free", "only_Sw", "only_Sw", "T1w_T2w_Sw_apart",
                                                      "T1w_T2w_Sw_apart", "T1w_T2w_Sw_free", "T1w_T2w_Sw_free"}));
  auto dir = [&](const std::string& name, int64_t seed) { return find(grid, name, seed).dir.string(); };
  EXPECT_EQ(dir("T2w_apart", 13), (folder_ / "runs" / "shapes" / "T2w_apart" / "seed13").string());
  const Recipe apart = find(grid, "T2w_apart", 13).recipe;
  EXPECT_EQ(run_kind(apart), "teacher");
  EXPECT_EQ(apart.attention.weight, 0.5);
  EXPECT_EQ(apart.attention.references, std::vector<std::string>{dir("T1w", 11)}) << "by name and seed";
  EXPECT_EQ(find(grid, "T2w_free", 3).recipe.attention.references, std::vector<std::string>{dir("T1w", 1)});
  EXPECT_EQ(find(grid, "T1w", 1).recipe.attention, Recipe::Attention{});
  EXPECT_EQ(find(grid, "T1w_T2w_Sw_free", 10).recipe.teachers, (std::vector<std::string>{dir("T1w", 11), dir("T2w_free", 13)}));
  EXPECT_EQ(find(grid, "T1w_T2w_Sw_free", 10).recipe.attention, Recipe::Attention{});

  // T1w alone, then both arms of T2w side by side, then the students.
  ASSERT_EQ(grid.groups.size(), 2u + 2 + 2);
  for (const GridGroup& group : grid.groups) {
    const Recipe& first = grid.runs[group.runs[0]].recipe;
    if (first.name == "T1w") {
      EXPECT_TRUE(group.needs.empty());
    } else if (group.teachers) {
      ASSERT_EQ(group.runs.size(), 2u);
      EXPECT_EQ(grid.runs[group.runs[1]].recipe.name, "T2w_free");
      EXPECT_EQ(group.needs, std::vector<Path>{dir("T1w", first.seed - 2)});
      EXPECT_EQ(forwards_of(grid, group).shared, 1);
      EXPECT_EQ(forwards_of(grid, group).alone, 2);
    } else {
      EXPECT_EQ(group.needs.size(), 3u);
      EXPECT_EQ(group.runs.size(), 3u);
    }
  }
  const std::string shown = describe_grid(grid);
  for (const char* part : {"6 teachers and 6 students in 6 groups", "T2w_apart         weak         3  beside T1w/seed1             to do\n",
                           "T1w_T2w_Sw_apart  weak        10  T1w/seed11 T2w_apart/seed13  to do\n", "8 teacher forwards a batch instead of 12"})
    EXPECT_NE(shown.find(part), std::string::npos) << "'" << part << "' is missing in:\n" << shown;

  // With arms of the students; in words; one seed for all.
  EXPECT_EQ(names_of(plan(kAttentionArms, {"grid.seeds=[0, 10]", "grid.arms.z.loss.zscore=true", "grid.arms.plain.loss.zscore=false"})).back(),
            "T1w_T2w_Sw_free_plain");
  EXPECT_EQ(find(plan(kAttentionArms, {"grid.teacher_arms.T2w.apart.attention.weight=2"}), "T2w_apart", 3).recipe.attention.weight, 2);
  const Grid one = plan(kAttentionArms, {"grid.teachers.T1w=7"});
  for (int64_t seed : {3, 13}) EXPECT_EQ(find(one, "T2w_apart", seed).recipe.attention.references, std::vector<std::string>{find(one, "T1w", 7).dir.string()});
  // A student's own comparison: with its teachers, or with one of this grid by name.
  const Grid compared = plan(kAttentionArms, {"grid.arms.like.attention.mode=distance", "grid.arms.like.attention.weight=1",
                                              "grid.arms.other.attention.mode=distance", "grid.arms.other.attention.references=[T2w_free]"});
  EXPECT_EQ(attention_references(find(compared, "T1w_T2w_Sw_apart_like", 0).recipe), find(compared, "T1w_T2w_Sw_apart_like", 0).recipe.teachers);
  EXPECT_EQ(find(compared, "T1w_T2w_Sw_apart_other", 10).recipe.attention.references, std::vector<std::string>{dir("T2w_free", 13)});
}

TEST_F(GridFile, AChainOfReferencesIsTrainedInItsOrder) {
  // All of one seed and view: they see the same batches, and still cannot be trained side by side.
  const Grid grid = plan(
      "grid:\n  teachers: {T1w: 5, T2w: 5, T3w: 5}\n  teacher_arms:\n"
      "    T2w: {a: {attention.mode: similarity, attention.weight: 1, attention.references: [T1w]}}\n"
      "    T3w: {a: {attention.mode: similarity, attention.weight: 1, attention.references: [T2w_a, T1w]}}\n");
  ASSERT_EQ(grid.groups.size(), 3u);
  std::set<Path> there;
  for (const GridGroup& group : grid.groups) {
    ASSERT_EQ(group.runs.size(), 1u);
    EXPECT_EQ(group.needs.size(), there.size());
    for (const Path& need : group.needs) EXPECT_TRUE(there.count(need)) << need;
    there.insert(grid.runs[group.runs[0]].dir);
  }
}

TEST_F(GridFile, AReturningSeedIsOneTeacherForSeveralStudents) {
  const Grid grid = plan("grid:\n  teachers: {T1w: [1, 11, 1], T2w: [3, 13, 13]}\n  students: [T1w_T2w_Sw]\n  seeds: [0, 10, 20]\n");
  EXPECT_EQ(names_of(grid), (std::vector<std::string>{"T1w", "T1w", "T2w", "T2w", "T1w_T2w_Sw", "T1w_T2w_Sw", "T1w_T2w_Sw"}));
  EXPECT_EQ(find(grid, "T1w_T2w_Sw", 20).recipe.teachers, (std::vector<std::string>{find(grid, "T1w", 1).dir.string(), find(grid, "T2w", 13).dir.string()}));
}

// ---- Groups. ----

TEST_F(GridFile, GroupsShareTheirBatches) {
  const std::string text = std::string(kSixTeachers) + "  students: [only_Sw, only_Ss, 1T, 2T, 3T]\n  seeds: [0, 1, 2]\n  max_students: 100\n";
  for (int64_t most : {1, 4, 7, 100}) {
    const Grid grid = plan(text, {fmt::format("grid.max_students={}", most)});
    std::vector<int> times(grid.runs.size(), 0);
    bool students_began = false;
    for (const GridGroup& group : grid.groups) {
      ASSERT_FALSE(group.runs.empty());
      EXPECT_LE(int64_t(group.runs.size()), most);
      std::set<Path> needs;
      for (size_t i : group.runs) {
        ++times[i];
        const Recipe& r = grid.runs[i].recipe;
        EXPECT_EQ(batch_stream(r), batch_stream(grid.runs[group.runs[0]].recipe));
        EXPECT_EQ(run_kind(r) == "teacher", group.teachers);
        for (const std::string& teacher : r.teachers) needs.insert(teacher);
      }
      EXPECT_EQ(std::set<Path>(group.needs.begin(), group.needs.end()), needs);
      students_began |= !group.teachers;
      EXPECT_EQ(group.teachers, !students_began) << "teachers first";
    }
    EXPECT_EQ(times, std::vector<int>(grid.runs.size(), 1)) << "every run in one group";
    if (most != 100) continue;
    ASSERT_EQ(grid.groups.size(), 6u + 2 * 3);  // a view and a seed each
    Forwards sum;
    for (const GridGroup& group : grid.groups) {
      const Forwards f = forwards_of(grid, group);
      sum.shared += f.shared;
      sum.alone += f.alone;
    }
    EXPECT_EQ(sum.shared, 3 * 2 * 6);
    EXPECT_EQ(sum.alone, 3 * (4 * 1 + 8 * 2 + 16 * 3));
  }
  const Grid halves = plan(text, {"grid.max_students=14", "grid.seeds=0"});  // 15 of a view: 7 and 8, not 14 and 1
  for (const GridGroup& group : halves.groups)
    if (!group.teachers) {
      EXPECT_GE(group.runs.size(), 7u);
    }
  const Grid apart = plan(text, {"grid.seeds=0", "grid.students=[T1w_Sw]", "grid.arms.a.loss.tau=2", "grid.arms.b.optim.epochs=3"});
  EXPECT_EQ(apart.groups.size(), 6u + 2) << "an arm with another schedule does not fit in";
}

// ---- Files that are wrong. ----

TEST_F(GridFile, OneLineForEachMistake) {
  const std::string good = "grid:\n  teachers: {T1w: 1, T1s: 2}\n  students: [1T]\n  seeds: [0]\n";
  EXPECT_EQ(plan(good).runs.size(), 6u);
  expect_refused("seed: 1\n", {"g.yaml:1", "'seed'", "grid.seeds"});
  expect_refused("view: weak\n" + good, {"g.yaml:1", "'view'", "grid.students"});
  expect_refused("name: x\n" + good, {"'name'"});
  expect_refused("teachers: [a]\n" + good, {"g.yaml:1", "grid.teachers"});
  expect_refused(good + "  student: {seed: 4}\n", {"g.yaml:5", "'seed'"});
  expect_refused("optim.lr: 0.1\n", {"g.yaml", "no 'grid:' section", "kd_bench train"});
  expect_refused("grid: 3\n", {"g.yaml:1", "'3'"});
  expect_refused("grid: {}\n", {"nothing to run"});
  expect_refused("grid: {students: [1T], seeds: [0]}\n", {"T1w_Sw needs the teacher T1w"});
  expect_refused("grid: {students: [only_Sw]}\n", {"no grid.seeds"});
  expect_refused("grid: {students: [4T], seeds: [0]}\n", {"'4T'", "1T, 2T, 3T"});
  expect_refused("grid: {students: [T1w_T1s_Sw], seeds: [0]}\n", {"'T1w_T1s_Sw'"});
  expect_refused("grid: {students: [1T, T1w_Sw], teachers: {T1w: 1, T1s: 2}, seeds: [0]}\n", {"T1w_Sw", "twice"});
  expect_refused("grid: {students: {a: 1}, seeds: [0]}\n", {"unknown key 'grid.students.a'"});
  for (const char* seeds : {"[]", "[0, 0]", "[a]", "-1", "3-1", "[[0]]", "[1.5]", "~"})
    expect_refused(fmt::format("grid: {{students: [only_Sw], seeds: {}}}\n", seeds), {"g.yaml:1", "grid.seeds"});
  expect_refused("grid: {students: [1T], teachers: [T1w, T1s], seeds: [0]}\n", {"grid.teachers needs a seed or a path"});
  expect_refused("grid: {students: [1T], teachers: {T1w: 1, R50: 2}, seeds: [0]}\n", {"'R50' is no teacher's name"});
  expect_refused("grid: {students: [1T], teachers: {T1w: [1, x/y], T1s: 2}, seeds: [0]}\n", {"T1w needs seeds or paths"});
  expect_refused("grid: {students: [1T], teachers: {T1w: [1, 2], T1s: 3}, seeds: [0, 1, 2]}\n", {"T1w has 2 values for 3 seeds"});
  expect_refused("grid: {students: [1T], teachers: {T1w: nowhere/T1w/seed0, T1s: 3}, seeds: [0]}\n", {"nowhere/T1w/seed0"});
  expect_refused("grid: {students: [2T], teachers: {T1w: 1, T1s: 2, T2w: 1, T2s: 3}, seeds: [0]}\n",
                 {"T1w and T2w would be the same network", "different seeds"});
  expect_refused(good + "  max_students: 0\n", {"g.yaml:5", "grid.max_students"});
  expect_refused(good + "  max_studens: 4\n", {"g.yaml:5", "did you mean grid.max_students?"});
  expect_refused(good + "  xyzzy: 4\n", {"g.yaml:5", "docs/grid.md"});
  expect_refused(good + "  student: {optim.lrr: 1}\n", {"g.yaml:5", "did you mean optim.lr?"});
  expect_refused(good + "  arms: {z: {loss.zscroe: true}}\n", {"g.yaml:5", "did you mean loss.zscore?"});
  expect_refused(good + "  arms: {z: 3}\n", {"g.yaml:5", "grid.arms.z is '3'"});
  expect_refused(good + "  arms: {'a b': {}}\n", {"g.yaml:5", "names a folder"});
  expect_refused("optim.lr: fast\n" + good, {"g.yaml:1", "optim.lr is 'fast'"});
  expect_refused(good, {"command line", "did you mean grid.seeds?"}, {"grid.seedz=3"});
  expect_refused(good, {"command line", "optim.epochs"}, {"optim.epochs=0"});
}

TEST_F(GridFile, OneLineForEachMistakeWithArmsOfTeachers) {
  const std::string good = "grid:\n  teachers: {T1w: [1, 2], T2w: [3, 4]}\n  students: [T1w_T2w_Sw]\n  seeds: [0, 1]\n  teacher_arms:\n    T2w: ";
  const std::string similar = "attention.mode: similarity, attention.weight: 1";
  EXPECT_EQ(plan(good + "{a: {" + similar + ", attention.references: [T1w]}}\n").runs.size(), 6u);
  expect_refused(good + "{a: {" + similar + ", attention.references: [T1s]}}\n", {"g.yaml:6", "T2w_a", "'T1s'", "no teacher that stands before it (T1w)"});
  expect_refused(good + "{a: {" + similar + ", attention.references: [T2w]}}\n", {"g.yaml:6", "'T2w'"});
  expect_refused(good + "{a: {" + similar + "}}\n", {"T2w_a", "nothing to compare with"});
  expect_refused(good + "{a: {attention.weight: 1}}\n", {"T2w_a", "attention.mode is none"});
  expect_refused(good + "{a: {attention.weigth: 1}}\n", {"g.yaml:6", "did you mean attention.weight?"});
  expect_refused(good + "{a: {seed: 1}}\n", {"g.yaml:6", "'seed'"});
  expect_refused(good + "{a: 3}\n", {"g.yaml:6", "grid.teacher_arms.T2w.a is '3'"});
  expect_refused(good + "3\n", {"g.yaml:6", "T2w needs arms"});
  expect_refused(good + "{}\n    T3w: {a: {}}\n", {"g.yaml:6", "needs arms"});
  expect_refused(good + "{a: {}}\n    T3w: {a: {}}\n", {"g.yaml:7", "T3w is not in grid.teachers"});
  expect_refused(good + "{a: {}, b: {}}\n", {"T2w_a and T2w_b would be the same network"});
  expect_refused(good + "{a: {}, b: {attention.mode: similarity, attention.references: [T1w]}}\n", {"T2w_a and T2w_b would be the same network"});
  expect_refused(good + "{a_b: {}, a: {optim.lr: 0.2}}\n  arms: {c: {}, b_c: {loss.tau: 2}}\n", {"two students would be called T1w_T2w_Sw_a_b_c"});
  expect_refused("grid:\n  teachers: {T1w: [1, 2, 5], T2w: [3, 4]}\n  teacher_arms:\n    T2w: {a: {" + similar + ", attention.references: [T1w]}}\n",
                 {"g.yaml:4", "T2w_a: T1w has 3 seeds for 2"});
  expect_refused(good + "{a: {" + similar + ", attention.references: [T1w]}}\n", {"T2w_a with seed 3 would be two networks", "attention.references"},
                 {"grid.teachers.T2w=[3, 3]"});
  expect_refused("attention: {mode: similarity, references: [T1w]}\n" + good + "{a: {}}\n", {"'T1w'", "there is none"});
  make_directories(folder_ / "T2w" / "seed0" / "ckpt");
  for (const char* file : {"DONE", "ckpt/best.safetensors"}) std::ofstream(folder_ / "T2w" / "seed0" / file) << "x";
  const std::string path = (folder_ / "T2w" / "seed0").string();
  expect_refused(good + "{a: {}}\n", {"T2w is not trained here"}, {"grid.teachers.T2w=" + path});
  EXPECT_EQ(find(plan(good + "{a: {" + similar + ", attention.references: [" + path + "]}}\n"), "T2w_a", 3).recipe.attention.references,
            std::vector<std::string>{path});
  std::filesystem::remove(folder_ / "T2w" / "seed0" / "DONE");
  expect_refused(good + "{a: {" + similar + ", attention.references: [" + path + "]}}\n", {"attention reference", "is not finished"});
}

TEST(GridRecipes, OfTheRepository) {
  const Path recipes = KD_GOLDEN_DIR "/../../recipes";
  struct Size {
    size_t teachers, students, groups;
  };
  const std::map<std::string, Size> sizes{
      {"rk/cifar100_1t.yaml", {2, 6, 4}},         {"rk/cifar100_2t.yaml", {4, 10, 6}},    {"rk/cifar100_3t.yaml", {6, 18, 8}},
      {"rk/cifar100_imb100_2t.yaml", {4, 10, 6}}, {"rk/imagenet_lt_2t.yaml", {4, 10, 6}}, {"e1_shapes.yaml", {12, 30, 18}},
      {"e1_shapes_imb.yaml", {12, 30, 18}},       {"e3_shapes.yaml", {12, 36, 18}},       {"ci_grid28.yaml", {6, 30, 8}},
      {"e2_shapes.yaml", {12, 24, 18}},           {"n1_shapes.yaml", {12, 30, 9}},        {"r11_shapes.yaml", {6, 21, 24}}};
  size_t found = 0;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(recipes)) {
    if (entry.path().extension() != ".yaml" || read_text(entry.path()).find("\ngrid:") == std::string::npos) continue;
    const std::string name = std::filesystem::relative(entry.path(), recipes).generic_string();
    ASSERT_TRUE(sizes.count(name)) << name;
    const Size& size = sizes.at(name);
    const Grid grid = plan_grid(entry.path(), {}, "runs");
    size_t teachers = 0;
    for (const GridRun& run : grid.runs) teachers += run_kind(run.recipe) == "teacher";
    EXPECT_EQ(teachers, size.teachers) << name;
    EXPECT_EQ(grid.runs.size() - teachers, size.students) << name;
    EXPECT_EQ(grid.groups.size(), size.groups) << name;
    EXPECT_FALSE(describe_grid(grid).empty());
    ++found;
  }
  EXPECT_EQ(found, sizes.size());
}

Grid grid_of_the_repository(const std::string& name) { return plan_grid(Path(KD_GOLDEN_DIR "/../../recipes") / name, {}, "runs"); }

// In one folder the experiments train what they have in common once, and none is refused for what another left there.
TEST(GridRecipes, ShareTheRunsOfE1) {
  const Grid e1 = grid_of_the_repository("e1_shapes.yaml");
  std::map<Path, const Recipe*> there;
  for (const GridRun& run : e1.runs) there[run.dir] = &run.recipe;
  for (auto [name, shared] :
       {std::pair<const char*, size_t>{"e2_shapes.yaml", 12 + 12}, {"n1_shapes.yaml", 3 + 3}, {"r11_shapes.yaml", 6}, {"e3_shapes.yaml", 12}}) {
    size_t found = 0;
    for (const GridRun& run : grid_of_the_repository(name).runs)
      if (const auto same = there.find(run.dir); same != there.end()) {
        ++found;
        EXPECT_EQ(recipe_difference(*same->second, run.recipe), "") << name << ": " << run.dir;
      }
    EXPECT_EQ(found, shared) << name;
  }
}

TEST(GridRecipes, E2PairsAPoolOfTeachers) {
  std::set<std::vector<std::string>> pairs;
  std::map<std::string, std::set<std::string>> pool;
  std::map<std::string, int> mixes;
  const Grid grid = grid_of_the_repository("e2_shapes.yaml");
  for (const GridRun& run : grid.runs) {
    if (run.recipe.teachers.empty()) continue;
    EXPECT_EQ(run.recipe.view, "weak") << "one view at a time";
    EXPECT_TRUE(pairs.insert(run.recipe.teachers).second) << run.dir;
    ++mixes[run.recipe.name];
    for (const std::string& teacher : run.recipe.teachers) pool[teacher_name(teacher).substr(2)].insert(teacher);
  }
  EXPECT_EQ(pairs.size(), 24u);
  EXPECT_EQ(mixes.size(), 4u);
  EXPECT_EQ(pool["w"].size(), 6u);
  EXPECT_EQ(pool["s"].size(), 6u);
}

// Every switch that has a key has its arm, which sets that key and nothing else.
TEST_F(GridFile, R11FlipsOneSwitchInEachArm) {
  const Grid grid = grid_of_the_repository("r11_shapes.yaml");
  auto values_of = [&](const std::string& arm) {
    std::map<std::string, std::string> values;
    std::ofstream(file_) << to_yaml(find(grid, "T1w_T2s_Ss_" + arm, 0).recipe);
    for (const Setting& s : read_settings(file_))
      if (s.key != "name") values[s.key] = fmt::format("{}", fmt::join(s.values, " "));
    return values;
  };
  const auto base = values_of("base");
  // Of enlarged images, of ImageNet, of whole batches, and what only writes more lines.
  const std::set<std::string> elsewhere{"data.test_interp", "data.randaugment", "optim.last_batch", "published_metrics"};
  size_t arms = 0;
  for (const Switch& s : switches()) {
    std::map<std::string, std::string> published, flipped;
    for (const Switch::Value& v : s.settings)
      if (!elsewhere.count(v.key)) published[v.key] = v.key == "data.cutout" ? "2" : v.published;  // as much of a smaller image
    if (published.empty()) continue;
    ++arms;
    for (const auto& [key, value] : values_of("p" + s.id.substr(1)))
      if (base.at(key) != value) flipped[key] = value;
    EXPECT_EQ(flipped, published) << s.id;
  }
  EXPECT_EQ(arms, 6u);
}

// ---- Costs and the dry run. ----

TEST(NetCost, KnownNetworks) {
  const NetCost r18 = net_cost({.arch = "resnet18", .stem = "imagenet"}, 224, 1000), r50 = net_cost({.arch = "resnet50", .stem = "imagenet"}, 224, 1000);
  EXPECT_EQ(r18.params, 11'689'512);
  EXPECT_EQ(r50.params, 25'557'032);
  EXPECT_EQ(net_cost({.arch = "resnet18", .stem = "imagenet"}, 224, 100).params, 11'227'812);
  EXPECT_NEAR(r18.macs, 1.81e9, 0.01e9);  // torchvision's published counts
  EXPECT_NEAR(r50.macs, 4.09e9, 0.01e9);
  EXPECT_EQ(r18.largest_map, 64 * 112 * 112);
  const NetCost narrow = net_cost({.arch = "resnet18", .stem = "cifar", .width = 0.25}, 32, 10), wide = net_cost({.arch = "resnet18", .stem = "cifar"}, 32, 10);
  EXPECT_NEAR(wide.macs / narrow.macs, 16, 0.2);
  EXPECT_EQ(wide.activations / narrow.activations, 4);
}

TEST_F(GridFile, DryRunSaysWhatIsThere) {
  const std::string text = std::string(kTiny) + "grid:\n  teachers: {T1w: 1, T2s: 2}\n  students: [T1w_T2s_Sw, only_Sw]\n  seeds: [0, 1]\n";
  const Grid grid = plan(text);
  std::string shown = describe_grid(grid);
  auto expect = [&](const char* part) { EXPECT_NE(shown.find(part), std::string::npos) << "'" << part << "' is missing in:\n" << shown; };
  expect("2 teachers and 4 students in 4 groups");
  expect("T1w_T2s_Sw  weak         1  T1w/seed1 T2s/seed2  to do\n");
  expect("only_Sw     weak         0  -                    to do\n");
  expect("0 done, 0 trained, 0 unfinished, 6 to do, 0 refused\n");
  expect("2 instead of 2\n");
  expect("sharing  4 teacher forwards a batch instead of 4");
  expect("time     unknown until the first epoch of a teacher is done in");
  expect("memory   about ");
  expect(" free)\n");
  EXPECT_FALSE(std::filesystem::exists(folder_ / "runs")) << "a dry run leaves nothing";

  // A teacher that is done at 1000 images a second, one that is half done and claimed, a student of another recipe.
  auto fake = [&](const std::string& name, int64_t seed, int64_t epochs, const Recipe& recipe) {
    const Path dir = find(grid, name, seed).dir;
    make_directories(dir / "ckpt");
    std::ofstream(dir / "config.yaml") << to_yaml(recipe);
    std::ofstream(dir / "ckpt" / "state.safetensors") << "x";
    std::ofstream metrics(dir / "metrics.jsonl");
    for (int64_t e = 0; e < epochs; ++e) metrics << fmt::format("{{\"event\":\"epoch\",\"epoch\":{},\"img_per_s\":1000.0}}\n", e);
    return dir;
  };
  const Path done = fake("T1w", 1, 2, find(grid, "T1w", 1).recipe);
  make_directories(done / "analysis");
  std::ofstream(done / "DONE") << "x";
  std::ofstream(done / "analysis" / "eval.json") << "{}";
  const Path half = fake("T2s", 2, 1, find(grid, "T2s", 2).recipe);
  Recipe other = find(grid, "only_Sw", 1).recipe;
  other.optim.lr = 0.5;
  fake("only_Sw", 1, 0, other);
  Claim claim;
  ASSERT_TRUE(claim.take(std::vector<Path>{half}));
  shown = describe_grid(grid);
  expect("T1w         weak         1  -                    done\n");
  expect("unfinished, 1 of 2 epochs, ");
  expect(fmt::format(":{} is at it\n", ::getpid()).c_str());
  expect("REFUSED: holds a run of another recipe (optim.lr is 0.5 and 0.05 now)\n");
  expect("1 done, 0 trained, 1 unfinished, 3 to do, 1 refused\n");
  expect("GMAC/s of 2 teacher runs like these in ");
  // Left: one epoch of a teacher, two of three students with two teachers and three passes each; 54 images an epoch, 26 to evaluate.
  const double macs = net_cost(find(grid, "T1w", 1).recipe.model, 32, 10).macs;
  const double forwards = (3 * 54 + 26) + 3 * 2 * (3 * 54 + 26) + 2 * 2 * 2 * 54;
  expect(fmt::format("time     about {:.0f} s by one process", forwards * macs / (3 * macs * 1000)).c_str());
}

// ---- Claims. ----

class Claims : public GridFile {
 protected:
  // `children` processes do `f(child)`; how many returned true.
  template <class F>
  int count_true(int children, F f) {
    std::vector<pid_t> pids;
    for (int c = 0; c < children; ++c) {
      const pid_t pid = ::fork();
      if (pid == 0) {
        bool ok = false;
        try {
          ok = f(c);
        } catch (...) {
          ::_exit(2);
        }
        ::_exit(ok ? 1 : 0);
      }
      pids.push_back(pid);
    }
    int sum = 0;
    for (pid_t pid : pids) {
      int status = 0;
      ::waitpid(pid, &status, 0);
      EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) < 2) << status;
      sum += WIFEXITED(status) && WEXITSTATUS(status) == 1;
    }
    return sum;
  }
  // Processes that begin together and let go when all have tried; how many won.
  template <class F>
  int race(const Path& place, int children, F try_to_win) {
    make_directories(place);
    auto meet = [&](const char* point, int child) {
      std::ofstream(place / fmt::format("{}{}", point, child)) << "x";
      for (int c = 0; c < children; ++c)
        while (!std::filesystem::exists(place / fmt::format("{}{}", point, c))) ::usleep(100);
    };
    return count_true(children, [&](int child) {
      Claim claim;
      meet("start", child);
      const bool won = try_to_win(claim);
      meet("tried", child);
      return won;
    });
  }
  // A claim of a process of some other machine, touched `age` seconds ago.
  void foreign_claim(const Path& dir, int64_t age) {
    make_directories(dir);
    std::ofstream(dir / "claim") << "host elsewhere\npid 1\nsince 2024-01-01T00:00:00Z\nprocess boot pid:[1] 77\n";
    const timespec then{::time(nullptr) - age, 0}, times[2] = {then, then};
    ASSERT_EQ(::utimensat(AT_FDCWD, (dir / "claim").c_str(), times, 0), 0);
  }
};

TEST_F(Claims, OfTwoProcessesExactlyOneWins) {
  for (int round = 0; round < 20; ++round) {
    const Path place = folder_ / fmt::format("{}", round);
    const std::vector<Path> dirs{place / "a", place / "b"};
    EXPECT_EQ(race(place, 2, [&](Claim& claim) { return claim.take(dirs); }), 1) << "round " << round;
    for (const Path& dir : dirs) EXPECT_EQ(std::distance(std::filesystem::directory_iterator(dir), {}), 0) << "a claim was left behind";
  }
}

TEST_F(Claims, AllOrNothing) {
  const Path a = folder_ / "a", b = folder_ / "b", c = folder_ / "c";
  Claim first, second;
  ASSERT_TRUE(first.take(std::vector<Path>{b}));
  EXPECT_EQ(claimed_by(b).substr(claimed_by(b).find(':')), fmt::format(":{}", ::getpid()));
  EXPECT_FALSE(second.take(std::vector<Path>{a, b, c}));
  EXPECT_EQ(claimed_by(a), "") << "given back";
  EXPECT_EQ(claimed_by(c), "");
  first.release();
  EXPECT_TRUE(second.take(std::vector<Path>{a, b, c}));
  for (const Path& dir : {a, b, c}) EXPECT_NE(claimed_by(dir), "");
  second.release();
  for (const Path& dir : {a, b, c}) EXPECT_EQ(std::distance(std::filesystem::directory_iterator(dir), {}), 0) << dir;
}

TEST_F(Claims, OfADeadProcessIsStaleAtOnce) {
  const Path dir = folder_ / "a";
  EXPECT_EQ(count_true(1, [&](int) { return (new Claim)->take(std::vector<Path>{dir}); }), 1);  // ends without releasing, as after kill -9
  ASSERT_TRUE(std::filesystem::exists(dir / "claim"));
  EXPECT_EQ(claimed_by(dir), "");
  std::vector<std::string> said;
  Claim claim({.say = [&](const std::string& line) { said.push_back(line); }});
  EXPECT_TRUE(claim.take(std::vector<Path>{dir}));
  ASSERT_EQ(said.size(), 1u);
  EXPECT_NE(said[0].find("taken over"), std::string::npos) << said[0];
  EXPECT_NE(said[0].find("is no more"), std::string::npos) << said[0];
}

TEST_F(Claims, OfALivingProcessHereIsGoodAtAnyAge) {
  const Path dir = folder_ / "a";
  Claim first, second;
  ASSERT_TRUE(first.take(std::vector<Path>{dir}));
  const timespec long_ago{1000, 0}, times[2] = {long_ago, long_ago};
  ASSERT_EQ(::utimensat(AT_FDCWD, (dir / "claim").c_str(), times, 0), 0);
  EXPECT_FALSE(second.take(std::vector<Path>{dir}));
}

TEST_F(Claims, OfAnotherMachineIsStaleByAge) {
  const Path dir = folder_ / "a";
  foreign_claim(dir, 100);
  EXPECT_EQ(claimed_by(dir), "elsewhere:1");
  Claim claim;
  EXPECT_FALSE(claim.take(std::vector<Path>{dir}));
  foreign_claim(dir, 400);
  EXPECT_EQ(claimed_by(dir), "");
  EXPECT_NE(claimed_by(dir, 1000), "");
  std::vector<std::string> said;
  Claim patient({.stale_seconds = 1000, .say = [&](const std::string& line) { said.push_back(line); }});
  EXPECT_FALSE(patient.take(std::vector<Path>{dir}));
  Claim other({.say = [&](const std::string& line) { said.push_back(line); }});
  EXPECT_TRUE(other.take(std::vector<Path>{dir}));
  ASSERT_EQ(said.size(), 1u);
  EXPECT_NE(said[0].find("elsewhere:1 has not been heard of for 40"), std::string::npos) << said[0];
  // A claim file that a crash left empty, or that is no claim at all, is stale by age too.
  for (const char* text : {"", "\x01garbage\nhost", "host\npid x\nprocess\n"}) {
    const Path odd = folder_ / "odd";
    make_directories(odd);
    std::ofstream(odd / "claim") << text;
    Claim c;
    EXPECT_FALSE(c.take(std::vector<Path>{odd}));
    const timespec then{::time(nullptr) - 400, 0}, times[2] = {then, then};
    ASSERT_EQ(::utimensat(AT_FDCWD, (odd / "claim").c_str(), times, 0), 0);
    EXPECT_TRUE(c.take(std::vector<Path>{odd}));
  }
}

TEST_F(Claims, OfManyWhoFindAStaleOneExactlyOneWins) {
  for (int round = 0; round < 20; ++round) {
    const Path place = folder_ / fmt::format("{}", round), dir = place / "a";
    foreign_claim(dir, 1000);
    auto try_often = [&](Claim& claim) {
      bool won = false;
      for (int i = 0; i < 20 && !won; ++i) won = claim.take(std::vector<Path>{dir});
      return won;
    };
    EXPECT_EQ(race(place, 6, try_often), 1) << "round " << round;
    EXPECT_EQ(std::distance(std::filesystem::directory_iterator(dir), {}), 0) << "nothing is left of either claim";
  }
}

TEST_F(Claims, BeatAndNoticeTheirLoss) {
  const Path dir = folder_ / "a";
  std::vector<std::string> said;
  Claim claim({.stale_seconds = 10, .beat_seconds = 0.02, .say = [&](const std::string& line) { said.push_back(line); }});
  ASSERT_TRUE(claim.take(std::vector<Path>{dir}));
  const timespec long_ago{1000, 0}, times[2] = {long_ago, long_ago};
  ASSERT_EQ(::utimensat(AT_FDCWD, (dir / "claim").c_str(), times, 0), 0);
  struct stat info {};
  for (int i = 0; i < 500 && (::stat((dir / "claim").c_str(), &info) != 0 || info.st_mtim.tv_sec == 1000); ++i) ::usleep(10000);
  EXPECT_NEAR(double(info.st_mtim.tv_sec), double(::time(nullptr)), 5) << "touched";
  std::filesystem::rename(dir / "claim", dir / "aside");
  foreign_claim(dir, 5000);
  ::usleep(300000);
  claim.release();
  ASSERT_EQ(said.size(), 1u);
  EXPECT_NE(said[0].find("took this over"), std::string::npos) << said[0];
  ASSERT_EQ(::stat((dir / "claim").c_str(), &info), 0) << "somebody else's claim stays";
  EXPECT_GT(::time(nullptr) - info.st_mtim.tv_sec, 4000) << "and was never touched";
}

// ---- Training. ----

TEST_F(GridFile, ARunInAGroupHasTheBitsOfTheRunAlone) {
  const std::string text = std::string(kTiny) +
                           "grid:\n  teachers: {T1w: 1, T2s: 2}\n  students: [only_Sw, T1w_Sw, T1w_T2s_Sw]\n  seeds: [5]\n"
                           "  arms: {plain: {}, z: {loss.zscore: true, optim.momentum: 0.8}}\n";
  for (const char* bn : {"running", "batch"}) {  // batch: a shared teacher's running statistics move
    const Path out = folder_ / bn;
    const Grid grid = plan_grid(write(text), {fmt::format("teacher_bn={}", bn)}, out);
    ASSERT_EQ(grid.groups.size(), 3u);
    const GridGroup& students = grid.groups[2];
    ASSERT_EQ(students.runs.size(), 5u);
    for (const GridGroup& group : grid.groups) {
      std::vector<Recipe> recipes;
      for (size_t i : group.runs) recipes.push_back(grid.runs[i].recipe);
      train_group(recipes, {.out = out, .quiet = true, .command = "test"});
    }
    std::set<std::string> different;
    for (size_t i : students.runs) {
      const Path alone = train_run(grid.runs[i].recipe, {.out = folder_ / "alone" / bn, .quiet = true, .command = "test"});
      for (const char* file : {"last.safetensors", "best.safetensors"}) {
        const std::string bytes = read_text(alone / "ckpt" / file);
        EXPECT_GT(bytes.size(), 100'000u);
        EXPECT_EQ(read_text(grid.runs[i].dir / "ckpt" / file) == bytes, true) << grid.runs[i].recipe.name << " " << file;
        if (std::string(file) == "last.safetensors") different.insert(bytes);
      }
    }
    EXPECT_EQ(different.size(), 5u) << "the runs are not one and the same";
  }
}

TEST_F(GridFile, AttentionInAGridHasTheBitsOfTheRunAlone) {
  const Path file = write(std::string(kTiny) + kAttentionArms + "  arms: {plain: {}, like: {attention.mode: distance, attention.weight: 2}}\n");
  const std::vector<std::string> words{"grid.seeds=[0]", "grid.teachers.T1w=1", "grid.teachers.T2w=3", "grid.students=[T1w_T2w_Sw]"};
  const Path out = folder_ / "runs";
  ASSERT_EQ(run_grid(file, words, {.run = {.out = out, .quiet = true, .command = "kd_bench grid"}, .poll_seconds = 0.01}), 0);
  const Grid grid = plan_grid(file, words, out);
  ASSERT_EQ(grid.runs.size(), 1u + 2 + 4);
  std::set<std::string> different;
  for (const GridRun& run : grid.runs) {
    EXPECT_EQ(state_of(run).kind, RunState::Kind::done) << run.recipe.name;
    const Path alone = train_run(run.recipe, {.out = folder_ / "alone", .quiet = true, .command = "test"});
    const std::string bytes = read_text(alone / "ckpt" / "last.safetensors");
    EXPECT_TRUE(read_text(run.dir / "ckpt" / "last.safetensors") == bytes) << run.recipe.name;
    different.insert(bytes);
    for (const Record& epoch : read_metrics(run.dir / "metrics.jsonl")) {
      const bool compared = run.recipe.attention.mode != "none";
      EXPECT_EQ(find_value(epoch, "attention") != nullptr, compared) << run.recipe.name;
      if (!compared) continue;
      const double value = number_of(epoch, "attention"), loss = number_of(epoch, "loss"), ce = number_of(epoch, "ce"), kd = number_of(epoch, "kd");
      EXPECT_GT(value, 0);
      EXPECT_LT(value, 2);
      const bool student = !run.recipe.teachers.empty();
      EXPECT_NEAR(loss, (student ? 0.6 * ce + 0.4 * kd : ce) + run.recipe.attention.weight * value, 1e-5 * loss) << run.recipe.name;
    }
  }
  EXPECT_EQ(different.size(), grid.runs.size()) << "the runs are not one and the same";

  // Weight 0 only measures: the weights of a teacher that knows nothing of the other.
  Recipe plain = find(grid, "T2w_free", 3).recipe;
  plain.name = "T2w", plain.attention = {};
  const Path path = train_run(plain, {.out = folder_ / "alone", .quiet = true, .command = "test"});
  auto weights = [](const Path& dir) {
    std::vector<float> all;
    for (const NamedTensor& t : read_safetensors(dir / "ckpt" / "last.safetensors").tensors)
      if (t.value.dtype() == DType::f32) all.insert(all.end(), t.value.data<float>(), t.value.data<float>() + t.value.elements());
    return all;
  };
  EXPECT_EQ(weights(path), weights(find(grid, "T2w_free", 3).dir));
  EXPECT_NE(weights(path), weights(find(grid, "T2w_apart", 3).dir));
}

TEST_F(GridFile, ATeacherThatBeginsToMoveIsNotTheReferenceThatStays) {
  // With batch statistics a teacher's forward differs from that of the same file as a reference, alone and in a group.
  const std::string text = std::string(kTiny) +
                           "teacher_bn: batch\ngrid:\n  teachers: {T1w: 1}\n  students: [T1w_Sw]\n  seeds: [5]\n  arms:\n"
                           "    own: {attention.mode: distance, attention.weight: 1}\n"
                           "    named: {attention.mode: distance, attention.weight: 1, attention.references: [T1w]}\n";
  const Grid grid = plan(text);
  std::map<std::string, double> first_epoch;
  for (const GridGroup& group : grid.groups) {
    std::vector<Recipe> recipes;
    for (size_t i : group.runs) recipes.push_back(grid.runs[i].recipe);
    train_group(recipes, {.out = folder_ / "runs", .quiet = true, .command = "test"});
  }
  for (const char* name : {"T1w_Sw_own", "T1w_Sw_named"}) {
    const GridRun& run = find(grid, name, 5);
    first_epoch[name] = number_of(read_metrics(run.dir / "metrics.jsonl").at(0), "attention");
    const Path alone = train_run(run.recipe, {.out = folder_ / "alone", .quiet = true, .command = "test"});
    EXPECT_TRUE(read_text(run.dir / "ckpt" / "last.safetensors") == read_text(alone / "ckpt" / "last.safetensors")) << name;
  }
  EXPECT_GT(std::abs(first_epoch.at("T1w_Sw_own") - first_epoch.at("T1w_Sw_named")), 1e-4);
}

TEST_F(GridFile, AReferenceWithOtherMapsIsRefusedBeforeAnythingIsWritten) {
  const Path file = write(std::string(kTiny) +
                          "data.px: 64\ngrid:\n  teachers: {T1w: 1, T2w: 2}\n  teacher_arms:\n"
                          "    T2w: {a: {attention.mode: similarity, attention.weight: 1, attention.references: [T1w], model.stem: imagenet}}\n");
  testing::internal::CaptureStderr();
  EXPECT_EQ(run_grid(file, {}, {.run = {.out = folder_ / "runs", .quiet = true, .command = "kd_bench grid"}, .poll_seconds = 0.01}), 1);
  const std::string errors = testing::internal::GetCapturedStderr();
  for (const char* part : {"attention reference", "8x8 positions at 64 px", "T2w_a 2x2", "model.stem"})
    EXPECT_NE(errors.find(part), std::string::npos) << errors;
  EXPECT_FALSE(std::filesystem::exists(folder_ / "runs" / "shapes" / "T2w_a" / "seed2" / "config.yaml"));
}

TEST_F(GridFile, AGridRunsToItsEndAndIsThenLeftAlone) {
  const Path file = write(std::string(kTiny) + "grid:\n  teachers: {T1w: 1, T1s: 2}\n  students: [T1w_Sw, T1s_Ss, only_Ss]\n  seeds: [0]\n");
  const GridOptions options{.run = {.out = folder_ / "runs", .quiet = true, .command = "kd_bench grid"}, .poll_seconds = 0.01};
  EXPECT_EQ(run_grid(file, {}, options), 0);
  const Grid grid = plan_grid(file, {}, folder_ / "runs");
  std::map<Path, std::filesystem::file_time_type> written;
  for (const GridRun& run : grid.runs) {
    EXPECT_EQ(state_of(run).kind, RunState::Kind::done) << run.recipe.name;
    EXPECT_FALSE(std::filesystem::exists(run.dir / "claim"));
    for (const auto& entry : std::filesystem::recursive_directory_iterator(run.dir)) written[entry.path()] = entry.last_write_time();
  }
  EXPECT_EQ(find_runs(folder_ / "runs").size(), 5u);
  EXPECT_EQ(run_grid(file, {}, options), 0);
  for (const auto& [path, time] : written) EXPECT_EQ(std::filesystem::last_write_time(path), time) << path;
  // What a kill may leave: a run without its evaluation, one without its end, and a claim of a process that is no more.
  std::filesystem::remove(find(grid, "T1w", 1).dir / "analysis" / "eval.json");
  std::filesystem::remove(find(grid, "only_Ss", 0).dir / "DONE");
  EXPECT_EQ(state_of(find(grid, "T1w", 1)).kind, RunState::Kind::trained);
  EXPECT_EQ(state_of(find(grid, "only_Ss", 0)).kind, RunState::Kind::unfinished);
  const std::string weights = read_text(find(grid, "only_Ss", 0).dir / "ckpt" / "last.safetensors");
  EXPECT_EQ(run_grid(file, {}, options), 0);
  for (const GridRun& run : grid.runs) EXPECT_EQ(state_of(run).kind, RunState::Kind::done) << run.recipe.name;
  EXPECT_TRUE(read_text(find(grid, "only_Ss", 0).dir / "ckpt" / "last.safetensors") == weights);
}

TEST_F(GridFile, OneRunThatFailsTakesNoOtherAlong) {
  const Path file = write(std::string(kTiny) +
                          "grid:\n  teachers: {T1w: 1}\n  students: [T1w_Sw, only_Sw]\n  seeds: [0]\n"
                          "  arms: {good: {}, bad: {loss.alpha: 1000, loss.soft_weight: 1000, optim.momentum: 0.999}, also_good: {loss.tau: 2}}\n");
  const GridOptions options{.run = {.out = folder_ / "runs", .quiet = true, .command = "kd_bench grid"}, .poll_seconds = 0.01};
  testing::internal::CaptureStderr();
  EXPECT_EQ(run_grid(file, {"optim.epochs=6", "optim.lr=0.5"}, options), 1);
  const std::string errors = testing::internal::GetCapturedStderr();
  EXPECT_NE(errors.find("1 of 5 runs failed"), std::string::npos) << errors;
  EXPECT_NE(errors.find("T1w_Sw_bad"), std::string::npos) << errors;
  EXPECT_NE(errors.find("the loss became"), std::string::npos) << errors;
  const Grid grid = plan_grid(file, {"optim.epochs=6", "optim.lr=0.5"}, folder_ / "runs");
  for (const GridRun& run : grid.runs) EXPECT_EQ(state_of(run).kind == RunState::Kind::done, run.recipe.name != "T1w_Sw_bad") << run.recipe.name;
}

TEST_F(GridFile, StudentsOfATeacherThatFailsAreNotBegun) {
  const Path file = write(std::string(kTiny) + "grid:\n  teachers: {T1w: 1, T1s: 2}\n  students: [T1w_Sw, T1s_Ss]\n  seeds: [0]\n");
  const GridOptions options{.run = {.out = folder_ / "runs", .quiet = true, .command = "kd_bench grid"}, .poll_seconds = 0.01};
  make_directories(folder_ / "runs" / "shapes" / "T1s" / "seed2");
  std::ofstream(folder_ / "runs" / "shapes" / "T1s" / "seed2" / "ckpt") << "a file in the way";
  testing::internal::CaptureStderr();
  EXPECT_EQ(run_grid(file, {}, options), 1);
  const std::string errors = testing::internal::GetCapturedStderr();
  for (const char* part : {"1 of 4 runs failed", "T1s/seed2", "(1 runs) was not begun: it needs"}) EXPECT_NE(errors.find(part), std::string::npos) << errors;
  const Grid grid = plan_grid(file, {}, folder_ / "runs");
  EXPECT_EQ(state_of(find(grid, "T1w_Sw", 0)).kind, RunState::Kind::done);
  EXPECT_EQ(state_of(find(grid, "T1s_Ss", 0)).kind, RunState::Kind::to_do);
}

TEST_F(GridFile, NothingWaitsForWhatNeedsAFailedReference) {
  const Path file = write(std::string(kTiny) + kAttentionArms);
  const std::vector<std::string> words{"grid.seeds=[0]", "grid.teachers.T1w=1", "grid.teachers.T2w=3"};
  make_directories(folder_ / "runs" / "shapes" / "T1w" / "seed1");
  std::ofstream(folder_ / "runs" / "shapes" / "T1w" / "seed1" / "ckpt") << "a file in the way";
  testing::internal::CaptureStderr();
  EXPECT_EQ(run_grid(file, words, {.run = {.out = folder_ / "runs", .quiet = true, .command = "kd_bench grid"}, .poll_seconds = 0.01}), 1);
  const std::string errors = testing::internal::GetCapturedStderr();
  for (const char* part : {"1 of 6 runs failed", "group 2 (2 runs) was not begun: it needs", "group 3 (3 runs) was not begun: it needs"})
    EXPECT_NE(errors.find(part), std::string::npos) << errors;
}

TEST_F(GridFile, WaitsForOthersOrLeaves) {
  const Path file = write(std::string(kTiny) + "grid:\n  teachers: {T1w: 1}\n  students: [T1w_Sw]\n  seeds: [0]\n");
  const Grid grid = plan_grid(file, {}, folder_ / "runs");
  Claim other;
  ASSERT_TRUE(other.take(std::vector<Path>{find(grid, "T1w", 1).dir}));
  GridOptions options{.run = {.out = folder_ / "runs", .quiet = true, .command = "kd_bench grid"}, .wait = false, .poll_seconds = 0.01};
  EXPECT_EQ(run_grid(file, {}, options), 0);
  EXPECT_EQ(state_of(find(grid, "T1w_Sw", 0)).kind, RunState::Kind::to_do);
  options.wait = true;
  std::jthread later([&] {
    ::usleep(200000);
    other.release();
  });
  EXPECT_EQ(run_grid(file, {}, options), 0);
  EXPECT_EQ(state_of(find(grid, "T1w_Sw", 0)).kind, RunState::Kind::done);
}

}  // namespace
}  // namespace kd
