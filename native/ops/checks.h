// Argument checks shared by the ops. Messages say what was expected and what came.
#pragma once

#include "core/error.h"
#include "core/tensor.h"

namespace nibble {

inline void check_dtype(const char* op, const char* name, const Tensor& t, DType want) {
  require(t.dtype == want, op, name, ": expected dtype ", name_of(want), ", got ", name_of(t.dtype));
}

inline void check_float16_or_32(const char* op, const char* name, const Tensor& t) {
  require(t.dtype == DType::kF32 || t.dtype == DType::kBF16 || t.dtype == DType::kF16, op, name,
          ": expected float32, bfloat16 or float16, got ", name_of(t.dtype));
}

inline void check_count(const char* op, const char* name, const Tensor& t, int64_t want) {
  require(t.count() == want, op, name, ": expected ", want, " elements, got ", t.count(), " in shape ",
          t);
}

inline void check_device(const char* op, const char* name, const Tensor& t, Device want) {
  require(t.device == want, op, name, ": expected a tensor on ", name_of(want), ", got one on ",
          name_of(t.device));
}

// What flows between layers.
inline void check_float32_or_bf16(const char* op, const char* name, const Tensor& t) {
  require(t.dtype == DType::kF32 || t.dtype == DType::kBF16, op, name, ": expected float32 or bfloat16, got ",
          name_of(t.dtype));
}

inline void check_shape(const char* op, const char* name, const Tensor& t, std::initializer_list<int64_t> want) {
  if (t.has_shape(want)) return;
  Tensor wanted;
  for (int64_t n : want) wanted.shape[wanted.rank++] = n;
  require(false, op, name, ": expected shape ", wanted, ", got ", t);
}

// The dtype, device and shape of another argument.
inline void check_like(const char* op, const char* name, const Tensor& t, const char* like_name, const Tensor& like) {
  check_device(op, name, t, like.device);
  require(t.dtype == like.dtype, op, name, ": expected the dtype of ", like_name, ", ", name_of(like.dtype), ", got ",
          name_of(t.dtype));
  require(t.rank == like.rank && t.shape == like.shape, op, name, ": expected the shape of ", like_name, ", ",
          like, ", got ", t);
}

// A vector of parameters, statistics or constants.
inline void check_floats(const char* op, const char* name, const Tensor& t, int64_t count, Device device) {
  check_device(op, name, t, device);
  check_dtype(op, name, t, DType::kF32);
  check_count(op, name, t, count);
}

// int32 indices in [0, limit). The values of tensors on the GPU are its kernels' to check.
inline void check_indices(const char* op, const char* name, const Tensor& t, int64_t limit, Device device) {
  check_device(op, name, t, device);
  check_dtype(op, name, t, DType::kI32);
  if (device == Device::kCuda) return;
  const int64_t n = t.count();
  for (int64_t i = 0; i < n; ++i) {
    const int32_t at = t.i32()[i];
    require(at >= 0 && at < limit, op, name, ": expected values in [0,", limit, "), got ", at, " at index ", i);
  }
}

}  // namespace nibble
