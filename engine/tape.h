// tape: reverse-mode automatic differentiation. Every op appends one node; the order of appending is already topological,
// so `backward` is a reverse loop. Parameters and activations are Vars; teachers and evaluation run under NoGrad and leave no node.
#pragma once
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "engine/base/tensor.h"
#include "kernels/common/accumulate.h"

namespace kd {

// A tensor that may want a gradient. A handle: copies share value and gradient.
class Var {
 public:
  Var() = default;
  explicit Var(Tensor value, bool requires_grad = false);
  // A parameter: its gradient lives in `grad`, a window of a flat arena. `rounded`, where the optimizer keeps one, is the value in bf16, for
  // the matrix products of a bf16 network; `grad` is bf16 then too.
  Var(Tensor value, Tensor grad, Tensor rounded = {});

  bool defined() const { return state_ != nullptr; }
  const Tensor& value() const { return state_->value; }
  const Tensor& grad() const { return state_->grad; }  // undefined until something reached it
  bool requires_grad() const { return state_ && state_->requires_grad; }
  bool is_parameter() const { return state_->parameter; }
  const Tensor& rounded() const { return state_->rounded; }
  const Shape& shape() const { return value().shape(); }

  // Adds dy to the gradient. The first contribution is adopted without a copy when nobody else holds it; later ones are added in
  // place only into a buffer that this Var alone owns (one gradient may be handed to two branches of a residual sum).
  void accumulate(Tensor dy) const;
  // For kernels that can add to their output: the gradient so far, where this Var alone owns it; else undefined.
  Tensor own_gradient() const { return state_->grad.defined() && !state_->parameter && state_->grad.is_sole_owner() ? state_->grad : Tensor(); }

  // Whether this is the only handle to the value: whoever gives it away may have it overwritten.
  bool is_sole_owner() const { return state_.use_count() == 1 && state_->value.is_sole_owner(); }

  // For kernels that write a parameter's gradient themselves: no the first time since the optimizer's step, when the window holds the last step's
  // gradient or zeros, then yes.
  Accumulate claim_gradient() const;
  bool gradient_claimed() const { return state_->claimed; }
  void release_gradient() const { state_->claimed = false; }

 private:
  friend class Tape;
  struct State {
    Tensor value, grad, rounded;
    bool requires_grad = false, parameter = false, claimed = false;
  };
  std::shared_ptr<State> state_;
};

class Tape {
 public:
  // Takes dL/d(output) and adds to the gradients of the inputs.
  using Backward = std::function<void(const Tensor& dy)>;

  static Tape& current();  // this thread's tape

  bool recording() const { return paused_ == 0; }
  // Records `op` if recording and any input wants a gradient; `backward` owns what it needs (its captures are the saved tensors).
  void record(const char* op, const std::vector<Var>& inputs, const Var& output, int64_t saved_bytes, Backward backward);
  // Runs the nodes in reverse from a scalar loss (dL/dL = 1), freeing each node's saved tensors as it goes; the tape is empty afterwards.
  void backward(const Var& loss);
  void clear() { nodes_.clear(); }
  size_t size() const { return nodes_.size(); }
  std::string print() const;  // one line a node: op, output, bytes saved

 private:
  friend class NoGrad;
  struct Node {
    const char* op;
    Var output;
    int64_t saved_bytes;
    Backward backward;
  };
  std::vector<Node> nodes_;
  int paused_ = 0;
};

class NoGrad {
 public:
  NoGrad() { ++Tape::current().paused_; }
  ~NoGrad() { --Tape::current().paused_; }
  NoGrad(const NoGrad&) = delete;
  NoGrad& operator=(const NoGrad&) = delete;
};

// True when an op over these inputs must produce an output that wants a gradient.
bool wants_grad(const std::vector<Var>& inputs);

}  // namespace kd
