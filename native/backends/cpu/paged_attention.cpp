// Attention over the paged cache: rows that follow each other in one sequence run as one tile, so a
// chunk of a prefill is as fast as the whole, and decoding is a run of one query a sequence.
#include "backends/cpu/attention_tile.h"
#include "backends/cpu/ops.h"
#include "backends/cpu/workspace.h"

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
  const int64_t element = size_of(a.k.dtype), bytes = cache.size * element;
  for (int64_t n = 0; n < a.k.dim(0); ++n) {
    for (int64_t head = 0; head < cache.kv_heads; ++head) {
      const int64_t to = cache.row_of_slot(a.slot.i32()[n], head) * element, from = (n * cache.kv_heads + head) * bytes;
      memcpy(a.k_cache.u8() + to, a.k.u8() + from, size_t(bytes));
      memcpy(a.v_cache.u8() + to, a.v.u8() + from, size_t(bytes));
    }
  }
}

}  // namespace nibble::cpu::NIBBLE_ISA
