#include "kd/metrics.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "engine/base/rng.h"
#include "kernels/metrics/metrics.h"

namespace kd {
namespace {

using Labels = std::span<const int32_t>;
constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr Stream kHost{};

// The n results that `launch(stream, results)` writes where its inputs lie, brought here.
template <class T, class F>
std::vector<T> results_of(Device device, int64_t n, F&& launch) {
  const Tensor there = Tensor::empty({n, int64_t(sizeof(T))}, DType::u8, device);
  launch(current_stream(device), static_cast<T*>(there.raw()));
  std::vector<T> here(static_cast<size_t>(n));
  copy_bytes(here.data(), Device::cpu, there.raw(), device, there.bytes());
  return here;
}

// Two users of Purpose::control; the epoch slot of the counter keeps their draws apart.
constexpr uint32_t kPermutationDraws = 0, kProjectionDraws = 1;

double ratio(double part, double whole) { return whole > 0 ? part / whole : kNan; }

int64_t samples_of(const LogitSet& set) {
  KD_CHECK(set.logits.defined() && set.logits.rank() == 2 && set.logits.dtype() == DType::f32, "metrics: {} is not f32 [N,C]",
           set.logits.describe(set.name.c_str()));
  KD_INPUT(set.logits.elements() > 0, "metrics: {} is empty: there is nothing to measure", set.logits.describe(set.name.c_str()));
  return set.logits.dim(0);
}

void check_labels(Labels labels, int64_t n, int64_t classes, const std::string& model) {
  KD_INPUT(int64_t(labels.size()) == n, "metrics: {} labels for {} rows of {}: logits and labels must come from the same set in the same order", labels.size(),
           n, model);
  for (size_t i = 0; i < labels.size(); ++i)
    KD_INPUT(labels[i] >= 0 && labels[i] < classes, "metrics: label {} of sample {} is not in [0,{}), the classes of {}", labels[i], i, classes, model);
}

std::vector<LogitRecord> records_of(const LogitSet& set) {
  const int64_t n = samples_of(set);
  auto records = results_of<LogitRecord>(set.logits.device(), n, [&](Stream stream, LogitRecord* out) {
    metrics_logit_records(stream, {.logits = set.logits.data<float>(), .out = out, .n = n, .c = set.logits.dim(1)});
  });
  for (size_t i = 0; i < records.size(); ++i)
    KD_INPUT(records[i].top[0] >= 0, "metrics: row {} of {} holds NaN or infinity; the model diverged or the file is damaged", i,
             set.logits.describe(set.name.c_str()));
  return records;
}

void check_same_shape(const LogitSet& a, const LogitSet& b) {
  KD_INPUT(samples_of(a) == samples_of(b) && a.logits.shape() == b.logits.shape(),
           "metrics: {} and {} differ in shape; both models must see the same images and classes", a.logits.describe(a.name.c_str()),
           b.logits.describe(b.name.c_str()));
  KD_CHECK(a.logits.device() == b.logits.device(), "metrics: {} and {} are on different devices", a.logits.describe(a.name.c_str()),
           b.logits.describe(b.name.c_str()));
}

std::vector<int32_t> predictions(const std::vector<LogitRecord>& records) {
  std::vector<int32_t> labels;
  for (const LogitRecord& r : records) labels.push_back(r.top[0]);
  return labels;
}
std::vector<double> confidences(const std::vector<LogitRecord>& records) {
  std::vector<double> out;
  for (const LogitRecord& r : records) out.push_back(r.confidence);
  return out;
}

std::vector<PairRecord> pair_records(const LogitSet& a, const LogitSet& b, double tau) {
  const int64_t n = a.logits.dim(0), c = a.logits.dim(1);
  return results_of<PairRecord>(a.logits.device(), n, [&](Stream stream, PairRecord* out) {
    metrics_pair_records(stream, {.a = a.logits.data<float>(), .b = b.logits.data<float>(), .out = out, .n = n, .c = c, .tau = tau});
  });
}
template <class Record>
double mean_of(const std::vector<Record>& records, double Record::*field) {
  double sum = 0;
  for (const Record& r : records) sum += r.*field;
  return sum / double(records.size());
}

double entropy_of(const std::vector<int64_t>& counts, int64_t n) {
  double h = 0;
  for (int64_t count : counts)
    if (count > 0) h -= double(count) / double(n) * std::log(double(count) / double(n));
  return h;
}

// How often each pair of labels occurs, and what follows from it.
struct JointCounts {
  int64_t classes, n;
  std::vector<int64_t> cells, a, b;  // [classes,classes], its row sums, its column sums

  JointCounts(Labels labels_a, Labels labels_b) : n(int64_t(labels_a.size())) {
    KD_INPUT(labels_a.size() == labels_b.size(), "metrics: {} labels against {}: two labellings of the same samples are needed", labels_a.size(),
             labels_b.size());
    KD_INPUT(n > 0, "metrics: no labels: there is nothing to measure");
    classes = 1 + std::max(*std::max_element(labels_a.begin(), labels_a.end()), *std::max_element(labels_b.begin(), labels_b.end()));
    KD_INPUT(*std::min_element(labels_a.begin(), labels_a.end()) >= 0 && *std::min_element(labels_b.begin(), labels_b.end()) >= 0,
             "metrics: a label is negative");
    cells.resize(size_t(classes * classes)), a.resize(size_t(classes)), b.resize(size_t(classes));
    metrics_joint_counts(kHost, {.a = labels_a.data(), .b = labels_b.data(), .counts = cells.data(), .n = n, .c = classes});
    for (size_t i = 0; i < a.size(); ++i)
      for (size_t j = 0; j < b.size(); ++j) a[i] += cells[i * b.size() + j], b[j] += cells[i * b.size() + j];
  }

  double entropy_a() const { return entropy_of(a, n); }
  double entropy_b() const { return entropy_of(b, n); }
  double agreement() const {
    int64_t same = 0;
    for (int64_t i = 0; i < classes; ++i) same += cells[size_t(i * classes + i)];
    return double(same) / double(n);
  }
  double kappa() const {
    double by_chance = 0;
    for (size_t i = 0; i < a.size(); ++i) by_chance += double(a[i]) / double(n) * (double(b[i]) / double(n));
    return by_chance < 1 ? (agreement() - by_chance) / (1 - by_chance) : 1;
  }
  double mutual_information() const {
    double sum = 0;
    for (size_t i = 0; i < a.size(); ++i)
      for (size_t j = 0; j < b.size(); ++j)
        if (int64_t count = cells[i * b.size() + j]; count > 0)
          sum += double(count) / double(n) * std::log(double(n) * double(count) / (double(a[i]) * double(b[j])));
    return std::max(0.0, sum);
  }
  double normalized() const {
    const double entropies = entropy_a() + entropy_b();
    return entropies > 0 ? 2 * mutual_information() / entropies : 1;
  }
  // For cell (i,j) with margins a_i, b_j the count is hypergeometric: P(m) = C(a_i,m) C(n-a_i,b_j-m) / C(n,b_j).
  double expected_mutual_information() const {
    std::vector<double> log_factorial(static_cast<size_t>(n + 1));
    for (int64_t i = 1; i <= n; ++i) log_factorial[size_t(i)] = log_factorial[size_t(i - 1)] + std::log(double(i));
    auto lf = [&](int64_t i) { return log_factorial[size_t(i)]; };
    double sum = 0;
    for (int64_t ai : a)
      for (int64_t bj : b) {
        const double margins = lf(ai) + lf(bj) + lf(n - ai) + lf(n - bj) - lf(n);
        for (int64_t m = std::max<int64_t>(1, ai + bj - n); m <= std::min(ai, bj); ++m) {
          const double log_p = margins - lf(m) - lf(ai - m) - lf(bj - m) - lf(n - ai - bj + m);
          sum += double(m) / double(n) * std::log(double(n) * double(m) / (double(ai) * double(bj))) * std::exp(log_p);
        }
      }
    return sum;
  }
};

double soft_mutual_information(const LogitSet& a, const LogitSet& b) {
  const int64_t n = a.logits.dim(0), c = a.logits.dim(1);
  const auto joint = results_of<double>(a.logits.device(), c * c, [&](Stream stream, double* out) {
    metrics_soft_joint(stream, {.a = a.logits.data<float>(), .b = b.logits.data<float>(), .joint = out, .n = n, .c = c});
  });
  std::vector<double> row(static_cast<size_t>(c)), column(row);
  for (size_t i = 0; i < row.size(); ++i)
    for (size_t j = 0; j < row.size(); ++j) row[i] += joint[i * row.size() + j], column[j] += joint[i * row.size() + j];
  double sum = 0;
  for (size_t i = 0; i < row.size(); ++i)
    for (size_t j = 0; j < row.size(); ++j)
      if (double p = joint[i * row.size() + j]; p > 0) sum += p * (std::log(p / row[i]) - std::log(column[j]));
  return std::max(0.0, sum);
}

double top_overlap(const std::vector<LogitRecord>& a, const std::vector<LogitRecord>& b, int64_t classes) {
  const int64_t k = std::min<int64_t>(kTopClasses, classes);
  int64_t shared = 0;
  for (size_t i = 0; i < a.size(); ++i)
    shared += std::count_if(a[i].top, a[i].top + k, [&](int32_t c) { return std::find(b[i].top, b[i].top + k, c) != b[i].top + k; });
  return double(shared) / double(k * int64_t(a.size()));
}

uint32_t fnv1a(const std::string& text) {
  uint32_t hash = 2166136261u;
  for (unsigned char c : text) hash = (hash ^ c) * 16777619u;
  return hash;
}

void check_maps(const Tensor& maps, int64_t n) {
  KD_CHECK(maps.defined() && maps.rank() == 3 && maps.dtype() == DType::f32 && maps.elements() > 0, "attention maps: {} is not f32 [N,h,w]",
           maps.describe("maps"));
  KD_INPUT(maps.dim(0) == n, "attention maps: {} images in {}, {} expected; all models must see the same images", maps.dim(0), maps.describe("maps"), n);
}

Tensor full_size(const Tensor& maps, int64_t px, MapScale scale) {
  check_maps(maps, maps.dim(0));
  KD_CHECK(px >= 1, "attention maps: image size {} px", px);
  Tensor out = Tensor::empty({maps.dim(0), px, px}, DType::f32, maps.device());
  metrics_upsample(current_stream(maps.device()),
                   {.map = maps.data<float>(), .out = out.data<float>(), .n = maps.dim(0), .h = maps.dim(1), .w = maps.dim(2), .px = px, .scale = scale});
  return out;
}

// One result for each threshold.
std::vector<IouResult> iou_of(std::span<const Tensor> maps, const Tensor* truth, int64_t px, std::span<const double> thresholds, int64_t batch) {
  KD_CHECK(px >= 1 && batch >= 1, "mask IoU: image size {} px, batch {}", px, batch);
  KD_CHECK(!thresholds.empty() && int64_t(thresholds.size()) <= kMaxThresholds, "mask IoU: {} thresholds where 1 to {} are possible", thresholds.size(),
           kMaxThresholds);
  const int64_t n = maps[0].dim(0);
  const Device device = maps[0].device();
  const size_t cuts = thresholds.size();
  MetricsMaskArgs args{.maps = {},
                       .models = int(maps.size()),
                       .truth = truth ? truth->data<uint8_t>() : nullptr,
                       .out = nullptr,
                       .n = n,
                       .px = px,
                       .thresholds = {},
                       .cuts = int(cuts)};
  std::copy(thresholds.begin(), thresholds.end(), args.thresholds);
  for (size_t m = 0; m < maps.size(); ++m) {
    check_maps(maps[m], n);
    KD_CHECK(maps[m].device() == device, "mask IoU: {} and {} are on different devices", maps[0].describe("maps"), maps[m].describe("maps"));
    args.maps[m] = {maps[m].data<float>(), maps[m].dim(1), maps[m].dim(2)};
  }
  if (truth) KD_CHECK(truth->device() == device, "mask IoU: {} and {} are on different devices", maps[0].describe("maps"), truth->describe("masks"));
  const auto counts = results_of<MaskCounts>(device, n * int64_t(cuts), [&](Stream stream, MaskCounts* out) {
    args.out = out;
    metrics_mask_counts(stream, args);
  });
  std::vector<IouResult> results;
  for (size_t cut = 0; cut < cuts; ++cut) {
    IouResult result{};
    double sum = 0, pooled = 0, pooled_images = 0;
    for (int64_t first = 0; first < n; first += batch) {
      const int64_t end = std::min(n, first + batch);
      double batch_all = 0, batch_any = 0;
      for (int64_t i = first; i < end; ++i) {
        const MaskCounts& image = counts[size_t(i) * cuts + cut];
        KD_INPUT(image.any >= 0, "mask IoU: the attention map of image {} holds NaN or infinity; the model diverged or the file is damaged", i);
        batch_all += double(image.all), batch_any += double(image.any);
        result.area_a += double(image.area[0]) / double(n * px * px), result.area_b += double(image.area[1]) / double(n * px * px);
        if (image.any == 0)
          ++result.skipped;
        else
          ++result.images, sum += double(image.all) / double(image.any);
      }
      if (batch_any > 0) pooled += double(end - first) * batch_all / batch_any, pooled_images += double(end - first);
    }
    result.mean = ratio(sum, double(result.images));
    result.batch_pooled = ratio(pooled, pooled_images);
    results.push_back(result);
  }
  return results;
}

// Which of `bins` bins (index/bins, (index+1)/bins] holds p; 0 is in the first.
int bin_of(double p, int bins) {
  int m = std::clamp(int(std::ceil(p * bins)) - 1, 0, bins - 1);
  // p*bins may round across an edge: (m/bins, (m+1)/bins] decides.
  if (m > 0 && p <= double(m) / bins) --m;
  if (m + 1 < bins && p > double(m + 1) / bins) ++m;
  return m;
}

void check_outcomes(std::span<const double> confidence, std::span<const uint8_t> correct, int bins) {
  KD_CHECK(confidence.size() == correct.size() && !confidence.empty() && bins >= 1, "calibration: {} confidences, {} outcomes, {} bins", confidence.size(),
           correct.size(), bins);
  for (size_t i = 0; i < confidence.size(); ++i)
    KD_INPUT(confidence[i] >= 0 && confidence[i] <= 1, "calibration: confidence {} of sample {} is not in [0,1]", confidence[i], i);
}

double classwise_error(const Tensor& logits_on_host, const std::vector<LogitRecord>& records, Labels labels, int bins) {
  struct Bin {
    double hits, p;
  };
  const size_t c = size_t(logits_on_host.dim(1));
  std::vector<Bin> all(c * size_t(bins));
  const float* x = logits_on_host.data<float>();
  for (size_t i = 0; i < records.size(); ++i)
    for (size_t k = 0; k < c; ++k) {
      const double p = std::min(1.0, std::exp(double(x[i * c + k]) - records[i].log_sum_exp));
      Bin& bin = all[k * size_t(bins) + size_t(bin_of(p, bins))];
      bin.hits += size_t(labels[i]) == k, bin.p += p;
    }
  double sum = 0;
  for (const Bin& bin : all) sum += std::fabs(bin.hits - bin.p);
  return sum / (double(c) * double(records.size()));
}

}  // namespace

LogitSet ensemble_of(const std::vector<LogitSet>& teachers, Ensemble how) {
  KD_CHECK(!teachers.empty(), "ensemble of no teachers");
  std::vector<std::vector<LogitRecord>> records;
  std::vector<Tensor> here;
  std::vector<const float*> logits;
  for (const LogitSet& t : teachers) {
    check_same_shape(teachers[0], t);
    records.push_back(records_of(t));
    here.push_back(t.logits.to(Device::cpu));
    logits.push_back(here.back().data<float>());
  }
  const int64_t n = teachers[0].logits.dim(0), c = teachers[0].logits.dim(1);
  Tensor ensemble = Tensor::empty({n, c}, DType::f32);
  float* out = ensemble.data<float>();
  std::vector<double> terms(teachers.size());
  for (int64_t i = 0; i < n * c; ++i) {
    for (size_t t = 0; t < teachers.size(); ++t) {
      terms[t] = logits[t][i];
      if (how == Ensemble::mean_probs) terms[t] -= records[t][size_t(i / c)].log_sum_exp;
    }
    double mean = 0;
    if (how == Ensemble::mean_logits) {
      mean = std::accumulate(terms.begin(), terms.end(), 0.0) / double(terms.size());
    } else {  // ln mean p from the ln p: stays finite where p itself is too small for a double
      const double top = *std::max_element(terms.begin(), terms.end());
      for (double term : terms) mean += std::exp(term - top) / double(terms.size());
      mean = top + std::log(mean);
    }
    out[i] = float(mean);
  }
  return {"Ens", ensemble.to(teachers[0].logits.device())};
}

Calibration calibration(std::span<const double> confidence, std::span<const uint8_t> correct, int bins) {
  check_outcomes(confidence, correct, bins);
  std::vector<ReliabilityBin> all;
  for (int m = 0; m < bins; ++m) all.push_back({m, 0, 0, 0});
  Calibration result{};
  const double n = double(confidence.size());
  for (size_t i = 0; i < confidence.size(); ++i) {
    const double p = confidence[i];
    ReliabilityBin& bin = all[size_t(bin_of(p, bins))];
    ++bin.n, bin.acc += correct[i] != 0, bin.conf += p;
    result.mean_confidence += p / n;
  }
  for (ReliabilityBin& bin : all) {
    if (bin.n == 0) continue;
    bin.acc /= double(bin.n), bin.conf /= double(bin.n);
    const double gap = std::fabs(bin.acc - bin.conf);
    result.ece += double(bin.n) / n * gap;
    result.ece_unweighted += gap / bins;
    result.mce = std::max(result.mce, gap);
    result.reliability.push_back(bin);
  }
  return result;
}

double ece_adaptive(std::span<const double> confidence, std::span<const uint8_t> correct, int bins) {
  check_outcomes(confidence, correct, bins);
  const size_t n = confidence.size();
  std::vector<size_t> order(n);
  std::iota(order.begin(), order.end(), size_t(0));
  std::sort(order.begin(), order.end(), [&](size_t i, size_t j) { return confidence[i] < confidence[j]; });
  double sum = 0;
  size_t at = 0;
  for (size_t m = 1; m <= size_t(bins); ++m) {
    double hits = 0, conf = 0;
    for (; at < n && (at < m * n / size_t(bins) || (at > 0 && confidence[order[at]] == confidence[order[at - 1]])); ++at)
      hits += correct[order[at]] != 0, conf += confidence[order[at]];
    sum += std::fabs(hits - conf);
  }
  return sum / double(n);
}

double ece_classwise(const LogitSet& model, Labels labels, int bins) {
  KD_CHECK(bins >= 1, "calibration: {} bins", bins);
  const auto records = records_of(model);
  check_labels(labels, int64_t(records.size()), model.logits.dim(1), model.name);
  return classwise_error(model.logits.to(Device::cpu), records, labels, bins);
}

ModelMetrics model_metrics(const LogitSet& model, Labels labels, int bins) {
  const auto records = records_of(model);
  const Tensor logits = model.logits.to(Device::cpu);
  const int64_t c = logits.dim(1);
  const double n = double(records.size());
  check_labels(labels, int64_t(n), c, model.name);
  std::vector<uint8_t> correct;
  std::vector<double> images(static_cast<size_t>(c)), hits(images);
  double nll = 0, brier = 0, top5 = 0, logit_mean = 0, logit_std = 0;
  for (size_t i = 0; i < records.size(); ++i) {
    const LogitRecord& r = records[i];
    const double log_p = double(logits.data<float>()[int64_t(i) * c + labels[i]]) - r.log_sum_exp;
    correct.push_back(r.top[0] == labels[i]);
    top5 += std::find(r.top, r.top + kTopClasses, labels[i]) != r.top + kTopClasses;
    nll -= log_p / n;
    brier += (r.sum_squares - 2 * std::exp(log_p) + 1) / n;
    ++images[size_t(labels[i])], hits[size_t(labels[i])] += correct.back();
    const std::span row(logits.data<float>() + int64_t(i) * c, size_t(c));
    const double mean = std::accumulate(row.begin(), row.end(), 0.0) / double(c);
    double squares = 0;
    for (float x : row) squares += (x - mean) * (x - mean);
    logit_mean += mean / n, logit_std += c > 1 ? std::sqrt(squares / double(c - 1)) / n : kNan;
  }
  const auto confidence = confidences(records);
  ModelMetrics m{
      calibration(confidence, correct, bins), 0, 100 * top5 / n, nll, brier, mean_of(records, &LogitRecord::entropy), {}, 0, 0, logit_mean, logit_std};
  m.ece_adaptive = ece_adaptive(confidence, correct, bins);
  m.ece_classwise = classwise_error(logits, records, labels, bins);
  m.top1 = 100 * std::accumulate(hits.begin(), hits.end(), 0.0) / n;
  for (size_t k = 0; k < images.size(); ++k) m.per_class_top1.push_back(100 * ratio(hits[k], images[k]));
  return m;
}

ShotTop1 shot_top1(const LogitSet& model, Labels labels, std::span<const int64_t> train_images_per_class) {
  const auto records = records_of(model);
  check_labels(labels, int64_t(records.size()), model.logits.dim(1), model.name);
  KD_INPUT(int64_t(train_images_per_class.size()) == model.logits.dim(1), "metrics: training counts of {} classes, {} has {}", train_images_per_class.size(),
           model.name, model.logits.dim(1));
  double images[3] = {}, hits[3] = {};
  for (size_t i = 0; i < records.size(); ++i) {
    const int64_t trained_on = train_images_per_class[size_t(labels[i])];
    const int group = trained_on > 100 ? 0 : trained_on >= 20 ? 1 : 2;
    ++images[group], hits[group] += records[i].top[0] == labels[i];
  }
  return {100 * ratio(hits[0], images[0]), 100 * ratio(hits[1], images[1]), 100 * ratio(hits[2], images[2])};
}

Affinity affinity(double base, double weak, double strong, double test) {
  return {ratio(weak, base), ratio(strong, base), ratio(weak, test), ratio(strong, test),
          ratio(base, weak), ratio(base, strong), ratio(test, weak), ratio(test, strong)};
}

PairMetrics pair_metrics(const LogitSet& a, const LogitSet& b, Labels labels, uint64_t seed) {
  check_same_shape(a, b);
  const auto records_a = records_of(a), records_b = records_of(b);
  check_labels(labels, int64_t(records_a.size()), a.logits.dim(1), a.name);
  const auto predicted_a = predictions(records_a), predicted_b = predictions(records_b);
  const auto at_1 = pair_records(a, b, 1), at_3 = pair_records(a, b, 3);
  const JointCounts joint(predicted_a, predicted_b);
  double errors = 0, shared_errors = 0;
  for (size_t i = 0; i < labels.size(); ++i) {
    if (predicted_a[i] == labels[i]) continue;
    ++errors, shared_errors += predicted_a[i] == predicted_b[i];
  }
  PairMetrics m{};
  m.agreement = joint.agreement();
  m.kappa = joint.kappa();
  m.kl_ab = mean_of(at_1, &PairRecord::kl_ab);
  m.kl_ba = mean_of(at_1, &PairRecord::kl_ba);
  m.js = mean_of(at_1, &PairRecord::js);
  m.tv = mean_of(at_1, &PairRecord::tv);
  m.hellinger = mean_of(at_1, &PairRecord::hellinger);
  m.kl_ab_t3 = mean_of(at_3, &PairRecord::kl_ab);
  m.kl_ba_t3 = mean_of(at_3, &PairRecord::kl_ba);
  m.js_t3 = mean_of(at_3, &PairRecord::js);
  m.mi_plugin = joint.mutual_information();
  m.mi_adjusted = m.mi_plugin - permuted_mi(predicted_a, predicted_b, seed);
  m.mi_normalized = joint.normalized();
  m.mi_soft = soft_mutual_information(a, b);
  m.agreement_when_a_errs = ratio(shared_errors, errors);
  m.top5_overlap = top_overlap(records_a, records_b, a.logits.dim(1));
  m.wasserstein_confidence = wasserstein_1d(confidences(records_a), confidences(records_b));
  m.kl_code = 10 * m.kl_ba;
  return m;
}

double wasserstein_1d(std::vector<double> a, std::vector<double> b) {
  KD_CHECK(a.size() == b.size() && !a.empty(), "wasserstein_1d: {} values against {}", a.size(), b.size());
  std::sort(a.begin(), a.end());
  std::sort(b.begin(), b.end());
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) sum += std::fabs(a[i] - b[i]);
  return sum / double(a.size());
}

double label_agreement(Labels a, Labels b) { return JointCounts(a, b).agreement(); }
double cohen_kappa(Labels a, Labels b) { return JointCounts(a, b).kappa(); }
double label_entropy(Labels labels) { return JointCounts(labels, labels).entropy_a(); }
double mutual_information(Labels a, Labels b) { return JointCounts(a, b).mutual_information(); }
double normalized_mi(Labels a, Labels b) { return JointCounts(a, b).normalized(); }
double expected_mi(Labels a, Labels b) { return JointCounts(a, b).expected_mutual_information(); }

double adjusted_mi(Labels a, Labels b) {
  const JointCounts joint(a, b);
  const double expected = joint.expected_mutual_information(), ceiling = 0.5 * (joint.entropy_a() + joint.entropy_b());
  return ceiling - expected > 1e-12 ? (joint.mutual_information() - expected) / (ceiling - expected) : 1;
}

double permuted_mi(Labels a, Labels b, uint64_t seed, int permutations) {
  KD_CHECK(permutations >= 1, "permuted_mi: {} permutations", permutations);
  double sum = 0;
  for (int p = 0; p < permutations; ++p) {
    std::vector<int32_t> shuffled(b.begin(), b.end());
    Rng rng(seed, Purpose::control, uint32_t(p), kPermutationDraws);
    for (size_t i = shuffled.size(); i > 1; --i) std::swap(shuffled[i - 1], shuffled[rng.below(uint32_t(i))]);
    sum += JointCounts(a, shuffled).mutual_information();
  }
  return sum / permutations;
}

Tensor cam_maps(const CamSource& source, Cam kind, Labels labels, uint64_t seed) {
  const Tensor& f = source.features;
  KD_CHECK(f.defined() && f.rank() == 4 && f.dtype() == DType::f32 && f.elements() > 0, "cam of {}: {} is not f32 [N,h,w,K]", source.name,
           f.describe("features"));
  const int64_t n = f.dim(0), h = f.dim(1), w = f.dim(2), k = f.dim(3);
  const Device device = f.device();
  Tensor map = Tensor::empty({n, h, w}, DType::f32, device);
  if (kind == Cam::energy) {
    metrics_energy_map(current_stream(device), {.features = f.data<float>(), .map = map.data<float>(), .n = n, .h = h, .w = w, .k = k});
    return map;
  }
  // The weights of classes and images are made here, whatever the device: they are small beside the features.
  Tensor weight = source.fc_weight.to(Device::cpu), bias = source.fc_bias.to(Device::cpu);
  KD_CHECK(weight.defined() && weight.rank() == 2 && weight.dim(1) == k, "cam of {}: {} does not apply to {}", source.name, weight.describe("fc_weight"),
           f.describe("features"));
  const int64_t c = weight.dim(0);
  KD_CHECK(bias.defined() && bias.shape() == Shape{c}, "cam of {}: {} beside {}", source.name, bias.describe("fc_bias"), weight.describe("fc_weight"));

  Tensor alpha;                                                    // [N, rows of weight]
  if (kind == Cam::class_sum || kind == Cam::random_projection) {  // every class counts 1: one summed row for all images
    std::vector<double> sum(static_cast<size_t>(k));
    double offset = 0;
    for (int64_t j = 0; j < c; ++j) {
      offset += bias.data<float>()[j];
      for (int64_t i = 0; i < k; ++i) sum[size_t(i)] += weight.data<float>()[j * k + i];
    }
    if (kind == Cam::random_projection) {
      Rng rng(seed, Purpose::control, fnv1a(source.name), kProjectionDraws);
      for (double& v : sum) v = rng.normal();
    }
    weight = Tensor::of<float>({1, k}, {sum.begin(), sum.end()});
    bias = Tensor::of<float>({1}, {float(offset)});
    alpha = Tensor::of<float>({n, 1}, std::vector<float>(size_t(n), 1.f));
  } else {
    alpha = Tensor::zeros({n, c}, DType::f32);
    const LogitSet logits{source.name, source.logits};
    if (kind != Cam::label_class)
      KD_INPUT(samples_of(logits) == n && logits.logits.dim(1) == c, "cam of {}: {} beside {} and {}", source.name, source.logits.describe("logits"),
               f.describe("features"), weight.describe("fc_weight"));
    float* out = alpha.data<float>();
    switch (kind) {
      case Cam::label_class:
        check_labels(labels, n, c, source.name);
        for (int64_t i = 0; i < n; ++i) out[i * c + labels[size_t(i)]] = 1;
        break;
      case Cam::pred_class: {
        const auto predicted = predictions(records_of(logits));
        for (int64_t i = 0; i < n; ++i) out[i * c + predicted[size_t(i)]] = 1;
        break;
      }
      case Cam::prob_weighted: {
        const auto records = records_of(logits);
        const Tensor here = source.logits.to(Device::cpu);
        const float* x = here.data<float>();
        for (int64_t i = 0; i < n * c; ++i) out[i] = float(std::exp(double(x[i]) - records[size_t(i / c)].log_sum_exp));
        break;
      }
      default: KD_FAIL("cam kind {}", int(kind));
    }
  }
  weight = weight.to(device), bias = bias.to(device), alpha = alpha.to(device);
  metrics_class_map(current_stream(device), {.features = f.data<float>(),
                                             .weight = weight.data<float>(),
                                             .bias = bias.data<float>(),
                                             .alpha = alpha.data<float>(),
                                             .map = map.data<float>(),
                                             .n = n,
                                             .h = h,
                                             .w = w,
                                             .k = k,
                                             .c = weight.dim(0)});
  return map;
}

Tensor upsample_maps(const Tensor& maps, int64_t px) { return full_size(maps, px, MapScale::raw); }
Tensor unit_maps(const Tensor& maps, int64_t px) { return full_size(maps, px, MapScale::unit); }

IouResult mask_iou(const Tensor& maps_a, const Tensor& maps_b, int64_t px, double threshold, int64_t batch) {
  const Tensor maps[] = {maps_a, maps_b};
  return mask_iou(maps, px, threshold, batch);
}

IouResult mask_iou(std::span<const Tensor> maps, int64_t px, double threshold, int64_t batch) { return iou_sweep(maps, px, {&threshold, 1}, batch)[0]; }

std::vector<IouResult> iou_sweep(std::span<const Tensor> maps, int64_t px, std::span<const double> thresholds, int64_t batch) {
  KD_CHECK(maps.size() == 2 || maps.size() == 3, "mask IoU of {} models: two or three can be compared", maps.size());
  return iou_of(maps, nullptr, px, thresholds, batch);
}

IouResult truth_iou(const Tensor& maps, const Tensor& masks, double threshold, int64_t batch) {
  KD_CHECK(masks.defined() && masks.rank() == 3 && masks.dtype() == DType::u8 && masks.dim(1) == masks.dim(2), "truth IoU: {} is not u8 [N,px,px]",
           masks.describe("masks"));
  KD_INPUT(maps.defined() && maps.dim(0) == masks.dim(0), "truth IoU: {} and {} hold different numbers of images", maps.describe("maps"),
           masks.describe("masks"));
  return iou_of({&maps, 1}, &masks, masks.dim(1), {&threshold, 1}, batch)[0];
}

std::string to_string(Cam kind) {
  switch (kind) {
    case Cam::pred_class: return "pred_class";
    case Cam::class_sum: return "class_sum";
    case Cam::label_class: return "label_class";
    case Cam::prob_weighted: return "prob_weighted";
    case Cam::energy: return "energy";
    case Cam::random_projection: return "random_projection";
  }
  KD_FAIL("unknown map kind {}", int(kind));
}

}  // namespace kd
