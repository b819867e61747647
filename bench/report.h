// report: everything that the runs below a folder say, in one HTML file that opens from disk, without a network, on any screen, and prints.
#pragma once
#include "engine/base/file.h"

namespace kd {

constexpr int64_t kReportBytes = 3'000'000;  // no report of a study of ordinary size is larger; attention galleries are left out, last first, to keep to it

// Reads RUNS/**/summary.json, metrics.jsonl and analysis/eval.json (see runs.h for errors); what is not there is said in the report together with the
// command that makes it. The same runs give the same bytes. With `figures_dir` every figure is also written as ID.svg and ID.csv and, where
// draws_png() (png.h), as ID.png at two pixels a unit. Returns the number of figures.
int64_t write_report(const Path& runs_dir, const Path& out_html, const Path& figures_dir = {});

}  // namespace kd
