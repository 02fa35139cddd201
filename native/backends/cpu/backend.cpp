#include "backends/cpu/ops.h"

#define NIBBLE_TEXT_(x) #x
#define NIBBLE_TEXT(x) NIBBLE_TEXT_(x)

namespace nibble::cpu::NIBBLE_ISA {

const Backend& backend() {
  static const Backend instance = {
      .name = "cpu/" NIBBLE_TEXT(NIBBLE_ISA),
      .quantize4 = quantize4,
      .dequantize4 = dequantize4,
      .quantize_absmax = quantize_absmax,
      .dequantize_absmax = host_dequantize_absmax,
      .count_nonfinite = host_count_nonfinite,
      .linears_forward = linears_forward,
      .linears_backward = linears_backward,
      .lora_adds = lora_adds,
      .linears_adapted = linears_adapted,
      .scale_columns = scale_columns,
      .linear_cross_entropy = linear_cross_entropy,
      .embedding_forward = embedding_forward,
      .embedding_backward = embedding_backward,
      .norm_forward = norm_forward,
      .norm_backward = norm_backward,
      .rope = rope,
      .activation_forward = activation_forward,
      .activation_backward = activation_backward,
      .attention_forward = attention_forward,
      .attention_backward = attention_backward,
      .paged_attention = paged_attention,
      .kv_write = kv_write,
      .adamw = adamw,
      .sum_squares = sum_squares,
      .add = add,
      .scale = scale,
      .convert = convert,
      .random_fill = random_fill,
      .sample = sample,
      .screen_head = screen_head,
      .screened_head = screened_head,
  };
  return instance;
}

}  // namespace nibble::cpu::NIBBLE_ISA
