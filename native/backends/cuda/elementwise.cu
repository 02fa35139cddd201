// Element by element, a grid-stride loop each: bound by memory. See ops/elementwise.h.
#include "ops/elementwise.h"

#include "backends/cuda/kernel.h"
#include "backends/cuda/ops.h"
#include "ops/philox.h"

namespace nibble::cuda {

namespace {

template <typename X, typename Y>
__global__ void add_kernel(const X* x, Y* y, int64_t count) {
  for (int64_t i = first_index(); i < count; i += index_stride()) set(y[i], to_float(y[i]) + to_float(x[i]));
}

template <typename T>
__global__ void scale_kernel(T* y, float factor, int64_t count) {
  for (int64_t i = first_index(); i < count; i += index_stride()) set(y[i], to_float(y[i]) * factor);
}

template <typename X, typename Y>
__global__ void convert_kernel(const X* x, Y* y, int64_t count) {
  for (int64_t i = first_index(); i < count; i += index_stride()) set(y[i], to_float(x[i]));
}

// Box-Muller: words (0, 1) give elements 0 and 1 of a group of four, words (2, 3) the others.
__device__ double normal_of(const Philox4& words, int64_t i) {
  const int pair = int(i % 4) / 2 * 2;
  const double radius = sqrt(-2 * log(1 - double(uniform_of(words.value[pair]))));
  const double angle = 2 * M_PI * uniform_of(words.value[pair + 1]);
  return radius * (i % 2 == 0 ? cos(angle) : sin(angle));
}

__global__ void random_kernel(float* y, bool normal, float low, float high, uint64_t seed, uint64_t stream,
                              int64_t count) {
  for (int64_t i = first_index(); i < count; i += index_stride()) {
    const Philox4 words = philox4(seed, stream, uint64_t(i / 4));
    y[i] = float(normal ? low + double(high) * normal_of(words, i)
                        : low + (double(high) - low) * uniform_of(words.value[i % 4]));
  }
}

}  // namespace

void add(const AddArgs& a) {
  const int64_t count = a.y.count();
  with_activation(a.x.dtype, [&](auto x) {
    using X = decltype(x);
    const auto of = [&](auto* y, auto kernel) { launch(kernel, grid_for(count), kThreads, 0, data_as<X>(a.x), y, count); };
    if (a.y.dtype == a.x.dtype) return of(data_as<X>(a.y), add_kernel<X, X>);
    of(a.y.f32(), add_kernel<X, float>);
  });
}

void scale(const ScaleArgs& a) {
  const int64_t count = a.y.count();
  with_activation(a.y.dtype, [&](auto y) {
    using Y = decltype(y);
    launch(scale_kernel<Y>, grid_for(count), kThreads, 0, data_as<Y>(a.y), a.factor, count);
  });
}

void convert(const ConvertArgs& a) {
  const int64_t count = a.y.count();
  with_type(a.x.dtype, [&](auto x) {
    with_type(a.y.dtype, [&](auto y) {
      using X = decltype(x);
      using Y = decltype(y);
      launch(convert_kernel<X, Y>, grid_for(count), kThreads, 0, data_as<X>(a.x), data_as<Y>(a.y), count);
    });
  });
}

void random_fill(const RandomArgs& a) {
  launch(random_kernel, grid_for(a.y.count()), kThreads, 0, a.y.f32(), a.normal, a.low, a.high, a.seed, a.stream,
         a.y.count());
}

}  // namespace nibble::cuda
