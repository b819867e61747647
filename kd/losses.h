// losses: what a student is trained on. Each loss is one function: check the shapes, let a kernel compute value and logit gradient
// together, record one tape node that scales that gradient.
//
// To add a loss: its formula in a kernel family of its own (kernels/kd_loss shows one, oracle included), then a function here that
// ends, like distill_loss, in `record_loss`. A loss made of existing ones needs no kernel: add(scale(a.total, w), b.total).
#pragma once
#include <string_view>

#include "engine/tape.h"
#include "kernels/attention_loss/attention_loss.h"
#include "kernels/kd_loss/kd_loss.h"

namespace kd {

// total = alpha * CE + soft_weight * KD. Formulas, and what combine and standardize choose: kernels/kd_loss/kd_loss.h.
struct DistillConfig {
  Combine combine = Combine::mean_loss;
  float alpha = 0.6f, soft_weight = 0.4f, tau = 3.f;
  Standardize standardize = Standardize::none;
};

Combine combine_from_name(std::string_view);  // "mean_loss", "mean_probs", "mean_logits", "log_mean_prob"; throws for anything else
std::string to_string(Combine);

// All on the student's device: a number read by the host would make it wait for the step.
struct LossValue {
  Var total;       // scalar f32
  Tensor records;  // KdRecord [B], as u8 [B, sizeof(KdRecord)]
};

// student: logits f32 [B,C]; labels: i32 [B] in [0,C), as the loader checked; teachers: up to kMaxTeachers logits f32 [B,C] each; all on one device.
// Without teachers: cross-entropy with weight 1, alpha ignored. Under NoGrad only the values are computed.
// sums: on that device too, cleared by the caller (all bytes 0) when it begins to count; this batch is added to it.
LossValue distill_loss(const Var& student, const Tensor& labels, const std::vector<Tensor>& teachers, const DistillConfig&, KdSums* sums = nullptr);
LossValue cross_entropy(const Var& student, const Tensor& labels, KdSums* sums = nullptr);

// loss = weight * mean over the batch of how alike (similarity), or how far apart (distance), the attention of features and references is; formulas:
// kernels/attention_loss/attention_loss.h. A loss of its own: add() it to one of the above.
struct AttentionConfig {
  AttentionMode mode = AttentionMode::similarity;
  float weight = 0;
};
AttentionMode attention_mode_from_name(std::string_view);  // "similarity", "distance"; throws for anything else
std::string to_string(AttentionMode);

// features: f32|bf16 [N,h,w,K]; references: 1 to kMaxReferences of the same N, h, w and type, each with channels of its own; constants. The scalar f32.
// sums: as above; the weighted loss is added to loss, the values before their weight to attention, while distill_loss counts the images.
Var attention_loss(const Var& features, const std::vector<Tensor>& references, const AttentionConfig&, KdSums* sums = nullptr);

// For tests and for looking at single batches: waits for the device.
struct LossParts {
  double loss, ce, kd;  // batch means: the total; its parts, unweighted, kd with its tau^2, in nats
};
LossParts parts(const LossValue&);

}  // namespace kd
