// Same arithmetic as backends/reference/rope.cpp; rows are shared out among the threads.
#include "ops/rope.h"

#include "backends/cpu/elements.h"
#include "backends/cpu/ops.h"
#include "core/thread_pool.h"

namespace nibble::cpu::NIBBLE_ISA {

namespace {

constexpr int64_t kTaskElements = 1 << 14;

template <typename T>
void rotate_row(T* row, int64_t width, const float* cosine, const float* sine, int64_t half, float sign) {
  for (int64_t head = 0; head < width; head += 2 * half) {
    T *low = row + head, *high = low + half;
    each_vector(0, half, [&](int64_t j, int n) NIBBLE_INLINE {
      const Vec c = load(cosine + j, n), s = load(sine + j, n) * splat(sign);
      const Vec x = load(low + j, n), y = load(high + j, n);
      store(low + j, x * c - y * s, n);
      store(high + j, y * c + x * s, n);
    });
  }
}

}  // namespace

void rope(const RopeArgs& a) {
  const int64_t rows = a.x.dim(0), width = a.x.dim(1), half = a.cos.dim(1);
  if (width == 0) return;
  const int64_t per_task = width >= kTaskElements ? 1 : kTaskElements / width;
  with_type(a.x.dtype, [&](auto type) {
    auto* x = data_as<decltype(type)>(a.x);
    parallel_for((rows + per_task - 1) / per_task, [&](int64_t task) {
      const int64_t end = (task + 1) * per_task < rows ? (task + 1) * per_task : rows;
      for (int64_t n = task * per_task; n < end; ++n) {
        const int64_t at = a.positions.i32()[n] * half;
        rotate_row(x + n * width, width, a.cos.f32() + at, a.sin.f32() + at, half, a.inverse ? -1.0f : 1.0f);
      }
    });
  });
}

}  // namespace nibble::cpu::NIBBLE_ISA
