// The oracle: the textbook formulas in double, two passes over each channel.
#include <cmath>

#include "kernels/batchnorm/batchnorm.h"
#include "kernels/common/cases.h"

namespace kd::cases {
namespace {

struct Problem {
  int64_t rows, c;
  DType type;
  Activation activation;
  bool residual;
  float offset;  // common offset of x: a one-pass variance in f32 would lose its digits here
};

struct Forward {
  std::vector<double> y, mean, var;
};

Forward oracle_forward(const std::vector<double>& x, const std::vector<double>& gamma, const std::vector<double>& beta, const std::vector<double>* residual,
                       int64_t rows, int64_t c, Activation activation) {
  Forward out{std::vector<double>(x.size()), std::vector<double>(size_t(c)), std::vector<double>(size_t(c))};
  for (int64_t i = 0; i < c; ++i) {
    double mean = 0, var = 0;
    for (int64_t r = 0; r < rows; ++r) mean += x[size_t(r * c + i)] / double(rows);
    for (int64_t r = 0; r < rows; ++r) var += std::pow(x[size_t(r * c + i)] - mean, 2) / double(rows);
    for (int64_t r = 0; r < rows; ++r) {
      size_t at = size_t(r * c + i);
      double v = gamma[size_t(i)] * (x[at] - mean) / std::sqrt(var + 1e-5) + beta[size_t(i)] + (residual ? (*residual)[at] : 0);
      out.y[at] = activation == Activation::relu ? std::max(0.0, v) : v;
    }
    out.mean[size_t(i)] = mean;
    out.var[size_t(i)] = var;
  }
  return out;
}

struct Run {
  Problem p;
  Tensor x, residual, dy, gamma, beta, y, dx, dres, dgamma, dbeta, mean, rstd, rm, rv;
  explicit Run(const Problem& problem) : p(problem) {
    Shape shape{p.rows, p.c}, channels{p.c};
    x = random_tensor(shape, p.type, 1, -1.f + p.offset, 1.f + p.offset);
    residual = random_tensor(shape, p.type, 2);
    dy = random_tensor(shape, p.type, 3);
    gamma = random_tensor(channels, DType::f32, 4, 0.5f, 1.5f);
    beta = random_tensor(channels, DType::f32, 5);
    y = Tensor::empty(shape, p.type), dx = Tensor::empty(shape, p.type), dres = Tensor::empty(shape, p.type);
    dgamma = Tensor::zeros(channels, DType::f32), dbeta = Tensor::zeros(channels, DType::f32);
    mean = Tensor::empty(channels, DType::f32), rstd = Tensor::empty(channels, DType::f32);
    rm = random_tensor(channels, DType::f32, 6), rv = random_tensor(channels, DType::f32, 7, 0.5f, 2.f);
  }
  void forward(Stream stream) {
    batchnorm_train(stream, {.x = x.raw(),
                             .residual = p.residual ? residual.raw() : nullptr,
                             .y = y.raw(),
                             .gamma = gamma.data<float>(),
                             .beta = beta.data<float>(),
                             .mean = mean.data<float>(),
                             .rstd = rstd.data<float>(),
                             .running_mean = rm.data<float>(),
                             .running_var = rv.data<float>(),
                             .rows = p.rows,
                             .c = p.c,
                             .type = p.type,
                             .activation = p.activation});
  }
  void backward(Stream stream) {
    batchnorm_bwd(stream, {.x = x.raw(),
                           .y = y.raw(),
                           .dy = dy.raw(),
                           .dx = dx.raw(),
                           .dresidual = p.residual ? dres.raw() : nullptr,
                           .gamma = gamma.data<float>(),
                           .mean = mean.data<float>(),
                           .rstd = rstd.data<float>(),
                           .dgamma = dgamma.data<float>(),
                           .dbeta = dbeta.data<float>(),
                           .rows = p.rows,
                           .c = p.c,
                           .type = p.type,
                           .activation = p.activation});
  }
};

std::vector<Checked> check(const Problem& p, Stream stream) {
  Run run(p);
  const auto x = to_doubles(run.x), res = to_doubles(run.residual), dy = to_doubles(run.dy), gamma = to_doubles(run.gamma), beta = to_doubles(run.beta);
  const auto rm = to_doubles(run.rm), rv = to_doubles(run.rv);
  run.forward(stream);
  Forward want = oracle_forward(x, gamma, beta, p.residual ? &res : nullptr, p.rows, p.c, p.activation);
  std::vector<double> want_rm(rm), want_rv(rv);
  for (size_t i = 0; i < rm.size(); ++i) {
    want_rm[i] = 0.9 * rm[i] + 0.1 * want.mean[i];
    want_rv[i] = 0.9 * rv[i] + 0.1 * want.var[i] * double(p.rows) / std::max(1.0, double(p.rows - 1));
  }
  double tol = tolerance(p.type);
  // An f32 mean of 1000 is itself off by up to 3e-5.
  std::vector<Checked> out{{"y", to_doubles(run.y), want.y, p.offset != 0 ? 5e-5 : tol},
                           {"running_mean", to_doubles(run.rm), want_rm, 1e-6},
                           {"running_var", to_doubles(run.rv), want_rv, 1e-5}};

  run.backward(stream);
  const auto y = to_doubles(run.y);  // the kernel's own mask: a value that rounds to zero differently is not a gradient error
  std::vector<double> dx(x.size()), dz(dy), dgamma(gamma.size()), dbeta(gamma.size());
  if (p.activation == Activation::relu)
    for (size_t i = 0; i < dz.size(); ++i) dz[i] = y[i] > 0 ? dz[i] : 0;
  for (int64_t i = 0; i < p.c; ++i) {
    size_t k = size_t(i);
    double rstd = 1 / std::sqrt(want.var[k] + 1e-5), n = double(p.rows);
    auto hat = [&](size_t at) { return (x[at] - want.mean[k]) * rstd; };
    for (int64_t r = 0; r < p.rows; ++r) dbeta[k] += dz[size_t(r * p.c + i)], dgamma[k] += dz[size_t(r * p.c + i)] * hat(size_t(r * p.c + i));
    for (int64_t r = 0; r < p.rows; ++r) {
      size_t at = size_t(r * p.c + i);
      dx[at] = gamma[k] * rstd * (dz[at] - dbeta[k] / n - hat(at) * dgamma[k] / n);
    }
  }
  // With one or two rows dx is what is left after everything cancels (exactly zero for one): nothing to compare relative to.
  if (p.rows > 2) out.push_back({"dx", to_doubles(run.dx), dx, tol * (p.offset != 0 ? 50 : 2)});
  out.push_back({"dgamma", to_doubles(run.dgamma), dgamma, p.rows > 1 ? 1e-4 : 0.0});
  out.push_back({"dbeta", to_doubles(run.dbeta), dbeta, 1e-5});
  if (p.residual) out.push_back({"dresidual", to_doubles(run.dres), dz, 0});

  Tensor inferred = Tensor::empty(run.x.shape(), p.type);
  batchnorm_infer(stream, {.x = run.x.raw(),
                           .residual = p.residual ? run.residual.raw() : nullptr,
                           .y = inferred.raw(),
                           .gamma = run.gamma.data<float>(),
                           .beta = run.beta.data<float>(),
                           .running_mean = run.rm.data<float>(),
                           .running_var = run.rv.data<float>(),
                           .rows = p.rows,
                           .c = p.c,
                           .type = p.type,
                           .activation = p.activation});
  const auto mean = to_doubles(run.rm), var = to_doubles(run.rv);
  std::vector<double> want_infer(x.size());
  for (size_t i = 0; i < x.size(); ++i) {
    size_t k = i % size_t(p.c);
    double v = gamma[k] * (x[i] - mean[k]) / std::sqrt(var[k] + 1e-5) + beta[k] + (p.residual ? res[i] : 0);
    want_infer[i] = p.activation == Activation::relu ? std::max(0.0, v) : v;
  }
  out.push_back({"infer", to_doubles(inferred), want_infer, tol});
  return out;
}

std::vector<Checked> grad(const Problem& p, Stream stream) {
  Run run(p);
  run.forward(stream);
  run.backward(stream);
  const auto dy = to_doubles(run.dy), gamma = to_doubles(run.gamma), beta = to_doubles(run.beta), res = to_doubles(run.residual);
  auto contracted = [&](const std::vector<double>& x, const std::vector<double>& g) {
    Forward f = oracle_forward(x, g, beta, p.residual ? &res : nullptr, p.rows, p.c, p.activation);
    double sum = 0;
    for (size_t i = 0; i < dy.size(); ++i) sum += dy[i] * f.y[i];
    return sum;
  };
  const auto x = to_doubles(run.x);
  return {check_gradient(
              "dx", x, [&](const std::vector<double>& v) { return contracted(v, gamma); }, to_doubles(run.dx), 1e-6, 2e-3),
          check_gradient(
              "dgamma", gamma, [&](const std::vector<double>& v) { return contracted(x, v); }, to_doubles(run.dgamma), 1e-6, 2e-3)};
}

Work perf(const Problem& p, Stream stream) {
  auto run = std::make_shared<Run>(p);
  run->forward(stream);
  return {.run = [run, stream] { run->forward(stream), run->backward(stream); }, .bytes = double(run->x.bytes()) * (p.residual ? 12 : 10), .flops = 0};
}

}  // namespace

void add_batchnorm_cases(Cases& all) {
  auto add = [&](Problem p, bool timed) {
    std::string name = fmt::format("batchnorm:{}:{}x{}{}{}{}", to_string(p.type), p.rows, p.c, p.residual ? ":add" : "",
                                   p.activation == Activation::relu ? ":relu" : "", p.offset != 0 ? ":offset" : "");
    Case c{.name = name, .check = [p](Stream s) { return check(p, s); }, .grad = {}, .perf = {}};
    if (p.type == DType::f32 && p.rows > 2 && p.rows * p.c < 5000 && p.offset == 0) c.grad = [p](Stream s) { return grad(p, s); };
    if (timed) c.perf = [p](Stream s) { return perf(p, s); };
    all.push_back(std::move(c));
  };
  for (DType type : {DType::f32, DType::bf16}) {
    for (auto [rows, c] : {std::pair<int64_t, int64_t>{1, 16}, {2, 3}, {77, 13}, {64, 32}, {130, 33}, {2048, 64}})
      for (bool residual : {false, true})
        for (Activation activation : {Activation::none, Activation::relu}) add({rows, c, type, activation, residual, 0}, false);
    add({32768, 64, type, Activation::relu, true, 0}, true);
    add({2048, 256, type, Activation::relu, false, 0}, true);
  }
  add({4096, 24, DType::f32, Activation::none, false, 1000.f}, false);
}

}  // namespace kd::cases
