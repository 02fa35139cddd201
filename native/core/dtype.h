// Element types and the conversions between them. Rounding to 16 bits is to nearest, ties to even,
// as PyTorch and the hardware do it.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "core/portable.h"

namespace nibble {

enum class DType : uint8_t { kF64, kF32, kBF16, kF16, kU8, kI32 };

NIBBLE_HD constexpr int64_t size_of(DType t) {
  switch (t) {
    case DType::kF64: return 8;
    case DType::kF32: return 4;
    case DType::kI32: return 4;
    case DType::kBF16: return 2;
    case DType::kF16: return 2;
    case DType::kU8: return 1;
  }
  return 0;
}

constexpr const char* name_of(DType t) {
  switch (t) {
    case DType::kF64: return "float64";
    case DType::kF32: return "float32";
    case DType::kI32: return "int32";
    case DType::kBF16: return "bfloat16";
    case DType::kF16: return "float16";
    case DType::kU8: return "uint8";
  }
  return "?";
}

NIBBLE_HD static inline float bits_to_float(uint32_t bits) {
  float f;
  std::memcpy(&f, &bits, 4);
  return f;
}

NIBBLE_HD static inline uint32_t float_to_bits(float f) {
  uint32_t bits;
  std::memcpy(&bits, &f, 4);
  return bits;
}

NIBBLE_HD static inline float bf16_to_float(uint16_t h) { return bits_to_float(uint32_t{h} << 16); }

NIBBLE_HD static inline uint16_t float_to_bf16(float f) {
  const uint32_t bits = float_to_bits(f);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return uint16_t((bits >> 16) | 0x40);  // NaN stays NaN
  return uint16_t((bits + 0x7fffu + ((bits >> 16) & 1)) >> 16);
}

NIBBLE_HD static inline float f16_to_float(uint16_t h) {
  const uint32_t sign = uint32_t(h & 0x8000u) << 16;
  const uint32_t exponent = (h >> 10) & 31u;
  const uint32_t mantissa = h & 0x3ffu;
  if (exponent == 31) return bits_to_float(sign | 0x7f800000u | (mantissa << 13));
  if (exponent != 0) return bits_to_float(sign | ((exponent + 112) << 23) | (mantissa << 13));
  const float magnitude = float(mantissa) * 0x1p-24f;  // subnormal: mantissa units of 2^-24, exact
  return sign ? -magnitude : magnitude;
}

NIBBLE_HD static inline uint16_t float_to_f16(float f) {
  const uint32_t bits = float_to_bits(f);
  const uint16_t sign = uint16_t((bits >> 16) & 0x8000u);
  const uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return uint16_t(sign | 0x7e00u);
  if (magnitude >= 0x477ff000u) return uint16_t(sign | 0x7c00u);  // rounds past 65504
  if (magnitude < 0x38800000u) {                                  // result is subnormal or zero
    // Adding 0.5 aligns the value so that the float's own rounding is the one to 2^-24.
    const float aligned = bits_to_float(magnitude) + 0.5f;
    return uint16_t(sign | (float_to_bits(aligned) - 0x3f000000u));
  }
  const uint32_t rounded = magnitude + 0xfffu + ((magnitude >> 13) & 1);
  return uint16_t(sign | ((rounded - 0x38000000u) >> 13));
}

// A float32 value as an element of `t`, a float type of at most 32 bits, holds it.
NIBBLE_HD static inline float round_to(DType t, float f) {
  if (t == DType::kBF16) return bf16_to_float(float_to_bf16(f));
  return t == DType::kF16 ? f16_to_float(float_to_f16(f)) : f;
}

}  // namespace nibble
