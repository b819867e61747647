// svg: the report's figures as text. Every function returns one <svg> element that stands alone, scales down without loss and reads on light and
// dark pages alike: text and axes take the page's colour (currentColor), data take colours that colour-blind readers can tell apart.
// The same numbers give the same bytes. Values that are not finite are left out of the drawing. Hovering a mark shows its numbers (<title>).
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

struct Figure {
  std::string label;  // what a screen reader says
  double width = 440, height = 270;
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
};
// x ends where the data end; its ticks are whole numbers if all x are.
std::string line_chart(const Figure&, const Axis& x, const Axis& y, const std::vector<Line>&);

enum class Mark { circle, square, diamond };
struct Point {
  std::string name, color;
  double x, y;
  double x_error = 0, y_error = 0;  // half lengths of the whiskers
  Mark mark = Mark::circle;
};
std::string scatter_plot(const Figure&, const Axis& x, const Axis& y, const std::vector<Point>&);

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

// values row-major, [rows, columns]; the shade runs from `lo` (none) to `hi` (full).
std::string heat_map(const Figure&, const std::vector<std::string>& rows, const std::vector<std::string>& columns, const std::vector<double>& values, double lo,
                     double hi, int decimals);

}  // namespace kd::svg
