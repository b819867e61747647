// grid: a table of runs as one file: base settings as in any recipe, and a section that says what varies.
//   grid:
//     teachers: {T1w: 1, T2s: [2, 12], T3w: runs/other/T3w/seed0}   # a seed, or one for each of seeds; or a finished run or model file, likewise
//     students: [2T, only_Sw, T1w_T2s_T3w_Ss]    # 1T, 2T, 3T: every combination of that many teachers (4, 8, 16 names); or names
//     seeds: [0, 1]                              # of the students; 0-4 is a list too
//     teacher: {optim.epochs: 20}                # settings of the teachers that are trained here ...
//     teacher_arms: {T2s: {apart: {attention.mode: similarity, attention.weight: 0.5, attention.references: [T1w]}, free: {}}}    # of single ones
//     student: {loss.tau: 4}                     # ... and of students and baselines
//     arms: {plain: {}, zscore: {loss.zscore: true}}   # every student in each variant; the arm's name is added to the run's
//     max_students: 8                            # that are trained side by side; less memory, more groups for more machines
// A name T1{w|s}[_T2{w|s}...]_S{w|s} says which view each teacher was trained on and which one the student and all its teachers are shown; only_Sw
// and only_Ss are baselines without teachers. Runs that see the same batches (verbs.h, batch_stream) form groups, in which a teacher that several
// students learn from is run once a batch.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "engine/base/file.h"
#include "kd/recipe.h"

namespace kd {

struct GridRun {
  Recipe recipe;
  Path dir;
};

struct GridGroup {
  bool teachers = false;          // or students and baselines
  std::vector<size_t> runs = {};  // of Grid::runs; one batch_stream
  std::vector<Path> needs = {};   // run directories of teachers, and of networks whose attention is compared, that must be finished first
};

struct Grid {
  Path file, out;
  std::vector<GridRun> runs = {};      // teachers, then students: by name, arm and seed, in the file's order
  std::vector<GridGroup> groups = {};  // teachers', then students'
};

// Words are key=value as for a recipe, for all runs of the grid; grid.seeds=[0] and the like replace the file's. Input errors are one line.
Grid plan_grid(const Path& file, const std::vector<std::string>& words, const Path& out);

// "2T" as eight names, weak before strong and the student's view varying fastest; a name as itself; empty for anything else.
std::vector<std::string> grid_names(const std::string& what);
// {"T1w", "T2s"} and "weak" of T1w_T2s_Sw.
std::vector<std::string> teachers_of(const std::string& name);
std::string view_of(const std::string& name);

struct RunState {
  enum class Kind : unsigned char { to_do, unfinished, trained, done /* and evaluated */, refused } kind = Kind::to_do;
  int64_t epochs_done = 0;
  std::string note = {};  // who is at it; why it is refused
};
RunState state_of(const GridRun&, double stale_seconds = 300);

// What the grid will do and what it will cost, for people, from what lies in the out folder; nothing is changed.
std::string describe_grid(const Grid&, double stale_seconds = 300);

}  // namespace kd
