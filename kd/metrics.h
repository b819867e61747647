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
#include <map>
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
// ece over bins that hold equally many samples (Nixon et al. 2019, arXiv 1904.01685). Samples of equal confidence stay together, in the lower bin, so that
// the order of the samples does not matter.
double ece_adaptive(std::span<const double> confidence, std::span<const uint8_t> correct, int bins = 10);
// Mean over the classes c of sum_m n_cm/N |share of y = c - mean p_c| over bins of p_c (Kull et al. 2019, arXiv 1910.12656): every probability counts, not
// only the largest.
double ece_classwise(const LogitSet&, std::span<const int32_t> labels, int bins = 10);

struct ModelMetrics : Calibration {
  double top1, top5;                   // percent; ties between logits go to the lowest class
  double nll, brier;                   // means of -ln p_y and of sum_c (p_c - [c = y])^2
  double entropy;                      // mean of -sum p ln p
  std::vector<double> per_class_top1;  // percent, [C]
  double ece_adaptive, ece_classwise;
  double logit_mean, logit_std;  // means over samples of the row's mean and of its standard deviation (over C - 1; NaN for one class)
};
ModelMetrics model_metrics(const LogitSet&, std::span<const int32_t> labels, int bins = 10);

// Top-1 in percent over the images whose class has more than 100, 20 to 100, fewer than 20 training images (Liu et al. 2019, arXiv 1904.05160).
struct ShotTop1 {
  double many, medium, few;
};
ShotTop1 shot_top1(const LogitSet&, std::span<const int32_t> labels, std::span<const int64_t> train_images_per_class);

// Generalisation gap in points. Clean: both accuracies on the test view with the model in evaluation mode. The code's: the running training accuracy of the
// selected epoch against the test accuracy.
struct Gap {
  double train, test, gap;
};
inline Gap gap_between(double train_top1, double test_top1) { return {train_top1, test_top1, train_top1 - test_top1}; }

// Affinity of an augmentation: a model's accuracy on validation images under it over the accuracy without it; lower means a stronger shift. `base` is the
// code's denominator, a random resized crop alone; `test` the original one, the plain image (Gontijo-Lopes et al. 2020, arXiv 2002.08973). All four
// accuracies of one model, in one unit; views that are drawn at random are best averaged over a few seeds first. A zero denominator gives NaN.
struct Affinity {
  double weak_base, strong_base, weak_test, strong_test;
  double base_weak, base_strong, test_weak, test_strong;  // the inverses
};
Affinity affinity(double top1_base, double top1_weak, double top1_strong, double top1_test);

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

// W1 between two distributions over the classes where moving a unit of mass from class i to class j costs cost[i,j] (symmetric, 0 on the diagonal): the mean
// over samples of the cheapest transport of p_A into p_B. Sinkhorn's algorithm (Cuturi 2013, arXiv 1306.0895) from coarse to fine regularisation; the plan that
// it ends with is then given exactly the two margins (Altschuler et al. 2017, arXiv 1705.09634), so the value is that of a real transport and never below W1
// (above it by 0.2 % in the mean of random 10-class samples, by at most 2 %).
struct SinkhornOptions {
  double epsilon = .01;  // regularisation as a share of the mean cost; more where the largest cost is over 5 times the mean, so that doubles hold the kernel
  int iterations = 200;  // 10 on each of 7 coarser regularisations, each half the one before, the rest on the last
  // More samples than this are thinned out evenly (row i N/max_samples); 0: all. On one core of an AMD EPYC a sample takes 0.6 ms at C = 100, 57 ms at C =
  // 1000: 200 iterations are 400 products with a [C,C] matrix.
  int64_t max_samples = 1000;
};
double wasserstein_classes(const LogitSet& a, const LogitSet& b, const Tensor& cost, const SinkhornOptions& = {});
// f32 [C,C]: 1 - cos between the rows of the classifier f32 [C,K]; of several classifiers (an ensemble's) the mean cost.
Tensor class_cost(std::span<const Tensor> fc_weights);

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

// The code's numbers, by the code's names.

// Nearest-neighbour mutual information (Ross 2014, PLoS ONE 9(2)) of a discrete target and a feature that is taken for continuous, as in scikit-learn's
// classifier: the code gives it predicted class indices. x = feature over its standard deviation + 1e-10 max(1, mean|x|) noise; r_i = distance to the k-th
// nearest x of the same target, k = min(3, n_k - 1), one ulp less; m_i = samples within r_i. max(0, psi(N) + mean psi(k) - mean psi(n_k) - mean psi(m)) over
// the N samples whose target occurs more than once; NaN if there is none. Equal features are told apart by the noise alone, so the value depends on it.
double knn_mi(std::span<const int32_t> target, std::span<const int32_t> feature, std::span<const double> noise);  // noise ~ N(0,1), one for each sample
double knn_mi(std::span<const int32_t> target, std::span<const int32_t> feature, uint64_t seed);                  // drawn for the seed
double digamma(double x);                                                                                         // psi(x), x > 0

// Each number is taken per batch and the batches are averaged with equal weight. Fed one batch at a time, for instance by the training loop.
//   X_f      share of equal predictions          X_kl    10 KL(softmax(B) || softmax(A)); A's logarithm in double, B's softmax in float
//   X_mi     knn_mi(A's predictions, B's)        X_mis   plug-in mutual information of the predictions
// for X = 1Tand1S: A = T1, B = S   2Tand1S, 3Tand1S: A = mean logits of T1,T2 (,T3), B = S   T1T2: A = T1, B = T2   T1T2T3: A = mean logits of T1,T2, B = T3;
// 2Tand1T_f: mean logits of T1,T2 and T1   T1SandT2S_mi, _mis: mean of (T1,S) and (T2,S)   T1_entropy, T2_entropy, S_entropy: mean of -sum p ln p.
// A key that needs a teacher which is not there is absent; teachers after the third are not looked at.
class CodeMetrics {
 public:
  // The noise of knn_mi is a function of seed, epoch, batch and key.
  explicit CodeMetrics(uint64_t seed, uint32_t epoch = 0) : seed_(seed), epoch_(epoch) {}
  // f32 [B,C] each, of the same images; copied to the host if they are elsewhere. The number of teachers must not change.
  void add(const Tensor& student, std::span<const Tensor> teachers);
  int64_t batches() const { return batches_; }
  // Empty before the first batch. A batch in which a number is not defined (knn_mi where no prediction occurs twice) is left out of that number's mean.
  std::map<std::string, double> means() const;

 private:
  uint64_t seed_;
  uint32_t epoch_;
  int64_t batches_ = 0;
  size_t teachers_ = 0;
  struct Sum {
    double total;
    int64_t batches;  // in which the number was defined
  };
  std::map<std::string, Sum> sums_;
};
// The code keeps a short last batch of CIFAR's training images, and drops it where it evaluates on augmented test images.
enum class ShortBatch { counts, dropped };
std::map<std::string, double> code_metrics(const LogitSet& student, const std::vector<LogitSet>& teachers, uint64_t seed, ShortBatch = ShortBatch::counts,
                                           int64_t batch = 128);

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
// The same for up to eight thresholds, from one upsampling.
std::vector<IouResult> iou_sweep(std::span<const Tensor> maps, int64_t px, std::span<const double> thresholds, int64_t batch = 128);
// Against the object's true mask, u8 [N,px,px], non-zero inside; area_b is the object's.
IouResult truth_iou(const Tensor& maps, const Tensor& masks, double threshold = 0.4, int64_t batch = 128);

}  // namespace kd
