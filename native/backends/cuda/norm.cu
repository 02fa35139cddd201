// RMSNorm and LayerNorm, a block a row, in one pass over memory: a thread keeps up to four packs of 16 bytes of its row
// in registers between the statistics and the result. Rows that are wider than that are read again for what is left of
// them. Gradients of the parameters are summed in two steps, so that their order is fixed.
// See ops/norm.h and backends/reference/norm.cpp, whose steps these are.
#include "ops/norm.h"

#include "backends/cuda/ops.h"
#include "backends/cuda/packs.h"

namespace nibble::cuda {

namespace {

// The parameters' gradients are summed by groups of rows, then over at most this many groups.
constexpr int64_t kGroupsMax = 256, kGroupRowsMin = 16;
constexpr int kHeld = 4;          // packs of a row that a thread keeps
constexpr int kRowThreads = 512;  // of a block, at most

template <typename T>
struct Forward {
  const T *x, *residual;
  const float *weight, *bias;
  T *y, *sum;
  float *mean, *rstd, eps;
  int64_t c;
};

// Calls body(column, k) for the packs of a thread. k < kHeld says which it is, kHeld: one too many to be kept.
template <int N, typename Body>
__device__ inline void each_of_row(int64_t c, Body body) {
  const int64_t stride = int64_t(blockDim.x) * N;
  int64_t j = int64_t(threadIdx.x) * N;
  NIBBLE_UNROLL
  for (int k = 0; k < kHeld; ++k, j += stride) {
    if (j < c) body(j, k);
  }
  for (; j < c; j += stride) body(j, kHeld);
}

template <typename T, int N>
__device__ inline Pack<T, N> add_packs(const Pack<T, N>& a, const Pack<T, N>& b) {
  float x[N], y[N];
  to_floats(a, x);
  to_floats(b, y);
  NIBBLE_UNROLL
  for (int k = 0; k < N; ++k) x[k] += y[k];
  return from_floats<T, N>(x);
}

template <int N, typename T>
__global__ void __launch_bounds__(kRowThreads) forward_kernel(Forward<T> a) {
  __shared__ float scratch[kWarpThreads];
  const int64_t row = blockIdx.x, at = row * a.c;
  const T* s = a.sum == nullptr ? a.x : a.sum;
  Pack<T, N> held[kHeld] = {};
  const auto value = [&](int64_t j, int k, float* to) {
    if (k < kHeld) to_floats(held[k], to);
    else load_floats<N>(s + at + j, to);
  };
  // [1] statistics of the row
  float total = 0, squares = 0;
  each_of_row<N>(a.c, [&](int64_t j, int k) {
    Pack<T, N> pack = load_pack<N>(a.x + at + j);
    if (a.residual != nullptr) pack = add_packs(pack, load_pack<N>(a.residual + at + j));
    if (a.sum != nullptr) store_pack(a.sum + at + j, pack);
    if (k < kHeld) held[k] = pack;
    float v[N];
    to_floats(pack, v);
    NIBBLE_UNROLL
    for (int i = 0; i < N; ++i) {
      total += v[i];
      squares = fmaf(v[i], v[i], squares);
    }
  });
  const bool layer = a.mean != nullptr;
  const float mean = layer ? block_sum(total, scratch) / float(a.c) : 0.0f;
  if (layer) {
    squares = 0;
    each_of_row<N>(a.c, [&](int64_t j, int k) {
      float v[N];
      value(j, k, v);
      NIBBLE_UNROLL
      for (int i = 0; i < N; ++i) squares = fmaf(v[i] - mean, v[i] - mean, squares);
    });
  }
  const float rstd = 1.0f / sqrtf(block_sum(squares, scratch) / float(a.c) + a.eps);
  if (threadIdx.x == 0) {
    if (layer) a.mean[row] = mean;
    a.rstd[row] = rstd;
  }
  // [2] normalize, scale, shift
  each_of_row<N>(a.c, [&](int64_t j, int k) {
    float v[N], weight[N], bias[N] = {};
    value(j, k, v);
    load_floats<N>(a.weight + j, weight);
    if (a.bias != nullptr) load_floats<N>(a.bias + j, bias);
    NIBBLE_UNROLL
    for (int i = 0; i < N; ++i) v[i] = weight[i] * ((v[i] - mean) * rstd) + bias[i];
    store_floats<N>(a.y + at + j, v);
  });
}

template <typename T>
struct Backward {
  const T *d_y, *d_sum, *s;
  const float *weight, *mean, *rstd;
  T* d_s;
  int64_t rows, c;

  __device__ float normalized(int64_t row, int64_t j) const {
    return (to_float(s[row * c + j]) - (mean == nullptr ? 0.0f : mean[row])) * rstd[row];
  }
};

template <int N, typename T>
__global__ void __launch_bounds__(kRowThreads) backward_kernel(Backward<T> a) {
  __shared__ float scratch[kWarpThreads];
  const int64_t row = blockIdx.x, at = row * a.c;
  const float mean = a.mean == nullptr ? 0.0f : a.mean[row], rstd = a.rstd[row];
  Pack<T, N> held_d[kHeld] = {}, held_s[kHeld] = {};
  // d_y * weight, and what was normalized.
  const auto values = [&](int64_t j, const Pack<T, N>& d_pack, const Pack<T, N>& s_pack, float* d, float* x) {
    float weight[N];
    load_floats<N>(a.weight + j, weight);
    to_floats(d_pack, d);
    to_floats(s_pack, x);
    NIBBLE_UNROLL
    for (int i = 0; i < N; ++i) {
      d[i] *= weight[i];
      x[i] = (x[i] - mean) * rstd;
    }
  };
  // [1] the two means that the statistics' gradients need
  float sum_d = 0, sum_dx = 0;
  each_of_row<N>(a.c, [&](int64_t j, int k) {
    const Pack<T, N> d_pack = load_pack<N>(a.d_y + at + j), s_pack = load_pack<N>(a.s + at + j);
    if (k < kHeld) {
      held_d[k] = d_pack;
      held_s[k] = s_pack;
    }
    float d[N], x[N];
    values(j, d_pack, s_pack, d, x);
    NIBBLE_UNROLL
    for (int i = 0; i < N; ++i) {
      sum_d += d[i];
      sum_dx = fmaf(d[i], x[i], sum_dx);
    }
  });
  const float mean_d = a.mean == nullptr ? 0.0f : block_sum(sum_d, scratch) / float(a.c);
  const float mean_dx = block_sum(sum_dx, scratch) / float(a.c);
  // [2] gradients of the row
  each_of_row<N>(a.c, [&](int64_t j, int k) {
    float d[N], x[N], beside[N] = {};
    if (a.d_sum != nullptr) load_floats<N>(a.d_sum + at + j, beside);
    values(j, k < kHeld ? held_d[k] : load_pack<N>(a.d_y + at + j), k < kHeld ? held_s[k] : load_pack<N>(a.s + at + j), d,
           x);
    NIBBLE_UNROLL
    for (int i = 0; i < N; ++i) d[i] = (d[i] - mean_d - x[i] * mean_dx) * rstd + beside[i];
    store_floats<N>(a.d_s + at + j, d);
  });
}

// part[group][j] = the group's sum of d_y * normalized, and of d_y behind all groups of the former. Before d_s is
// written, which may lie where d_sum lies but not where these do.
template <typename T>
__global__ void parameters_kernel(Backward<T> a, float* d_weight, float* d_bias, int64_t group_rows) {
  const int64_t j = first_index(), group = blockIdx.y;
  if (j >= a.c) return;
  float weight_sum = 0, bias_sum = 0;
  const int64_t end = least(a.rows, (group + 1) * group_rows);
  for (int64_t row = group * group_rows; row < end; ++row) {
    const float d = to_float(a.d_y[row * a.c + j]);
    weight_sum = fmaf(d, a.normalized(row, j), weight_sum);
    bias_sum += d;
  }
  if (d_weight != nullptr) d_weight[group * a.c + j] = weight_sum;
  if (d_bias != nullptr) d_bias[group * a.c + j] = bias_sum;
}

__global__ void add_groups_kernel(float* into, const float* from, int64_t groups, int64_t c) {
  const int64_t j = first_index();
  if (j >= c) return;
  float total = 0;
  for (int64_t g = 0; g < groups; ++g) total += from[g * c + j];
  into[j] += total;
}

template <typename T>
void parameters(const Backward<T>& b, const NormBackwardArgs& a) {
  const int64_t group_rows = most(blocks_of(b.rows, kGroupsMax), kGroupRowsMin), groups = blocks_of(b.rows, group_rows);
  const Workspace<float> space(2 * groups * b.c);
  float* const d_weight = a.d_weight ? space.data() : nullptr;
  float* const d_bias = a.d_bias ? space.data() + groups * b.c : nullptr;
  constexpr int kColumns = 64;
  launch(parameters_kernel<T>, grid_of(blocks_of(b.c, kColumns), groups), kColumns, 0, b, d_weight, d_bias, group_rows);
  const auto add_up = [&](const Tensor& into, const float* from) {
    if (into) launch(add_groups_kernel, grid_of(blocks_of(b.c, kColumns)), kColumns, 0, into.f32(), from, groups, b.c);
  };
  add_up(a.d_weight, d_weight);
  add_up(a.d_bias, d_bias);
}

// Threads of a block for a row of so many packs: enough that each keeps what it reads.
int threads_of_row(int64_t packs) {
  return int(least(kRowThreads, most(1, blocks_of(packs, kHeld * kWarpThreads)) * kWarpThreads));
}

}  // namespace

void norm_forward(const NormForwardArgs& a) {
  with_activation(a.x.dtype, [&](auto t) {
    using T = decltype(t);
    const Forward<T> f{.x = data_as<T>(a.x), .residual = data_as<T>(a.residual), .weight = a.weight.f32(),
                       .bias = a.bias.f32(), .y = data_as<T>(a.y), .sum = data_as<T>(a.sum),
                       .mean = a.kind == Norm::kLayer ? a.mean.f32() : nullptr, .rstd = a.rstd.f32(), .eps = a.eps,
                       .c = a.x.dim(1)};
    constexpr int kPack = kPackOf<T>;
    const bool aligned = all_aligned({f.x, f.residual, f.weight, f.bias, f.y, f.sum});
    with_width<kPack>(f.c % kPack == 0 && aligned, [&](auto n) {
      constexpr int N = decltype(n)::value;
      launch(forward_kernel<N, T>, grid_of(a.x.dim(0)), threads_of_row(f.c / N), 0, f);
    });
  });
}

void norm_backward(const NormBackwardArgs& a) {
  with_activation(a.s.dtype, [&](auto t) {
    using T = decltype(t);
    const Backward<T> b{.d_y = data_as<T>(a.d_y), .d_sum = data_as<T>(a.d_sum), .s = data_as<T>(a.s),
                        .weight = a.weight.f32(), .mean = a.kind == Norm::kLayer ? a.mean.f32() : nullptr,
                        .rstd = a.rstd.f32(), .d_s = data_as<T>(a.d_s), .rows = a.s.dim(0), .c = a.s.dim(1)};
    if ((a.d_weight || a.d_bias) && b.rows > 0) parameters(b, a);
    constexpr int kPack = kPackOf<T>;
    with_width<kPack>(b.c % kPack == 0 && all_aligned({b.d_y, b.d_sum, b.s, b.weight, b.d_s}), [&](auto n) {
      constexpr int N = decltype(n)::value;
      launch(backward_kernel<N, T>, grid_of(b.rows), threads_of_row(b.c / N), 0, b);
    });
  });
}

}  // namespace nibble::cuda
