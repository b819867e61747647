// metrics: what fidelity, calibration and attention measurements need from logits and feature maps.
//   logit_records  per row x, p = softmax(x): five largest classes, max p, H(p) = -sum p ln p, ln sum e^x, sum p^2
//   pair_records   per row, p = softmax(a/tau), q = softmax(b/tau), m = (p+q)/2, in nats:
//                  KL(p||q) = sum p ln(p/q)    KL(q||p)    JS = (KL(p||m) + KL(q||m))/2    TV = sum|p-q|/2
//                  Hellinger = sqrt( sum (sqrt p - sqrt q)^2 / 2 )
//   joint_counts   counts[i,j] = #{n : a_n = i and b_n = j}
//   soft_joint     joint[i,j] = 1/N sum_n p_ni q_nj at temperature 1
//   class_map      map[n,y,x] = sum_c alpha[n,c] ( bias[c] + sum_k weight[c,k] F[n,y,x,k] )     (CAM: Zhou et al. 2016, arXiv 1512.04150)
//   energy_map     map[n,y,x] = 1/K sum_k F[n,y,x,k]^2                      (attention transfer: Zagoruyko & Komodakis 2017, arXiv 1612.03928)
//   upsample       bilinear with half-pixel centres: source = max(0, (target + 1/2) in/out - 1/2), upper neighbour clamped to the edge;
//                  unit scale: (M - min M) / (max M - min M + 1e-8) per image
//   mask_counts    mask = unit-scaled upsampled map > threshold; pixels in every mask, in any mask, in each, for each of several thresholds; maps are
//                  upsampled once for all of them, no full-size map is kept. The same counts on every backend
// shapes  logits f32 [N,C]   features f32 [N,h,w,K]   weight f32 [C,K], bias f32 [C], alpha f32 [N,C]   map f32 [N,h,w]   truth u8 [N,px,px]
// moves   logits once, features once; on the CPU one image's full-size map per thread. exp and ln bound the logit kernels, memory the maps
// sums    double, in an order that does not depend on the number of threads
// limits  on a GPU K <= 29000 for class_map and px <= 7000 over the number of models for full-size maps: what shared memory holds
#pragma once
#include "engine/base/dispatch.h"

namespace kd {

constexpr int kTopClasses = 5;

struct LogitRecord {
  int32_t top[kTopClasses];  // descending; ties go to the lowest class; -1 beyond C. top[0] = -1 marks a row that holds NaN or infinity
  double confidence, entropy /*nats*/, log_sum_exp, sum_squares;
};
struct MetricsLogitArgs {
  const float* logits;
  LogitRecord* out;  // [N]
  int64_t n, c;
};
void metrics_logit_records(Stream, const MetricsLogitArgs&);

struct PairRecord {
  double kl_ab, kl_ba, js, tv, hellinger;
};
struct MetricsPairArgs {
  const float *a, *b;  // finite
  PairRecord* out;     // [N]
  int64_t n, c;
  double tau = 1;
};
void metrics_pair_records(Stream, const MetricsPairArgs&);

struct MetricsJointCountsArgs {
  const int32_t *a, *b;  // [N], labels in [0, C). The CPU checks them; a GPU, where a check would wait, leaves out a pair that is not inside
  int64_t* counts;       // [C,C], overwritten
  int64_t n, c;
};
void metrics_joint_counts(Stream, const MetricsJointCountsArgs&);

struct MetricsSoftJointArgs {
  const float *a, *b;  // finite
  double* joint;       // [C,C], overwritten
  int64_t n, c;
};
void metrics_soft_joint(Stream, const MetricsSoftJointArgs&);

struct MetricsClassMapArgs {
  const float *features, *weight, *bias, *alpha;  // classes with alpha = 0 cost nothing
  float* map;
  int64_t n, h, w, k, c;
};
void metrics_class_map(Stream, const MetricsClassMapArgs&);

struct MetricsEnergyMapArgs {
  const float* features;
  float* map;
  int64_t n, h, w, k;
};
void metrics_energy_map(Stream, const MetricsEnergyMapArgs&);

enum class MapScale : unsigned char { raw, unit };
struct MetricsUpsampleArgs {
  const float* map;
  float* out;  // [N,px,px]
  int64_t n, h, w, px;
  MapScale scale;
};
void metrics_upsample(Stream, const MetricsUpsampleArgs&);

constexpr int kMaxMasks = 4, kMaxThresholds = 8;
struct MaskCounts {  // pixels of one image
  int64_t all, any;  // in every mask; in at least one. Both -1 when a map holds NaN or infinity
  int64_t area[kMaxMasks];
};
struct MetricsMaskArgs {
  struct Map {
    const float* data;  // [N,h,w]; models may differ in h and w
    int64_t h, w;
  };
  Map maps[kMaxMasks];
  int models;
  const uint8_t* truth = nullptr;  // [N,px,px], non-zero inside; counts as one more mask, after the models
  MaskCounts* out;                 // [N,cuts]
  int64_t n, px;
  double thresholds[kMaxThresholds];
  int cuts;  // how many of them are used
};
void metrics_mask_counts(Stream, const MetricsMaskArgs&);

}  // namespace kd
