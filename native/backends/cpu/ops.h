// The functions of the CPU backend, once for each instruction set.
#pragma once

#include "backends/cpu/simd.h"
#include "ops/backend.h"

namespace nibble::cpu::NIBBLE_ISA {

void quantize4(const Quantize4Args& a);
void dequantize4(const Dequantize4Args& a);

}  // namespace nibble::cpu::NIBBLE_ISA
