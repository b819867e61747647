// model_file: a whole model as one safetensors file. The tensors are torchvision's state dict; the metadata say how to rebuild the network,
// so that a file is all that evaluation or a distillation needs.
#pragma once
#include <map>
#include <memory>
#include <string>

#include "engine/base/file.h"
#include "engine/safetensors.h"
#include "models/resnet.h"

namespace kd {

// What a file says beyond its tensors; all optional when a file comes from elsewhere.
struct ModelMetadata {
  int64_t px = 0;  // the image size it was trained at
  std::string recipe_id, name;
  int64_t seed = 0, epoch = -1;  // epoch: 0-based, the last one trained
};

struct LoadedModel {
  std::unique_ptr<Resnet> net;
  ModelMetadata metadata;
};

void save_model(const Path&, Resnet&, const ModelMetadata&);

// Rebuilds the network from the metadata and loads it strictly. A file without our metadata (a torchvision export) is an error that names `kd_bench convert`.
LoadedModel load_model(const Path&, Device = Device::cpu, DType = DType::f32);

// For files from elsewhere: arch, stem, width and classes are read off the tensors' names and shapes.
ResnetConfig infer_config(const TensorFile&, const std::string& where);

}  // namespace kd
