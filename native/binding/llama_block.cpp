// A block of a model in one call; numbers come in two arrays whose order is that of native/llama-block.ts.
#include "ops/llama_block.h"

#include "binding/arguments.h"

namespace nibble::binding {

namespace {

constexpr const char* kOp = "llama_block";

LlamaBlock block_of(Numbers n) {
  LlamaBlock block{.input_norm = n.tensor(), .post_norm = n.tensor()};
  block.input_eps = float(n.number());
  block.post_eps = float(n.number());
  for (int l = 0; l < kLlamaLinears; ++l) {
    block.weight[l] = n.weight();
    block.bias[l] = n.tensor();
  }
  return block;
}

// An adapter's matrices at one layer, [R, in] and then [R, out], at an element of the tensor that holds all of them.
LlamaSegment::Lora lora_of(Numbers& n, const Tensor& matrices) {
  const int64_t offset = n.integer(), rank = n.integer(), in = n.integer(), out = n.integer();
  LlamaSegment::Lora lora{.scaling = float(n.number()), .factor = n.tensor()};
  if (offset < 0) return lora;
  const int64_t count = matrices.count();
  require(rank >= 1 && in >= 1 && out >= 1 && in <= count && out <= count && offset <= count &&
              rank <= (count - offset) / (in + out),
          kOp, "lora: expected matrices within ", count, " elements, got rank ", rank, " of ", in, " and ", out,
          " at ", offset);
  const auto matrix = [&](int64_t at, int64_t columns) {
    return Tensor{.data = matrices.u8() + at * size_of(matrices.dtype), .dtype = matrices.dtype, .device = matrices.device,
                  .rank = 2, .shape = {rank, columns}};
  };
  lora.a = matrix(offset, in);
  lora.b = matrix(offset + rank * in, out);
  return lora;
}

std::vector<LlamaSegment> segments_of(Numbers n) {
  std::vector<LlamaSegment> segments;
  while (!n.is_at_end()) {
    LlamaSegment& s = segments.emplace_back();
    s.begin = n.integer();
    s.end = n.integer();
    const Tensor matrices = n.tensor();
    for (auto& lora : s.lora) lora = lora_of(n, matrices);
  }
  return segments;
}

// (block, segments, heads, kvHeads, scale, window, x, cos, sin, position, slot, sequence, blockTable, kCache, vCache, nextKCache, nextVCache)
Napi::Value llama_block(Napi::Env env, const Arguments& a) {
  const LlamaBlock block = block_of({kOp, a.value(0)});
  const std::vector<LlamaSegment> segments = segments_of({kOp, a.value(1)});
  const AttentionShape shape{.heads = a.integer(2), .kv_heads = a.integer(3), .scale = float(a.number(4)),
                             .window = a.integer(5)};
  nibble::llama_block({.block = block, .segments = segments, .shape = shape, .x = a.tensor(6), .cos = a.tensor(7),
                       .sin = a.tensor(8), .position = a.tensor(9), .slot = a.tensor(10), .sequence = a.tensor(11),
                       .block_table = a.tensor(12), .k_cache = a.tensor(13), .v_cache = a.tensor(14),
                       .next_k_cache = a.maybe_tensor(15), .next_v_cache = a.maybe_tensor(16)});
  return env.Undefined();
}

}  // namespace

void define_llama_block(Napi::Object exports) { define<llama_block>(exports, "llamaBlock"); }

}  // namespace nibble::binding
