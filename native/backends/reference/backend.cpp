#include "backends/reference/ops.h"

namespace nibble {

const Backend& reference_backend() {
  static const Backend backend = {
      .name = "reference",
      .quantize4 = reference::quantize4,
      .dequantize4 = reference::dequantize4,
  };
  return backend;
}

}  // namespace nibble
