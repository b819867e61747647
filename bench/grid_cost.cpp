#include "bench/grid_cost.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <set>

#include "bench/run_dir.h"
#include "engine/base/check.h"
#include "kernels/conv/zoo.h"
#include "models/model_file.h"

namespace kd {
namespace {

// Images and classes as published; of other sets nothing is known before they are read.
struct SetSize {
  double train, test;
  int64_t classes;
};
std::optional<SetSize> set_size(const Recipe::Data& data) {
  SetSize size{};
  if (data.name == "shapes")
    size = {double(data.train_size), double(data.test_size), 10};
  else if (data.name == "cifar10")
    size = {50'000, 10'000, 10};
  else if (data.name == "cifar100")
    size = {50'000, 10'000, 100};
  else if (data.name == "imagenet_lt")
    size = {115'846, 20'000, 1000};
  else if (data.name == "imagenet")
    size = {1'281'167, 50'000, 1000};
  else
    return std::nullopt;
  if (data.imbalance > 1) {  // the mean of (1/imbalance)^(c/(C-1)) over classes c
    double share = 0;
    for (int64_t c = 0; c < size.classes; ++c) share += std::pow(double(data.imbalance), -double(c) / double(size.classes - 1));
    size.train *= share / double(size.classes);
  }
  return size;
}

int64_t classes_of(const Recipe& recipe) {
  const auto size = set_size(recipe.data);
  return size ? size->classes : 1000;
}

// A teacher that this grid does not train: its run says what it is, or its file.
Recipe::Model model_of(const Path& teacher) {
  if (std::filesystem::is_directory(teacher)) return load_recipe(teacher / "config.yaml", {}).model;
  const ResnetConfig config = infer_config(read_safetensors(teacher), teacher.string());
  return {.arch = to_string(config.arch), .stem = to_string(config.stem), .width = config.width};
}

class Costs {
 public:
  explicit Costs(const Grid& grid) {
    for (const GridRun& run : grid.runs) models_[run.dir] = run.recipe.model;
  }
  NetCost of(const Recipe& recipe) const { return net_cost(recipe.model, recipe.data.px, classes_of(recipe)); }
  NetCost of_teacher(const Path& teacher, const Recipe& student) {
    auto [model, is_new] = models_.try_emplace(teacher);
    if (is_new) model->second = model_of(teacher);
    return net_cost(model->second, student.data.px, classes_of(student));
  }

 private:
  std::map<Path, Recipe::Model> models_;
};

// Multiply-adds of the epochs that a group has left: three passes' worth for a training step, one for an evaluation and for a teacher.
std::optional<double> work_left(const Grid& grid, const GridGroup& group, const std::vector<RunState>& states, Costs& costs) {
  double macs = 0;
  std::map<Path, double> frozen_epochs;
  for (size_t i : group.runs) {
    const Recipe& r = grid.runs[i].recipe;
    const double epochs = double(
        r.optim.epochs - (states[i].kind == RunState::Kind::to_do || states[i].kind == RunState::Kind::unfinished ? states[i].epochs_done : r.optim.epochs));
    const auto size = set_size(r.data);
    if (!size) return std::nullopt;
    const double held_out = size->train * r.data.holdout, trained = size->train - held_out, forward = costs.of(r).macs;
    macs += epochs * (3 * trained + (held_out + size->test) / double(r.eval_every)) * forward;
    for (const std::string& network : frozen_networks(r)) {
      double& most = frozen_epochs[network];
      most = std::max(most, epochs * trained * costs.of_teacher(network, r).macs);
    }
  }
  for (const auto& [network, work] : frozen_epochs) macs += work;
  return macs;
}

// Multiply-adds a second of training as runs in the out folder achieved it. Only teachers that learned alone, whose cost is their own.
struct Speed {
  double macs_per_second = 0;
  size_t runs = 0;
  std::string of = {};
};
std::optional<Speed> measured_speed(const Grid& grid) {
  namespace fs = std::filesystem;
  std::set<Path> dirs;
  std::error_code ignored;
  for (fs::recursive_directory_iterator it(grid.out, fs::directory_options::skip_permission_denied, ignored), end; it != end; it.increment(ignored)) {
    if (it.depth() == 2) it.disable_recursion_pending();
    if (fs::exists(it->path() / "metrics.jsonl", ignored)) dirs.insert(it->path());
  }
  const Recipe& wanted = grid.runs.at(0).recipe;
  std::vector<double> same, similar;
  for (const Path& dir : dirs) {
    try {
      const Recipe r = load_recipe(dir / "config.yaml", {});
      const auto records = read_metrics(dir / "metrics.jsonl");
      if (run_kind(r) != "teacher" || r.attention.mode != "none" || r.precision != wanted.precision || records.empty()) continue;
      const double images_per_second = number_of(records.back(), "img_per_s");
      if (!(images_per_second > 0)) continue;
      const double speed = 3 * net_cost(r.model, r.data.px, classes_of(r)).macs * images_per_second;
      similar.push_back(speed);
      if (r.model == wanted.model && r.data.px == wanted.data.px) same.push_back(speed);
    } catch (const Error&) {
      continue;  // a damaged run says so when it is run; here it is one source less
    }
  }
  std::vector<double>& speeds = same.empty() ? similar : same;
  if (speeds.empty()) return std::nullopt;
  std::nth_element(speeds.begin(), speeds.begin() + ptrdiff_t(speeds.size() / 2), speeds.end());
  return Speed{speeds[speeds.size() / 2], speeds.size(), same.empty() ? "of other networks" : "like these"};
}

std::string duration(double seconds) {
  if (seconds < 90) return fmt::format("{:.0f} s", seconds);
  if (seconds < 90 * 60) return fmt::format("{:.0f} min", seconds / 60);
  return seconds < 48 * 3600 ? fmt::format("{:.1f} h", seconds / 3600) : fmt::format("{:.1f} days", seconds / 86400);
}

std::string macs_text(double macs) {
  const char* const units[] = {"G", "T", "P", "E"};
  double value = macs / 1e9;
  size_t unit = 0;
  for (; value >= 1000 && unit < 3; ++unit) value /= 1000;
  return fmt::format("{:.3g} {}MAC", value, units[unit]);
}

std::string bytes_text(double bytes) { return bytes < 1e9 ? fmt::format("{:.0f} MB", bytes / 1e6) : fmt::format("{:.1f} GB", bytes / 1e9); }

// Weights, gradients and momentum of every student and weights of every teacher, for as long as the group lasts; what backward needs of one student
// at a time, or two of a teacher's largest maps; the images.
double group_memory(const Grid& grid, const GridGroup& group, Costs& costs) {
  double networks = 0, activations = 0;
  std::set<Path> frozen;
  const Recipe& first = grid.runs[group.runs[0]].recipe;
  const double batch = double(first.optim.batch), width = first.precision == "bf16" ? 2 : 4, copy = first.precision == "bf16" ? 2 : 0;
  for (size_t i : group.runs) {
    const Recipe& r = grid.runs[i].recipe;
    const NetCost cost = costs.of(r);
    networks += cost.params * (12 + copy);
    activations = std::max(activations, batch * width * cost.activations);
    for (const std::string& network : frozen_networks(r))
      if (frozen.insert(network).second) {
        const NetCost seen = costs.of_teacher(network, r);
        networks += seen.params * (4 + copy);
        activations = std::max(activations, batch * width * 2 * seen.largest_map);
      }
  }
  const auto size = set_size(first.data);
  const bool resident = size && !first.data.name.starts_with("imagenet");
  return networks + activations + (resident ? (size->train + size->test) * 32 * 32 * 3 : 0);
}

double run_disk(const GridRun& run, Costs& costs) {
  const NetCost cost = costs.of(run.recipe);
  const auto size = set_size(run.recipe.data);
  const double models = 1 + double(run.recipe.teachers.size());
  // best and last: weights; state: weights and momentum. pred.safetensors: two views' logits.
  return 16 * cost.params + (size ? models * 2 * 4 * size->test * double(size->classes) : 0);
}

}  // namespace

NetCost net_cost(const Recipe::Model& model, int64_t px, int64_t classes) {
  const bool bottleneck = arch_from_name(model.arch) == Arch::resnet50;
  const auto convs =
      zoo_convs(bottleneck ? ZooNet::resnet50 : ZooNet::resnet18, stem_from_name(model.stem) == Stem::cifar ? ZooStem::cifar : ZooStem::imagenet, 1, px);
  NetCost cost;
  double features = 0;
  for (const ZooConv& conv : convs) {
    const ConvShape& s = conv.shape;
    const double in = conv.is_stem ? 3 : double(s.c) * model.width, out = double(s.k) * model.width;
    const double weights = double(s.r * s.s) * in * out, map = double(s.p() * s.q()) * out, layers = conv.layers;
    cost.params += layers * (weights + 2 * out);  // with batch norm's two
    cost.macs += layers * double(s.p() * s.q()) * weights;
    cost.activations += layers * 2 * map;
    cost.largest_map = std::max(cost.largest_map, map);
    features = std::max(features, out);
  }
  cost.params += (features + 1) * double(classes);
  cost.macs += features * double(classes);
  return cost;
}

Forwards forwards_of(const Grid& grid, const GridGroup& group) {
  Forwards forwards;
  std::set<std::string> distinct;
  for (size_t i : group.runs)
    for (const std::string& network : frozen_networks(grid.runs[i].recipe)) ++forwards.alone, distinct.insert(network);
  forwards.shared = int64_t(distinct.size());
  return forwards;
}

std::string cost_text(const Grid& grid, const std::vector<RunState>& states) {
  Costs costs(grid);
  Forwards forwards;
  double shared_work = 0, lone_work = 0, memory = 0, disk = 0;
  size_t largest = 0;
  bool known = true;
  std::vector<RunState> fresh(states.size());
  double left = 0;
  for (size_t g = 0; g < grid.groups.size(); ++g) {
    const GridGroup& group = grid.groups[g];
    const Forwards f = forwards_of(grid, group);
    forwards.shared += f.shared;
    forwards.alone += f.alone;
    const auto whole = work_left(grid, group, fresh, costs), rest = work_left(grid, group, states, costs);
    known = known && whole;
    shared_work += whole.value_or(0);
    left += rest.value_or(0);
    for (size_t i : group.runs) lone_work += work_left(grid, GridGroup{.runs = {i}}, fresh, costs).value_or(0);
    if (const double bytes = group_memory(grid, group, costs); bytes > memory) memory = bytes, largest = g;
  }
  for (size_t i = 0; i < grid.runs.size(); ++i)
    if (states[i].kind == RunState::Kind::to_do || states[i].kind == RunState::Kind::unfinished) disk += run_disk(grid.runs[i], costs);

  std::string text = fmt::format("sharing  {} teacher forwards a batch instead of {}", forwards.shared, forwards.alone);
  text += known && shared_work > 0 ? fmt::format(": {:.2f} times less work than one run at a time\n", lone_work / shared_work) : "\n";

  const std::optional<Speed> speed = known ? measured_speed(grid) : std::nullopt;
  if (!known)
    text += "time     unknown: the number of images is not known before they are read\n";
  else if (left == 0)
    text += "time     nothing is left to train\n";
  else if (speed)
    text += fmt::format("time     about {} by one process like the one before: {} at the {}/s of {} teacher run{} {} in {}\n",
                        duration(left / speed->macs_per_second), macs_text(left), macs_text(speed->macs_per_second), speed->runs, speed->runs == 1 ? "" : "s",
                        speed->of, grid.out.string());
  else
    text += fmt::format("time     unknown until the first epoch of a teacher is done in {}: {}\n", grid.out.string(), macs_text(left));

  text += fmt::format("memory   about {} for networks, activations and images of group {}, the largest; grid.max_students makes groups smaller\n",
                      bytes_text(memory), largest + 1);
  Path place = std::filesystem::absolute(grid.out);
  while (!std::filesystem::exists(place) && place.has_relative_path()) place = place.parent_path();
  std::error_code code;
  const auto space = std::filesystem::space(place, code);
  text += fmt::format("disk     about {} more in {}{}\n", bytes_text(disk), grid.out.string(),
                      code ? "" : fmt::format(" ({} free)", bytes_text(double(space.available))));
  return text;
}

}  // namespace kd
