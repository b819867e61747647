// metric_correlations: the numbers behind "fidelity falls as accuracy rises" in every metric of teacher and student: Spearman over single runs. Accuracy
// is the student's top-1 on the test view; fidelity is that with the ensemble (or the only teacher) on `view`: test, student_view, train or train_view.
#pragma once
#include <cstddef>
#include <string>
#include <vector>

#include "bench/runs.h"
#include "bench/stats.h"

namespace kd {

struct MetricCorrelations {
  struct Metric {
    std::string key, name;        // key as in eval.json, with "rk." before the published code's; "top1" is accuracy
    int fidelity = 0;             // 1: more of it is more imitation; -1: it is a divergence; 0: accuracy
    Estimate with_accuracy = {};  // unit: the pair of teachers
  };
  std::string view, scope;
  std::vector<Metric> metrics = {};       // top1 first; those that at least 3 runs have
  std::vector<std::string> runs = {};     // labels with seeds
  std::vector<double> values = {};        // [metrics, runs] row-major; NaN where not measured
  std::vector<double> rho = {};           // [metrics, metrics]; NaN where undefined
  std::vector<std::string> flipped = {};  // keys of metrics that say the opposite of agreement about accuracy, each turned so that more is more imitation
  double at(size_t row, size_t column) const { return rho[row * metrics.size() + column]; }
};
// Over the students of one data set, network, view, number of teachers and arm, whichever has most runs. Without metrics when no run has any.
MetricCorrelations metric_correlations(const std::vector<RunGroup>&, const std::string& view = "test");

}  // namespace kd
