// Element by element, in packs of 16 bytes: bound by memory. See ops/elementwise.h.
#include "ops/elementwise.h"

#include "backends/cuda/ops.h"
#include "backends/cuda/packs.h"
#include "ops/philox.h"

namespace nibble::cuda {

namespace {

template <int N, typename X, typename Y>
__global__ void add_kernel(const X* x, Y* y, int64_t count) {
  each_pack<N>(count, [&](int64_t i, auto width) {
    constexpr int n = decltype(width)::value;
    float a[n], b[n];
    load_floats<n>(x + i, a);
    load_floats<n>(y + i, b);
    NIBBLE_UNROLL
    for (int k = 0; k < n; ++k) b[k] += a[k];
    store_floats<n>(y + i, b);
  });
}

template <int N, typename T>
__global__ void scale_kernel(T* y, float factor, int64_t count) {
  each_pack<N>(count, [&](int64_t i, auto width) {
    constexpr int n = decltype(width)::value;
    float v[n];
    load_floats<n>(y + i, v);
    NIBBLE_UNROLL
    for (int k = 0; k < n; ++k) v[k] *= factor;
    store_floats<n>(y + i, v);
  });
}

template <int N, typename X, typename Y>
__global__ void convert_kernel(const X* x, Y* y, int64_t count) {
  each_pack<N>(count, [&](int64_t i, auto width) {
    constexpr int n = decltype(width)::value;
    float v[n];
    load_floats<n>(x + i, v);
    store_floats<n>(y + i, v);
  });
}

// Box-Muller: words (0, 1) give elements 0 and 1 of a group of four, words (2, 3) the others.
__device__ void normals_of(const Philox4& words, double* to) {
  for (int pair = 0; pair < 4; pair += 2) {
    const double radius = sqrt(-2 * log(1 - double(uniform_of(words.value[pair]))));
    const double angle = 2 * M_PI * uniform_of(words.value[pair + 1]);
    to[pair] = radius * cos(angle);
    to[pair + 1] = radius * sin(angle);
  }
}

// A thread a group of four, which is what Philox gives at once.
__global__ void random_kernel(float* y, bool normal, float low, float high, uint64_t seed, uint64_t stream,
                              int64_t count) {
  for (int64_t group = first_index(); group * 4 < count; group += index_stride()) {
    const Philox4 words = philox4(seed, stream, uint64_t(group));
    double value[4];
    if (normal) normals_of(words, value);
    for (int k = 0; k < 4 && group * 4 + k < count; ++k) {
      y[group * 4 + k] = float(normal ? low + double(high) * value[k]
                                      : low + (double(high) - low) * uniform_of(words.value[k]));
    }
  }
}

}  // namespace

void add(const AddArgs& a) {
  const int64_t count = a.y.count();
  with_activation(a.x.dtype, [&](auto x) {
    using X = decltype(x);
    const auto of = [&](auto* y) {
      using Y = std::remove_pointer_t<decltype(y)>;
      with_width<kPackOf<X, Y>>(all_aligned({a.x.data, y}), [&](auto n) {
        constexpr int N = decltype(n)::value;
        launch(add_kernel<N, X, Y>, grid_for(blocks_of(count, N)), kThreads, 0, data_as<X>(a.x), y, count);
      });
    };
    if (a.y.dtype == a.x.dtype) return of(data_as<X>(a.y));
    of(a.y.f32());
  });
}

void scale(const ScaleArgs& a) {
  const int64_t count = a.y.count();
  with_activation(a.y.dtype, [&](auto y) {
    using Y = decltype(y);
    with_width<kPackOf<Y>>(all_aligned({a.y.data}), [&](auto n) {
      constexpr int N = decltype(n)::value;
      launch(scale_kernel<N, Y>, grid_for(blocks_of(count, N)), kThreads, 0, data_as<Y>(a.y), a.factor, count);
    });
  });
}

void convert(const ConvertArgs& a) {
  const int64_t count = a.y.count();
  with_type(a.x.dtype, [&](auto x) {
    with_type(a.y.dtype, [&](auto y) {
      using X = decltype(x);
      using Y = decltype(y);
      with_width<kPackOf<X, Y>>(all_aligned({a.x.data, a.y.data}), [&](auto n) {
        constexpr int N = decltype(n)::value;
        launch(convert_kernel<N, X, Y>, grid_for(blocks_of(count, N)), kThreads, 0, data_as<X>(a.x), data_as<Y>(a.y),
               count);
      });
    });
  });
}

void random_fill(const RandomArgs& a) {
  const int64_t count = a.y.count();
  launch(random_kernel, grid_for(blocks_of(count, 4)), kThreads, 0, a.y.f32(), a.normal, a.low, a.high, a.seed,
         a.stream, count);
}

}  // namespace nibble::cuda
