// verdict_rules: what every verdict is made of: numbers of one run, which runs may be compared, differences paired by seed, and the judge.
// Internal to the verdicts: only bench/verdicts*.cpp, verdict_rules.cpp and metric_correlations.cpp include it. Rules and their reasons: docs/verdicts.md.
#pragma once
#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "bench/runs.h"
#include "bench/stats.h"
#include "bench/verdicts.h"

namespace kd::verdicts {

using Get = std::function<double(const RunSummary&)>;
using Pool = std::vector<const RunGroup*>;
using Rows = std::vector<VerdictRow>;

// ---- numbers of one run

double value_or(double value, double otherwise);

// Of the checkpoint that agreement and maps were measured on; of the selected one where nothing was evaluated.
double accuracy(const RunSummary&);
double gap(const RunSummary&);

// The pair that stands for the teachers' imitation: their ensemble and the student, or the only teacher and the student.
double imitation(const RunSummary&, const std::string& view, const std::string& key);
double agreement(const RunSummary&);

double ensemble_accuracy(const RunSummary&);
double teacher_accuracy(const RunSummary&);
// Mean over the pairs of teachers.
double overlap(const RunSummary&, const std::string& kind);
Get overlap_of(const std::string& kind);

// Which teachers a run had. Their names do not say (each has several seeds), their numbers on the test images do.
std::string teachers_of(const RunSummary&);

// ---- which runs may be compared

// The variant of distillation: a grid's arm, or the whole name where it is not one of the grid's.
std::string arm_of(const RunSummary&);
std::string view_letter(const std::string& view);

// One data set and network. Everything else that is compared lies within it.
struct Study {
  std::string label;
  Pool students, baselines, teachers;
};
std::vector<Study> studies_of(const Groups&);

// Students of one study that differ in their teachers only.
struct Stratum {
  std::string label, view, arm;
  size_t teachers = 0;
  Pool students;
};
std::vector<Stratum> strata_of(const Study&);

// ---- differences

// Mean over the groups, and over runs of one seed where there are several.
std::map<int64_t, double> by_seed(const Pool&, const Get&);
Estimate difference(const Pool& a, const Pool& b, const Get&);

// Which teachers stand behind each seed of a difference.
std::map<int64_t, std::string> teachers_by_seed(const Pool& a, const Pool& b);
// The same for what belongs to the teachers alone: seeds that share them are one observation.
Estimate teacher_difference(const Pool& a, const Pool& b, const Get&);
// y at x = 1 less y at x = 0, at equal ensemble accuracy, within seeds.
Estimate at_equal_ensemble(const Pool&, const std::function<double(const RunSummary&)>& x, const Get& y);

// ---- words

// "3 seeds", "1 set of teachers", "3 sets of teachers".
std::string plural(int64_t n, const std::string& what);
std::string seeds(const Estimate&);
std::string in_words(const Estimate&, int decimals);

// ---- rules

struct Reading {
  Verdict verdict;
  std::string reason;
};

struct Expected {
  int sign;          // of the effect
  double threshold;  // of its size
  std::string unit = "seed";
  // An interval that excludes an effect of that size: is the effect then disproved, or is only nothing shown?
  enum class Absence { undecided, contradicts } absence = Absence::undecided;
};
using Absence = Expected::Absence;

class Judge {
 public:
  explicit Judge(IntervalRule rule) : rule_(rule) {}

  // Whether every interval that the rule asks for lies on the far side of `value`: 1 above, -1 below, 0 neither.
  int beyond(const Estimate&, double value) const;
  bool inside(const Estimate&, double from, double to) const;
  // The sign of an effect that is clear and large; otherwise 0.
  int effect(const Estimate&, double threshold) const;

  Reading read(const Estimate&, const Expected&) const;

  // Seeds that give one number to the last digit are copies of one run, not repetitions.
  static bool degenerate(const Estimate&);

 private:
  IntervalRule rule_;
};

// What a statement is worth whose parts have been judged.
Reading combined(const Rows& parts);

// ---- correlations over single runs; the unit is the set of teachers

struct Association {
  Estimate rho, given_ensemble, given_teachers;
  double pearson = kNotMeasured;
  int64_t runs = 0;
};
Association associate(const Pool& students, const Get& x, const Get& y);

// ---- the experiments that verdicts.cpp does not hold itself

void add_zscore(const Study&, const Judge&, Rows& into, Rows& hypotheses);  // E3, and H4 of it; verdicts_interventions.cpp
void add_regularization(const Study&, const Judge&, Rows& into);            // N1; verdicts_interventions.cpp
void add_metrics(const Stratum&, const Judge&, Rows& into);                 // N2; metric_correlations.cpp

}  // namespace kd::verdicts
