// attention_loss: how alike a network's attention is to that of frozen ones; value and feature gradient together.
//   per image, F feature map of the trained network, F_i of M frozen ones, p one of the P = h w positions, K channels:
//     u_p = 1/K sum_k F_pk^2     a = u/|u|_2     a_i of the frozen ones likewise     m = mean_i a_i
//                                                                        (energy map: Zagoruyko & Komodakis 2017, arXiv 1612.03928)
//     s = sum_p a_p m_p = mean_i <a, a_i>
//     similarity  value = s              df_pk =  2 weight F_pk/(N K |u|) (m_p - s a_p)
//     distance    value = |a - m|_2^2    df_pk = -4 weight F_pk/(N K |u|) (m_p - s a_p)     since d value/d a = 2 (a - m) and <a, a - m> = 1 - s
//   and the loss is weight * mean_n value; weight may be negative. The gradient is orthogonal to F: a map's scale is of no account.
//   A map without energy has a = 0. Where the trained one or m has none there is nothing to compare: value 0, gradient 0.
//   attention_loss_sums: loss = weight/N sum value, in a fixed order; the same sums added to what a run of steps has so far
// shapes  F, df [N,P,K], F_i [N,P,K_i] row-major, all f32 | bf16; the K may differ   values f32 [N]
// moves   F twice, every F_i once, df once: bandwidth-bound; 3 flops an element
// sums    over channels in double on the CPU, in float within a thread on a GPU; the rest in double on both
// saves   df only: backward scales it by the incoming scalar
// NaN     in any map makes its image's value and gradient NaN, never a silent 0
#pragma once
#include "engine/base/dispatch.h"

namespace kd {

enum class AttentionMode : unsigned char { similarity, distance };

constexpr int kMaxReferences = 8;

struct AttentionMap {
  const void* data;
  int64_t k;
};
struct AttentionLossArgs {
  AttentionMap trained;
  AttentionMap references[kMaxReferences] = {};
  int n_references;  // at least one
  void* df;          // not the trained map; null: values only
  float* values;
  int64_t n, positions;
  DType type;
  AttentionMode mode;
  float weight;  // of the gradient
};
void attention_loss(Stream, const AttentionLossArgs&);

struct AttentionLossSumsArgs {
  const float* values;
  int64_t n;
  float weight;
  float* loss;                  // out: of this batch
  double* loss_sum = nullptr;   // added to: weight * values; null: not wanted
  double* value_sum = nullptr;  // ... values
};
void attention_loss_sums(Stream, const AttentionLossSumsArgs&);

}  // namespace kd
