// Argument orders are those of native/layers.ts.
#include "binding/arguments.h"
#include "ops/activation.h"
#include "ops/elementwise.h"
#include "ops/embedding.h"
#include "ops/norm.h"
#include "ops/rope.h"

namespace nibble::binding {

namespace {

constexpr int kNorms = 2, kActivations = 4;

// (table, ids, y)
Napi::Value embedding_forward(Napi::Env env, const Arguments& a) {
  nibble::embedding_forward({.table = a.tensor(0), .ids = a.tensor(1), .y = a.tensor(2)});
  return env.Undefined();
}

// (dY, ids, dTable)
Napi::Value embedding_backward(Napi::Env env, const Arguments& a) {
  nibble::embedding_backward({.d_y = a.tensor(0), .ids = a.tensor(1), .d_table = a.tensor(2)});
  return env.Undefined();
}

// (kind, x, residual, weight, bias, eps, y, sum, mean, rstd)
Napi::Value norm_forward(Napi::Env env, const Arguments& a) {
  nibble::norm_forward({.kind = a.choice<Norm>(0, kNorms), .x = a.tensor(1), .residual = a.maybe_tensor(2),
                        .weight = a.tensor(3), .bias = a.maybe_tensor(4), .eps = float(a.number(5)),
                        .y = a.tensor(6), .sum = a.maybe_tensor(7), .mean = a.maybe_tensor(8),
                        .rstd = a.tensor(9)});
  return env.Undefined();
}

// (kind, dY, dSum, s, weight, mean, rstd, dS, dWeight, dBias)
Napi::Value norm_backward(Napi::Env env, const Arguments& a) {
  nibble::norm_backward({.kind = a.choice<Norm>(0, kNorms), .d_y = a.tensor(1), .d_sum = a.maybe_tensor(2),
                         .s = a.tensor(3), .weight = a.tensor(4), .mean = a.maybe_tensor(5), .rstd = a.tensor(6),
                         .d_s = a.tensor(7), .d_weight = a.maybe_tensor(8), .d_bias = a.maybe_tensor(9)});
  return env.Undefined();
}

// (x, positions, cos, sin, inverse)
Napi::Value rope(Napi::Env env, const Arguments& a) {
  nibble::rope({.x = a.tensor(0), .positions = a.tensor(1), .cos = a.tensor(2), .sin = a.tensor(3),
                .inverse = a.flag(4)});
  return env.Undefined();
}

// (kind, g, u, y)
Napi::Value activation_forward(Napi::Env env, const Arguments& a) {
  nibble::activation_forward({.kind = a.choice<Activation>(0, kActivations), .g = a.tensor(1),
                              .u = a.maybe_tensor(2), .y = a.tensor(3)});
  return env.Undefined();
}

// (kind, dY, g, u, dG, dU, y)
Napi::Value activation_backward(Napi::Env env, const Arguments& a) {
  nibble::activation_backward({.kind = a.choice<Activation>(0, kActivations), .d_y = a.tensor(1),
                               .g = a.tensor(2), .u = a.maybe_tensor(3), .d_g = a.tensor(4),
                               .d_u = a.maybe_tensor(5), .y = a.maybe_tensor(6)});
  return env.Undefined();
}

// (x, y)
Napi::Value add(Napi::Env env, const Arguments& a) {
  nibble::add({.x = a.tensor(0), .y = a.tensor(1)});
  return env.Undefined();
}

// (y, factor)
Napi::Value scale(Napi::Env env, const Arguments& a) {
  nibble::scale({.y = a.tensor(0), .factor = float(a.number(1))});
  return env.Undefined();
}

// (x, y)
Napi::Value convert(Napi::Env env, const Arguments& a) {
  nibble::convert({.x = a.tensor(0), .y = a.tensor(1)});
  return env.Undefined();
}

// (y, normal, low or mean, high or std, seed, stream)
Napi::Value random_fill(Napi::Env env, const Arguments& a) {
  nibble::random_fill({.y = a.tensor(0), .normal = a.flag(1), .low = float(a.number(2)),
                       .high = float(a.number(3)), .seed = uint64_t(a.integer(4)),
                       .stream = uint64_t(a.integer(5))});
  return env.Undefined();
}

}  // namespace

void define_layers(Napi::Object exports) {
  define<embedding_forward>(exports, "embeddingForward");
  define<embedding_backward>(exports, "embeddingBackward");
  define<norm_forward>(exports, "normForward");
  define<norm_backward>(exports, "normBackward");
  define<rope>(exports, "rope");
  define<activation_forward>(exports, "activationForward");
  define<activation_backward>(exports, "activationBackward");
  define<add>(exports, "add");
  define<scale>(exports, "scale");
  define<convert>(exports, "convert");
  define<random_fill>(exports, "randomFill");
}

}  // namespace nibble::binding
