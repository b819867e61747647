// demo: the whole study in small, from nothing: generated images, a weakly and a strongly augmented teacher, a student alone and one distilled from both.
#include <chrono>

#include "bench/report.h"
#include "bench/table.h"
#include "bench/verbs.h"

namespace kd {

void demo(const Path& out, Device device, bool quiet) {
  const auto start = std::chrono::steady_clock::now();
  const Path runs = out / "runs";
  // Small on purpose: narrow networks, few images, few epochs, and all four models clearly learn within minutes on two cores. Batches of 32, because these
  // networks stay at chance for the first few hundred updates: with 64 one seed ended at 62 to 83 %, by roundings alone.
  const std::vector<std::string> common{"data.name=shapes", "data.train_size=5000",  "data.test_size=1000", "data.cutout=8",  "model.width=0.25",
                                        "optim.batch=32",   "optim.schedule=cosine", "optim.lr=0.05",       "optim.warmup=2", "optim.epochs=10"};
  auto train = [&](std::vector<std::string> settings) {
    settings.insert(settings.begin(), common.begin(), common.end());
    return train_run(load_recipe({}, settings), {.out = runs, .quiet = quiet, .command = "kd_bench demo", .device = device});
  };
  if (!quiet)
    fmt::print(
        "Four small ResNet-18s on generated 32x32 images: two teachers, a student alone, and the same student taught by both.\n"
        "Weak view: shift, flip, rotation. Strong view: shift, flip, AutoAugment, Cutout. A few minutes on two cores.\n");
  const Path weak = train({"name=T1w", "view=weak", "seed=1"});
  const Path strong = train({"name=T2s", "view=strong", "seed=2", "optim.epochs=16"});  // distorted images take longer to learn
  const Path alone = train({"name=only_Sw", "view=weak", "seed=3"});
  const Path taught = train({"name=T1w_T2s_Sw", "view=weak", "seed=3", "teachers=[" + weak.string() + ", " + strong.string() + "]"});
  Evaluator evaluator({.device = device, .quiet = true});
  for (const Path& run : {weak, strong, alone, taught}) evaluator.evaluate(run);

  if (!quiet) print_tables(runs, {});
  const Path report = out / "report.html";
  write_report(runs, report);
  if (!quiet)
    fmt::print(
        "\nDone in {:.0f} s. Open {} in a browser.\nNext: change something and look again, e.g.\n  kd_bench distill --out {} name=T1w_T2s_Ss view=strong {} "
        "teachers='[{}, {}]'\n"
        "  kd_bench eval {}/shapes/T1w_T2s_Ss/seed0 && kd_bench report {}\n",
        std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count(), report.string(), runs.string(), fmt::join(common, " "), weak.string(),
        strong.string(), runs.string(), runs.string());
  else
    fmt::print("{}\n", report.string());
}

}  // namespace kd
