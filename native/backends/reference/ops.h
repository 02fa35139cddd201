// The functions of the reference backend: each op's meaning in the plainest code, in double precision.
#pragma once

#include "ops/backend.h"

namespace nibble::reference {

void quantize4(const Quantize4Args& a);
void dequantize4(const Dequantize4Args& a);

}  // namespace nibble::reference
