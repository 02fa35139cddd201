// Attention over the paged cache: rows that follow each other in one sequence run as one tile, so a
// chunk of a prefill is as fast as the whole, and decoding is a run of one query a sequence.
#include "backends/cpu/attention_pages.h"
#include "backends/cpu/attention_tile.h"
#include "backends/cpu/ops.h"
#include "backends/cpu/workspace.h"
#include "core/thread_pool.h"

namespace nibble::cpu::NIBBLE_ISA {

void paged_attention(const PagedAttentionArgs& a) {
  const int64_t rows = run_rows(a.shape, a.q.dim(1) / a.shape.heads), n = a.q.dim(0);
  const int32_t *sequence = a.sequence.i32(), *position = a.position.i32();
  Workspace memory(n * 4);
  auto* runs = reinterpret_cast<QueryRun*>(memory.data());
  int64_t count = 0;
  for (int64_t i = 0; i < n; ++i) {
    QueryRun* last = runs + count - 1;
    if (count > 0 && last->count < rows && last->source == sequence[i] && last->position + last->count == position[i]) {
      ++last->count;
    } else {
      runs[count++] = {int32_t(i), 1, position[i], sequence[i]};
    }
  }
  attend({.shape = a.shape, .q = a.q, .k = a.k_cache, .v = a.v_cache, .o = a.o, .pages = a.block_table.i32(),
          .pages_max = a.block_table.dim(1), .cache = cache_shape(a.k_cache)},
         runs, count);
}

void kv_write(const KvWriteArgs& a) {
  const CacheShape cache = cache_shape(a.k_cache);
  const bool in_pairs = is_in_pairs(a.k_cache);
  const int64_t rows = a.k.dim(0), element = size_of(a.k.dtype);
  parallel_for(rows, [&](int64_t task) {
    const int64_t n = rows - 1 - task, slot = a.slot.i32()[n];  // backwards, as attention takes them: on the same core
    for (int64_t head = 0; head < cache.kv_heads; ++head) {
      const int64_t from = (n * cache.kv_heads + head) * cache.size;
      if (in_pairs) {
        const int64_t at = slot % kGroupRows, to = cache.row_of_slot(slot - at, head);
        put_key(a.k.u16() + from, cache.size, at, a.k_cache.u16() + to);
        put_value(a.v.u16() + from, cache.size, at, a.v_cache.u16() + to);
      } else {
        const int64_t to = cache.row_of_slot(slot, head) * element;
        memcpy(a.k_cache.u8() + to, a.k.u8() + from * element, size_t(cache.size * element));
        memcpy(a.v_cache.u8() + to, a.v.u8() + from * element, size_t(cache.size * element));
      }
    }
  });
}

}  // namespace nibble::cpu::NIBBLE_ISA
