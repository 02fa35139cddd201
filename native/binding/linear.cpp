// Linear layers and the output layer's loss; the positions are those of native/linear.ts.
#include "binding/arguments.h"
#include "ops/cross_entropy.h"
#include "ops/linear.h"

namespace nibble::binding {

namespace {

constexpr size_t kLora = 1;                                  // where an adapter's arguments begin: after the weight
constexpr size_t kRest = kLora + Arguments::kLoraArguments;  // where the op's own begin

// How many layers of `size` positions each an op's arguments are.
int layers_of(const Arguments& a, size_t size) {
  require(a.count() % size == 0 && a.count() <= size * kLinearsMax, "linear", "layers: expected 1..", kLinearsMax,
          ", got ", a.count() / size);
  return int(a.count() / size);
}

// Of each layer: (weight, lora, x, bias, h, y)
Napi::Value linear_forward(Napi::Env env, const Arguments& a) {
  constexpr size_t kSize = kRest + 4;
  LinearForwardArgs layers[kLinearsMax];
  const int count = layers_of(a, kSize);
  for (int i = 0; i < count; ++i) {
    const size_t at = kSize * size_t(i), own = at + kRest;
    const auto lora = a.lora(at + kLora);
    layers[i] = {.x = a.tensor(own), .w = a.weight(at), .bias = a.maybe_tensor(own + 1), .a = lora.a, .b = lora.b,
                 .scaling = lora.scaling, .dropout = lora.dropout, .h = a.maybe_tensor(own + 2), .y = a.tensor(own + 3)};
  }
  linears_forward(layers, count);
  return env.Undefined();
}

// Of each layer: (weight, lora, dY, x, h, dX, accumulateDx, dA, dB, dW, dBias)
Napi::Value linear_backward(Napi::Env env, const Arguments& a) {
  constexpr size_t kSize = kRest + 9;
  LinearBackwardArgs layers[kLinearsMax];
  const int count = layers_of(a, kSize);
  for (int i = 0; i < count; ++i) {
    const size_t at = kSize * size_t(i), own = at + kRest;
    const auto lora = a.lora(at + kLora);
    layers[i] = {.d_y = a.tensor(own), .x = a.maybe_tensor(own + 1), .w = a.weight(at), .a = lora.a, .b = lora.b,
                 .scaling = lora.scaling, .dropout = lora.dropout, .h = a.maybe_tensor(own + 2),
                 .d_x = a.maybe_tensor(own + 3), .accumulate_dx = a.flag(own + 4), .d_a = a.maybe_tensor(own + 5),
                 .d_b = a.maybe_tensor(own + 6), .d_w = a.maybe_tensor(own + 7), .d_bias = a.maybe_tensor(own + 8)};
  }
  linears_backward(layers, count);
  return env.Undefined();
}

// Of each adapter at a layer: (x, a, b, scaling, begin, end, y)
Napi::Value lora_adds(Napi::Env env, const Arguments& a) {
  constexpr size_t kOwn = 7;
  std::vector<LoraAddArgs> all;
  for (size_t at = 0; at + kOwn <= a.count(); at += kOwn)
    all.push_back({.x = a.tensor(at), .a = a.tensor(at + 1), .b = a.tensor(at + 2), .scaling = float(a.number(at + 3)),
                   .begin = a.integer(at + 4), .end = a.integer(at + 5), .y = a.tensor(at + 6)});
  nibble::lora_adds(all.data(), int(all.size()));
  return env.Undefined();
}

// (factor, bias, begin, end, y)
Napi::Value scale_columns(Napi::Env env, const Arguments& a) {
  nibble::scale_columns({.factor = a.tensor(0), .bias = a.maybe_tensor(1), .begin = a.integer(2), .end = a.integer(3),
                         .y = a.tensor(4)});
  return env.Undefined();
}

// (weight, x, labels, weights, scale, loss, dX, dW)
Napi::Value linear_cross_entropy(Napi::Env env, const Arguments& a) {
  nibble::linear_cross_entropy({.x = a.tensor(1), .w = a.weight(0), .labels = a.tensor(2),
                                .weights = a.maybe_tensor(3), .scale = float(a.number(4)), .loss = a.tensor(5),
                                .d_x = a.maybe_tensor(6), .d_w = a.maybe_tensor(7)});
  return env.Undefined();
}

}  // namespace

void define_linear(Napi::Object exports) {
  define<linear_forward>(exports, "linearForward");
  define<linear_backward>(exports, "linearBackward");
  define<lora_adds>(exports, "loraAdds");
  define<scale_columns>(exports, "scaleColumns");
  define<linear_cross_entropy>(exports, "linearCrossEntropy");
}

}  // namespace nibble::binding
