// runs: what finished runs left on disk, read back: summary.json, metrics.jsonl, analysis/eval.json. Seeds of one experiment are put together.
// Every function throws one line that names the file when it is damaged or lacks what it must hold.
#pragma once
#include <cstdint>
#include <limits>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "engine/base/file.h"
#include "kd/metrics.h"

namespace kd {

constexpr double kNotMeasured = std::numeric_limits<double>::quiet_NaN();

using Numbers = std::map<std::string, double>;  // by JSON key; values that are null in the file are NaN

struct ModelEval {
  Numbers numbers;  // top1, nll, brier, entropy, ece, ece_unweighted, mce, mean_confidence, ...
  std::vector<ReliabilityBin> reliability;
};
struct ViewEval {
  std::map<std::string, ModelEval> models;  // "S", "T1", ..., "Ens"
  std::map<std::string, Numbers> pairs;     // "T1-S": agreement, kappa, kl_ab, kl_ba, js, mi_plugin, ...
};
struct MapEval {
  Numbers iou, area, truth_iou;  // by "T1-S", by "S", by "S"
};

struct RunSummary {
  Path dir;
  std::string name, kind, recipe_id, dataset, arch, stem, view, precision, select, command;
  std::vector<std::string> teachers;
  double width = kNotMeasured;
  int64_t px = 0, seed = 0, epochs = 0, epochs_done = 0, classes = 0, train_images = 0, test_images = 0, params = 0, selected_epoch = -1;
  double test_top1_last = kNotMeasured, test_top1_selected = kNotMeasured, train_top1_last = kNotMeasured;  // percent
  double seconds = kNotMeasured, img_per_s = kNotMeasured;

  bool evaluated = false;                 // analysis/eval.json exists
  std::map<std::string, ViewEval> views;  // "test", "student_view"
  std::map<std::string, MapEval> maps;    // by kind of attention map
  double map_threshold = kNotMeasured;
};

// Every directory at or below `folder` that holds a summary.json, with its analysis/eval.json where there is one, ordered by path. Throws one line
// naming the file when one is corrupt or lacks name, kind, dataset, seed or test_top1_last, and when there is no run at all.
std::vector<RunSummary> find_runs(const Path& folder);

// views[view].models[model].numbers[key], views[view].pairs[pair][key], maps[kind].*quantity[key]; NaN where absent.
double model_number(const RunSummary&, const std::string& view, const std::string& model, const std::string& key);
double pair_number(const RunSummary&, const std::string& view, const std::string& pair, const std::string& key);
double map_number(const RunSummary&, const std::string& kind, Numbers MapEval::*quantity, const std::string& key);

struct Epoch {
  int64_t epoch = 0;
  double lr = kNotMeasured, loss = kNotMeasured, ce = kNotMeasured, kd = kNotMeasured;
  double train_top1 = kNotMeasured, holdout_top1 = kNotMeasured, test_top1 = kNotMeasured;  // percent
};
std::vector<Epoch> read_epochs(const RunSummary&);  // metrics.jsonl, ordered by epoch; empty without that file

// The images whose attention maps eval.json keeps.
struct GalleryModel {
  std::string name;  // "S", "T1", ...
  int64_t pred;
  double conf;
  int64_t side;
  std::vector<float> map;  // [side, side], raw
};
struct GalleryItem {
  int64_t index, label;
  std::vector<uint8_t> image;  // [px, px, 3]
  std::vector<uint8_t> truth;  // [px, px], 0 outside the object; empty where not known
  std::vector<GalleryModel> models;
};
struct Gallery {
  int64_t px = 0;
  std::string kind;  // of the maps
  std::vector<std::string> class_names;
  std::vector<GalleryItem> items;
};
Gallery read_gallery(const RunSummary&);  // without items where the run has none

struct RunGroup {
  std::string label;  // the name; with the dataset where runs of several were found
  std::vector<RunSummary> runs;
  const RunSummary& front() const { return runs.front(); }
};
// Seeds of one (dataset, training images, name) together, ordered by seed; teachers, baselines, students, each in the order of their names: fewer
// teachers first, weak before strong.
std::vector<RunGroup> group_runs(std::vector<RunSummary>);

struct Stat {
  int64_t n = 0;
  double mean = kNotMeasured, sd = kNotMeasured /* n >= 2 */, ci95 = kNotMeasured /* half length, n >= 2 */;
};
Stat stat_of(const std::vector<double>&);  // over what is finite
template <class Get>
Stat stat_of(const RunGroup& group, Get get) {
  std::vector<double> values;
  for (const RunSummary& run : group.runs) values.push_back(get(run));
  return stat_of(values);
}

}  // namespace kd
