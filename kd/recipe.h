// recipe: everything a run depends on, as one struct, and its strict YAML form.
//   optim:                      nested ...
//     lr: 0.05
//   optim.lr: 0.05              ... or dotted, in files and as key=value words of the command line
// Values come from, in rising order: the defaults below, the preset, the file, the words. An unknown, repeated, ill-typed or out-of-range setting is
// an input error of one line with file and line; nothing is ignored. kd/switches.h says which settings make a run do what published code does.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "engine/base/file.h"

namespace kd {

struct Recipe {
  std::string name = {};          // of the run directory; derived by load_recipe if empty: "only_Sw", or "T1w_T2s_Sw" from the teachers and the view
  std::string preset = "lite32";  // lite32: the values below | as-published | clean | smoke
  struct Data {
    // shapes | cifar10 | cifar100 | images | imagenet | imagenet_lt; root: folder of the files
    std::string name = "shapes", root = {};
    std::string train_list = {}, test_list = {};  // images, imagenet*: list files, where not everything in root is meant
    std::string packs = {};                       // ... folder of the packed files; empty: root/packs
    int64_t pack_px = 0;                          // ... short side that larger images are shrunk to when they are packed; 0: none
    int64_t imbalance = 1;                        // largest class / smallest class
    double holdout = 0.1;                         // share of the training images that is not trained on
    int64_t train_size = 6000, test_size = 2000;  // shapes only
    int64_t px = 32;                              // side of the network's input
    std::string norm = "cifar100";                // cifar100 | cifar10 | imagenet
    int64_t cutout = 16;                          // side of the strong view's black square, pixels; 0: none
    std::string pipeline = "auto";                // auto | cifar | imagenet: which operations the views are made of; see view_pipeline
    std::string randaugment = "increasing";       // timm_old | increasing: arguments of the imagenet pipeline's strong view
    std::string test_interp = "bilinear";         // bilinear | bicubic: how the test view is resized
    bool operator==(const Data&) const = default;
  } data = {};
  struct Model {
    std::string arch = "resnet18", stem = "cifar";  // resnet18 | resnet50; cifar | imagenet
    double width = 1.0;                             // channels times this
    std::string init = {};                          // safetensors file to start from; empty: random
    bool operator==(const Model&) const = default;
  } model = {};
  std::string view = "weak";               // weak | strong: what the student and all its teachers are shown
  std::vector<std::string> teachers = {};  // run directories or .safetensors files; empty: a teacher or a baseline is trained
  std::string teacher_bn = "running";      // running | batch: statistics in the teachers' batch norms
  struct Loss {
    std::string combine = "mean_loss";     // mean_loss | mean_probs | mean_logits | log_mean_prob
    double alpha = 0.6, soft_weight = -1;  // of cross-entropy and of distillation; -1: 1 - alpha
    double tau = 3;                        // temperature
    bool zscore = false;                   // standardize logits first (Sun et al., CVPR 2024, arXiv 2403.01427)
    bool operator==(const Loss&) const = default;
  } loss = {};
  struct Attention {                           // weight * how alike, or how far apart, the network's attention and that of the references is
    std::string mode = "none";                 // none | similarity | distance
    double weight = 0;                         // negative: the other way
    std::vector<std::string> references = {};  // run directories or .safetensors files; empty: the teachers
    bool operator==(const Attention&) const = default;
  } attention = {};
  struct Optim {
    double lr = 0.1, momentum = 0.9, weight_decay = 5e-4;
    int64_t batch = 128, epochs = 60;
    std::string schedule = "step";         // step | cosine
    std::vector<int64_t> milestones = {};  // step: epochs at which lr is multiplied by gamma; empty: 50, 75 and 90 % of epochs
    double gamma = 0.1, eta_min = 0;       // step; cosine: the lr it ends at
    int64_t warmup = 8;                    // epochs of linear warm-up; 0: none
    int64_t lr_shift = 0;                  // epochs the schedule runs ahead; 1: scheduler stepped before the first epoch
    std::string last_batch = "keep";       // keep | drop: what happens to the last images of an epoch when they do not fill a batch
    bool operator==(const Optim&) const = default;
  } optim = {};
  std::string precision = "fp32";  // fp32 | bf16
  std::string conv = "fast";       // fast | exact: on the CPU, whether Winograd may do 3x3 convolutions
  std::string select = "holdout";  // holdout | last | test_best: which epoch's checkpoint is kept as best
  int64_t seed = 0;
  int64_t eval_every = 1;  // epochs
  // never | always | from_first_drop: when a distillation's epoch lines carry the published code's numbers, per batch, of the student while it learns
  std::string published_metrics = "never";
  bool operator==(const Recipe&) const = default;
};

// One thing that somebody wrote, before anyone has asked whether there is such a key.
struct Setting {
  enum class Kind : unsigned char { empty, text, list, section /* without entries */, nested /* a list of more than texts */ };
  std::string key;  // dotted
  Kind kind = Kind::text;
  std::vector<std::string> values = {};  // of a list; one if text
  std::string where = {};                // "recipes/x.yaml:3", "command line"
};
std::vector<Setting> read_settings(const Path& file);  // in the file's order; input error when it is not YAML or says something twice
Setting read_word(const std::string& word);            // "key=value"

// A later setting of a key wins. The result is complete: name, soft_weight and milestones are filled in.
Recipe make_recipe(const std::vector<Setting>&);

// make_recipe of a file, which may be empty (no file), and of words.
Recipe load_recipe(const Path& file, const std::vector<std::string>& words);

// Every value of make_recipe(settings), printed, in the order of to_yaml, with where it comes from: a setting's place, "preset clean", "default", or
// "derived" from other values.
struct RecipeValue {
  std::string key, value, origin;
};
std::vector<RecipeValue> recipe_values(const std::vector<Setting>&);

std::string to_yaml(const Recipe&);  // every value; loads back equal

// "student" (has teachers), "baseline" (no teachers; no name yet, or one that starts with only_) or "teacher". as-published and clean train teachers
// with another network and budget than the rest.
std::string run_kind(const Recipe&);

// The networks that are run beside the one that is trained: its teachers, and whose attention it is compared with.
std::vector<std::string> attention_references(const Recipe&);  // given, or the teachers; none without attention.mode
std::vector<std::string> frozen_networks(const Recipe&);       // teachers, then those of the references that are no teachers

// "cifar" or "imagenet": what data.pipeline=auto means for the data.
std::string view_pipeline(const Recipe::Data&);

const std::vector<std::string>& preset_names();

// Ten hex digits that tell experiments apart: a hash of all values except the seed, the preset's name, and the folders that files lie in.
std::string recipe_id(const Recipe&);

// "optim.lr is 0.1 and 0.05" for the first value in which two recipes of different id differ; empty if the ids are equal.
std::string recipe_difference(const Recipe&, const Recipe&);

// Of a 0-based epoch. With e = epoch + lr_shift:
//   step    lr * gamma^k, k = milestones <= e       cosine  eta_min + (lr - eta_min) * (1 + cos(pi e / epochs)) / 2
// times (1 + e) / warmup while e < warmup.
double learning_rate(const Recipe::Optim&, int64_t epoch);

std::string recipe_help();  // every key with its default, range and meaning, one a line

// "; did you mean optim.lr?" for a word that is near one of those that exist, else empty.
std::string did_you_mean(const std::string& word, const std::vector<std::string>& known);

// "T1w" of runs/shapes/T1w/seed0 and of T1w.safetensors.
std::string teacher_name(std::string_view teacher);

}  // namespace kd
