// Same functions as backends/reference/activation.cpp, in float32 vectors.
#include "ops/activation.h"

#include "backends/cpu/elements.h"
#include "backends/cpu/ops.h"
#include "backends/cpu/vector_math.h"
#include "core/thread_pool.h"

namespace nibble::cpu::NIBBLE_ISA {

namespace {

constexpr int64_t kTaskElements = 1 << 12;

struct Silu {
  static Vec bounded(Vec g) { return at_least(g, -87.0f); }  // where s stops to shrink
  static Vec act(Vec g) {
    Vec s, rest;
    g = bounded(g);
    sigmoid_and_rest(g, s, rest);
    return g * s;
  }
  static void both(Vec g, Vec& act, Vec& slope) {
    Vec s, rest;
    g = bounded(g);
    sigmoid_and_rest(g, s, rest);
    act = g * s;
    slope = s * fma(g, rest, splat(1.0f));
  }
};

struct Gelu {
  static Vec act(Vec g) { return g * normal_cdf(g); }
  static void both(Vec g, Vec& act, Vec& slope) {
    const Vec area = normal_cdf(g);
    act = g * area;
    slope = fma(g * splat(0x1.988454p-2f), exp(g * g * splat(-0.5f)), area);  // 1 / sqrt(2 pi)
  }
};

struct GeluTanh {
  static constexpr float kScale = 0x1.988454p0f;  // 2 sqrt(2 / pi)
  static constexpr float kCubic = 0.044715f;
  static Vec inner(Vec g) { return at_least(g * splat(kScale) * fma(g * g, splat(kCubic), splat(1.0f)), -87.0f); }
  static Vec bounded(Vec g) { return at_least(g, -30.0f); }  // the slope is 0 or 1 from there on
  static Vec act(Vec g) {
    Vec s, rest;
    g = bounded(g);
    sigmoid_and_rest(inner(g), s, rest);
    return g * s;
  }
  static void both(Vec g, Vec& act, Vec& slope) {
    const Vec whole = bounded(g);
    g = at_most(whole, 30.0f);
    Vec s, rest;
    sigmoid_and_rest(inner(g), s, rest);
    act = whole * s;
    slope = fma(g * s * rest * splat(kScale), fma(g * g, splat(3 * kCubic), splat(1.0f)), s);
  }
};

struct Relu {
  static Vec act(Vec g) { return select(g < Vec{}, Vec{}, g); }
  static void both(Vec g, Vec& act, Vec& slope) {
    act = Relu::act(g);
    slope = select(g > Vec{}, splat(1.0f), Vec{});
  }
};

template <typename Body>
void with_kind(Activation kind, Body body) {
  switch (kind) {
    case Activation::kSilu: return body(Silu{});
    case Activation::kGelu: return body(Gelu{});
    case Activation::kGeluTanh: return body(GeluTanh{});
    case Activation::kRelu: return body(Relu{});
  }
}

template <typename Body>
void for_tasks(int64_t count, Body body) {
  parallel_for((count + kTaskElements - 1) / kTaskElements, [&](int64_t task) {
    const int64_t begin = task * kTaskElements, end = begin + kTaskElements;
    body(begin, end < count ? end : count);
  });
}

Two ones() { return {splat(1.0f), splat(1.0f)}; }

template <typename F, typename T>
void forward(const ActivationForwardArgs& a) {
  const T *g = data_as<T>(a.g), *u = data_as<T>(a.u);
  T* y = data_as<T>(a.y);
  for_tasks(a.g.count(), [&](int64_t begin, int64_t end) {
    each_two(begin, end, [&](int64_t i, int n) NIBBLE_INLINE {
      const Two gate = load_two(g + i, n), up = u ? load_two(u + i, n) : ones();
      store_two(y + i, {F::act(gate.a) * up.a, F::act(gate.b) * up.b}, n);
    });
  });
}

template <typename F, typename T>
void backward(const ActivationBackwardArgs& a) {
  const T *d_y = data_as<T>(a.d_y), *g = data_as<T>(a.g), *u = data_as<T>(a.u);
  T *d_g = data_as<T>(a.d_g), *d_u = data_as<T>(a.d_u), *y = data_as<T>(a.y);
  for_tasks(a.g.count(), [&](int64_t begin, int64_t end) {
    each_two(begin, end, [&](int64_t i, int n) NIBBLE_INLINE {
      const Two d = load_two(d_y + i, n), gate = load_two(g + i, n), up = u ? load_two(u + i, n) : ones();
      Two act, slope;
      F::both(gate.a, act.a, slope.a);
      F::both(gate.b, act.b, slope.b);
      store_two(d_g + i, {d.a * up.a * slope.a, d.b * up.b * slope.b}, n);
      if (u) store_two(d_u + i, {d.a * act.a, d.b * act.b}, n);
      if (y) store_two(y + i, {act.a * up.a, act.b * up.b}, n);
    });
  });
}

}  // namespace

void activation_forward(const ActivationForwardArgs& a) {
  with_kind(a.kind, [&](auto kind) {
    with_type(a.g.dtype, [&](auto type) { forward<decltype(kind), decltype(type)>(a); });
  });
}

void activation_backward(const ActivationBackwardArgs& a) {
  with_kind(a.kind, [&](auto kind) {
    with_type(a.g.dtype, [&](auto type) { backward<decltype(kind), decltype(type)>(a); });
  });
}

}  // namespace nibble::cpu::NIBBLE_ISA
