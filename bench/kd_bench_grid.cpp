// grid: works off a plan (bench/grid.h), alone or with other processes on machines that share the folder.
//   for every group that is not done: its teachers finished?  its runs unclaimed (bench/claim.h)?  then train_group, then Evaluator
// What is done is read from the run directories every time, so a killed grid, a second process and one that comes back a week later are the same thing.
#include <algorithm>
#include <map>

#include "bench/claim.h"
#include "bench/grid.h"
#include "bench/table.h"
#include "bench/verbs.h"

namespace kd {
namespace {

// What state_of calls done, without the rest that it finds out.
bool is_done(const GridRun& run) { return std::filesystem::exists(run.dir / "DONE") && std::filesystem::exists(run.dir / "analysis" / "eval.json"); }

class Worker {
 public:
  Worker(const Grid& grid, const GridOptions& options)
      : grid_(grid), options_(options), finished_(grid.groups.size(), false), tried_(grid.groups.size(), false) {}

  int work() {
    say(fmt::format("{}: {} runs in {} groups", grid_.file.string(), grid_.runs.size(), grid_.groups.size()));
    bool waiting = false;
    for (;;) {
      const Round round = one_round();
      if (round.worked) {
        waiting = false;
        continue;
      }
      if (round.elsewhere.empty()) break;  // all is done, has failed here, or waits for what has failed here
      if (!options_.wait) {
        say(fmt::format("nothing to take now: {}; the same command goes on later", round.elsewhere));
        return report_failures();
      }
      if (!waiting) say(fmt::format("waiting: {}; --no-wait would leave", round.elsewhere));
      waiting = true;
      std::this_thread::sleep_for(std::chrono::duration<double>(options_.poll_seconds));
    }
    const int code = report_failures();
    if (!options_.run.quiet) print_results();
    return code;
  }

 private:
  struct Round {
    bool worked = false;
    std::string elsewhere = {};  // why this process may yet get something to do
  };

  Round one_round() {
    Round round;
    for (size_t g = 0; g < grid_.groups.size(); ++g) {
      if (finished_[g] || tried_[g] || (finished_[g] = is_finished(g))) continue;
      if (const std::string missing = missing_teacher(grid_.groups[g]); !missing.empty()) {
        if (!will_not_come(missing)) round.elsewhere = fmt::format("group {} needs {}", g + 1, missing);
        continue;
      }
      std::vector<Path> dirs;
      for (size_t i : grid_.groups[g].runs) dirs.push_back(grid_.runs[i].dir);
      Claim claim({.stale_seconds = options_.stale_seconds, .beat_seconds = std::min(30.0, options_.stale_seconds / 4), .say = [this](const std::string& line) {
                     say(line);
                   }});
      if (!claim.take(dirs)) {
        round.elsewhere = fmt::format("group {} is another process's", g + 1);
        continue;
      }
      round.worked = true;
      if (finished_[g] = is_finished(g); finished_[g]) continue;  // by somebody who was quicker
      do_group(g);
    }
    return round;
  }

  // The run directory of the first teacher or reference that is not there yet.
  std::string missing_teacher(const GridGroup& group) const {
    for (const Path& dir : group.needs)
      if (!std::filesystem::exists(dir / "DONE")) return dir.string();
    return "";
  }
  // It has failed here, or needs what has.
  bool will_not_come(const std::string& dir) const {
    if (failed_runs_.count(dir)) return true;
    for (const GridGroup& group : grid_.groups)
      if (std::any_of(group.runs.begin(), group.runs.end(), [&](size_t i) { return grid_.runs[i].dir == dir; }))
        if (const std::string missing = missing_teacher(group); !missing.empty() && will_not_come(missing)) return true;
    return false;
  }

  bool is_finished(size_t g) const {
    const auto& runs = grid_.groups[g].runs;
    return std::all_of(runs.begin(), runs.end(), [&](size_t i) { return is_done(grid_.runs[i]); });
  }

  void do_group(size_t g) {
    const GridGroup& group = grid_.groups[g];
    const Recipe& first = grid_.runs[group.runs[0]].recipe;
    std::vector<std::string> names;
    for (size_t i : group.runs) names.push_back(grid_.runs[i].recipe.name);
    const size_t shown = std::min<size_t>(names.size(), 4);
    say(fmt::format("group {}/{}: seed {}, {} view: {}{}", g + 1, grid_.groups.size(), first.seed, first.view,
                    fmt::join(names.begin(), names.begin() + ptrdiff_t(shown), ", "),
                    names.size() > shown ? fmt::format(" and {} more", names.size() - shown) : ""));
    train(group.runs);
    tried_[g] = true;
    Evaluator evaluator({.device = options_.run.device, .quiet = true});
    for (size_t i : group.runs) {
      const GridRun& run = grid_.runs[i];
      if (failed_runs_.count(run.dir.string()) || is_done(run)) continue;
      try {
        evaluator.evaluate(run.dir);
      } catch (const std::exception& e) {
        fail({i}, e.what());
      }
    }
    finished_[g] = is_finished(g);
  }

  // A group that fails is tried again in halves, so that a run which cannot go on, or too many at once for the memory, does not take the others along.
  // What was trained before the failure is kept, so the second attempt begins where the first ended.
  void train(const std::vector<size_t>& runs) {
    std::vector<Recipe> recipes;
    for (size_t i : runs) recipes.push_back(grid_.runs[i].recipe);
    try {
      train_group(recipes, options_.run);
    } catch (const std::exception& e) {
      if (runs.size() == 1) return fail(runs, e.what());
      say(fmt::format("this group failed and is tried again in two halves: {}", e.what()));
      const auto middle = runs.begin() + ptrdiff_t(runs.size() / 2);
      train({runs.begin(), middle});
      train({middle, runs.end()});
    }
  }

  void fail(const std::vector<size_t>& runs, const std::string& why) {
    for (size_t i : runs) {
      failed_runs_[grid_.runs[i].dir.string()] = why;
      fmt::print(stderr, "kd_bench: {}: {}\n", grid_.runs[i].dir.string(), why);
    }
  }

  // Once more at the end, where it cannot be missed, with what was never begun because of it.
  int report_failures() const {
    if (failed_runs_.empty()) return 0;
    std::fflush(stdout);
    fmt::print(stderr, "kd_bench: {} of {} runs failed:\n", failed_runs_.size(), grid_.runs.size());
    for (const auto& [dir, why] : failed_runs_) fmt::print(stderr, "  {}: {}\n", dir, why);
    for (size_t g = 0; g < grid_.groups.size(); ++g)
      if (const std::string missing = missing_teacher(grid_.groups[g]); !missing.empty() && will_not_come(missing))
        fmt::print(stderr, "  group {} ({} runs) was not begun: it needs {}\n", g + 1, grid_.groups[g].runs.size(), missing);
    return 1;
  }

  void print_results() const {
    std::vector<RunSummary> runs;
    for (const GridRun& run : grid_.runs)
      if (std::filesystem::exists(run.dir / "summary.json")) runs.push_back(find_runs(run.dir)[0]);
    if (runs.empty()) return;
    const std::vector<RunGroup> groups = group_runs(runs);
    for (const Table& table : {accuracy_table(groups), fidelity_table(groups)})
      if (!table.rows.empty()) fmt::print("\n{}", render(table, Format::text));
    fmt::print("\nNext: kd_bench table {}, kd_bench report {}\n", grid_.out.string(), grid_.out.string());
  }

  void say(const std::string& line) const {
    if (options_.run.quiet) return;
    fmt::print("{}\n", line);
    std::fflush(stdout);
  }

  const Grid& grid_;
  const GridOptions& options_;
  std::vector<char> finished_, tried_;
  std::map<std::string, std::string> failed_runs_;  // directory, reason
};

}  // namespace

int run_grid(const Path& file, const std::vector<std::string>& words, const GridOptions& options) {
  KD_INPUT(options.stale_seconds >= 1, "--stale-after is {} s, expected at least one second", options.stale_seconds);
  const Grid grid = plan_grid(file, words, options.run.out);
  if (options.dry_run) {
    fmt::print("{}", describe_grid(grid, options.stale_seconds));
    return 0;
  }
  for (const GridRun& run : grid.runs) {
    const RunState state = state_of(run, options.stale_seconds);
    KD_INPUT(state.kind != RunState::Kind::refused, "{}: {}; choose another --out, or delete it", run.dir.string(), state.note);
  }
  return Worker(grid, options).work();
}

}  // namespace kd
