// Activations, gated or plain, in one pass. See ops/activation.h.
#include "ops/activation.h"

#include "backends/cuda/kernel.h"
#include "backends/cuda/ops.h"

namespace nibble::cuda {

namespace {

struct Value {
  float act, slope;  // act(g), act'(g)
};

__device__ inline float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

__device__ Value value_of(Activation kind, float g) {
  if (kind == Activation::kSilu) {
    const float s = sigmoid(g);
    return {g * s, s * (1 + g * (1 - s))};
  }
  if (kind == Activation::kGelu) {
    const float area = 0.5f * erfcf(-g * float(M_SQRT1_2));
    return {g * area, area + g * expf(-0.5f * g * g) * float(M_2_SQRTPI * M_SQRT1_2 / 2)};
  }
  if (kind == Activation::kGeluTanh) {
    // 0.5 (1 + tanh(t)) = sigmoid(2 t), which does not cancel for t < 0.
    const float scale = float(M_2_SQRTPI * M_SQRT1_2), cubic = 0.044715f;
    const float s = sigmoid(2 * scale * (g + cubic * g * g * g));
    return {g * s, s + g * s * (1 - s) * 2 * scale * (1 + 3 * cubic * g * g)};
  }
  return {g < 0 ? 0 : g, g > 0 ? 1.0f : 0.0f};
}

template <typename T>
__global__ void forward_kernel(Activation kind, const T* g, const T* u, T* y, int64_t count) {
  for (int64_t i = first_index(); i < count; i += index_stride()) {
    const float act = value_of(kind, to_float(g[i])).act;
    set(y[i], u == nullptr ? act : act * to_float(u[i]));
  }
}

template <typename T>
__global__ void backward_kernel(Activation kind, const T* d_y, const T* g, const T* u, T* d_g, T* d_u, T* y,
                                int64_t count) {
  for (int64_t i = first_index(); i < count; i += index_stride()) {
    const Value value = value_of(kind, to_float(g[i]));
    const float d = to_float(d_y[i]), factor = u == nullptr ? 1.0f : to_float(u[i]);
    set(d_g[i], d * factor * value.slope);
    if (u != nullptr) set(d_u[i], d * value.act);
    if (y != nullptr) set(y[i], value.act * factor);
  }
}

}  // namespace

void activation_forward(const ActivationForwardArgs& a) {
  with_activation(a.g.dtype, [&](auto t) {
    using T = decltype(t);
    launch(forward_kernel<T>, grid_for(a.g.count()), kThreads, 0, a.kind, data_as<T>(a.g), data_as<T>(a.u),
           data_as<T>(a.y), a.g.count());
  });
}

void activation_backward(const ActivationBackwardArgs& a) {
  with_activation(a.g.dtype, [&](auto t) {
    using T = decltype(t);
    launch(backward_kernel<T>, grid_for(a.g.count()), kThreads, 0, a.kind, data_as<T>(a.d_y), data_as<T>(a.g),
           data_as<T>(a.u), data_as<T>(a.d_g), data_as<T>(a.d_u), data_as<T>(a.y), a.g.count());
  });
}

}  // namespace nibble::cuda
