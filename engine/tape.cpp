#include "engine/tape.h"

#include <utility>

#include "kernels/pointwise/pointwise.h"

namespace kd {

Var::Var(Tensor value, bool requires_grad)
    : state_(std::make_shared<State>(State{.value = std::move(value), .grad = {}, .rounded = {}, .requires_grad = requires_grad})) {}

Var::Var(Tensor value, Tensor grad, Tensor rounded)
    : state_(std::make_shared<State>(
          State{.value = std::move(value), .grad = std::move(grad), .rounded = std::move(rounded), .requires_grad = true, .parameter = true})) {
  KD_CHECK(this->value().shape() == this->grad().shape(), "parameter and gradient differ: {} {}", this->value().describe("value"),
           this->grad().describe("grad"));
}

void Var::accumulate(Tensor dy) const {
  if (!requires_grad()) return;
  KD_CHECK(dy.shape() == shape(), "gradient {} for {}", dy.describe("dy"), value().describe("value"));
  Tensor& grad = state_->grad;
  if (!grad.defined()) {
    grad = std::move(dy);
    return;
  }
  if (!state_->parameter && !grad.is_sole_owner()) grad = grad.clone();
  pointwise_add(current_stream(grad.device()), {.a = grad.raw(), .b = dy.raw(), .out = grad.raw(), .n = grad.elements(), .type = grad.dtype()});
}

Accumulate Var::claim_gradient() const {
  KD_CHECK(is_parameter(), "{} is no parameter and has no gradient to claim", value().describe("value"));
  return std::exchange(state_->claimed, true) ? Accumulate::yes : Accumulate::no;
}

namespace {

// dL/dL = 1, kept for the life of the program: making it during a step would be a copy from the host.
const Tensor& one_on(Device device) {
  static Tensor ones[kDevices];
  Tensor& one = ones[size_t(device)];
  if (!one.defined()) one = Tensor::of<float>({}, {1.f}).to(device);
  return one;
}

}  // namespace

Tape& Tape::current() {
  thread_local Tape tape;
  return tape;
}

bool wants_grad(const std::vector<Var>& inputs) {
  if (!Tape::current().recording()) return false;
  for (const Var& v : inputs)
    if (v.requires_grad()) return true;
  return false;
}

void Tape::record(const char* op, const std::vector<Var>& inputs, const Var& output, int64_t saved_bytes, Backward backward) {
  if (!wants_grad(inputs)) return;
  KD_CHECK(output.requires_grad(), "{}: recorded with an output that wants no gradient", op);
  nodes_.push_back({op, output, saved_bytes, std::move(backward)});
}

void Tape::backward(const Var& loss) {
  KD_CHECK(loss.defined() && loss.value().elements() == 1, "backward needs a scalar loss, got {}", loss.defined() ? loss.value().describe("loss") : "nothing");
  KD_CHECK(loss.requires_grad(), "backward from a loss that wants no gradient: it was computed under NoGrad or from constants");
  KD_CHECK(!nodes_.empty(), "backward on an empty tape: no op with a gradient was recorded, or backward ran already");
  loss.accumulate(one_on(loss.value().device()).view(loss.shape()));
  while (!nodes_.empty()) {
    Node node = std::move(nodes_.back());
    nodes_.pop_back();
    Tensor dy = std::move(node.output.state_->grad);
    node.output.state_->grad = {};
    if (dy.defined()) node.backward(dy);
  }
}

std::string Tape::print() const {
  std::string text;
  int64_t total = 0;
  for (const Node& node : nodes_) {
    text += fmt::format("{:<16} {:<32} saves {:>8.3f} MB\n", node.op, node.output.value().describe("->"), double(node.saved_bytes) / 1e6);
    total += node.saved_bytes;
  }
  return text + fmt::format("{} nodes, {:.3f} MB saved\n", nodes_.size(), double(total) / 1e6);
}

}  // namespace kd
