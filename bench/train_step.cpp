#include "bench/train_step.h"

#include <algorithm>
#include <cstring>
#include <utility>

namespace kd {
namespace {

constexpr int64_t kRateBytes = 16;  // the learning rate, and what keeps the bytes after it aligned

Device device_of(const std::vector<Student>& students) {
  KD_CHECK(!students.empty(), "a training step without a student");
  return students[0].net->config().device;
}

}  // namespace

TrainStep::TrainStep(std::vector<Student> students, std::vector<Frozen> frozen, int64_t px, int64_t input_bytes, const TrainStepConfig& config)
    : students_(std::move(students)),
      frozen_(std::move(frozen)),
      px_(px),
      config_(config),
      inputs_(kRateBytes + input_bytes, device_of(students_)),
      sums_(Tensor::zeros({int64_t(students_.size() * sizeof(KdSums))}, DType::u8, device_of(students_))),
      lr_(Tensor::zeros({}, DType::f32, device_of(students_))),
      readback_(sums_) {
  const ResnetConfig& first = students_[0].net->config();
  auto check = [&](const Resnet& net, const char* what) {
    KD_CHECK(net.config().device == first.device && net.config().type == first.type, "a {} on {} in {} beside a student on {} in {}", what,
             to_string(net.config().device), to_string(net.config().type), to_string(first.device), to_string(first.type));
  };
  for (const Frozen& frozen_net : frozen_) check(*frozen_net.net, "frozen network");
  for (const Student& student : students_) {
    check(*student.net, "student");
    for (const auto* wanted : {&student.teachers, &student.references})
      for (size_t i : *wanted) KD_CHECK(i < frozen_.size(), "frozen network {} of {}", i, frozen_.size());
  }
}

std::byte* TrainStep::inputs() {
  next_inputs_ = inputs_.host();
  return next_inputs_ + kRateBytes;
}

void TrainStep::step(int64_t n, const MakeBatch& make_batch) {
  const ResnetConfig& first = students_[0].net->config();
  const Device device = first.device;
  copy_bytes(lr_.raw(), device, inputs_.device_block().raw(), device, lr_.bytes());
  const Tensor labels = Tensor::empty({n}, DType::i32, device);
  std::map<int64_t, Var> batches;  // by stored channels: networks whose stems differ may want another layout of the same pixels
  auto batch_for = [&](const Resnet& net) {
    Var& batch = batches[net.input_channels()];
    if (!batch.defined()) {
      batch = Var(Tensor::empty({n, px_, px_, net.input_channels()}, first.type, device));
      make_batch(inputs_.at<std::byte>(kRateBytes), batch.value(), labels);
    }
    return batch;
  };

  auto wanted_by_any = [&](std::vector<size_t> Student::*what, size_t i) {
    return std::any_of(students_.begin(), students_.end(), [&](const Student& s) { return std::count((s.*what).begin(), (s.*what).end(), i) > 0; });
  };
  std::vector<Tensor> logits_of(frozen_.size()), features_of(frozen_.size());
  for (size_t i = 0; i < frozen_.size(); ++i) {
    NoGrad no_grad;
    const auto [net, mode] = std::pair(frozen_[i].net, frozen_[i].mode);
    const Var features = net->features(batch_for(*net), mode);
    if (wanted_by_any(&Student::teachers, i)) logits_of[i] = net->logits(features).value();
    if (wanted_by_any(&Student::references, i)) features_of[i] = features.value();
  }
  Kept kept;
  if (config_.keep == Keep::logits) kept.frozen = logits_of;
  for (size_t i = 0; i < students_.size(); ++i) {
    const Student& student = students_[i];
    std::vector<Tensor> teacher_logits, reference_features;
    for (size_t t : student.teachers) teacher_logits.push_back(logits_of[t]);
    for (size_t r : student.references) reference_features.push_back(features_of[r]);
    auto* sums = static_cast<KdSums*>(sums_.raw()) + i;
    const Var features = student.net->features(batch_for(*student.net), Mode::train), logits = student.net->logits(features);
    if (config_.keep == Keep::logits) kept.students.push_back(logits.value());
    const LossValue loss = teacher_logits.empty() ? cross_entropy(logits, labels, sums) : distill_loss(logits, labels, teacher_logits, student.loss, sums);
    Tape::current().backward(reference_features.empty() ? loss.total : add(loss.total, attention_loss(features, reference_features, student.attention, sums)));
    sgd(student.net->params(), student.sgd, lr_);
  }
  kept_[n] = std::move(kept);
}

void TrainStep::run(int64_t n, float lr, const MakeBatch& make_batch) {
  KD_CHECK(next_inputs_, "TrainStep::run before inputs");
  std::memcpy(std::exchange(next_inputs_, nullptr), &lr, sizeof lr);
  inputs_.upload();
  StepGraph& graph = graphs_.try_emplace(n, inputs_.device_block().device(), config_.launch).first->second;
  try {
    if (graph.run([&] { step(n, make_batch); }) == StepGraph::Ran::replayed)
      for (const Student& student : students_) student.net->params().stepped();
  } catch (...) {
    Tape::current().clear();  // or what the step had saved would be held until the next one's backward, which may fail for want of that memory
    throw;
  }
  latest_kept_ = &kept_.at(n);
  readback_.poll();
}

void TrainStep::clear_sums() { sums_.zero_(); }

KdSums TrainStep::latest_sums(size_t student) const {
  KdSums sums;
  std::memcpy(&sums, readback_.latest() + student * sizeof sums, sizeof sums);
  return sums;
}

KdSums TrainStep::final_sums(size_t student) {
  KdSums sums;
  std::memcpy(&sums, readback_.wait() + student * sizeof sums, sizeof sums);
  return sums;
}

}  // namespace kd
