// kd_loss: cross-entropy on the labels plus distillation from any number of teachers; value and logit gradient in one pass over the rows.
//   per sample, s student and t_i teacher logits, M teachers, N samples, K classes:
//     ce  = -ln softmax(s)_y
//     kd  = tau^2 sum_k p (ln p - ln q),  q = softmax(s/tau),  0 ln 0 = 0        (Hinton, Vinyals & Dean 2015, arXiv 1503.02531)
//     ds  = alpha/N (softmax(s) - onehot(y)) + soft_weight tau/N (q - p)
//   and the loss is mean(alpha ce + soft_weight kd). Without teachers it is mean(ce), whatever alpha; kd = 0.
//   Combine says how M teachers make one p, with p_i = softmax(t_i/tau):
//     mean_loss      kd is the mean of the M divergences; its gradient is that of p = mean_i p_i
//     mean_probs     p = mean_i p_i: same gradient; kd is smaller by tau^2 (H(p) - mean_i H(p_i)), which no student can change
//     mean_logits    p = softmax(mean_i t_i / tau)
//     log_mean_prob  p = softmax(ln(mean_i softmax(t_i)) / tau)                   (Stanton et al. 2021, arXiv 2106.05945)
//   Standardize::zscore replaces every row x, student and teachers, by (x - mean)/(sd + 1e-7), sd^2 = sum (x - mean)^2/(K-1), in kd alone
//     (Sun et al. 2024, arXiv 2403.01427). The gradient goes through mean and sd; where sd = 0 it is 0.
//   right = argmax s == y;  agree = argmax s == argmax sum_i t_i  (the first of equals; 0 without teachers)
//   kd_loss_sums: loss = 1/N sum (hard_weight ce + soft_weight kd), in a fixed order; the same sums added to what a run of steps has so far
// shapes  s, teachers, ds [N,K] row-major f32   labels [N] in [0,K), unchecked: the loader has checked them   records [N]
// moves   4 (M+2) N K bytes (s and teachers read once, ds written once); 4 + 2M exp per element (mean_loss), which bound the CPU
// sums    in double on the CPU, of a row in float on a GPU; right and agree compare exact values and are the same on both
// saves   ds only: backward scales it by the incoming scalar
// NaN     a NaN logit, student's or teacher's, makes its row's loss and gradient NaN, never a silent 0
#pragma once
#include "engine/base/dispatch.h"

namespace kd {

enum class Combine : unsigned char { mean_loss, mean_probs, mean_logits, log_mean_prob };
enum class Standardize : unsigned char { none, zscore };

constexpr int kMaxTeachers = 8;

struct KdRecord {
  float ce, kd;  // unweighted, kd with its tau^2, in nats
  int32_t right, agree;
};

struct KdLossArgs {
  const float* s;
  const int32_t* labels;
  const float* teachers[kMaxTeachers] = {};
  int n_teachers = 0;
  float* ds;  // not s; null: values only
  KdRecord* records;
  int64_t n, k;
  Combine combine = Combine::mean_loss;
  Standardize standardize = Standardize::none;
  float alpha = 1, soft_weight = 0, tau = 1;  // tau > 0
};
void kd_loss(Stream, const KdLossArgs&);

// Sums over samples since the caller cleared them; a loop reads them when it likes, not every step.
struct KdSums {
  double loss = 0, ce = 0, kd = 0;  // loss: weighted, whatever else is added to it included
  double attention = 0;             // kernels/attention_loss adds to it
  int64_t images = 0, right = 0, agree = 0;
};
struct KdLossSumsArgs {
  const KdRecord* records;
  int64_t n;
  float hard_weight, soft_weight;  // 1 and 0 without teachers
  float* loss;                     // out: the mean over this batch
  KdSums* sums = nullptr;          // added to; null: not wanted
};
void kd_loss_sums(Stream, const KdLossSumsArgs&);

}  // namespace kd
