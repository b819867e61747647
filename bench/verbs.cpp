#include "bench/verbs.h"

#include "engine/checkpoint.h"

namespace kd {

DataConfig data_config(const Recipe& recipe) {
  // The split is part of the data, not of a run's luck: runs of every seed share it, so that students and teachers can be compared.
  return {.name = recipe.data.name,
          .root = recipe.data.root,
          .train_list = recipe.data.train_list,
          .test_list = recipe.data.test_list,
          .packs = recipe.data.packs,
          .pack_px = recipe.data.pack_px,
          .imbalance = recipe.data.imbalance,
          .holdout = recipe.data.holdout,
          .train_size = recipe.data.train_size,
          .test_size = recipe.data.test_size,
          .seed = 0};
}

void require_precision(Device device, DType type) {
  if (type == DType::f32) return;
  if (device == Device::cuda) {
    const GpuInfo& gpu = gpu_info();
    KD_INPUT(gpu.major >= 8, "precision=bf16 needs a GPU of compute capability 8.0 or newer, '{}' has {}.{}; use precision=fp32", gpu.name, gpu.major,
             gpu.minor);
  } else {
    KD_INPUT(cpu_isa() >= CpuIsa::avx2, "precision=bf16 needs a CPU with AVX2, '{}' has none (or KD_CPU forbids it); use precision=fp32", cpu_info().name);
  }
}

AugmentConfig augment_config(const Recipe& recipe) {
  AugmentConfig augment;
  augment.px = recipe.data.px;
  augment.cutout_length = recipe.data.cutout;
  augment.pipeline = view_pipeline(recipe.data) == "imagenet" ? Pipeline::imagenet : Pipeline::cifar;
  augment.randaugment = recipe.data.randaugment == "timm_old" ? RandAugment::timm_old : RandAugment::increasing;
  augment.test_resample = recipe.data.test_interp == "bicubic" ? Resample::bicubic : Resample::bilinear;
  if (recipe.data.norm == "cifar10") {
    augment.mean = {.4914f, .4822f, .4465f};
    augment.std = {.2023f, .1994f, .2010f};
  } else if (recipe.data.norm == "imagenet") {
    augment.mean = {.485f, .456f, .406f};
    augment.std = {.229f, .224f, .225f};
  }
  return augment;
}

Path run_path(const Recipe& recipe, const Path& out) {
  std::string dataset = recipe.data.name;
  if (recipe.data.imbalance != 1) dataset += fmt::format("_imb{}", recipe.data.imbalance);
  return out / dataset / recipe.name / fmt::format("seed{}", recipe.seed);
}

Path model_path(const std::string& teacher, const char* what) {
  const Path path = teacher;
  if (!std::filesystem::is_directory(path)) {
    KD_INPUT(std::filesystem::exists(path), "{} '{}': no such run directory or file", what, teacher);
    return path;
  }
  const Path best = path / "ckpt" / "best.safetensors";
  KD_INPUT(std::filesystem::exists(best), "{} '{}': has no ckpt/best.safetensors; train it first", what, teacher);
  KD_INPUT(std::filesystem::exists(path / "DONE"), "{} '{}': is not finished; run its 'kd_bench train' again and it goes on from its last epoch", what,
           teacher);
  return best;
}

void convert_model(const Path& in, const Path& out) {
  const TensorFile file = read_safetensors(in);
  const ResnetConfig config = infer_config(file, in.string());
  Resnet net(config);
  load_state_dict(net.params(), file, in.string());
  fmt::print("{}: {} with {} stem, width {:g}, {} classes, {} parameters\n", in.string(), to_string(config.arch), to_string(config.stem), config.width,
             config.classes, net.params().parameter_count());
  if (out.empty()) return;
  save_model(out, net, {.px = config.stem == Stem::imagenet ? 224 : 32, .recipe_id = {}, .name = out.stem().string()});
  fmt::print("{}: written; usable as a teacher (teachers=[{}]) and loadable by torchvision\n", out.string(), out.string());
}

}  // namespace kd
