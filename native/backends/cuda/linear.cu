// Linear layers over dense or 4-bit weights with a LoRA adapter; see ops/linear.h and backends/reference/linear.cpp.
#include "ops/linear.h"

#include "backends/cuda/few_rows.h"
#include "backends/cuda/ops.h"
#include "backends/cuda/product.h"

namespace nibble::cuda {

namespace {

// As an operand beside activations of `dtype`.
Operand rounded(Operand o, DType dtype, float factor = 1) {
  o.rounding = dtype;
  o.factor = factor;
  return o;
}

Operand dropped(const Tensor& x, Operand o, const Dropout& dropout) {
  o.dropout = dropout;
  return rounded(o, x.dtype);
}

// d_h[n,r] = scaling * d_y[n,:] . B[:,r], as an operand holds it
void grad_h(const LinearBackwardArgs& a, const Tensor& d_h, const WeightView& w) {
  multiply({.term = {{.a = rows_of(a.d_y), .b = rounded(columns_of(a.b), a.d_y.dtype, a.scaling), .depth = w.out}},
            .m = d_h.dim(0), .n = d_h.dim(1), .c = d_h.data, .c_dtype = d_h.dtype}, w);
}

void backward_input(const LinearBackwardArgs& a, const Tensor& d_h, const WeightView& w) {
  Product p{.term = {{.a = rows_of(a.d_y), .b = kWeightTransposed, .depth = w.out}}, .m = a.d_y.dim(0), .n = w.in,
            .c = a.d_x.data, .c_dtype = a.d_x.dtype, .accumulate = a.accumulate_dx};
  if (a.a) {
    p.terms = 2;
    p.term[1] = {.a = rows_of(d_h), .b = rounded(columns_of(a.a), a.d_y.dtype), .depth = d_h.dim(1)};
    p.mask = a.dropout;
  }
  multiply(p, w);
}

void backward_adapter(const LinearBackwardArgs& a, const Tensor& d_h, const WeightView& w) {
  const int64_t rows = a.d_y.dim(0), rank = a.a.dim(0);
  if (a.d_a) {
    multiply({.term = {{.a = columns_of(d_h), .b = dropped(a.x, columns_of(a.x), a.dropout), .depth = rows}}, .m = rank,
              .n = w.in, .c = a.d_a.data, .accumulate = true}, w);
  }
  if (a.d_b) {
    const Operand h = rounded(columns_of(a.h), a.d_y.dtype, a.scaling);
    multiply({.term = {{.a = columns_of(a.d_y), .b = h, .depth = rows}}, .m = w.out, .n = rank, .c = a.d_b.data,
              .accumulate = true}, w);
  }
}

// d_bias[o] += the column's sum, a thread a column.
__global__ void bias_kernel(const void* d_y, DType dtype, int64_t rows, int64_t out, float* d_bias) {
  const int64_t o = first_index();
  if (o >= out) return;
  float sum = 0;
  for (int64_t n = 0; n < rows; ++n) sum += load(d_y, dtype, n * out + o);
  d_bias[o] += sum;
}

template <typename T>
__global__ void scale_columns_kernel(const float* factor, const float* bias, T* y, int64_t out, int64_t count) {
  for (int64_t i = first_index(); i < count; i += index_stride()) {
    const int64_t o = i % out;
    const float shift = bias == nullptr ? 0.0f : bias[o];
    set(y[i], shift + factor[o] * (to_float(y[i]) - shift));
  }
}

}  // namespace

void linear_forward(const LinearForwardArgs& a) {
  const WeightView w = view_of(a.w);
  const int64_t rows = a.x.dim(0);
  Product p{.term = {{.a = rows_of(a.x), .b = kWeight, .depth = w.in}}, .m = rows, .n = w.out, .bias = a.bias.f32(),
            .c = a.y.data, .c_dtype = a.y.dtype};
  if (a.a) {
    const int64_t rank = a.a.dim(0);
    const Operand x = dropped(a.x, rows_of(a.x), a.dropout);
    multiply({.term = {{.a = x, .b = rounded(rows_of(a.a), a.x.dtype), .depth = w.in}}, .m = rows, .n = rank,
              .c = a.h.data}, w);
    p.terms = 2;
    p.term[1] = {.a = rounded(rows_of(a.h), a.x.dtype, a.scaling), .b = rounded(rows_of(a.b), a.x.dtype), .depth = rank};
  }
  if (!a.a && takes_few_rows(a.x, w)) return multiply_few_rows(a.x, w, a.bias.f32(), a.y);
  multiply(p, w);
}

void linear_backward(const LinearBackwardArgs& a) {
  const WeightView w = view_of(a.w);
  const int64_t rows = a.d_y.dim(0), rank = a.a ? a.a.dim(0) : 0;
  const Workspace<float> space(rows * rank);
  Tensor d_h{.dtype = a.d_y.dtype, .device = Device::kCuda, .rank = 2, .shape = {rows, rank}};
  d_h.data = space.data();
  if (a.a && (a.d_x || a.d_a)) grad_h(a, d_h, w);
  if (a.d_x) backward_input(a, d_h, w);
  if (a.a) backward_adapter(a, d_h, w);
  if (a.d_w) {
    multiply({.term = {{.a = columns_of(a.d_y), .b = columns_of(a.x), .depth = rows}}, .m = w.out, .n = w.in,
              .c = a.d_w.data, .accumulate = true}, w);
  }
  if (a.d_bias) {
    launch(bias_kernel, grid_of(blocks_of(w.out, 64)), 64, 0, static_cast<const void*>(a.d_y.data), a.d_y.dtype, rows,
           w.out, a.d_bias.f32());
  }
}

void scale_columns(const ScaleColumnsArgs& a) {
  const int64_t out = a.y.dim(1), count = (a.end - a.begin) * out;
  with_activation(a.y.dtype, [&](auto t) {
    using T = decltype(t);
    launch(scale_columns_kernel<T>, grid_for(count), kThreads, 0, a.factor.f32(), a.bias.f32(),
           data_as<T>(a.y) + a.begin * out, out, count);
  });
}

}  // namespace nibble::cuda
