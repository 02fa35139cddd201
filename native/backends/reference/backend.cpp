#include "backends/reference/ops.h"

namespace nibble {

const Backend& reference_backend() {
  static const Backend backend = {
      .name = "reference",
      .quantize4 = reference::quantize4,
      .dequantize4 = reference::dequantize4,
      .linear_forward = reference::linear_forward,
      .linear_backward = reference::linear_backward,
      .lora_add = reference::lora_add,
      .linear_cross_entropy = reference::linear_cross_entropy,
      .attention_forward = reference::attention_forward,
      .attention_backward = reference::attention_backward,
      .paged_attention = reference::paged_attention,
      .kv_write = reference::kv_write,
  };
  return backend;
}

}  // namespace nibble
