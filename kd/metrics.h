// metrics: what is measured about a model, about a pair of models and about their attention, all of it from dumped logits, last feature maps and
// labels, so that every number can be computed again without a model. Whole-set statistics in double, natural logarithms (nats).
// Logits, features and maps are measured on the device where they lie, all inputs of a call on one; tensors that come out (maps, an ensemble's logits) lie
// there too. Numbers are the host's, and labels are read there.
// Numbers that only other code's conventions explain carry `code` in their name and say what they are: the conventions are those of the code
// released with "Why does Knowledge Distillation Work? Rethink its Attention and Fidelity Mechanism" (arXiv 2405.00739).
// Every function throws kd::Error naming the model and the row when sizes differ, a label is out of range or a value is not finite.
// A statistic over nothing (the top-1 of a class without images, the agreement where a model never errs) is NaN.
#pragma once
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "engine/base/tensor.h"

namespace kd {

struct LogitSet {
  std::string name;  // "S", "T1", "T2", "Ens"
  Tensor logits;     // f32 [N,C]
};

// mean_probs: ln of the mean probability, so that softmax gives that mean back (the distribution that mean KD losses distil);
// mean_logits: the mean of the logits. Named "Ens".
enum class Ensemble { mean_probs, mean_logits };
LogitSet ensemble_of(const std::vector<LogitSet>& teachers, Ensemble);

// One model.

struct ReliabilityBin {
  int index;  // confidences in (index/bins, (index+1)/bins]
  int64_t n;
  double acc, conf;  // means over the bin
};

// Expected calibration error (Guo et al. 2017, arXiv 1706.04599): ece = sum_m n_m/N |acc_m - conf_m|. ece_unweighted = 1/bins sum_m |acc_m - conf_m|
// with empty bins contributing 0 (the code's). mce = the largest gap. `reliability` lists the occupied bins.
struct Calibration {
  double ece, ece_unweighted, mce, mean_confidence;
  std::vector<ReliabilityBin> reliability;
};
Calibration calibration(std::span<const double> confidence, std::span<const uint8_t> correct, int bins = 10);

struct ModelMetrics : Calibration {
  double top1, top5;                   // percent; ties between logits go to the lowest class
  double nll, brier;                   // means of -ln p_y and of sum_c (p_c - [c = y])^2
  double entropy;                      // mean of -sum p ln p
  std::vector<double> per_class_top1;  // percent, [C]
};
ModelMetrics model_metrics(const LogitSet&, std::span<const int32_t> labels, int bins = 10);

// Top-1 in percent over the images whose class has more than 100, 20 to 100, fewer than 20 training images (Liu et al. 2019, arXiv 1904.05160).
struct ShotTop1 {
  double many, medium, few;
};
ShotTop1 shot_top1(const LogitSet&, std::span<const int32_t> labels, std::span<const int64_t> train_images_per_class);

// Generalisation gap in points. Clean: both accuracies on the test view with the model in evaluation mode.
struct Gap {
  double train, test, gap;
};
inline Gap gap_between(double train_top1, double test_top1) { return {train_top1, test_top1, train_top1 - test_top1}; }

// Two models.

struct PairMetrics {
  double agreement, kappa;                 // of the predicted labels
  double kl_ab, kl_ba, js, tv, hellinger;  // means over samples at temperature 1; kl_ab = KL(A||B)
  double kl_ab_t3, kl_ba_t3, js_t3;        // at temperature 3
  double mi_plugin, mi_adjusted;           // of the predicted labels; adjusted: minus the mean over 20 seeded permutations of B's labels
  double mi_normalized;                    // 2 I / (H_A + H_B)
  double mi_soft;                          // of the joint 1/N sum p_A p_B^T
  double agreement_when_a_errs;
  double top5_overlap;            // mean share of A's five largest classes (all, if C < 5) that are among B's
  double wasserstein_confidence;  // W1 between the two distributions of max p over the set
  double kl_code;                 // 10 KL(B||A), the code's "KL(A,B)"
};
PairMetrics pair_metrics(const LogitSet& a, const LogitSet& b, std::span<const int32_t> labels, uint64_t seed);

// The code computes each quantity per batch and averages the batches with equal weight, a short last batch included.
struct BatchAveraged {
  double agreement, kl_code, mi_plugin;
};
BatchAveraged batch_averaged(const LogitSet& a, const LogitSet& b, int64_t batch = 128);
double batch_mean(std::span<const double> per_sample, int64_t batch = 128);

// Mean |sorted a - sorted b|: W1 between two samples of equal size.
double wasserstein_1d(std::vector<double> a, std::vector<double> b);

// Over two labellings of the same samples, labels >= 0.
double label_agreement(std::span<const int32_t> a, std::span<const int32_t> b);
double cohen_kappa(std::span<const int32_t> a, std::span<const int32_t> b);  // (p_o - p_e) / (1 - p_e); 1 if both always say the same one label
double label_entropy(std::span<const int32_t>);
double mutual_information(std::span<const int32_t> a, std::span<const int32_t> b);  // plug-in
double normalized_mi(std::span<const int32_t> a, std::span<const int32_t> b);       // 2 I / (H_A + H_B); 1 if both entropies are 0
double permuted_mi(std::span<const int32_t> a, std::span<const int32_t> b, uint64_t seed, int permutations = 20);  // mean I after shuffling b
// Exact mean of I over all permutations (hypergeometric model; Vinh, Epps & Bailey 2010, JMLR 11).
double expected_mi(std::span<const int32_t> a, std::span<const int32_t> b);
double adjusted_mi(std::span<const int32_t> a, std::span<const int32_t> b);  // (I - E[I]) / ((H_A + H_B)/2 - E[I]); 1 if no permutation differs

// Attention.

// What a map shows at each position (formulas in kernels/metrics/metrics.h): the evidence for the predicted class; for all classes together; for the
// true class; for all classes weighted by their probability; the mean squared feature; the features on a random direction, the control.
// class_sum projects on the sum of the fc rows, which training does not change: softmax gradients sum to zero over classes, so without weight decay
// that sum stays as initialised. random_projection redraws it from N(0,1), one direction per (seed, model name): an IoU that it shows as well says
// nothing about what was learned by the fc layer.
enum class Cam { pred_class, class_sum, label_class, prob_weighted, energy, random_projection };
std::string to_string(Cam);  // "pred_class", ...

struct CamSource {
  std::string name;
  Tensor features;            // f32 [N,h,w,K], the last stage's output
  Tensor fc_weight, fc_bias;  // f32 [C,K], [C]
  Tensor logits;              // f32 [N,C]; read by pred_class and prob_weighted
};
Tensor cam_maps(const CamSource&, Cam, std::span<const int32_t> labels, uint64_t seed);  // f32 [N,h,w]; labels are read by label_class

// For pictures: maps [N,h,w] brought to [N,px,px] as the masks see them (bilinear, half-pixel centres), raw or min-max scaled to [0,1] per image.
Tensor upsample_maps(const Tensor& maps, int64_t px);
Tensor unit_maps(const Tensor& maps, int64_t px);

struct IouResult {
  double mean;          // over images of |A and B| / |A or B|; an image with both masks empty is skipped
  double batch_pooled;  // the code's: pixels pooled within each batch, then the batch-size-weighted mean; one batch: sum inter / sum union
  int64_t images, skipped;
  double area_a, area_b;  // mean share of the image inside each mask, over all images
};
// mask = map, upsampled to px and min-max scaled, > threshold. The maps may have different h and w.
IouResult mask_iou(const Tensor& maps_a, const Tensor& maps_b, int64_t px, double threshold = 0.4, int64_t batch = 128);
// Two or three models: pixels in all masks over pixels in any mask; areas of the first two.
IouResult mask_iou(std::span<const Tensor> maps, int64_t px, double threshold = 0.4, int64_t batch = 128);
// Against the object's true mask, u8 [N,px,px], non-zero inside; area_b is the object's.
IouResult truth_iou(const Tensor& maps, const Tensor& masks, double threshold = 0.4, int64_t batch = 128);

}  // namespace kd
