// AdamW, 32-bit by elements, 8-bit by blocks of 256 elements, a thread an element; the global norm in one wait.
// See ops/optimizer.h.
#include "ops/optimizer.h"

#include <vector>

#include "backends/cuda/codebook8.h"
#include "backends/cuda/kernel.h"
#include "backends/cuda/ops.h"
#include "core/device_memory.h"

namespace nibble::cuda {

namespace {

__global__ void adamw32_kernel(AdamwFactors f, float* p, const float* g, float* m, float* v, int64_t count) {
  for (int64_t i = first_index(); i < count; i += index_stride()) {
    // [1] moments
    float m_new = m[i] * f.beta1, v_new = v[i] * f.beta2;
    adamw_moments(f, g[i], m_new, v_new);
    m[i] = m_new;
    v[i] = v_new;
    // [2] weight decay, then the step
    p[i] = adamw_parameter(f, p[i], m_new, v_new);
  }
}

struct State8 {
  float* p;
  const float* g;
  uint8_t *m, *v;
  float *m_absmax, *v_absmax;
  int64_t count;
};

// The code of x in a block; every thread of the block calls it.
__device__ uint8_t encode(const Codebook8& book, float x, float* absmax, float* scratch) {
  const float top = block_max(fabsf(x), scratch);
  if (threadIdx.x == 0) *absmax = top;
  return top == 0 ? uint8_t{0} : nearest_code8(book, x * (1.0f / top));
}

__global__ void adamw8_kernel(AdamwFactors f, State8 a, const Codebook8* signed_book, const Codebook8* unsigned_book) {
  __shared__ float scratch[kWarpThreads];
  const int64_t block = blockIdx.x, i = block * kBlock8 + threadIdx.x;
  const bool is_element = i < a.count;
  float m = 0, v = 0;
  if (is_element) {
    // [1] moments, from the decoded ones
    m = signed_book->value[a.m[i]] * a.m_absmax[block] * f.beta1;
    v = unsigned_book->value[a.v[i]] * a.v_absmax[block] * f.beta2;
    adamw_moments(f, a.g[i], m, v);
    // [2] weight decay, then the step
    a.p[i] = adamw_parameter(f, a.p[i], m, v);
  }
  // [3] code the new moments; all have read the old constants when the first maximum is known
  const uint8_t m_code = encode(*signed_book, m, a.m_absmax + block, scratch);
  const uint8_t v_code = encode(*unsigned_book, v, a.v_absmax + block, scratch);
  if (!is_element) return;
  a.m[i] = m_code;
  a.v[i] = v_code;
}

constexpr int64_t kChunk = 1 << 14;  // elements of one partial sum

template <typename T>
__global__ void squares_kernel(const T* x, int64_t count, double* partial) {
  __shared__ double scratch[kWarpThreads];
  const int64_t begin = int64_t(blockIdx.x) * kChunk, end = least(count, begin + kChunk);
  double total = 0;
  for (int64_t i = begin + threadIdx.x; i < end; i += blockDim.x) {
    const double v = to_float(x[i]);
    total += v * v;
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
  if (!a.m_absmax) {
    return launch(adamw32_kernel, grid_for(count), kThreads, 0, f, a.p.f32(), a.g.f32(), a.m.f32(), a.v.f32(), count);
  }
  static_assert(kThreads == kBlock8);
  const State8 state{.p = a.p.f32(), .g = a.g.f32(), .m = a.m.u8(), .v = a.v.u8(), .m_absmax = a.m_absmax.f32(),
                     .v_absmax = a.v_absmax.f32(), .count = count};
  launch(adamw8_kernel, grid_of(blocks_of(count, kBlock8)), kThreads, 0, f, state, device_codebook8_signed(),
         device_codebook8_unsigned());
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
      launch(squares_kernel<T>, grid_of(of_this), kThreads, 0, data_as<T>(all[i]), all[i].count(), next);
    });
    next += of_this;
  }
  launch(total_kernel, grid_of(1), kThreads, 0, space.data(), chunks, next);
  double total = 0;
  download(&total, next, sizeof total);
  return total;
}

}  // namespace nibble::cuda
