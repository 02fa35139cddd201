// What the two forms of attention over the cache are given: paged_attention.cu for a query on its own, flash_paged.cu for
// prompts.
#pragma once

#include "backends/cuda/fault.h"
#include "backends/cuda/kernel.h"
#include "ops/attention.h"

namespace nibble::cuda {

struct PagedRows {
  const void *q, *k, *v;
  void* o;
  const int32_t *table, *sequence, *position;
  CacheShape shape;
  int64_t n;                   // queries
  int64_t sequences, columns;  // of the table
  int64_t heads, group, size, window;
  float scale;
  int* fault;

  // Where a position's row lies in a page of the sequence; negative: nowhere.
  __device__ int64_t row_of(int64_t s, int64_t kv, int t) const {
    const int rows = int(shape.page), page = t / rows;
    const int64_t at = checked_index(table[s * columns + page], shape.pages, kBlockTable, fault);
    return at < 0 ? -1 : shape.row(at, kv, t - page * rows);
  }
};

constexpr int kLongRun = 16;  // queries: a warp's rows of flash_paged.cu

// Whether row n is one of kLongRun or more of its sequence that follow each other.
__device__ inline bool in_long_run(const int32_t* sequence, int64_t count, int64_t n) {
  int64_t before = 0, after = 0;
  while (before < kLongRun && n - before > 0 && sequence[n - before - 1] == sequence[n]) ++before;
  while (before + after + 1 < kLongRun && n + after + 1 < count && sequence[n + after + 1] == sequence[n]) ++after;
  return before + after + 1 >= kLongRun;
}

// Rows of long runs; bfloat16, sizes and addresses as flash attention takes them (attention_rows.h).
void flash_paged(const PagedRows& rows);

}  // namespace nibble::cuda
