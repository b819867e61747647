// kd_bench: the command line. Reads flags, calls one verb, turns an error into one line and a non-zero exit.
#include <CLI/CLI.hpp>
#include <cstdio>

#include "bench/png.h"
#include "bench/report.h"
#include "bench/table.h"
#include "bench/verbs.h"
#include "kd/switches.h"
#include "kernels/conv/conv.h"

namespace kd {
namespace {

// As a shell takes it again.
std::string joined(int argc, char** argv) {
  std::string line = "kd_bench";
  for (int i = 1; i < argc; ++i) {
    const std::string word = argv[i];
    if (!word.empty() && word.find_first_of(" \t\r\n\"'$*?`\\&|;<>(){}!#~") == word.npos) {
      line += " " + word;
      continue;
    }
    line += " '";
    for (const char c : word) line += c == '\'' ? std::string("'\\''") : std::string(1, c);
    line += "'";
  }
  return line;
}

// What is wrong with the flags, in one line, and which help says more. `app` is the whole program; what was understood of the line tells the verb.
std::string usage_error(const CLI::App* app, const CLI::Error& error) {
  std::string words = "kd_bench";
  while (!app->get_subcommands().empty()) app = app->get_subcommands()[0], words += " " + app->get_name();
  const std::vector<std::string> unknown = app->remaining();
  const bool no_verb = dynamic_cast<const CLI::RequiredError*>(&error) && !unknown.empty();
  return fmt::format("kd_bench: {}; see '{} --help'\n", no_verb ? as_one_line(fmt::format("'{}' is no verb", unknown[0])) : as_one_line(error.what()), words);
}

// "recipe.yaml key=value ..." in any order: what holds an '=' is a setting, the one other word is the recipe.
struct RecipeWords {
  Path file = {};
  std::vector<std::string> settings = {};
};
RecipeWords split_words(const std::vector<std::string>& words) {
  RecipeWords split;
  for (const std::string& word : words) {
    if (word.find('=') != word.npos)
      split.settings.push_back(word);
    else {
      KD_INPUT(split.file.empty(), "two recipes given, '{}' and '{}'; settings are written key=value", split.file.string(), word);
      split.file = word;
    }
  }
  return split;
}

Recipe recipe_from(const std::vector<std::string>& words) {
  const RecipeWords split = split_words(words);
  return load_recipe(split.file, split.settings);
}

int run_main(int argc, char** argv) {
  CLI::App app{"kd_bench: knowledge-distillation experiments, from training to report. Start with: kd_bench demo"};
  app.require_subcommand(1);
  app.failure_message(usage_error);
  app.set_help_all_flag("--help-all", "the flags of every verb");
  std::string device_name = "auto";
  const char* devices = "auto, cpu, cuda, or emulated: the CUDA kernels run by the CPU, slowly, for debuggers and readers";
  app.add_option("--device", device_name, devices);

  std::vector<std::string> words;
  bool no_graph = false, no_tune = false;
  const char* no_tune_help = "CPU: convolutions by a fixed order of preference, instead of what is fastest on this machine";
  RunOptions run{.command = joined(argc, argv)};
  auto add_run = [&](const char* verb, const char* what) {
    CLI::App* sub = app.add_subcommand(verb, what);
    sub->add_option("recipe", words, "a recipe file and key=value settings, both optional");
    sub->add_option("--out", run.out, "where run directories go")->capture_default_str();
    sub->add_flag("--quiet", run.quiet, "no progress");
    sub->add_option("--device", device_name, devices);
    sub->add_flag("--no-tune", no_tune, no_tune_help);
    sub->add_flag("--no-graph", no_graph, "CUDA: launch every kernel by itself instead of a recorded step; the same bits, for debugging");
    return sub;
  };
  CLI::App* doctor_verb = app.add_subcommand("doctor", "what this machine can do");
  CLI::App* train = add_run("train", "train a teacher or a baseline");
  CLI::App* distill = add_run("distill", "distil a student from the recipe's teachers");

  CLI::App* grid = add_run("grid", "teachers, baselines and all students of a grid recipe; several processes may share one folder");
  GridOptions grid_options;
  grid->add_flag("--dry-run", grid_options.dry_run, "print runs, sharing, time, memory and disk, and do nothing");
  bool no_wait = false;
  grid->add_flag("--no-wait", no_wait, "leave when other processes have taken all that can be done now");
  double stale_minutes = grid_options.stale_seconds / 60;
  grid->add_option("--stale-after", stale_minutes, "minutes without a sign of life after which another machine's work is taken over")->capture_default_str();

  CLI::App* config = app.add_subcommand("config", "the settings of a run");
  config->require_subcommand(1);
  CLI::App* config_keys = config->add_subcommand("keys", "every setting with its default, range and meaning");
  CLI::App* config_show = config->add_subcommand("show", "a recipe with every value filled in, and where each comes from");
  config_show->add_option("recipe", words, "a recipe file and key=value settings, both optional");
  CLI::App* config_diff = config->add_subcommand("diff", "the settings in which two presets, recipes or runs differ");
  std::string left, right;
  config_diff->add_option("a", left, "a preset, a recipe file or a run directory")->required();
  config_diff->add_option("b", right, "another")->required();
  config_diff->add_option("settings", words, "key=value, for both");

  CLI::App* eval = app.add_subcommand("eval", "fidelity, calibration, divergence, information and attention of finished runs");
  std::vector<Path> run_dirs;
  EvalOptions eval_options;
  eval->add_option("runs", run_dirs, "run directories")->required();
  eval->add_option("--checkpoint", eval_options.checkpoint, "best or last")->capture_default_str();
  eval->add_option("--threshold", eval_options.threshold, "of the attention masks")->capture_default_str();
  eval->add_option("--train-images", eval_options.train_images, "training images to look at, at most; 0: all")->capture_default_str();
  bool offline = false;
  eval->add_flag("--offline", offline, "compute eval.json again from analysis/pred.safetensors, without networks and images");
  eval->add_flag("--no-tune", no_tune, no_tune_help);
  eval->add_flag("--quiet", eval_options.quiet, "no progress");
  eval->add_option("--device", device_name, devices);

  Path runs = "runs", report_out;
  TableOptions table_options;
  CLI::App* table = app.add_subcommand("table", "tables of all runs below a folder");
  table->add_option("runs", runs, "the folder")->capture_default_str();
  table->add_option("--format", table_options.format, "text, md, csv, tsv, latex or html")->capture_default_str();
  table->add_option("--which", table_options.which, "r1 to r11, accuracy, fidelity, calibration, attention; overview: these four; all. With commas")
      ->capture_default_str();
  table->add_option("--metrics", table_options.metrics, "std: textbook definitions; rk: the published code's; both")->capture_default_str();
  table->add_flag("--trace", table_options.trace, "say which run directories every row is made of");
  table->add_flag("--paper", table_options.paper, "names as the paper writes them, and a column for published values");
  table->add_option("--published", table_options.published, "those values: a CSV name,key,value");
  table->add_option("-o,--out", table_options.out, "a folder for ID.txt, .md, .csv and .tex of each table, instead of printing");
  CLI::App* report = app.add_subcommand("report", "one offline HTML file about all runs below a folder");
  report->add_option("runs", runs, "the folder")->capture_default_str();
  report->add_option("-o,--out", report_out, "the file (default: RUNS/report.html)");
  Path figures_out;
  report->add_option("--figures", figures_out, "a folder for every figure as SVG, CSV and PNG");

  CLI::App* convert = app.add_subcommand("convert", "a torchvision ResNet state dict in safetensors to a model file, or a check of one");
  Path in, out;
  convert->add_option("in", in, "safetensors file")->required();
  convert->add_option("-o,--out", out, "where to write; omitted: only look");

  CLI::App* data = app.add_subcommand("data", "make, check and look at datasets");
  data->require_subcommand(1);
  DataConfig data_options;
  int64_t px = 32;
  SheetOptions sheet;
  Path folder, data_out;
  double test_share = 0.2;
  auto add_source = [&](CLI::App* sub) {
    sub->add_option("--name", data_options.name, "shapes, cifar10, cifar100, images, imagenet or imagenet_lt")->capture_default_str();
    sub->add_option("--root", data_options.root, "folder of the files");
    sub->add_option("--train-list", data_options.train_list, "list of training images (images, imagenet, imagenet_lt)");
    sub->add_option("--test-list", data_options.test_list, "list of test images (likewise)");
    sub->add_option("--packs", data_options.packs, "folder of the packed files (likewise; default: ROOT/packs)");
    sub->add_option("--pack-px", data_options.pack_px, "short side that larger images are shrunk to when they are packed; 0: none")->capture_default_str();
    sub->add_option("--imbalance", data_options.imbalance, "largest class over smallest")->capture_default_str();
    sub->add_option("--train", data_options.train_size, "training images (shapes)")->capture_default_str();
    sub->add_option("--test", data_options.test_size, "test images (shapes)")->capture_default_str();
    sub->add_option("--seed", data_options.seed, "seed")->capture_default_str();
  };
  CLI::App* fetch = data->add_subcommand("fetch", "download CIFAR from its official place, check it and unpack it; goes on where it was interrupted");
  FetchOptions fetch_options{.root = "datasets"};
  fetch->add_option("name", fetch_options.name, "cifar10 or cifar100")->required();
  fetch->add_option("--root", fetch_options.root, "folder to put the files in")->capture_default_str();
  fetch->add_option("--url", fetch_options.url, "of a mirror");
  fetch->add_option("--md5", fetch_options.md5, "expected checksum of the archive (default: the published one)");
  CLI::App* pack = data->add_subcommand("pack", "decode the images of a folder or list once, into checksummed files that runs map into memory");
  add_source(pack);
  bool rebuild = false;
  pack->add_flag("--rebuild", rebuild, "make packed files again that fit another list or size");
  CLI::App* generate = data->add_subcommand("generate", "write a dataset in the CIFAR-100 binary format");
  add_source(generate);
  generate->add_option("-o,--out", data_out, "folder to write")->required();
  CLI::App* verify = data->add_subcommand("verify", "read everything and check every record");
  add_source(verify);
  CLI::App* show = data->add_subcommand("show", "a contact sheet of augmented views as PNG");
  add_source(show);
  show->add_option("--view", sheet.view, "all side by side, or weak, strong, base or test alone")->capture_default_str();
  show->add_option("--px", px, "side of the views; 32: native CIFAR; 224: enlarged")->capture_default_str();
  show->add_option("--count", sheet.count, "images")->capture_default_str();
  show->add_option("--draws", sheet.draws, "of each random view, with --view all")->capture_default_str();
  show->add_option("settings", words, "settings of the views as in a recipe, e.g. data.pipeline=imagenet data.randaugment=timm_old");
  show->add_option("-o,--out", sheet.png, "the PNG")->capture_default_str();
  CLI::App* import = data->add_subcommand("import", "your images, one sub-folder per class, as a CIFAR-100-format dataset");
  import->add_option("folder", folder, "FOLDER/<class>/<image>.png|jpg")->required();
  import->add_option("-o,--out", data_out, "folder to write")->required();
  import->add_option("--test-share", test_share, "share of every class kept for testing")->capture_default_str();
  import->add_option("--seed", data_options.seed, "seed of that choice")->capture_default_str();

  CLI::App* demo_verb = app.add_subcommand("demo", "needs nothing: two teachers, a baseline and a student on generated images, ending in a report");
  Path demo_out = "kd_demo";
  bool demo_quiet = false;
  demo_verb->add_option("--out", demo_out, "folder for the runs and report.html")->capture_default_str();
  demo_verb->add_flag("--quiet", demo_quiet, "no progress");
  demo_verb->add_option("--device", device_name, devices);

  CLI11_PARSE(app, argc, argv);
  if (*doctor_verb) return doctor();
  const Device device = device_from_name(device_name);
  run.device = eval_options.device = device;
  set_conv_tuning(no_tune ? ConvTuning::fixed : ConvTuning::timed);
  run.launch = no_graph ? Launch::eager : Launch::graph;

  if (*grid) {
    const RecipeWords split = split_words(words);
    KD_INPUT(!split.file.empty(), "which grid? e.g. kd_bench grid recipes/ci_grid28.yaml");
    grid_options.run = run;
    grid_options.wait = !no_wait;
    grid_options.stale_seconds = stale_minutes * 60;
    return run_grid(split.file, split.settings, grid_options);
  }
  if (*train || *distill) {
    const Recipe recipe = recipe_from(words);
    if (*train) KD_INPUT(recipe.teachers.empty(), "the recipe names teachers; use 'kd_bench distill' for a student");
    if (*distill) KD_INPUT(!recipe.teachers.empty(), "no teachers: add e.g. teachers=[runs/shapes/T1w/seed0], or use 'kd_bench train'");
    const Path path = train_run(recipe, run);
    if (!run.quiet) fmt::print("{}\nNext: kd_bench eval {}\n", path.string(), path.string());
  } else if (*config_keys) {
    fmt::print("{}", recipe_help());
  } else if (*config_show) {
    const RecipeWords split = split_words(words);
    fmt::print("{}", recipe_show(split.file, split.settings));
  } else if (*config_diff) {
    fmt::print("{}", recipe_diff(left, right, words));
  } else if (*eval) {
    if (offline) {
      for (const Path& path : run_dirs) recompute_metrics(path, eval_options);
    } else {
      Evaluator evaluator(eval_options);
      for (const Path& path : run_dirs) evaluator.evaluate(path);
    }
    if (!eval_options.quiet) fmt::print("Next: kd_bench table, kd_bench report\n");
  } else if (*table) {
    print_tables(runs, table_options);
  } else if (*report) {
    if (report_out.empty()) report_out = runs / "report.html";
    const int64_t figures = write_report(runs, report_out, figures_out);
    fmt::print("{}\n", report_out.string());
    if (!figures_out.empty()) {
      fmt::print("{}: {} figures as SVG{}\n", figures_out.string(), figures, draws_png() ? ", CSV and PNG" : " and CSV");
      if (!draws_png()) fmt::print("PNG files need a kd_bench built with librsvg (Debian: librsvg2-dev); the report's PNG buttons do not\n");
    }
  } else if (*convert) {
    convert_model(in, out);
  } else if (*fetch) {
    fetch_data(fetch_options);
  } else if (*pack) {
    pack_data(data_options, rebuild ? Rebuild::yes : Rebuild::no);
  } else if (*generate) {
    generate_data(data_options, data_out);
  } else if (*verify) {
    verify_data(data_options);
  } else if (*show) {
    words.insert(words.begin(), {"data.name=" + data_options.name, fmt::format("data.px={}", px)});
    sheet.seed = data_options.seed;
    show_views(data_options, augment_config(load_recipe({}, words)), sheet);
  } else if (*import) {
    images_to_cifar(folder, data_out, test_share, data_options.seed);
  } else if (*demo_verb) {
    demo(demo_out, device, demo_quiet);
  }
  return 0;
}

}  // namespace
}  // namespace kd

int main(int argc, char** argv) {
  try {
    kd::start_process(argv);
    const int status = kd::run_main(argc, argv);
    kd::flush_output();
    return status;
  } catch (const std::exception& e) {
    std::fflush(stdout);
    fmt::print(stderr, "kd_bench: {}\n", kd::as_one_line(e.what()));
    return 1;
  }
}
