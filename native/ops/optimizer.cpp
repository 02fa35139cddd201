#include "ops/optimizer.h"

#include <cmath>

#include "ops/backend.h"
#include "ops/checks.h"
#include "ops/code8.h"

namespace nibble {

namespace {

void check_state(const char* op, const AdamwArgs& a) {
  const int64_t n = a.p.count();
  const bool blocks = a.m.dtype == DType::kU8;
  require(blocks || a.m.dtype == DType::kF32, op, "m: expected float32 or uint8, got ", name_of(a.m.dtype));
  check_device(op, "m", a.m, a.p.device);
  check_count(op, "m", a.m, n);
  check_like(op, "v", a.v, "m", a.m);
  require(bool(a.m_absmax) == blocks, op, "m_absmax: expected ", blocks ? "a tensor" : "none", " for state of ",
          name_of(a.m.dtype));
  require(bool(a.v_absmax) == blocks, op, "v_absmax: expected ", blocks ? "a tensor" : "none", " for state of ",
          name_of(a.m.dtype));
  if (!blocks) return;
  const int64_t count = (n + kBlock8 - 1) / kBlock8;
  check_floats(op, "m_absmax", a.m_absmax, count, a.p.device);
  check_floats(op, "v_absmax", a.v_absmax, count, a.p.device);
}

void check_hyper(const char* op, const AdamwArgs& a) {
  require(a.step >= 1, op, "step: expected >= 1, got ", a.step);
  require(std::isfinite(a.lr) && a.lr >= 0, op, "lr: expected a finite number >= 0, got ", a.lr);
  require(a.beta1 >= 0 && a.beta1 < 1, op, "beta1: expected 0 <= beta1 < 1, got ", a.beta1);
  require(a.beta2 >= 0 && a.beta2 < 1, op, "beta2: expected 0 <= beta2 < 1, got ", a.beta2);
  require(std::isfinite(a.eps) && a.eps >= 0, op, "eps: expected a finite number >= 0, got ", a.eps);
  require(std::isfinite(a.weight_decay) && a.weight_decay >= 0, op,
          "weight_decay: expected a finite number >= 0, got ", a.weight_decay);
  require(std::isfinite(a.grad_scale), op, "grad_scale: expected a finite number, got ", a.grad_scale);
}

}  // namespace

AdamwFactors adamw_factors(const AdamwArgs& a) {
  const double step = double(a.step);
  return {
      .grad_scale = float(a.grad_scale),
      .decay = float(1 - a.lr * a.weight_decay),
      .beta1 = float(a.beta1),
      .gain1 = float(1 - a.beta1),
      .beta2 = float(a.beta2),
      .gain2 = float(1 - a.beta2),
      .step_size = float(a.lr / (1 - std::pow(a.beta1, step))),
      .root = float(std::sqrt(1 - std::pow(a.beta2, step))),
      .eps = float(a.eps),
  };
}

void adamw(const AdamwArgs* all, int count) {
  const char* op = "adamw";
  for (const AdamwArgs* a = all; a < all + count; ++a) {
    check_dtype(op, "p", a->p, DType::kF32);
    check_device(op, "p", a->p, all->p.device);
    check_floats(op, "g", a->g, a->p.count(), a->p.device);
    check_state(op, *a);
    check_hyper(op, *a);
  }
  if (count > 0) backend_of(all->p.device).adamw(all, count);
}

double sum_squares(const Tensor* all, int count) {
  for (int i = 0; i < count; ++i) {
    check_float32_or_bf16("sum_squares", "x", all[i]);
    check_device("sum_squares", "x", all[i], all[0].device);
  }
  return count == 0 ? 0 : backend_of(all[0].device).sum_squares(all, count);
}

}  // namespace nibble
