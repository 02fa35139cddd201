// Same functions as backends/reference/activation.cpp, in float32 vectors.
#include "ops/activation.h"

#include "backends/cpu/elements.h"
#include "backends/cpu/ops.h"
#include "backends/cpu/vector_math.h"
#include "core/thread_pool.h"

namespace nibble::cpu::NIBBLE_ISA {

namespace {

constexpr int64_t kTaskElements = 1 << 12;

// An activation is two steps: `first`, a chain of operations as long as all others, gives what they need beside g.
struct Silu {
  static Vec bounded(Vec g) { return at_least(g, -87.0f); }  // where s stops to shrink
  static Vec first(Vec g) { return exp_of_minus(bounded(g)); }
  static Vec act(Vec g, Vec e) {
    Vec s, rest;
    sigmoid_and_rest(e, s, rest);
    return bounded(g) * s;
  }
  static void both(Vec g, Vec e, Vec& act, Vec& slope) {
    Vec s, rest;
    g = bounded(g);
    sigmoid_and_rest(e, s, rest);
    act = g * s;
    slope = s * fma(g, rest, splat(1.0f));
  }
};

struct Gelu {
  static Vec first(Vec g) { return normal_cdf(g); }
  static Vec act(Vec g, Vec area) { return g * area; }
  static void both(Vec g, Vec area, Vec& act, Vec& slope) {
    act = g * area;
    slope = fma(g * splat(0x1.988454p-2f), exp(g * g * splat(-0.5f)), area);  // 1 / sqrt(2 pi)
  }
};

struct GeluTanh {
  static constexpr float kScale = 0x1.988454p0f;  // 2 sqrt(2 / pi)
  static constexpr float kCubic = 0.044715f;
  static Vec inner(Vec g) { return at_least(g * splat(kScale) * fma(g * g, splat(kCubic), splat(1.0f)), -87.0f); }
  static Vec lower(Vec g) { return at_least(g, -30.0f); }  // the slope is 0 or 1 from there on
  static Vec bounded(Vec g) { return at_most(lower(g), 30.0f); }
  static Vec first(Vec g) { return exp_of_minus(inner(bounded(g))); }
  static Vec act(Vec g, Vec e) {
    Vec s, rest;
    sigmoid_and_rest(e, s, rest);
    return lower(g) * s;
  }
  static void both(Vec g, Vec e, Vec& act, Vec& slope) {
    const Vec whole = lower(g);
    g = bounded(g);
    Vec s, rest;
    sigmoid_and_rest(e, s, rest);
    act = whole * s;
    slope = fma(g * s * rest * splat(kScale), fma(g * g, splat(3 * kCubic), splat(1.0f)), s);
  }
};

struct Relu {
  static Vec first(Vec g) { return g; }
  static Vec act(Vec g, Vec) { return select(g < Vec{}, Vec{}, g); }
  static void both(Vec g, Vec, Vec& act, Vec& slope) {
    act = Relu::act(g, g);
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

// Operations that wait for each other leave most of the processor idle, and what it looks ahead over is hardly more than one
// chain of them: vectors go through each step in groups, whose short chains overlap.
constexpr int64_t kTwo = 2 * kWidth;
constexpr int kGroup = 4;

template <int COUNT>
struct Size {
  static constexpr int value = COUNT;
};

// body(i, size, n) for groups of `size` times n elements from i on, of two vectors each: kGroup full ones, then one at a time.
template <typename Body>
void for_groups(int64_t count, Body body) {
  parallel_for((count + kTaskElements - 1) / kTaskElements, [&](int64_t task) {
    int64_t i = task * kTaskElements;
    const int64_t end = i + kTaskElements < count ? i + kTaskElements : count;
    for (; i + kGroup * kTwo <= end; i += kGroup * kTwo) body(i, Size<kGroup>{}, int(kTwo));
    each_two(i, end, [&](int64_t k, int n) NIBBLE_INLINE { body(k, Size<1>{}, n); });
  });
}

Two ones() { return {splat(1.0f), splat(1.0f)}; }

// What of an activation is a chain by itself, for a group.
template <typename F, typename T, int COUNT>
NIBBLE_INLINE inline void take_first(const T* g, int n, Two (&first)[COUNT]) {
  for (int k = 0; k < COUNT; ++k) {
    const Two gate = load_two(g + k * kTwo, n);
    first[k] = {F::first(gate.a), F::first(gate.b)};
  }
}

template <typename F, typename T>
void forward(const ActivationForwardArgs& a) {
  const T *const g = data_as<T>(a.g), *const u = data_as<T>(a.u);
  T* const y = data_as<T>(a.y);
  for_groups(a.g.count(), [=](int64_t begin, auto size, int n) NIBBLE_INLINE {
    Two first[size.value];
    take_first<F>(g + begin, n, first);
    for (int k = 0; k < size.value; ++k) {
      const int64_t i = begin + k * kTwo;
      const Two gate = load_two(g + i, n), up = u ? load_two(u + i, n) : ones();
      store_two(y + i, {F::act(gate.a, first[k].a) * up.a, F::act(gate.b, first[k].b) * up.b}, n);
    }
  });
}

template <typename F, typename T>
void backward(const ActivationBackwardArgs& a) {
  const T *const d_y = data_as<T>(a.d_y), *const g = data_as<T>(a.g), *const u = data_as<T>(a.u);
  T *const d_g = data_as<T>(a.d_g), *const d_u = data_as<T>(a.d_u), *const y = data_as<T>(a.y);
  for_groups(a.g.count(), [=](int64_t begin, auto size, int n) NIBBLE_INLINE {
    Two first[size.value];
    take_first<F>(g + begin, n, first);
    for (int k = 0; k < size.value; ++k) {
      const int64_t i = begin + k * kTwo;
      const Two d = load_two(d_y + i, n), gate = load_two(g + i, n), up = u ? load_two(u + i, n) : ones();
      Two act, slope;
      F::both(gate.a, first[k].a, act.a, slope.a);
      F::both(gate.b, first[k].b, act.b, slope.b);
      store_two(d_g + i, {d.a * up.a * slope.a, d.b * up.b * slope.b}, n);
      if (u) store_two(d_u + i, {d.a * act.a, d.b * act.b}, n);
      if (y) store_two(y + i, {act.a * up.a, act.b * up.b}, n);
    }
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
