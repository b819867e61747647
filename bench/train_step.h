// train_step: one training step, from uploaded decisions to updated weights: of a teacher, a baseline or a student, or of several students at once.
// Students of one step see the same batch, so a frozen network that several of them learn from is run once. Each student's arithmetic is the same as alone.
#pragma once
#include <functional>
#include <map>
#include <vector>

#include "engine/graph.h"
#include "engine/optim.h"
#include "kd/losses.h"
#include "models/resnet.h"

namespace kd {

// A network that is run on every batch and does not learn.
struct Frozen {
  Resnet* net;
  Mode mode;
  Frozen(Resnet* of, Mode how = Mode::eval) : net(of), mode(how) {}  // NOLINT: a teacher in evaluation mode is the usual case
};

struct Student {
  Resnet* net;
  std::vector<size_t> teachers;  // which of the step's frozen networks; none: trained on the labels alone
  DistillConfig loss = {};
  std::vector<size_t> references = {};  // ... whose attention the student's is compared with; none: not compared
  AttentionConfig attention = {};
  SgdOptions sgd = {};
};

enum class Keep : unsigned char { nothing, logits };

struct TrainStepConfig {
  Launch launch = Launch::graph;
  Keep keep = Keep::nothing;  // logits: of the latest step, for whoever measures while learning
};

class TrainStep {
 public:
  // Launches whatever turns the uploaded decisions into a batch; same kernels every time (engine/graph.h).
  // inputs: on the students' device; images [n,px,px,3, 4 or 8], labels i32 [n]
  using MakeBatch = std::function<void(const std::byte* inputs, const Tensor& images, const Tensor& labels)>;

  // All networks are on one device, in one type, and kept by reference.
  TrainStep(std::vector<Student> students, std::vector<Frozen> frozen, int64_t px, int64_t input_bytes, const TrainStepConfig& = {});

  // A step: write its decisions (input_bytes, 16-byte aligned) where `inputs` says, then run it on n images.
  std::byte* inputs();
  void run(int64_t n, float lr, const MakeBatch&);

  void clear_sums();
  KdSums latest_sums(size_t student = 0) const;  // of the steps since then, perhaps not of the last few: reading never waits for the device
  KdSums final_sums(size_t student = 0);         // of all of them

  // With Keep::logits, f32 [n,C] on the device, overwritten by the next step. Copying them to the host makes it wait for the step.
  const Tensor& student_logits(size_t student) const { return latest_kept_->students.at(student); }
  const Tensor& frozen_logits(size_t frozen) const { return latest_kept_->frozen.at(frozen); }  // undefined of a network that is nobody's teacher

 private:
  // Of a captured step, the tensors that every replay writes: holding them keeps their memory from being given to anything else.
  struct Kept {
    std::vector<Tensor> students, frozen;
  };
  void step(int64_t n, const MakeBatch&);

  std::vector<Student> students_;
  std::vector<Frozen> frozen_;
  int64_t px_;
  TrainStepConfig config_;
  StepInputs inputs_;  // the learning rate, then the caller's bytes
  std::byte* next_inputs_ = nullptr;
  Tensor sums_, lr_;  // KdSums of each student
  Readback readback_;
  std::map<int64_t, StepGraph> graphs_;  // by batch size: an epoch's last batch may be smaller
  std::map<int64_t, Kept> kept_;         // likewise
  const Kept* latest_kept_ = nullptr;
};

}  // namespace kd
