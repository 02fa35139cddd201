// Reads numbers one after the other from a Float64Array: what has many of them comes as one.
#pragma once

#include "binding/arguments.h"

namespace nibble::binding {

class Numbers {
 public:
  Numbers(const char* op, const Napi::Value& array) : op_(op) {
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

 protected:
  const char* const op_;

 private:
  const double *at_, *end_;
};

}  // namespace nibble::binding
