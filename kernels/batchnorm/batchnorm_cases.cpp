// The oracle: the textbook formulas in double, two passes over each channel.
#include <array>
#include <cmath>
#include <optional>

#include "kernels/batchnorm/batchnorm.h"
#include "kernels/common/cases.h"

namespace kd::cases {
namespace {

using Doubles = std::vector<double>;

// What the input is made of.
enum class Values : unsigned char {
  uniform,
  offset,     // around 1000: a one-pass variance in f32 would lose its digits here
  threshold,  // few values, and beta such that one of them lands on the ReLU's edge: forward and backward must agree on which side it is
  sums        // as uniform, and the channel sums come from the producer of x
};
const char* suffix(Values v) {
  switch (v) {
    case Values::uniform: return "";
    case Values::offset: return ":offset";
    case Values::threshold: return ":threshold";
    case Values::sums: return ":sums";
  }
  KD_FAIL("values {}", int(v));
}
const char* suffix(BatchNormForm form) { return form == BatchNormForm::automatic ? "" : form == BatchNormForm::one_pass ? ":one_pass" : ":two_pass"; }

struct Moments {
  Doubles mean, var;
};
Moments moments(const Doubles& x, int64_t rows, int64_t c) {
  Moments m{Doubles(size_t(c)), Doubles(size_t(c))};
  for (int64_t i = 0; i < c; ++i) {
    double &mean = m.mean[size_t(i)], &var = m.var[size_t(i)];
    for (int64_t r = 0; r < rows; ++r) mean += x[size_t(r * c + i)] / double(rows);
    for (int64_t r = 0; r < rows; ++r) var += std::pow(x[size_t(r * c + i)] - mean, 2) / double(rows);
  }
  return m;
}

// gamma * (x - mean) / sqrt(var + eps) + beta
Doubles normalise(const Doubles& x, const Moments& m, const Doubles& gamma, const Doubles& beta) {
  Doubles y(x.size());
  for (size_t at = 0; at < x.size(); ++at) {
    size_t k = at % gamma.size();
    y[at] = gamma[k] * (x[at] - m.mean[k]) / std::sqrt(m.var[k] + 1e-5) + beta[k];
  }
  return y;
}

void activate(Doubles& y, const Doubles* residual, Activation activation) {
  for (size_t at = 0; at < y.size(); ++at) {
    if (residual) y[at] += (*residual)[at];
    if (activation == Activation::relu) y[at] = std::max(0.0, y[at]);
  }
}

struct Gradients {
  Doubles dx, dgamma, dbeta;
};
Gradients backward(const Doubles& x, const Doubles& dz, const Moments& m, const Doubles& gamma) {
  const size_t c = gamma.size();
  Gradients g{Doubles(x.size()), Doubles(c), Doubles(c)};
  const double rows = double(x.size() / c);
  auto hat = [&](size_t at) { return (x[at] - m.mean[at % c]) / std::sqrt(m.var[at % c] + 1e-5); };
  for (size_t at = 0; at < x.size(); ++at) g.dbeta[at % c] += dz[at], g.dgamma[at % c] += dz[at] * hat(at);
  for (size_t at = 0; at < x.size(); ++at) {
    size_t k = at % c;
    g.dx[at] = gamma[k] / std::sqrt(m.var[k] + 1e-5) * (dz[at] - g.dbeta[k] / rows - hat(at) * g.dgamma[k] / rows);
  }
  return g;
}

void check_running(std::vector<Checked>& out, const Moments& m, int64_t rows, const Doubles& before_mean, const Doubles& before_var, const Tensor& mean,
                   const Tensor& var) {
  Doubles want_mean(before_mean), want_var(before_var);
  for (size_t i = 0; i < want_mean.size(); ++i) {
    want_mean[i] = 0.9 * before_mean[i] + 0.1 * m.mean[i];
    want_var[i] = 0.9 * before_var[i] + 0.1 * m.var[i] * double(rows) / std::max(1.0, double(rows - 1));
  }
  out.push_back({"running_mean", to_doubles(mean), want_mean, 1e-6});
  out.push_back({"running_var", to_doubles(var), want_var, 1e-5});
}

// dgamma and dbeta are added to; these are what is there before.
constexpr float kDgammaBefore = 0.5f, kDbetaBefore = -0.25f;
Tensor filled(Shape shape, float value) {
  Tensor t = Tensor::empty(shape, DType::f32);
  std::fill_n(t.data<float>(), t.elements(), value);
  return t;
}
Doubles plus(Doubles v, float before) {
  for (double& x : v) x += double(before);
  return v;
}

// Makes every value a multiple of `step`, as nearly as the type can.
void round_to(const Tensor& t, float step) {
  for (int64_t i = 0; i < t.elements(); ++i) {
    if (t.dtype() == DType::f32)
      t.data<float>()[i] = std::round(t.data<float>()[i] / step) * step;
    else
      t.data<bf16>()[i] = bf16(std::round(float(t.data<bf16>()[i]) / step) * step);
  }
}

// What the producer of x would have summed on its way: `parts` ranges of rows, around a shift near the mean.
struct Produced {
  Tensor partial, shift;
  ChannelSums sums() const { return {partial.data<float>(), shift.data<float>(), partial.dim(0)}; }
};
Produced produce(const Doubles& x, int64_t rows, int64_t c, Device device) {
  constexpr int64_t kParts = 3;
  std::vector<float> partial(size_t(kParts * 2 * c)), shift;
  for (int64_t i = 0; i < c; ++i) shift.push_back(float(i % 3) * 0.1f);
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t i = 0; i < c; ++i) {
      const float d = float(x[size_t(r * c + i)]) - shift[size_t(i)];
      float* at = partial.data() + r * kParts / rows * 2 * c + i;
      at[0] += d;
      at[c] += d * d;
    }
  return {Tensor::of<float>({kParts, 2, c}, partial).to(device), Tensor::of<float>({c}, shift).to(device)};
}

// batchnorm_train and _bwd -----------------------------------------------------------------------------------------------------------------------

struct Problem {
  int64_t rows, c;
  DType type;
  Activation activation;
  bool residual;
  Values values = Values::uniform;
  BatchNormForm form = BatchNormForm::automatic;
};

struct Run {
  Problem p;
  Stream stream;
  Tensor x, residual, dy, gamma, beta, y, mask, dx, dres, dgamma, dbeta, mean, rstd, rm, rv;
  std::optional<Produced> produced;
  Run(const Problem& problem, Stream s) : p(problem), stream(s) {
    const Shape shape{p.rows, p.c}, channels{p.c};
    const Device device = stream.device;
    const float middle = p.values == Values::offset ? 1000.f : 0.f;
    Tensor host_x = random_tensor(shape, p.type, 1, middle - 1.f, middle + 1.f);
    if (p.values == Values::threshold) round_to(host_x, 1.f / 3);
    x = host_x.to(device);
    residual = random_tensor(shape, p.type, 2).to(device);
    dy = random_tensor(shape, p.type, 3).to(device);
    gamma = random_tensor(channels, DType::f32, 4, 0.5f, 1.5f).to(device);
    beta = random_tensor(channels, DType::f32, 5).to(device);
    y = Tensor::empty(shape, p.type, device), dx = Tensor::empty(shape, p.type, device), dres = Tensor::empty(shape, p.type, device);
    if (p.residual && p.activation == Activation::relu) mask = Tensor::empty({p.rows, (p.c + 7) / 8}, DType::u8, device);
    mean = Tensor::empty(channels, DType::f32, device), rstd = Tensor::empty(channels, DType::f32, device);
    rm = random_tensor(channels, DType::f32, 6).to(device), rv = random_tensor(channels, DType::f32, 7, 0.5f, 2.f).to(device);
    if (p.values == Values::sums) produced = produce(to_doubles(x), p.rows, p.c, device);
    if (p.values == Values::threshold) {  // mean and rstd do not depend on beta: run once to learn them, and put row 0's value on the edge
      const Tensor keep_rm = rm.clone(), keep_rv = rv.clone();
      forward();
      rm.copy_from(keep_rm), rv.copy_from(keep_rv);
      const Tensor g = gamma.to(Device::cpu), m = mean.to(Device::cpu), r = rstd.to(Device::cpu);
      Tensor b = Tensor::empty(channels, DType::f32);
      const Doubles first = to_doubles(host_x);
      for (int64_t i = 0; i < p.c; ++i) b.data<float>()[i] = -(g.data<float>()[i] * r.data<float>()[i]) * (float(first[size_t(i)]) - m.data<float>()[i]);
      beta = b.to(device);
    }
  }
  void forward() {
    batchnorm_train(stream, {.x = x.raw(),
                             .residual = p.residual ? residual.raw() : nullptr,
                             .y = y.raw(),
                             .mask = mask.defined() ? mask.data<uint8_t>() : nullptr,
                             .gamma = gamma.data<float>(),
                             .beta = beta.data<float>(),
                             .mean = mean.data<float>(),
                             .rstd = rstd.data<float>(),
                             .running_mean = rm.data<float>(),
                             .running_var = rv.data<float>(),
                             .rows = p.rows,
                             .c = p.c,
                             .type = p.type,
                             .activation = p.activation,
                             .sums = produced ? produced->sums() : ChannelSums{},
                             .form = p.form});
  }
  void backward() {
    dgamma = filled({p.c}, kDgammaBefore).to(stream.device), dbeta = filled({p.c}, kDbetaBefore).to(stream.device);
    backward_to(dx, dy);
  }
  void backward_to(const Tensor& to, const Tensor& from) {
    batchnorm_bwd(stream, {.x = x.raw(),
                           .dy = from.raw(),
                           .dx = to.raw(),
                           .dresidual = p.residual ? dres.raw() : nullptr,
                           .mask = mask.defined() ? mask.data<uint8_t>() : nullptr,
                           .gamma = gamma.data<float>(),
                           .beta = beta.data<float>(),
                           .mean = mean.data<float>(),
                           .rstd = rstd.data<float>(),
                           .dgamma = dgamma.data<float>(),
                           .dbeta = dbeta.data<float>(),
                           .rows = p.rows,
                           .c = p.c,
                           .type = p.type,
                           .activation = p.activation,
                           .form = p.form});
  }
};

// The bits that the oracle's signs demand; within rounding of zero, those of the kernel's own y. Bits of channels that are not there are 0.
Doubles mask_of(const Doubles& y, const Doubles& want_y, int64_t rows, int64_t c) {
  Doubles bytes(size_t(rows * ((c + 7) / 8)));
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t i = 0; i < c; ++i) {
      const size_t at = size_t(r * c + i);
      if (want_y[at] > 1e-5 || (want_y[at] > -1e-5 && y[at] > 0)) bytes[size_t(r * ((c + 7) / 8) + i / 8)] += double(1 << i % 8);
    }
  return bytes;
}

std::vector<Checked> check(const Problem& p, Stream stream) {
  Run run(p, stream);
  const auto x = to_doubles(run.x), res = to_doubles(run.residual), dy = to_doubles(run.dy), gamma = to_doubles(run.gamma), beta = to_doubles(run.beta);
  const auto rm = to_doubles(run.rm), rv = to_doubles(run.rv);
  run.forward();
  const Moments m = moments(x, p.rows, p.c);
  Doubles want = normalise(x, m, gamma, beta);
  activate(want, p.residual ? &res : nullptr, Activation::none);
  const Doubles before_relu = want;
  activate(want, nullptr, p.activation);
  double tol = tolerance(p.type);
  const auto y = to_doubles(run.y);
  // An f32 mean of 1000 is itself off by up to 3e-5.
  std::vector<Checked> out{{"y", y, want, p.values == Values::offset ? 5e-5 : tol}};
  check_running(out, m, p.rows, rm, rv, run.rm, run.rv);
  if (run.mask.defined()) out.push_back({"mask", to_doubles(run.mask), mask_of(y, before_relu, p.rows, p.c), 0});

  run.backward();
  Doubles dz(dy);
  if (p.activation == Activation::relu)
    for (size_t i = 0; i < dz.size(); ++i) dz[i] = y[i] > 0 ? dz[i] : 0;  // the kernel's own sign: a value that rounds to zero differently is no gradient error
  const Gradients want_g = backward(x, dz, m, gamma);
  // With one or two rows dx is what is left after everything cancels (exactly zero for one): nothing to compare relative to.
  if (p.rows > 2) out.push_back({"dx", to_doubles(run.dx), want_g.dx, tol * (p.values == Values::offset ? 50 : 2)});
  out.push_back({"dgamma", to_doubles(run.dgamma), plus(want_g.dgamma, kDgammaBefore), p.rows > 1 ? 1e-4 : 0.0});
  out.push_back({"dbeta", to_doubles(run.dbeta), plus(want_g.dbeta, kDbetaBefore), 1e-5});
  if (p.residual) out.push_back({"dresidual", to_doubles(run.dres), dz, 0});
  if (p.rows > 2) {
    const Tensor in_place = run.dy.clone();
    run.backward_to(in_place, in_place);
    out.push_back({"dx in the place of dy", to_doubles(in_place), to_doubles(run.dx), 0});
  }

  return out;
}

std::vector<Checked> grad(const Problem& p, Stream stream) {
  Run run(p, stream);
  run.forward();
  run.backward();
  const auto dy = to_doubles(run.dy), gamma = to_doubles(run.gamma), beta = to_doubles(run.beta), res = to_doubles(run.residual);
  auto contracted = [&](const Doubles& x, const Doubles& g) {
    Doubles y = normalise(x, moments(x, p.rows, p.c), g, beta);
    activate(y, p.residual ? &res : nullptr, p.activation);
    double sum = 0;
    for (size_t i = 0; i < dy.size(); ++i) sum += dy[i] * y[i];
    return sum;
  };
  const auto x = to_doubles(run.x);
  return {check_gradient(
              "dx", x, [&](const Doubles& v) { return contracted(v, gamma); }, to_doubles(run.dx), 1e-6, 2e-3),
          check_gradient(
              "dgamma", gamma, [&](const Doubles& v) { return contracted(x, v); }, plus(to_doubles(run.dgamma), -kDgammaBefore), 1e-6, 2e-3)};
}

enum class Direction : unsigned char { both, forward, backward };
Work perf(const Problem& p, Direction direction, Stream stream) {
  auto run = std::make_shared<Run>(p, stream);
  run->forward();
  run->backward();
  // Forward: x twice, y, and the residual; backward: x and dy twice, dx, and dresidual. The mask is a sixteenth of a bf16 tensor.
  const double forward = double(run->x.bytes()) * (p.residual ? 4 : 3), backward = double(run->x.bytes()) * (p.residual ? 6 : 5);
  switch (direction) {
    case Direction::both: return {.run = [run] { run->forward(), run->backward_to(run->dx, run->dy); }, .bytes = forward + backward, .flops = 0};
    case Direction::forward: return {.run = [run] { run->forward(); }, .bytes = forward, .flops = 0};
    case Direction::backward: return {.run = [run] { run->backward_to(run->dx, run->dy); }, .bytes = backward, .flops = 0};
  }
  KD_FAIL("direction {}", int(direction));
}

// batchnorm_pool_train and _bwd --------------------------------------------------------------------------------------------------------------------------

struct PoolProblem {
  int64_t n, h, w, c;
  DType type;
  bool sums = false;
  int64_t p() const { return (h - 1) / 2 + 1; }
  int64_t q() const { return (w - 1) / 2 + 1; }
};

struct PoolRun {
  PoolProblem p;
  Stream stream;
  Tensor x, dy, gamma, beta, y, arg, dx, dgamma, dbeta, mean, rstd, rm, rv;
  std::optional<Produced> produced;
  // Whole numbers from -4 to 4, so that windows are full of equals and no rounding can tell two of them apart; or any numbers, for derivatives.
  enum class Fill : unsigned char { whole, uniform };
  PoolRun(const PoolProblem& problem, Stream s, Fill fill) : p(problem), stream(s) {
    const Device device = stream.device;
    const Shape channels{p.c};
    Tensor host_x = random_tensor({p.n, p.h, p.w, p.c}, p.type, 1, -4.5f, 4.5f);
    if (fill == Fill::whole) round_to(host_x, 1);
    x = host_x.to(device);
    dy = random_tensor({p.n, p.p(), p.q(), p.c}, p.type, 3).to(device);
    Tensor host_gamma = random_tensor(channels, DType::f32, 4, -1.5f, 1.5f), host_beta = random_tensor(channels, DType::f32, 5);
    if (fill == Fill::whole && p.c > 1) host_gamma.data<float>()[1] = 0, host_beta.data<float>()[1] = 0.5f;  // a channel of nothing but equals
    gamma = host_gamma.to(device), beta = host_beta.to(device);
    y = Tensor::empty(dy.shape(), p.type, device), arg = Tensor::empty(dy.shape(), DType::u8, device), dx = Tensor::empty(x.shape(), p.type, device);
    mean = Tensor::empty(channels, DType::f32, device), rstd = Tensor::empty(channels, DType::f32, device);
    rm = random_tensor(channels, DType::f32, 6).to(device), rv = random_tensor(channels, DType::f32, 7, 0.5f, 2.f).to(device);
    dgamma = filled(channels, kDgammaBefore).to(device), dbeta = filled(channels, kDbetaBefore).to(device);
    if (p.sums) produced = produce(to_doubles(x), p.n * p.h * p.w, p.c, device);
  }
  void forward() {
    batchnorm_pool_train(stream, {.x = x.raw(),
                                  .y = y.raw(),
                                  .arg = arg.data<uint8_t>(),
                                  .gamma = gamma.data<float>(),
                                  .beta = beta.data<float>(),
                                  .mean = mean.data<float>(),
                                  .rstd = rstd.data<float>(),
                                  .running_mean = rm.data<float>(),
                                  .running_var = rv.data<float>(),
                                  .n = p.n,
                                  .h = p.h,
                                  .w = p.w,
                                  .c = p.c,
                                  .type = p.type,
                                  .sums = produced ? produced->sums() : ChannelSums{}});
  }
  void backward() {
    batchnorm_pool_bwd(stream, {.x = x.raw(),
                                .dy = dy.raw(),
                                .arg = arg.data<uint8_t>(),
                                .dx = dx.raw(),
                                .gamma = gamma.data<float>(),
                                .beta = beta.data<float>(),
                                .mean = mean.data<float>(),
                                .rstd = rstd.data<float>(),
                                .dgamma = dgamma.data<float>(),
                                .dbeta = dbeta.data<float>(),
                                .n = p.n,
                                .h = p.h,
                                .w = p.w,
                                .c = p.c,
                                .type = p.type});
  }
};

struct Pooled {
  Doubles y, arg;
  std::vector<size_t> winner;  // index into x of each output
};
Pooled pool(const Doubles& v, const PoolProblem& s) {
  Pooled out;
  for (int64_t n = 0; n < s.n; ++n)
    for (int64_t p = 0; p < s.p(); ++p)
      for (int64_t q = 0; q < s.q(); ++q)
        for (int64_t c = 0; c < s.c; ++c) {
          size_t best = v.size();
          int64_t place = 0;
          for (int64_t r = 0; r < 3; ++r)
            for (int64_t t = 0; t < 3; ++t) {
              const int64_t h = 2 * p + r - 1, w = 2 * q + t - 1;
              if (h < 0 || w < 0 || h >= s.h || w >= s.w) continue;
              const size_t at = size_t(((n * s.h + h) * s.w + w) * s.c + c);
              if (best == v.size() || v[at] > v[best]) best = at, place = r * 3 + t;
            }
          out.y.push_back(v[best]);
          out.arg.push_back(double(place));
          out.winner.push_back(best);
        }
  return out;
}

std::vector<Checked> check_pool(const PoolProblem& p, Stream stream) {
  PoolRun run(p, stream, PoolRun::Fill::whole);
  const auto x = to_doubles(run.x), dy = to_doubles(run.dy), gamma = to_doubles(run.gamma), beta = to_doubles(run.beta);
  const auto rm = to_doubles(run.rm), rv = to_doubles(run.rv);
  const int64_t rows = p.n * p.h * p.w;
  const Moments m = moments(x, rows, p.c);
  Doubles v = normalise(x, m, gamma, beta);
  activate(v, nullptr, Activation::relu);
  const Pooled want = pool(v, p);
  run.forward();
  const double tol = tolerance(p.type);
  std::vector<Checked> out{{"y", to_doubles(run.y), want.y, tol}, {"arg", to_doubles(run.arg), want.arg, 0}};
  check_running(out, m, rows, rm, rv, run.rm, run.rv);
  run.backward();
  Doubles dz(x.size());
  for (size_t i = 0; i < dy.size(); ++i)
    if (want.y[i] > 0) dz[want.winner[i]] += dy[i];
  const Gradients g = backward(x, dz, m, gamma);
  if (rows > 2) out.push_back({"dx", to_doubles(run.dx), g.dx, tol * 2});
  out.push_back({"dgamma", to_doubles(run.dgamma), plus(g.dgamma, kDgammaBefore), rows > 1 ? 1e-4 : 0.0});
  out.push_back({"dbeta", to_doubles(run.dbeta), plus(g.dbeta, kDbetaBefore), 1e-5});
  return out;
}

std::vector<Checked> grad_pool(const PoolProblem& p, Stream stream) {
  PoolRun run(p, stream, PoolRun::Fill::uniform);
  run.forward();
  run.backward();
  const auto dy = to_doubles(run.dy), gamma = to_doubles(run.gamma), beta = to_doubles(run.beta);
  auto contracted = [&](const Doubles& x, const Doubles& g) {
    Doubles v = normalise(x, moments(x, p.n * p.h * p.w, p.c), g, beta);
    activate(v, nullptr, Activation::relu);
    const Pooled y = pool(v, p);
    double sum = 0;
    for (size_t i = 0; i < dy.size(); ++i) sum += dy[i] * y.y[i];
    return sum;
  };
  const auto x = to_doubles(run.x);
  return {check_gradient(
              "dx", x, [&](const Doubles& v) { return contracted(v, gamma); }, to_doubles(run.dx), 1e-6, 2e-3),
          check_gradient(
              "dgamma", gamma, [&](const Doubles& v) { return contracted(x, v); }, plus(to_doubles(run.dgamma), -kDgammaBefore), 1e-6, 2e-3)};
}

Work perf_pool(const PoolProblem& p, Direction direction, Stream stream) {
  auto run = std::make_shared<PoolRun>(p, stream, PoolRun::Fill::uniform);
  run->forward();
  const double x = double(run->x.bytes()), y = double(run->y.bytes() + run->arg.bytes());
  // Forward: x twice, y and arg; backward: x, dy and arg twice, dx.
  switch (direction) {
    case Direction::both: return {.run = [run] { run->forward(), run->backward(); }, .bytes = 5 * x + 3 * y, .flops = 0};
    case Direction::forward: return {.run = [run] { run->forward(); }, .bytes = 2 * x + y, .flops = 0};
    case Direction::backward: return {.run = [run] { run->backward(); }, .bytes = 3 * x + 2 * y, .flops = 0};
  }
  KD_FAIL("direction {}", int(direction));
}

// batchnorm_fold -----------------------------------------------------------------------------------------------------------------------------------------

std::vector<Checked> check_fold(int64_t k, int64_t per_filter, DType filter_type, DType bias_type, Stream stream) {
  const Device device = stream.device;
  const Tensor filter = random_tensor({k, per_filter}, DType::f32, 1).to(device), gamma = random_tensor({k}, DType::f32, 2, -1.5f, 1.5f).to(device);
  const Tensor beta = random_tensor({k}, DType::f32, 3).to(device), mean = random_tensor({k}, DType::f32, 4).to(device);
  const Tensor var = random_tensor({k}, DType::f32, 5, 0.1f, 2.f).to(device);
  const Tensor out = Tensor::empty({k, per_filter}, filter_type, device), bias = Tensor::empty({k}, bias_type, device);
  batchnorm_fold(stream, {.filter = filter.data<float>(),
                          .gamma = gamma.data<float>(),
                          .beta = beta.data<float>(),
                          .running_mean = mean.data<float>(),
                          .running_var = var.data<float>(),
                          .out_filter = out.raw(),
                          .filter_type = filter_type,
                          .out_bias = bias.raw(),
                          .bias_type = bias_type,
                          .k = k,
                          .per_filter = per_filter});
  const auto f = to_doubles(filter), g = to_doubles(gamma), b = to_doubles(beta), m = to_doubles(mean), v = to_doubles(var);
  Doubles want, want_bias;
  for (size_t i = 0; i < f.size(); ++i) want.push_back(f[i] * g[i / size_t(per_filter)] / std::sqrt(v[i / size_t(per_filter)] + 1e-5));
  for (size_t i = 0; i < g.size(); ++i) want_bias.push_back(b[i] - m[i] * g[i] / std::sqrt(v[i] + 1e-5));
  auto tol = [](DType type) { return type == DType::bf16 ? 0x1p-8 : 1e-6; };  // one rounding to the output type
  return {{"filter", to_doubles(out), want, tol(filter_type)}, {"bias", to_doubles(bias), want_bias, tol(bias_type)}};
}

}  // namespace

void add_batchnorm_cases(Cases& all) {
  auto add = [&](Problem p, bool timed = false) {
    std::string name = fmt::format("batchnorm:{}:{}x{}{}{}{}{}", to_string(p.type), p.rows, p.c, p.residual ? ":add" : "",
                                   p.activation == Activation::relu ? ":relu" : "", suffix(p.values), suffix(p.form));
    Case c{.name = name, .check = [p](Stream s) { return check(p, s); }, .grad = {}, .perf = {}};
    if (p.type == DType::f32 && p.rows > 2 && p.rows * p.c < 5000 && (p.values == Values::uniform || p.values == Values::sums))
      c.grad = [p](Stream s) { return grad(p, s); };
    if (timed) c.perf = [p](Stream s) { return perf(p, Direction::both, s); };
    all.push_back(std::move(c));
  };
  using enum Activation;
  for (DType type : {DType::f32, DType::bf16}) {
    for (auto [rows, c] : {std::pair<int64_t, int64_t>{1, 16}, {2, 3}, {77, 13}, {64, 32}, {130, 33}, {2048, 64}})
      for (bool residual : {false, true})
        for (Activation activation : {none, relu}) add({rows, c, type, activation, residual});
    add({32768, 64, type, relu, true}, true);
    add({2048, 256, type, relu, false}, true);
    add({500, 24, type, relu, false, Values::threshold});
    add({500, 24, type, relu, true, Values::sums});
    add({77, 13, type, none, false, Values::sums});
    // Both forms of the GPU: one group of channels, a part of one, many; a channel; more rows than shared memory holds.
    for (BatchNormForm form : {BatchNormForm::two_pass, BatchNormForm::one_pass}) {
      for (auto [rows, c] : {std::pair<int64_t, int64_t>{1, 1}, {1000, 1}, {3, 7}, {129, 9}, {301, 72}, {700, 200}})
        add({rows, c, type, relu, rows % 2 == 1, Values::uniform, form});
      add({300, 64, type, relu, false, Values::threshold, form});
      add({301, 31, type, relu, true, Values::threshold, form});
      add({9001, 64, type, relu, true, Values::uniform, form});
    }
    add({5, 2048, type, relu, true, Values::uniform, BatchNormForm::two_pass});
  }
  for (BatchNormForm form : {BatchNormForm::automatic, BatchNormForm::two_pass, BatchNormForm::one_pass})
    add({4096, 24, DType::f32, none, false, Values::offset, form});

  for (DType type : {DType::f32, DType::bf16}) {
    for (PoolProblem p : {PoolProblem{1, 1, 1, 3, type}, PoolProblem{1, 2, 2, 8, type}, PoolProblem{2, 7, 9, 13, type}, PoolProblem{2, 12, 10, 64, type},
                          PoolProblem{1, 9, 34, 72, type}, PoolProblem{3, 11, 6, 16, type, true}, PoolProblem{2, 5, 5, 3, type, true}}) {
      Case c{.name = fmt::format("batchnorm:pool:{}:n{}h{}w{}c{}{}", to_string(type), p.n, p.h, p.w, p.c, p.sums ? ":sums" : ""),
             .check = [p](Stream s) { return check_pool(p, s); },
             .grad = {},
             .perf = {}};
      if (type == DType::f32 && p.h > 2) c.grad = [p](Stream s) { return grad_pool(p, s); };
      all.push_back(std::move(c));
    }
    const PoolProblem stem{16, 112, 112, 64, type};
    all.push_back({.name = "batchnorm:pool:" + to_string(type) + ":n16h112w112c64", .check = {}, .grad = {}, .perf = [stem](Stream s) {
                     return perf_pool(stem, Direction::both, s);
                   }});
  }
  // ResNet-18 at 32 px, batch 128: each way alone, beyond the caches of most CPUs.
  for (DType type : {DType::f32, DType::bf16})
    for (auto [direction, word] : {std::pair{Direction::forward, "fwd"}, {Direction::backward, "bwd"}})
      for (Problem p : {Problem{131072, 64, type, relu, false}, Problem{131072, 64, type, relu, true}, Problem{32768, 128, type, relu, true}})
        all.push_back({.name = fmt::format("batchnorm:{}:{}:{}x{}{}:relu", word, to_string(type), p.rows, p.c, p.residual ? ":add" : ""),
                       .check = {},
                       .grad = {},
                       .perf = [p, direction = direction](Stream s) { return perf(p, direction, s); }});
  // A GPU's share of ResNet-18 at 224 px, batch 256, to be timed: the first and the last stage, and the stem.
  for (auto [direction, word] : {std::pair{Direction::forward, "fwd"}, {Direction::backward, "bwd"}}) {
    for (BatchNormForm form : {BatchNormForm::two_pass, BatchNormForm::one_pass})
      for (Problem p :
           {Problem{802816, 64, DType::bf16, relu, false, Values::uniform, form}, Problem{802816, 64, DType::bf16, relu, true, Values::uniform, form},
            Problem{12544, 512, DType::bf16, relu, false, Values::uniform, form}})
        all.push_back({.name = fmt::format("batchnorm:{}:bf16:{}x{}{}:relu{}", word, p.rows, p.c, p.residual ? ":add" : "", suffix(form)),
                       .check = {},
                       .grad = {},
                       .perf = [p, direction = direction](Stream s) { return perf(p, direction, s); }});
    all.push_back({.name = fmt::format("batchnorm:pool:{}:bf16:n256h112w112c64", word), .check = {}, .grad = {}, .perf = [direction = direction](Stream s) {
                     return perf_pool({256, 112, 112, 64, DType::bf16}, direction, s);
                   }});
  }
  for (auto [k, per_filter] : {std::pair<int64_t, int64_t>{1, 1}, {3, 13}, {64, 147}, {5, 4608}})
    for (DType filter_type : {DType::f32, DType::bf16})
      for (DType bias_type : {DType::f32, DType::bf16})
        all.push_back({.name = fmt::format("batchnorm:fold:{}:{}x{}:bias_{}", to_string(filter_type), k, per_filter, to_string(bias_type)),
                       .check = [=, k = k, per_filter = per_filter](Stream s) { return check_fold(k, per_filter, filter_type, bias_type, s); },
                       .grad = {},
                       .perf = {}});
}

}  // namespace kd::cases
