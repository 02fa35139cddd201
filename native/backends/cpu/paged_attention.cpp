// Attention over the paged cache: one task for each query row.
#include "backends/cpu/attention.h"
#include "backends/cpu/ops.h"
#include "core/thread_pool.h"

namespace nibble::cpu::NIBBLE_ISA {

void paged_attention(const PagedAttentionArgs& a) {
  const int64_t H = a.shape.heads, K = a.shape.kv_heads, D = a.q.dim(1) / H, page = a.k_cache.dim(1);
  parallel_for(a.q.dim(0), [&](int64_t n) {
    float q[kHeadSizeMax], row[kHeadSizeMax], o[kHeadSizeMax];
    const int32_t* pages = a.block_table.i32() + a.sequence.i32()[n] * a.block_table.dim(1);
    const int64_t position = a.position.i32()[n], first = first_seen(a.shape.window, 0, position);
    for (int64_t h = 0; h < H; ++h) {
      widen(a.q, (n * H + h) * D, D, q);
      OnlineSoftmax softmax(D, o);
      for (int64_t t = first; t <= position; ++t) {
        const int64_t at = ((pages[t / page] * page + t % page) * K + h / (H / K)) * D;
        widen(a.k_cache, at, D, row);
        const float score = a.shape.scale * dot(q, row, D);
        widen(a.v_cache, at, D, row);
        softmax.add(score, row);
      }
      softmax.finish();
      narrow(o, D, a.o, (n * H + h) * D);
    }
  });
}

void kv_write(const KvWriteArgs& a) {
  const size_t bytes = size_t(a.k.dim(1) * size_of(a.k.dtype));
  for (int64_t n = 0; n < a.k.dim(0); ++n) {
    const size_t to = size_t(a.slot.i32()[n]) * bytes, from = size_t(n) * bytes;
    memcpy(a.k_cache.u8() + to, a.k.u8() + from, bytes);
    memcpy(a.v_cache.u8() + to, a.v.u8() + from, bytes);
  }
}

}  // namespace nibble::cpu::NIBBLE_ISA
