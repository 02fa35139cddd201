// RMSNorm and LayerNorm, a block a row; gradients of the parameters in two steps, so that their order is fixed.
// See ops/norm.h and backends/reference/norm.cpp, whose steps these are.
#include "ops/norm.h"

#include "backends/cuda/kernel.h"
#include "backends/cuda/ops.h"

namespace nibble::cuda {

namespace {

// The parameters' gradients are summed by groups of rows, then over at most this many groups.
constexpr int64_t kGroupsMax = 256, kGroupRowsMin = 16;

template <typename T>
struct Forward {
  const T *x, *residual;
  const float *weight, *bias;
  T *y, *sum;
  float *mean, *rstd, eps;
  int64_t c;
};

template <typename T>
__global__ void forward_kernel(Forward<T> a) {
  __shared__ float scratch[kWarpThreads];
  const int64_t row = blockIdx.x, at = row * a.c;
  const T* s = a.sum == nullptr ? a.x : a.sum;
  float total = 0, squares = 0;
  for (int64_t j = threadIdx.x; j < a.c; j += blockDim.x) {
    if (a.sum != nullptr) {
      set(a.sum[at + j], to_float(a.x[at + j]) + (a.residual == nullptr ? 0.0f : to_float(a.residual[at + j])));
    }
    const float v = to_float(s[at + j]);
    total += v;
    squares = fmaf(v, v, squares);
  }
  // [1] statistics of the row
  const bool layer = a.mean != nullptr;
  const float mean = layer ? block_sum(total, scratch) / float(a.c) : 0.0f;
  if (layer) {
    squares = 0;
    for (int64_t j = threadIdx.x; j < a.c; j += blockDim.x) {
      const float d = to_float(s[at + j]) - mean;
      squares = fmaf(d, d, squares);
    }
  }
  const float rstd = 1.0f / sqrtf(block_sum(squares, scratch) / float(a.c) + a.eps);
  if (threadIdx.x == 0) {
    if (layer) a.mean[row] = mean;
    a.rstd[row] = rstd;
  }
  // [2] normalize, scale, shift
  for (int64_t j = threadIdx.x; j < a.c; j += blockDim.x) {
    const float v = a.weight[j] * ((to_float(s[at + j]) - mean) * rstd);
    set(a.y[at + j], a.bias == nullptr ? v : v + a.bias[j]);
  }
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
  __device__ float scaled(int64_t row, int64_t j) const { return to_float(d_y[row * c + j]) * weight[j]; }
};

template <typename T>
__global__ void backward_kernel(Backward<T> a) {
  __shared__ float scratch[kWarpThreads];
  const int64_t row = blockIdx.x;
  // [1] the two means that the statistics' gradients need
  float sum_d = 0, sum_dx = 0;
  for (int64_t j = threadIdx.x; j < a.c; j += blockDim.x) {
    const float d = a.scaled(row, j);
    sum_d += d;
    sum_dx = fmaf(d, a.normalized(row, j), sum_dx);
  }
  const float mean_d = a.mean == nullptr ? 0.0f : block_sum(sum_d, scratch) / float(a.c);
  const float mean_dx = block_sum(sum_dx, scratch) / float(a.c);
  // [2] gradients of the row
  for (int64_t j = threadIdx.x; j < a.c; j += blockDim.x) {
    const float d_s = (a.scaled(row, j) - mean_d - a.normalized(row, j) * mean_dx) * a.rstd[row];
    set(a.d_s[row * a.c + j], d_s + (a.d_sum == nullptr ? 0.0f : to_float(a.d_sum[row * a.c + j])));
  }
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

}  // namespace

void norm_forward(const NormForwardArgs& a) {
  with_activation(a.x.dtype, [&](auto t) {
    using T = decltype(t);
    const Forward<T> f{.x = data_as<T>(a.x), .residual = data_as<T>(a.residual), .weight = a.weight.f32(),
                       .bias = a.bias.f32(), .y = data_as<T>(a.y), .sum = data_as<T>(a.sum),
                       .mean = a.kind == Norm::kLayer ? a.mean.f32() : nullptr, .rstd = a.rstd.f32(), .eps = a.eps,
                       .c = a.x.dim(1)};
    launch(forward_kernel<T>, grid_of(a.x.dim(0)), threads_for(f.c), 0, f);
  });
}

void norm_backward(const NormBackwardArgs& a) {
  with_activation(a.s.dtype, [&](auto t) {
    using T = decltype(t);
    const Backward<T> b{.d_y = data_as<T>(a.d_y), .d_sum = data_as<T>(a.d_sum), .s = data_as<T>(a.s),
                        .weight = a.weight.f32(), .mean = a.kind == Norm::kLayer ? a.mean.f32() : nullptr,
                        .rstd = a.rstd.f32(), .d_s = data_as<T>(a.d_s), .rows = a.s.dim(0), .c = a.s.dim(1)};
    if ((a.d_weight || a.d_bias) && b.rows > 0) parameters(b, a);
    launch(backward_kernel<T>, grid_of(b.rows), threads_for(b.c), 0, b);
  });
}

}  // namespace nibble::cuda
