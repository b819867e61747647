#include "bench/analysis.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "data/dataset.h"
#include "engine/base/check.h"
#include "engine/safetensors.h"

namespace kd {
namespace {

using nlohmann::json;

constexpr const char* kFormat = "2";
constexpr Cam kKinds[] = {Cam::pred_class, Cam::class_sum, Cam::label_class, Cam::prob_weighted, Cam::energy, Cam::random_projection};
constexpr double kSweep[] = {.2, .3, .4, .5, .6, .7};

// ---- one view

json to_json(const ModelMetrics& m) {
  json bins = json::array();
  for (const ReliabilityBin& b : m.reliability) bins.push_back({{"bin", b.index}, {"n", b.n}, {"acc", b.acc}, {"conf", b.conf}});
  return {{"top1", m.top1},
          {"top5", m.top5},
          {"nll", m.nll},
          {"brier", m.brier},
          {"entropy", m.entropy},
          {"ece", m.ece},
          {"ece_unweighted", m.ece_unweighted},
          {"ece_adaptive", m.ece_adaptive},
          {"ece_classwise", m.ece_classwise},
          {"mce", m.mce},
          {"mean_confidence", m.mean_confidence},
          {"logit_mean", m.logit_mean},
          {"logit_std", m.logit_std},
          {"per_class_top1", m.per_class_top1},
          {"reliability", bins}};
}

json to_json(const PairMetrics& p) {
  return {{"agreement", p.agreement},
          {"kappa", p.kappa},
          {"agreement_when_a_errs", p.agreement_when_a_errs},
          {"top5_overlap", p.top5_overlap},
          {"kl_ab", p.kl_ab},
          {"kl_ba", p.kl_ba},
          {"js", p.js},
          {"kl_ab_t3", p.kl_ab_t3},
          {"kl_ba_t3", p.kl_ba_t3},
          {"js_t3", p.js_t3},
          {"kl_code", p.kl_code},
          {"tv", p.tv},
          {"hellinger", p.hellinger},
          {"wasserstein_confidence", p.wasserstein_confidence},
          {"mi_plugin", p.mi_plugin},
          {"mi_adjusted", p.mi_adjusted},
          {"mi_normalized", p.mi_normalized},
          {"mi_soft", p.mi_soft}};
}

// The cost of moving mass between classes, as the classifiers of the teachers see them: of one, or the mean of all for their ensemble.
std::map<std::string, Tensor> class_costs(const Dump& dump) {
  std::map<std::string, Tensor> costs;
  std::vector<Tensor> all;
  for (const auto& [name, head] : dump.heads) {
    if (name == "S") continue;
    costs[name] = class_cost(std::span(&head, 1));
    all.push_back(head);
  }
  if (all.size() > 1) costs["Ens"] = class_cost(all);
  return costs;
}

LogitSet logits_of(const DumpedModel& m) { return {m.name, m.logits}; }

// The published code's numbers. Its teachers run as in training; it drops the short last batch where it evaluates on augmented test images.
json code_json(const std::string& name, const DumpedView& view, uint64_t seed) {
  const bool on_students_view = name == "student_view";
  std::vector<LogitSet> teachers;
  for (size_t i = 1; i < view.models.size(); ++i) teachers.push_back(logits_of(view.models[i]));
  LogitSet student = logits_of(view.models[0]);
  if (!view.as_run.empty()) {
    for (size_t i = 0; i < teachers.size(); ++i) teachers[i] = logits_of(view.as_run.at(i));
    student.logits = student.logits.slice(0, teachers[0].logits.shape());
  }
  return code_metrics(student, teachers, seed, on_students_view ? ShortBatch::dropped : ShortBatch::counts);
}

// Every model, the ensemble of the teachers, and every pair that the study compares.
json view_json(const std::string& name, const DumpedView& view, const Dump& dump) {
  std::vector<LogitSet> all, teachers;
  for (const DumpedModel& m : view.models) {
    all.push_back(logits_of(m));
    if (m.name != "S") teachers.push_back(all.back());
  }
  if (teachers.size() > 1) all.push_back(ensemble_of(teachers, Ensemble::mean_probs));
  json models = json::object(), pairs = json::object();
  for (const LogitSet& m : all) {
    json& j = models[m.name] = to_json(model_metrics(m, view.labels));
    const ShotTop1 shots = shot_top1(m, view.labels, dump.train_counts);
    j.update({{"top1_many", shots.many}, {"top1_medium", shots.medium}, {"top1_few", shots.few}});
  }
  const std::map<std::string, Tensor> costs = class_costs(dump);
  auto pair = [&](const LogitSet& a, const LogitSet& b) {
    json& j = pairs[a.name + "-" + b.name] = to_json(pair_metrics(a, b, view.labels, dump.seed));
    if (auto cost = costs.find(a.name); cost != costs.end()) j["wasserstein_class"] = wasserstein_classes(a, b, cost->second);
  };
  for (const LogitSet& m : all)
    if (m.name != "S") pair(m, all.front());
  for (size_t i = 0; i < teachers.size(); ++i)
    for (size_t j = i + 1; j < teachers.size(); ++j) pair(teachers[i], teachers[j]);
  if (teachers.size() > 1)
    for (const LogitSet& t : teachers) pair(all.back(), t);
  return {{"models", models}, {"pairs", pairs}, {"rk", code_json(name, view, dump.seed)}};
}

// ---- attention

json attention_json(const DumpedView& view, int64_t px, double threshold) {
  std::vector<double> thresholds{threshold};
  thresholds.insert(thresholds.end(), std::begin(kSweep), std::end(kSweep));
  json kinds = json::object();
  for (Cam kind : kKinds) {
    std::vector<const DumpedModel*> seen;  // teachers, then the student, as pairs are named
    for (const DumpedModel& m : view.models)
      if (m.maps.count(kind)) seen.push_back(&m);
    if (seen.empty()) continue;
    std::rotate(seen.begin(), seen.begin() + 1, seen.end());
    json iou = json::object(), pooled = json::object(), area = json::object(), truth = json::object(), skipped = json::object(), sweep = json::object();
    auto compare = [&](const std::vector<const DumpedModel*>& models) {
      std::string name;
      std::vector<Tensor> maps;
      for (const DumpedModel* m : models) name += (name.empty() ? "" : "-") + m->name, maps.push_back(m->maps.at(kind));
      const std::vector<IouResult> cuts = iou_sweep(maps, px, thresholds);  // of one upsampling
      iou[name] = cuts[0].mean, pooled[name] = cuts[0].batch_pooled, skipped[name] = cuts[0].skipped;
      json& row = sweep[name] = json::array();
      for (size_t i = 1; i < cuts.size(); ++i) row.push_back(cuts[i].mean);
    };
    for (size_t i = 0; i < seen.size(); ++i) {
      const Tensor& maps = seen[i]->maps.at(kind);
      area[seen[i]->name] = mask_iou(maps, maps, px, threshold).area_a;
      if (view.masks.defined()) truth[seen[i]->name] = truth_iou(maps, view.masks, threshold).mean;
      for (size_t j = i + 1; j < seen.size(); ++j) {
        compare({seen[i], seen[j]});
        // Of three: T1-T2-T3, and neighbours with the student, T1-T2-S and T2-T3-S.
        if (j == i + 1 && j + 1 < seen.size() && seen[j + 1]->name != "S") compare({seen[i], seen[j], seen[j + 1]});
        if (j == i + 1 && seen[j]->name != "S") compare({seen[i], seen[j], seen.back()});
      }
    }
    kinds[to_string(kind)] = {{"iou", iou}, {"iou_rk", pooled}, {"area", area}, {"truth_iou", truth}, {"skipped", skipped}, {"sweep", sweep}};
  }
  return kinds;
}

// ---- files

void add_models(TensorFile& file, const std::string& view, const std::vector<DumpedModel>& models, const char* suffix) {
  for (const DumpedModel& m : models) {
    file.tensors.push_back({view + "." + m.name + suffix + ".logits", m.logits});
    for (const auto& [kind, maps] : m.maps) file.tensors.push_back({view + "." + m.name + suffix + ".cam." + to_string(kind), maps});
  }
}

}  // namespace

void write_dump(const Path& path, const Dump& dump) {
  TensorFile file;
  file.metadata = {{"analysis_format", kFormat}, {"checkpoint", dump.checkpoint}, {"px", fmt::format("{}", dump.px)}, {"seed", fmt::format("{}", dump.seed)}};
  for (const auto& [key, value] : dump.numbers) file.metadata["number." + key] = fmt::format("{:.17g}", value);
  for (const auto& [name, view] : dump.views) {
    file.tensors.push_back({name + ".labels", Tensor::of<int32_t>({int64_t(view.labels.size())}, view.labels)});
    if (view.masks.defined()) file.tensors.push_back({name + ".masks", view.masks});
    add_models(file, name, view.models, "");
    add_models(file, name, view.as_run, "_as_run");
  }
  for (const auto& [name, weight] : dump.heads) file.tensors.push_back({"head." + name, weight});
  file.tensors.push_back({"train_counts", Tensor::of<int64_t>({int64_t(dump.train_counts.size())}, dump.train_counts)});
  write_safetensors(path, file);
}

namespace {

Cam cam_from_name(const std::string& name, const std::string& where) {
  for (Cam kind : kKinds)
    if (to_string(kind) == name) return kind;
  throw Error(fmt::format("{}: unknown kind of attention map '{}'; run 'kd_bench eval' of the run again", where, name));
}

// "T1" and "cam.energy" of T1.cam.energy.
std::pair<std::string, std::string> split_at_dot(const std::string& text) {
  const size_t dot = text.find('.');
  return dot == text.npos ? std::pair(text, std::string()) : std::pair(text.substr(0, dot), text.substr(dot + 1));
}

// S, T1, T2, ..., whatever order the file has.
DumpedModel& model_of(std::vector<DumpedModel>& models, const std::string& name) {
  auto before = [](const std::string& a, const std::string& b) { return (a != "S") != (b != "S") ? a == "S" : a < b; };
  auto at = std::find_if(models.begin(), models.end(), [&](const DumpedModel& m) { return !before(m.name, name); });
  if (at == models.end() || at->name != name) at = models.insert(at, DumpedModel{.name = name, .logits = {}});
  return *at;
}

void check_view(const std::string& name, const DumpedView& view, const Dump& dump, const std::string& where) {
  KD_INPUT(!view.labels.empty() && !view.models.empty() && view.models[0].name == "S", "{}: view '{}' lacks labels or the run's own logits; {}", where, name,
           "run 'kd_bench eval' of the run again");
  const Shape shape = view.models[0].logits.defined() ? view.models[0].logits.shape() : Shape{};
  auto check = [&](const std::vector<DumpedModel>& models) {
    for (const DumpedModel& m : models) {
      KD_INPUT(m.logits.defined() && m.logits.dtype() == DType::f32 && m.logits.rank() == 2 && m.logits.dim(1) == shape[1],
               "{}: {} of view '{}' is no f32 [N,C]", where, m.logits.defined() ? m.logits.describe(m.name.c_str()) : m.name + ".logits", name);
      for (const auto& [kind, maps] : m.maps)
        KD_INPUT(maps.dtype() == DType::f32 && maps.rank() == 3 && maps.dim(0) == m.logits.dim(0), "{}: {} of {} in view '{}' is no f32 [N,h,w]", where,
                 maps.describe(to_string(kind).c_str()), m.name, name);
    }
  };
  KD_INPUT(shape.rank() == 2 && shape[0] == int64_t(view.labels.size()), "{}: view '{}' has {} labels and {} rows of logits", where, name, view.labels.size(),
           shape.rank() > 0 ? shape[0] : 0);
  for (const DumpedModel& m : view.models)
    KD_INPUT(m.logits.defined() && m.logits.dim(0) == shape[0], "{}: {} of view '{}' has other images than S", where, m.name, name);
  check(view.models);
  check(view.as_run);
  KD_INPUT(int64_t(dump.train_counts.size()) == shape[1], "{}: {} class counts for {} classes", where, dump.train_counts.size(), shape[1]);
  if (view.masks.defined())
    KD_INPUT(view.masks.dtype() == DType::u8 && view.masks.rank() == 3 && view.masks.dim(0) == shape[0] && view.masks.dim(1) == view.masks.dim(2),
             "{}: {} of view '{}' are no u8 [N,px,px]", where, view.masks.describe("masks"), name);
}

template <class T>
std::vector<T> values_of(const Tensor& t, DType type, const std::string& where) {
  KD_INPUT(t.dtype() == type && t.rank() == 1, "{}: {} has the wrong type or rank", where, t.describe("tensor"));
  return {t.data<T>(), t.data<T>() + t.elements()};
}

}  // namespace

Dump read_dump(const Path& path) {
  KD_INPUT(std::filesystem::exists(path), "{}: missing; make it with 'kd_bench eval' of the run", path.string());
  const TensorFile file = read_safetensors(path);
  const std::string where = path.string();
  auto text = [&](const char* key) {
    auto it = file.metadata.find(key);
    return it == file.metadata.end() ? std::string() : it->second;
  };
  KD_INPUT(text("analysis_format") == kFormat,
           "{}: was written by another version of kd_bench (format '{}', expected '{}'); run 'kd_bench eval' of the run again", where, text("analysis_format"),
           kFormat);
  Dump dump{.checkpoint = text("checkpoint"),
            .px = std::strtoll(text("px").c_str(), nullptr, 10),
            .seed = std::strtoull(text("seed").c_str(), nullptr, 10),
            .views = {},
            .heads = {},
            .train_counts = {},
            .numbers = {}};
  KD_INPUT(dump.px >= 1 && dump.px <= 1 << 14, "{}: px is '{}'", where, text("px"));
  for (const auto& [key, value] : file.metadata)
    if (key.starts_with("number.")) dump.numbers[key.substr(7)] = std::strtod(value.c_str(), nullptr);
  constexpr std::string_view kAsRun = "_as_run";
  for (const NamedTensor& t : file.tensors) {
    const auto [view_name, rest] = split_at_dot(t.name);
    if (view_name == "train_counts") {
      dump.train_counts = values_of<int64_t>(t.value, DType::i64, where + ": train_counts");
      continue;
    }
    if (view_name == "head") {
      dump.heads[rest] = t.value;
      continue;
    }
    DumpedView& view = dump.views[view_name];
    auto [model, what] = split_at_dot(rest);
    if (model == "labels")
      view.labels = values_of<int32_t>(t.value, DType::i32, where + ": " + t.name);
    else if (model == "masks")
      view.masks = t.value;
    else {
      const bool as_run = model.ends_with(kAsRun);
      if (as_run) model.resize(model.size() - kAsRun.size());
      DumpedModel& m = model_of(as_run ? view.as_run : view.models, model);
      if (what == "logits")
        m.logits = t.value;
      else
        m.maps[cam_from_name(split_at_dot(what).second, where)] = t.value;
    }
  }
  KD_INPUT(dump.views.count("test"), "{}: has no test view; run 'kd_bench eval' of the run again", where);
  for (const auto& [name, view] : dump.views) check_view(name, view, dump, where);
  return dump;
}

std::string analyse(const Dump& dump, const AnalysisOptions& options) {
  auto number = [&](const std::string& key) {
    auto it = dump.numbers.find(key);
    return it == dump.numbers.end() ? std::nan("") : it->second;
  };
  json views = json::object(), attention = json::object(), images = json::object();
  for (const auto& [name, view] : dump.views) {
    views[name] = view_json(name, view, dump);
    images[name] = view.labels.size();
    if (json kinds = attention_json(view, dump.px, options.threshold); !kinds.empty()) attention[name] = std::move(kinds);
  }
  auto top1 = [&](const char* view) {
    auto it = views.find(view);
    return it == views.end() ? std::nan("") : it->at("models").at("S").at("top1").get<double>();
  };
  json out{{"format", 2}, {"checkpoint", dump.checkpoint}, {"images", images}};
  out["gap"] = {{"train", top1("train")},
                {"test", top1("test")},
                {"gap", top1("train") - top1("test")},
                {"gap_view", top1("train_view") - top1("student_view")},
                {"gap_rk", number("train_top1_running") - top1("test")}};
  // The published calibration is of training images: on the weak view, except where the name has an Ss.
  for (const char* view : {"train_weak", "train_view"})
    if (views.contains(view)) {
      views["test"]["models"]["S"]["ece_rk"] = views[view]["models"]["S"]["ece_unweighted"];
      break;
    }
  if (dump.numbers.count("top1_base")) {
    const Affinity a = affinity(number("top1_base"), number("top1_weak"), number("top1_strong"), number("top1_test"));
    out["affinity"] = {{"top1_base", number("top1_base")}, {"top1_weak", number("top1_weak")}, {"top1_strong", number("top1_strong")},
                       {"top1_test", number("top1_test")}, {"weak_base", a.weak_base},         {"strong_base", a.strong_base},
                       {"weak_test", a.weak_test},         {"strong_test", a.strong_test}};
  }
  out["views"] = std::move(views);
  out["attention"] = {{"threshold", options.threshold}, {"sweep_thresholds", kSweep}, {"views", attention}};
  return out.dump();
}

}  // namespace kd
