// verdicts: how a set of runs stands towards the hypotheses H1 to H5 of "Why does Knowledge Distillation Work? Rethink its Attention and Fidelity Mechanism"
// (arXiv 2405.00739) and towards the experiments that can contradict them: E1 augmentation grid, E2 overlap against accuracy, E3 z-score, N1 attention
// regularization, N2 other fidelity metrics. Rules and their reasons: docs/verdicts.md.
#pragma once
#include <string>
#include <vector>

#include "bench/runs.h"
#include "bench/stats.h"
#include "bench/table.h"

namespace kd {

enum class Verdict { supported, contradicted, undecided, not_measured };
const char* to_string(Verdict);

struct VerdictRow {
  std::string id = {};         // "H1", "E2.energy.gap", ...
  std::string scope = {};      // the runs that it speaks of: data set, view of the students, number of teachers
  std::string statement = {};  // what is supported or contradicted
  std::string statistic = {};  // what `estimate` is
  Estimate estimate = {};
  int decimals = 2;
  std::string counted = {};  // "3 seeds", "12 sets of teachers, 36 runs"
  Verdict verdict = Verdict::not_measured;
  std::string reason = {};       // of an undecided or contradicted one always
  std::string confounders = {};  // accuracy of the teachers and of their ensemble in the same comparison, and what is left at equal ensemble accuracy
};

// An effect has an interval that excludes 0 and is at least 0.5 points of accuracy or gap, or 0.02 of IoU or agreement. Which interval: the bootstrap's,
// and the t interval with it because the bootstrap's over three seeds is only their range; or the bootstrap's alone.
enum class IntervalRule { bootstrap_and_t, bootstrap };
constexpr double kPoints = 0.5, kShare = 0.02;

// Rows for every data set, view of the students and number of teachers that has the runs, experiment by experiment; where nothing has them, one row
// that says what would have to be run. Runs are compared within one data set, network and student view, and paired by seed.
std::vector<VerdictRow> verdicts_of(const std::vector<RunGroup>&, IntervalRule = IntervalRule::bootstrap_and_t);
// Columns id, scope, statement, statistic (with its estimate), interval, n, verdict (with its reason), confounders.
Table verdict_table(const std::vector<VerdictRow>&);

}  // namespace kd
