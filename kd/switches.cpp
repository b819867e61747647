#include "kd/switches.h"

#include <algorithm>

#include "engine/base/check.h"
#include "kd/recipe.h"

namespace kd {
namespace {

// "P3" of a value that reproduces an oddity, else empty.
std::string switch_id(const std::string& key, const std::string& value) {
  for (const Switch& s : switches())
    for (const Switch::Value& v : s.settings)
      if (v.key == key && v.published == value) return s.id;
  return "";
}

bool is_default(const RecipeValue& value) {
  static const std::vector<RecipeValue> defaults = recipe_values({});
  return std::any_of(defaults.begin(), defaults.end(), [&](const RecipeValue& d) { return d.key == value.key && d.value == value.value; });
}

std::vector<Setting> with_words(std::vector<Setting> settings, const std::vector<std::string>& words) {
  for (const std::string& word : words) settings.push_back(read_word(word));
  return settings;
}

std::vector<Setting> settings_of(const std::string& what) {
  const auto& presets = preset_names();
  if (std::find(presets.begin(), presets.end(), what) != presets.end()) return {read_word("preset=" + what)};
  const Path path = what;
  if (std::filesystem::is_directory(path)) return read_settings(path / "config.yaml");
  KD_INPUT(std::filesystem::exists(path), "'{}' is no preset ({}), no recipe file and no run directory{}", what, fmt::join(presets, ", "),
           did_you_mean(what, presets));
  return read_settings(path);
}

}  // namespace

const std::vector<Switch>& switches() {
  static const std::vector<Switch> table{
      {"P1", "teachers stay in training mode while distilling: batch statistics, moving running averages", {{"teacher_bn", "batch", "running"}}},
      {"P2", "the scheduler is stepped before the first epoch: every drop one epoch early, a cosine ends in an epoch at 0", {{"optim.lr_shift", "1", "0"}}},
      {"P3", "checkpoints are chosen, and reported, by accuracy on the test images", {{"select", "test_best", "holdout"}, {"data.holdout", "0", "0.1"}}},
      {"P4",
       "metrics exist from the epoch of the first drop on, else print 0",
       {{"published_metrics", "from_first_drop", "never"}},
       "'kd_bench eval' of a finished run, whatever its best epoch"},
      {"P5",
       "metrics are means of batch values, of a student in training mode",
       {{"published_metrics", "from_first_drop", "never"}},
       "whole-set statistics in evaluation mode",
       "epoch lines of metrics.jsonl; eval.json views.*.rk has the same of the finished network"},
      {"P6", "KL is ten times KL(student || teacher)", {}, "kl_ab and kl_ba in nats", "eval.json rk.*_kl; kl_code"},
      {"P7",
       "the gap is training accuracy on augmented images while learning, minus test accuracy",
       {},
       "gap: both in evaluation mode on the test view; gap_view: both on the student's",
       "eval.json gap.gap_rk"},
      {"P8",
       "teachers learn and are run in fp16 without loss scaling, students in fp32",
       {},
       "one precision for both, fp32 or bf16 with fp32 master weights; fp16 is not offered"},
      {"P9",
       "the strong ImageNet teachers' cosine ends at 50, the weak ones' has half their epochs",
       {},
       "no preset does",
       "optim.schedule=cosine optim.eta_min=50 for T*s; half of optim.epochs for T*w"},
      {"P10",
       "students of the long-tailed set are evaluated with teachers of the balanced one",
       {},
       "teachers see what their students see",
       "grid.teacher.data.imbalance=1, as in recipes/rk/cifar100_imb100_2t.yaml"},
      {"P11",
       "balanced ImageNet is validated on images of its training folder",
       {},
       "the folder val, or what data.test_list says",
       "data.test_list=ImageNet_LT_val.txt"},
      {"P12",
       "long-tailed ImageNet's teachers start from weights that saw its validation images; all teachers start from ImageNet weights",
       {},
       "random weights",
       "model.init=FILE"},
      {"P13",
       "ImageNet: training and validation drop the last, short batch; the long-tailed test list is never read",
       {{"optim.last_batch", "drop", "keep", "imagenet"}},
       "in training only: every test image counts"},
      {"P14", "CIFAR-100 is normalized with CIFAR-10's figures", {{"data.norm", "cifar10", "cifar100"}}},
      {"P15", "images are enlarged by bicubic interpolation for training and bilinear for testing", {{"data.test_interp", "bilinear", "bicubic"}}},
      {"P16", "Cutout hides 16 pixels of an image enlarged to 224: half a per cent of it", {{"data.cutout", "16", "112"}}},
      {"P17", "RandAugment's enhancing operations only increase, its solarize mostly does nothing", {{"data.randaugment", "timm_old", "increasing"}}},
      {"P18",
       "attention maps are summed over all classes: a random projection that training leaves alone",
       {},
       "maps that depend on learned weights, and the random projection as control",
       "eval.json attention.*.class_sum"},
      {"P19", "intersections and unions are pooled over a batch", {}, "per image, then averaged", "eval.json iou_rk"},
      {"P20",
       "mutual information by nearest neighbours on class numbers, unseeded, per batch",
       {},
       "plug-in, adjusted, normalized and soft, on the whole set",
       "eval.json rk.*_mi, seeded; rk.*_mis"},
      {"P21",
       "calibration error without weights, on training images, strong teachers judged on the weak view",
       {},
       "weighted, on test images",
       "eval.json ece_rk"},
      {"P22",
       "ensemble metrics use mean logits although the loss averages losses",
       {},
       "mean probabilities; train_agreement alone uses mean logits",
       "eval.json rk.2Tand1S_*, rk.3Tand1S_*"},
      {"P23", "'T1T2T3' is the mean of T1 and T2 against T3", {}, "only pairs that are what their name says", "eval.json rk.T1T2T3_*"},
      {"P24",
       "a resumed run repeats an epoch with an advanced scheduler and forgets its best accuracy",
       {},
       "a resumed run has the bits of an uninterrupted one"},
      {"P25", "nothing is seeded; the best of several attempts may have been taken", {}, "seed is part of every run; a grid takes all its seeds"},
      {"P26", "the z-score loss and the Wasserstein metric are not in the release", {}, "loss.zscore; wasserstein_confidence and wasserstein_class"},
      {"P27", "no weight decay", {{"optim.weight_decay", "0", "0"}}, "0.0005 with preset=lite32"},
      {"P28", "affinity is measured against a random-crop view", {}, "both denominators: that view, and the test view", "eval.json affinity.*_base"},
      {"P29", "the affinity script takes T3w from another run than distillation did", {}, "a run is named by its directory", "a path in grid.teachers"},
      {"P30", "balanced ImageNet needs a patched torchvision", {}, "data.name=imagenet reads the folders as they are"},
  };
  return table;
}

std::string recipe_show(const Path& file, const std::vector<std::string>& words) {
  const std::vector<Setting> settings = with_words(file.empty() ? std::vector<Setting>{} : read_settings(file), words);
  struct Line {
    std::string text, comment;
  };
  std::vector<Line> lines;
  std::string section;
  size_t width = 0;
  for (const RecipeValue& v : recipe_values(settings)) {
    const size_t dot = v.key.find('.');
    const std::string now = dot == v.key.npos ? "" : v.key.substr(0, dot);
    if (now != section && !now.empty()) lines.push_back({now + ":", ""});
    section = now;
    const std::string id = is_default(v) ? "" : switch_id(v.key, v.value);  // a black square of 16 pixels is odd only where it is not the default
    lines.push_back({fmt::format("{}{}: {}", now.empty() ? "" : "  ", v.key.substr(dot + 1), v.value), v.origin + (id.empty() ? "" : ", " + id)});
    width = std::max(width, lines.back().text.size());
  }
  std::string text;
  for (const Line& line : lines) text += line.comment.empty() ? line.text + "\n" : fmt::format("{:<{}}  # {}\n", line.text, width, line.comment);
  return text + fmt::format("# id {}\n", recipe_id(make_recipe(settings)));
}

std::string recipe_diff(const std::string& a, const std::string& b, const std::vector<std::string>& words) {
  const auto left = recipe_values(with_words(settings_of(a), words)), right = recipe_values(with_words(settings_of(b), words));
  std::vector<std::vector<std::string>> rows{{"key", a, b, ""}};
  for (size_t i = 0; i < left.size(); ++i)
    if (left[i].value != right[i].value) {
      const std::string id = switch_id(left[i].key, left[i].value);
      rows.push_back({left[i].key, left[i].value, right[i].value, id.empty() ? switch_id(right[i].key, right[i].value) : id});
    }
  if (rows.size() == 1) return "no difference\n";
  size_t widths[3] = {};
  for (const auto& row : rows)
    for (size_t c = 0; c < 3; ++c) widths[c] = std::max(widths[c], row[c].size());
  std::string text;
  for (const auto& row : rows) {
    std::string line = fmt::format("{:<{}}  {:<{}}  {:<{}}  {}", row[0], widths[0], row[1], widths[1], row[2], widths[2], row[3]);
    line.erase(line.find_last_not_of(' ') + 1);
    text += line + "\n";
  }
  return text;
}

}  // namespace kd
