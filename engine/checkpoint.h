// checkpoint: a model's parameters and running statistics under torchvision's names and in its layout (filters [K,C,R,S]), as safetensors.
#pragma once
#include "engine/nn.h"
#include "engine/safetensors.h"

namespace kd {

// Every parameter, running statistic and num_batches_tracked (i64 scalar, one per batch norm): what a strict load in torchvision expects.
std::vector<NamedTensor> state_dict(const ParamArena&);

// Strict: every tensor of the model must be in the file with its shape, and nothing else may be there (num_batches_tracked may be absent;
// a "module." prefix is ignored). `where` names the file in errors.
void load_state_dict(ParamArena&, const TensorFile&, const std::string& where);

// The optimizer's momentum, tensor by tensor in the same layout, for exact resume on any device. load_state_dict ignores these.
constexpr const char* kMomentumPrefix = "optimizer.momentum.";
std::vector<NamedTensor> momentum_dict(const ParamArena&);
void load_momentum(ParamArena&, const TensorFile&, const std::string& where);

}  // namespace kd
