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
          t.shape_text());
}

inline void check_device(const char* op, const char* name, const Tensor& t, Device want) {
  require(t.device == want, op, name, ": expected a tensor on ", name_of(want), ", got one on ",
          name_of(t.device));
}

}  // namespace nibble
