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

TEST(Calibration, BinsOfEqualSize) {
  const std::vector<double> confidence{.95, .92, .85, .55, .52, .31};
  const std::vector<uint8_t> correct{1, 1, 0, 1, 0, 0};
  // .31 .52 | .55 .85 | .92 .95
  EXPECT_CLOSE(ece_adaptive(confidence, correct, 3), (.83 + .40 + .13) / 6, 1e-12);
  EXPECT_CLOSE(ece_adaptive(confidence, correct, 2), (.38 + .72) / 6, 1e-12);
  EXPECT_CLOSE(ece_adaptive(confidence, correct, 4), (.31 + (.52 + .55 - 1) + .85 + .13) / 6, 1e-12);  // of 1, 2, 1 and 2 samples
  EXPECT_CLOSE(ece_adaptive(confidence, correct, 1), 1.1 / 6, 1e-12);
  EXPECT_CLOSE(ece_adaptive(confidence, correct, 100), (.05 + .08 + .85 + .45 + .52 + .31) / 6, 1e-12);
}

TEST(Calibration, EqualConfidencesStayTogether) {
  EXPECT_CLOSE(ece_adaptive(std::vector<double>(5, .4), std::vector<uint8_t>{1, 0, 0, 1, 0}, 3), 0, 1e-12);
  // .2 .2 .2 | .6: the third .2 is drawn into the first of two bins.
  const std::vector<double> confidence{.2, .6, .2, .2};
  for (const auto& correct : {std::vector<uint8_t>{1, 1, 0, 0}, {0, 1, 1, 0}, {0, 1, 0, 1}})
    EXPECT_CLOSE(ece_adaptive(confidence, correct, 2), (.4 + .4) / 4, 1e-12);
  expect_error([] { ece_adaptive(std::vector<double>{2}, std::vector<uint8_t>{1}); }, {"confidence 2", "sample 0"});
}

TEST(Calibration, EveryClass) {
  const LogitSet s{"S", Tensor::of<float>({2, 2}, {float(std::log(.85)), float(std::log(.15)), float(std::log(.65)), float(std::log(.35))})};
  const std::vector<int32_t> labels{0, 1};
  EXPECT_CLOSE(ece_classwise(s, labels), (.15 + .65 + .15 + .65) / 4, 1e-7);  // logits in float
  EXPECT_CLOSE(ece_classwise(s, labels, 1), (.5 + .5) / 4, 1e-7);
  EXPECT_CLOSE(ece_classwise(s, labels, 2), (.5 + .5) / 4, 1e-7);  // .85 and .65 in one bin, .15 and .35 in the other
  EXPECT_EQ(model_metrics(s, labels).ece_classwise, ece_classwise(s, labels));
  // Right by construction: half the samples of one row are of each class.
  EXPECT_CLOSE(ece_classwise({"S", Tensor::zeros({4, 2}, DType::f32)}, std::vector<int32_t>{0, 1, 1, 0}), 0, 1e-12);
  expect_error([&] { ece_classwise(s, std::vector<int32_t>{0}); }, {"1 labels"});
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

TEST(CamFixture, PooledFeaturesGiveTheLogits) {
  const CamSource s = small_cam();
  for (int64_t c = 0; c < 3; ++c) {  // so a map's mean is its class's logit
    const Tensor map = cam_maps(s, Cam::label_class, std::vector<int32_t>{int32_t(c)}, 0);
    EXPECT_CLOSE((map.data<float>()[0] + map.data<float>()[1] + map.data<float>()[2] + map.data<float>()[3]) / 4., double(s.logits.data<float>()[c]), 1e-6);
  }
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

TEST(Iou, ASweepIsItsThresholdsOneByOne) {
  const Tensor maps[] = {Tensor::empty({9, 7, 7}, DType::f32), Tensor::empty({9, 4, 4}, DType::f32), Tensor::empty({9, 5, 5}, DType::f32)};
  Rng rng(10, Purpose::test);
  for (const Tensor& t : maps)
    for (int64_t i = 0; i < t.elements(); ++i) t.data<float>()[i] = i < t.elements() / 9 ? 1.f : rng.uniform();  // of the first image, empty masks
  const std::vector<double> thresholds{.2, .3, .4, .5, .6, .7};
  for (size_t models : {2, 3}) {
    const auto sweep = iou_sweep({maps, models}, 32, thresholds, 4);
    ASSERT_EQ(sweep.size(), thresholds.size());
    for (size_t t = 0; t < thresholds.size(); ++t) {
      const IouResult one = mask_iou({maps, models}, 32, thresholds[t], 4);
      EXPECT_EQ(sweep[t].mean, one.mean);
      EXPECT_EQ(sweep[t].batch_pooled, one.batch_pooled);
      EXPECT_EQ(sweep[t].area_a, one.area_a);
      EXPECT_EQ(sweep[t].area_b, one.area_b);
      EXPECT_EQ(sweep[t].skipped, 1);
      EXPECT_EQ(sweep[t].images, 8);
      if (t > 0) {
        EXPECT_LT(sweep[t].area_a, sweep[t - 1].area_a);
      }
    }
  }
  expect_error([&] { iou_sweep(maps, 32, std::vector<double>(9, .4)); }, {"9 thresholds", "1 to 8"});
  expect_error([&] { iou_sweep(maps, 32, {}); }, {"0 thresholds"});
}

TEST(Iou, ThreeModelsPooledAndPerImage) {
  // Image 1: masks of 4, 4 and 3 pixels with 1 in common and 6 in any; image 2: one common pixel.
  const Tensor maps[] = {Tensor::of<float>({2, 3, 3}, {1, 1, 1, 1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0}),
                         Tensor::of<float>({2, 3, 3}, {0, 0, 1, 1, 1, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0}),
                         Tensor::of<float>({2, 3, 3}, {1, 0, 0, 1, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0})};
  const IouResult r = mask_iou(maps, 3);
  EXPECT_CLOSE(r.mean, (1. / 6 + 1) / 2, 1e-12);
  EXPECT_CLOSE(r.batch_pooled, 2. / 7, 1e-12);
  EXPECT_CLOSE(mask_iou(maps, 3, .4, 1).batch_pooled, (1. / 6 + 1) / 2, 1e-12);
}

// The code's numbers.

using Means = std::map<std::string, double>;

LogitSet one_hot(const std::string& name, const std::vector<int32_t>& labels, int64_t classes) {
  Tensor t = Tensor::zeros({int64_t(labels.size()), classes}, DType::f32);
  for (size_t i = 0; i < labels.size(); ++i) t.data<float>()[int64_t(i) * classes + labels[i]] = 1;
  return {name, t};
}

TEST(Digamma, KnownValues) {
  // scipy.special.digamma
  const std::vector<std::pair<double, double>> known{{.5, -1.9635100260214235}, {1, -.5772156649015329},     {2.5, .7031566406452432},
                                                     {10, 2.251752589066721},   {100.25, 4.602671243274712}, {1e5, 11.512920464961896}};
  for (const auto& [x, psi] : known) EXPECT_CLOSE(digamma(x), psi, 1e-14 * std::max(1.0, std::fabs(psi))) << x;
  double harmonic = 0;  // psi(n) = 1 + 1/2 + ... + 1/(n-1) - gamma
  for (int n = 1; n <= 500; harmonic += 1. / n++) EXPECT_CLOSE(digamma(n), harmonic - .57721566490153286, 1e-13) << n;
}

// Every sample against every other, as the definition says.
struct SlowKnn {
  double mi;
  std::vector<int> within;  // of the samples whose target is no singleton
};
SlowKnn slow_knn(const std::vector<int32_t>& target, const std::vector<int32_t>& feature, const std::vector<double>& noise) {
  const double n = double(target.size());
  double mean = 0, variance = 0, size = 0;
  for (int32_t f : feature) mean += f / n;
  for (int32_t f : feature) variance += (f - mean) * (f - mean) / n;  // to the last bit as it is there: it decides between distances that tie
  const double deviation = variance > 0 ? std::sqrt(variance) : 1;
  for (int32_t f : feature) size += f / deviation / n;
  std::vector<double> x, radius;
  for (size_t i = 0; i < target.size(); ++i) x.push_back(feature[i] / deviation + 1e-10 * std::max(1., size) * noise[i]);
  std::vector<size_t> kept;
  double sum = 0;
  for (size_t i = 0; i < target.size(); ++i) {
    std::vector<double> distances;
    for (size_t j = 0; j < target.size(); ++j)
      if (j != i && target[j] == target[i]) distances.push_back(std::fabs(x[j] - x[i]));
    std::sort(distances.begin(), distances.end());
    const size_t k = std::min<size_t>(3, distances.size());
    radius.push_back(k > 0 ? std::nextafter(distances[k - 1], 0) : 0);
    if (k > 0) kept.push_back(i), sum += digamma(double(k)) - digamma(double(distances.size() + 1));
  }
  SlowKnn result{0, {}};
  for (size_t i : kept) {
    int within = 0;
    for (size_t j : kept) within += std::fabs(x[j] - x[i]) <= radius[i];
    result.within.push_back(within);
    sum -= digamma(within);
  }
  result.mi = std::max(0., digamma(double(kept.size())) + sum / double(kept.size()));
  return result;
}

TEST(KnnFixture, TenSamples) {
  std::vector<double> noise(10);
  for (size_t i = 0; i < 10; ++i) noise[i] = double(i);
  EXPECT_CLOSE(knn_mi(kA, kB, noise), .446428571429, 1e-12);
  EXPECT_EQ(slow_knn(kA, kB, noise).within, (std::vector<int>{3, 3, 6, 3, 2, 2, 6, 6, 8})) << "class 3, a singleton, is dropped";
  EXPECT_CLOSE(slow_knn(kA, kB, noise).mi, .446428571429, 1e-12);
}

TEST(Knn, AsScikitLearn) {
  // mutual_info_classif of scikit-learn 1.3.2 with `noise` in place of its draws. No target has fewer than 12 samples: below 8, scikit-learn finds neighbours
  // from expanded squares, whose rounding is larger than the noise.
  auto mix = [](uint32_t i) {
    uint32_t x = i * 2654435761u;
    x = (x ^ (x >> 15)) * 2246822519u;
    return x ^ (x >> 13);
  };
  struct Case {
    uint32_t n, classes;
    double mi;
  };
  for (const Case& c : {Case{60, 3, 0.37912857159967706}, Case{200, 7, 0.8279380658933135}, Case{500, 20, 1.3977061161411881}}) {
    std::vector<int32_t> target, feature;
    std::vector<double> noise;
    for (uint32_t i = 0; i < c.n; ++i) {
      target.push_back(int32_t(mix(2 * i + 1) % c.classes));
      feature.push_back(mix(5000 + i) % 10 < 6 ? target.back() : int32_t(mix(9000 + i) % c.classes));
      noise.push_back(double(mix(20000 + i)) / (1u << 31) - 1);
    }
    EXPECT_CLOSE(knn_mi(target, feature, noise), c.mi, 1e-12) << c.n;
  }
}

TEST(Knn, AsTheDefinitionSays) {
  for (uint32_t trial = 0; trial < 60; ++trial) {
    const uint32_t classes = 1 + trial % 9, n = 2 + 7 * trial;  // from one class to more classes than samples
    const auto target = random_labels(n, classes * (1 + trial % 3), 100 + trial);
    auto feature = random_labels(n, classes, 200 + trial);
    Rng rng(5, Purpose::test, trial);
    for (uint32_t i = 0; i < n; ++i)
      if (rng.uniform() < .6f) feature[i] = target[i];
    std::vector<double> noise;
    for (uint32_t i = 0; i < n; ++i) noise.push_back(trial % 5 == 0 ? double(rng.below(3)) : rng.normal());  // ties among the noise, too
    const SlowKnn slow = slow_knn(target, feature, noise);
    if (slow.within.empty()) {
      EXPECT_TRUE(std::isnan(knn_mi(target, feature, noise)));
    } else {
      EXPECT_CLOSE(knn_mi(target, feature, noise), slow.mi, 1e-11) << trial;
    }
  }
}

TEST(Knn, ACopyOfManySamples) {
  // A class's samples lie within the noise of each other and far from all others: within = k = 3, so I = psi(N) - mean psi(n_k).
  constexpr int64_t n = 100000;
  const auto labels = random_labels(n, 1000, 1);
  std::vector<int64_t> counts(1000);
  for (int32_t label : labels) ++counts[size_t(label)];
  double want = digamma(double(n));
  for (int64_t count : counts) want -= double(count) / double(n) * digamma(double(count));
  EXPECT_CLOSE(knn_mi(labels, labels, 3), want, 1e-4);  // of distances 1e-10, rounded to 1e-16, a few tie
}

TEST(Knn, SeedsAndNothing) {
  EXPECT_EQ(knn_mi(kA, kB, 1), knn_mi(kA, kB, 1));
  double least = 1, most = 0;
  for (uint64_t seed = 0; seed < 20; ++seed) least = std::min(least, knn_mi(kA, kB, seed)), most = std::max(most, knn_mi(kA, kB, seed));
  EXPECT_LT(least, .15) << "the noise decides";
  EXPECT_GT(most, .4);
  EXPECT_EQ(knn_mi(std::vector<int32_t>{0, 0, 1, 1}, std::vector<int32_t>(4, 7), std::vector<double>{0, 2, 1, 3}), 0) << "a constant feature";
  EXPECT_TRUE(std::isnan(knn_mi(std::vector<int32_t>{0, 1, 2}, std::vector<int32_t>{0, 1, 2}, 1))) << "only singletons";
  expect_error([] { knn_mi(kA, std::vector<int32_t>{1}, 1); }, {"10 targets", "1 features"});
  expect_error([] { knn_mi(kA, kB, std::vector<double>{1}); }, {"1 noise values"});
  expect_error([] { knn_mi(std::vector<int32_t>{}, std::vector<int32_t>{}, 1); }, {"no labels"});
  expect_error([] { digamma(0); }, {"digamma of 0"});
}

// How far the two estimates from batches of 128 are from the truth with 100 classes. The nearest-neighbour means are those of a NumPy program over 400 batches,
// the plug-in ones of another simulation; both are in docs/metrics.md.
TEST(CodeInformation, WithOneHundredClasses) {
  struct Situation {
    double copied, plugin, knn, whole;  // at n = 128, at n = 128, plug-in at n = 10,000
  };
  for (const Situation& s : {Situation{0, 3.47, .047, .57}, Situation{.5, 3.66, .788, 2.14}, Situation{.8, 3.92, 2.211, 3.55},
                             Situation{.95, 4.09, 3.347, 4.33}, Situation{1, 4.15, 3.757, 4.60}}) {
    constexpr uint32_t kBatches = 100, kRows = 10000;
    const auto target = random_labels(kRows + 2800, 100, 1), other = random_labels(kRows + 2800, 100, 2);
    Rng rng(6, Purpose::test);
    auto feature = other;
    for (size_t i = 0; i < feature.size(); ++i)
      if (rng.uniform_double() < s.copied) feature[i] = target[i];
    double plugin = 0, knn = 0;
    for (uint32_t b = 0; b < kBatches; ++b) {
      const std::span<const int32_t> t = std::span(target).subspan(b * 128, 128), f = std::span(feature).subspan(b * 128, 128);
      plugin += mutual_information(t, f) / kBatches, knn += knn_mi(t, f, b) / kBatches;
    }
    EXPECT_CLOSE(plugin, s.plugin, .03) << s.copied;
    EXPECT_CLOSE(knn, s.knn, .08) << s.copied;  // the standard deviation of one batch is up to 0.32
    EXPECT_CLOSE(mutual_information(std::span(target).first(kRows), std::span(feature).first(kRows)), s.whole, .04) << s.copied;
  }
}

TEST(CodeFixture, TwoTeachers) {
  const Means means = code_metrics(student(), {teacher1(), teacher2()}, 1);
  // 1e-6: one of the two softmaxes is in float.
  EXPECT_CLOSE(means.at("1Tand1S_kl"), 2.345915128875133, 1e-6);
  EXPECT_CLOSE(means.at("T1T2_kl"), 5.786860123364779, 1e-6);
  EXPECT_CLOSE(means.at("2Tand1S_kl"), .500234659747935, 1e-6);
  EXPECT_EQ(means.at("1Tand1S_f"), .5);
  EXPECT_EQ(means.at("2Tand1S_f"), 1);
  EXPECT_EQ(means.at("2Tand1T_f"), .5);
  EXPECT_EQ(means.at("T1T2_f"), .5);
  EXPECT_CLOSE(means.at("S_entropy"), .590136165076330, 1e-12);
  EXPECT_CLOSE(means.at("T1_entropy"), .710012159472765, 1e-12);
  EXPECT_CLOSE(means.at("T2_entropy"), .619066187358155, 1e-12);
}

TEST(CodeMetrics, KeysFollowTheTeachers) {
  auto keys = [](size_t teachers) {
    std::vector<std::string> all;
    for (const auto& [key, value] : code_metrics(random_logits("S", 20, 3, 9), std::vector(teachers, random_logits("T", 20, 3, 8)), 1)) all.push_back(key);
    return all;
  };
  const std::vector<std::string> none{"S_entropy"}, one{"1Tand1S_f", "1Tand1S_kl", "1Tand1S_mi", "1Tand1S_mis", "S_entropy", "T1_entropy"};
  const std::vector<std::string> two{"1Tand1S_f",  "1Tand1S_kl",  "1Tand1S_mi", "1Tand1S_mis", "2Tand1S_f",    "2Tand1S_kl",
                                     "2Tand1S_mi", "2Tand1S_mis", "2Tand1T_f",  "S_entropy",   "T1SandT2S_mi", "T1SandT2S_mis",
                                     "T1T2_f",     "T1T2_kl",     "T1T2_mi",    "T1T2_mis",    "T1_entropy",   "T2_entropy"};
  std::vector<std::string> three = two;
  for (const char* model : {"3Tand1S", "T1T2T3"})
    for (const char* what : {"_f", "_kl", "_mi", "_mis"}) three.push_back(std::string(model) + what);
  std::sort(three.begin(), three.end());
  EXPECT_EQ(keys(0), none);
  EXPECT_EQ(keys(1), one);
  EXPECT_EQ(keys(2), two);
  EXPECT_EQ(keys(3), three);
  EXPECT_EQ(keys(4), three);
}

TEST(CodeMetrics, OneBatchIsWhatTheOtherFunctionsSay) {
  const LogitSet s = random_logits("S", 90, 4, 1), t1 = random_logits("T1", 90, 4, 2), t2 = random_logits("T2", 90, 4, 3), t3 = random_logits("T3", 90, 4, 4);
  const LogitSet both = ensemble_of({t1, t2}, Ensemble::mean_logits), all = ensemble_of({t1, t2, t3}, Ensemble::mean_logits);
  const Means means = code_metrics(s, {t1, t2, t3}, 5);
  const auto labels = random_labels(90, 4, 1);
  struct Pair {
    const char* key;
    const LogitSet &a, &b;
  };
  for (const Pair& p : {Pair{"1Tand1S", t1, s}, Pair{"2Tand1S", both, s}, Pair{"3Tand1S", all, s}, Pair{"T1T2", t1, t2}, Pair{"T1T2T3", both, t3}}) {
    const std::string key = p.key;
    const PairMetrics want = pair_metrics(p.a, p.b, labels, 1);
    EXPECT_CLOSE(means.at(key + "_f"), want.agreement, 1e-15) << key;
    EXPECT_CLOSE(means.at(key + "_kl"), want.kl_code, 1e-5) << key;
    EXPECT_CLOSE(means.at(key + "_mis"), want.mi_plugin, 1e-14) << key;
    EXPECT_GE(means.at(key + "_mi"), 0) << key;
  }
  EXPECT_EQ(means.at("2Tand1T_f"), pair_metrics(both, t1, labels, 1).agreement);
  EXPECT_CLOSE(means.at("T1SandT2S_mis"), (pair_metrics(t1, s, labels, 1).mi_plugin + pair_metrics(t2, s, labels, 1).mi_plugin) / 2, 1e-14);
  EXPECT_CLOSE(means.at("S_entropy"), model_metrics(s, labels).entropy, 1e-12);
  // The first key's noise is that of knn_mi's own seed, and T1 is the target.
  std::vector<int32_t> predicted_t, predicted_s;
  for (int64_t i = 0; i < 90; ++i)
    for (auto [set, to] : {std::pair{&t1, &predicted_t}, {&s, &predicted_s}}) {
      const float* x = set->logits.data<float>() + 4 * i;
      to->push_back(int32_t(std::max_element(x, x + 4) - x));
    }
  EXPECT_EQ(means.at("1Tand1S_mi"), knn_mi(predicted_t, predicted_s, 5));
}

TEST(CodeMetrics, TheSecondSoftmaxIsAFloat) {
  // e^-120 is nothing to a float and 8e-53 to a double; the difference shows where the other model's logarithm is as large.
  const LogitSet a{"T1", Tensor::of<float>({1, 2}, {0, -3e37f})}, b{"S", Tensor::of<float>({1, 2}, {0, -120})};
  EXPECT_EQ(code_metrics(b, {a}, 1).at("1Tand1S_kl"), 0);
  EXPECT_GT(pair_metrics(a, b, std::vector<int32_t>{0}, 1).kl_code, 1e-14);
}

TEST(CodeMetrics, AShortBatchWeighsAsMuchAsAFullOneOrNothing) {
  // 100 of the first 128 agree, then 40 of 80.
  Tensor a = Tensor::zeros({208, 2}, DType::f32), b = Tensor::zeros({208, 2}, DType::f32);
  for (int64_t i = 0; i < 208; ++i)
    if (bool agrees = i < 128 ? i < 100 : i < 168; !agrees) b.data<float>()[2 * i + 1] = 1;
  const LogitSet teacher{"T1", a}, s{"S", b};
  const Means means = code_metrics(s, {teacher}, 1);
  EXPECT_CLOSE(means.at("1Tand1S_f"), .640625, 1e-12);
  EXPECT_CLOSE(pair_metrics(teacher, s, std::vector<int32_t>(208), 1).agreement, 140. / 208, 1e-12);
  EXPECT_CLOSE(code_metrics(s, {teacher}, 1, ShortBatch::dropped).at("1Tand1S_f"), 100. / 128, 1e-12);
  EXPECT_CLOSE(code_metrics(s, {teacher}, 1, ShortBatch::dropped, 104).at("1Tand1S_f"), 140. / 208, 1e-12);
  EXPECT_CLOSE(code_metrics(s, {teacher}, 1, ShortBatch::counts, 208).at("1Tand1S_f"), 140. / 208, 1e-12);
  EXPECT_TRUE(code_metrics(s, {teacher}, 1, ShortBatch::dropped, 209).empty());
  // Disagreeing rows: 10 KL( (1/(1+e), e/(1+e)) || (1/2,1/2) ).
  const double q = 1 / (1 + std::exp(1.)), kl = 10 * (q * std::log(2 * q) + (1 - q) * std::log(2 * (1 - q)));
  EXPECT_CLOSE(means.at("1Tand1S_kl"), kl * (28. / 128 + 40. / 80) / 2, 1e-6);
  EXPECT_CLOSE(means.at("1Tand1S_mis"), 0, 1e-15);  // T1 always says class 0
}

TEST(CodeMetrics, InformationIsAveragedOverBatches) {
  std::vector<int32_t> la = kA, lb = kB;
  la.insert(la.end(), {0, 1, 0, 1}), lb.insert(lb.end(), {0, 1, 0, 1});
  const Means means = code_metrics(one_hot("S", lb, 4), {one_hot("T1", la, 4)}, 2, ShortBatch::counts, 10);
  EXPECT_CLOSE(means.at("1Tand1S_mis"), (.897945724857 + std::log(2.)) / 2, 1e-12);
  // Two targets of two samples, each within the noise of its twin: psi(4) - psi(2).
  EXPECT_CLOSE(means.at("1Tand1S_mi"), (knn_mi(kA, kB, 2) + digamma(4) - digamma(2)) / 2, 1e-12);
  std::vector<int32_t> twice_a = kA, twice_b = kB;
  twice_a.insert(twice_a.end(), kA.begin(), kA.end()), twice_b.insert(twice_b.end(), kB.begin(), kB.end());
  EXPECT_NE(code_metrics(one_hot("S", twice_b, 4), {one_hot("T1", twice_a, 4)}, 2, ShortBatch::counts, 10).at("1Tand1S_mi"), knn_mi(kA, kB, 2))
      << "each batch has noise of its own";
}

TEST(CodeMetrics, ABatchOfSingletonsIsLeftOutOfItsMean) {
  std::vector<int32_t> labels = kA;
  labels.insert(labels.end(), {0, 1, 2});
  const Means means = code_metrics(one_hot("S", labels, 4), {one_hot("T1", labels, 4)}, 2, ShortBatch::counts, 10);
  EXPECT_CLOSE(means.at("1Tand1S_mi"), knn_mi(kA, kA, 2), 0);
  EXPECT_CLOSE(means.at("1Tand1S_mis"), (label_entropy(kA) + std::log(3.)) / 2, 1e-12);
}

TEST(CodeMetrics, BatchAfterBatch) {
  const LogitSet s = random_logits("S", 300, 5, 1), t1 = random_logits("T1", 300, 5, 2), t2 = random_logits("T2", 300, 5, 3);
  for (const LogitSet& t : {t1, t2})  // related models: unrelated ones have no information, whatever the noise
    for (int64_t i = 0; i < s.logits.elements(); ++i) t.logits.data<float>()[i] = t.logits.data<float>()[i] / 2 + s.logits.data<float>()[i];
  auto fed = [&](uint64_t seed, uint32_t epoch) {
    CodeMetrics metrics(seed, epoch);
    EXPECT_TRUE(metrics.means().empty());
    for (int64_t first = 0; first < 300; first += 128) {
      const Shape shape{std::min<int64_t>(128, 300 - first), 5};
      const std::vector<Tensor> teachers{t1.logits.slice(5 * first, shape), t2.logits.slice(5 * first, shape)};
      metrics.add(s.logits.slice(5 * first, shape), teachers);
    }
    EXPECT_EQ(metrics.batches(), 3);
    return metrics.means();
  };
  const Means means = fed(1, 0), later = fed(1, 1), reseeded = fed(2, 0);
  EXPECT_EQ(means, code_metrics(s, {t1, t2}, 1));
  EXPECT_EQ(means, fed(1, 0));
  for (const auto& [key, value] : means)
    for (const Means* other : {&later, &reseeded}) {
      const bool noisy = key.size() > 3 && key.substr(key.size() - 3) == "_mi";
      EXPECT_EQ(other->at(key) != value, noisy) << key;
    }
}

TEST(CodeMetrics, Errors) {
  const LogitSet s = random_logits("S", 8, 3, 1), t = random_logits("T1", 8, 3, 2), wide = random_logits("T2", 8, 4, 2);
  expect_error([&] { code_metrics(s, {t, wide}, 1); }, {"T2 f32[8,4]", "S f32[8,3]"});
  CodeMetrics metrics(1);
  const std::vector<Tensor> one{t.logits}, other{wide.logits};
  metrics.add(s.logits, one);
  expect_error([&] { metrics.add(s.logits, {}); }, {"0 teachers after batches with 1"});
  expect_error([&] { metrics.add(s.logits, other); }, {"T1 f32[8,4]", "S f32[8,3]"});
  expect_error([&] { metrics.add(Tensor::zeros({3}, DType::f32), one); }, {"S f32[3]", "[B,C]"});
  EXPECT_EQ(metrics.batches(), 1);
}

// Transport between classes.

LogitSet logs_of(const std::string& name, const std::vector<std::vector<double>>& rows) {
  Tensor t = Tensor::empty({int64_t(rows.size()), int64_t(rows[0].size())}, DType::f32);
  float* out = t.data<float>();
  for (const auto& row : rows)
    for (double p : row) *out++ = float(std::log(p));
  return {name, t};
}
Tensor zero_one_cost(int64_t c) {
  Tensor cost = Tensor::empty({c, c}, DType::f32);
  for (int64_t i = 0; i < c * c; ++i) cost.data<float>()[i] = i % (c + 1) == 0 ? 0.f : 1.f;
  return cost;
}
Tensor random_cost(int64_t c, uint32_t stream) {
  const Tensor weight = random_logits("fc", c, 6, stream).logits;
  return class_cost({&weight, 1});
}

TEST(ClassTransport, ThreeClassesByHand) {
  // .3 from 1 to 2, .2 from 0 to 1, .1 from 0 to 2: cheaper than leaving class 1 alone.
  const Tensor cost = Tensor::of<float>({3, 3}, {0, 1, 3, 1, 0, 1, 3, 1, 0});
  const LogitSet a = logs_of("A", {{.5, .3, .2}}), b = logs_of("B", {{.2, .2, .6}});
  EXPECT_CLOSE(wasserstein_classes(a, b, cost), .8, 1e-6);
  EXPECT_CLOSE(wasserstein_classes(b, a, cost), .8, 1e-6);
  // A sample that needs none beside it: the mean.
  EXPECT_CLOSE(wasserstein_classes(logs_of("A", {{.5, .3, .2}, {.2, .2, .6}}), logs_of("B", {{.2, .2, .6}, {.2, .2, .6}}), cost), .4, 1e-6);
}

TEST(ClassTransport, TotalVariationWhereEveryMoveCostsTheSame) {
  for (int64_t c : {2, 3, 10, 37}) {
    const LogitSet a = random_logits("A", 40, c, 1), b = random_logits("B", 40, c, 2);
    const double tv = pair_metrics(a, b, std::vector<int32_t>(40), 1).tv;
    EXPECT_CLOSE(wasserstein_classes(a, b, zero_one_cost(c)), tv, .001) << c;  // 200 iterations leave that much
    EXPECT_GT(wasserstein_classes(a, b, zero_one_cost(c), {.epsilon = 1}), tv + .001) << "a coarse regularisation costs";
  }
}

TEST(ClassTransport, Properties) {
  const int64_t c = 12;
  const Tensor cost = random_cost(c, 5);
  const LogitSet a = random_logits("A", 50, c, 1, 6.f), b = random_logits("B", 50, c, 2, 6.f);
  const double ab = wasserstein_classes(a, b, cost);
  EXPECT_CLOSE(wasserstein_classes(a, a, cost), 0, 2e-4);  // what the regularisation blurs between the closest classes
  EXPECT_CLOSE(wasserstein_classes(b, a, cost), ab, .005 * ab);
  EXPECT_EQ(wasserstein_classes(a, b, cost), ab);
  // Bounds: every unit of mass that moves costs something between the cheapest and the dearest move.
  float least = HUGE_VALF, most = 0;
  Tensor twice = cost.clone();
  for (int64_t i = 0; i < c * c; ++i) {
    twice.data<float>()[i] *= 2;
    if (i % (c + 1) != 0) least = std::min(least, cost.data<float>()[i]);
    most = std::max(most, cost.data<float>()[i]);
  }
  const double tv = pair_metrics(a, b, std::vector<int32_t>(50), 1).tv;
  EXPECT_GE(ab, tv * least);
  EXPECT_LE(ab, tv * most);
  EXPECT_CLOSE(wasserstein_classes(a, b, twice), 2 * ab, 1e-12);
  EXPECT_LT(wasserstein_classes(a, b, cost, {.epsilon = .01}), wasserstein_classes(a, b, cost, {.epsilon = .3}));
  EXPECT_EQ(wasserstein_classes(a, b, Tensor::zeros({c, c}, DType::f32)), 0);
}

TEST(ClassTransport, NeverBelowTheTrueDistance) {
  // On a line, cost |x_i - x_j|, W1 is the area between the two distribution functions.
  const std::vector<double> place{0, .3, .35, 1, 1.2, 2};
  Tensor cost = Tensor::empty({6, 6}, DType::f32);
  for (size_t i = 0; i < 36; ++i) cost.data<float>()[i] = float(std::fabs(place[i / 6] - place[i % 6]));
  for (float spread : {.5f, 3.f, 12.f}) {
    const LogitSet a = random_logits("A", 30, 6, 1, spread), b = random_logits("B", 30, 6, 2, spread);
    double want = 0;
    for (int64_t n = 0; n < 30; ++n) {
      const auto p = softmax_row(a, n), q = softmax_row(b, n);
      double ahead = 0;
      for (size_t i = 0; i + 1 < 6; ++i) ahead += p[i] - q[i], want += std::fabs(ahead) * (place[i + 1] - place[i]) / 30;
    }
    const double got = wasserstein_classes(a, b, cost);
    EXPECT_GE(got, want - 1e-6) << spread;
    EXPECT_LE(got, want * 1.02 + .003) << spread;
  }
}

TEST(ClassTransport, FarClassesAndCertainModels) {
  // One class far from 31 close ones: the largest cost is 16 times the mean; and probabilities down to e^-2000.
  constexpr int64_t c = 32;
  Tensor cost = zero_one_cost(c);
  for (int64_t i = 0; i < c * c; ++i) cost.data<float>()[i] *= i % c == 7 || i / c == 7 ? 100.f : .01f;
  const LogitSet a = one_hot("A", {0, 7, 3}, c), b = one_hot("B", {7, 7, 2}, c);
  for (const Tensor& t : {a.logits, b.logits})
    for (int64_t i = 0; i < t.elements(); ++i) t.data<float>()[i] *= 2000;
  EXPECT_CLOSE(wasserstein_classes(a, b, cost), (100 + 0 + .01) / 3, 1e-4);
}

TEST(ClassTransport, ManySamplesAreThinnedOutEvenly) {
  const LogitSet a = random_logits("A", 70, 4, 1), b = random_logits("B", 70, 4, 2);
  const Tensor cost = random_cost(4, 3);
  auto rows = [](const LogitSet& set, const std::vector<int64_t>& which) {
    Tensor t = Tensor::empty({int64_t(which.size()), 4}, DType::f32);
    for (size_t i = 0; i < which.size(); ++i) std::copy_n(set.logits.data<float>() + 4 * which[i], 4, t.data<float>() + 4 * i);
    return LogitSet{set.name, t};
  };
  const std::vector<int64_t> third{0, 23, 46};
  EXPECT_EQ(wasserstein_classes(a, b, cost, {.max_samples = 3}), wasserstein_classes(rows(a, third), rows(b, third), cost));
  EXPECT_EQ(wasserstein_classes(a, b, cost, {.max_samples = 70}), wasserstein_classes(a, b, cost, {.max_samples = 0}));
}

TEST(ClassTransport, CostOfClassifiers) {
  const Tensor w = Tensor::of<float>({3, 2}, {2, 0, 0, 5, -1, -1}), v = Tensor::of<float>({3, 1}, {1, 2, -3});
  const double diagonal = 1 + std::sqrt(.5);
  expect_values(class_cost({&w, 1}), {0, 1, diagonal, 1, 0, diagonal, diagonal, diagonal, 0}, 1e-6);
  const Tensor two[] = {w, v};
  expect_values(class_cost(two), {0, .5, (diagonal + 2) / 2, .5, 0, (diagonal + 2) / 2, (diagonal + 2) / 2, (diagonal + 2) / 2, 0}, 1e-6);
}

TEST(ClassTransport, Errors) {
  const LogitSet a = random_logits("A", 8, 3, 1), b = random_logits("B", 8, 4, 1), bad{"T2", random_logits("T2", 8, 3, 1).logits.clone()};
  bad.logits.data<float>()[3 * 5] = std::nanf("");
  const Tensor cost = zero_one_cost(3);
  expect_error([&] { wasserstein_classes(a, b, cost); }, {"[8,3]", "[8,4]"});
  expect_error([&] { wasserstein_classes(a, a, zero_one_cost(4)); }, {"cost f32[4,4]", "3 classes"});
  expect_error([&] { wasserstein_classes(a, bad, cost); }, {"row 5", "T2", "NaN or infinity"});
  expect_error([&] { wasserstein_classes(a, a, Tensor::of<float>({3, 3}, {0, 1, 1, 1, 0, 1, 2, 1, 0})); }, {"costs 1 from class 0 to class 2 and 2 back"});
  expect_error([&] { wasserstein_classes(a, a, Tensor::of<float>({3, 3}, {0, 1, 1, 1, .5f, 1, 1, 1, 0})); }, {"class 1 to class 1"});
  expect_error([&] { wasserstein_classes(a, a, cost, {.epsilon = 0}); }, {"epsilon 0"});
  const Tensor zero_row = Tensor::of<float>({2, 2}, {1, 0, 0, 0}), wide[] = {Tensor::of<float>({2, 2}, {1, 0, 0, 1}), cost};
  expect_error([&] { class_cost({&zero_row, 1}); }, {"row 1", "norm 0"});
  expect_error([&] { class_cost(wide); }, {"fc_weight f32[3,3]", "2 classes"});
  expect_error([] { class_cost({}); }, {"no classifiers"});
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

TEST(ModelProperties, LogitMeanAndDeviation) {
  const ModelMetrics m = model_metrics(student(), kLabels);  // rows 1 2 .5 and 0 -1 3
  EXPECT_CLOSE(m.logit_mean, (3.5 / 3 + 2. / 3) / 2, 1e-12);
  EXPECT_CLOSE(m.logit_std, (std::sqrt(7. / 12) + std::sqrt(13. / 3)) / 2, 1e-12);
  EXPECT_TRUE(std::isnan(model_metrics({"S", Tensor::zeros({2, 1}, DType::f32)}, std::vector<int32_t>{0, 0}).logit_std)) << "one class";
}

TEST(Affinity, RatiosAndInverses) {
  const Affinity a = affinity(.61, .52, .3, .65);
  EXPECT_CLOSE(a.weak_base, .852459, 5e-7);
  EXPECT_CLOSE(a.strong_base, .3 / .61, 1e-15);
  EXPECT_CLOSE(a.weak_test, .52 / .65, 1e-15);
  EXPECT_CLOSE(a.strong_test, .3 / .65, 1e-15);
  EXPECT_CLOSE(a.base_weak * a.weak_base, 1, 1e-15);
  EXPECT_CLOSE(a.base_strong * a.strong_base, 1, 1e-15);
  EXPECT_CLOSE(a.test_weak * a.weak_test, 1, 1e-15);
  EXPECT_CLOSE(a.test_strong * a.strong_test, 1, 1e-15);
  const Affinity none = affinity(0, 0, 3, std::nan(""));
  for (double ratio : {none.weak_base, none.strong_base, none.base_weak, none.test_weak, none.weak_test, none.strong_test, none.test_strong})
    EXPECT_TRUE(std::isnan(ratio));
  EXPECT_EQ(none.base_strong, 0);
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
    expect_error([&] { code_metrics(good, {good, s}, 1); }, {"row 5", "T2"});
    expect_error([&] { ece_classwise(s, labels); }, {"row 5", "T2"});
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
  auto of_model = [](const ModelMetrics& m) {
    return std::vector<double>{m.top1,         m.top5,          m.nll,        m.brier,    m.entropy, m.ece, m.mce, m.mean_confidence,
                               m.ece_adaptive, m.ece_classwise, m.logit_mean, m.logit_std};
  };
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
    EXPECT_EQ(code_metrics(there(one), {there(other)}, 1), code_metrics(one, {other}, 1));
    const Tensor cost = zero_one_cost(one.logits.dim(1));
    EXPECT_EQ(wasserstein_classes(there(one), there(other), cost.to(GetParam())), wasserstein_classes(one, other, cost));
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
    const std::vector<double> thresholds{.2, .5, .7};
    const auto sweep = iou_sweep(three, 10, thresholds), sweep_there = iou_sweep(three_there, 10, thresholds);
    for (size_t t = 0; t < thresholds.size(); ++t) EXPECT_EQ(numbers(sweep_there[t]), numbers(sweep[t]));
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
