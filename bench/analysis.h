// analysis: every number of analysis/eval.json, from what an evaluation dumped: logits, attention maps, labels. No network and no image is needed,
// so numbers can be computed again, with another threshold or by a later version, from analysis/pred.safetensors alone.
#pragma once
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "engine/base/file.h"
#include "kd/metrics.h"

namespace kd {

// One model on the images of one view.
struct DumpedModel {
  std::string name;                 // S, T1, T2, ...
  Tensor logits;                    // f32 [N,C]
  std::map<Cam, Tensor> maps = {};  // f32 [N,h,w]; empty where maps were not asked for
};

struct DumpedView {
  std::vector<int32_t> labels;           // N
  std::vector<DumpedModel> models;       // S first
  Tensor masks = {};                     // u8 [N,px,px], not 0 on the object; undefined where not known
  std::vector<DumpedModel> as_run = {};  // the teachers once more as this distillation ran them, where that is not in evaluation mode (teacher_bn=batch)
};

struct Dump {
  std::string checkpoint = "best";
  int64_t px = 0;
  uint64_t seed = 0;                        // of permutations and random projections
  std::map<std::string, DumpedView> views;  // "test", "student_view", "train", "train_view" (docs/files.md)
  std::map<std::string, Tensor> heads;      // fc weight of each model, f32 [C,K]
  std::vector<int64_t> train_counts;        // training images of each class, the holdout included
  std::map<std::string, double> numbers;    // top1_base, top1_weak, top1_strong, top1_test; train_top1_running: of the selected epoch, while learning
};

void write_dump(const Path&, const Dump&);
Dump read_dump(const Path&);  // input error where the file is damaged, or older than the format

struct AnalysisOptions {
  double threshold = 0.4;  // of the attention masks
};
std::string analyse(const Dump&, const AnalysisOptions&);  // JSON, docs/files.md

}  // namespace kd
