// svg: drawings as text. Every function returns one <svg> element that scales down without loss and reads on light and dark pages alike: text and
// axes take the page's colour (currentColor) and font, data take colours that colour-blind readers can tell apart. composed() makes a file of them.
// The same numbers give the same bytes. Values that are not finite are left out of the drawing; without any it says "no data". Hovering points, dots, bars
// and lines names them (<title>).
#pragma once
#include <cstdint>
#include <limits>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace kd::svg {

// Okabe & Ito, "Color Universal Design" (2008), without black and yellow: each vanishes on one of the two backgrounds.
inline constexpr const char *kBlue = "#0072B2", *kVermilion = "#D55E00", *kGreen = "#009E73", *kSky = "#56B4E9", *kPurple = "#CC79A7", *kOrange = "#E69F00";
const char* color(size_t index);  // the palette in the order above, repeating

// Text for HTML and XML, in elements and in quoted attributes. Control characters become U+FFFD.
std::string escape(std::string_view text);

enum class Glyph { line, dashes, circle, square, diamond, triangle };
struct Key {
  std::string name, color;
  Glyph glyph = Glyph::line;
};
enum class Keys { drawn, left_out };  // left out: the same keys stand elsewhere, see legend()

struct Figure {
  std::string label;  // what a screen reader says
  double width = 440, height = 270;
  std::string title = {};               // above the drawing
  std::vector<std::string> notes = {};  // lines below title and legend
  Keys keys = Keys::drawn;
};

constexpr double kAuto = std::numeric_limits<double>::quiet_NaN();
struct Axis {
  std::string label;
  double lo = kAuto, hi = kAuto;  // default: from the data, out to the next tick
};

enum class Stroke { solid, dashed };
struct Line {
  std::string name, color;
  std::vector<double> x, y;    // equally long
  std::vector<double> lo, hi;  // band around y; both empty: none
  Stroke stroke = Stroke::solid;
  std::string key = {};  // what the legend calls it, once for all lines of that key; empty: the name
  double width = 2;
};
// x ends where the data end; its ticks are whole numbers if all x are.
std::string line_chart(const Figure&, const Axis& x, const Axis& y, const std::vector<Line>&);

using Mark = Glyph;  // one of the last four
struct Point {
  std::string name, color;
  double x, y;
  double x_error = 0, y_error = 0;  // half lengths of the whiskers
  Mark mark = Mark::circle;
};
// A name is written beside its point where there is room; hovering shows all.
std::string scatter_plot(const Figure&, const Axis& x, const Axis& y, const std::vector<Point>&, const std::vector<Key>& keys = {});

struct Series {
  std::string name, color;
  std::vector<double> values;        // one for each group
  std::vector<double> errors;        // half lengths of the whiskers; empty: none
  double error(size_t group) const;  // 0 where there is none
};
// Horizontal bars from zero, each with its value; the figure's height follows from their number, Figure::height is not read.
std::string bar_chart(const Figure&, const Axis& value, const std::vector<std::string>& groups, const std::vector<Series>&, int decimals);
// The same as dots, one row for each group. Its axis need not begin at zero: for values whose differences are small beside them.
std::string dot_plot(const Figure&, const Axis& value, const std::vector<std::string>& groups, const std::vector<Series>&, int decimals);

// Accuracy against confidence in bins of equal width (Guo et al. 2017): the bars should end on the diagonal; the share of the images
// in each bin is drawn below on the same axis. The height follows from the width.
struct ReliabilityBar {
  int64_t index, n;
  double acc, conf;
};
std::string reliability_diagram(const Figure&, const char* color, std::span<const ReliabilityBar>, int bins);

// values row-major, [rows, columns]; the shade runs from `lo` (none) to `hi` (full). With lo < 0 < hi it runs from 0, blue upwards and vermilion downwards.
std::string heat_map(const Figure&, const std::vector<std::string>& rows, const std::vector<std::string>& columns, const std::vector<double>& values, double lo,
                     double hi, int decimals);

// A picture several times in a row, first as it is, then once for each mask: dark outside of it, outlined in its colour.
struct Mask {
  std::string name, says, color;  // says: a line below the picture
  std::vector<uint8_t> inside;    // [px, px], not 0 inside
};
struct Overlay {
  std::string id;          // of the <image>, which the masks share; once in a document
  std::string png_base64;  // any square size
  int64_t px;              // of the masks
  std::string says;
  std::vector<uint8_t> truth;  // outlined in white; empty: not known
  std::vector<Mask> masks;
};
std::string overlays(const Figure&, const Overlay&);  // the height follows from the width and the number of masks

// The keys alone, for figures of several drawings.
std::string legend(const std::vector<Key>&, double width);

double width_of(const std::string& drawing);

// Drawings of this file as one that stands alone as a file: the legend (may be empty) above rows of at most `columns` drawings, on white, every colour
// explicit, fonts with fallbacks.
std::string composed(const std::string& label, const std::string& legend, const std::vector<std::string>& drawings, size_t columns);

}  // namespace kd::svg
