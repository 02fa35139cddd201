// The dynamic maps of 8-bit codes on the device: values and the table of the search, uploaded once.
#pragma once

#include "ops/code8.h"

namespace nibble::cuda {

const Codebook8* device_codebook8_signed();
const Codebook8* device_codebook8_unsigned();

}  // namespace nibble::cuda
