// The training loop of teachers, baselines and students, top to bottom: this is where runs happen.
//   decisions of a batch (data/loader) -> one step (bench/train_step): pixels, teachers, students, losses, backwards, updates
// Runs that see the same batches are trained side by side and share every teacher's forward; a run alone is a group of one. Everything a step draws at
// random is a function of (seed, epoch, sample), so an epoch depends only on the state it starts from, and not on who else is trained: a run that was
// killed goes on from its last complete epoch with the same bits as one that was not, and a run in a group has the bits it has alone.
#include <chrono>
#include <functional>
#include <optional>

#include "bench/predict.h"
#include "bench/progress.h"
#include "bench/run_dir.h"
#include "bench/train_step.h"
#include "bench/verbs.h"
#include "engine/base/profile.h"
#include "engine/checkpoint.h"
#include "kd/metrics.h"
#include "kernels/conv/conv.h"

namespace kd {
namespace {

std::string device_name(Device device) { return device == Device::cuda ? "cuda" : to_string(device); }

using Clock = std::chrono::steady_clock;
double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

// Everything an epoch starts from and changes.
struct TrainState {
  int64_t epochs_done = 0;
  int64_t best_epoch = -1;
  double best_score = -1;
  double seconds = 0, train_seconds = 0;  // spent so far, over all interruptions; without evaluation
};

// The student's weights, statistics and momentum with the TrainState, in one file: either all of an epoch is there or none of it.
void save_state(const Path& path, Resnet& net, const TrainState& state) {
  TensorFile file{state_dict(net.params()), {}};
  for (NamedTensor& t : momentum_dict(net.params())) file.tensors.push_back(std::move(t));
  file.metadata = {{"device", device_name(net.config().device)},        {"epochs_done", fmt::format("{}", state.epochs_done)},
                   {"best_epoch", fmt::format("{}", state.best_epoch)}, {"best_score", fmt::format("{:.17g}", state.best_score)},
                   {"seconds", fmt::format("{:.3f}", state.seconds)},   {"train_seconds", fmt::format("{:.3f}", state.train_seconds)}};
  write_safetensors(path, file);
}

TrainState load_state(const Path& path, Resnet& net) {
  TensorFile file = read_safetensors(path);
  auto number = [&](const char* key) {
    auto it = file.metadata.find(key);
    KD_INPUT(it != file.metadata.end(), "{}: no '{}' in the metadata; delete the run directory to start again", path.string(), key);
    return std::strtod(it->second.c_str(), nullptr);
  };
  // Devices round differently: half a run on each would be a run that nobody can repeat.
  const std::string device = device_name(net.config().device);
  KD_INPUT(file.metadata["device"] == device, "{}: was trained on '{}' so far and would go on on '{}'; give --device {}, or delete the run directory",
           path.string(), file.metadata["device"], device, file.metadata["device"]);
  load_state_dict(net.params(), file, path.string());
  load_momentum(net.params(), file, path.string());
  return {int64_t(number("epochs_done")), int64_t(number("best_epoch")), number("best_score"), number("seconds"), number("train_seconds")};
}

DType type_of(const Recipe& recipe) { return recipe.precision == "bf16" ? DType::bf16 : DType::f32; }

// A network that runs learn from, in the mode in which it is run: a teacher in training mode and the same file in evaluation mode are two networks.
struct FrozenKey {
  Path model;
  Mode mode;
  auto operator<=>(const FrozenKey&) const = default;
};
std::vector<FrozenKey> teachers_of(const Recipe& recipe) {
  std::vector<FrozenKey> keys;
  for (const std::string& teacher : recipe.teachers) keys.push_back({model_path(teacher), recipe.teacher_bn == "batch" ? Mode::train : Mode::eval});
  return keys;
}
// Teachers that are references too are run once, as teachers; references of their own always in evaluation mode.
std::vector<FrozenKey> references_of(const Recipe& recipe) {
  if (recipe.attention.mode != "none" && recipe.attention.references.empty()) return teachers_of(recipe);
  std::vector<FrozenKey> keys;
  for (const std::string& reference : recipe.attention.references) keys.push_back({model_path(reference, "attention reference"), Mode::eval});
  return keys;
}

// One run: its network, its directory, and how far it has come.
class Run {
 public:
  Run(const Recipe& recipe, const RunOptions& options, const Splits& splits)
      : recipe_(recipe),
        options_(options),
        splits_(splits),
        path_(run_path(recipe, options.out)),
        dir_(path_, recipe, {.command = options.command, .dataset_hash = splits.train.hash()}) {
    if (is_done()) return;
    if (std::filesystem::exists(choices_path())) pin_conv_choices(read_text(choices_path()), choices_path().string());
    net_ = std::make_unique<Resnet>(ResnetConfig{.arch = arch_from_name(recipe.model.arch),
                                                 .stem = stem_from_name(recipe.model.stem),
                                                 .classes = splits.train.classes,
                                                 .width = recipe.model.width,
                                                 .seed = uint64_t(recipe.seed),
                                                 .device = options.device,
                                                 .type = type_of(recipe)});
    if (!recipe.model.init.empty()) load_state_dict(net_->params(), read_safetensors(recipe.model.init), recipe.model.init);
    if (std::filesystem::exists(state_path())) state_ = load_state(state_path(), *net_);
    dir_.resume_at(state_.epochs_done);
  }

  const Recipe& recipe() const { return recipe_; }
  const Path& path() const { return path_; }
  bool is_done() const { return dir_.is_done(); }
  int64_t epochs_done() const { return state_.epochs_done; }

  // frozen: where a network is among those of the step.
  Student student(const std::function<size_t(const FrozenKey&)>& frozen) const {
    const Recipe::Loss& loss = recipe_.loss;
    Student s{.net = net_.get(),
              .teachers = {},
              .loss = {.combine = combine_from_name(loss.combine),
                       .alpha = float(loss.alpha),
                       .soft_weight = float(soft_weight()),
                       .tau = float(loss.tau),
                       .standardize = loss.zscore ? Standardize::zscore : Standardize::none},
              .sgd = {.momentum = float(recipe_.optim.momentum), .weight_decay = float(recipe_.optim.weight_decay)}};
    for (const FrozenKey& key : teachers_of(recipe_)) s.teachers.push_back(frozen(key));
    for (const FrozenKey& key : references_of(recipe_)) s.references.push_back(frozen(key));
    if (!s.references.empty()) s.attention = {.mode = attention_mode_from_name(recipe_.attention.mode), .weight = float(recipe_.attention.weight)};
    return s;
  }

  // Published scripts begin one epoch before the learning rate first drops.
  bool records_published_metrics(int64_t epoch) const {
    if (recipe_.teachers.empty() || recipe_.published_metrics == "never") return false;
    const auto& milestones = recipe_.optim.milestones;
    return recipe_.published_metrics == "always" || recipe_.optim.schedule != "step" || milestones.empty() || epoch + 1 >= milestones[0];
  }

  // After an epoch of training: evaluates, keeps the checkpoints, writes the record. Returns it.
  Record end_epoch(int64_t epoch, double lr, const KdSums& sums, double train_seconds, const std::map<std::string, double>& published) {
    const auto start = Clock::now();
    const bool last = epoch + 1 == recipe_.optim.epochs, evaluate = last || (epoch + 1) % recipe_.eval_every == 0;
    Predictions holdout{}, test{};
    if (evaluate) {
      if (splits_.holdout.size() > 0) holdout = predict(*net_, splits_.holdout, test_view());
      test = predict(*net_, splits_.test, test_view());
      // The last update of an epoch can be the one that breaks the network, and no training loss has seen it yet.
      KD_INPUT(std::isfinite(test.loss), "{}: after epoch {} (lr {:.4g}) the loss became {} on the test images; lower optim.lr or lengthen optim.warmup",
               recipe_.name, epoch, lr, test.loss);
    }
    state_.epochs_done = epoch + 1;
    state_.seconds += train_seconds + seconds_since(start);
    state_.train_seconds += train_seconds;
    const ModelMetadata metadata{.px = recipe_.data.px, .recipe_id = recipe_id(recipe_), .name = recipe_.name, .seed = recipe_.seed, .epoch = epoch};
    if (evaluate && is_selected(holdout, test)) {
      state_.best_epoch = epoch;
      save_model(path_ / "ckpt" / "best.safetensors", *net_, metadata);
    }
    save_model(path_ / "ckpt" / "last.safetensors", *net_, metadata);

    Record record{{"event", std::string("epoch")},
                  {"epoch", epoch},
                  {"lr", lr},
                  {"loss", sums.loss / double(sums.images)},
                  {"ce", sums.ce / double(sums.images)},
                  {"kd", sums.kd / double(sums.images)},
                  {"train_top1", 100.0 * double(sums.right) / double(sums.images)}};
    if (recipe_.attention.mode != "none") record.push_back({"attention", sums.attention / double(sums.images)});
    if (!recipe_.teachers.empty()) record.push_back({"train_agreement", double(sums.agree) / double(sums.images)});
    if (evaluate) {
      if (splits_.holdout.size() > 0) record.insert(record.end(), {{"holdout_top1", holdout.top1}, {"holdout_loss", holdout.loss}});
      record.insert(record.end(), {{"test_top1", test.top1}, {"test_loss", test.loss}});
    }
    for (const auto& [key, value] : published) record.push_back({key, value});
    record.push_back({"img_per_s", double(sums.images) / train_seconds});
    record.push_back({"seconds", state_.seconds});
    dir_.log(record);
    // Who goes on from this state takes the same kernels, also where the machine's own file of choices is gone.
    if (options_.device != Device::cuda)
      if (std::string choices = conv_choices(); choices != choices_) write_atomically(choices_path(), choices_ = std::move(choices));
    save_state(state_path(), *net_, state_);  // last: what is in here is done
    return record;
  }

  void finish() {
    auto last = predict(*net_, splits_.test, test_view());
    auto train = predict(*net_, splits_.train, test_view());
    auto selected = predict(*load_model(path_ / "ckpt" / "best.safetensors", options_.device, type_of(recipe_)).net, splits_.test, test_view());
    std::vector<std::string> names;
    for (const std::string& t : recipe_.teachers) names.push_back(teacher_name(t));
    Record summary{{"name", recipe_.name},
                   {"kind", run_kind(recipe_)},
                   {"recipe_id", recipe_id(recipe_)},
                   {"dataset", recipe_.data.name},
                   {"arch", recipe_.model.arch},
                   {"stem", recipe_.model.stem},
                   {"width", recipe_.model.width},
                   {"px", recipe_.data.px},
                   {"seed", recipe_.seed},
                   {"view", recipe_.view},
                   {"teachers", names},
                   {"epochs", recipe_.optim.epochs},
                   {"epochs_done", state_.epochs_done},
                   {"classes", splits_.train.classes},
                   {"train_images", splits_.train.size()},
                   {"test_images", splits_.test.size()},
                   {"params", net_->params().parameter_count()},
                   {"precision", recipe_.precision},
                   {"device", device_name(options_.device)},
                   {"select", recipe_.select},
                   {"selected_epoch", state_.best_epoch},
                   {"test_top1_last", last.top1},
                   {"test_top1_selected", selected.top1},
                   {"train_top1_last", train.top1},
                   {"seconds", state_.seconds},
                   {"img_per_s", double(splits_.train.size() * state_.epochs_done) / std::max(state_.train_seconds, 1e-9)},
                   {"command", options_.command}};
    if (!recipe_.teachers.empty())
      summary.insert(summary.end(), {{"combine", recipe_.loss.combine},
                                     {"alpha", recipe_.loss.alpha},
                                     {"soft_weight", soft_weight()},
                                     {"tau", recipe_.loss.tau},
                                     {"zscore", recipe_.loss.zscore}});
    if (recipe_.attention.mode != "none") {
      std::vector<std::string> references;
      for (const std::string& r : attention_references(recipe_)) references.push_back(teacher_name(r));
      summary.insert(summary.end(),
                     {{"attention_mode", recipe_.attention.mode}, {"attention_weight", recipe_.attention.weight}, {"attention_references", references}});
    }
    dir_.write_summary(summary);
    dir_.mark_done();
  }

 private:
  Path choices_path() const { return path_ / "conv_choices.txt"; }
  Path state_path() const { return path_ / "ckpt" / "state.safetensors"; }
  PredictOptions test_view() const { return {.view = View::test, .augment = augment_config(recipe_), .type = type_of(recipe_)}; }
  double soft_weight() const { return recipe_.loss.soft_weight < 0 ? 1 - recipe_.loss.alpha : recipe_.loss.soft_weight; }

  // The selected checkpoint is the best so far (strictly better: the earlier of equals), or simply the last.
  bool is_selected(const Predictions& holdout, const Predictions& test) {
    if (recipe_.select == "last" || (recipe_.select == "holdout" && splits_.holdout.size() == 0)) return true;
    const double now = recipe_.select == "holdout" ? holdout.top1 : test.top1;
    if (now <= state_.best_score) return false;
    state_.best_score = now;
    return true;
  }

  Recipe recipe_;
  const RunOptions& options_;
  const Splits& splits_;
  Path path_;
  RunDir dir_;
  std::unique_ptr<Resnet> net_;
  TrainState state_;
  std::string choices_;  // as choices_path() holds them
};

// Runs that see the same batches in the same order.
class Group {
 public:
  Group(const std::vector<Recipe>& recipes, const RunOptions& options) : options_(options), splits_(load_splits(data_config(recipes.at(0)))) {
    const Recipe& first = recipes[0];
    require_precision(options.device, type_of(first));
    set_conv_math(first.conv == "exact" ? ConvMath::exact : ConvMath::fast);
    KD_INPUT(splits_.train.size() >= 2, "{}: {} training images; at least 2 are needed", first.data.name, splits_.train.size());
    for (const Recipe& recipe : recipes)
      KD_CHECK(batch_stream(recipe) == batch_stream(first), "{} and {} do not see the same batches", first.name, recipe.name);
    for (const Recipe& recipe : recipes) load_frozen(recipe);
    for (const Recipe& recipe : recipes) runs_.push_back(std::make_unique<Run>(recipe, options_, splits_));
    loader_.emplace(splits_.train, LoaderConfig{.batch = first.optim.batch,
                                                .view = view_from_name(first.view),
                                                .augment = augment_config(first),
                                                .type = type_of(first),
                                                .seed = uint64_t(first.seed),
                                                .order = Order::shuffled,
                                                .last = first.optim.last_batch == "drop" ? LastBatch::drop : LastBatch::keep,
                                                .device = options.device});
  }

  std::vector<Path> run() {
    const Recipe& first = runs_[0]->recipe();
    int64_t first_epoch = first.optim.epochs;
    std::vector<Path> paths;
    bool all_done = true;
    for (const auto& run : runs_) {
      paths.push_back(run->path());
      if (run->is_done()) {
        if (!options_.quiet) fmt::print("{}: finished before; nothing to do\n", run->path().string());
      } else {
        all_done = false;
        first_epoch = std::min(first_epoch, run->epochs_done());
      }
    }
    if (all_done) return paths;
    const std::string name = runs_.size() == 1 ? first.name : fmt::format("{} runs, {} view", runs_.size(), first.view);
    Progress progress(ProgressConfig{.name = name, .epochs = first.optim.epochs, .first_epoch = first_epoch, .quiet = options_.quiet});
    for (int64_t epoch = first_epoch; epoch < first.optim.epochs; ++epoch) train_epoch(epoch, progress);
    for (const auto& run : runs_)
      if (!run->is_done()) run->finish();
    fmt::print(stderr, "{}", profile::take_table());  // of the training steps; empty unless KD_VERBOSE=1
    return paths;
  }

 private:
  void load_frozen(const Recipe& recipe) {
    KD_INPUT(recipe.teachers.size() <= size_t(kMaxTeachers), "{} teachers; at most {} can be combined", recipe.teachers.size(), kMaxTeachers);
    KD_INPUT(recipe.attention.references.size() <= size_t(kMaxReferences), "{} attention.references; at most {} can be compared with",
             recipe.attention.references.size(), kMaxReferences);
    for (const FrozenKey& key : teachers_of(recipe)) {
      const int64_t classes = frozen(key, "teacher", recipe).net->config().classes;
      KD_INPUT(classes == splits_.train.classes, "teacher {}: has {} classes, {} has {}", key.model.string(), classes, recipe.data.name, splits_.train.classes);
    }
    for (const FrozenKey& key : references_of(recipe)) require_same_map(key, frozen(key, "attention reference", recipe).net->config().stem, recipe);
  }

  const LoadedModel& frozen(const FrozenKey& key, const char* what, const Recipe& recipe) {
    if (const auto known = frozen_.find(key); known != frozen_.end()) return known->second;
    const LoadedModel& model = frozen_[key] = load_model(key.model, options_.device, type_of(recipe));
    const int64_t px = model.metadata.px;
    KD_INPUT(px == 0 || px == recipe.data.px, "{} {}: was trained at {} px and would be shown {} px; set data.px={}", what, key.model.string(), px,
             recipe.data.px, px);
    if (key.mode == Mode::train)
      for (const ParamArena::Buffer& b : model.net->params().buffers()) statistics_.push_back({*b.slot, b.slot->clone()});
    return model;
  }

  // Running statistics do nothing in training mode but round: sums for a batch's own statistics are taken about them. They move with every batch, and who goes
  // on after a kill, or joins a group, starts from the file; so every epoch does.
  void reset_statistics() {
    for (const auto& [moved, loaded] : statistics_) moved.copy_from(loaded);
  }

  // Attention is compared position by position.
  static void require_same_map(const FrozenKey& key, Stem stem, const Recipe& recipe) {
    const int64_t px = recipe.data.px, other = feature_side(stem, px), side = feature_side(stem_from_name(recipe.model.stem), px);
    KD_INPUT(side == other, "attention reference {}: its feature map has {}x{} positions at {} px, that of {} {}x{}; attention needs the same model.stem",
             key.model.string(), other, other, px, recipe.name, side, side);
    KD_INPUT(side > 1, "{}: attention.mode is {}, but feature maps have a single position at {} px; use a larger data.px or model.stem=cifar", recipe.name,
             recipe.attention.mode, px);
  }

  // The step of the runs whose next epoch this is: a kill between two checkpoints leaves some of a group an epoch ahead.
  void prepare_step(int64_t epoch) {
    std::vector<Run*> now;
    for (const auto& run : runs_)
      if (!run->is_done() && run->epochs_done() == epoch) now.push_back(run.get());
    if (step_ && now == training_) return;
    training_ = now;
    std::vector<Student> students;
    std::vector<Frozen> frozen;
    std::map<FrozenKey, size_t> in_step;  // only those that somebody still learns from
    auto place = [&](const FrozenKey& key) {
      const auto [known, is_new] = in_step.try_emplace(key, frozen.size());
      if (is_new) frozen.push_back({frozen_.at(key).net.get(), key.mode});
      return known->second;
    };
    Keep keep = Keep::nothing;
    teachers_in_step_.clear();
    for (const Run* run : training_) {
      students.push_back(run->student(place));
      teachers_in_step_.push_back(students.back().teachers);
      if (!run->recipe().teachers.empty() && run->recipe().published_metrics != "never") keep = Keep::logits;
    }
    step_.emplace(students, frozen, runs_[0]->recipe().data.px, loader_->input_bytes(), TrainStepConfig{.launch = options_.launch, .keep = keep});
  }

  void train_epoch(int64_t epoch, Progress& progress) {
    const auto start = Clock::now();
    prepare_step(epoch);
    Loader& loader = *loader_;
    loader.start(uint32_t(epoch));
    reset_statistics();
    step_->clear_sums();
    std::map<size_t, CodeMetrics> published;  // of those of training_ that record them
    for (size_t i = 0; i < training_.size(); ++i)
      if (training_[i]->records_published_metrics(epoch)) published.try_emplace(i, uint64_t(training_[i]->recipe().seed), uint32_t(epoch));
    const double lr = learning_rate(runs_[0]->recipe().optim, epoch);
    const int64_t epoch_images = std::min(splits_.train.size(), loader.steps() * runs_[0]->recipe().optim.batch);
    int64_t images = 0;
    std::optional<profile::Window> window(std::in_place);
    for (int64_t n; (n = loader.draw(step_->inputs())) > 0;) {
      if (n == 1) continue;  // batch norm has no variance over a single image of 1x1 maps; one image in an epoch is no loss
      step_->run(n, float(lr), [&](const std::byte* inputs, const Tensor& x, const Tensor& labels) { loader.make(inputs, n, x, labels); });
      images += n;
      ++window->steps;
      for (auto& [i, metrics] : published) {
        std::vector<Tensor> teachers;
        for (const size_t t : teachers_in_step_.at(i)) teachers.push_back(step_->frozen_logits(t));
        metrics.add(step_->student_logits(i), teachers);
      }
      double loss = 0;
      int64_t counted = 0;
      for (size_t i = 0; i < training_.size(); ++i) {
        const KdSums sums = step_->latest_sums(i);
        check_loss(*training_[i], sums, epoch, lr);
        loss += sums.loss;
        counted += sums.images;
      }
      if (counted > 0) progress.step(epoch, images, epoch_images, loss / double(counted));
    }
    std::vector<KdSums> sums;
    for (size_t i = 0; i < training_.size(); ++i) {
      sums.push_back(step_->final_sums(i));
      check_loss(*training_[i], sums.back(), epoch, lr);
    }
    window.reset();
    const double seconds = seconds_since(start) / double(training_.size());
    for (size_t i = 0; i < training_.size(); ++i) {
      const auto metrics = published.find(i);
      const Record record =
          training_[i]->end_epoch(epoch, lr, sums[i], seconds, metrics == published.end() ? std::map<std::string, double>() : metrics->second.means());
      if (i + 1 == training_.size()) progress.epoch_done(epoch, record);
    }
  }

  static void check_loss(const Run& run, const KdSums& sums, int64_t epoch, double lr) {
    KD_INPUT(std::isfinite(sums.loss), "{}: the loss became {} in epoch {} (lr {:.4g}); lower optim.lr or lengthen optim.warmup", run.recipe().name, sums.loss,
             epoch, lr);
  }

  RunOptions options_;
  Splits splits_;
  std::map<FrozenKey, LoadedModel> frozen_;
  std::vector<std::pair<Tensor, Tensor>> statistics_;  // of frozen networks in training mode: theirs, and a copy of what their files say
  std::vector<std::unique_ptr<Run>> runs_;
  std::optional<Loader> loader_;
  std::vector<Run*> training_;
  std::vector<std::vector<size_t>> teachers_in_step_;  // of training_, by their place among the step's frozen networks
  std::optional<TrainStep> step_;
};

}  // namespace

std::string batch_stream(const Recipe& recipe) {
  Recipe r = recipe;  // what remains after blanking is what decides the batches and the schedule
  r.name = r.preset = r.select = "";
  r.model = {};
  r.teachers = {};
  r.loss = {};
  r.attention = {};
  r.optim.momentum = r.optim.weight_decay = 0;
  r.eval_every = 1;
  r.published_metrics = "never";
  return to_yaml(r);
}

std::vector<Path> train_group(const std::vector<Recipe>& recipes, const RunOptions& options) {
  KD_CHECK(!recipes.empty(), "a group of no runs");
  return Group(recipes, options).run();
}

Path train_run(const Recipe& recipe, const RunOptions& options) { return train_group({recipe}, options)[0]; }

}  // namespace kd
