#include "ops/elementwise.h"

#include <math.h>

#include "backends/cpu/elements.h"
#include "backends/cpu/ops.h"
#include "core/thread_pool.h"
#include "ops/philox.h"

namespace nibble::cpu::NIBBLE_ISA {

namespace {

constexpr int64_t kTaskElements = 1 << 14;  // a multiple of four, the numbers of one Philox call

template <typename Body>
void for_tasks(int64_t count, Body body) {
  parallel_for((count + kTaskElements - 1) / kTaskElements, [&](int64_t task) {
    const int64_t begin = task * kTaskElements, end = begin + kTaskElements;
    body(begin, end < count ? end : count);
  });
}

// The four numbers of group i / 4; float64, as in the reference: initial weights are worth it.
void random_four(const RandomArgs& a, int64_t group, float* out) {
  const Philox4 words = philox4(a.seed, a.stream, uint64_t(group));
  const double low = a.low, high = a.high;
  if (!a.normal) {
    for (int k = 0; k < 4; ++k) out[k] = float(low + (high - low) * uniform_of(words.value[k]));
    return;
  }
  for (int k = 0; k < 4; k += 2) {
    const double radius = ::sqrt(-2 * ::log(1 - double(uniform_of(words.value[k]))));
    const double angle = 2 * M_PI * uniform_of(words.value[k + 1]);
    out[k] = float(low + high * radius * ::cos(angle));
    out[k + 1] = float(low + high * radius * ::sin(angle));
  }
}

}  // namespace

void add(const AddArgs& a) {
  with_type(a.x.dtype, [&](auto from) {
    with_type(a.y.dtype, [&](auto to) {
      const auto* x = data_as<decltype(from)>(a.x);
      auto* y = data_as<decltype(to)>(a.y);
      for_tasks(a.y.count(), [&](int64_t begin, int64_t end) {
        each_vector(begin, end, [&](int64_t i, int n) NIBBLE_INLINE {
          store(y + i, load(y + i, n) + load(x + i, n), n);
        });
      });
    });
  });
}

void scale(const ScaleArgs& a) {
  with_type(a.y.dtype, [&](auto type) {
    auto* y = data_as<decltype(type)>(a.y);
    for_tasks(a.y.count(), [&](int64_t begin, int64_t end) {
      each_vector(begin, end, [&](int64_t i, int n) NIBBLE_INLINE {
        store(y + i, load(y + i, n) * splat(a.factor), n);
      });
    });
  });
}

void convert(const ConvertArgs& a) {
  with_any_type(a.x.dtype, [&](auto from) {
    with_any_type(a.y.dtype, [&](auto to) {
      const auto* x = data_as<decltype(from)>(a.x);
      auto* y = data_as<decltype(to)>(a.y);
      for_tasks(a.y.count(), [&](int64_t begin, int64_t end) {
        each_vector(begin, end, [&](int64_t i, int n) NIBBLE_INLINE { store(y + i, load(x + i, n), n); });
      });
    });
  });
}

void random_fill(const RandomArgs& a) {
  for_tasks(a.y.count(), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i += 4) {
      float four[4];
      random_four(a, i / 4, four);
      for (int64_t k = i; k < end && k < i + 4; ++k) a.y.f32()[k] = four[k - i];
    }
  });
}

}  // namespace nibble::cpu::NIBBLE_ISA
