// runs: what finished runs left on disk, read back: summary.json, metrics.jsonl, analysis/eval.json and gallery.json. Seeds of one experiment are put
// together. Whatever a file of an older evaluation, or of another kind of run, lacks reads as NaN or as empty.
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
  Numbers numbers;  // top1, nll, brier, entropy, ece, ece_unweighted, ece_rk, mce, top1_many, logit_std, ...
  std::vector<ReliabilityBin> reliability;
};
struct MapEval {
  Numbers iou, area, truth_iou;                      // by "T1-S" or "T1-T2-T3", by "S", by "S"
  Numbers iou_rk, skipped;                           // by "T1-S": pixels pooled over a batch; images without either mask
  std::map<std::string, std::vector<double>> sweep;  // by "T1-S": the IoU at each of RunSummary::sweep_thresholds
};
struct ViewEval {
  std::map<std::string, ModelEval> models;  // "S", "T1", ..., "Ens"
  std::map<std::string, Numbers> pairs;     // "T1-S": agreement, kappa, kl_ab, kl_ba, js, mi_plugin, ...
  Numbers rk;                               // the published code's numbers under its own keys: "1Tand1S_f", "T1T2_kl", ...
  std::map<std::string, MapEval> maps;      // by kind of attention map
};

struct RunSummary {
  Path dir;
  std::string name, kind, recipe_id, dataset, arch, stem, view, precision, select, command;
  std::vector<std::string> teachers;
  double width = kNotMeasured;
  int64_t px = 0, seed = 0, epochs = 0, epochs_done = 0, classes = 0, train_images = 0, test_images = 0, params = 0, selected_epoch = -1;
  double test_top1_last = kNotMeasured, test_top1_selected = kNotMeasured, train_top1_last = kNotMeasured;  // percent
  double seconds = kNotMeasured, img_per_s = kNotMeasured;
  std::string combine;  // of students, with the loss's other settings
  double alpha = kNotMeasured, soft_weight = kNotMeasured, tau = kNotMeasured;
  bool zscore = false;
  std::string attention_mode;              // similarity or distance; empty without an attention loss
  double attention_weight = kNotMeasured;  // of that loss, which is minimized: above 0 a similarity falls and a distance, too

  bool evaluated = false;                 // analysis/eval.json exists
  std::map<std::string, ViewEval> views;  // "test", "student_view": test images; "train", "train_view": training images, test and student's view
  Numbers gap;                            // train, test, gap, gap_view, gap_rk: points
  Numbers affinity;                       // top1_base, ..., weak_base, strong_base, weak_test, strong_test: ratios
  double map_threshold = kNotMeasured;
  std::vector<double> sweep_thresholds;
};

// Every directory at or below `folder` that holds a summary.json, with its analysis/eval.json where there is one, ordered by path. Throws one line
// naming the file when one is corrupt or lacks name, kind, dataset, seed or test_top1_last, and when there is no run at all.
std::vector<RunSummary> find_runs(const Path& folder);

// numbers[key], views[view].models[model].numbers[key], .pairs[pair][key], .rk[key], .maps[kind].*quantity[key]; NaN where absent.
double number_in(const Numbers&, const std::string& key);
double model_number(const RunSummary&, const std::string& view, const std::string& model, const std::string& key);
double pair_number(const RunSummary&, const std::string& view, const std::string& pair, const std::string& key);
double rk_number(const RunSummary&, const std::string& view, const std::string& key);
double map_number(const RunSummary&, const std::string& kind, Numbers MapEval::*quantity, const std::string& key, const std::string& view = "test");
const std::map<std::string, MapEval>& maps_of(const RunSummary&, const std::string& view = "test");  // empty where there are none

// What a student's or baseline's name says: T1w_T2s_Sw_plain was taught by teachers trained on the weak and on the strong view, all of them and the
// student being shown the weak one, in a grid's arm "plain". Nothing for any other name.
struct RunName {
  std::string teachers;  // "ws"; empty for only_Sw and only_Ss
  char view = 'w';       // w or s
  std::string arm;       // "plain"; empty without
};
std::optional<RunName> read_name(const std::string&);

struct Epoch {
  int64_t epoch = 0;
  double lr = kNotMeasured, loss = kNotMeasured, ce = kNotMeasured, kd = kNotMeasured;
  double train_top1 = kNotMeasured, holdout_top1 = kNotMeasured, test_top1 = kNotMeasured;  // percent
  double train_agreement = kNotMeasured;                                                    // 0 to 1
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
Gallery read_gallery(const RunSummary&);  // analysis/gallery.json; without items where there is none

struct RunGroup {
  std::string label;  // the name; with the dataset where runs of several were found
  std::vector<RunSummary> runs;
  const RunSummary& front() const { return runs.front(); }
};
// Seeds of one (dataset, training images, name) together, ordered by seed; teachers, baselines, students, each in the order of their names: fewer
// teachers first, weak before strong.
using Groups = std::vector<RunGroup>;
Groups group_runs(std::vector<RunSummary>);

bool same_data(const RunGroup&, const RunGroup&);  // the same training images
// The run without teachers that a student is compared with: same images, view and network; of the same arm, else of none. Null: there is none.
const RunGroup* baseline_of(const Groups&, const RunGroup& student);

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
