// Plain element-by-element helpers. float32 | bfloat16 (| float16 as a source of convert).
//   add: y += x        scale: y *= factor        convert: y = x rounded to y's dtype
//   uniform: y = low + (high - low) * u(seed, stream, index); normal: y = low + high * z (Box-Muller on Philox)
#pragma once

#include <cstdint>

#include "core/tensor.h"

namespace nibble {

struct AddArgs {
  Tensor x;  // [n]
  Tensor y;  // in/out [n], dtype of x or float32
};

struct ScaleArgs {
  Tensor y;  // in/out
  float factor;
};

struct ConvertArgs {
  Tensor x;
  Tensor y;  // out
};

struct RandomArgs {
  Tensor y;  // out float32
  bool normal;
  float low, high;  // uniform; for normal: mean, standard deviation
  uint64_t seed, stream;
};

void add(const AddArgs& args);
void scale(const ScaleArgs& args);
void convert(const ConvertArgs& args);
void random_fill(const RandomArgs& args);

}  // namespace nibble
