// The functions of the CUDA backend. Each queues its work and returns; those that give a number to the host wait.
#pragma once

#include "ops/backend.h"

namespace nibble::cuda {

void quantize4(const Quantize4Args& a);
void dequantize4(const Dequantize4Args& a);
void quantize_absmax(const QuantizeAbsmaxArgs& a);
void dequantize_absmax(const DequantizeAbsmaxArgs& a);
int64_t count_nonfinite(const Tensor& input);  // waits
void linear_forward(const LinearForwardArgs& a);
void linear_backward(const LinearBackwardArgs& a);
void lora_adds(const LoraAddArgs* args, int count);
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
double sum_squares(const Tensor* all, int count);  // waits
void add(const AddArgs& a);
void scale(const ScaleArgs& a);
void convert(const ConvertArgs& a);
void random_fill(const RandomArgs& a);
void sample(const Tensor& logits, const SampleArgs* rows, int count, Sample* results);  // waits

}  // namespace nibble::cuda
