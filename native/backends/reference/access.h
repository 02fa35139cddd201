// Element access in double precision, whatever the dtype: the reference backend's only machinery.
#pragma once

#include "core/tensor.h"

namespace nibble::reference {

inline double get(const Tensor& t, int64_t i) {
  switch (t.dtype) {
    case DType::kF64: return static_cast<double*>(t.data)[i];
    case DType::kF32: return t.f32()[i];
    case DType::kBF16: return bf16_to_float(t.u16()[i]);
    case DType::kF16: return f16_to_float(t.u16()[i]);
    case DType::kU8: return t.u8()[i];
    case DType::kI32: return t.i32()[i];
  }
  return 0;
}

inline void put(const Tensor& t, int64_t i, double value) {
  switch (t.dtype) {
    case DType::kF64: static_cast<double*>(t.data)[i] = value; break;
    case DType::kF32: t.f32()[i] = float(value); break;
    case DType::kBF16: t.u16()[i] = float_to_bf16(float(value)); break;
    case DType::kF16: t.u16()[i] = float_to_f16(float(value)); break;
    case DType::kU8: t.u8()[i] = uint8_t(value); break;
    case DType::kI32: t.i32()[i] = int32_t(value); break;
  }
}

// As an operand beside activations of `dtype`.
inline double rounded(double value, DType dtype) {
  return dtype == DType::kBF16 ? bf16_to_float(float_to_bf16(float(value))) : value;
}

inline void add(const Tensor& t, int64_t i, double value) { put(t, i, get(t, i) + value); }

}  // namespace nibble::reference
