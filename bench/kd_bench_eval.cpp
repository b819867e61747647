// eval: everything the study asks of a finished run. The run's model ("S") and its teachers ("T1", "T2", ...) are shown the same images; what they say
// goes to analysis/pred.safetensors, from which bench/analysis makes every number of analysis/eval.json, now or later.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <nlohmann/json.hpp>
#include <numeric>

#include "bench/analysis.h"
#include "bench/png.h"
#include "bench/predict.h"
#include "bench/run_dir.h"
#include "bench/verbs.h"
#include "kernels/conv/conv.h"

namespace kd {
namespace {

using nlohmann::json;

constexpr Cam kCams[] = {Cam::pred_class, Cam::class_sum, Cam::label_class, Cam::prob_weighted, Cam::energy, Cam::random_projection};
constexpr Cam kGalleryMap = Cam::pred_class;
constexpr double kUndefined = std::numeric_limits<double>::quiet_NaN();
constexpr uint64_t kAffinitySeeds[] = {0, 1, 2};

struct Member {
  std::string name;  // S, T1, T2, ...
  Path file;
  LoadedModel model = {};
};

enum class Maps : unsigned char { no, yes };

DumpedModel look(Member& member, const Dataset& data, const PredictOptions& options, Maps with_maps, uint64_t seed) {
  DumpedModel seen{.name = member.name, .logits = {}};
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
  seen.logits = predict(*member.model.net, data, options, with_maps == Maps::yes ? OnBatch(on_batch) : OnBatch()).logits;
  return seen;
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

// What decides whether an image is shown, and under which heading.
struct GalleryFacts {
  size_t answers = 1;          // different ones among the models
  double margin = 0;           // between the student's two largest logits
  double iou = kUndefined;     // of the masks of T1 and T2
  bool student_alone = false;  // is right where every teacher is wrong
};

std::vector<GalleryFacts> gallery_facts(const std::vector<const DumpedModel*>& seen, const Dataset& data, int64_t px, double threshold) {
  const int64_t n = data.size(), classes = data.classes;
  std::vector<GalleryFacts> facts(static_cast<size_t>(n));
  for (int64_t i = 0; i < n; ++i) {
    GalleryFacts& f = facts[size_t(i)];
    std::vector<int64_t> tops;
    for (const DumpedModel* s : seen) {
      const float* z = s->logits.data<float>() + i * classes;
      tops.push_back(std::max_element(z, z + classes) - z);
    }
    std::vector<float> z(seen[0]->logits.data<float>() + i * classes, seen[0]->logits.data<float>() + (i + 1) * classes);
    std::partial_sort(z.begin(), z.begin() + std::min<int64_t>(2, classes), z.end(), std::greater<>());
    if (classes > 1) f.margin = double(z[0] - z[1]);
    const int64_t label = data.labels[size_t(i)];
    f.student_alone = tops.size() > 1 && tops[0] == label && std::count(tops.begin(), tops.end(), label) == 1;
    std::sort(tops.begin(), tops.end());
    f.answers = size_t(std::unique(tops.begin(), tops.end()) - tops.begin());
    if (seen.size() < 3) continue;
    Tensor one[2];
    for (size_t t = 0; t < 2; ++t) {
      const Tensor& maps = seen[t + 1]->maps.at(kGalleryMap);
      one[t] = maps.slice(i * maps.dim(1) * maps.dim(2), {1, maps.dim(1), maps.dim(2)});
    }
    f.iou = mask_iou(one[0], one[1], px, threshold).mean;
  }
  return facts;
}

struct Chosen {
  int64_t index;
  const char* rule;
};

// Up to 24 images, each once, by rules that know nothing of what the picture looks like.
std::vector<Chosen> gallery_choice(const std::vector<GalleryFacts>& facts) {
  std::vector<int64_t> order(facts.size());
  std::vector<Chosen> chosen;
  auto fact = [&](int64_t i) -> const GalleryFacts& { return facts[size_t(i)]; };
  // The first `count` of those that `may`, in the order of `before`, beginning at a share of the way.
  auto take = [&](const char* rule, size_t count, auto&& may, auto&& before, double from = 0) {
    order.clear();
    for (int64_t i = 0; i < int64_t(facts.size()); ++i)
      if (may(fact(i))) order.push_back(i);
    std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return before(fact(a), fact(b)); });
    for (size_t at = size_t(from * double(order.size())); at < order.size() && count > 0; ++at) {
      const int64_t i = order[at];
      if (std::any_of(chosen.begin(), chosen.end(), [&](const Chosen& c) { return c.index == i; })) continue;
      chosen.push_back({i, rule});
      --count;
    }
  };
  using Facts = const GalleryFacts&;
  auto any = [](Facts) { return true; };
  auto overlaps = [](Facts f) { return std::isfinite(f.iou); };
  auto less_iou = [](Facts a, Facts b) { return a.iou < b.iou; };
  take("lowest IoU(T1,T2)", 3, overlaps, less_iou);
  take("highest IoU(T1,T2)", 3, overlaps, [](Facts a, Facts b) { return a.iou > b.iou; });
  take("median IoU(T1,T2)", 3, overlaps, less_iou, 0.5);
  take(
      "student right, teachers wrong", 4, [](Facts f) { return f.student_alone; }, [](Facts, Facts) { return false; });
  take(
      "models disagree", 4, [](Facts f) { return f.answers > 1; }, [](Facts a, Facts b) { return a.answers > b.answers; });
  take("student unsure", 3, any, [](Facts a, Facts b) { return a.margin < b.margin; });
  take("student sure", 2, any, [](Facts a, Facts b) { return a.margin > b.margin; });
  take("first of the set", 24 - chosen.size(), any, [](Facts, Facts) { return false; });
  return chosen;
}

json gallery_json(const std::vector<const DumpedModel*>& seen, const Dataset& data, const PredictOptions& options, double threshold) {
  const int64_t px = options.augment.px, classes = data.classes;
  const std::vector<Chosen> chosen = gallery_choice(gallery_facts(seen, data, px, threshold));
  std::vector<int64_t> indices;
  for (const Chosen& c : chosen) indices.push_back(c.index);
  const Tensor pictures = views_u8(data, indices, View::test, options.augment, options.seed, 0);
  Tensor truth;
  if (data.masks.defined()) truth = masks_at(data.masks, px);
  json items = json::array();
  for (size_t at = 0; at < chosen.size(); ++at) {
    const int64_t i = chosen[at].index;
    json models = json::object();
    for (const DumpedModel* s : seen) {
      const float* z = s->logits.data<float>() + i * classes;
      const int64_t top = std::max_element(z, z + classes) - z;
      double sum = 0;
      for (int64_t k = 0; k < classes; ++k) sum += std::exp(double(z[k]) - double(z[top]));
      const Tensor& maps = s->maps.at(kGalleryMap);
      const int64_t cells = maps.dim(1) * maps.dim(2);
      const float* map = maps.data<float>() + i * cells;
      models[s->name] = {{"pred", top}, {"conf", 1 / sum}, {"cam", std::vector<float>(map, map + cells)}, {"cam_side", maps.dim(1)}};
    }
    json item{{"index", i},
              {"label", data.labels[size_t(i)]},
              {"rule", chosen[at].rule},
              {"image", base64({pictures.data<uint8_t>() + int64_t(at) * px * px * 3, size_t(px * px * 3)})},
              {"models", models}};
    if (truth.defined()) item["truth"] = base64({truth.data<uint8_t>() + i * px * px, size_t(px * px)});
    items.push_back(item);
  }
  return {
      {"px", px}, {"cam_side", seen[0]->maps.at(kGalleryMap).dim(1)}, {"kind", to_string(kGalleryMap)}, {"class_names", data.class_names}, {"items", items}};
}

// Accuracy while learning, in the epoch whose checkpoint was selected: one half of the published gap.
double running_train_top1(const Path& run_dir) {
  if (!std::filesystem::exists(run_dir / "summary.json") || !std::filesystem::exists(run_dir / "metrics.jsonl")) return kUndefined;
  const double selected = number_of(read_record(run_dir / "summary.json"), "selected_epoch");
  for (const Record& record : read_metrics(run_dir / "metrics.jsonl"))
    if (text_of(record, "event") == "epoch" && number_of(record, "epoch") == selected) return number_of(record, "train_top1");
  return kUndefined;
}

// The same images for every run: the first of a fixed permutation, in file order.
Dataset sample_of(const Dataset& data, int64_t limit) {
  if (limit == 0 || data.size() <= limit) return data;
  std::vector<int64_t> indices(static_cast<size_t>(data.size()));
  std::iota(indices.begin(), indices.end(), 0);
  shuffle(indices, Rng(0, Purpose::control, 0, 0));
  indices.resize(size_t(limit));
  std::sort(indices.begin(), indices.end());
  return subset(data, indices);
}

}  // namespace

// What runs of one dataset, view and seed have in common. Only the latest of each is kept.
struct Evaluator::Shared {
  std::string data;  // what was loaded, as YAML
  Splits splits;
  Dataset train;                            // that is looked at
  uint64_t seed = 0;                        // of everything below
  std::map<std::string, DumpedModel> seen;  // by file, name, view
  std::map<std::string, Tensor> heads;      // fc weights by file
};

Evaluator::Evaluator(const EvalOptions& options) : options_(options), shared_(std::make_unique<Shared>()) {
  KD_INPUT(options.checkpoint == "best" || options.checkpoint == "last", "--checkpoint is '{}'; choose best or last", options.checkpoint);
  KD_INPUT(options.threshold > 0 && options.threshold < 1, "--threshold is {}, expected a number between 0 and 1", options.threshold);
  KD_INPUT(options.train_images >= 0, "--train-images is {}, expected 0 (all) or more", options.train_images);
}
Evaluator::~Evaluator() = default;

void Evaluator::evaluate(const Path& run_dir) {
  KD_INPUT(std::filesystem::exists(run_dir / "config.yaml"), "{}: not a run directory, it has no config.yaml; give e.g. runs/shapes/T1w/seed0",
           run_dir.string());
  const Recipe recipe = load_recipe(run_dir / "config.yaml", {});
  const auto start = std::chrono::steady_clock::now();
  const uint64_t seed = uint64_t(recipe.seed);
  Recipe data_only;
  data_only.data = recipe.data;
  data_only.precision = recipe.precision;
  if (const std::string data = to_yaml(data_only); data != shared_->data) {
    *shared_ = {.data = data, .splits = load_splits(data_config(recipe)), .train = {}, .seed = seed, .seen = {}, .heads = {}};
    shared_->train = sample_of(shared_->splits.train, options_.train_images);
  }
  if (seed != shared_->seed) shared_->seen.clear(), shared_->heads.clear(), shared_->seed = seed;
  const Dataset &test = shared_->splits.test, &train = shared_->train;

  const DType type = recipe.precision == "bf16" ? DType::bf16 : DType::f32;
  require_precision(options_.device, type);
  set_conv_math(recipe.conv == "exact" ? ConvMath::exact : ConvMath::fast);
  std::vector<Member> members;
  members.push_back({"S", run_dir / "ckpt" / (options_.checkpoint + ".safetensors")});
  for (const std::string& teacher : recipe.teachers) members.push_back({fmt::format("T{}", members.size()), model_path(teacher)});

  const PredictOptions on_test{.view = View::test, .augment = augment_config(recipe), .type = type, .seed = seed};
  PredictOptions on_students = on_test;
  on_students.view = view_from_name(recipe.view);
  // Only teachers come again.
  auto seen_by = [&](Member& m, const char* what, const Dataset& data, const PredictOptions& options, Maps maps) {
    auto run = [&] {
      if (!m.model.net) m.model = load_model(m.file, options_.device, type);
      if (!options_.quiet) fmt::print("{}: {}, {} images, {}\n", run_dir.string(), m.name, data.size(), what), std::fflush(stdout);
      return look(m, data, options, maps, seed);
    };
    if (m.name == "S") return run();
    const std::string key = fmt::format("{}|{}|{}|{}|{}", m.file.string(), m.name, what, to_string(options.view), options.mode == Mode::train);
    auto it = shared_->seen.find(key);
    return it != shared_->seen.end() ? it->second : shared_->seen.emplace(key, run()).first->second;
  };

  Dump dump{.checkpoint = options_.checkpoint,
            .px = recipe.data.px,
            .seed = seed,
            .views = {},
            .heads = {},
            .train_counts = shared_->splits.train_counts(),
            .numbers = {}};
  for (auto [view, data, options] : {std::tuple("test", &test, &on_test), {"student_view", &test, &on_students}, {"train_view", &train, &on_students}}) {
    DumpedView& into = dump.views[view];
    into.labels = data->labels;
    for (Member& m : members) into.models.push_back(seen_by(m, view, *data, *options, Maps::yes));
  }
  dump.views["train"] = {.labels = train.labels, .models = {seen_by(members[0], "train", train, on_test, Maps::no)}};
  if (recipe.view == "strong" && run_kind(recipe) == "teacher") {  // whose published calibration is on the weak view
    PredictOptions on_weak = on_test;
    on_weak.view = View::weak;
    dump.views["train_weak"] = {.labels = train.labels, .models = {seen_by(members[0], "train_weak", train, on_weak, Maps::no)}};
  }
  if (test.masks.defined()) dump.views["test"].masks = masks_at(test.masks, recipe.data.px);
  if (recipe.teacher_bn == "batch" && test.size() >= on_students.batch) {
    PredictOptions as_run = on_students;
    as_run.mode = Mode::train;
    as_run.last = LastBatch::drop;
    for (size_t i = 1; i < members.size(); ++i) dump.views["student_view"].as_run.push_back(seen_by(members[i], "student_view", test, as_run, Maps::no));
  }
  if (members.size() == 1) {  // a student's affinity is its teachers' business as much as its own
    dump.numbers["top1_test"] = 100.0 * double(score(dump.views["test"].models[0].logits, test.labels).right) / double(test.size());
    for (View view : {View::base, View::weak, View::strong}) {
      double sum = 0;
      for (const uint64_t affinity_seed : kAffinitySeeds) {
        PredictOptions options = on_test;
        options.view = view;
        options.seed = affinity_seed;
        sum += predict(*members[0].model.net, test, options).top1;
      }
      dump.numbers["top1_" + to_string(view)] = sum / double(std::size(kAffinitySeeds));
    }
  }
  dump.numbers["train_top1_running"] = running_train_top1(run_dir);
  for (Member& m : members) {
    if (m.model.net) shared_->heads[m.file.string()] = m.model.net->head().weight.value().to(Device::cpu);
    dump.heads[m.name] = shared_->heads.at(m.file.string());
  }

  std::vector<const DumpedModel*> seen;
  for (const DumpedModel& m : dump.views["test"].models) seen.push_back(&m);
  make_directories(run_dir / "analysis");
  write_dump(run_dir / "analysis" / "pred.safetensors", dump);
  write_atomically(run_dir / "analysis" / "gallery.json", gallery_json(seen, test, on_test, options_.threshold).dump() + "\n");
  write_atomically(run_dir / "analysis" / "eval.json", analyse(dump, {.threshold = options_.threshold}) + "\n");  // last: it says that the rest is there
  if (!options_.quiet)
    fmt::print("{}: analysis/eval.json, gallery.json and pred.safetensors in {:.1f} s\n", run_dir.string(),
               std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
}

void recompute_metrics(const Path& run_dir, const EvalOptions& options) {
  KD_INPUT(std::filesystem::is_directory(run_dir), "{}: not a run directory", run_dir.string());
  KD_INPUT(options.threshold > 0 && options.threshold < 1, "--threshold is {}, expected a number between 0 and 1", options.threshold);
  const Dump dump = read_dump(run_dir / "analysis" / "pred.safetensors");
  write_atomically(run_dir / "analysis" / "eval.json", analyse(dump, {.threshold = options.threshold}) + "\n");
  if (!options.quiet) fmt::print("{}: analysis/eval.json from analysis/pred.safetensors\n", run_dir.string());
}

}  // namespace kd
