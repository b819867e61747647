#include "bench/svg.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <tuple>

#include "engine/base/check.h"

namespace kd::svg {
namespace {

constexpr double kFontPx = 12, kSmallPx = 11;
constexpr const char* kInk = "#1c2126";  // of files, where the page's colour is not at hand

// Fixed notation without trailing zeros or a negative zero.
std::string fixed(double value, int decimals) {
  std::string text = fmt::format("{:.{}f}", value, decimals);
  if (text.find('.') != text.npos) text.erase(text.find_last_not_of('0') + 1);
  if (text.back() == '.') text.pop_back();
  return text == "-0" ? "0" : text;
}
std::string at(double px) { return fixed(px, 1); }
std::string shown(double value) { return std::abs(value) >= 1e4 || (value != 0 && std::abs(value) < 1e-3) ? fmt::format("{:.3g}", value) : fixed(value, 4); }

// No font is at hand to measure: about the advances of the widest common sans serifs (Verdana, DejaVu), in classes of letters.
double text_width(std::string_view text, double px = kFontPx) {
  constexpr std::string_view kNarrow = "ijl.,:;'|I()[]!f t-r", kWide = "mwMW%@";
  double em = 0;
  for (char c : text) {
    if ((c & 0xC0) == 0x80) continue;  // the rest of a letter
    em += kNarrow.find(c) != kNarrow.npos ? 0.38 : kWide.find(c) != kWide.npos ? 0.9 : c == '_' ? 0.5 : 0.64;
  }
  return em * px;
}

// As much of the text as the width holds.
std::string shortened(const std::string& text, double width, double px = kSmallPx) {
  if (text_width(text, px) <= width + px / 2) return text;
  std::string kept;
  for (size_t i = 0; i < text.size();) {
    size_t next = i + 1;
    while (next < text.size() && (text[next] & 0xC0) == 0x80) ++next;
    if (text_width(kept, px) + 2 * 0.62 * px > width) break;
    kept += text.substr(i, next - i);
    i = next;
  }
  return kept + "…";
}

std::string segment(double x1, double y1, double x2, double y2) { return fmt::format("M{} {}L{} {}", at(x1), at(y1), at(x2), at(y2)); }
std::string box(double x, double y, double width, double height) { return fmt::format("M{} {}h{}v{}h{}z", at(x), at(y), at(width), at(height), at(-width)); }

enum class Anchor { start, middle, end };

class Drawing {
 public:
  Drawing(const std::string& label, double width, double height)
      : out_(fmt::format("<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {0} {1}\" width=\"{0}\" height=\"{1}\" role=\"img\" aria-label=\"{2}\" "
                         "font-size=\"{3}\" fill=\"currentColor\">\n",
                         at(width), at(height), escape(label), at(kFontPx))) {}

  void text(double x, double y, Anchor anchor, std::string_view words, std::string_view more = "") {
    constexpr const char* kAnchors[] = {"", " text-anchor=\"middle\"", " text-anchor=\"end\""};
    out_ += fmt::format("<text x=\"{}\" y=\"{}\"{}{}{}>{}</text>\n", at(x), at(y), kAnchors[int(anchor)], more.empty() ? "" : " ", more, escape(words));
  }
  void line(double x1, double y1, double x2, double y2, std::string_view style) { path(segment(x1, y1, x2, y2), style); }
  void rect(double x, double y, double width, double height, std::string_view style, const std::string& tip = "") {
    out_ += fmt::format("<rect x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\" {}", at(x), at(y), at(width), at(height), style);
    end("rect", tip);
  }
  void circle(double x, double y, double radius, std::string_view style, const std::string& tip = "") {
    out_ += fmt::format("<circle cx=\"{}\" cy=\"{}\" r=\"{}\" {}", at(x), at(y), at(radius), style);
    end("circle", tip);
  }
  void path(const std::string& d, std::string_view style, const std::string& tip = "") {
    out_ += fmt::format("<path d=\"{}\" {}", d, style);
    end("path", tip);
  }
  void open_group(std::string_view style) { out_ += fmt::format("<g {}>\n", style); }
  void close_group() { out_ += "</g>\n"; }
  void raw(const std::string& element) { out_ += element + "\n"; }
  std::string done() { return out_ + "</svg>"; }

 private:
  void end(const char* element, const std::string& tip) {
    out_ += tip.empty() ? std::string("/>\n") : fmt::format("><title>{}</title></{}>\n", escape(tip), element);
  }

  std::string out_;
};

constexpr const char *kGrid = "stroke=\"currentColor\" stroke-opacity=\".13\"", *kAxisLine = "stroke=\"currentColor\" stroke-opacity=\".45\"";
constexpr const char *kMuted = "fill-opacity=\".72\"", *kSmall = "fill-opacity=\".72\" font-size=\"11\"";

// Values to pixels, with ticks at 1, 2 or 5 times a power of ten.
struct Scale {
  double lo, hi, from_px, to_px;
  std::vector<double> ticks;
  int decimals;
  double operator()(double value) const { return from_px + (value - lo) / (hi - lo) * (to_px - from_px); }
  std::string name(double tick) const {
    const std::string text = fmt::format("{:.{}f}", tick, decimals);
    return text[0] == '-' ? "−" + text.substr(1) : text;
  }
};

enum class Ends { ticks, data };

Scale scale_for(const Axis& axis, std::vector<double> values, Ends ends, int wanted, double from_px, double to_px) {
  std::erase_if(values, [](double v) { return !std::isfinite(v); });
  auto [low, high] = std::minmax_element(values.begin(), values.end());
  double lo = values.empty() ? 0 : *low, hi = values.empty() ? 1 : *high;
  const bool whole = !values.empty() && std::all_of(values.begin(), values.end(), [](double v) { return v == std::round(v); });
  if (std::isfinite(axis.lo)) lo = axis.lo;
  if (std::isfinite(axis.hi)) hi = axis.hi;
  if (!(hi - lo > 1e-9 * std::max(std::abs(lo), std::abs(hi)))) {  // one value, or none beyond the fixed end
    const double around = lo == 0 ? 1 : 0.1 * std::abs(lo);
    if (!std::isfinite(axis.hi)) hi = lo + around;
    if (!std::isfinite(axis.lo)) lo -= around;
  }
  const double power = std::pow(10, std::floor(std::log10((hi - lo) / wanted)));
  double step = 10 * power;
  for (double factor : {5., 2., 1.})
    if ((hi - lo) / (factor * power) <= wanted) step = factor * power;
  if (ends == Ends::data && whole) step = std::max(step, 1.0);
  if (ends == Ends::ticks && !std::isfinite(axis.lo)) lo = step * std::floor(lo / step + 1e-9);
  if (ends == Ends::ticks && !std::isfinite(axis.hi)) hi = step * std::ceil(hi / step - 1e-9);
  Scale scale{lo, hi, from_px, to_px, {}, std::max(0, int(std::ceil(-std::log10(step) - 1e-9)))};
  for (double k = std::ceil(lo / step - 1e-9); k * step <= hi + 1e-9 * step; ++k) scale.ticks.push_back(k == 0 ? 0 : k * step);
  return scale;
}

// In steps between rounded places: a third shorter than places, and rounding does not add up.
std::string polyline(const std::vector<std::pair<double, double>>& points) {
  std::string d;
  double last_x = 0, last_y = 0;
  for (auto [x, y] : points) {
    const double to_x = std::round(x * 10) / 10, to_y = std::round(y * 10) / 10;
    d += fmt::format("{}{} {}", d.empty() ? "M" : "l", at(to_x - last_x), at(to_y - last_y));
    last_x = to_x, last_y = to_y;
  }
  return d;
}

void draw_mark(Drawing& drawing, Mark mark, double x, double y, std::string_view style, const std::string& tip = "") {
  switch (mark) {
    case Mark::square: drawing.rect(x - 4.5, y - 4.5, 9, 9, style, tip); break;
    case Mark::diamond: drawing.path(polyline({{x, y - 6}, {x + 6, y}, {x, y + 6}, {x - 6, y}}) + "Z", style, tip); break;
    case Mark::triangle: drawing.path(polyline({{x, y - 5.8}, {x + 5.8, y + 4.6}, {x - 5.8, y + 4.6}}) + "Z", style, tip); break;
    default: drawing.circle(x, y, 5, style, tip);
  }
}

// Title, keys in rows and notes from `x`; returns the height taken. Without a drawing it only measures.
double header(Drawing* drawing, const Figure& figure, const std::vector<Key>& keys, double x, double right) {
  double y = 0;
  if (!figure.title.empty()) {
    y += 15;
    if (drawing) drawing->text(x, y, Anchor::start, figure.title, "font-weight=\"600\"");
  }
  if (!keys.empty() && figure.keys == Keys::drawn) {
    double cursor = x;
    y += y > 0 ? 18 : 14;
    for (const Key& key : keys) {
      const double width = 24 + text_width(key.name) + 12;
      if (cursor > x && cursor + width - 12 > right) cursor = x, y += 18;
      if (drawing) {
        if (key.glyph == Glyph::line || key.glyph == Glyph::dashes)
          drawing->line(cursor, y - 4, cursor + 16, y - 4,
                        fmt::format("stroke=\"{}\" stroke-width=\"3\"{}", key.color, key.glyph == Glyph::dashes ? " stroke-dasharray=\"4 3\"" : ""));
        else
          draw_mark(*drawing, key.glyph, cursor + 8, y - 4, fmt::format("fill=\"{}\"", key.color));
        drawing->text(cursor + 22, y, Anchor::start, key.name);
      }
      cursor += width;
    }
  }
  for (const std::string& note : figure.notes) {
    y += y > 0 ? 17 : 13;
    if (drawing) drawing->text(x, y, Anchor::start, note, kSmall);
  }
  return y > 0 ? y + 13 : 8;
}

struct Plot {
  double left, top, right, bottom;
};

void draw_y_axis(Drawing& drawing, const Plot& plot, const Scale& y, const std::string& label) {
  std::string grid;
  for (double tick : y.ticks) grid += segment(plot.left, y(tick), plot.right, y(tick));
  drawing.path(grid, kGrid);
  drawing.open_group("text-anchor=\"end\" fill-opacity=\".72\"");
  for (double tick : y.ticks) drawing.text(plot.left - 7, y(tick) + 4, Anchor::start, y.name(tick));
  drawing.close_group();
  const double middle = (plot.top + plot.bottom) / 2;
  drawing.text(13, middle, Anchor::middle, label, fmt::format("{} transform=\"rotate(-90 13 {})\"", kMuted, at(middle)));
}

enum class Grid { none, lines };
void draw_x_axis(Drawing& drawing, const Plot& plot, const Scale& x, const std::string& label, Grid grid) {
  drawing.line(plot.left, plot.bottom, plot.right, plot.bottom, kAxisLine);
  std::string marks;
  for (double tick : x.ticks) marks += segment(x(tick), grid == Grid::lines ? plot.top : plot.bottom + 4, x(tick), plot.bottom);
  drawing.path(marks, grid == Grid::lines ? kGrid : kAxisLine);
  drawing.open_group("text-anchor=\"middle\" fill-opacity=\".72\"");
  for (double tick : x.ticks) drawing.text(x(tick), plot.bottom + 17, Anchor::start, x.name(tick));
  drawing.close_group();
  drawing.text((plot.left + plot.right) / 2, plot.bottom + 35, Anchor::middle, label, kMuted);
}

// Room for the widest tick and the axis label.
double left_margin(const Axis& axis, const std::vector<double>& values, double height) {
  const Scale probe = scale_for(axis, values, Ends::ticks, 5, height, 0);
  double widest = 0;
  for (double tick : probe.ticks) widest = std::max(widest, text_width(probe.name(tick)));
  return 26 + widest + 7;
}

void say_empty(Drawing& drawing, const Plot& plot) {
  drawing.text((plot.left + plot.right) / 2, (plot.top + plot.bottom) / 2 + 4, Anchor::middle, "no data", kMuted);
}

void check_lengths(const char* chart, const Series& s, size_t groups) {
  KD_CHECK(s.values.size() == groups && (s.errors.empty() || s.errors.size() == groups), "{}: '{}' has {} values and {} errors for {} groups", chart, s.name,
           s.values.size(), s.errors.size(), groups);
}

std::string tip_of(const std::string& group, const Series& s, size_t g, int decimals) {
  const std::string spread = s.error(g) > 0 ? fmt::format(" ± {:.{}f}", s.error(g), decimals) : "";
  return fmt::format("{}, {}: {:.{}f}{}", group, s.name, s.values[g], decimals, spread);
}

}  // namespace

const char* color(size_t index) {
  constexpr const char* kAll[] = {kBlue, kVermilion, kGreen, kSky, kPurple, kOrange};
  return kAll[index % std::size(kAll)];
}

std::string escape(std::string_view text) {
  std::string out;
  for (char c : text) {
    switch (c) {
      case '&': out += "&amp;"; break;
      case '<': out += "&lt;"; break;
      case '>': out += "&gt;"; break;
      case '"': out += "&quot;"; break;
      case '\'': out += "&#39;"; break;
      default: (static_cast<unsigned char>(c) < 0x20 && c != '\n' && c != '\t') || c == 0x7f ? out += "\xEF\xBF\xBD" : out += c;
    }
  }
  return out;
}

double Series::error(size_t group) const { return errors.empty() || !std::isfinite(errors[group]) ? 0 : errors[group]; }

std::string line_chart(const Figure& figure, const Axis& x_axis, const Axis& y_axis, const std::vector<Line>& lines) {
  std::vector<double> xs, ys;
  std::vector<Key> keys;
  for (const Line& line : lines) {
    KD_CHECK(line.x.size() == line.y.size() && line.lo.size() == line.hi.size() && (line.lo.empty() || line.lo.size() == line.x.size()),
             "line_chart: '{}' has {} x, {} y, {} and {} band ends", line.name, line.x.size(), line.y.size(), line.lo.size(), line.hi.size());
    for (size_t i = 0; i < line.x.size(); ++i)
      if (std::isfinite(line.y[i])) xs.push_back(line.x[i]);
    for (const auto* values : {&line.y, &line.lo, &line.hi}) ys.insert(ys.end(), values->begin(), values->end());
    const Key key{line.key.empty() ? line.name : line.key, line.color, line.stroke == Stroke::dashed ? Glyph::dashes : Glyph::line};
    if (std::none_of(keys.begin(), keys.end(), [&](const Key& k) { return k.name == key.name; })) keys.push_back(key);
  }
  if (keys.size() == 1) keys.clear();  // the axis label says it
  Drawing drawing(figure.label, figure.width, figure.height);
  Plot plot{left_margin(y_axis, ys, figure.height), 0, figure.width - 12, figure.height - 42};
  plot.top = header(&drawing, figure, keys, figure.title.empty() && figure.notes.empty() ? plot.left : 2, plot.right);
  const Scale x = scale_for(x_axis, xs, Ends::data, std::min(8, int(figure.width / 50)), plot.left, plot.right),
              y = scale_for(y_axis, ys, Ends::ticks, 5, plot.bottom, plot.top);
  draw_y_axis(drawing, plot, y, y_axis.label);
  draw_x_axis(drawing, plot, x, x_axis.label, Grid::none);
  if (xs.empty()) say_empty(drawing, plot);

  for (const Line& line : lines) {
    std::vector<std::pair<double, double>> band, points;
    std::vector<size_t> kept;
    for (size_t i = 0; i < line.x.size(); ++i)
      if (std::isfinite(line.x[i]) && std::isfinite(line.y[i])) kept.push_back(i), points.push_back({x(line.x[i]), y(line.y[i])});
    if (!line.lo.empty()) {
      for (size_t i : kept)
        if (std::isfinite(line.hi[i])) band.push_back({x(line.x[i]), y(line.hi[i])});
      for (size_t k = kept.size(); k-- > 0;)
        if (std::isfinite(line.lo[kept[k]])) band.push_back({x(line.x[kept[k]]), y(line.lo[kept[k]])});
      if (band.size() > 2) drawing.path(polyline(band) + "Z", fmt::format("fill=\"{}\" fill-opacity=\".18\"", line.color));
    }
    if (points.size() > 1)
      drawing.path(polyline(points),
                   fmt::format("fill=\"none\" stroke=\"{}\" stroke-width=\"{}\" stroke-linejoin=\"round\"{}", line.color, at(line.width),
                               line.stroke == Stroke::dashed ? " stroke-dasharray=\"5 3\"" : ""),
                   line.name);
    if (kept.size() > 24 || (line.width < 2 && kept.size() > 1)) continue;  // dots would only thicken the line
    for (size_t k = 0; k < kept.size(); ++k)
      drawing.circle(points[k].first, points[k].second, 2.4, fmt::format("fill=\"{}\"", line.color),
                     fmt::format("{}, {} {}: {}", line.name, x_axis.label, shown(line.x[kept[k]]), shown(line.y[kept[k]])));
  }
  return drawing.done();
}

std::string scatter_plot(const Figure& figure, const Axis& x_axis, const Axis& y_axis, const std::vector<Point>& all, const std::vector<Key>& keys) {
  std::vector<Point> points = all;
  std::erase_if(points, [](const Point& p) { return !std::isfinite(p.x) || !std::isfinite(p.y); });
  std::vector<double> xs, ys;
  for (Point& p : points) {
    if (!std::isfinite(p.x_error)) p.x_error = 0;
    if (!std::isfinite(p.y_error)) p.y_error = 0;
    xs.insert(xs.end(), {p.x - p.x_error, p.x + p.x_error});
    ys.insert(ys.end(), {p.y - p.y_error, p.y + p.y_error});
  }
  Drawing drawing(figure.label, figure.width, figure.height);
  const double top = std::max(12.0, header(&drawing, figure, keys, 2, figure.width - 4));
  const Plot plot{left_margin(y_axis, ys, figure.height), top, figure.width - 12, figure.height - 42};
  const Scale x = scale_for(x_axis, xs, Ends::ticks, 6, plot.left, plot.right), y = scale_for(y_axis, ys, Ends::ticks, 5, plot.bottom, plot.top);
  draw_y_axis(drawing, plot, y, y_axis.label);
  draw_x_axis(drawing, plot, x, x_axis.label, Grid::lines);
  if (points.empty()) say_empty(drawing, plot);

  struct Box {
    double x0, y0, x1, y1;
    bool meets(const Box& o) const { return x0 < o.x1 && o.x0 < x1 && y0 < o.y1 && o.y0 < y1; }
  };
  std::vector<Box> taken;
  for (const Point& p : points) {
    taken.push_back({x(p.x) - 5, y(p.y) - 5, x(p.x) + 5, y(p.y) + 5});
    if (p.x_error > 0) taken.push_back({x(p.x - p.x_error), y(p.y) - 1, x(p.x + p.x_error), y(p.y) + 1});
    if (p.y_error > 0) taken.push_back({x(p.x) - 1, y(p.y + p.y_error), x(p.x) + 1, y(p.y - p.y_error)});
  }
  for (const Point& p : points) {
    const double cx = x(p.x), cy = y(p.y);
    const std::string whisker = fmt::format("stroke=\"{}\" stroke-opacity=\".55\" stroke-width=\"1.5\"", p.color);
    if (p.x_error > 0) drawing.line(x(p.x - p.x_error), cy, x(p.x + p.x_error), cy, whisker);
    if (p.y_error > 0) drawing.line(cx, y(p.y - p.y_error), cx, y(p.y + p.y_error), whisker);
    const std::string style = fmt::format("fill=\"{}\"", p.color),
                      tip = fmt::format("{}: {} {}, {} {}", p.name, x_axis.label, shown(p.x), y_axis.label, shown(p.y));
    draw_mark(drawing, p.mark, cx, cy, style, tip);
  }
  // Each name goes to the first free place around its point; a name without one is left to hovering and to the table.
  for (const Point& p : points) {
    const double cx = x(p.x), cy = y(p.y), width = text_width(p.name, kSmallPx);
    for (const Box& box :
         {Box{cx + 8, cy - 7, cx + 8 + width, cy + 7}, Box{cx - 8 - width, cy - 7, cx - 8, cy + 7}, Box{cx - width / 2, cy - 21, cx + width / 2, cy - 7},
          Box{cx - width / 2, cy + 8, cx + width / 2, cy + 22}, Box{cx + 6, cy - 20, cx + 6 + width, cy - 6}, Box{cx + 6, cy + 6, cx + 6 + width, cy + 20},
          Box{cx - 6 - width, cy - 20, cx - 6, cy - 6}, Box{cx - 6 - width, cy + 6, cx - 6, cy + 20}}) {
      if (box.x0 < plot.left || box.x1 > figure.width || box.y0 < plot.top - 6 || box.y1 > plot.bottom) continue;
      if (std::any_of(taken.begin(), taken.end(), [&](const Box& other) { return other.meets(box); })) continue;
      drawing.text(box.x0, (box.y0 + box.y1) / 2 + 4, Anchor::start, p.name, kSmall);
      taken.push_back(box);
      break;
    }
  }
  return drawing.done();
}

std::string bar_chart(const Figure& figure, const Axis& axis, const std::vector<std::string>& groups, const std::vector<Series>& series, int decimals) {
  constexpr double kBar = 15, kGap = 11;
  std::vector<double> values{0};
  std::vector<Key> keys;
  double label_width = 0, value_width = 0;
  for (const Series& s : series) {
    check_lengths("bar_chart", s, groups.size());
    for (size_t g = 0; g < groups.size(); ++g) {
      values.insert(values.end(), {s.values[g] - s.error(g), s.values[g] + s.error(g)});
      if (std::isfinite(s.values[g])) value_width = std::max(value_width, text_width(fmt::format("{:.{}f}", s.values[g], decimals), kSmallPx) + 8);
    }
    keys.push_back({s.name, s.color});
  }
  if (keys.size() == 1) keys.clear();
  for (const std::string& group : groups) label_width = std::max(label_width, text_width(group));

  const double left = std::min(label_width + 12, 0.5 * figure.width), top = header(nullptr, figure, keys, 2, figure.width - 4);
  const double group_height = kBar * double(series.size()) + kGap;
  const Plot plot{left, top, figure.width - 14 - value_width, top + group_height * double(groups.size())};
  Drawing drawing(figure.label, figure.width, plot.bottom + 42);
  header(&drawing, figure, keys, 2, figure.width - 4);
  const Scale x = scale_for(axis, values, Ends::ticks, 5, plot.left, plot.right);
  draw_x_axis(drawing, plot, x, axis.label, Grid::lines);
  const double zero = x(std::clamp(0.0, x.lo, x.hi));

  for (size_t g = 0; g < groups.size(); ++g) {
    const double group_top = plot.top + group_height * double(g) + kGap / 2;
    drawing.text(plot.left - 8, group_top + kBar * double(series.size()) / 2 + 4, Anchor::end, groups[g]);
    for (size_t k = 0; k < series.size(); ++k) {
      const Series& s = series[k];
      const double value = s.values[g], y = group_top + kBar * double(k);
      if (!std::isfinite(value)) {
        drawing.text(zero + 5, y + kBar - 4, Anchor::start, "not measured", kSmall);
        continue;
      }
      const double end = std::clamp(x(value), plot.left, plot.right), error = s.error(g);
      drawing.rect(std::min(zero, end), y + 1, std::abs(end - zero), kBar - 2, fmt::format("fill=\"{}\" rx=\"1.5\"", s.color),
                   tip_of(groups[g], s, g, decimals));
      const double from = std::max(x(value - error), plot.left), to = x(value + error), middle = y + kBar / 2;
      if (error > 0)
        drawing.path(fmt::format("M{0} {1}L{2} {1}M{0} {3}L{0} {4}M{2} {3}L{2} {4}", at(from), at(middle), at(to), at(middle - 3), at(middle + 3)),
                     "fill=\"none\" stroke=\"currentColor\" stroke-width=\"1.2\"");
      drawing.text(std::max(end, to) + 5, y + kBar - 4, Anchor::start, fmt::format("{:.{}f}", value, decimals), kSmall);
    }
  }
  drawing.line(zero, plot.top, zero, plot.bottom, kAxisLine);
  return drawing.done();
}

std::string dot_plot(const Figure& figure, const Axis& axis, const std::vector<std::string>& groups, const std::vector<Series>& series, int decimals) {
  constexpr double kRow = 26;
  std::vector<double> values;
  std::vector<Key> keys;
  double label_width = 0;
  for (const Series& s : series) {
    check_lengths("dot_plot", s, groups.size());
    for (size_t g = 0; g < groups.size(); ++g) values.insert(values.end(), {s.values[g] - s.error(g), s.values[g] + s.error(g)});
    keys.push_back({s.name, s.color});
  }
  for (const std::string& group : groups) label_width = std::max(label_width, text_width(group));
  const double left = std::min(label_width + 12, 0.5 * figure.width), top = header(nullptr, figure, keys, 2, figure.width - 4);
  const Plot plot{left, top, figure.width - 14, top + kRow * double(groups.size())};
  Drawing drawing(figure.label, figure.width, plot.bottom + 42);
  header(&drawing, figure, keys, 2, figure.width - 4);
  const Scale x = scale_for(axis, values, Ends::ticks, 6, plot.left, plot.right);
  draw_x_axis(drawing, plot, x, axis.label, Grid::lines);

  std::string rows;
  for (size_t g = 0; g < groups.size(); ++g) rows += segment(plot.left, plot.top + kRow * (double(g) + 0.5), plot.right, plot.top + kRow * (double(g) + 0.5));
  drawing.path(rows, kGrid);
  for (size_t g = 0; g < groups.size(); ++g) {
    const double middle = plot.top + kRow * (double(g) + 0.5);
    drawing.text(plot.left - 8, middle + 4, Anchor::end, groups[g]);
    // Neighbouring series keep a little apart, so that equal values do not hide each other.
    const double apart = series.size() > 1 ? std::min(5.0, 14.0 / double(series.size() - 1)) : 0;
    for (size_t k = 0; k < series.size(); ++k) {
      const Series& s = series[k];
      if (!std::isfinite(s.values[g])) continue;
      const double y = middle + apart * (double(k) - double(series.size() - 1) / 2), value = s.values[g], error = s.error(g);
      if (error > 0) drawing.line(x(value - error), y, x(value + error), y, fmt::format("stroke=\"{}\" stroke-width=\"1.6\" stroke-opacity=\".6\"", s.color));
      drawing.circle(x(value), y, 4, fmt::format("fill=\"{}\"", s.color), tip_of(groups[g], s, g, decimals));
    }
  }
  return drawing.done();
}

std::string reliability_diagram(const Figure& figure, const char* fill, std::span<const ReliabilityBar> bars, int bins) {
  constexpr double kCounts = 30;
  const double side = figure.width - 52, top = header(nullptr, figure, {}, 2, figure.width);
  const Plot plot{42, top, 42 + side, top + side};
  Drawing drawing(figure.label, figure.width, plot.bottom + kCounts + 44);
  header(&drawing, figure, {}, 2, figure.width);
  const Axis unit{"", 0, 1};
  const Scale x = scale_for(unit, {}, Ends::data, 2, plot.left, plot.right), y = scale_for(unit, {}, Ends::data, 2, plot.bottom, plot.top);
  std::string grid;
  for (double tick : y.ticks) {
    grid += segment(plot.left, y(tick), plot.right, y(tick));
    drawing.text(plot.left - 6, y(tick) + 4, Anchor::end, y.name(tick), kSmall);
  }
  drawing.path(grid, kGrid);
  int64_t largest = 1;
  for (const ReliabilityBar& b : bars) largest = std::max(largest, b.n);
  std::string accuracy, gaps, counts;
  const double width = side / bins, floor = plot.bottom + 8 + kCounts;
  for (const ReliabilityBar& b : bars) {
    if (b.n <= 0 || b.index < 0 || b.index >= bins || !std::isfinite(b.acc) || !std::isfinite(b.conf)) continue;
    const double left = plot.left + width * double(b.index), height = kCounts * double(b.n) / double(largest);
    accuracy += box(left + 0.5, y(b.acc), width - 1, plot.bottom - y(b.acc));
    gaps += box(left + 0.5, std::min(y(b.acc), y(b.conf)), width - 1, std::abs(y(b.acc) - y(b.conf)));
    counts += box(left + 0.5, floor - height, width - 1, height);
  }
  drawing.path(accuracy, fmt::format("fill=\"{}\"", fill));
  drawing.path(gaps, fmt::format("fill=\"{0}\" fill-opacity=\".22\" stroke=\"{0}\" stroke-width=\".8\" stroke-dasharray=\"2 2\"", fill));
  drawing.path(counts, "fill-opacity=\".45\"");
  drawing.line(plot.left, plot.bottom, plot.right, plot.top, "stroke=\"currentColor\" stroke-opacity=\".7\" stroke-dasharray=\"4 3\"");
  drawing.line(plot.left, plot.bottom, plot.right, plot.bottom, kAxisLine);
  drawing.line(plot.left, floor, plot.right, floor, kAxisLine);
  drawing.text(plot.left - 6, floor - 2, Anchor::end, "n", kSmall);
  for (double tick : x.ticks) drawing.text(x(tick), floor + 14, Anchor::middle, x.name(tick), kSmall);
  drawing.text((plot.left + plot.right) / 2, floor + 29, Anchor::middle, "confidence", kSmall);
  drawing.text(9, (plot.top + plot.bottom) / 2, Anchor::middle, "accuracy",
               fmt::format("{} transform=\"rotate(-90 9 {})\"", kSmall, at((plot.top + plot.bottom) / 2)));
  return drawing.done();
}

std::string heat_map(const Figure& figure, const std::vector<std::string>& rows, const std::vector<std::string>& columns, const std::vector<double>& values,
                     double lo, double hi, int decimals) {
  KD_CHECK(values.size() == rows.size() * columns.size() && hi > lo, "heat_map: {} values for {} x {} cells, range {} to {}", values.size(), rows.size(),
           columns.size(), lo, hi);
  double left = 0, longest = 0;
  for (const std::string& row : rows) left = std::max(left, text_width(row) + 12);
  for (const std::string& column : columns) longest = std::max(longest, text_width(column));
  const double cell_width = (figure.width - left) / double(std::max<size_t>(columns.size(), 1));
  const bool upright = longest > cell_width - 4;  // names that do not fit across are written upwards
  const double head = header(nullptr, figure, {}, 2, figure.width), top = (head > 8 ? head : 0) + (upright ? longest + 10 : 22);
  const double cell_height = (figure.height - top) / double(std::max<size_t>(rows.size(), 1));
  Drawing drawing(figure.label, figure.width, figure.height);
  header(&drawing, figure, {}, 2, figure.width);
  for (size_t c = 0; c < columns.size(); ++c) {
    const double x = left + cell_width * (double(c) + 0.5), y = top - 8;
    if (upright)
      drawing.text(x + 4, y, Anchor::start, columns[c], fmt::format("{} transform=\"rotate(-90 {} {})\"", kMuted, at(x + 4), at(y)));
    else
      drawing.text(x, y, Anchor::middle, columns[c], kMuted);
  }
  const bool small = text_width(fmt::format("{:.{}f}", lo, decimals)) > cell_width - 4;
  std::vector<std::tuple<double, double, std::string>> numbers;
  for (size_t r = 0; r < rows.size(); ++r) {
    const double y = top + cell_height * double(r);
    drawing.text(left - 8, y + cell_height / 2 + 4, Anchor::end, rows[r], kMuted);
    for (size_t c = 0; c < columns.size(); ++c) {
      const double value = values[r * columns.size() + c], x = left + cell_width * double(c);
      if (!std::isfinite(value)) continue;
      // At most 0.6 of the colour, so that the number stays readable in the page's own text colour.
      const bool diverging = lo < 0 && hi > 0, negative = diverging && value < 0;
      const double share = diverging ? value / (negative ? lo : hi) : (value - lo) / (hi - lo);
      const double shade = 0.05 + 0.55 * std::clamp(share, 0.0, 1.0);
      std::string number = fmt::format("{:.{}f}", value, decimals);
      if (number.front() == '-') number = number.find_first_of("123456789") == number.npos ? number.substr(1) : "−" + number.substr(1);
      drawing.rect(x + 1, y + 1, cell_width - 2, cell_height - 2, fmt::format("fill=\"{}\" fill-opacity=\"{:.2f}\"", negative ? kVermilion : kBlue, shade));
      numbers.push_back({x + cell_width / 2, y + cell_height / 2 + 4, number});
    }
  }
  drawing.open_group(fmt::format("text-anchor=\"middle\"{}", small ? " font-size=\"11\"" : ""));
  for (const auto& [x, y, number] : numbers) drawing.text(x, y, Anchor::start, number);
  drawing.close_group();
  return drawing.done();
}

namespace {

// The outline of a mask as closed paths along pixel edges, in pixels.
std::string outline(const std::vector<uint8_t>& inside, int64_t px) {
  auto in = [&](int64_t x, int64_t y) { return x >= 0 && y >= 0 && x < px && y < px && inside[size_t(y * px + x)] != 0; };
  // Every edge between inside and outside, directed with the inside on its right. Each corner has as many edges in as out, so all close.
  using Corner = std::pair<int64_t, int64_t>;  // y, x
  std::multimap<Corner, Corner> edges;
  for (int64_t y = 0; y < px; ++y)
    for (int64_t x = 0; x < px; ++x) {
      if (!in(x, y)) continue;
      if (!in(x, y - 1)) edges.insert({{y, x}, {y, x + 1}});
      if (!in(x + 1, y)) edges.insert({{y, x + 1}, {y + 1, x + 1}});
      if (!in(x, y + 1)) edges.insert({{y + 1, x + 1}, {y + 1, x}});
      if (!in(x - 1, y)) edges.insert({{y + 1, x}, {y, x}});
    }
  std::string d;
  while (!edges.empty()) {
    const Corner start = edges.begin()->first;
    Corner from = start, run{0, 0};
    d += fmt::format("M{} {}", start.second, start.first);
    auto flush = [&] {
      if (run.second != 0) d += fmt::format("h{}", run.second);
      if (run.first != 0) d += fmt::format("v{}", run.first);
      run = {0, 0};
    };
    do {
      const auto edge = edges.find(from);
      const Corner to = edge->second, step{to.first - from.first, to.second - from.second};
      edges.erase(edge);
      if ((step.first != 0) != (run.first != 0)) flush();
      run = {run.first + step.first, run.second + step.second};
      from = to;
    } while (from != start);
    flush();
    d += "z";
  }
  return d;
}

}  // namespace

std::string overlays(const Figure& figure, const Overlay& overlay) {
  constexpr double kGap = 6, kLine = 14;
  const int64_t px = overlay.px;
  auto fits = [&](const std::vector<uint8_t>& mask) { return int64_t(mask.size()) == px * px; };
  KD_CHECK(px > 0 && (overlay.truth.empty() || fits(overlay.truth)) &&
               std::all_of(overlay.masks.begin(), overlay.masks.end(), [&](const Mask& m) { return fits(m.inside); }),
           "overlays: masks of '{}' are not {} x {}", overlay.id, px, px);
  const double cells = double(overlay.masks.size() + 1), side = (figure.width - 2 - kGap * (cells - 1)) / cells, scale = side / double(px);
  const double head = header(nullptr, figure, {}, 1, figure.width), top = head > 8 ? head - 6 : 1;
  Drawing drawing(figure.label, figure.width, top + side + 2 * kLine + 6);
  header(&drawing, figure, {}, 1, figure.width);
  for (size_t k = 0; k <= overlay.masks.size(); ++k) {
    const double x = 1 + (side + kGap) * double(k), base = top + side;
    const std::string on_image = fmt::format("transform=\"translate({} {}) scale({:.4f})\"", at(x), at(top), scale);
    const std::string place = fmt::format("x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\"", at(x), at(top), at(side), at(side));
    if (k == 0) {
      drawing.raw(fmt::format("<image id=\"{}\" {} preserveAspectRatio=\"none\" image-rendering=\"{}\" href=\"data:image/png;base64,{}\"/>", overlay.id, place,
                              px <= 64 ? "pixelated" : "auto", overlay.png_base64));
      drawing.text(x, base + kLine, Anchor::start, "input", kSmall);
      drawing.text(x, base + 2 * kLine, Anchor::start, shortened(overlay.says, side), kSmall);
    } else {
      const Mask& mask = overlay.masks[k - 1];
      drawing.raw(fmt::format("<use href=\"#{}\" x=\"{}\"/>", overlay.id, at(x - 1)));
      // The frame takes part: filled by the even-odd rule, it is what lies outside the mask.
      drawing.path(
          fmt::format("M0 0h{0}v{0}h-{0}z", px) + outline(mask.inside, px),
          fmt::format("{} fill=\"#000\" fill-opacity=\".5\" fill-rule=\"evenodd\" stroke=\"{}\" stroke-width=\"{:.3f}\"", on_image, mask.color, 1.5 / scale));
      drawing.text(x, base + kLine, Anchor::start, mask.name, "font-size=\"11\" font-weight=\"600\"");
      drawing.text(x, base + 2 * kLine, Anchor::start, shortened(mask.says, side), kSmall);
    }
    if (!overlay.truth.empty())
      drawing.path(outline(overlay.truth, px), fmt::format("{} fill=\"none\" stroke=\"#fff\" stroke-width=\"{:.3f}\" stroke-dasharray=\"{:.3f} {:.3f}\"",
                                                           on_image, 1 / scale, 3 / scale, 2 / scale));
  }
  return drawing.done();
}

std::string legend(const std::vector<Key>& keys, double width) {
  const Figure figure{.label = "legend", .width = width};
  Drawing drawing(figure.label, width, header(nullptr, figure, keys, 2, width - 4));
  header(&drawing, figure, keys, 2, width - 4);
  return drawing.done();
}

namespace {

struct Part {
  double width, height;
  std::string inside;
};

// A drawing of this file without its <svg> element.
Part opened(const std::string& drawing) {
  const size_t from = drawing.find('>'), to = drawing.rfind("</svg>"), box = drawing.find("viewBox=\"0 0 ");
  KD_CHECK(from != drawing.npos && to != drawing.npos && box < from, "composed: not a drawing of this file: {}", drawing.substr(0, 60));
  size_t used = 0;
  const std::string size = drawing.substr(box + 13, 40);
  const double width = std::stod(size, &used);
  return {width, std::stod(size.substr(used)), drawing.substr(from + 2, to - from - 2)};
}

}  // namespace

double width_of(const std::string& drawing) { return opened(drawing).width; }

std::string composed(const std::string& label, const std::string& legend_drawing, const std::vector<std::string>& drawings, size_t columns) {
  constexpr double kEdge = 12, kGap = 16;
  std::vector<Part> parts;
  double cell = 0, bottom = kEdge;
  for (const std::string& drawing : drawings) parts.push_back(opened(drawing)), cell = std::max(cell, parts.back().width);
  columns = std::clamp<size_t>(columns, 1, std::max<size_t>(parts.size(), 1));
  double width = cell * double(columns) + kGap * double(columns - 1);
  std::string body;
  auto place = [&](const Part& part, double x, double y) { body += fmt::format("<g transform=\"translate({} {})\">\n{}</g>\n", at(x), at(y), part.inside); };
  if (!legend_drawing.empty()) {
    const Part part = opened(legend_drawing);
    place(part, kEdge, bottom);
    bottom += part.height + kGap / 2;
    width = std::max(width, part.width);
  }
  for (size_t row = 0; row < parts.size(); row += columns) {
    double height = 0;
    for (size_t k = row; k < std::min(row + columns, parts.size()); ++k) {
      place(parts[k], kEdge + (cell + kGap) * double(k - row), bottom);
      height = std::max(height, parts[k].height);
    }
    bottom += height + (row + columns < parts.size() ? kGap : 0);
  }
  // Colours that no attribute may leave open. Text cannot hold the replaced words: its quotes are escaped.
  for (size_t found = 0; (found = body.find("=\"currentColor\"", found)) != body.npos;) body.replace(found + 2, 12, kInk);
  return fmt::format(
             "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {0} {1}\" width=\"{0}\" height=\"{1}\" role=\"img\" aria-label=\"{2}\" "
             "font-family=\"Helvetica,Arial,'DejaVu Sans',sans-serif\" font-size=\"{3}\" fill=\"{4}\">\n<rect width=\"100%\" height=\"100%\" "
             "fill=\"#ffffff\"/>\n",
             at(width + 2 * kEdge), at(bottom + kEdge), escape(label), at(kFontPx), kInk) +
         body + "</svg>\n";
}

}  // namespace kd::svg
