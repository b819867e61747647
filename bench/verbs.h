// verbs: what each kd_bench verb does, apart from reading its flags (kd_bench.cpp).
#pragma once
#include <memory>
#include <string>
#include <vector>

#include "data/augment.h"
#include "data/dataset.h"
#include "data/fetch.h"
#include "data/image_set.h"
#include "engine/base/file.h"
#include "engine/graph.h"
#include "kd/recipe.h"
#include "models/model_file.h"

namespace kd {

struct RunOptions {
  Path out = "runs";  // run directories go to out/<dataset>/<name>/seed<k>
  bool quiet = false;
  std::string command;  // recorded in the run directory
  Device device = Device::cpu;
  Launch launch = Launch::graph;
};

// Trains a teacher or baseline (no teachers in the recipe) or distils a student. Finished runs are left alone, unfinished ones go on from their
// last epoch with the same bits. Returns the run directory.
Path train_run(const Recipe&, const RunOptions&);

// Several runs that see the same batches, side by side: a teacher that several of them learn from is run once a batch, and each run has the bits
// that it has alone. All recipes must have one batch_stream. Returns the run directories in order.
std::vector<Path> train_group(const std::vector<Recipe>&, const RunOptions&);
std::string batch_stream(const Recipe&);  // everything that decides which batches a run sees, and its schedule

struct EvalOptions {
  std::string checkpoint = "best";  // best | last
  double threshold = 0.4;           // of the attention masks
  int64_t train_images = 10'000;    // at most as many training images are looked at, the same for every run of a dataset; 0: all
  Device device = Device::cpu;
  bool quiet = false;
};
// Fidelity, calibration, divergence, mutual information and attention of runs and their teachers: analysis/pred.safetensors (what the networks said),
// analysis/gallery.json (pictures) and analysis/eval.json (the numbers). Runs that are evaluated one after the other share images and teachers: of one
// dataset, view and seed each network is run once.
class Evaluator {
 public:
  explicit Evaluator(const EvalOptions&);
  ~Evaluator();
  void evaluate(const Path& run_dir);

 private:
  struct Shared;
  EvalOptions options_;
  std::unique_ptr<Shared> shared_;
};
// eval.json again, from pred.safetensors alone: nothing else of the run, its teachers or its data needs to be there.
void recompute_metrics(const Path& run_dir, const EvalOptions&);

struct GridOptions {
  RunOptions run = {};
  bool dry_run = false;        // print what would be done
  bool wait = true;            // for what other processes have taken; else leave when there is nothing to take
  double stale_seconds = 300;  // without a sign of life from another machine's process, after which its work is taken over
  double poll_seconds = 5;
};
// Everything that the grid (bench/grid.h) still has to do, together with other processes that do the same in the same folder: teachers, baselines and
// students group by group, evaluations, tables. A group that fails does not stop the others. Returns the exit code: 0 if nothing failed.
int run_grid(const Path& file, const std::vector<std::string>& words, const GridOptions&);

int doctor();
// A contact sheet of the first `count` training images. view "all": a row an image, the test view and then `draws` of weak, strong and base each, as
// training would show them in its first epochs; a view's name: that view of every image, side by side.
struct SheetOptions {
  std::string view = "all";
  int64_t count = 16, draws = 3;
  uint64_t seed = 0;
  Path png = "views.png";
};
void show_views(const DataConfig&, const AugmentConfig&, const SheetOptions&);
void generate_data(const DataConfig&, const Path& out);
void images_to_cifar(const Path& folder, const Path& out, double test_share, uint64_t seed);
void verify_data(const DataConfig&);
void fetch_data(FetchOptions);               // shows its own progress
void pack_data(const DataConfig&, Rebuild);  // images, imagenet and imagenet_lt
void convert_model(const Path& in, const Path& out);
void demo(const Path& out, Device, bool quiet);

// Shared by the verbs above.
void require_precision(Device, DType);  // input error where the device has no such arithmetic
DataConfig data_config(const Recipe&);
AugmentConfig augment_config(const Recipe&);
Path run_path(const Recipe&, const Path& out);
// A run directory's selected checkpoint, or the file itself; `what` names it in errors.
Path model_path(const std::string& teacher, const char* what = "teacher");

}  // namespace kd
