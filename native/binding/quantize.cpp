#include "binding/arguments.h"
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

}  // namespace

void define_quantize(Napi::Object exports) {
  define<quantize4>(exports, "quantize4");
  define<dequantize4>(exports, "dequantize4");
  define<quantize_absmax>(exports, "quantizeAbsmax");
  define<dequantize_absmax>(exports, "dequantizeAbsmax");
  define<count_nonfinite>(exports, "countNonfinite");
}

}  // namespace nibble::binding
