// The plain matrix product: a thread an element of the result, no tiles. It has every form that the ops need and is what
// faster kernels are compared with; it is slow.
//
//   C[m,n] = beside + sum over terms of mask * sum_k A(m,k) B(n,k)
#pragma once

#include "backends/cuda/weight.h"
#include "ops/linear.h"
#include "ops/philox.h"

namespace nibble::cuda {

// A matrix as an operand: elements of `data` by strides, times factor, rounded to `rounding`. Or, with is_weight,
// the weight's element (row, depth), or (depth, row) with `transposed`.
struct Operand {
  const void* data = nullptr;
  DType dtype = DType::kF32;
  int64_t row_stride = 0, depth_stride = 1;
  float factor = 1;
  DType rounding = DType::kF32;
  Dropout dropout;  // of the element at row * row_stride + depth * depth_stride
  bool is_weight = false, transposed = false;
};

// x[m, k] as rows, or read by columns.
inline Operand rows_of(const Tensor& t) { return {.data = t.data, .dtype = t.dtype, .row_stride = t.dim(1)}; }
inline Operand columns_of(const Tensor& t) {
  return {.data = t.data, .dtype = t.dtype, .row_stride = 1, .depth_stride = t.dim(1)};
}

struct Term {
  Operand a, b;
  int64_t depth = 0;
  Dropout mask;  // of the term's sum at C's index; p = 0: none
};

struct Product {
  Term term[2];
  int terms = 1;
  int64_t m = 0, n = 0;
  const float* bias = nullptr;  // [n]
  void* c = nullptr;
  DType c_dtype = DType::kF32;
  bool accumulate = false;
};

// `weight`: what operands with is_weight stand for.
void multiply(const Product& product, const WeightView& weight);

// What dropout multiplies element `index` with: 1 / (1 - p), or 0.
NIBBLE_HD inline float dropout_factor(const Dropout& d, int64_t index) {
  if (d.p == 0) return 1;
  return dropout_keeps(d.seed, d.stream, uint64_t(index), d.p) ? float(1.0 / (1.0 - double(d.p))) : 0.0f;
}

}  // namespace nibble::cuda
