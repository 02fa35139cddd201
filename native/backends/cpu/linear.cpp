// Linear layers as sums of packed products: the adapter is one more term of the base layer's product, so
// that y and d_x are written once.
#include "ops/linear.h"

#include "backends/cpu/elements.h"
#include "backends/cpu/gemm.h"
#include "backends/cpu/ops.h"
#include "backends/cpu/workspace.h"
#include "core/thread_pool.h"

namespace nibble::cpu::NIBBLE_ISA {

namespace {

constexpr int64_t kBiasColumns = 64;  // of one task

Tensor float_matrix(float* data, int64_t rows, int64_t columns) {
  return {.data = data, .dtype = DType::kF32, .rank = 2, .shape = {rows, columns}};
}

Tensor rows_of(Tensor t, int64_t begin, int64_t end) {
  t.data = t.u8() + begin * t.dim(1) * size_of(t.dtype);
  t.shape[0] = end - begin;
  return t;
}

void add_column_sums(const Tensor& d_y, float* sums) {
  const int64_t rows = d_y.dim(0), columns = d_y.dim(1);
  parallel_for((columns + kBiasColumns - 1) / kBiasColumns, [&](int64_t task) {
    const int64_t begin = task * kBiasColumns;
    const int64_t count = begin + kBiasColumns < columns ? kBiasColumns : columns - begin;
    float total[kBiasColumns] = {}, row[kBiasColumns];
    for (int64_t n = 0; n < rows; ++n) {
      fetch(matrix_of(d_y), n, begin, count, row);
      for (int64_t j = 0; j < count; ++j) total[j] += row[j];
    }
    for (int64_t j = 0; j < count; ++j) sums[begin + j] += total[j];
  });
}

// What the products of one pass share: x or d_y, packed once for W and for the adapter where both products have its
// lanes.
struct Shared {
  Operand operand;
  PackedRows rows;
  bool is_packed = false;

  Shared(const Tensor& t, const Matrix& with_weight, const Matrix& with_adapter) : operand{matrix_of(t), true} {
    const Lane lane = lane_of(operand, {with_weight});
    is_packed = t.dim(0) > kFewRows && lane == lane_of(operand, {with_adapter});
    if (!is_packed) return;
    rows.reserve(operand, lane, t.dim(1), t.dim(0));
    rows.pack(0, t.dim(0));
  }
  Term times(const Operand& b) const {
    return {.a = operand, .b = b, .depth = operand.matrix.columns, .packed = is_packed ? &rows : nullptr};
  }
};

// d_x from d_y through W, and from d_h through A and the dropout mask.
void backward_input(const LinearBackwardArgs& a, const Term& base, const Matrix& d_h) {
  if (!a.a) return gemm(&base, 1, {.c = a.d_x, .add = a.accumulate_dx});
  const Term adapter{.a = {d_h, true}, .b = {matrix_of(a.a).rounded_as(a.d_y.dtype), false}, .depth = a.a.dim(0),
                     .mask = a.dropout.p > 0 ? &a.dropout : nullptr};
  const Term terms[2] = {adapter, base};
  gemm(terms, 2, {.c = a.d_x, .add = a.accumulate_dx});
}

// gradient += left^T right, summed over the rows of both; or its transpose: the operand with fewer columns is left.
void add_gradient(const Matrix& left, const Matrix& right, int64_t rows, const Tensor& gradient, bool turned) {
  const Term term{.a = {left, false}, .b = {right, false}, .depth = rows};
  gemm(&term, 1, {.c = gradient, .add = true, .turned = turned});
}

}  // namespace

void linear_forward(const LinearForwardArgs& a) {
  const WeightMatrix weight(a.w);
  const Operand w{weight.matrix(), true};
  if (!a.a) {
    const Term term{.a = {matrix_of(a.x), true}, .b = w, .depth = a.w.in};
    return gemm(&term, 1, {.c = a.y, .bias = a.bias.f32()});
  }
  const DType dtype = a.x.dtype;
  const Matrix down = matrix_of(a.a).rounded_as(dtype), up = matrix_of(a.b).rounded_as(dtype);
  const Shared x(a.x, w.matrix, down);
  Term project = x.times({down, true});
  if (a.dropout.p > 0) project = {.a = {matrix_of(a.x).dropped(a.dropout).rounded_as(dtype), true}, .b = {down, true},
                                  .depth = a.w.in};
  gemm(&project, 1, {.c = a.h});
  const Matrix h = matrix_of(a.h).scaled(a.scaling).rounded_as(dtype);
  const Term terms[2] = {x.times(w), {.a = {h, true}, .b = {up, true}, .depth = a.a.dim(0)}};
  gemm(terms, 2, {.c = a.y, .bias = a.bias.f32()});
}

void linear_backward(const LinearBackwardArgs& a) {
  const int64_t rows = a.d_y.dim(0), rank = a.a ? a.a.dim(0) : 0;
  const DType dtype = a.d_y.dtype;
  const WeightMatrix weight(a.w);
  const Operand w{weight.matrix(), false};
  const Matrix up = matrix_of(a.b).scaled(a.scaling).rounded_as(dtype);
  Workspace d_h(rows * rank);
  const Matrix d_h_matrix = matrix_of(d_h.data(), rank).rounded_as(dtype);
  if (a.a && (a.d_x || a.d_a)) {
    const Shared d_y(a.d_y, w.matrix, up);
    const Term term = d_y.times({up, false});
    gemm(&term, 1, {.c = float_matrix(d_h.data(), rows, rank)});
    if (a.d_x) backward_input(a, d_y.times(w), d_h_matrix);
  } else if (a.d_x) {
    backward_input(a, {.a = {matrix_of(a.d_y), true}, .b = w, .depth = a.w.out}, d_h_matrix);
  }
  const Matrix x = matrix_of(a.x).dropped(a.dropout).rounded_as(dtype);
  if (a.d_a) add_gradient(d_h_matrix, x, rows, a.d_a, false);
  if (a.d_b)
    add_gradient(matrix_of(a.h).scaled(a.scaling).rounded_as(dtype), matrix_of(a.d_y), rows, a.d_b, true);
  if (a.d_w) add_gradient(matrix_of(a.d_y), matrix_of(a.x), rows, a.d_w, false);
  if (a.d_bias) add_column_sums(a.d_y, a.d_bias.f32());
}

void lora_add(const LoraAddArgs& a) {
  const Tensor x = rows_of(a.x, a.begin, a.end), y = rows_of(a.y, a.begin, a.end);
  const int64_t rank = a.a.dim(0);
  Workspace h(x.dim(0) * rank);
  const Term project{.a = {matrix_of(x), true}, .b = {matrix_of(a.a), true}, .depth = x.dim(1)};
  gemm(&project, 1, {.c = float_matrix(h.data(), x.dim(0), rank)});
  const Term expand{.a = {matrix_of(h.data(), rank).scaled(a.scaling), true}, .b = {matrix_of(a.b), true},
                    .depth = rank};
  gemm(&expand, 1, {.c = y, .add = true});
}

void scale_columns(const ScaleColumnsArgs& a) {
  const int64_t out = a.y.dim(1);
  const float *factor = a.factor.f32(), *bias = a.bias.f32();
  with_type(a.y.dtype, [&](auto type) {
    auto* const y = data_as<decltype(type)>(a.y);
    parallel_for(a.end - a.begin, [&](int64_t row) {
      auto* const to = y + (a.begin + row) * out;
      each_vector(0, out, [&](int64_t i, int n) NIBBLE_INLINE {
        const Vec b = bias == nullptr ? Vec{} : load(bias + i, n);
        store(to + i, fma(load(factor + i, n), load(to + i, n) - b, b), n);
      });
    });
  });
}

}  // namespace nibble::cpu::NIBBLE_ISA
