#include "ops/weight.h"

#include "ops/checks.h"
#include "ops/code8.h"

namespace nibble {

namespace {

constexpr int64_t kFeaturesMax = int64_t{1} << 31;  // so that out * in cannot overflow

void check_double_quantized(const char* op, const Weight& w, int64_t blocks) {
  require(bool(w.nested_absmax) && bool(w.nested_map), op,
          "w: expected nested absmax and map with absmax in uint8, got none");
  check_dtype(op, "w.nested.absmax", w.nested_absmax, DType::kF32);
  check_dtype(op, "w.nested.map", w.nested_map, DType::kF32);
  check_count(op, "w.nested.absmax", w.nested_absmax, (blocks + kBlock8 - 1) / kBlock8);
  check_count(op, "w.nested.map", w.nested_map, 256);
}

}  // namespace

void check_weight(const char* op, const Weight& w, Device device) {
  const bool in_range = w.out >= 1 && w.in >= 1 && w.out <= kFeaturesMax && w.in <= kFeaturesMax;
  require(in_range, op, "w: expected out and in of 1..2^31, got ", w.out, " and ", w.in);
  for (const Tensor* t : {&w.data, &w.absmax, &w.nested_absmax, &w.nested_map}) {
    if (*t) check_device(op, "w", *t, device);
  }
  if (!w.quantized) {
    check_float16_or_32(op, "w.data", w.data);
    require(w.data.has_shape({w.out, w.in}), op, "w.data: expected shape [", w.out, ",", w.in, "], got ",
            w.data);
    return;
  }
  const bool is_float = w.dtype == DType::kF32 || w.dtype == DType::kBF16 || w.dtype == DType::kF16;
  require(is_float, op, "w.dtype: expected float32, bfloat16 or float16, got ", name_of(w.dtype));
  const bool power_of_two = (w.block_size & (w.block_size - 1)) == 0;
  require(w.block_size >= 32 && w.block_size <= 4096 && power_of_two, op,
          "w.block_size: expected one of 32,64,...,4096, got ", w.block_size);
  check_dtype(op, "w.data", w.data, DType::kU8);
  check_count(op, "w.data", w.data, (w.out * w.in + 1) / 2);
  const int64_t blocks = (w.out * w.in + w.block_size - 1) / w.block_size;
  require(bool(w.absmax), op, "w.absmax: expected ", blocks, " elements, got none");
  check_count(op, "w.absmax", w.absmax, blocks);
  if (w.absmax.dtype == DType::kU8) {
    check_double_quantized(op, w, blocks);
  } else {
    check_dtype(op, "w.absmax", w.absmax, DType::kF32);
    require(!w.nested_absmax && !w.nested_map, op, "w: expected absmax in uint8 with nested constants, got float32");
  }
}

}  // namespace nibble
