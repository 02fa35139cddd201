#include "backends/reference/ops.h"

namespace nibble {

const Backend& reference_backend() {
  static const Backend backend = {
      .name = "reference",
      .quantize4 = reference::quantize4,
      .dequantize4 = reference::dequantize4,
      .quantize_absmax = reference::quantize_absmax,
      .dequantize_absmax = host_dequantize_absmax,
      .count_nonfinite = host_count_nonfinite,
      .linears_forward = one_by_one<reference::linear_forward>,
      .linears_backward = reference::linears_backward,
      .lora_adds = one_by_one<reference::lora_add>,
      .scale_columns = reference::scale_columns,
      .linear_cross_entropy = reference::linear_cross_entropy,
      .embedding_forward = reference::embedding_forward,
      .embedding_backward = reference::embedding_backward,
      .norm_forward = reference::norm_forward,
      .norm_backward = reference::norm_backward,
      .rope = reference::rope,
      .activation_forward = reference::activation_forward,
      .activation_backward = reference::activation_backward,
      .attention_forward = reference::attention_forward,
      .attention_backward = reference::attention_backward,
      .paged_attention = reference::paged_attention,
      .kv_write = reference::kv_write,
      .adamw = one_by_one<reference::adamw>,
      .sum_squares = reference::sum_squares,
      .add = reference::add,
      .scale = reference::scale,
      .convert = reference::convert,
      .random_fill = reference::random_fill,
      .sample = reference::sample,
      .screen_head = reference::screen_head,
      .screened_head = reference::screened_head,
  };
  return backend;
}

}  // namespace nibble
