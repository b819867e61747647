// kd_bench_augment: single image operations and whole training views, timed on one thread. tools/bench_augment.py drives it: it asks for a case's images,
// decisions and our views, so that Pillow and torchvision do the same work, and times all three alternately.
// One request a line on standard input, one line back:
//   list                 the names of the cases
//   describe CASE FILE   the decisions as JSON; FILE becomes the images u8 [n,h,w,3] and then our views u8 [records,px,px,3]
//   time CASE SECONDS    processor microseconds an image, one number a pass over the records. Not wall time: neighbours on the core must not count.
#include <ctime>
#include <iostream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "data/augment.h"
#include "engine/base/file.h"

namespace kd {
namespace {

struct AugmentCase {
  std::string name;
  AugmentShape shape = {};
  std::array<float, 3> mean{.485f, .456f, .406f}, std{.229f, .224f, .225f};
  std::vector<AugmentRecord> records = {};
  DType out = DType::u8;
};

AugmentRecord whole(const AugmentShape& s, int64_t image) {
  const auto px = int32_t(s.px);
  return {.image = image, .crop = {0, 0, int32_t(s.h), int32_t(s.w)}, .resized_height = px, .resized_width = px};
}

// An operation alone, on images that already have the side of the view.
AugmentCase op_case(const std::string& name, int64_t px, const OpCall& call) {
  AugmentCase c{.name = fmt::format("{}_{}", name, px), .shape = {.n = 32, .h = px, .w = px, .px = px}};
  for (int64_t i = 0; i < c.shape.n; ++i) {
    c.records.push_back(whole(c.shape, i));
    c.records.back().ops[0] = call;
  }
  return c;
}

AugmentCase view_case(const std::string& name, const AugmentShape& shape, View view, Pipeline pipeline, DType out) {
  AugmentCase c{.name = name, .shape = shape, .out = out};
  const AugmentConfig config{.px = shape.px, .mean = c.mean, .std = c.std, .pipeline = pipeline};
  const int64_t records = shape.px <= 64 ? 1024 : 128;
  for (int64_t i = 0; i < records; ++i) {
    c.records.push_back(draw_record(shape.h, shape.w, i, view, config, 1, 0));
    c.records.back().image = i % shape.n;
  }
  return c;
}

std::vector<AugmentCase> augment_cases() {
  std::vector<AugmentCase> cases;
  const AugmentShape photo{.n = 16, .h = 375, .w = 500, .px = 224}, small{.n = 256, .h = 32, .w = 32, .px = 32},
      enlarged{.n = 256, .h = 32, .w = 32, .px = 224};
  for (DType out : {DType::u8, DType::f32}) {
    const std::string suffix = out == DType::u8 ? "" : "_f32";
    for (View view : {View::weak, View::strong}) {
      cases.push_back(view_case(fmt::format("cifar32_{}{}", to_string(view), suffix), small, view, Pipeline::cifar, out));
      cases.push_back(view_case(fmt::format("cifar224_{}{}", to_string(view), suffix), enlarged, view, Pipeline::cifar, out));
      cases.push_back(view_case(fmt::format("imagenet224_{}{}", to_string(view), suffix), photo, view, Pipeline::imagenet, out));
    }
  }
  for (const auto& [name, resample] : {std::pair{"resize_bilinear", Resample::bilinear}, {"resize_bicubic", Resample::bicubic}})
    for (const AugmentShape& shape : {AugmentShape{16, 350, 350, 224}, AugmentShape{256, 32, 32, 224}}) {
      AugmentCase c{.name = fmt::format("{}_{}_{}", name, shape.h, shape.px), .shape = shape};
      for (int64_t i = 0; i < 16; ++i) {
        c.records.push_back(whole(shape, i));
        c.records.back().resample = resample;
      }
      cases.push_back(std::move(c));
    }
  for (int64_t px : {32, 224}) {
    cases.push_back(op_case("flip", px, {}));
    for (AugmentRecord& r : cases.back().records) r.flip = true;
    for (const auto& [op, value] : {std::pair{PixelOp::brightness, 1.3},
                                    {PixelOp::contrast, 1.3},
                                    {PixelOp::color, 1.3},
                                    {PixelOp::sharpness, 1.3},
                                    {PixelOp::autocontrast, 0.0},
                                    {PixelOp::equalize, 0.0},
                                    {PixelOp::invert, 0.0},
                                    {PixelOp::solarize, 128.0},
                                    {PixelOp::posterize, 4.0}})
      cases.push_back(op_case(to_string(op), px, {.op = op, .value = value}));
    const Rgb fill{124, 116, 104};
    for (const auto& [name, resample] : {std::pair{"nearest", Resample::nearest}, {"bilinear", Resample::bilinear}, {"bicubic", Resample::bicubic}}) {
      cases.push_back(op_case(fmt::format("rotate_{}", name), px, {.op = PixelOp::rotate, .value = 11, .resample = resample, .fill = fill}));
      cases.push_back(
          op_case(fmt::format("translate_x_{}", name), px, {.op = PixelOp::translate_x, .value = .2 * double(px), .resample = resample, .fill = fill}));
      if (resample == Resample::nearest) continue;
      cases.push_back(op_case(fmt::format("shear_x_{}", name), px, {.op = PixelOp::shear_x, .value = .2, .resample = resample, .fill = fill}));
      cases.push_back(op_case(fmt::format("shear_y_{}", name), px, {.op = PixelOp::shear_y, .value = .2, .resample = resample, .fill = fill}));
    }
  }
  return cases;
}

// Smooth blobs under noise.
Tensor images_of(const AugmentShape& s) {
  Rng rng(0x5eed, Purpose::test, uint32_t(s.h));
  const Tensor images = Tensor::empty({s.n, s.h, s.w, 3}, DType::u8);
  for (int64_t i = 0; i < images.elements(); ++i)
    images.data<uint8_t>()[i] = uint8_t(std::clamp(120 + 70 * std::sin(double(i) * .013) + 25 * rng.normal(), 0.0, 255.0));
  return images;
}

class Timed {
 public:
  explicit Timed(const AugmentCase& c) : case_(c), images_(images_of(c.shape)) {
    for (const AugmentRecord& r : c.records) prepared_.push_back(prepare(r, c.shape));
  }
  Tensor views(DType type) const {
    const Tensor out = Tensor::empty({int64_t(prepared_.size()), case_.shape.px, case_.shape.px, 3}, type);
    make(out);
    return out;
  }
  std::vector<double> microseconds(double seconds) const {
    const Tensor out = views(case_.out);  // an untimed pass: tables are made, pages are there
    std::vector<double> each;
    for (double sum = 0; each.size() < 5 || sum < seconds;) {
      const double start = now();
      make(out);
      const double pass = now() - start;
      sum += pass;
      each.push_back(1e6 * pass / double(prepared_.size()));
    }
    return each;
  }
  const Tensor& images() const { return images_; }

 private:
  static double now() {
    timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return double(t.tv_sec) + 1e-9 * double(t.tv_nsec);
  }
  void make(const Tensor& out) const {
    augment_records({}, {.images = images_.data<uint8_t>(),
                         .shape = case_.shape,
                         .records = prepared_.data(),
                         .batch = int64_t(prepared_.size()),
                         .out = out.raw(),
                         .type = out.dtype(),
                         .mean = case_.mean,
                         .std = case_.std});
  }

  AugmentCase case_;
  Tensor images_;
  std::vector<PreparedRecord> prepared_;
};

const char* to_string(Resample resample) { return resample == Resample::nearest ? "nearest" : resample == Resample::bilinear ? "bilinear" : "bicubic"; }
nlohmann::json to_json(const PixelRect& r) { return {r.top, r.left, r.height, r.width}; }
nlohmann::json to_json(const AugmentRecord& r) {
  nlohmann::json ops = nlohmann::json::array();
  for (const OpCall& call : r.ops)
    if (call.op != PixelOp::none)
      ops.push_back(
          {{"op", to_string(call.op)}, {"value", call.value}, {"resample", to_string(call.resample)}, {"fill", {call.fill.r, call.fill.g, call.fill.b}}});
  return {{"image", r.image},
          {"crop", to_json(r.crop)},
          {"resized", {r.resized_height, r.resized_width}},
          {"resample", to_string(r.resample)},
          {"window", {r.window_top, r.window_left}},
          {"flip", r.flip},
          {"ops", ops},
          {"cutout", to_json(r.cutout)}};
}

std::string describe(const AugmentCase& c, const std::string& file) {
  const Timed timed(c);
  const Tensor views = timed.views(DType::u8);
  std::string bytes(static_cast<const char*>(timed.images().raw()), size_t(timed.images().bytes()));
  bytes.append(static_cast<const char*>(views.raw()), size_t(views.bytes()));
  write_atomically(file, bytes);
  nlohmann::json records = nlohmann::json::array();
  for (const AugmentRecord& r : c.records) records.push_back(to_json(r));
  return nlohmann::json{{"n", c.shape.n}, {"h", c.shape.h}, {"w", c.shape.w},    {"px", c.shape.px}, {"f32", c.out == DType::f32},
                        {"mean", c.mean}, {"std", c.std},   {"records", records}}
      .dump();
}

std::string answer(const std::string& request, const std::vector<AugmentCase>& cases) {
  std::istringstream in(request);
  std::string verb, name, argument;
  in >> verb >> name >> argument;
  if (verb == "list") {
    std::vector<std::string> names;
    for (const AugmentCase& c : cases) names.push_back(c.name);
    return fmt::format("{}", fmt::join(names, " "));
  }
  for (const AugmentCase& c : cases) {
    if (c.name != name || argument.empty()) continue;
    if (verb == "describe") return describe(c, argument);
    if (verb == "time") return fmt::format("{:.3f}", fmt::join(Timed(c).microseconds(std::stod(argument)), " "));
  }
  throw Error(fmt::format("cannot read '{}'; expected: list | describe CASE FILE | time CASE SECONDS", request));
}

}  // namespace
}  // namespace kd

int main(int, char** argv) try {
  kd::start_process(argv);
  const std::vector<kd::AugmentCase> cases = kd::augment_cases();
  for (std::string line; std::getline(std::cin, line);) std::cout << kd::answer(line, cases) << std::endl;
  return 0;
} catch (const std::exception& e) {
  std::cerr << "kd_bench_augment: " << e.what() << "\n";
  return 1;
}
