// The functions of the CPU backend, once for each instruction set.
#pragma once

#include "backends/cpu/simd.h"
#include "ops/backend.h"

namespace nibble::cpu::NIBBLE_ISA {

void quantize4(const Quantize4Args& a);
void dequantize4(const Dequantize4Args& a);
void quantize_absmax(const QuantizeAbsmaxArgs& a);
void linears_forward(const LinearForwardArgs* args, int count);
inline void linear_forward(const LinearForwardArgs& a) { NIBBLE_ISA::linears_forward(&a, 1); }
void linears_backward(const LinearBackwardArgs* args, int count);
bool linears_adapted(const LinearForwardArgs* args, int count, const LoraAddArgs* adds, int adds_count, const Soon* soon,
                     int soon_count);
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
void adamw(const AdamwArgs* all, int count);
double sum_squares(const Tensor* all, int count);
void add(const AddArgs& a);
void scale(const ScaleArgs& a);
void convert(const ConvertArgs& a);
void random_fill(const RandomArgs& a);
void sample(const Tensor& logits, const SampleArgs* rows, int count, Sample* results);
void screen_head(const ScreenHeadArgs& a);
void screened_head(const ScreenedHeadArgs& a);

}  // namespace nibble::cpu::NIBBLE_ISA
