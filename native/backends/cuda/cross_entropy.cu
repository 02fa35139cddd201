// The output layer and its loss by chunks of rows; see ops/cross_entropy.h.
#include "ops/cross_entropy.h"

#include "backends/cuda/fault.h"
#include "backends/cuda/ops.h"
#include "backends/cuda/product.h"

namespace nibble::cuda {

namespace {

constexpr int64_t kLogitsMax = 64 << 20;  // of a chunk

// A block a row: its loss, and in the place of its logits their gradients.
__global__ void loss_kernel(float* logits, const int32_t* labels, int64_t vocabulary, float scale, float* loss,
                            int* fault) {
  __shared__ float scratch[kWarpThreads];
  float* const row = logits + blockIdx.x * vocabulary;
  const int32_t label = labels[blockIdx.x];
  const bool is_trained = label >= 0 && checked_index(label, vocabulary, kLabels, fault) >= 0;
  // [2] loss
  float top = -INFINITY;
  for (int64_t v = threadIdx.x; v < vocabulary; v += blockDim.x) top = fmaxf(top, row[v]);
  top = block_max(top, scratch);
  float total = 0;
  for (int64_t v = threadIdx.x; v < vocabulary; v += blockDim.x) total += expf(row[v] - top);
  total = block_sum(total, scratch);
  if (threadIdx.x == 0) loss[blockIdx.x] = is_trained ? logf(total) + top - row[label] : 0.0f;
  __syncthreads();
  // [3] gradients of the logits
  for (int64_t v = threadIdx.x; v < vocabulary; v += blockDim.x) {
    const float p = expf(row[v] - top) / total - (v == label ? 1.0f : 0.0f);
    row[v] = is_trained ? scale * p : 0.0f;
  }
}

Tensor rows_from(const Tensor& t, int64_t begin, int64_t count) {
  Tensor part = t;
  part.shape[0] = count;
  part.data = t.u8() + begin * t.bytes() / most(t.dim(0), 1);
  return part;
}

}  // namespace

void linear_cross_entropy(const CrossEntropyArgs& a) {
  const WeightView w = view_of(a.w);
  const int64_t rows = a.x.dim(0), chunk = least(rows, most(kLogitsMax / w.out, 1));
  const Workspace<float> logits(chunk * w.out);
  for (int64_t begin = 0; begin < rows; begin += chunk) {
    const int64_t count = least(chunk, rows - begin);
    const Tensor x = rows_from(a.x, begin, count);
    const Operand weight{.is_weight = true}, transposed{.is_weight = true, .transposed = true};
    // [1] logits
    multiply({.term = {{.a = rows_of(x), .b = weight, .depth = w.in}}, .m = count, .n = w.out, .c = logits.data()}, w);
    launch(loss_kernel, grid_of(count), kThreads, 0, logits.data(), a.labels.i32() + begin, w.out, a.scale,
           a.loss.f32() + begin, fault_word());
    // [3] gradients of x and W
    Operand d{.data = logits.data(), .row_stride = w.out};
    if (a.d_x) {
      const Tensor d_x = rows_from(a.d_x, begin, count);
      multiply({.term = {{.a = d, .b = transposed, .depth = w.out}}, .m = count, .n = w.in, .c = d_x.data,
                .c_dtype = d_x.dtype}, w);
    }
    if (a.d_w) {
      d.row_stride = 1;
      d.depth_stride = w.out;
      d.rounding = a.x.dtype;
      multiply({.term = {{.a = d, .b = columns_of(x), .depth = count}}, .m = w.out, .n = w.in, .c = a.d_w.data,
                .accumulate = true}, w);
    }
  }
}

}  // namespace nibble::cuda
