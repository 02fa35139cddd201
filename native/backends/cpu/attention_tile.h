// The blocks in which attention runs, and which rows see which: shared by forward, backward and the
// paged cache.
#pragma once

#include <math.h>

#include "backends/cpu/tile.h"
#include "ops/attention.h"

namespace nibble::cpu::NIBBLE_ISA {

constexpr int64_t kBlockMax = 64;           // keys of a block at most
constexpr int64_t kTileFloats = 64 * 128;   // of a block of rows: 32 KiB
constexpr float kNothing = -3.4028235e38f;  // running maximum before any key

// Keys are cut into blocks at multiples of this many positions, so that a row's sums do not depend
// on where its document or its chunk lies.
static inline int64_t block_keys(int64_t head_size) {
  return head_size <= 128 ? kBlockMax : head_size <= 256 ? kBlockMax / 2 : kBlockMax / 4;
}

static inline int64_t first_seen(int64_t window, int64_t begin, int64_t i) {
  return window > 0 && i - window + 1 > begin ? i - window + 1 : begin;
}

// Keys [from, from + count) as one row sees them from position `at`.
struct Sight {
  int64_t from, at, window;

  bool all(int64_t count) const { return from + count - 1 <= at && (window == 0 || from > at - window); }
  // Scores of the keys v * kWidth ... out of sight become `hidden`.
  Vec mask(Vec score, int64_t v, float hidden) const {
    IVec key;
    for (int l = 0; l < kWidth; ++l) key[l] = int32_t(l);
    key += int32_t(from + v * kWidth - at);  // key - at
    score = key > 0 ? splat(hidden) : score;
    if (window == 0 || window > at) return score;
    return key <= int32_t(-window) ? splat(hidden) : score;
  }
};

// Whether the rows from position `first` to `last` see all of the keys.
static inline bool all_seen(int64_t from, int64_t keys, int64_t first, int64_t last, int64_t window) {
  return Sight{from, first, 0}.all(keys) && Sight{from, last, window}.all(keys);
}

// Of one row's scores, those out of sight become nothing; the largest of each lane.
static inline Vec hide(const Sight& sight, int64_t vectors, float* score) {
  Vec highest = splat(kNothing);
  for (int64_t v = 0; v < vectors; ++v) {
    const Vec x = sight.mask(load(score + v * kWidth), v, -INFINITY);
    store(score + v * kWidth, x);
    highest = x > highest ? x : highest;
  }
  return highest;
}

// Consecutive queries of one sequence.
struct QueryRun {
  int32_t row, count;  // rows of q and o
  int32_t position;    // of the first one
  int32_t source;      // documents: the row of position 0; pages: the row of the block table
};

struct Attend {
  AttentionShape shape;
  Tensor q, k, v, o;
  float* lse = nullptr;            // [N, H], where wanted
  const int32_t* pages = nullptr;  // block table; null for documents
  int64_t pages_max = 0;
  CacheShape cache{};
};

// Queries of a run at most.
int64_t run_rows(const AttentionShape& shape, int64_t head_size);

// All heads of all runs, shared out among the threads.
void attend(const Attend& a, const QueryRun* runs, int64_t count);

}  // namespace nibble::cpu::NIBBLE_ISA
