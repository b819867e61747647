// findings: what a set of runs says in plain sentences, what it cannot say, and how it stands towards the hypotheses of "Why does Knowledge
// Distillation Work? Rethink its Attention and Fidelity Mechanism" (arXiv 2405.00739).
#pragma once
#include <string>
#include <utility>
#include <vector>

#include "bench/table.h"

namespace kd {

struct Findings {
  struct Sentence {
    std::string topic, text;
  };
  std::vector<Sentence> sentences;
  std::vector<std::string> warnings;
  // H1 to H5: statistic, interval, number of seeds or students, and a reading. An effect is read as such only if its 95 % interval excludes 0 and it is
  // at least 0.5 points of accuracy or 0.02 of IoU or agreement.
  Table hypotheses;
};
Findings findings_of(const std::vector<RunGroup>&);

// Differences get(a) - get(b) over the seeds that both groups have.
template <class Get>
std::vector<double> paired_differences(const RunGroup& a, const RunGroup& b, Get get) {
  std::vector<double> out;
  for (const RunSummary& left : a.runs)
    for (const RunSummary& right : b.runs)
      if (left.seed == right.seed) out.push_back(get(left) - get(right));
  return out;
}

// Spearman's rank correlation (ties get their mean rank); NaN for fewer than 3 points or a constant side.
double spearman(const std::vector<double>& a, const std::vector<double>& b);
// Its 95 % interval by Fisher's z with variance 1.06 / (n - 3) (Fieller, Hartley & Pearson 1957); NaN for n < 4.
std::pair<double, double> spearman_interval(double rho, size_t n);

// The map kind that sentences and figures speak of: pred_class if the run has it.
std::string main_map(const RunSummary&);

}  // namespace kd
