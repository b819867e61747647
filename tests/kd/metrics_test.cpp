// Metrics against values computed by hand and with torch 2.15, scipy and scikit-learn; then the properties that hold for any models.
#include "kd/metrics.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>

#include "engine/base/rng.h"
#include "kernels/metrics/metrics.h"

namespace kd {
namespace {

testing::AssertionResult is_close(double got, double want, double tolerance) {
  if (std::isfinite(got) && std::fabs(got - want) <= tolerance) return testing::AssertionSuccess();
  return testing::AssertionFailure() << fmt::format("{:.15g} where {:.15g} +- {:g} is expected", got, want, tolerance);
}
#define EXPECT_CLOSE(got, want, tolerance) EXPECT_TRUE(is_close(got, want, tolerance)) << #got " "

// Two samples, three classes: student S and two teachers.
LogitSet student() { return {"S", Tensor::of<float>({2, 3}, {1, 2, .5f, 0, -1, 3})}; }
LogitSet teacher1() { return {"T1", Tensor::of<float>({2, 3}, {2, 1, 0, .5f, 0, 2.5f})}; }
LogitSet teacher2() { return {"T2", Tensor::of<float>({2, 3}, {0, 3, 1, -1, 1, 2})}; }
const std::vector<int32_t> kLabels{1, 2};

LogitSet random_logits(const std::string& name, int64_t n, int64_t c, uint32_t stream, float spread = 3.f) {
  Tensor t = Tensor::empty({n, c}, DType::f32);
  Rng rng(77, Purpose::test, stream);
  for (int64_t i = 0; i < n * c; ++i) t.data<float>()[i] = rng.uniform(-spread, spread);
  return {name, t};
}
std::vector<int32_t> random_labels(int64_t n, uint32_t classes, uint32_t stream) {
  Rng rng(78, Purpose::test, stream);
  std::vector<int32_t> labels;
  for (int64_t i = 0; i < n; ++i) labels.push_back(int32_t(rng.below(classes)));
  return labels;
}
std::vector<double> softmax_row(const LogitSet& set, int64_t row) {
  const int64_t c = set.logits.dim(1);
  std::vector<double> p;
  double sum = 0;
  for (int64_t i = 0; i < c; ++i) p.push_back(std::exp(double(set.logits.data<float>()[row * c + i]))), sum += p.back();
  for (double& v : p) v /= sum;
  return p;
}

// The error of f, or "" when it throws none.
std::string error_of(const std::function<void()>& f) {
  try {
    f();
  } catch (const Error& e) {
    return e.what();
  }
  return "";
}
void expect_error(const std::function<void()>& f, const std::vector<std::string>& parts) {
  const std::string message = error_of(f);
  ASSERT_NE(message, "") << "no error";
  EXPECT_EQ(message.find('\n'), std::string::npos) << message;
  for (const std::string& part : parts) EXPECT_NE(message.find(part), std::string::npos) << "'" << part << "' is not in: " << message;
}

// Fixture: divergences, entropies, ensembles.

TEST(Fixture, DivergencesOfStudentAndTeacher) {
  const PairMetrics m = pair_metrics(student(), teacher1(), kLabels, 1);
  EXPECT_CLOSE(m.kl_ab, 0.234591512887513, 1e-12);
  EXPECT_CLOSE(m.kl_ba, 0.256856742143655, 1e-12);
  EXPECT_CLOSE(m.js, 0.058938618903935, 1e-12);
  EXPECT_CLOSE(m.tv, 0.274423795282026, 1e-12);
  EXPECT_CLOSE(m.hellinger, 0.225970867325094, 1e-12);
  EXPECT_CLOSE(pair_metrics(teacher1(), student(), kLabels, 1).mi_soft, 0.190767352530424, 1e-12);
}

TEST(Fixture, CodeKl) {
  EXPECT_CLOSE(pair_metrics(teacher1(), student(), kLabels, 1).kl_code, 2.345915128875133, 1e-9);
  EXPECT_CLOSE(pair_metrics(teacher1(), teacher2(), kLabels, 1).kl_code, 5.786860123364779, 1e-9);
  EXPECT_CLOSE(pair_metrics(ensemble_of({teacher1(), teacher2()}, Ensemble::mean_logits), student(), kLabels, 1).kl_code, 0.500234659747935, 1e-9);
}

TEST(Fixture, MeanProbabilityEnsemble) {
  const LogitSet ensemble = ensemble_of({teacher1(), teacher2()}, Ensemble::mean_probs);
  // 1e-7: the ensemble is kept as f32 logits, like every other LogitSet.
  EXPECT_CLOSE(pair_metrics(ensemble, student(), kLabels, 1).kl_ab, 0.142595993373971, 1e-7);
  for (int64_t row = 0; row < 2; ++row) {
    const auto p = softmax_row(ensemble, row), p1 = softmax_row(teacher1(), row), p2 = softmax_row(teacher2(), row);
    for (size_t i = 0; i < 3; ++i) EXPECT_CLOSE(p[i], (p1[i] + p2[i]) / 2, 1e-7);
  }
}

TEST(Fixture, EntropiesAndCrossEntropy) {
  EXPECT_CLOSE(model_metrics(student(), kLabels).entropy, 0.590136165076330, 1e-12);
  EXPECT_CLOSE(model_metrics(teacher1(), kLabels).entropy, 0.710012159472765, 1e-12);
  EXPECT_CLOSE(model_metrics(teacher2(), kLabels).entropy, 0.619066187358155, 1e-12);
  EXPECT_CLOSE(model_metrics(student(), kLabels).nll, 0.265126343932687, 1e-12);
}

TEST(Fixture, SortedProbabilities) { EXPECT_CLOSE(wasserstein_1d(softmax_row(student(), 0), softmax_row(teacher1(), 0)), 0.033475873330472, 1e-12); }

TEST(Fixture, Agreements) {
  auto agreement = [](const LogitSet& a, const LogitSet& b) { return pair_metrics(a, b, kLabels, 1).agreement; };
  const LogitSet ensemble = ensemble_of({teacher1(), teacher2()}, Ensemble::mean_logits);
  EXPECT_EQ(agreement(teacher1(), student()), .5);
  EXPECT_EQ(agreement(teacher2(), student()), 1);
  EXPECT_EQ(agreement(ensemble, student()), 1);
  EXPECT_EQ(agreement(ensemble, teacher1()), .5);
}

// Fixture: labels.

const std::vector<int32_t> kA{0, 0, 0, 1, 1, 1, 2, 2, 2, 3}, kB{0, 0, 1, 1, 1, 1, 2, 2, 0, 3};

TEST(LabelFixture, AgreementKappaAndInformation) {
  EXPECT_CLOSE(label_agreement(kA, kB), .8, 1e-15);
  EXPECT_CLOSE(cohen_kappa(kA, kB), 13. / 18, 1e-12);
  EXPECT_CLOSE(label_entropy(kA), 1.313834033193, 1e-12);
  EXPECT_CLOSE(label_entropy(kB), 1.279854225834, 1e-12);
  EXPECT_CLOSE(mutual_information(kA, kB), .897945724857, 1e-12);
  EXPECT_CLOSE(normalized_mi(kA, kB), .692408366142, 1e-12);
  EXPECT_CLOSE(expected_mi(kA, kB), .557573960539, 1e-12);
  EXPECT_CLOSE(adjusted_mi(kA, kB), .460415932635, 1e-12);
}

TEST(LabelFixture, PermutationsApproachTheExactExpectation) {
  // The standard deviation of one permuted I is below 0.2 here: 4000 of them stay within 0.016 at five sigma.
  EXPECT_CLOSE(permuted_mi(kA, kB, 3, 4000), .557573960539, .016);
}

// Fixture: calibration.

TEST(CalibrationFixture, ErrorsAndReliability) {
  const std::vector<double> confidence{.95, .92, .85, .55, .52, .31};
  const std::vector<uint8_t> correct{1, 1, 0, 1, 0, 0};
  const Calibration c = calibration(confidence, correct);
  EXPECT_CLOSE(c.ece_unweighted, .126, 1e-12);
  EXPECT_CLOSE(c.ece, .68 / 3, 1e-12);
  EXPECT_CLOSE(c.mce, .85, 1e-12);
  EXPECT_CLOSE(c.mean_confidence, 4.1 / 6, 1e-12);
  const std::vector<ReliabilityBin> want{{3, 1, 0, .31}, {5, 2, .5, .535}, {8, 1, 0, .85}, {9, 2, 1, .935}};
  ASSERT_EQ(c.reliability.size(), want.size());
  for (size_t i = 0; i < want.size(); ++i) {
    EXPECT_EQ(c.reliability[i].index, want[i].index);
    EXPECT_EQ(c.reliability[i].n, want[i].n);
    EXPECT_CLOSE(c.reliability[i].acc, want[i].acc, 1e-12);
    EXPECT_CLOSE(c.reliability[i].conf, want[i].conf, 1e-12);
  }
}

TEST(Calibration, AnEdgeBelongsToTheBinBelow) {
  auto bin_of = [](double confidence, int bins) { return calibration({&confidence, 1}, std::vector<uint8_t>{1}, bins).reliability.at(0).index; };
  for (int bins : {1, 10, 25, 49})  // 25 and 49: p * bins rounds up and down across an edge
    for (int m = 0; m < bins; ++m) {
      const double edge = double(m + 1) / bins;
      EXPECT_EQ(bin_of(edge, bins), m) << bins;
      EXPECT_EQ(bin_of(std::nextafter(edge, 0), bins), m) << bins;
      if (m + 1 < bins) {
        EXPECT_EQ(bin_of(std::nextafter(edge, 1), bins), m + 1) << bins;
      }
    }
  EXPECT_EQ(bin_of(0, 10), 0);
}

TEST(Calibration, ModelMetricsUseTheLargestProbability) {
  // p = (.5, .5) for both samples, ties to class 0: half right at confidence .5.
  const ModelMetrics m = model_metrics({"S", Tensor::zeros({2, 2}, DType::f32)}, std::vector<int32_t>{0, 1});
  EXPECT_EQ(m.top1, 50);
  EXPECT_CLOSE(m.ece, 0, 1e-12);
  EXPECT_CLOSE(m.mean_confidence, .5, 1e-12);
  EXPECT_CLOSE(m.brier, .5, 1e-12);
  EXPECT_CLOSE(m.nll, std::log(2.), 1e-12);
  EXPECT_CLOSE(m.entropy, std::log(2.), 1e-12);
}

// Fixture: attention.

// One image of 2x2 positions and two channels, three classes.
CamSource small_cam() {
  CamSource s{.name = "S",
              .features = Tensor::of<float>({1, 2, 2, 2}, {1, 0, 0, 4, 2, 1, 3, 1}),
              .fc_weight = Tensor::of<float>({3, 2}, {1, -1, .5f, .5f, -.25f, 1}),
              .fc_bias = Tensor::of<float>({3}, {.1f, -.2f, .3f}),
              .logits = Tensor::of<float>({1, 3}, {.1f, 1.3f, 1.425f})};
  return s;
}
void expect_values(const Tensor& got, const std::vector<double>& want, double tolerance) {
  ASSERT_EQ(got.elements(), int64_t(want.size()));
  for (size_t i = 0; i < want.size(); ++i) EXPECT_CLOSE(double(got.data<float>()[i]), want[i], tolerance) << i;
}

TEST(CamFixture, FirstPositionsOfTheFeatures) {
  // F_1 = [[1,0],[2,3]], F_2 = [[0,4],[1,1]]: NHWC interleaves them.
  expect_values(cam_maps(small_cam(), Cam::energy, {}, 0), {.5, 8, 2.5, 5}, 1e-6);
}

TEST(CamFixture, ClassSum) { expect_values(cam_maps(small_cam(), Cam::class_sum, {}, 0), {1.45, 2.2, 3.2, 4.45}, 1e-6); }

TEST(CamFixture, PredictedClass) { expect_values(cam_maps(small_cam(), Cam::pred_class, {}, 0), {.05, 4.3, .8, .55}, 1e-6); }

TEST(CamFixture, LabelClass) {
  expect_values(cam_maps(small_cam(), Cam::label_class, std::vector<int32_t>{2}, 0), {.05, 4.3, .8, .55}, 1e-6);
  expect_values(cam_maps(small_cam(), Cam::label_class, std::vector<int32_t>{0}, 0), {1.1, -3.9, 1.1, 2.1}, 1e-6);
}

TEST(CamFixture, ProbabilityWeighted) {
  const CamSource s = small_cam();
  const auto p = softmax_row({"S", s.logits}, 0);
  const double scores[3][4] = {{1.1, -3.9, 1.1, 2.1}, {.3, 1.8, 1.3, 1.8}, {.05, 4.3, .8, .55}};
  std::vector<double> want(4);
  for (size_t c = 0; c < 3; ++c)
    for (size_t i = 0; i < 4; ++i) want[i] += p[c] * scores[c][i];
  expect_values(cam_maps(s, Cam::prob_weighted, {}, 0), want, 1e-6);
}

TEST(CamFixture, UpsampledScaledAndMasked) {
  const Tensor map = cam_maps(small_cam(), Cam::class_sum, {}, 0);
  expect_values(upsample_maps(map, 4).slice(0, {4}), {1.45, 1.6375, 2.0125, 2.2}, 1e-6);
  expect_values(unit_maps(map, 4).slice(4, {4}), {.145833333, .21875, .364583333, .4375}, 1e-6);
  const Tensor mask = Tensor::of<uint8_t>({1, 4, 4}, {0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1});
  const IouResult same = truth_iou(map, mask);
  EXPECT_EQ(same.mean, 1);
  EXPECT_EQ(same.area_a, 9. / 16);
  EXPECT_EQ(same.area_b, 9. / 16);
}

TEST(CamFixture, BilinearHalfPixelCentres) {
  const Tensor map = Tensor::of<float>({1, 2, 2}, {0, 1, 2, 3});
  expect_values(upsample_maps(map, 4), {0, .25, .75, 1, .5, .75, 1.25, 1.5, 1.5, 1.75, 2.25, 2.5, 2, 2.25, 2.75, 3}, 0);
  expect_values(upsample_maps(map, 2), {0, 1, 2, 3}, 0);
}

TEST(Cam, RandomProjectionIsDrawnPerSeedAndModel) {
  const CamSource s = small_cam();
  CamSource other = s;
  other.name = "T1";
  auto maps = [](const CamSource& source, uint64_t seed) {
    const Tensor map = cam_maps(source, Cam::random_projection, {}, seed);
    return std::vector<float>(map.data<float>(), map.data<float>() + 4);
  };
  EXPECT_EQ(maps(s, 5), maps(s, 5));
  EXPECT_NE(maps(s, 5), maps(s, 6));
  EXPECT_NE(maps(s, 5), maps(other, 5));
  // Still M = w.F + sum of biases: F_3 - F_2 = F_0 = (1,0).
  const auto m = maps(s, 5);
  EXPECT_CLOSE(double(m[3] - m[2]), double(m[0]) - .2, 1e-5);
}

TEST(IouFixture, PooledAndPerImage) {
  // One 4x4 image each, px = 4: the map is its own upsampling, and > 0.4 keeps the ones.
  const Tensor a = Tensor::of<float>({2, 4, 4}, {1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0});
  const Tensor b = Tensor::of<float>({2, 4, 4}, {0, 0, 1, 1, 0, 0, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0});
  const IouResult r = mask_iou(a, b, 4);
  EXPECT_CLOSE(r.batch_pooled, 3. / 7, 1e-12);
  EXPECT_CLOSE(r.mean, 2. / 3, 1e-12);
  EXPECT_EQ(r.images, 2);
  EXPECT_EQ(r.skipped, 0);
  EXPECT_CLOSE(r.area_a, 5. / 32, 1e-12);
  // Batches of one image: pooling within an image is the per-image value.
  EXPECT_CLOSE(mask_iou(a, b, 4, 0.4, 1).batch_pooled, 2. / 3, 1e-12);
}

TEST(Iou, EmptyMasksAreSkippedAndCounted) {
  // A constant map scales to 0 everywhere: an empty mask.
  const Tensor flat = Tensor::of<float>({2, 1, 1}, {3, 3}), one_flat = Tensor::of<float>({2, 2, 2}, {1, 1, 1, 1, 0, 0, 0, 1});
  const IouResult r = mask_iou(flat, one_flat, 4);
  EXPECT_EQ(r.skipped, 1);
  EXPECT_EQ(r.images, 1);
  EXPECT_EQ(r.mean, 0);
  const IouResult none = mask_iou(flat, flat, 4);
  EXPECT_EQ(none.images, 0);
  EXPECT_TRUE(std::isnan(none.mean) && std::isnan(none.batch_pooled)) << "no image had a mask: there is no IoU";
}

TEST(Iou, SelfIsOneAndModelsCommute) {
  Tensor a = Tensor::empty({5, 7, 7}, DType::f32), b = Tensor::empty({5, 4, 4}, DType::f32);
  Rng rng(9, Purpose::test);
  for (Tensor t : {a, b})
    for (int64_t i = 0; i < t.elements(); ++i) t.data<float>()[i] = rng.uniform();
  EXPECT_EQ(mask_iou(a, a, 33).mean, 1);
  const IouResult ab = mask_iou(a, b, 33), ba = mask_iou(b, a, 33);
  EXPECT_EQ(ab.mean, ba.mean);
  EXPECT_GT(ab.mean, 0);
  EXPECT_LT(ab.mean, 1);
  EXPECT_EQ(ab.area_a, ba.area_b);
  const Tensor twice[] = {a, b, b};
  EXPECT_EQ(mask_iou(twice, 33).mean, ab.mean);
  const Tensor three[] = {a, b, Tensor::of<float>({5, 1, 1}, {0, 0, 0, 0, 0})};
  EXPECT_EQ(mask_iou(three, 33).mean, 0) << "the third mask is empty";
  EXPECT_GT(mask_iou(a, b, 33, 0.2).area_a, mask_iou(a, b, 33, 0.7).area_a);
}

// Averaging as the code does.

TEST(BatchAveraged, AShortBatchWeighsAsMuchAsAFullOne) {
  // 100 of the first 128 agree, then 40 of 80.
  Tensor a = Tensor::zeros({208, 2}, DType::f32), b = Tensor::zeros({208, 2}, DType::f32);
  for (int64_t i = 0; i < 208; ++i)
    if (bool agrees = i < 128 ? i < 100 : i < 168; !agrees) b.data<float>()[2 * i + 1] = 1;
  const LogitSet set_a{"A", a}, set_b{"B", b};
  EXPECT_CLOSE(batch_averaged(set_a, set_b).agreement, .640625, 1e-12);
  EXPECT_CLOSE(pair_metrics(set_a, set_b, std::vector<int32_t>(208), 1).agreement, 140. / 208, 1e-12);
  EXPECT_CLOSE(batch_averaged(set_a, set_b, 208).agreement, 140. / 208, 1e-12);
  // Disagreeing rows: 10 KL( (1/(1+e), e/(1+e)) || (1/2,1/2) ).
  const double q = 1 / (1 + std::exp(1.)), kl = 10 * (q * std::log(2 * q) + (1 - q) * std::log(2 * (1 - q)));
  EXPECT_CLOSE(batch_averaged(set_a, set_b).kl_code, kl * (28. / 128 + 40. / 80) / 2, 1e-12);
  EXPECT_CLOSE(batch_averaged(set_a, set_b).mi_plugin, 0, 1e-15);  // A always says class 0
}

TEST(BatchAveraged, PluginInformationPerBatch) {
  std::vector<int32_t> la = kA, lb = kB;
  la.insert(la.end(), {0, 1, 0, 1}), lb.insert(lb.end(), {0, 1, 0, 1});
  auto one_hot = [](const std::vector<int32_t>& labels) {
    Tensor t = Tensor::zeros({int64_t(labels.size()), 4}, DType::f32);
    for (size_t i = 0; i < labels.size(); ++i) t.data<float>()[4 * i + size_t(labels[i])] = 1;
    return t;
  };
  EXPECT_CLOSE(batch_averaged({"A", one_hot(la)}, {"B", one_hot(lb)}, 10).mi_plugin, (.897945724857 + std::log(2.)) / 2, 1e-12);
}

// Properties.

TEST(PairProperties, AModelAgreesWithItself) {
  const LogitSet a = random_logits("A", 300, 10, 1);
  const auto labels = random_labels(300, 10, 2);
  const PairMetrics m = pair_metrics(a, a, labels, 1);
  EXPECT_EQ(m.agreement, 1);
  EXPECT_EQ(m.kappa, 1);
  EXPECT_EQ(m.top5_overlap, 1);
  EXPECT_EQ(m.agreement_when_a_errs, 1);
  for (double zero : {m.kl_ab, m.kl_ba, m.js, m.tv, m.hellinger, m.kl_ab_t3, m.kl_ba_t3, m.js_t3, m.kl_code, m.wasserstein_confidence})
    EXPECT_CLOSE(zero, 0, 1e-12);
  EXPECT_CLOSE(m.mi_normalized, 1, 1e-12);
  EXPECT_GT(m.mi_adjusted, 0);
}

TEST(PairProperties, SwappingTheModels) {
  const LogitSet a = random_logits("A", 300, 10, 1), b = random_logits("B", 300, 10, 2);
  const auto labels = random_labels(300, 10, 2);
  const PairMetrics ab = pair_metrics(a, b, labels, 1), ba = pair_metrics(b, a, labels, 1);
  EXPECT_EQ(ab.kl_ab, ba.kl_ba);
  EXPECT_EQ(ab.kl_ba_t3, ba.kl_ab_t3);
  EXPECT_NE(ab.kl_ab, ab.kl_ba);
  EXPECT_EQ(ab.js, ba.js);
  EXPECT_EQ(ab.tv, ba.tv);
  EXPECT_EQ(ab.hellinger, ba.hellinger);
  EXPECT_CLOSE(ab.mi_soft, ba.mi_soft, 1e-12);
  EXPECT_CLOSE(ab.mi_plugin, ba.mi_plugin, 1e-12);
  EXPECT_EQ(ab.top5_overlap, ba.top5_overlap);
  EXPECT_EQ(ab.kl_code, 10 * ab.kl_ba);
  EXPECT_LT(ab.js, std::log(2.));
  EXPECT_LT(ab.js_t3, ab.js);
}

TEST(PairProperties, ShiftingLogitsChangesNothing) {
  LogitSet a = random_logits("A", 50, 10, 1), b = random_logits("B", 50, 10, 2);
  for (Tensor t : {a.logits, b.logits})
    for (int64_t i = 0; i < t.elements(); ++i) t.data<float>()[i] = std::round(t.data<float>()[i] * 64) / 64;  // exact after the shift
  const LogitSet shifted{"A", a.logits.clone()};
  for (int64_t i = 0; i < 500; ++i) shifted.logits.data<float>()[i] += 10000.f;
  const auto labels = random_labels(50, 10, 3);
  const PairMetrics before = pair_metrics(a, b, labels, 1), after = pair_metrics(shifted, b, labels, 1);
  EXPECT_EQ(before.kl_ab, after.kl_ab);
  EXPECT_EQ(before.mi_soft, after.mi_soft);
  EXPECT_CLOSE(model_metrics(shifted, labels).nll, model_metrics(a, labels).nll, 1e-10);
  EXPECT_CLOSE(model_metrics(shifted, labels).brier, model_metrics(a, labels).brier, 1e-10);
}

TEST(PairProperties, HugeLogitsStayFinite) {
  const LogitSet a{"A", Tensor::of<float>({2, 3}, {3e4f, -3e4f, 0, -1e5f, -1e5f, -1e5f})}, b{"B", Tensor::of<float>({2, 3}, {-3e4f, 3e4f, 0, 1e5f, 0, 0})};
  const PairMetrics m = pair_metrics(a, b, std::vector<int32_t>{0, 0}, 1);
  EXPECT_CLOSE(m.kl_ab, (6e4 + (2e5 / 3 - std::log(3.))) / 2, 1e-6);
  EXPECT_CLOSE(m.tv, (1 + 2. / 3) / 2, 1e-12);
  EXPECT_CLOSE(m.js, (std::log(2.) + .5 * (std::log(2.) / 3 + std::log(1.5))) / 2, 1e-12);
  EXPECT_CLOSE(m.hellinger, (1 + std::sqrt(1 - std::sqrt(1. / 3))) / 2, 1e-12);
  for (Ensemble how : {Ensemble::mean_probs, Ensemble::mean_logits})
    for (int64_t i = 0; i < 6; ++i) EXPECT_TRUE(std::isfinite(ensemble_of({a, b}, how).logits.data<float>()[i]));
}

TEST(PairProperties, EqualTeachersAreOneTeacher) {
  const LogitSet a = random_logits("T1", 40, 10, 1);
  EXPECT_CLOSE(pair_metrics(ensemble_of({a, a, a}, Ensemble::mean_probs), a, random_labels(40, 10, 1), 1).kl_ab, 0, 1e-12);
  const LogitSet mean = ensemble_of({a, a}, Ensemble::mean_logits);
  EXPECT_EQ(mean.name, "Ens");
  EXPECT_TRUE(std::equal(a.logits.data<float>(), a.logits.data<float>() + 400, mean.logits.data<float>()));
}

TEST(PairProperties, ConditionalAgreementAndTopFive) {
  // Labels 0; A says 0 1 1 1, B says 1 1 1 0: A errs three times, twice they say the same.
  auto set = [](const char* name, const std::vector<int>& classes) {
    Tensor t = Tensor::zeros({int64_t(classes.size()), 7}, DType::f32);
    for (size_t i = 0; i < classes.size(); ++i) t.data<float>()[7 * i + size_t(classes[i])] = 1;
    return LogitSet{name, t};
  };
  const PairMetrics m = pair_metrics(set("A", {0, 1, 1, 1}), set("B", {1, 1, 1, 0}), std::vector<int32_t>(4), 1);
  EXPECT_CLOSE(m.agreement_when_a_errs, 2. / 3, 1e-15);
  EXPECT_EQ(m.top5_overlap, 1);  // ties go to the lowest classes: 0..4 in each row
  // {6,0,1,2,3} against {5,0,1,2,3}.
  EXPECT_CLOSE(pair_metrics(set("A", {6}), set("B", {5}), std::vector<int32_t>(1), 1).top5_overlap, .8, 1e-15);
  EXPECT_TRUE(std::isnan(pair_metrics(set("A", {0}), set("B", {0}), std::vector<int32_t>(1), 1).agreement_when_a_errs)) << "A never errs";
}

TEST(LabelProperties, InformationOfALabellingAboutItselfIsItsEntropy) {
  const auto a = random_labels(1000, 13, 1);
  EXPECT_CLOSE(mutual_information(a, a), label_entropy(a), 1e-12);
  EXPECT_CLOSE(normalized_mi(a, a), 1, 1e-12);
  EXPECT_CLOSE(adjusted_mi(a, a), 1, 1e-12);
  EXPECT_EQ(cohen_kappa(a, a), 1);
}

TEST(LabelProperties, IndependentLabelsShareNothing) {
  const auto a = random_labels(10000, 100, 1), b = random_labels(10000, 100, 2);
  EXPECT_CLOSE(mutual_information(a, b), .57, .03);  // the plug-in bias at this size
  EXPECT_CLOSE(mutual_information(a, b) - permuted_mi(a, b, 1), 0, .02);
  EXPECT_CLOSE(mutual_information(a, b) - expected_mi(a, b), 0, .02);
  EXPECT_CLOSE(permuted_mi(a, b, 1), expected_mi(a, b), .005);
  EXPECT_CLOSE(cohen_kappa(a, b), 0, .01);
}

TEST(LabelProperties, PermutationsFollowTheSeed) {
  EXPECT_EQ(permuted_mi(kA, kB, 7), permuted_mi(kA, kB, 7));
  EXPECT_NE(permuted_mi(kA, kB, 7), permuted_mi(kA, kB, 8));
  const LogitSet a = random_logits("A", 100, 5, 1), b = random_logits("B", 100, 5, 2);
  const auto labels = random_labels(100, 5, 1);
  EXPECT_EQ(pair_metrics(a, b, labels, 4).mi_adjusted, pair_metrics(a, b, labels, 4).mi_adjusted);
  EXPECT_NE(pair_metrics(a, b, labels, 4).mi_adjusted, pair_metrics(a, b, labels, 5).mi_adjusted);
}

TEST(LabelProperties, ASingleLabel) {
  const std::vector<int32_t> same(5, 2);
  EXPECT_EQ(cohen_kappa(same, same), 1);
  EXPECT_EQ(normalized_mi(same, same), 1);
  EXPECT_EQ(adjusted_mi(same, same), 1);
  EXPECT_EQ(mutual_information(same, same), 0);
}

TEST(ModelProperties, AccuracyPerClassAndPerGroup) {
  const LogitSet s{"S", Tensor::of<float>({4, 3}, {1, 0, 0, 1, 0, 0, 0, 1, 0, 0, 1, 0})};  // says 0 0 1 1
  const ModelMetrics m = model_metrics(s, std::vector<int32_t>{0, 1, 1, 1});
  EXPECT_EQ(m.top1, 75);
  EXPECT_EQ(m.top5, 100);
  ASSERT_EQ(m.per_class_top1.size(), 3u);
  EXPECT_EQ(m.per_class_top1[0], 100);
  EXPECT_CLOSE(m.per_class_top1[1], 200. / 3, 1e-12);
  EXPECT_TRUE(std::isnan(m.per_class_top1[2])) << "no image of class 2";
  const ShotTop1 shots = shot_top1(s, std::vector<int32_t>{0, 1, 1, 2}, std::vector<int64_t>{101, 100, 19});
  EXPECT_EQ(shots.many, 100);
  EXPECT_EQ(shots.medium, 50);
  EXPECT_EQ(shots.few, 0);
  EXPECT_EQ(gap_between(90, 75).gap, 15);
}

// Errors.

TEST(Errors, NotFinite) {
  for (float bad : {std::nanf(""), HUGE_VALF, -HUGE_VALF}) {
    LogitSet s = random_logits("T2", 8, 3, 1);
    s.logits.data<float>()[3 * 5 + 1] = bad;
    const auto labels = random_labels(8, 3, 1);
    const LogitSet good = random_logits("S", 8, 3, 2);
    expect_error([&] { model_metrics(s, labels); }, {"row 5", "T2", "NaN or infinity"});
    expect_error([&] { pair_metrics(good, s, labels, 1); }, {"row 5", "T2"});
    expect_error([&] { batch_averaged(s, good); }, {"row 5", "T2"});
    expect_error([&] { ensemble_of({good, s}, Ensemble::mean_probs); }, {"row 5", "T2"});
    expect_error([&] { shot_top1(s, labels, std::vector<int64_t>(3)); }, {"row 5", "T2"});
    Tensor maps = Tensor::zeros({4, 2, 2}, DType::f32);
    maps.data<float>()[4 * 2 + 1] = bad;
    expect_error([&] { mask_iou(maps, Tensor::zeros({4, 2, 2}, DType::f32), 4); }, {"image 2", "NaN or infinity"});
  }
  expect_error([] { calibration(std::vector<double>{std::nan("")}, std::vector<uint8_t>{1}); }, {"sample 0"});
}

TEST(Errors, Sizes) {
  const LogitSet a = random_logits("A", 8, 3, 1), longer = random_logits("B", 9, 3, 1), wider = random_logits("B", 8, 4, 1);
  const auto labels = random_labels(8, 3, 1);
  expect_error([&] { pair_metrics(a, longer, labels, 1); }, {"[8,3]", "[9,3]", "A", "B"});
  expect_error([&] { pair_metrics(a, wider, labels, 1); }, {"[8,3]", "[8,4]"});
  expect_error([&] { ensemble_of({a, wider}, Ensemble::mean_logits); }, {"[8,3]", "[8,4]"});
  expect_error([] { ensemble_of({}, Ensemble::mean_logits); }, {"no teachers"});
  expect_error([&] { model_metrics(longer, labels); }, {"8 labels", "9 rows", "B"});
  expect_error([&] { model_metrics(a, std::vector<int32_t>{0, 1, 2, 3, 0, 0, 0, 0}); }, {"label 3", "sample 3", "[0,3)"});
  expect_error([&] { model_metrics(a, std::vector<int32_t>{0, -1, 2, 0, 0, 0, 0, 0}); }, {"label -1", "sample 1"});
  expect_error([&] { model_metrics({"E", Tensor::empty({0, 3}, DType::f32)}, {}); }, {"E", "empty"});
  expect_error([&] { model_metrics({"I", Tensor::zeros({8, 3}, DType::i32)}, labels); }, {"I i32[8,3]"});
  expect_error([] { mutual_information(kA, std::vector<int32_t>{1, 2}); }, {"10 labels against 2"});
  expect_error([] { mutual_information(std::vector<int32_t>{}, std::vector<int32_t>{}); }, {"no labels"});
  expect_error([] { cohen_kappa(std::vector<int32_t>{0}, std::vector<int32_t>{-1}); }, {"negative"});
  expect_error([] { wasserstein_1d({1, 2}, {1}); }, {"2 values against 1"});
}

TEST(Errors, Attention) {
  CamSource s = small_cam();
  expect_error([&] { cam_maps(s, Cam::label_class, {}, 0); }, {"0 labels", "1 rows of S"});
  expect_error([&] { cam_maps(s, Cam::label_class, std::vector<int32_t>{3}, 0); }, {"label 3", "[0,3)"});
  s.fc_weight = Tensor::zeros({3, 5}, DType::f32);
  expect_error([&] { cam_maps(s, Cam::class_sum, {}, 0); }, {"cam of S", "[3,5]", "[1,2,2,2]"});
  s = small_cam();
  s.logits = Tensor::zeros({2, 3}, DType::f32);
  expect_error([&] { cam_maps(s, Cam::pred_class, {}, 0); }, {"cam of S", "logits f32[2,3]"});
  const Tensor two = Tensor::zeros({2, 2, 2}, DType::f32), three = Tensor::zeros({3, 2, 2}, DType::f32);
  expect_error([&] { mask_iou(two, three, 4); }, {"3 images", "2 expected"});
  expect_error([&] { truth_iou(two, Tensor::zeros({3, 4, 4}, DType::u8)); }, {"[2,2,2]", "[3,4,4]"});
  expect_error([&] { mask_iou({&two, 1}, 4); }, {"1 models"});
}

// Devices: what is checked above on the CPU, a GPU says too.

class OnDevice : public testing::TestWithParam<Device> {
 protected:
  LogitSet there(const LogitSet& set) const { return {set.name, set.logits.to(GetParam())}; }
  CamSource there(const CamSource& s) const {
    const Device d = GetParam();
    return {s.name, s.features.to(d), s.fc_weight.to(d), s.fc_bias.to(d), s.logits.to(d)};
  }
  static std::vector<double> values(const Tensor& anywhere) {
    const Tensor t = anywhere.to(Device::cpu);
    return {t.data<float>(), t.data<float>() + t.elements()};
  }
  static void expect_same(const std::vector<double>& got, const std::vector<double>& want, double tolerance) {
    ASSERT_EQ(got.size(), want.size());
    for (size_t i = 0; i < want.size(); ++i) EXPECT_CLOSE(got[i], want[i], tolerance * std::max(1.0, std::fabs(want[i]))) << "value " << i;
  }
};

TEST_P(OnDevice, NumbersOfModels) {
  auto all_numbers = [](const PairMetrics& m) {
    return std::vector<double>{m.agreement,
                               m.kappa,
                               m.kl_ab,
                               m.kl_ba,
                               m.js,
                               m.tv,
                               m.hellinger,
                               m.kl_ab_t3,
                               m.kl_ba_t3,
                               m.js_t3,
                               m.mi_soft,
                               m.mi_plugin,
                               m.mi_adjusted,
                               m.mi_normalized,
                               m.agreement_when_a_errs,
                               m.top5_overlap,
                               m.wasserstein_confidence,
                               m.kl_code};
  };
  auto of_model = [](const ModelMetrics& m) { return std::vector<double>{m.top1, m.top5, m.nll, m.brier, m.entropy, m.ece, m.mce, m.mean_confidence}; };
  const LogitSet huge{"H", Tensor::of<float>({2, 3}, {3e4f, -3e4f, 0, -1e5f, -1e5f, -1e5f})}, flat{"F", Tensor::zeros({2, 3}, DType::f32)};
  const LogitSet a = random_logits("A", 60, 12, 1), b = random_logits("B", 60, 12, 2);
  for (const auto& [one, other] : {std::pair{a, b}, std::pair{huge, flat}}) {
    const auto labels = random_labels(one.logits.dim(0), 3, 1);
    expect_same(all_numbers(pair_metrics(there(one), there(other), labels, 1)), all_numbers(pair_metrics(one, other, labels, 1)), 1e-11);
    expect_same(of_model(model_metrics(there(one), labels)), of_model(model_metrics(one, labels)), 1e-11);
    for (Ensemble how : {Ensemble::mean_probs, Ensemble::mean_logits}) {
      const LogitSet ensemble = ensemble_of({there(one), there(other)}, how);
      EXPECT_EQ(ensemble.logits.device(), GetParam());
      expect_same(values(ensemble.logits), values(ensemble_of({one, other}, how).logits), 1e-6);
    }
  }
}

TEST_P(OnDevice, Maps) {
  auto uniform = [](Shape shape, uint32_t stream) {
    Tensor t = Tensor::empty(shape, DType::f32);
    Rng rng(79, Purpose::test, stream);
    for (int64_t i = 0; i < t.elements(); ++i) t.data<float>()[i] = rng.uniform();
    return t;
  };
  const CamSource s{"S", uniform({4, 3, 3, 40}, 1), uniform({5, 40}, 2), uniform({5}, 3), random_logits("S", 4, 5, 4).logits};
  const auto labels = random_labels(4, 5, 1);
  std::vector<Tensor> maps;
  for (Cam kind : {Cam::pred_class, Cam::class_sum, Cam::label_class, Cam::prob_weighted, Cam::energy, Cam::random_projection}) {
    maps.push_back(cam_maps(s, kind, labels, 3));
    const Tensor got = cam_maps(there(s), kind, labels, 3);
    EXPECT_EQ(got.device(), GetParam());
    expect_same(values(got), values(maps.back()), 1e-6);
    expect_same(values(unit_maps(maps.back().to(GetParam()), 10)), values(unit_maps(maps.back(), 10)), 1e-6);
    expect_same(values(upsample_maps(maps.back().to(GetParam()), 10)), values(upsample_maps(maps.back(), 10)), 1e-6);
  }
  auto numbers = [](const IouResult& r) { return std::vector<double>{r.mean, r.batch_pooled, double(r.images), double(r.skipped), r.area_a, r.area_b}; };
  Tensor object = Tensor::zeros({4, 10, 10}, DType::u8);
  for (int64_t i = 0; i < object.elements(); ++i) object.data<uint8_t>()[i] = i % 7 < 3;
  for (size_t m = 0; m + 2 < maps.size(); ++m) {  // the same pixels, so the same numbers to the last bit
    const std::span<const Tensor> three(&maps[m], 3);
    const std::vector<Tensor> three_there{three[0].to(GetParam()), three[1].to(GetParam()), three[2].to(GetParam())};
    EXPECT_EQ(numbers(mask_iou(three_there, 10)), numbers(mask_iou(three, 10)));
    EXPECT_EQ(numbers(truth_iou(three_there[0], object.to(GetParam()))), numbers(truth_iou(three[0], object)));
  }
}

TEST_P(OnDevice, WhatIsNotFiniteIsNamed) {
  for (float bad : {std::nanf(""), HUGE_VALF, -HUGE_VALF}) {
    const LogitSet s = random_logits("T2", 8, 3, 1);
    s.logits.data<float>()[3 * 5 + 1] = bad;
    expect_error([&] { model_metrics(there(s), random_labels(8, 3, 1)); }, {"row 5", "T2", "NaN or infinity"});
    Tensor maps = Tensor::zeros({4, 2, 2}, DType::f32);
    const Tensor good = maps.clone().to(GetParam());
    maps.data<float>()[4 * 2 + 1] = bad;
    expect_error([&] { mask_iou(good, maps.to(GetParam()), 4); }, {"image 2", "NaN or infinity"});
  }
}

TEST_P(OnDevice, InputsMustBeTogether) {
  const LogitSet a = random_logits("A", 8, 3, 1), b = random_logits("B", 8, 3, 2);
  expect_error([&] { pair_metrics(there(a), b, random_labels(8, 3, 1), 1); }, {"A f32[8,3] " + to_string(GetParam()), "B f32[8,3] cpu", "different devices"});
  const Tensor maps = Tensor::zeros({2, 2, 2}, DType::f32), mask = Tensor::zeros({2, 4, 4}, DType::u8);
  expect_error([&] { mask_iou(maps.to(GetParam()), maps, 4); }, {"different devices"});
  expect_error([&] { truth_iou(maps.to(GetParam()), mask); }, {"different devices"});
}

// There a check would wait for the device, so the kernel protects the table only.
TEST_P(OnDevice, LabelsOutsideTheTableAreLeftOut) {
  const Tensor a = Tensor::of<int32_t>({6}, {0, 1, 2, -1, 1, 1}).to(GetParam()), b = Tensor::of<int32_t>({6}, {1, 1, 0, 0, 1 << 30, -5}).to(GetParam());
  const Tensor counts = Tensor::empty({2, 2}, DType::i64, GetParam());
  metrics_joint_counts(current_stream(GetParam()), {.a = a.data<int32_t>(), .b = b.data<int32_t>(), .counts = counts.data<int64_t>(), .n = 6, .c = 2});
  const Tensor here = counts.to(Device::cpu);
  EXPECT_EQ(std::vector<int64_t>(here.data<int64_t>(), here.data<int64_t>() + 4), (std::vector<int64_t>{0, 1, 0, 1}));
}

std::vector<Device> devices() {
  std::vector<Device> all{Device::emulated};
  if (is_available(Device::cuda)) all.push_back(Device::cuda);
  return all;
}
std::string name_of(const testing::TestParamInfo<Device>& device) { return device.param == Device::cuda ? "cuda" : to_string(device.param); }
INSTANTIATE_TEST_SUITE_P(On, OnDevice, testing::ValuesIn(devices()), name_of);

}  // namespace
}  // namespace kd
