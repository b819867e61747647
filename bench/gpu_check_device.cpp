// gpu_check's parts that are about the card itself. Built with CUDA only.
#include <cublasLt.h>
#include <cudnn_graph.h>

#include <algorithm>

#include "bench/gpu_check.h"
#include "bench/gpu_timing.h"
#include "kernels/common/cudnn_plan.h"
#include "kernels/conv/conv_tune.h"
#include "kernels/conv/zoo.h"
#include "kernels/gemm/gemm.h"

namespace kd::gpu_check {
namespace {

std::string three_part_version(size_t v) { return fmt::format("{}.{}.{}", v / 10000, v / 100 % 100, v % 100); }

}  // namespace

int probe(const Options& o) {
  const GpuInfo& gpu = gpu_info();
  Table table(o.out / "probe.csv", {{"what", -28}, {"value", -60}});
  table.row({"GPU", gpu.name});
  table.row({"compute capability", fmt::format("{}.{}", gpu.major, gpu.minor)});
  table.row({"multiprocessors", std::to_string(gpu.multiprocessors)});
  table.row({"memory MiB", std::to_string(gpu.memory_bytes >> 20)});
  table.row({"L2 cache MiB", fmt::format("{:.1f}", double(gpu.l2_bytes) / double(1 << 20))});
  table.row({"driver for CUDA", gpu.driver});
  table.row({"CUDA runtime", gpu.runtime});
  table.row({"cuDNN", three_part_version(cudnnGetVersion())});
  table.row({"cuDNN built against", three_part_version(CUDNN_VERSION)});
  table.row({"cuBLASLt", three_part_version(cublasLtGetVersion())});
  table.row({"CPU", fmt::format("{}; {} threads", cpu_info().name, cpu_info().threads)});
  const auto device = cudnn::DeviceDescription::of_gpu(0);
  write_atomically(o.out / "device.json", device.json());
  table.row({"device for plans", fmt::format("{} {}: device.json", device.device_class(), device.name())});
  return 0;
}

int ceilings(const Options& o) {
  Table table(o.out / "ceilings.csv", {{"ceiling", -44}, {"value", 12}, {"  unit", -10}});
  auto row = [&](const char* what, double value, const char* unit) { table.row({what, fmt::format("{:.2f}", value), std::string("  ") + unit}); };
  const bench::CopyRates copy = bench::measure_copy();
  row("copy 1 GiB by the driver, read + written", copy.memcpy_gbps, "GB/s");
  row("copy 1 GiB by a kernel, read + written", copy.kernel_gbps, "GB/s");
  row("read 1 GiB", bench::measure_read_gbps(), "GB/s");
  constexpr int64_t n = 8192;
  const Stream stream = current_stream(Device::cuda);
  for (DType type : {DType::bf16, DType::f32}) {
    const Tensor a = random_on(Device::cuda, {n, n}, type), b = random_on(Device::cuda, {n, n}, type);
    const Tensor c = Tensor::empty({n, n}, type, Device::cuda);
    const GemmArgs args{.a = a.raw(), .b = b.raw(), .ab_type = type, .c = c.raw(), .c_type = type, .m = n, .n = n, .k = n};
    const bench::GpuTime time = bench::time_on_gpu({[&] { gemm(stream, args); }}, type == DType::bf16 ? 20 : 2);
    row(type == DType::bf16 ? "8192x8192x8192 bf16" : "8192x8192x8192 f32", 2.0 * n * n * n / time.us * 1e-6, "TFLOP/s");
  }
  const bench::LaunchCosts launch = bench::measure_launch();
  row("an empty kernel in a graph", launch.graph_us, "us");
  row("an empty kernel by itself", launch.eager_us, "us");
  return 0;
}

int tune(const Options& o) {
  cuda::TuneRequest request;
  request.budget_ms = 1e3 * o.seconds;
  // What is asked for first is measured first: the batches of the measured steps, the networks by what they cost. The 224 px stem has kernels of its own, and
  // cuDNN's take 4 ms and more for it.
  for (auto [stem, px, batch] : {std::tuple{ZooStem::imagenet, 224, 256}, {ZooStem::imagenet, 224, 128}, {ZooStem::cifar, 32, 128}, {ZooStem::cifar, 32, 512}})
    for (ZooNet net : {ZooNet::resnet18, ZooNet::resnet50})
      for (const ZooConv& conv : zoo_convs(net, stem, batch, px))
        if (!(conv.is_stem && stem == ZooStem::imagenet) && std::find(request.shapes.begin(), request.shapes.end(), conv.shape) == request.shapes.end())
          request.shapes.push_back(conv.shape);
  const cuda::TuneResult result = cuda::tune(request, today());
  const GpuInfo& gpu = gpu_info();
  result.book.write(o.out / "plan_book.txt",
                    fmt::format("Measured by gpu_check tune on {}, cuDNN {}, {}.", gpu.name, three_part_version(cudnnGetVersion()), today()));
  Table table(o.out / "tune.csv", {{"convolution", -44}, {"best us", 10}, {"book us", 10}, {"first choice us", 17}});
  double best_us = 0, first_us = 0, booked_best_us = 0, book_us = 0;
  for (const cuda::TunedPlan& t : result.times) {
    table.row({to_string(t.key), fmt::format("{:.2f}", t.best_us), t.book_us > 0 ? fmt::format("{:.2f}", t.book_us) : "-", fmt::format("{:.2f}", t.first_us)});
    best_us += t.best_us, first_us += t.first_us;
    if (t.book_us > 0) booked_best_us += t.best_us, book_us += t.book_us;
  }
  for (const std::string& message : result.messages) fmt::print("{}\n", message);
  KD_INPUT(result.signatures > 0, "tune: no convolution was measured in {} s; give it more --seconds", o.seconds);
  fmt::print(
      "{} convolutions, {} plans timed, {} left out; {:.2f} ms in all, {:.2f} by the heuristics' first choices; those in the book {:.2f}, by it {:.2f}\n",
      result.signatures, result.plans, result.messages.size(), best_us * 1e-3, first_us * 1e-3, booked_best_us * 1e-3, book_us * 1e-3);
  return 0;
}

}  // namespace kd::gpu_check
