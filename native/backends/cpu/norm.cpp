// Same steps as backends/reference/norm.cpp; rows are shared out among the threads.
#include "ops/norm.h"

#include <math.h>

#include "backends/cpu/elements.h"
#include "backends/cpu/ops.h"
#include "backends/cpu/workspace.h"
#include "core/thread_pool.h"

namespace nibble::cpu::NIBBLE_ISA {

namespace {

constexpr int64_t kTaskElements = 1 << 14;
// The parameters' gradients are summed by groups of rows, then over at most this many groups.
constexpr int64_t kGroupsMax = 64, kGroupRowsMin = 16;

int64_t rows_of_task(int64_t c) { return c >= kTaskElements ? 1 : kTaskElements / c; }

// Sum of map(i, n) over a row, two chains of additions at a time.
template <typename Map>
NIBBLE_INLINE inline float row_sum(int64_t c, Map map) {
  Vec even{}, odd{};
  int64_t i = 0;
  for (; i + 2 * kWidth <= c; i += 2 * kWidth) {
    even += map(i, kWidth);
    odd += map(i + kWidth, kWidth);
  }
  each_vector(i, c, [&](int64_t k, int n) NIBBLE_INLINE { even += map(k, n); });
  return sum(even + odd);
}

// x - mean where the vector holds elements, 0 past the end of the row.
inline Vec centered(Vec x, float mean, int n) {
  const Vec d = x - splat(mean);
  if (n == kWidth) return d;
  float part[kWidth] = {};
  memcpy(part, &d, size_t(n) * 4);
  return load(part);
}

template <typename T>
void forward_row(const NormForwardArgs& a, int64_t row) {
  const int64_t c = a.x.dim(1);
  const T* x = data_as<T>(a.x) + row * c;
  const T* s = x;
  if (a.sum) {
    T* sum = data_as<T>(a.sum) + row * c;
    const T* residual = a.residual ? data_as<T>(a.residual) + row * c : nullptr;
    each_vector(0, c, [&](int64_t i, int n) NIBBLE_INLINE {
      store(sum + i, residual ? load(x + i, n) + load(residual + i, n) : load(x + i, n), n);
    });
    s = sum;
  }
  // [1] statistics of the row
  const bool layer = a.kind == Norm::kLayer;
  const float mean = layer ? row_sum(c, [&](int64_t i, int n) NIBBLE_INLINE { return load(s + i, n); }) / float(c) : 0;
  const float squares = row_sum(c, [&](int64_t i, int n) NIBBLE_INLINE {
    const Vec d = layer ? centered(load(s + i, n), mean, n) : load(s + i, n);
    return d * d;
  });
  const float rstd = 1.0f / sqrtf(squares / float(c) + a.eps);
  if (layer) a.mean.f32()[row] = mean;
  a.rstd.f32()[row] = rstd;
  // [2] normalize, scale, shift
  T* y = data_as<T>(a.y) + row * c;
  const float *weight = a.weight.f32(), *bias = a.bias.f32();
  each_vector(0, c, [&](int64_t i, int n) NIBBLE_INLINE {
    const Vec v = load(weight + i, n) * ((load(s + i, n) - splat(mean)) * splat(rstd));
    store(y + i, bias ? v + load(bias + i, n) : v, n);
  });
}

template <typename T>
void backward_row(const NormBackwardArgs& a, int64_t row, float* d_weight, float* d_bias) {
  const int64_t c = a.s.dim(1);
  const T *s = data_as<T>(a.s) + row * c, *d_y = data_as<T>(a.d_y) + row * c;
  const T* d_sum = a.d_sum ? data_as<T>(a.d_sum) + row * c : nullptr;
  T* d_s = data_as<T>(a.d_s) + row * c;
  const bool layer = a.kind == Norm::kLayer;
  const float mean = layer ? a.mean.f32()[row] : 0, rstd = a.rstd.f32()[row];
  const float* weight = a.weight.f32();
  const auto normalized = [&](int64_t i, int n) NIBBLE_INLINE { return (load(s + i, n) - splat(mean)) * splat(rstd); };
  const auto scaled = [&](int64_t i, int n) NIBBLE_INLINE { return load(d_y + i, n) * load(weight + i, n); };
  // [1] the two means that the statistics' gradients need
  const float mean_d = layer ? row_sum(c, scaled) / float(c) : 0;
  const float mean_dx =
      row_sum(c, [&](int64_t i, int n) NIBBLE_INLINE { return scaled(i, n) * normalized(i, n); }) / float(c);
  // [2] gradients of the row and of the parameters
  each_vector(0, c, [&](int64_t i, int n) NIBBLE_INLINE {
    const Vec x = normalized(i, n);
    Vec d = (scaled(i, n) - splat(mean_d) - x * splat(mean_dx)) * splat(rstd);
    if (d_weight) store(d_weight + i, fma(load(d_y + i, n), x, load(d_weight + i, n)), n);
    if (d_bias) store(d_bias + i, load(d_bias + i, n) + load(d_y + i, n), n);
    if (d_sum) d += load(d_sum + i, n);
    store(d_s + i, d, n);
  });
}

// into[c] += the sum of the groups' rows of `from`, group by group.
void add_groups(const Tensor& into, const float* from, int64_t groups, int64_t stride) {
  const int64_t c = into.count();
  each_vector(0, c, [&](int64_t i, int n) NIBBLE_INLINE {
    Vec total{};
    for (int64_t g = 0; g < groups; ++g) total += load(from + g * stride + i, n);
    store(into.f32() + i, load(into.f32() + i, n) + total, n);
  });
}

template <typename T>
void backward(const NormBackwardArgs& a) {
  const int64_t rows = a.s.dim(0), c = a.s.dim(1);
  const int64_t per_group = rows / kGroupsMax >= kGroupRowsMin ? (rows + kGroupsMax - 1) / kGroupsMax : kGroupRowsMin;
  const int64_t groups = (rows + per_group - 1) / per_group;
  const int64_t parts = (a.d_weight ? 1 : 0) + (a.d_bias ? 1 : 0), stride = parts * c;
  const Workspace space(groups * stride);
  parallel_for(groups, [&](int64_t group) {
    float* part = space.data() + group * stride;
    memset(part, 0, size_t(stride) * 4);
    float* d_weight = a.d_weight ? part : nullptr;
    float* d_bias = a.d_bias ? part + (parts - 1) * c : nullptr;
    const int64_t end = (group + 1) * per_group < rows ? (group + 1) * per_group : rows;
    for (int64_t row = group * per_group; row < end; ++row) backward_row<T>(a, row, d_weight, d_bias);
  });
  if (a.d_weight) add_groups(a.d_weight, space.data(), groups, stride);
  if (a.d_bias) add_groups(a.d_bias, space.data() + (parts - 1) * c, groups, stride);
}

}  // namespace

void norm_forward(const NormForwardArgs& a) {
  const int64_t rows = a.x.dim(0), per_task = rows_of_task(a.x.dim(1));
  with_type(a.x.dtype, [&](auto type) {
    parallel_for((rows + per_task - 1) / per_task, [&](int64_t task) {
      const int64_t end = (task + 1) * per_task < rows ? (task + 1) * per_task : rows;
      for (int64_t row = task * per_task; row < end; ++row) forward_row<decltype(type)>(a, row);
    });
  });
}

void norm_backward(const NormBackwardArgs& a) {
  with_type(a.s.dtype, [&](auto type) { backward<decltype(type)>(a); });
}

}  // namespace nibble::cpu::NIBBLE_ISA
