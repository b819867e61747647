#include "models/model_file.h"

#include <cstdlib>

#include "engine/checkpoint.h"

namespace kd {
namespace {

std::string get(const std::map<std::string, std::string>& metadata, const char* key) {
  auto it = metadata.find(key);
  return it == metadata.end() ? std::string() : it->second;
}

int64_t get_int(const std::map<std::string, std::string>& metadata, const char* key, int64_t otherwise, const Path& path) {
  const std::string text = get(metadata, key);
  if (text.empty()) return otherwise;
  try {
    size_t used = 0;
    int64_t value = std::stoll(text, &used);
    if (used == text.size()) return value;
  } catch (const std::exception&) {
  }
  throw Error(fmt::format("{}: metadata '{}' is '{}', expected a whole number", path.string(), key, text));
}

}  // namespace

void save_model(const Path& path, Resnet& net, const ModelMetadata& metadata) {
  const ResnetConfig& c = net.config();
  write_safetensors(path, {state_dict(net.params()),
                           {{"format", "pt"},
                            {"arch", to_string(c.arch)},
                            {"stem", to_string(c.stem)},
                            {"width", fmt::format("{}", c.width)},
                            {"num_classes", fmt::format("{}", c.classes)},
                            {"px", fmt::format("{}", metadata.px)},
                            {"name", metadata.name},
                            {"recipe_id", metadata.recipe_id},
                            {"seed", fmt::format("{}", metadata.seed)},
                            {"epoch", fmt::format("{}", metadata.epoch)}}});
}

LoadedModel load_model(const Path& path, Device device, DType type) {
  TensorFile file = read_safetensors(path);
  const auto& m = file.metadata;
  KD_INPUT(!get(m, "arch").empty() && !get(m, "num_classes").empty(),
           "{}: does not say which network it holds; run 'kd_bench convert {}' first, which finds out and writes it down", path.string(), path.string());
  ResnetConfig config = infer_config(file, path.string());
  // The metadata's width wins: channels are rounded to multiples of 8, so several widths give the same first layer.
  if (const std::string width = get(m, "width"); !width.empty()) {
    char* end = nullptr;
    config.width = std::strtod(width.c_str(), &end);
    KD_INPUT(end && *end == 0 && config.width > 0 && config.width <= 8, "{}: metadata 'width' is '{}', expected a number in (0, 8]", path.string(), width);
  }
  KD_INPUT(to_string(config.arch) == get(m, "arch") && config.classes == get_int(m, "num_classes", -1, path),
           "{}: metadata say {} with {} classes, the tensors are {} with {}", path.string(), get(m, "arch"), get(m, "num_classes"), to_string(config.arch),
           config.classes);
  config.device = device;
  config.type = type;
  LoadedModel out{std::make_unique<Resnet>(config),
                  {.px = get_int(m, "px", 0, path),
                   .recipe_id = get(m, "recipe_id"),
                   .name = get(m, "name"),
                   .seed = get_int(m, "seed", 0, path),
                   .epoch = get_int(m, "epoch", -1, path)}};
  load_state_dict(out.net->params(), file, path.string());
  return out;
}

ResnetConfig infer_config(const TensorFile& file, const std::string& where) {
  auto find = [&](const std::string& name) -> const Tensor* {
    for (const NamedTensor& t : file.tensors)
      if (t.name == name || t.name == "module." + name) return &t.value;
    return nullptr;
  };
  const Tensor *conv1 = find("conv1.weight"), *fc = find("fc.weight");
  KD_INPUT(conv1 && conv1->rank() == 4 && fc && fc->rank() == 2 && find("layer4.1.conv2.weight"),
           "{}: is not a torchvision ResNet-18 or ResNet-50 state dict (no conv1.weight, layer4.1.conv2.weight or fc.weight)", where);
  ResnetConfig config;
  config.arch = find("layer1.0.conv3.weight") ? Arch::resnet50 : Arch::resnet18;
  config.stem = conv1->dim(2) == 7 ? Stem::imagenet : Stem::cifar;
  config.classes = fc->dim(0);
  config.width = double(conv1->dim(0)) / 64.0;
  KD_INPUT(config.width > 0 && config.width <= 8, "{}: conv1.weight has {} filters", where, conv1->dim(0));
  return config;
}

}  // namespace kd
