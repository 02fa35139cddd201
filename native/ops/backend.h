// What a backend must do: one function an op. Backends never include each other; ops/*.cpp check
// the arguments and call the backend of the tensors' device.
#pragma once

#include "ops/activation.h"
#include "ops/attention.h"
#include "ops/cross_entropy.h"
#include "ops/elementwise.h"
#include "ops/embedding.h"
#include "ops/linear.h"
#include "ops/norm.h"
#include "ops/optimizer.h"
#include "ops/quantize4.h"
#include "ops/rope.h"
#include "ops/sampling.h"
#include "ops/screened_head.h"

namespace nibble {

struct Backend {
  const char* name;
  void (*quantize4)(const Quantize4Args&);
  void (*dequantize4)(const Dequantize4Args&);
  void (*quantize_absmax)(const QuantizeAbsmaxArgs&);
  void (*dequantize_absmax)(const DequantizeAbsmaxArgs&);
  int64_t (*count_nonfinite)(const Tensor&);
  void (*linears_forward)(const LinearForwardArgs*, int);
  void (*linears_backward)(const LinearBackwardArgs*, int);
  void (*lora_adds)(const LoraAddArgs*, int);
  // Null, or false: it has done nothing, linears_forward and lora_adds will do.
  bool (*linears_adapted)(const LinearForwardArgs*, int, const LoraAddArgs*, int, const Soon*, int);
  void (*scale_columns)(const ScaleColumnsArgs&);
  void (*linear_cross_entropy)(const CrossEntropyArgs&);
  void (*embedding_forward)(const EmbeddingForwardArgs&);
  void (*embedding_backward)(const EmbeddingBackwardArgs&);
  void (*norm_forward)(const NormForwardArgs&);
  void (*norm_backward)(const NormBackwardArgs&);
  void (*rope)(const RopeArgs&);
  void (*activation_forward)(const ActivationForwardArgs&);
  void (*activation_backward)(const ActivationBackwardArgs&);
  void (*attention_forward)(const AttentionForwardArgs&);
  void (*attention_backward)(const AttentionBackwardArgs&);
  void (*paged_attention)(const PagedAttentionArgs&);
  void (*kv_write)(const KvWriteArgs&);
  void (*adamw)(const AdamwArgs* all, int count);
  double (*sum_squares)(const Tensor*, int);
  void (*add)(const AddArgs&);
  void (*scale)(const ScaleArgs&);
  void (*convert)(const ConvertArgs&);
  void (*random_fill)(const RandomArgs&);
  void (*sample)(const Tensor&, const SampleArgs*, int, Sample*);
  void (*screen_head)(const ScreenHeadArgs&);  // both null where a device has none
  void (*screened_head)(const ScreenedHeadArgs&);
};

const Backend& reference_backend();
const Backend& cpu_backend();   // the best instruction set of this machine, or the one chosen
const Backend& cuda_backend();  // throws FAILED_PRECONDITION where there is none
const Backend& meta_backend();  // counts the workspace of the CPU backend, computes nothing

inline const Backend& backend_of(Device device) {
  if (device == Device::kCuda) return cuda_backend();
  if (device == Device::kMeta) return meta_backend();
  return device == Device::kReference ? reference_backend() : cpu_backend();
}

// Instruction sets of the CPU backend, worst first. `supported` asks this machine.
enum class Isa : uint8_t { kPortable, kAvx2, kAvx512, kAvx512Bf16 };
constexpr Isa kIsas[] = {Isa::kPortable, Isa::kAvx2, Isa::kAvx512, Isa::kAvx512Bf16};
constexpr int kIsaCount = 4;
const char* isa_name();          // the one in use
bool isa_supported(Isa isa);
void choose_isa(Isa isa);        // throws FAILED_PRECONDITION when unsupported

}  // namespace nibble
