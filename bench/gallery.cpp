#include "bench/gallery.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "bench/figures.h"
#include "bench/png.h"
#include "bench/report.h"
#include "bench/svg.h"
#include "engine/base/check.h"

namespace kd {
namespace {

using nlohmann::json;
using svg::escape;

constexpr int64_t kPicturePx = 96;  // of an embedded picture, at most

std::string packed_bits(const std::vector<uint8_t>& mask) {
  std::vector<uint8_t> bits((mask.size() + 7) / 8);
  for (size_t i = 0; i < mask.size(); ++i) bits[i / 8] |= uint8_t((mask[i] != 0) << (i % 8));
  return base64(bits);
}

// Half a unit of 65535 is far below what moves a mask's edge by a pixel.
std::string packed_map(const std::vector<float>& map) {
  const auto [lo, hi] = std::minmax_element(map.begin(), map.end());
  std::vector<uint8_t> bytes;
  for (float v : map) {
    const auto level = uint16_t(*hi > *lo ? std::lround(65535.0 * (double(v) - double(*lo)) / (double(*hi) - double(*lo))) : 0);
    bytes.push_back(uint8_t(level & 255));
    bytes.push_back(uint8_t(level >> 8));
  }
  return base64(bytes);
}

// Texts that many entries share: each is kept once, entries hold its place.
class Pool {
 public:
  size_t place(const std::string& text) {
    auto [it, fresh] = places_.emplace(text, texts_.size());
    if (fresh) texts_.push_back(text), size_ += text.size() + 3;
    return it->second;
  }
  // Forgets what came after the first `count`.
  void cut(size_t count) {
    while (texts_.size() > count) size_ -= texts_.back().size() + 3, places_.erase(texts_.back()), texts_.pop_back();
  }
  const std::vector<std::string>& texts() const { return texts_; }
  size_t size() const { return size_; }

 private:
  std::vector<std::string> texts_;
  std::map<std::string, size_t> places_;
  size_t size_ = 0;
};

// What the page's script draws from.
class GalleryData {
 public:
  // Adds a run's gallery unless that would need more than `room` bytes in all; says whether it did.
  bool add(const std::string& label, const Gallery& gallery, size_t room) {
    std::vector<std::string> models;
    for (const GalleryModel& m : gallery.items[0].models)
      if (m.name != "S") models.push_back(m.name);
    models.push_back("S");
    json items = json::array();
    const size_t pictures = pictures_.texts().size(), maps = maps_.texts().size();
    for (const GalleryItem& item : gallery.items) {
      json seen = json::object();
      for (const GalleryModel& m : item.models)
        seen[m.name] = json::array({m.pred, std::isfinite(m.conf) ? json(std::round(m.conf * 1e4) / 1e4) : json(), m.side, 0});
      if (!std::all_of(models.begin(), models.end(), [&](const std::string& name) { return seen.contains(name); })) continue;
      for (const GalleryModel& m : item.models) seen[m.name][3] = maps_.place(packed_map(m.map));
      json entry{{"index", item.index}, {"label", item.label}, {"models", seen}};
      entry["picture"] = pictures_.place(base64(thumbnail(item.image, gallery.px, kPicturePx)));
      if (!item.truth.empty()) entry["truth"] = maps_.place(packed_bits(item.truth));
      items.push_back(std::move(entry));
    }
    if (items.empty()) return true;
    json entry{{"px", gallery.px}, {"models", models}, {"class_names", gallery.class_names}, {"items", std::move(items)}};
    const size_t added = entry.dump().size() + 8;
    if (size_ + added + pictures_.size() + maps_.size() > room) {
      pictures_.cut(pictures), maps_.cut(maps);
      return false;
    }
    size_ += added;
    galleries_.push_back(std::move(entry));
    labels_.push_back(label);
    return true;
  }
  const std::vector<std::string>& labels() const { return labels_; }
  // For a <script> element: "<" could end it.
  std::string text() const {
    const std::string plain = json{{"pictures", pictures_.texts()}, {"maps", maps_.texts()}, {"galleries", galleries_}}.dump();
    std::string out;
    for (char c : plain) c == '<' ? out += "\\u003c" : out += c;
    return out;
  }

 private:
  json galleries_ = json::array();
  std::vector<std::string> labels_;
  Pool pictures_, maps_;
  size_t size_ = 0;
};

}  // namespace

std::string gallery_html(const Groups& groups, size_t room) {
  GalleryData galleries;
  std::vector<std::string> left_out;
  double threshold = 0.4;
  std::string kind;
  for (const RunGroup& g : groups) {
    const RunSummary* run = evaluated_run(g);
    if (!run) continue;
    const Gallery gallery = read_gallery(*run);
    if (gallery.items.empty()) continue;
    if (!galleries.add(fmt::format("{}, seed {}", g.label, run->seed), gallery, room - std::min<size_t>(room, 10'000))) left_out.push_back(g.label);
    if (std::isfinite(run->map_threshold)) threshold = run->map_threshold;
    kind = gallery.kind;
  }
  std::string out;
  if (!galleries.labels().empty()) {
    std::string runs;
    for (size_t i = 0; i < galleries.labels().size(); ++i) runs += fmt::format("<option value=\"{}\">{}</option>", i, escape(galleries.labels()[i]));
    constexpr const char* kControls = R"(<p>Where each model finds the evidence for its answer ({0} maps). The coloured outline is the mask above the threshold;
the white one, where the data know it, is the object. Move the threshold: masks and IoU follow.</p>
<div class="tools" id="gallery-tools" hidden>
<label>Run <select id="gallery-run">{1}</select></label>
<label>Show <select id="gallery-filter"><option value="all">all images</option><option value="low">lowest IoU of the first two</option><option value="median">median IoU</option><option value="high">highest IoU</option><option value="beats">student right, teachers wrong</option><option value="wrong">student wrong</option><option value="differ">models disagree</option></select></label>
<label>Layer <select id="gallery-layer"><option value="heat">heat and mask</option><option value="mask">mask only</option></select></label>
<label>Threshold <input id="gallery-threshold" type="range" min="0.05" max="0.95" step="0.01" value="{2:.2f}"> <output id="gallery-value" for="gallery-threshold"></output></label>
</div>
<p class="note" id="gallery-mean" aria-live="polite"></p>
<div class="cards" id="gallery"><noscript>The gallery is drawn by a script, which this browser does not run.</noscript></div>
<script type="application/json" id="gallery-data">{3}</script>
)";
    out += fmt::format(fmt::runtime(kControls), escape(kind), runs, threshold, galleries.text());
  }
  if (!left_out.empty())
    out += fmt::format(
        "<p class=\"note\">To keep this file below {} MB the galleries of {} were left out; a report of such a run's own folder shows its gallery.</p>\n",
        kReportBytes / 1'000'000, escape(fmt::format("{}", fmt::join(left_out, ", "))));
  return out;
}

}  // namespace kd
