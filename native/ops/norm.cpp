#include "ops/norm.h"

#include <cmath>

#include "ops/backend.h"
#include "ops/checks.h"

namespace nibble {

namespace {

// [N, C]; returns N.
int64_t check_rows(const char* op, const char* name, const Tensor& t) {
  check_float32_or_bf16(op, name, t);
  require(t.rank == 2 && t.dim(1) >= 1, op, name, ": expected shape [N,C] with C >= 1, got ", t);
  return t.dim(0);
}

}  // namespace

void norm_forward(const NormForwardArgs& a) {
  const char* op = "norm_forward";
  const int64_t n = check_rows(op, "x", a.x), c = a.x.dim(1);
  const Device device = a.x.device;
  check_floats(op, "weight", a.weight, c, device);
  require(std::isfinite(a.eps) && a.eps >= 0, op, "eps: expected a finite number >= 0, got ", a.eps);
  check_like(op, "y", a.y, "x", a.x);
  if (a.residual) check_like(op, "residual", a.residual, "x", a.x);
  if (a.sum) check_like(op, "sum", a.sum, "x", a.x);
  require(a.sum || !a.residual, op, "sum: expected a tensor, because residual is given");
  check_floats(op, "rstd", a.rstd, n, device);
  if (a.kind == Norm::kLayer) {
    check_floats(op, "mean", a.mean, n, device);
    if (a.bias) check_floats(op, "bias", a.bias, c, device);
  } else {
    require(!a.bias, op, "bias: expected none, because rmsnorm has no bias");
  }
  backend_of(device).norm_forward(a);
}

void norm_backward(const NormBackwardArgs& a) {
  const char* op = "norm_backward";
  const int64_t n = check_rows(op, "s", a.s), c = a.s.dim(1);
  const Device device = a.s.device;
  check_like(op, "d_y", a.d_y, "s", a.s);
  if (a.d_sum) check_like(op, "d_sum", a.d_sum, "s", a.s);
  check_like(op, "d_s", a.d_s, "s", a.s);
  check_floats(op, "weight", a.weight, c, device);
  check_floats(op, "rstd", a.rstd, n, device);
  if (a.d_weight) check_floats(op, "d_weight", a.d_weight, c, device);
  if (a.kind == Norm::kLayer) {
    check_floats(op, "mean", a.mean, n, device);
    if (a.d_bias) check_floats(op, "d_bias", a.d_bias, c, device);
  } else {
    require(!a.d_bias, op, "d_bias: expected none, because rmsnorm has no bias");
  }
  backend_of(device).norm_backward(a);
}

}  // namespace nibble
