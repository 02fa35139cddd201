#include "ops/attention.h"

#include "binding/arguments.h"

namespace nibble::binding {

namespace {

constexpr size_t kShapeArguments = 4;

// (heads, kvHeads, scale, window, ...)
AttentionShape shape(const Arguments& a) {
  return {.heads = a.integer(0), .kv_heads = a.integer(1), .scale = float(a.number(2)), .window = a.integer(3)};
}

Tensor tensor(const Arguments& a, size_t i) { return a.tensor(kShapeArguments + i); }

// (...shape, q, k, v, starts, o, lse)
Napi::Value attention_forward(Napi::Env env, const Arguments& a) {
  nibble::attention_forward({.shape = shape(a), .q = tensor(a, 0), .k = tensor(a, 1), .v = tensor(a, 2),
                             .starts = tensor(a, 3), .o = tensor(a, 4), .lse = tensor(a, 5)});
  return env.Undefined();
}

// (...shape, dO, q, k, v, o, lse, starts, dQ, dK, dV)
Napi::Value attention_backward(Napi::Env env, const Arguments& a) {
  nibble::attention_backward({.shape = shape(a), .d_o = tensor(a, 0), .q = tensor(a, 1), .k = tensor(a, 2),
                              .v = tensor(a, 3), .o = tensor(a, 4), .lse = tensor(a, 5), .starts = tensor(a, 6),
                              .d_q = tensor(a, 7), .d_k = tensor(a, 8), .d_v = tensor(a, 9)});
  return env.Undefined();
}

// (...shape, q, kCache, vCache, blockTable, sequence, position, o)
Napi::Value paged_attention(Napi::Env env, const Arguments& a) {
  nibble::paged_attention({.shape = shape(a), .q = tensor(a, 0), .k_cache = tensor(a, 1), .v_cache = tensor(a, 2),
                           .block_table = tensor(a, 3), .sequence = tensor(a, 4), .position = tensor(a, 5),
                           .o = tensor(a, 6)});
  return env.Undefined();
}

// (k, v, slot, kCache, vCache)
Napi::Value kv_write(Napi::Env env, const Arguments& a) {
  nibble::kv_write({.k = a.tensor(0), .v = a.tensor(1), .slot = a.tensor(2), .k_cache = a.tensor(3),
                    .v_cache = a.tensor(4)});
  return env.Undefined();
}

}  // namespace

void define_attention(Napi::Object exports) {
  define<attention_forward>(exports, "attentionForward");
  define<attention_backward>(exports, "attentionBackward");
  define<paged_attention>(exports, "pagedAttention");
  define<kv_write>(exports, "kvWrite");
}

}  // namespace nibble::binding
