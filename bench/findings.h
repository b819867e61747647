// findings: what a set of runs says in plain sentences, what it cannot say, and how it stands towards the hypotheses of "Why does Knowledge
// Distillation Work? Rethink its Attention and Fidelity Mechanism" (arXiv 2405.00739).
#pragma once
#include <string>
#include <vector>

#include "bench/stats.h"
#include "bench/table.h"

namespace kd {

struct Findings {
  struct Sentence {
    std::string topic, text;
  };
  std::vector<Sentence> sentences;
  std::vector<std::string> warnings;
  Table hypotheses;  // verdict_table (bench/verdicts.h)
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

// The map kind that sentences and figures speak of: pred_class if the run has it.
std::string main_map(const RunSummary&);

}  // namespace kd
