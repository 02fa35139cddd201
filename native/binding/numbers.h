// Reads numbers one after the other from a Float64Array: what has many of them comes as one.
#pragma once

#include <napi.h>

#include "binding/handles.h"
#include "core/error.h"
#include "ops/weight.h"

namespace nibble::binding {

class Numbers {
 public:
  Numbers(const char* op, const Napi::Value& array) : op_(op), handles_(handles(array.Env())) {
    require(array.IsTypedArray() && array.As<Napi::TypedArray>().TypedArrayType() == napi_float64_array, op,
            "expected a Float64Array");
    const auto numbers = array.As<Napi::Float64Array>();
    at_ = numbers.Data();
    end_ = at_ + numbers.ElementLength();
  }

  bool is_at_end() const { return at_ == end_; }
  double number() {
    require(at_ < end_, op_, "expected more numbers");
    return *at_++;
  }
  int64_t integer() { return int64_t(number()); }
  // A handle below 0 is an empty tensor.
  Tensor tensor() {
    const double handle = number();
    return handle < 0 ? Tensor{} : handles_.get(uint64_t(handle));
  }
  // A value of an enum mirrored in native/index.ts, below `count`.
  template <typename E>
  E choice(int count) {
    const int64_t value = integer();
    require(value >= 0 && value < count, op_, "expected 0..", count - 1, ", got ", value);
    return E(value);
  }
  // As packWeight in native/linear.ts made it.
  Weight weight() {
    Weight w{.out = integer(), .in = integer(), .data = tensor(), .quantized = number() != 0};
    w.dtype = choice<DType>(6);
    w.type = choice<Code4>(3);
    w.block_size = integer();
    w.absmax = tensor();
    w.nested_absmax = tensor();
    w.nested_map = tensor();
    w.nested_offset = float(number());
    return w;
  }

 private:
  const char* const op_;
  const Handles& handles_;
  const double *at_, *end_;
};

}  // namespace nibble::binding
