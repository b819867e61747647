// The training loop of teachers, baselines and students, top to bottom: this is where a run happens.
//   batch (data/augment) -> network (models/resnet) -> loss (kd/losses) -> backward (engine/tape) -> update (engine/optim)
// Everything a step draws at random is a function of (seed, epoch, sample), so an epoch depends only on the state it starts from: a run that was
// killed goes on from its last complete epoch with the same bits as one that was not.
#include <chrono>

#include "bench/predict.h"
#include "bench/progress.h"
#include "bench/run_dir.h"
#include "bench/verbs.h"
#include "engine/checkpoint.h"
#include "engine/optim.h"
#include "kd/losses.h"

namespace kd {
namespace {

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
  file.tensors.push_back({kMomentumName, net.params().momentum()});
  file.metadata = {{"epochs_done", fmt::format("{}", state.epochs_done)},
                   {"best_epoch", fmt::format("{}", state.best_epoch)},
                   {"best_score", fmt::format("{:.17g}", state.best_score)},
                   {"seconds", fmt::format("{:.3f}", state.seconds)},
                   {"train_seconds", fmt::format("{:.3f}", state.train_seconds)}};
  write_safetensors(path, file);
}

TrainState load_state(const Path& path, Resnet& net) {
  TensorFile file = read_safetensors(path);
  auto number = [&](const char* key) {
    auto it = file.metadata.find(key);
    KD_INPUT(it != file.metadata.end(), "{}: no '{}' in the metadata; delete the run directory to start again", path.string(), key);
    return std::strtod(it->second.c_str(), nullptr);
  };
  load_state_dict(net.params(), file, path.string());
  const Tensor* momentum = file.find(kMomentumName);
  const Tensor& into = net.params().momentum();
  KD_INPUT(momentum && momentum->shape() == into.shape() && momentum->dtype() == DType::f32,
           "{}: no momentum that fits the model; delete the run directory to start again", path.string());
  std::copy_n(momentum->data<float>(), into.elements(), into.data<float>());
  return {int64_t(number("epochs_done")), int64_t(number("best_epoch")), number("best_score"), number("seconds"), number("train_seconds")};
}

struct EpochSums {
  double loss = 0, ce = 0, kd = 0;
  int64_t images = 0, right = 0, agree = 0;
};

class Training {
 public:
  Training(const Recipe& recipe, const RunOptions& options)
      : recipe_(recipe), options_(options), splits_(load_splits(data_config(recipe))), type_(recipe.precision == "bf16" ? DType::bf16 : DType::f32) {
    KD_INPUT(type_ == DType::f32 || cpu_info().avx512_bf16, "precision=bf16 needs a CPU with AVX512_BF16, '{}' has none; use precision=fp32", cpu_info().name);
    KD_INPUT(splits_.train.size() >= 2, "{}: {} training images; at least 2 are needed", recipe.data.name, splits_.train.size());
    net_ = std::make_unique<Resnet>(ResnetConfig{.arch = arch_from_name(recipe.model.arch),
                                                 .stem = stem_from_name(recipe.model.stem),
                                                 .classes = splits_.train.classes,
                                                 .width = recipe.model.width,
                                                 .seed = uint64_t(recipe.seed)});
    if (!recipe.model.init.empty()) load_state_dict(net_->params(), read_safetensors(recipe.model.init), recipe.model.init);
    KD_INPUT(recipe.teachers.size() <= size_t(kMaxTeachers), "{} teachers; at most {} can be combined", recipe.teachers.size(), kMaxTeachers);
    for (const std::string& teacher : recipe.teachers) {
      Path path = model_path(teacher);
      teachers_.push_back(load_model(path));
      KD_INPUT(teachers_.back().net->config().classes == splits_.train.classes, "teacher {}: has {} classes, {} has {}", path.string(),
               teachers_.back().net->config().classes, recipe.data.name, splits_.train.classes);
      const int64_t px = teachers_.back().metadata.px;
      KD_INPUT(px == 0 || px == recipe.data.px, "teacher {}: was trained at {} px and would be shown {} px; set data.px={}", path.string(), px, recipe.data.px,
               px);
    }
    augment_ = augment_config(recipe);
    loss_ = {.combine = combine_from_name(recipe.loss.combine),
             .alpha = float(recipe.loss.alpha),
             .soft_weight = float(recipe.loss.soft_weight < 0 ? 1 - recipe.loss.alpha : recipe.loss.soft_weight),
             .tau = float(recipe.loss.tau),
             .standardize = recipe.loss.zscore ? Standardize::zscore : Standardize::none};
  }

  Path run() {
    const Path path = run_path(recipe_, options_.out);
    RunDir dir(path, recipe_, {.command = options_.command, .dataset_hash = splits_.train.hash()});
    if (dir.is_done()) {
      if (!options_.quiet) fmt::print("{}: finished before; nothing to do\n", path.string());
      return path;
    }
    const Path state_path = path / "ckpt" / "state.safetensors";
    TrainState state;
    if (std::filesystem::exists(state_path)) state = load_state(state_path, *net_);
    dir.resume_at(state.epochs_done);

    Progress progress(ProgressConfig{.name = recipe_.name, .epochs = recipe_.optim.epochs, .first_epoch = state.epochs_done, .quiet = options_.quiet});
    for (int64_t epoch = state.epochs_done; epoch < recipe_.optim.epochs; ++epoch) {
      const auto start = Clock::now();
      const double lr = learning_rate(recipe_.optim, epoch);
      const EpochSums sums = train_epoch(epoch, float(lr), progress);
      const double train_seconds = seconds_since(start);
      const bool last = epoch + 1 == recipe_.optim.epochs;

      Predictions holdout{}, test{};
      const bool evaluate = last || (epoch + 1) % recipe_.eval_every == 0;
      if (evaluate) {
        if (splits_.holdout.size() > 0) holdout = predict(*net_, splits_.holdout, test_view());
        test = predict(*net_, splits_.test, test_view());
      }
      state.epochs_done = epoch + 1;
      state.seconds += seconds_since(start);
      state.train_seconds += train_seconds;
      const ModelMetadata metadata{.px = recipe_.data.px, .recipe_id = recipe_id(recipe_), .name = recipe_.name, .seed = recipe_.seed, .epoch = epoch};
      if (evaluate && is_selected(state, holdout, test)) {
        state.best_epoch = epoch;
        save_model(path / "ckpt" / "best.safetensors", *net_, metadata);
      }
      save_model(path / "ckpt" / "last.safetensors", *net_, metadata);

      Record record{{"event", std::string("epoch")},
                    {"epoch", epoch},
                    {"lr", lr},
                    {"loss", sums.loss / double(sums.images)},
                    {"ce", sums.ce / double(sums.images)},
                    {"kd", sums.kd / double(sums.images)},
                    {"train_top1", 100.0 * double(sums.right) / double(sums.images)}};
      if (!teachers_.empty()) record.push_back({"train_agreement", double(sums.agree) / double(sums.images)});
      if (evaluate) {
        if (splits_.holdout.size() > 0) record.insert(record.end(), {{"holdout_top1", holdout.top1}, {"holdout_loss", holdout.loss}});
        record.insert(record.end(), {{"test_top1", test.top1}, {"test_loss", test.loss}});
      }
      record.push_back({"img_per_s", double(sums.images) / train_seconds});
      record.push_back({"seconds", state.seconds});
      dir.log(record);
      save_state(state_path, *net_, state);  // last: what is in here is done
      progress.epoch_done(epoch, record);
    }
    finish(dir, path, state);
    return path;
  }

 private:
  PredictOptions test_view() const { return {.view = View::test, .augment = augment_, .type = type_}; }

  EpochSums train_epoch(int64_t epoch, float lr, Progress& progress) {
    Loader loader(splits_.train, {.batch = recipe_.optim.batch,
                                  .view = view_from_name(recipe_.view),
                                  .augment = augment_,
                                  .type = type_,
                                  .seed = uint64_t(recipe_.seed),
                                  .order = Order::shuffled});
    loader.start(uint32_t(epoch));
    EpochSums sums;
    for (Batch batch; loader.next(batch);) {
      const Var x(batch.images);
      const int64_t n = batch.images.dim(0);
      if (n == 1) continue;  // batch norm has no variance over a single image of 1x1 maps; one image in an epoch is no loss

      // Every teacher sees the student's view of the batch.
      std::vector<Tensor> teacher_logits;
      for (auto& teacher : teachers_) {
        NoGrad no_grad;
        teacher_logits.push_back((*teacher.net)(x, recipe_.teacher_bn == "batch" ? Mode::train : Mode::eval).value());
      }
      Var logits = (*net_)(x, Mode::train);
      LossValue loss = teachers_.empty() ? cross_entropy(logits, batch.labels) : distill_loss(logits, batch.labels, teacher_logits, loss_);
      Tape::current().backward(loss.total);
      sgd(net_->params(), {.momentum = float(recipe_.optim.momentum), .weight_decay = float(recipe_.optim.weight_decay)}, lr);

      const double value = double(*loss.total.value().data<float>());
      KD_INPUT(std::isfinite(value), "{}: the loss became {} in epoch {} (lr {:.4g}); lower optim.lr or lengthen optim.warmup", recipe_.name, value, epoch, lr);
      sums.images += n;
      sums.loss += value * double(n);
      sums.ce += loss.ce * double(n);
      sums.kd += loss.kd * double(n);
      sums.right += score(logits.value(), {batch.labels.data<int32_t>(), size_t(n)}).right;
      sums.agree += agreements(logits.value(), teacher_logits);
      progress.step(epoch, sums.images, splits_.train.size(), sums.loss / double(sums.images));
    }
    return sums;
  }

  // Samples on which the student's top class is that of the teachers' mean logits.
  static int64_t agreements(const Tensor& student, const std::vector<Tensor>& teachers) {
    if (teachers.empty()) return 0;
    const int64_t n = student.dim(0), classes = student.dim(1);
    int64_t agree = 0;
    std::vector<float> mean(static_cast<size_t>(classes));
    for (int64_t i = 0; i < n; ++i) {
      std::fill(mean.begin(), mean.end(), 0.f);
      for (const Tensor& t : teachers)
        for (int64_t k = 0; k < classes; ++k) mean[size_t(k)] += t.data<float>()[i * classes + k];
      const float* s = student.data<float>() + i * classes;
      agree += std::max_element(s, s + classes) - s == std::max_element(mean.begin(), mean.end()) - mean.begin();
    }
    return agree;
  }

  // The selected checkpoint is the best so far (strictly better: the earlier of equals), or simply the last.
  bool is_selected(TrainState& state, const Predictions& holdout, const Predictions& test) const {
    if (recipe_.select == "last" || (recipe_.select == "holdout" && splits_.holdout.size() == 0)) return true;
    const double now = recipe_.select == "holdout" ? holdout.top1 : test.top1;
    if (now <= state.best_score) return false;
    state.best_score = now;
    return true;
  }

  void finish(RunDir& dir, const Path& path, const TrainState& state) {
    auto last = predict(*net_, splits_.test, test_view());
    auto train = predict(*net_, splits_.train, test_view());
    auto selected = predict(*load_model(path / "ckpt" / "best.safetensors").net, splits_.test, test_view());
    std::vector<std::string> names;
    for (const std::string& t : recipe_.teachers) names.push_back(teacher_name(t));
    Record summary{{"name", recipe_.name},
                   {"kind", std::string(!recipe_.teachers.empty()             ? "student"
                                        : recipe_.name.rfind("only_", 0) == 0 ? "baseline"
                                                                              : "teacher")},
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
                   {"epochs_done", state.epochs_done},
                   {"classes", splits_.train.classes},
                   {"train_images", splits_.train.size()},
                   {"test_images", splits_.test.size()},
                   {"params", net_->params().parameter_count()},
                   {"precision", recipe_.precision},
                   {"select", recipe_.select},
                   {"selected_epoch", state.best_epoch},
                   {"test_top1_last", last.top1},
                   {"test_top1_selected", selected.top1},
                   {"train_top1_last", train.top1},
                   {"seconds", state.seconds},
                   {"img_per_s", double(splits_.train.size() * state.epochs_done) / std::max(state.train_seconds, 1e-9)},
                   {"command", options_.command}};
    if (!teachers_.empty())
      summary.insert(summary.end(), {{"combine", recipe_.loss.combine},
                                     {"alpha", double(loss_.alpha)},
                                     {"soft_weight", double(loss_.soft_weight)},
                                     {"tau", recipe_.loss.tau},
                                     {"zscore", recipe_.loss.zscore}});
    dir.write_summary(summary);
    dir.mark_done();
  }

  Recipe recipe_;
  RunOptions options_;
  Splits splits_;
  DType type_;
  AugmentConfig augment_;
  DistillConfig loss_;
  std::unique_ptr<Resnet> net_;
  std::vector<LoadedModel> teachers_;
};

}  // namespace

Path train_run(const Recipe& recipe, const RunOptions& options) { return Training(recipe, options).run(); }

}  // namespace kd
