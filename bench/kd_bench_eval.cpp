// eval: everything the study asks of a finished run. The run's model ("S") and its teachers ("T1", "T2", ...) are shown the same images; their logits
// go to analysis/pred.safetensors, from which every number below can be computed again, and the numbers go to analysis/eval.json.
#include <algorithm>
#include <chrono>
#include <cstring>
#include <nlohmann/json.hpp>

#include "bench/predict.h"
#include "bench/verbs.h"
#include "kd/metrics.h"

namespace kd {
namespace {

using nlohmann::json;

struct Member {
  std::string name;  // S, T1, T2, ...
  LoadedModel model;
};

constexpr Cam kCams[] = {Cam::pred_class, Cam::class_sum, Cam::label_class, Cam::energy, Cam::random_projection};

// One model on one view: logits and, per kind, the attention map of every image.
struct Seen {
  LogitSet logits;
  std::map<Cam, Tensor> maps;  // f32 [N,h,w]
};

Seen look(Member& member, const Dataset& data, const PredictOptions& options, bool with_maps, uint64_t seed) {
  Seen seen{{member.name, {}}, {}};
  int64_t done = 0;
  auto on_batch = [&](const Tensor& features, const Tensor& batch_labels, const Tensor& logits) {
    const CamSource source{member.name, features, member.model.net->head().weight.value(), member.model.net->head().bias.value(), logits};
    const std::span labels(batch_labels.data<int32_t>(), size_t(batch_labels.elements()));
    for (Cam kind : kCams) {
      const Tensor maps = cam_maps(source, kind, labels, seed).to(Device::cpu);
      Tensor& all = seen.maps[kind];
      if (!all.defined()) all = Tensor::empty({data.size(), maps.dim(1), maps.dim(2)}, DType::f32);
      std::memcpy(all.data<float>() + done * maps.dim(1) * maps.dim(2), maps.raw(), size_t(maps.bytes()));
    }
    done += batch_labels.elements();
  };
  seen.logits.logits = predict(*member.model.net, data, options, with_maps ? OnBatch(on_batch) : OnBatch()).logits;
  return seen;
}

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
          {"mce", m.mce},
          {"mean_confidence", m.mean_confidence},
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

// Every model, the ensemble of the teachers, and every pair that the study compares.
json view_json(const std::vector<Seen>& seen, std::span<const int32_t> labels, uint64_t seed) {
  std::vector<LogitSet> all, teachers;
  for (const Seen& s : seen) {
    all.push_back(s.logits);
    if (s.logits.name != "S") teachers.push_back(s.logits);
  }
  if (teachers.size() > 1) {
    all.push_back(ensemble_of(teachers, Ensemble::mean_probs));
    all.back().name = "Ens";
  }
  json models = json::object(), pairs = json::object();
  for (const LogitSet& m : all) models[m.name] = to_json(model_metrics(m, labels));
  auto pair = [&](const LogitSet& a, const LogitSet& b) { pairs[a.name + "-" + b.name] = to_json(pair_metrics(a, b, labels, seed)); };
  for (const LogitSet& m : all)
    if (m.name != "S") pair(m, all.front());
  for (size_t i = 0; i < teachers.size(); ++i)
    for (size_t j = i + 1; j < teachers.size(); ++j) pair(teachers[i], teachers[j]);
  if (teachers.size() > 1)
    for (const LogitSet& t : teachers) pair(all.back(), t);
  return {{"models", models}, {"pairs", pairs}};
}

// The object mask at the size the network saw: nearest neighbour from the image's own size.
Tensor masks_at(const Tensor& masks, int64_t px) {
  const int64_t n = masks.dim(0), from = masks.dim(1);
  if (from == px) return masks;
  Tensor out = Tensor::empty({n, px, px}, DType::u8);
  for (int64_t i = 0; i < n; ++i)
    for (int64_t y = 0; y < px; ++y)
      for (int64_t x = 0; x < px; ++x) out.data<uint8_t>()[(i * px + y) * px + x] = masks.data<uint8_t>()[(i * from + y * from / px) * from + x * from / px];
  return out;
}

json attention_json(const std::vector<Seen>& seen, const Dataset& data, int64_t px, double threshold) {
  json kinds = json::object();
  Tensor truth;
  if (data.masks.defined()) truth = masks_at(data.masks, px);
  for (Cam kind : kCams) {
    json iou = json::object(), area = json::object(), against_truth = json::object();
    for (size_t i = 0; i < seen.size(); ++i) {
      const Tensor& a = seen[i].maps.at(kind);
      const std::string& name = seen[i].logits.name;
      area[name] = mask_iou(a, a, px, threshold).area_a;
      if (truth.defined()) against_truth[name] = truth_iou(a, truth, threshold).mean;
      for (size_t j = 0; j < seen.size(); ++j) {
        if (i == 0 || j == i || (j != 0 && j < i)) continue;  // pairs Ti-S and Ti-Tj
        IouResult r = mask_iou(a, seen[j].maps.at(kind), px, threshold);
        iou[name + "-" + seen[j].logits.name] = r.mean;
      }
    }
    kinds[to_string(kind)] = {{"iou", iou}, {"area", area}, {"truth_iou", against_truth}};
  }
  return {{"threshold", threshold}, {"view", "test"}, {"kinds", kinds}};
}

std::string base64(const uint8_t* data, size_t size) {
  static constexpr char kAlphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string out;
  for (size_t i = 0; i < size; i += 3) {
    uint32_t v = uint32_t(data[i]) << 16 | (i + 1 < size ? uint32_t(data[i + 1]) << 8 : 0) | (i + 2 < size ? uint32_t(data[i + 2]) : 0);
    for (size_t k = 0; k < 4; ++k) out += i + k <= size ? kAlphabet[(v >> (18 - 6 * k)) & 63] : '=';
  }
  return out;
}

// Up to 24 images chosen by rule: the models disagree, then the least and the most confident, then the first ones, each image once.
std::vector<int64_t> gallery_choice(const std::vector<Seen>& seen, const Dataset& data) {
  const int64_t n = data.size(), classes = data.classes;
  std::vector<std::pair<int64_t, double>> facts(static_cast<size_t>(n));  // disagreements, the student's margin
  for (int64_t i = 0; i < n; ++i) {
    std::vector<int64_t> tops;
    for (const Seen& s : seen) {
      const float* z = s.logits.logits.data<float>() + i * classes;
      tops.push_back(std::max_element(z, z + classes) - z);
    }
    std::vector<float> z(seen[0].logits.logits.data<float>() + i * classes, seen[0].logits.logits.data<float>() + (i + 1) * classes);
    std::partial_sort(z.begin(), z.begin() + std::min<int64_t>(2, classes), z.end(), std::greater<>());
    std::sort(tops.begin(), tops.end());
    facts[size_t(i)] = {std::unique(tops.begin(), tops.end()) - tops.begin(), classes > 1 ? double(z[0] - z[1]) : 0.0};
  }
  std::vector<int64_t> order(static_cast<size_t>(n)), chosen;
  auto take = [&](size_t count, auto&& before) {
    for (int64_t i = 0; i < n; ++i) order[size_t(i)] = i;
    std::stable_sort(order.begin(), order.end(), before);
    for (int64_t i : order) {
      if (count == 0) break;
      if (std::find(chosen.begin(), chosen.end(), i) == chosen.end()) chosen.push_back(i), --count;
    }
  };
  take(8, [&](int64_t a, int64_t b) { return facts[size_t(a)].first > facts[size_t(b)].first; });
  take(4, [&](int64_t a, int64_t b) { return facts[size_t(a)].second < facts[size_t(b)].second; });
  take(4, [&](int64_t a, int64_t b) { return facts[size_t(a)].second > facts[size_t(b)].second; });
  take(8, [](int64_t, int64_t) { return false; });
  return chosen;
}

json gallery_json(const std::vector<Seen>& seen, const Dataset& data, const PredictOptions& options) {
  const int64_t px = options.augment.px, classes = data.classes;
  const auto chosen = gallery_choice(seen, data);
  const Tensor pictures = views_u8(data, chosen, View::test, options.augment, options.seed, 0);
  Tensor truth;
  if (data.masks.defined()) truth = masks_at(data.masks, px);
  const Cam kind = Cam::pred_class;
  json items = json::array();
  for (size_t at = 0; at < chosen.size(); ++at) {
    const int64_t i = chosen[at];
    json models = json::object();
    for (const Seen& s : seen) {
      const float* z = s.logits.logits.data<float>() + i * classes;
      const int64_t top = std::max_element(z, z + classes) - z;
      double sum = 0;
      for (int64_t k = 0; k < classes; ++k) sum += std::exp(double(z[k]) - double(z[top]));
      const Tensor& maps = s.maps.at(kind);
      const int64_t cells = maps.dim(1) * maps.dim(2);
      const float* map = maps.data<float>() + i * cells;
      models[s.logits.name] = {{"pred", top}, {"conf", 1 / sum}, {"cam", std::vector<float>(map, map + cells)}, {"cam_side", maps.dim(1)}};
    }
    json item{{"index", i},
              {"label", data.labels[size_t(i)]},
              {"image", base64(pictures.data<uint8_t>() + int64_t(at) * px * px * 3, size_t(px * px * 3))},
              {"models", models}};
    if (truth.defined()) item["truth"] = base64(truth.data<uint8_t>() + i * px * px, size_t(px * px));
    items.push_back(item);
  }
  return {{"px", px}, {"cam_side", seen[0].maps.at(kind).dim(1)}, {"kind", to_string(kind)}, {"class_names", data.class_names}, {"items", items}};
}

}  // namespace

void evaluate_run(const Path& run_dir, const EvalOptions& options) {
  KD_INPUT(std::filesystem::is_directory(run_dir), "{}: not a run directory", run_dir.string());
  KD_INPUT(options.checkpoint == "best" || options.checkpoint == "last", "--checkpoint is '{}'; choose best or last", options.checkpoint);
  KD_INPUT(options.threshold > 0 && options.threshold < 1, "--threshold is {}, expected a number between 0 and 1", options.threshold);
  const Recipe recipe = load_recipe(run_dir / "config.yaml", {});
  const auto start = std::chrono::steady_clock::now();
  const Splits splits = load_splits(data_config(recipe));
  const uint64_t seed = uint64_t(recipe.seed);

  std::vector<Member> members;
  const DType type = recipe.precision == "bf16" ? DType::bf16 : DType::f32;
  require_precision(options.device, type);
  auto load = [&](const Path& path) { return load_model(path, options.device, type); };
  members.push_back({"S", load(run_dir / "ckpt" / (options.checkpoint + ".safetensors"))});
  for (const std::string& teacher : recipe.teachers) members.push_back({fmt::format("T{}", members.size()), load(model_path(teacher))});

  PredictOptions test{.view = View::test, .augment = augment_config(recipe), .type = type, .seed = seed};
  PredictOptions student = test;
  student.view = view_from_name(recipe.view);
  std::vector<Seen> on_test, on_student;
  for (Member& m : members) {
    if (!options.quiet) fmt::print("{}: {} on {} test images\n", run_dir.string(), m.name, splits.test.size());
    on_test.push_back(look(m, splits.test, test, true, seed));
    on_student.push_back(look(m, splits.test, student, false, seed));
  }
  const double train_top1 = predict(*members[0].model.net, splits.train, test).top1;

  json out;
  out["checkpoint"] = options.checkpoint;
  out["images"] = splits.test.size();
  out["views"] = {{"test", view_json(on_test, splits.test.labels, seed)}, {"student_view", view_json(on_student, splits.test.labels, seed)}};
  const double test_top1 = out["views"]["test"]["models"]["S"]["top1"];
  out["gap"] = {{"train", train_top1}, {"test", test_top1}, {"gap", train_top1 - test_top1}};
  out["attention"] = attention_json(on_test, splits.test, test.augment.px, options.threshold);
  out["gallery"] = gallery_json(on_test, splits.test, test);

  TensorFile dump;
  Tensor labels = Tensor::of<int32_t>({splits.test.size()}, splits.test.labels);
  dump.tensors.push_back({"labels", labels});
  for (size_t i = 0; i < members.size(); ++i) {
    dump.tensors.push_back({"test." + members[i].name + ".logits", on_test[i].logits.logits});
    dump.tensors.push_back({"student_view." + members[i].name + ".logits", on_student[i].logits.logits});
    dump.tensors.push_back({"test." + members[i].name + ".cam", on_test[i].maps.at(Cam::pred_class)});
  }
  make_directories(run_dir / "analysis");
  write_safetensors(run_dir / "analysis" / "pred.safetensors", dump);
  write_atomically(run_dir / "analysis" / "eval.json", out.dump() + "\n");
  if (!options.quiet)
    fmt::print("{}: analysis/eval.json and analysis/pred.safetensors in {:.1f} s\n", run_dir.string(),
               std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
}

}  // namespace kd
