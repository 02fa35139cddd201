#include "backends/cuda/ops.h"
#include "core/device_memory.h"
#include "core/error.h"

namespace nibble {

const Backend& cuda_backend() {
  static const Backend backend = {
      .name = "cuda",
      .quantize4 = cuda::quantize4,
      .dequantize4 = cuda::dequantize4,
      .quantize_absmax = cuda::quantize_absmax,
      .dequantize_absmax = cuda::dequantize_absmax,
      .count_nonfinite = cuda::count_nonfinite,
      .linears_forward = one_by_one<cuda::linear_forward>,
      .linears_backward = sum_one_by_one<cuda::linear_backward>,
      .lora_adds = cuda::lora_adds,
      .scale_columns = cuda::scale_columns,
      .linear_cross_entropy = cuda::linear_cross_entropy,
      .embedding_forward = cuda::embedding_forward,
      .embedding_backward = cuda::embedding_backward,
      .norm_forward = cuda::norm_forward,
      .norm_backward = cuda::norm_backward,
      .rope = cuda::rope,
      .activation_forward = cuda::activation_forward,
      .activation_backward = cuda::activation_backward,
      .attention_forward = cuda::attention_forward,
      .attention_backward = cuda::attention_backward,
      .paged_attention = cuda::paged_attention,
      .kv_write = cuda::kv_write,
      .adamw = one_by_one<cuda::adamw>,
      .sum_squares = cuda::sum_squares,
      .add = cuda::add,
      .scale = cuda::scale,
      .convert = cuda::convert,
      .random_fill = cuda::random_fill,
      .sample = cuda::sample,
  };
  if (cuda::unavailable().empty()) return backend;
  throw Error(Code::kFailedPrecondition, "cuda", "unavailable: " + cuda::unavailable());
}

}  // namespace nibble
