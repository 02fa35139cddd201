// A matrix as an operand of a product: where its numbers lie, and what is done to them when they are
// read (widened, decoded, scaled, dropped).
#pragma once

#include "backends/cpu/codes.h"
#include "core/tensor.h"
#include "ops/linear.h"

namespace nibble::cpu::NIBBLE_ISA {

struct Matrix {
  const void* data = nullptr;
  DType dtype = DType::kF32;
  int64_t columns = 0;               // elements from one row to the next
  const Codes* codes = nullptr;      // 4-bit: then data and dtype are not used
  float factor = 1;
  const Dropout* dropout = nullptr;  // mask of element row * columns + column
  bool rounded = false;              // to bfloat16, last of all

  Matrix scaled(float by) const {
    Matrix m = *this;
    m.factor = by;
    return m;
  }
  Matrix dropped(const Dropout& d) const {
    Matrix m = *this;
    m.dropout = d.p > 0 ? &d : nullptr;
    return m;
  }
  // For operands of a product with numbers of this dtype.
  Matrix rounded_as(DType as) const {
    Matrix m = *this;
    m.rounded = as == DType::kBF16 && !is_bf16();
    return m;
  }
  // Whether elements are read as they are stored or decoded, before any rounding.
  bool is_unchanged() const { return factor == 1 && dropout == nullptr; }
  // Whether they lie at data as they are.
  bool is_plain() const { return codes == nullptr && is_unchanged() && !rounded; }
  // Whether every element is a bfloat16 number.
  bool is_bf16() const {
    return rounded || (is_unchanged() && (codes != nullptr ? codes->dtype() : dtype) == DType::kBF16);
  }
};

static inline Matrix matrix_of(const Tensor& t) {
  return {.data = t.data, .dtype = t.dtype, .columns = t.rank == 2 ? t.dim(1) : 0};
}

static inline Matrix matrix_of(const float* data, int64_t columns) { return {.data = data, .columns = columns}; }

// A weight matrix; must outlive the Matrix it gives.
class WeightMatrix {
 public:
  explicit WeightMatrix(const Weight& w) : weight_(w), codes_(w) {}
  Matrix matrix() const {
    Matrix m = matrix_of(weight_.data);
    m.columns = weight_.in;
    m.codes = weight_.quantized ? &codes_ : nullptr;
    return m;
  }

 private:
  const Weight& weight_;
  Codes codes_;
};

// out[i] = element [row, column + i] as float32, for i in [0, count).
void fetch(const Matrix& m, int64_t row, int64_t column, int64_t count, float* out);

// The same for a matrix of bfloat16 numbers (is_bf16), in half the space.
void fetch_bf16(const Matrix& m, int64_t row, int64_t column, int64_t count, uint16_t* out);


// t[first + i] = values[i], rounded to t's dtype; `add`: added to what was there.
void put_row(const Tensor& t, int64_t first, int64_t count, const float* values, bool add);

}  // namespace nibble::cpu::NIBBLE_ISA
