// gpu_check verify: which kernels written in Hopper's own instructions are right on this card. Their cases are small; so each is also run at the size of
// training, several times, against its portable twin: a race shows where many blocks share the card.
#include <algorithm>
#include <cstring>
#include <map>

#include "bench/gpu_check.h"
#include "kernels/common/verified.h"
#include "kernels/stem/stem.h"

namespace kd::gpu_check {
namespace {

using cases::Checked;

constexpr std::string_view kSuffix = ":hopper";

// "stem:fprop:n1h2w2:hopper" is a case of stem_fprop; "" for a case of no such kernel.
std::string hopper_kernel_of(const std::string& name) {
  if (!name.ends_with(kSuffix)) return "";
  const size_t first = name.find(':'), second = name.find(':', first + 1);
  return name.substr(0, first) + "_" + name.substr(first + 1, second - first - 1);
}

// The sum over the parts, which differ in number from form to form.
std::vector<double> summed(const Tensor& partial) {
  const std::vector<double> all = cases::to_doubles(partial);
  const size_t channels = size_t(partial.dim(1) * partial.dim(2));
  std::vector<double> sums(channels);
  for (size_t i = 0; i < all.size(); ++i) sums[i % channels] += all[i];
  return sums;
}

struct StemOutputs {
  Tensor y, partial, pooled, dw;
};

// Only what `kernel` writes is defined.
StemOutputs run_stem(const std::string& kernel, const StemShape& shape, StemForm form, Stream s, const Tensor& x, const Tensor& w, const Tensor& dy,
                     const Tensor& channel) {
  StemOutputs out;
  if (kernel == "stem_fprop") {
    out.y = Tensor::empty({shape.n, shape.p(), shape.q(), kStemFilters}, DType::bf16, s.device);
    out.partial = Tensor::empty({stem_parts(s, shape, form), 2, kStemFilters}, DType::f32, s.device);
    stem_fprop(s, {.shape = shape,
                   .x = x.data<bf16>(),
                   .w = w.data<bf16>(),
                   .y = out.y.data<bf16>(),
                   .partial = out.partial.data<float>(),
                   .shift = channel.data<float>(),
                   .form = form});
  } else if (kernel == "stem_infer") {
    out.pooled = Tensor::empty({shape.n, (shape.p() - 1) / 2 + 1, (shape.q() - 1) / 2 + 1, kStemFilters}, DType::bf16, s.device);
    stem_infer(s, {.shape = shape, .x = x.data<bf16>(), .w = w.data<bf16>(), .bias = channel.data<float>(), .y = out.pooled.data<bf16>(), .form = form});
  } else {
    KD_CHECK(kernel == "stem_wgrad", "verify knows no run at full size for {}; add one beside stem's", kernel);
    out.dw = Tensor::empty({kStemFilters, 7, 7, kStemChannels}, DType::bf16, s.device);
    stem_wgrad(s, {.shape = shape, .x = x.data<bf16>(), .dy = dy.data<bf16>(), .dw = out.dw.data<bf16>(), .form = form});
  }
  return out;
}

std::vector<std::pair<const char*, Tensor>> outputs_of(const StemOutputs& o) {
  std::vector<std::pair<const char*, Tensor>> all;
  for (auto [what, tensor] : {std::pair{"y", o.y}, {"sums", o.partial}, {"pooled", o.pooled}, {"dw", o.dw}})
    if (tensor.defined()) all.emplace_back(what, tensor);
  return all;
}

// Sums are of y as it was stored, whose roundings differ between the forms.
std::vector<Checked> compare(const StemOutputs& got, const StemOutputs& want) {
  std::vector<Checked> all;
  const auto gots = outputs_of(got), wants = outputs_of(want);
  for (size_t i = 0; i < gots.size(); ++i) {
    const auto values = gots[i].first == std::string_view("sums") ? summed : cases::to_doubles;
    all.push_back({gots[i].first, values(gots[i].second), values(wants[i].second), cases::tolerance(DType::bf16)});
  }
  return all;
}

Checked same_bits(const StemOutputs& got, const StemOutputs& want) {
  double differ = 0;
  const auto gots = outputs_of(got), wants = outputs_of(want);
  for (size_t i = 0; i < gots.size(); ++i) {
    const Tensor a = gots[i].second.to(Device::cpu), b = wants[i].second.to(Device::cpu);
    differ += std::memcmp(a.raw(), b.raw(), size_t(a.bytes())) != 0;
  }
  return {"outputs that differ from the first run's", {differ}, {0}, 0};
}

cases::Case full_size(const std::string& kernel, bool tiny) {
  const StemShape shape{.n = tiny ? 2 : 64, .h = tiny ? 16 : 224, .w = tiny ? 16 : 224};
  return {.name = fmt::format("{}:n{}h{}w{}:hopper against portable", kernel, shape.n, shape.h, shape.w),
          .check =
              [=](Stream s) {
                const Tensor x = random_on(s.device, {shape.n, shape.h, shape.w, kStemChannels}, DType::bf16);
                const Tensor w = random_on(s.device, {kStemFilters, 7, 7, kStemChannels}, DType::bf16, -1.f, 1.f, 2);
                const Tensor channel = random_on(s.device, {kStemFilters}, DType::f32, -1.f, 1.f, 3);
                const Tensor dy = random_on(s.device, {shape.n, shape.p(), shape.q(), kStemFilters}, DType::bf16, -1.f, 1.f, 4);
                const StemOutputs want = run_stem(kernel, shape, StemForm::portable, s, x, w, dy, channel);
                const StemOutputs first = run_stem(kernel, shape, StemForm::hopper, s, x, w, dy, channel);
                std::vector<Checked> all = compare(first, want);
                for (int repeat = 0; repeat < 5; ++repeat) all.push_back(same_bits(run_stem(kernel, shape, StemForm::hopper, s, x, w, dy, channel), first));
                return all;
              },
          .grad = {},
          .perf = {}};
}

}  // namespace

int verify(const Options& o) {
  poison_new_blocks(true);
  std::map<std::string, cases::Cases> kernels;
  for (cases::Case& c : cases::all_cases())
    if (const std::string kernel = hopper_kernel_of(c.name); !kernel.empty() && c.check && can_run(c, o.device)) kernels[kernel].push_back(std::move(c));
  const std::string card = o.device == Device::cuda ? gpu_info().name : to_string(o.device);
  KD_INPUT(!kernels.empty(), "verify: no kernel in Hopper's instructions runs on {}", card);
  Table table(o.out / "verify.csv", {{"kernel", -16}, {"cases", 7}, {"failed", 8}, {"  verdict", -40}});
  std::string lines;
  int failed = 0;
  for (auto& [kernel, problems] : kernels) {
    problems.push_back(full_size(kernel, o.tiny));
    Tally tally;
    for (const cases::Case& problem : problems) examine(problem, o, tally);
    failed += tally.failed;
    table.row({kernel, std::to_string(tally.cases), std::to_string(tally.failed), tally.failed ? "  stays portable here" : "  verified"});
    if (tally.failed == 0) lines += to_string(Verified{.kernel = kernel, .date = today(), .commit = o.commit, .card = card}) + "\n";
    release_cached_memory(o.device);
  }
  write_atomically(o.out / "verified.txt", lines);
  fmt::print("{} of {} kernels verified on {}\n", std::count(lines.begin(), lines.end(), '\n'), kernels.size(), card);
  return failed;
}

}  // namespace kd::gpu_check
