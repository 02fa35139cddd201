// AdamW, 32-bit in packs of 16 bytes, 8-bit by blocks of 256 elements, a warp a block; the global norm in one wait. Bound
// by memory: 28 bytes an element with 32-bit state, 16 with 8-bit state.
// See ops/optimizer.h.
#include "ops/optimizer.h"

#include <vector>

#include "backends/cuda/codebook8.h"
#include "backends/cuda/ops.h"
#include "backends/cuda/packs.h"
#include "core/device_memory.h"

namespace nibble::cuda {

namespace {

template <int N>
__global__ void adamw32_kernel(AdamwFactors f, float* p_all, const float* g_all, float* m_all, float* v_all,
                               int64_t count) {
  each_pack<N>(count, [&](int64_t i, auto width) {
    constexpr int n = decltype(width)::value;
    float p[n], g[n], m[n], v[n];
    load_floats<n>(p_all + i, p);
    load_floats<n>(g_all + i, g);
    load_floats<n>(m_all + i, m);
    load_floats<n>(v_all + i, v);
    NIBBLE_UNROLL
    for (int k = 0; k < n; ++k) {
      // [1] moments
      m[k] *= f.beta1;
      v[k] *= f.beta2;
      adamw_moments(f, g[k], m[k], v[k]);
      // [2] weight decay, then the step
      p[k] = adamw_parameter(f, p[k], m[k], v[k]);
    }
    store_floats<n>(m_all + i, m);
    store_floats<n>(v_all + i, v);
    store_floats<n>(p_all + i, p);
  });
}

struct State8 {
  float* p;
  const float* g;
  uint8_t *m, *v;
  float *m_absmax, *v_absmax;
  int64_t count;
};

constexpr int kOfLane = int(kBlock8) / kWarpThreads;

// The codes of a block's values, of which a lane has kOfLane, and their constant; every lane of the warp calls it.
__device__ Pack<uint8_t, kOfLane> encode(const Codebook8& book, const float* x, float* absmax) {
  float top = 0;
  NIBBLE_UNROLL
  for (int k = 0; k < kOfLane; ++k) top = fmaxf(top, fabsf(x[k]));
  top = warp_max(top);
  *absmax = top;
  const float inverse = 1.0f / top;
  Pack<uint8_t, kOfLane> codes;
  NIBBLE_UNROLL
  for (int k = 0; k < kOfLane; ++k) codes.value[k] = top == 0 ? uint8_t{0} : nearest_code8(book, x[k] * inverse);
  return codes;
}

// kOfLane elements from `at` on by packs of N, those past the end as `past`.
template <int N, typename T>
__device__ void load_lane(const T* from, int64_t at, int64_t count, T* to, T past) {
  NIBBLE_UNROLL
  for (int k = 0; k < kOfLane; k += N) {
    if (at + k + N <= count) {
      const Pack<T, N> pack = load_pack<N>(from + at + k);
      NIBBLE_UNROLL
      for (int i = 0; i < N; ++i) to[k + i] = pack.value[i];
    } else {
      NIBBLE_UNROLL
      for (int i = 0; i < N; ++i) to[k + i] = at + k + i < count ? from[at + k + i] : past;
    }
  }
}

template <int N, typename T>
__device__ void store_lane(T* to, int64_t at, int64_t count, const T* from) {
  NIBBLE_UNROLL
  for (int k = 0; k < kOfLane; k += N) {
    if (at + k + N <= count) {
      Pack<T, N> pack;
      NIBBLE_UNROLL
      for (int i = 0; i < N; ++i) pack.value[i] = from[k + i];
      store_pack(to + at + k, pack);
    } else {
      NIBBLE_UNROLL
      for (int i = 0; i < N; ++i) {
        if (at + k + i < count) to[at + k + i] = from[k + i];
      }
    }
  }
}

// kFloats, kCodes: elements of a pack.
template <int kFloats, int kCodes>
__global__ void adamw8_kernel(AdamwFactors f, State8 a, const Codebook8* signed_book, const Codebook8* unsigned_book) {
  const int64_t block = first_index() / kWarpThreads, at = block * kBlock8 + int64_t(threadIdx.x % kWarpThreads) * kOfLane;
  if (block * kBlock8 >= a.count) return;
  float p[kOfLane], g[kOfLane], m[kOfLane], v[kOfLane];
  uint8_t m_code[kOfLane], v_code[kOfLane];
  load_lane<kCodes>(a.m, at, a.count, m_code, uint8_t{0});
  load_lane<kCodes>(a.v, at, a.count, v_code, uint8_t{0});
  load_lane<kFloats>(a.g, at, a.count, g, 0.0f);
  load_lane<kFloats>(static_cast<const float*>(a.p), at, a.count, p, 0.0f);
  const float m_absmax = a.m_absmax[block], v_absmax = a.v_absmax[block];
  NIBBLE_UNROLL
  for (int k = 0; k < kOfLane; ++k) {
    if (at + k >= a.count) {
      m[k] = v[k] = 0;
      continue;
    }
    // [1] moments, from the decoded ones
    m[k] = signed_book->value[m_code[k]] * m_absmax * f.beta1;
    v[k] = unsigned_book->value[v_code[k]] * v_absmax * f.beta2;
    adamw_moments(f, g[k], m[k], v[k]);
    // [2] weight decay, then the step
    p[k] = adamw_parameter(f, p[k], m[k], v[k]);
  }
  store_lane<kFloats>(a.p, at, a.count, p);
  // [3] code the new moments; all lanes have read the old constants when the first maximum is known
  float m_top, v_top;
  const Pack<uint8_t, kOfLane> m_new = encode(*signed_book, m, &m_top), v_new = encode(*unsigned_book, v, &v_top);
  store_lane<kCodes>(a.m, at, a.count, m_new.value);
  store_lane<kCodes>(a.v, at, a.count, v_new.value);
  if (threadIdx.x % kWarpThreads != 0) return;
  a.m_absmax[block] = m_top;
  a.v_absmax[block] = v_top;
}

constexpr int64_t kChunk = 1 << 14;  // elements of one partial sum

template <int N, typename T>
__global__ void squares_kernel(const T* x, int64_t count, double* partial) {
  __shared__ double scratch[kWarpThreads];
  const int64_t begin = int64_t(blockIdx.x) * kChunk, end = least(count, begin + kChunk);
  double total = 0;
  for (int64_t i = begin + threadIdx.x * N; i < end; i += blockDim.x * N) {
    float v[N] = {};
    if (i + N <= end) {
      load_floats<N>(x + i, v);
    } else {
      for (int k = 0; i + k < end; ++k) v[k] = to_float(x[i + k]);
    }
    NIBBLE_UNROLL
    for (int k = 0; k < N; ++k) total += double(v[k]) * double(v[k]);
  }
  total = block_sum(total, scratch);
  if (threadIdx.x == 0) partial[blockIdx.x] = total;
}

__global__ void total_kernel(const double* partial, int64_t count, double* total) {
  __shared__ double scratch[kWarpThreads];
  double sum = 0;
  for (int64_t i = threadIdx.x; i < count; i += blockDim.x) sum += partial[i];
  sum = block_sum(sum, scratch);
  if (threadIdx.x == 0) *total = sum;
}

}  // namespace

void adamw(const AdamwArgs& a) {
  const AdamwFactors f = adamw_factors(a);
  const int64_t count = a.p.count();
  const bool aligned = all_aligned({a.p.data, a.g.data, a.m.data, a.v.data});
  if (!a.m_absmax) {
    return with_width<kPackOf<float>>(aligned, [&](auto n) {
      constexpr int N = decltype(n)::value;
      launch(adamw32_kernel<N>, grid_for(blocks_of(count, N)), kThreads, 0, f, a.p.f32(), a.g.f32(), a.m.f32(), a.v.f32(),
             count);
    });
  }
  const State8 state{.p = a.p.f32(), .g = a.g.f32(), .m = a.m.u8(), .v = a.v.u8(), .m_absmax = a.m_absmax.f32(),
                     .v_absmax = a.v_absmax.f32(), .count = count};
  const Grid grid = grid_of(blocks_of(blocks_of(count, kBlock8) * kWarpThreads, kThreads));
  launch(aligned ? adamw8_kernel<kPackOf<float>, kOfLane> : adamw8_kernel<1, 1>, grid, kThreads, 0, f, state,
         device_codebook8_signed(), device_codebook8_unsigned());
}

double sum_squares(const Tensor* all, int count) {
  int64_t chunks = 0;
  for (int i = 0; i < count; ++i) chunks += blocks_of(all[i].count(), kChunk);
  const Workspace<double> space(chunks + 1);
  double* next = space.data();
  for (int i = 0; i < count; ++i) {
    const int64_t of_this = blocks_of(all[i].count(), kChunk);
    with_activation(all[i].dtype, [&](auto t) {
      using T = decltype(t);
      with_width<kPackOf<T>>(all_aligned({all[i].data}), [&](auto n) {
        constexpr int N = decltype(n)::value;
        launch(squares_kernel<N, T>, grid_of(of_this), kThreads, 0, data_as<T>(all[i]), all[i].count(), next);
      });
    });
    next += of_this;
  }
  launch(total_kernel, grid_of(1), kThreads, 0, space.data(), chunks, next);
  double total = 0;
  download(&total, next, sizeof total);
  return total;
}

}  // namespace nibble::cuda
