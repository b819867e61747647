// F6: where the models look, on eight images chosen by rule.
#include <algorithm>
#include <cmath>

#include "bench/figures.h"
#include "bench/png.h"
#include "bench/svg.h"
#include "engine/base/check.h"

namespace kd {
namespace {

constexpr int64_t kPicturePx = 96;  // of an embedded picture, at most

const char* mask_color(const std::string& model) {  // the report's colours, lightened for dark pictures
  return model == "S" ? "#ff8a3c" : model == "T1" ? "#45aeff" : model == "T2" ? "#2be0a3" : model == "T3" ? "#c5e8ff" : "#f0a8cd";
}

struct SeenImage {
  const GalleryItem* item;
  std::vector<const GalleryModel*> models;  // teachers in order, then the student
  std::vector<std::vector<uint8_t>> masks;  // [model][px, px]
  double overlap;                           // IoU of the first two models: T1 and T2, or the only teacher and the student
  std::string rule;                         // why it is shown
  bool right(const GalleryModel& m) const { return m.pred == item->label; }
};

std::vector<uint8_t> mask_of(const GalleryModel& model, int64_t px, double threshold) {
  Tensor map = Tensor::empty({1, model.side, model.side}, DType::f32);
  std::copy(model.map.begin(), model.map.end(), map.data<float>());
  const Tensor unit = unit_maps(map, px);
  std::vector<uint8_t> mask(size_t(px * px));
  for (size_t i = 0; i < mask.size(); ++i) mask[i] = unit.data<float>()[i] > float(threshold);
  return mask;
}

double iou(const std::vector<uint8_t>& a, const std::vector<uint8_t>& b) {
  int64_t both = 0, any = 0;
  for (size_t i = 0; i < a.size(); ++i) both += a[i] & b[i], any += a[i] | b[i];
  return any ? double(both) / double(any) : kNotMeasured;
}

std::vector<SeenImage> seen_images(const Gallery& gallery, double threshold) {
  std::vector<SeenImage> out;
  for (const GalleryItem& item : gallery.items) {
    SeenImage seen{&item, {}, {}, kNotMeasured, ""};
    for (const GalleryModel& m : item.models)
      if (m.name != "S") seen.models.push_back(&m);
    for (const GalleryModel& m : item.models)
      if (m.name == "S") seen.models.push_back(&m);
    for (const GalleryModel* m : seen.models) seen.masks.push_back(mask_of(*m, gallery.px, threshold));
    if (seen.masks.size() > 1) seen.overlap = iou(seen.masks[0], seen.masks[1]);
    out.push_back(std::move(seen));
  }
  return out;
}

// Two each of the lowest, the median and the highest overlap and of a student that is right where every teacher is wrong; the first ones fill up.
std::vector<SeenImage> chosen_by_rule(std::vector<SeenImage> all) {
  constexpr size_t kEach = 2, kImages = 8;
  constexpr const char *kLowest = "lowest overlap", *kMedian = "median overlap", *kHighest = "highest overlap", *kBeats = "student right, teachers wrong";
  std::vector<SeenImage> chosen;
  auto take = [&](size_t index, const char* rule) {
    all[index].rule = rule;
    chosen.push_back(all[index]);
    all.erase(all.begin() + std::ptrdiff_t(index));
  };
  for (size_t i = 0; i < all.size() && chosen.size() < kEach;) {
    const SeenImage& s = all[i];
    const bool teachers_wrong = std::none_of(s.models.begin(), s.models.end() - 1, [&](const GalleryModel* m) { return s.right(*m); });
    if (s.models.size() > 1 && s.right(*s.models.back()) && teachers_wrong)
      take(i, kBeats);
    else
      ++i;
  }
  std::stable_sort(all.begin(), all.end(), [](const SeenImage& a, const SeenImage& b) {
    return (std::isfinite(a.overlap) ? a.overlap : 2) < (std::isfinite(b.overlap) ? b.overlap : 2);
  });
  auto known = [&] { return size_t(std::count_if(all.begin(), all.end(), [](const SeenImage& s) { return std::isfinite(s.overlap); })); };
  for (size_t k = 0; k < kEach && known(); ++k) take(0, kLowest);
  for (size_t k = 0; k < kEach && known(); ++k) take(known() - 1, kHighest);
  for (size_t k = 0; k < kEach && known(); ++k) take((known() - 1) / 2, kMedian);
  while (chosen.size() < kImages && !all.empty()) take(0, "");
  const std::string_view order[] = {kLowest, kMedian, kHighest, kBeats, ""};
  auto rank = [&](const SeenImage& s) { return std::find(std::begin(order), std::end(order), s.rule); };
  std::stable_sort(chosen.begin(), chosen.end(), [&](const SeenImage& a, const SeenImage& b) { return rank(a) < rank(b); });
  return chosen;
}

}  // namespace

std::vector<ReportFigure> attention_figures(const Groups& groups) {
  const std::string title = "Where the models look";
  const Groups students = students_of(groups), &candidates = students.empty() ? groups : students;
  // The first experiment with most teachers up to two: overlap is that of T1 and T2.
  const RunSummary* run = nullptr;
  std::string label;
  Gallery gallery;
  for (const RunGroup& g : candidates) {
    const RunSummary* r = evaluated_run(g);
    if (!r || (run && std::min<size_t>(r->teachers.size(), 2) <= std::min<size_t>(run->teachers.size(), 2))) continue;
    Gallery found = read_gallery(*r);
    if (!found.items.empty()) run = r, label = g.label, gallery = std::move(found);
  }
  if (!run) return {{.id = "f6", .title = title, .caption = "", .missing = "No run keeps pictures with attention maps; kd_bench eval makes them."}};

  const double threshold = std::isfinite(run->map_threshold) ? run->map_threshold : 0.4;
  const std::vector<SeenImage> shown = chosen_by_rule(seen_images(gallery, threshold));
  ReportFigure figure{
      .id = "f6",
      .title = fmt::format("{}: {}, seed {}", title, label, run->seed),
      .caption = fmt::format("{} maps above {:g} of their range; what lies outside is darkened{}. Chosen by rule from the {} images that the run keeps.",
                             gallery.kind.empty() ? "Attention" : gallery.kind, threshold, gallery.items[0].truth.empty() ? "" : "; dashed: the true object",
                             gallery.items.size()),
      .columns = 2,
      .data = {.title = title,
               .columns = {{"index", "image", Column::Kind::number, 0},
                           {"label", "class"},
                           {"rule", "chosen as"},
                           {"model", "model"},
                           {"prediction", "prediction"},
                           {"confidence", "confidence", Column::Kind::number, 3},
                           {"area", "mask area", Column::Kind::number, 3},
                           {"iou_first", "IoU with the first", Column::Kind::number, 3}}}};
  auto name_of = [&](int64_t label_index) {
    return label_index >= 0 && size_t(label_index) < gallery.class_names.size() ? gallery.class_names[size_t(label_index)]
                                                                                : fmt::format("class {}", label_index);
  };
  for (const SeenImage& s : shown) {
    const std::vector<uint8_t> small = thumbnail(s.item->image, gallery.px, kPicturePx);
    const int64_t side = std::min(gallery.px, kPicturePx);
    svg::Overlay overlay{.id = fmt::format("f6-{}", figure.panels.size()),
                         .png_base64 = base64(encode_png(small.data(), side, side)),
                         .px = gallery.px,
                         .says = name_of(s.item->label),
                         .truth = s.item->truth,
                         .masks = {}};
    for (size_t k = 0; k < s.models.size(); ++k) {
      const GalleryModel& m = *s.models[k];
      const std::string says = name_of(m.pred);
      overlay.masks.push_back({m.name, (s.right(m) ? "" : "✗ ") + says, mask_color(m.name), s.masks[k]});
      const double area = double(std::count(s.masks[k].begin(), s.masks[k].end(), 1)) / double(s.masks[k].size());
      figure.data.rows.push_back({double(s.item->index), name_of(s.item->label), s.rule, m.name, says, m.conf, area, iou(s.masks[0], s.masks[k])});
    }
    std::string heading = fmt::format("#{}", s.item->index);
    if (std::isfinite(s.overlap)) heading += fmt::format("  IoU({},{}) {:.2f}", s.models[0]->name, s.models[1]->name, s.overlap);
    if (!s.rule.empty()) heading += ", " + s.rule;
    figure.panels.push_back(svg::overlays({.label = fmt::format("Image {}, class {}, with the masks of every model", s.item->index, name_of(s.item->label)),
                                           .width = 440,
                                           .height = 0,
                                           .notes = {heading}},
                                          overlay));
  }
  return {std::move(figure)};
}

}  // namespace kd
