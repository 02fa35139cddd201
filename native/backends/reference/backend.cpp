#include "backends/reference/ops.h"

namespace nibble {

const Backend& reference_backend() {
  static const Backend backend = {
      .name = "reference",
      .quantize4 = reference::quantize4,
      .dequantize4 = reference::dequantize4,
      .attention_forward = reference::attention_forward,
      .attention_backward = reference::attention_backward,
      .paged_attention = reference::paged_attention,
      .kv_write = reference::kv_write,
  };
  return backend;
}

}  // namespace nibble
