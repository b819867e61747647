// figures: everything that the report draws, each figure with the numbers that it shows. F1 to F8 of the study have the ids f1 to f8.
// Accuracy is that of the evaluated checkpoint, on the test view: the weights that fidelity and attention were measured with.
#pragma once
#include <string>
#include <vector>

#include "bench/table.h"

namespace kd {

struct ReportFigure {
  std::string id;  // a file's name: letters, digits, '_', '.', '-'; once in a report
  std::string title, caption;
  std::string legend = {};               // SVG, of all panels; may be empty
  std::vector<std::string> panels = {};  // SVG, see svg.h
  size_t columns = 1;                    // of panels, where they are put together in a file
  double least_px = 0;                   // narrower than this a panel cannot be read; narrow screens scroll it
  std::string missing = {};              // without panels: what is not there, and what makes it
  Table data = {.title = "", .columns = {}};
};
std::string file_svg(const ReportFigure&);  // the figure as one file that stands alone

Groups students_of(const Groups&);

std::vector<ReportFigure> accuracy_figures(const Groups&);     // top-1; many, medium and few-shot classes; F7 affinity of the views
std::vector<ReportFigure> diversity_figures(const Groups&);    // F1 F2 F3 F8; where there are several data sets, once for each: f1_cifar100
std::vector<ReportFigure> fidelity_figures(const Groups&);     // agreement; divergence and information
std::vector<ReportFigure> calibration_figures(const Groups&);  // F4; expected calibration error
std::vector<ReportFigure> training_figures(const Groups&);     // F5
std::vector<ReportFigure> attention_figures(const Groups&);    // F6
std::vector<ReportFigure> cost_figures(const Groups&);
// One experiment by itself: training, reliability, and agreement, divergence and information between its models; what it lacks is left out. The
// more experiments a report holds, the fewer points each curve keeps.
std::vector<ReportFigure> experiment_figures(const RunGroup&, size_t experiments);

// Spearman's rank correlations between accuracy, fidelity and attention numbers over single runs of students, on one view. A number that fewer than
// three runs have is left out; a pair is over the runs that have both.
struct MetricMatrix {
  std::vector<std::string> names;
  std::vector<double> rho;  // [names, names]; NaN where a side is constant
  size_t runs = 0;
};
MetricMatrix metric_matrix(const Groups&, const std::string& view);

// The run whose single images and curves stand for the group: the first evaluated one; nullptr if none is.
const RunSummary* evaluated_run(const RunGroup&);

}  // namespace kd
