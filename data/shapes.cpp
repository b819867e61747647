#include "data/shapes.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "kernels/common/parallel.h"

namespace kd {
namespace {

constexpr int kPx = 32;
constexpr int kSubsamples = 4;  // a side; 16 a pixel decide how much of it the object covers

enum class Figure : int { circle, square, triangle, star, cross, ring, crescent, heart, arrow, hourglass };
constexpr std::array kNames = {"circle", "square", "triangle", "star", "cross", "ring", "crescent", "heart", "arrow", "hourglass"};

struct Point {
  double x, y;
};
double dot(Point a, Point b) { return a.x * b.x + a.y * b.y; }

// cos and sin of the 256 directions, rounded to multiples of 2^-20: there no two maths libraries disagree.
Point direction(uint32_t step) {
  static const auto table = [] {
    std::array<Point, 256> t;
    for (size_t i = 0; i < t.size(); ++i) {
      double angle = double(i) * (6.283185307179586 / double(t.size()));
      t[i] = {std::round(std::cos(angle) * 0x1p20) * 0x1p-20, std::round(std::sin(angle) * 0x1p20) * 0x1p-20};
    }
    return t;
  }();
  return table[step % table.size()];
}

double between(Rng& rng, double low, double high) { return low + (high - low) * rng.uniform_double(); }

// Outlines, y down, within about one unit of the origin.
constexpr Point kSquare[] = {{-.8, -.8}, {.8, -.8}, {.8, .8}, {-.8, .8}};
constexpr Point kTriangle[] = {{0, -1.1}, {.98, .65}, {-.98, .65}};
constexpr Point kStar[] = {{0, -1.15}, {.28, -.39}, {1.09, -.36}, {.45, .15}, {.68, .93}, {0, .48}, {-.68, .93}, {-.45, .15}, {-1.09, -.36}, {-.28, -.39}};
constexpr Point kCross[] = {{-.33, -1}, {.33, -1}, {.33, -.33}, {1, -.33}, {1, .33},   {.33, .33},
                            {.33, 1},   {-.33, 1}, {-.33, .33}, {-1, .33}, {-1, -.33}, {-.33, -.33}};
constexpr Point kArrow[] = {{0, -1.15}, {.9, -.1}, {.36, -.1}, {.36, 1.05}, {-.36, 1.05}, {-.36, -.1}, {-.9, -.1}};
constexpr Point kHourglass[] = {{-.85, -1}, {.85, -1}, {.14, 0}, {.85, 1}, {-.85, 1}, {-.14, 0}};

// Even-odd rule.
bool in_polygon(std::span<const Point> corners, Point p) {
  bool inside = false;
  Point b = corners.back();
  for (Point a : corners) {
    if ((a.y > p.y) != (b.y > p.y) && p.x < (b.x - a.x) * (p.y - a.y) / (b.y - a.y) + a.x) inside = !inside;
    b = a;
  }
  return inside;
}

bool in_heart(Point p) {  // two discs side by side on a triangle that points down
  double x = std::abs(p.x), y = p.y + .35;
  return dot({x - .5, y}, {x - .5, y}) <= .25 || (y >= 0 && x <= 1 - y / 1.4);
}

bool in_figure(Figure figure, Point p) {
  switch (figure) {
    case Figure::circle: return dot(p, p) <= .95 * .95;
    case Figure::square: return in_polygon(kSquare, p);
    case Figure::triangle: return in_polygon(kTriangle, p);
    case Figure::star: return in_polygon(kStar, p);
    case Figure::cross: return in_polygon(kCross, p);
    case Figure::ring: return dot(p, p) <= 1 && dot(p, p) >= .52 * .52;
    case Figure::crescent: return dot(p, p) <= 1.1 * 1.1 && dot({p.x - .5, p.y}, {p.x - .5, p.y}) >= .88 * .88;
    case Figure::heart: return in_heart(p);
    case Figure::arrow: return in_polygon(kArrow, p);
    case Figure::hourglass: return in_polygon(kHourglass, p);
  }
  return false;
}

struct Rgb {
  double r, g, b;
};
Rgb mix(Rgb a, Rgb b, double t) { return {a.r + (b.r - a.r) * t, a.g + (b.g - a.g) * t, a.b + (b.b - a.b) * t}; }
double distance(Rgb a, Rgb b) { return .3 * std::abs(a.r - b.r) + .5 * std::abs(a.g - b.g) + .2 * std::abs(a.b - b.b); }
Rgb random_colour(Rng& rng) {  // muted, as in photographs
  double grey = between(rng, 30, 225);
  auto channel = [&] { return std::clamp(grey + between(rng, -65, 65), 0., 255.); };
  return {.r = channel(), .g = channel(), .b = channel()};  // braces: in this order
}

// A surface: two colours and the pattern that mixes them.
class Paint {
 public:
  explicit Paint(Rng& rng) {  // one draw a statement: C++ leaves the order of a call's arguments to the compiler
    a_ = random_colour(rng);
    b_ = random_colour(rng);
    b_ = mix(a_, b_, between(rng, .1, .55));
    pattern_ = Pattern(rng.below(4));
    along_ = direction(rng.next_u32());
    period_ = between(rng, 3.5, 8);
    phase_ = rng.uniform_double();
    if (pattern_ == Pattern::mottle)
      for (double& node : lattice_) node = rng.uniform_double();
  }

  Rgb mean() const { return mix(a_, b_, .5); }

  Rgb at(Point p) const {
    double u = dot(along_, p), v = dot({-along_.y, along_.x}, p);
    switch (pattern_) {
      case Pattern::gradient: return mix(a_, b_, wave(u / (5 * period_) + phase_) * .5 + .5);
      case Pattern::stripes: return mix(a_, b_, edge(wave(u / period_ + phase_)));
      case Pattern::checks: return mix(a_, b_, edge(2 * wave(u / period_ + phase_) * wave(v / period_)));
      default: return mix(a_, b_, mottle(p));
    }
  }

 private:
  enum class Pattern : uint32_t { gradient, stripes, checks, mottle };
  static constexpr int kNodes = 9, kCell = 4;  // lattice points a side and the pixels between them

  static double wave(double t) { return 4 * std::abs(t - std::floor(t + .5)) - 1; }  // triangle wave, period 1, range [-1,1]
  static double edge(double w) { return std::clamp(.5 + 1.2 * w, 0., 1.); }          // soft, so that stripes do not alias
  double mottle(Point p) const {                                                     // bilinear between random lattice values
    double x = std::clamp(p.x / kCell, 0., kNodes - 1.001), y = std::clamp(p.y / kCell, 0., kNodes - 1.001);
    int column = int(x), row = int(y);
    const double* node = &lattice_[size_t(row * kNodes + column)];
    double top = node[0] + (node[1] - node[0]) * (x - column), bottom = node[kNodes] + (node[kNodes + 1] - node[kNodes]) * (x - column);
    return top + (bottom - top) * (y - row);
  }

  Rgb a_, b_;
  Pattern pattern_;
  Point along_;
  double period_, phase_;
  std::array<double, size_t(kNodes* kNodes)> lattice_;
};

// Clutter: a segment with round ends; short and thick it is a blob, long and thin a line.
struct Capsule {
  Point centre, along;
  double half_length, radius;

  double coverage(Point p) const {
    Point to{p.x - centre.x, p.y - centre.y};
    double t = std::clamp(dot(to, along), -half_length, half_length);
    Point off{to.x - t * along.x, to.y - t * along.y};
    return std::clamp(radius + .5 - std::sqrt(dot(off, off)), 0., 1.);
  }
};

Capsule random_capsule(Rng& rng) {
  bool line = rng.coin(.5f);
  return {.centre = {between(rng, 0, kPx), between(rng, 0, kPx)},
          .along = direction(rng.next_u32()),
          .half_length = line ? between(rng, 4, 12) : between(rng, 0, 2.5),
          .radius = line ? between(rng, .4, 1) : between(rng, 1.2, 2.8)};
}

// Where the object's outline lies in the picture.
struct Pose {
  Point centre, along;
  double radius, stretch;  // stretch: width over height

  bool contains(Figure figure, Point p) const {
    Point to{p.x - centre.x, p.y - centre.y};
    return in_figure(figure, {dot(along, to) / (radius * stretch), dot({-along.y, along.x}, to) * stretch / radius});
  }
  double coverage(Figure figure, int column, int row) const {
    int hits = 0;
    for (int i = 0; i < kSubsamples; ++i)
      for (int j = 0; j < kSubsamples; ++j) hits += contains(figure, {column + (j + .5) / kSubsamples, row + (i + .5) / kSubsamples});
    return hits / double(kSubsamples * kSubsamples);
  }
};

Pose random_pose(Rng& rng) {
  double radius = between(rng, 8, 12.5), margin = .95 * radius;
  return {.centre = {between(rng, margin, kPx - margin), between(rng, margin, kPx - margin)},
          .along = direction(rng.next_u32()),
          .radius = radius,
          .stretch = between(rng, .85, 1.18)};
}

void draw(Figure figure, Rng rng, uint8_t* image, uint8_t* mask) {
  std::array<Rgb, size_t(kPx * kPx)> canvas{};
  auto paint_over = [&](auto&& paint, auto&& coverage) {
    for (int row = 0; row < kPx; ++row)
      for (int column = 0; column < kPx; ++column) {
        Rgb& pixel = canvas[size_t(row * kPx + column)];
        if (double share = coverage(row, column); share > 0) pixel = mix(pixel, paint.at({column + .5, row + .5}), share);
      }
  };

  Paint ground(rng);
  paint_over(ground, [](int, int) { return 1.; });
  for (uint32_t left = 3 + rng.below(5); left > 0; --left) {
    Capsule clutter = random_capsule(rng);
    paint_over(Paint(rng), [&](int row, int column) { return clutter.coverage({column + .5, row + .5}); });
  }

  Paint surface(rng);
  while (distance(surface.mean(), ground.mean()) < 45) surface = Paint(rng);  // what nobody could see teaches nothing
  Pose pose = random_pose(rng);
  paint_over(surface, [&](int row, int column) {
    double share = pose.coverage(figure, column, row);
    mask[row * kPx + column] = share >= .5;
    return share;
  });

  Point light = direction(rng.next_u32());
  double slope = between(rng, 0, .02), grain = between(rng, 4, 20);
  for (int row = 0; row < kPx; ++row)
    for (int column = 0; column < kPx; ++column) {
      const Rgb& colour = canvas[size_t(row * kPx + column)];
      double shade = 1 + slope * dot(light, {column + .5 - kPx / 2, row + .5 - kPx / 2});
      for (double value : {colour.r, colour.g, colour.b}) {
        uint32_t bits = rng.next_u32();
        double noise = (double(bits & 0xffff) + double(bits >> 16)) * 0x1p-16 - 1;  // triangular on [-1,1)
        *image++ = uint8_t(std::clamp(value * shade + grain * noise, 0., 255.) + .5);
      }
    }
}

}  // namespace

Dataset make_shapes(int64_t count, uint64_t seed, bool train) {
  KD_INPUT(count > 0 && count <= 10'000'000, "shapes: {} images asked for; give data.train_size and data.test_size between 1 and 10,000,000", count);
  Dataset set{.name = "shapes", .classes = int64_t(kNames.size()), .class_names = {kNames.begin(), kNames.end()}};
  set.images = Tensor::empty({count, kPx, kPx, 3}, DType::u8);
  set.masks = Tensor::empty({count, kPx, kPx}, DType::u8);
  set.labels.resize(size_t(count));
  auto *images = set.images.data<uint8_t>(), *masks = set.masks.data<uint8_t>();
  parallel_for(count, [&](int64_t i) {
    const int figure = int(i % set.classes);
    set.labels[size_t(i)] = figure;
    draw(Figure(figure), Rng(seed, Purpose::shapes, uint32_t(i), train ? 0 : 1), images + i * kPx * kPx * 3, masks + i * kPx * kPx);
  });
  return set;
}

}  // namespace kd
