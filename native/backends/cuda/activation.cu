// Activations, gated or plain, in one pass over packs of 16 bytes; bound by memory. See ops/activation.h.
#include "ops/activation.h"

#include "backends/cuda/ops.h"
#include "backends/cuda/packs.h"

namespace nibble::cuda {

namespace {

struct Value {
  float act, slope;  // act(g), act'(g)
};

__device__ inline float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

template <Activation kKind>
__device__ inline Value value_of(float g) {
  if constexpr (kKind == Activation::kSilu) {
    const float s = sigmoid(g);
    return {g * s, s * (1 + g * (1 - s))};
  } else if constexpr (kKind == Activation::kGelu) {
    const float area = 0.5f * erfcf(-g * float(M_SQRT1_2));
    return {g * area, area + g * expf(-0.5f * g * g) * float(M_2_SQRTPI * M_SQRT1_2 / 2)};
  } else if constexpr (kKind == Activation::kGeluTanh) {
    // 0.5 (1 + tanh(t)) = sigmoid(2 t), which does not cancel for t < 0.
    const float scale = float(M_2_SQRTPI * M_SQRT1_2), cubic = 0.044715f;
    const float s = sigmoid(2 * scale * (g + cubic * g * g * g));
    return {g * s, s + g * s * (1 - s) * 2 * scale * (1 + 3 * cubic * g * g)};
  } else {
    return {g < 0 ? 0 : g, g > 0 ? 1.0f : 0.0f};
  }
}

template <typename T>
struct Forward {
  const T *g, *u;
  T* y;
  int64_t count;
};

template <int N, Activation kKind, typename T>
__global__ void forward_kernel(Forward<T> a) {
  each_pack<N>(a.count, [&](int64_t i, auto width) {
    constexpr int n = decltype(width)::value;
    float g[n], u[n] = {};
    load_floats<n>(a.g + i, g);
    if (a.u != nullptr) load_floats<n>(a.u + i, u);
    NIBBLE_UNROLL
    for (int k = 0; k < n; ++k) {
      const float act = value_of<kKind>(g[k]).act;
      g[k] = a.u == nullptr ? act : act * u[k];
    }
    store_floats<n>(a.y + i, g);
  });
}

template <typename T>
struct Backward {
  const T *d_y, *g, *u;
  T *d_g, *d_u, *y;
  int64_t count;
};

template <int N, Activation kKind, typename T>
__global__ void backward_kernel(Backward<T> a) {
  each_pack<N>(a.count, [&](int64_t i, auto width) {
    constexpr int n = decltype(width)::value;
    float d[n], g[n], u[n] = {}, y[n];
    load_floats<n>(a.d_y + i, d);
    load_floats<n>(a.g + i, g);
    if (a.u != nullptr) load_floats<n>(a.u + i, u);
    NIBBLE_UNROLL
    for (int k = 0; k < n; ++k) {
      const Value value = value_of<kKind>(g[k]);
      const float factor = a.u == nullptr ? 1.0f : u[k];
      g[k] = d[k] * factor * value.slope;
      u[k] = d[k] * value.act;
      y[k] = value.act * factor;
    }
    store_floats<n>(a.d_g + i, g);
    if (a.u != nullptr) store_floats<n>(a.d_u + i, u);
    if (a.y != nullptr) store_floats<n>(a.y + i, y);
  });
}

// Calls body with the kind as a constant.
template <typename Body>
void with_kind(Activation kind, Body&& body) {
  using enum Activation;
  if (kind == kSilu) return body(std::integral_constant<Activation, kSilu>{});
  if (kind == kGelu) return body(std::integral_constant<Activation, kGelu>{});
  if (kind == kGeluTanh) return body(std::integral_constant<Activation, kGeluTanh>{});
  body(std::integral_constant<Activation, kRelu>{});
}

}  // namespace

void activation_forward(const ActivationForwardArgs& a) {
  with_activation(a.g.dtype, [&](auto t) {
    using T = decltype(t);
    const Forward<T> f{.g = data_as<T>(a.g), .u = data_as<T>(a.u), .y = data_as<T>(a.y), .count = a.g.count()};
    with_width<kPackOf<T>>(all_aligned({f.g, f.u, f.y}), [&](auto n) {
      constexpr int N = decltype(n)::value;
      with_kind(a.kind, [&](auto kind) {
        launch(forward_kernel<N, decltype(kind)::value, T>, grid_for(blocks_of(f.count, N)), kThreads, 0, f);
      });
    });
  });
}

void activation_backward(const ActivationBackwardArgs& a) {
  with_activation(a.g.dtype, [&](auto t) {
    using T = decltype(t);
    const Backward<T> b{.d_y = data_as<T>(a.d_y), .g = data_as<T>(a.g), .u = data_as<T>(a.u), .d_g = data_as<T>(a.d_g),
                        .d_u = data_as<T>(a.d_u), .y = data_as<T>(a.y), .count = a.g.count()};
    with_width<kPackOf<T>>(all_aligned({b.d_y, b.g, b.u, b.d_g, b.d_u, b.y}), [&](auto n) {
      constexpr int N = decltype(n)::value;
      with_kind(a.kind, [&](auto kind) {
        launch(backward_kernel<N, decltype(kind)::value, T>, grid_for(blocks_of(b.count, N)), kThreads, 0, b);
      });
    });
  });
}

}  // namespace nibble::cuda
