#include "ops/activation.h"

#include "ops/backend.h"
#include "ops/checks.h"

namespace nibble {

void activation_forward(const ActivationForwardArgs& a) {
  const char* op = "activation_forward";
  check_float32_or_bf16(op, "g", a.g);
  if (a.u) check_like(op, "u", a.u, "g", a.g);
  check_like(op, "y", a.y, "g", a.g);
  backend_of(a.g.device).activation_forward(a);
}

void activation_backward(const ActivationBackwardArgs& a) {
  const char* op = "activation_backward";
  check_float32_or_bf16(op, "g", a.g);
  check_like(op, "d_y", a.d_y, "g", a.g);
  check_like(op, "d_g", a.d_g, "g", a.g);
  require(bool(a.u) == bool(a.d_u), op, "d_u: expected ", a.u ? "a tensor, because u is given" : "none, without u");
  if (a.u) {
    check_like(op, "u", a.u, "g", a.g);
    check_like(op, "d_u", a.d_u, "g", a.g);
  }
  if (a.y) check_like(op, "y", a.y, "g", a.g);
  backend_of(a.g.device).activation_backward(a);
}

}  // namespace nibble
