#include "kd/losses.h"

#include <cmath>

#include "engine/ops.h"

namespace kd {
namespace {

struct CombineName {
  Combine combine;
  const char* name;
};
constexpr CombineName kCombineNames[] = {
    {Combine::mean_loss, "mean_loss"}, {Combine::mean_probs, "mean_probs"}, {Combine::mean_logits, "mean_logits"}, {Combine::log_mean_prob, "log_mean_prob"}};

// A scalar loss whose gradient with respect to `input` is known already; dinput is undefined where nobody wants it.
Var record_loss(const char* op, const Var& input, double value, const Tensor& dinput) {
  Var total(Tensor::of<float>({}, {float(value)}), dinput.defined());
  if (!dinput.defined()) return total;
  Tape::current().record(op, {input}, total, dinput.bytes(), [=](const Tensor& dy) { input.accumulate(scale(Var(dinput), *dy.data<float>()).value()); });
  return total;
}

double mean(const Tensor& records) {
  double sum = 0;
  for (int64_t i = 0; i < records.elements(); ++i) sum += double(records.data<float>()[i]);
  return sum / double(records.elements());
}

LossValue loss_of_logits(const char* op, const Var& student, const Tensor& labels, const std::vector<Tensor>& teachers, const DistillConfig& config) {
  const Tensor& s = student.value();
  KD_CHECK(s.rank() == 2 && s.elements() > 0 && s.dtype() == DType::f32, "{}: needs student logits f32 [B,C], got {}", op, s.describe("student"));
  KD_CHECK(labels.shape() == Shape{s.dim(0)} && labels.dtype() == DType::i32, "{}: {} needs one i32 label a row, got {}", op, s.describe("student"),
           labels.describe("labels"));
  KD_CHECK(teachers.size() <= size_t(kMaxTeachers), "{}: {} teachers, at most {}", op, teachers.size(), kMaxTeachers);
  for (const Tensor& t : teachers)
    KD_CHECK(t.shape() == s.shape() && t.dtype() == DType::f32, "{}: {} and {} must agree in shape and type", op, s.describe("student"), t.describe("teacher"));
  KD_CHECK(std::isfinite(config.tau) && config.tau > 0, "{}: temperature tau = {}, needs a positive number", op, config.tau);
  KD_CHECK(std::isfinite(config.alpha) && std::isfinite(config.soft_weight), "{}: weights alpha = {} and soft_weight = {} must be finite", op, config.alpha,
           config.soft_weight);

  Tensor ds = wants_grad({student}) ? Tensor::empty(s.shape(), DType::f32, s.device()) : Tensor();
  Tensor ce = Tensor::empty(labels.shape(), DType::f32, s.device()), kd = Tensor::empty(labels.shape(), DType::f32, s.device());
  KdLossArgs args{.s = s.data<float>(),
                  .labels = labels.data<int32_t>(),
                  .n_teachers = int(teachers.size()),
                  .ds = ds.defined() ? ds.data<float>() : nullptr,
                  .ce = ce.data<float>(),
                  .kd = kd.data<float>(),
                  .n = s.dim(0),
                  .k = s.dim(1),
                  .combine = config.combine,
                  .standardize = config.standardize,
                  .alpha = config.alpha,
                  .soft_weight = config.soft_weight,
                  .tau = config.tau};
  for (size_t i = 0; i < teachers.size(); ++i) args.teachers[i] = teachers[i].data<float>();
  kd_loss({s.device()}, args);

  LossValue loss{.total = {}, .ce = mean(ce), .kd = mean(kd)};
  const double total = teachers.empty() ? loss.ce : double(config.alpha) * loss.ce + double(config.soft_weight) * loss.kd;
  loss.total = record_loss(op, student, total, ds);
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

LossValue distill_loss(const Var& student, const Tensor& labels, const std::vector<Tensor>& teachers, const DistillConfig& config) {
  return loss_of_logits("distill_loss", student, labels, teachers, config);
}

LossValue cross_entropy(const Var& student, const Tensor& labels) { return loss_of_logits("cross_entropy", student, labels, {}, {}); }

}  // namespace kd
