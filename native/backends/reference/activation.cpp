#include "ops/activation.h"

#include <cmath>

#include "backends/reference/access.h"
#include "backends/reference/ops.h"

namespace nibble::reference {

namespace {

struct Value {
  double act, slope;  // act(g), act'(g)
};

Value silu(double g) {
  const double s = 1 / (1 + std::exp(-g));
  return {g * s, s * (1 + g * (1 - s))};
}

Value gelu(double g) {
  const double area = 0.5 * std::erfc(-g / std::sqrt(2.0));
  return {g * area, area + g * std::exp(-0.5 * g * g) / std::sqrt(2 * M_PI)};
}

// 0.5 (1 + tanh(t)) = sigmoid(2 t), which does not cancel for t < 0.
Value gelu_tanh(double g) {
  const double scale = std::sqrt(2 / M_PI), cubic = 0.044715;
  const double s = 1 / (1 + std::exp(-2 * scale * (g + cubic * g * g * g)));
  return {g * s, s + g * s * (1 - s) * 2 * scale * (1 + 3 * cubic * g * g)};
}

Value value_of(Activation kind, double g) {
  switch (kind) {
    case Activation::kSilu: return silu(g);
    case Activation::kGelu: return gelu(g);
    case Activation::kGeluTanh: return gelu_tanh(g);
    case Activation::kRelu: return {g < 0 ? 0 : g, g > 0 ? 1.0 : 0.0};
  }
  return {};
}

}  // namespace

void activation_forward(const ActivationForwardArgs& a) {
  for (int64_t i = 0; i < a.g.count(); ++i) {
    put(a.y, i, value_of(a.kind, get(a.g, i)).act * (a.u ? get(a.u, i) : 1));
  }
}

void activation_backward(const ActivationBackwardArgs& a) {
  for (int64_t i = 0; i < a.g.count(); ++i) {
    const Value value = value_of(a.kind, get(a.g, i));
    const double u = a.u ? get(a.u, i) : 1, d_y = get(a.d_y, i);
    put(a.d_g, i, d_y * u * value.slope);
    if (a.u) put(a.d_u, i, d_y * value.act);
    if (a.y) put(a.y, i, value.act * u);
  }
}

}  // namespace nibble::reference
