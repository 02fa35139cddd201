// The functions of the reference backend: each op's meaning in the plainest code, in double precision.
#pragma once

#include "ops/backend.h"

namespace nibble::reference {

void quantize4(const Quantize4Args& a);
void dequantize4(const Dequantize4Args& a);
void quantize_absmax(const QuantizeAbsmaxArgs& a);
void linear_forward(const LinearForwardArgs& a);
void linears_backward(const LinearBackwardArgs* args, int count);
void lora_add(const LoraAddArgs& a);
void scale_columns(const ScaleColumnsArgs& a);
void linear_cross_entropy(const CrossEntropyArgs& a);
void embedding_forward(const EmbeddingForwardArgs& a);
void embedding_backward(const EmbeddingBackwardArgs& a);
void norm_forward(const NormForwardArgs& a);
void norm_backward(const NormBackwardArgs& a);
void rope(const RopeArgs& a);
void activation_forward(const ActivationForwardArgs& a);
void activation_backward(const ActivationBackwardArgs& a);
void attention_forward(const AttentionForwardArgs& a);
void attention_backward(const AttentionBackwardArgs& a);
void paged_attention(const PagedAttentionArgs& a);
void kv_write(const KvWriteArgs& a);
void adamw(const AdamwArgs& a);
double sum_squares(const Tensor* all, int count);
void add(const AddArgs& a);
void scale(const ScaleArgs& a);
void convert(const ConvertArgs& a);
void random_fill(const RandomArgs& a);
void sample(const Tensor& logits, const SampleArgs* rows, int count, Sample* results);
void screen_head(const ScreenHeadArgs& a);
void screened_head(const ScreenedHeadArgs& a);

}  // namespace nibble::reference
