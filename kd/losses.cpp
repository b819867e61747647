#include "kd/losses.h"

#include <cmath>
#include <span>

#include "kernels/pointwise/pointwise.h"

namespace kd {
namespace {

struct CombineName {
  Combine combine;
  const char* name;
};
constexpr CombineName kCombineNames[] = {
    {Combine::mean_loss, "mean_loss"}, {Combine::mean_probs, "mean_probs"}, {Combine::mean_logits, "mean_logits"}, {Combine::log_mean_prob, "log_mean_prob"}};

// A scalar loss whose gradient with respect to `input` is known already; dinput is undefined where nobody wants it. Its node runs once, so it scales
// that gradient where it lies, by dL/dtotal, which stays on the device.
void record_loss(const char* op, const Var& input, const Var& total, const Tensor& dinput) {
  if (!dinput.defined()) return;
  Tape::current().record(op, {input}, total, dinput.bytes(), [=](const Tensor& dy) {
    pointwise_scale(current_stream(dinput.device()),
                    {.a = dinput.raw(), .out = dinput.raw(), .n = dinput.elements(), .factor = 1, .by = dy.data<float>(), .type = dinput.dtype()});
    input.accumulate(dinput);
  });
}

LossValue loss_of_logits(const char* op, const Var& student, const Tensor& labels, const std::vector<Tensor>& teachers, const DistillConfig& config,
                         KdSums* sums) {
  const Tensor& s = student.value();
  const Device device = s.device();
  KD_CHECK(s.rank() == 2 && s.elements() > 0 && s.dtype() == DType::f32, "{}: needs student logits f32 [B,C], got {}", op, s.describe("student"));
  KD_CHECK(labels.shape() == Shape{s.dim(0)} && labels.dtype() == DType::i32 && labels.device() == device,
           "{}: {} needs one i32 label a row, on its device, got {}", op, s.describe("student"), labels.describe("labels"));
  KD_CHECK(teachers.size() <= size_t(kMaxTeachers), "{}: {} teachers, at most {}", op, teachers.size(), kMaxTeachers);
  for (const Tensor& t : teachers)
    KD_CHECK(t.shape() == s.shape() && t.dtype() == DType::f32 && t.device() == device, "{}: {} and {} must agree in shape, type and device", op,
             s.describe("student"), t.describe("teacher"));
  KD_CHECK(std::isfinite(config.tau) && config.tau > 0, "{}: temperature tau = {}, needs a positive number", op, config.tau);
  KD_CHECK(std::isfinite(config.alpha) && std::isfinite(config.soft_weight), "{}: weights alpha = {} and soft_weight = {} must be finite", op, config.alpha,
           config.soft_weight);

  const Stream stream = current_stream(device);
  const Tensor ds = wants_grad({student}) ? Tensor::empty(s.shape(), DType::f32, device) : Tensor();
  LossValue loss{.total = Var(Tensor::empty({}, DType::f32, device), ds.defined()),
                 .records = Tensor::empty({s.dim(0), int64_t(sizeof(KdRecord))}, DType::u8, device)};
  auto* records = static_cast<KdRecord*>(loss.records.raw());
  KdLossArgs args{.s = s.data<float>(),
                  .labels = labels.data<int32_t>(),
                  .n_teachers = int(teachers.size()),
                  .ds = ds.defined() ? ds.data<float>() : nullptr,
                  .records = records,
                  .n = s.dim(0),
                  .k = s.dim(1),
                  .combine = config.combine,
                  .standardize = config.standardize,
                  .alpha = config.alpha,
                  .soft_weight = config.soft_weight,
                  .tau = config.tau};
  for (size_t i = 0; i < teachers.size(); ++i) args.teachers[i] = teachers[i].data<float>();
  kd_loss(stream, args);
  kd_loss_sums(stream, {.records = records,
                        .n = s.dim(0),
                        .hard_weight = teachers.empty() ? 1 : config.alpha,
                        .soft_weight = teachers.empty() ? 0 : config.soft_weight,
                        .loss = loss.total.value().data<float>(),
                        .sums = sums});
  record_loss(op, student, loss.total, ds);
  return loss;
}

}  // namespace

Combine combine_from_name(std::string_view name) {
  std::string known;
  for (const CombineName& c : kCombineNames) {
    if (name == c.name) return c.combine;
    known += fmt::format("{}{}", known.empty() ? "" : ", ", c.name);
  }
  KD_INPUT(false, "combine '{}' is not known; one of {}", name, known);
  return {};
}

std::string to_string(Combine combine) {
  for (const CombineName& c : kCombineNames)
    if (combine == c.combine) return c.name;
  KD_FAIL("combine {} has no name", int(combine));
}

LossValue distill_loss(const Var& student, const Tensor& labels, const std::vector<Tensor>& teachers, const DistillConfig& config, KdSums* sums) {
  return loss_of_logits("distill_loss", student, labels, teachers, config, sums);
}

LossValue cross_entropy(const Var& student, const Tensor& labels, KdSums* sums) { return loss_of_logits("cross_entropy", student, labels, {}, {}, sums); }

AttentionMode attention_mode_from_name(std::string_view name) {
  for (AttentionMode mode : {AttentionMode::similarity, AttentionMode::distance})
    if (name == to_string(mode)) return mode;
  KD_INPUT(false, "attention mode '{}' is not known; one of similarity, distance", name);
  return {};
}

std::string to_string(AttentionMode mode) { return mode == AttentionMode::similarity ? "similarity" : "distance"; }

Var attention_loss(const Var& features, const std::vector<Tensor>& references, const AttentionConfig& config, KdSums* sums) {
  const Tensor& f = features.value();
  const Device device = f.device();
  KD_CHECK(f.rank() == 4 && f.elements() > 0 && (f.dtype() == DType::f32 || f.dtype() == DType::bf16),
           "attention_loss: needs features f32|bf16 [N,h,w,K], got {}", f.describe("features"));
  KD_CHECK(!references.empty() && references.size() <= size_t(kMaxReferences), "attention_loss: {} references, needs 1 to {}", references.size(),
           kMaxReferences);
  for (const Tensor& r : references)
    KD_CHECK(r.rank() == 4 && r.elements() > 0 && r.dim(0) == f.dim(0) && r.dim(1) == f.dim(1) && r.dim(2) == f.dim(2) && r.dtype() == f.dtype() &&
                 r.device() == device,
             "attention_loss: {} and {} must agree in images, height, width, type and device", f.describe("features"), r.describe("reference"));
  KD_CHECK(std::isfinite(config.weight), "attention_loss: weight = {} must be finite", config.weight);

  const Stream stream = current_stream(device);
  const Tensor df = wants_grad({features}) ? Tensor::empty(f.shape(), f.dtype(), device) : Tensor();
  const Var loss(Tensor::empty({}, DType::f32, device), df.defined());
  const Tensor values = Tensor::empty({f.dim(0)}, DType::f32, device);
  AttentionLossArgs args{.trained = {f.raw(), f.dim(3)},
                         .n_references = int(references.size()),
                         .df = df.raw(),
                         .values = values.data<float>(),
                         .n = f.dim(0),
                         .positions = f.dim(1) * f.dim(2),
                         .type = f.dtype(),
                         .mode = config.mode,
                         .weight = config.weight};
  for (size_t i = 0; i < references.size(); ++i) args.references[i] = {references[i].raw(), references[i].dim(3)};
  attention_loss(stream, args);
  attention_loss_sums(stream, {.values = args.values,
                               .n = args.n,
                               .weight = config.weight,
                               .loss = loss.value().data<float>(),
                               .loss_sum = sums ? &sums->loss : nullptr,
                               .value_sum = sums ? &sums->attention : nullptr});
  record_loss("attention_loss", features, loss, df);
  return loss;
}

LossParts parts(const LossValue& loss) {
  const Tensor total = loss.total.value().to(Device::cpu), records = loss.records.to(Device::cpu);
  const std::span batch(static_cast<const KdRecord*>(records.raw()), size_t(records.dim(0)));
  LossParts means{.loss = double(*total.data<float>()), .ce = 0, .kd = 0};
  for (const KdRecord& r : batch) means.ce += double(r.ce) / double(batch.size()), means.kd += double(r.kd) / double(batch.size());
  return means;
}

}  // namespace kd
