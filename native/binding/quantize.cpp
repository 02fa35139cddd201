#include <algorithm>

#include "binding/arguments.h"
#include "ops/code8.h"
#include "ops/quantize4.h"

namespace nibble::binding {

namespace {

constexpr int kCode4Types = 3;

// (input, codes, absmax, type, blockSize)
Napi::Value quantize4(Napi::Env env, const Arguments& a) {
  nibble::quantize4({.input = a.tensor(0), .codes = a.tensor(1), .absmax = a.tensor(2),
                     .type = a.choice<Code4>(3, kCode4Types), .block_size = a.integer(4)});
  return env.Undefined();
}

// (codes, absmax, output, type, blockSize)
Napi::Value dequantize4(Napi::Env env, const Arguments& a) {
  nibble::dequantize4({.codes = a.tensor(0), .absmax = a.tensor(1), .output = a.tensor(2),
                       .type = a.choice<Code4>(3, kCode4Types), .block_size = a.integer(4)});
  return env.Undefined();
}

// (absmax, codes, nestedAbsmax, offset)
Napi::Value quantize_absmax(Napi::Env env, const Arguments& a) {
  nibble::quantize_absmax({.absmax = a.tensor(0), .codes = a.tensor(1), .nested_absmax = a.tensor(2),
                           .offset = a.tensor(3)});
  return env.Undefined();
}

// (codes, nestedAbsmax, map, offset, absmax)
Napi::Value dequantize_absmax(Napi::Env env, const Arguments& a) {
  nibble::dequantize_absmax({.codes = a.tensor(0), .nested_absmax = a.tensor(1), .map = a.tensor(2),
                             .offset = a.tensor(3), .absmax = a.tensor(4)});
  return env.Undefined();
}

Napi::Value count_nonfinite(Napi::Env env, const Arguments& a) {
  return Napi::Number::New(env, double(nibble::count_nonfinite(a.tensor(0))));
}

Napi::Value float_array(Napi::Env env, const float* values, size_t count) {
  Napi::Float32Array array = Napi::Float32Array::New(env, count);
  std::copy(values, values + count, array.Data());
  return array;
}

// (type): the values of the 16 codes, as a checkpoint's quant_map holds them.
Napi::Value code_values(Napi::Env env, const Arguments& a) {
  const auto type = a.choice<Code4>(0, kCode4Types);
  Codebook4 book = codebook4(type);
  if (type == Code4::kFp4) book.value[8] = 0.0f;  // the map holds +0 where the kernels give -0
  return float_array(env, book.value, 16);
}

Napi::Value dynamic_map(Napi::Env env, const Arguments&) { return float_array(env, codebook8_signed().value, 256); }

}  // namespace

void define_quantize(Napi::Object exports) {
  define<quantize4>(exports, "quantize4");
  define<dequantize4>(exports, "dequantize4");
  define<quantize_absmax>(exports, "quantizeAbsmax");
  define<dequantize_absmax>(exports, "dequantizeAbsmax");
  define<count_nonfinite>(exports, "countNonfinite");
  define<code_values>(exports, "codeValues");
  define<dynamic_map>(exports, "dynamicMap");
}

}  // namespace nibble::binding
