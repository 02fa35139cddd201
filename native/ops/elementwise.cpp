#include "ops/elementwise.h"

#include <cmath>

#include "ops/backend.h"
#include "ops/checks.h"

namespace nibble {

void add(const AddArgs& a) {
  const char* op = "add";
  check_float32_or_bf16(op, "x", a.x);
  check_float32_or_bf16(op, "y", a.y);
  require(a.y.dtype == DType::kF32 || a.y.dtype == a.x.dtype, op,
          "y: expected the dtype of x or float32, got bfloat16 for a float32 x");
  check_device(op, "y", a.y, a.x.device);
  check_count(op, "y", a.y, a.x.count());
  backend_of(a.x.device).add(a);
}

void scale(const ScaleArgs& a) {
  check_float32_or_bf16("scale", "y", a.y);
  backend_of(a.y.device).scale(a);
}

void convert(const ConvertArgs& a) {
  const char* op = "convert";
  check_float16_or_32(op, "x", a.x);
  check_float16_or_32(op, "y", a.y);
  check_device(op, "y", a.y, a.x.device);
  check_count(op, "y", a.y, a.x.count());
  backend_of(a.x.device).convert(a);
}

void random_fill(const RandomArgs& a) {
  const char* op = "random_fill";
  check_dtype(op, "y", a.y, DType::kF32);
  require(std::isfinite(a.low) && std::isfinite(a.high), op, a.normal ? "mean, std" : "low, high",
          ": expected finite numbers, got ", a.low, ", ", a.high);
  if (a.normal) {
    require(a.high >= 0, op, "std: expected >= 0, got ", a.high);
  } else {
    require(a.low <= a.high, op, "low: expected at most high, ", a.high, ", got ", a.low);
  }
  backend_of(a.y.device).random_fill(a);
}

}  // namespace nibble
