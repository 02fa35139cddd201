// Softmax in one pass over blocks of keys (Dao et al., arXiv:2205.14135, algorithm 1): the rows of a
// tile are the queries of a run times the heads that share a key/value head, so that each block of
// keys is loaded once for all of them.
#include "backends/cpu/attention_tile.h"

#include <math.h>

#include "backends/cpu/math.h"
#include "backends/cpu/ops.h"
#include "core/thread_pool.h"

namespace nibble::cpu::NIBBLE_ISA {

namespace {

constexpr int64_t kRowsMax = 128;  // of a tile of queries
constexpr int64_t kHeadsMax = 16;  // that share a tile; 16 * kHeadSizeMax = kTileFloats

int64_t tile_rows(int64_t padded) { return kTileFloats / padded < kRowsMax ? kTileFloats / padded : kRowsMax; }

int64_t heads_of_tile(const AttentionShape& s) {
  const int64_t group = s.heads / s.kv_heads;
  return group < kHeadsMax ? group : kHeadsMax;
}

struct Scratch {
  alignas(64) float q[kTileFloats], o[kTileFloats];            // [rows, lanes]; [rows, padded]
  alignas(64) float rows[kTileFloats], keys[kTileFloats];      // [keys, lanes]; [lanes, keys]
  alignas(64) float values[kTileFloats];                       // [keys, padded], or pairs of keys
  alignas(64) float weights[kTileRows * kBlockMax];
  alignas(64) float sum[kRowsMax * kWidth];                    // of the weights, lane by lane
  float top[kRowsMax];                                         // running maximum of the scores
};

template <Lane LANE>
class Tile {
 public:
  Tile(const Attend& a, const QueryRun& run, int64_t head, int64_t heads, Scratch& s)
      : a_(a), run_(run), s_(s), head_(head), heads_(heads), size_(a.q.dim(1) / a.shape.heads),
        padded_(vectors_of(size_) * kWidth), lanes_(vectors_of(lanes_of(LANE, size_)) * kWidth), block_(block_keys(size_)),
        rows_(run.count * heads) {}

  void run() {
    const int64_t last = run_.position + run_.count - 1;
    const int64_t first = first_seen(a_.shape.window, 0, run_.position) / block_ * block_;
    if (a_.pages != nullptr) fetch_ahead(first, last + 1 - first < block_ ? last + 1 - first : block_);
    load_queries();
    for (int64_t from = first; from <= last; from += block_) {
      const int64_t keys = last + 1 - from < block_ ? last + 1 - from : block_, next = from + block_;
      if (a_.pages != nullptr && next <= last) fetch_ahead(next, last + 1 - next < block_ ? last + 1 - next : block_);
      load_keys(from, keys);
      for (int64_t r = 0; r < rows_; r += kTileRows) add_block(r, from, keys);
    }
    store_outputs();
  }

 private:
  int64_t position_of(int64_t r) const { return run_.position + r / heads_; }

  // Where the keys [from, from + count) begin in the tensors.
  void find_keys(int64_t from, int64_t count, int64_t* at) const {
    const int64_t kv_heads = a_.shape.kv_heads, kv = head_ / (a_.shape.heads / kv_heads);
    if (a_.pages == nullptr) {
      for (int64_t t = 0; t < count; ++t) at[t] = ((run_.source + from + t) * kv_heads + kv) * size_;
      return;
    }
    const CacheShape& cache = a_.cache;
    const int32_t* page = a_.pages + run_.source * a_.pages_max + from / cache.page;
    for (int64_t t = 0, row = from % cache.page; t < count; ++t, ++row) {
      if (row == cache.page) {
        row = 0;
        ++page;
      }
      at[t] = cache.row(*page, kv, row);
    }
  }

  int64_t query_at(int64_t r) const { return ((run_.row + r / heads_) * a_.shape.heads + head_ + r % heads_) * size_; }

  void load_queries() {
    for (int64_t r = 0; r < rows_; ++r) {
      load_lanes<LANE>(a_.q, query_at(r), size_, s_.q + r * lanes_);
      s_.top[r] = kNothing;
    }
    clear_rows(s_.o, rows_ * padded_);
    clear_rows(s_.sum, rows_ * kWidth);
  }

  // Rows of pages lie apart: their lines are asked for a block before their turn.
  void fetch_ahead(int64_t from, int64_t keys) const {
    int64_t at[kBlockMax];
    find_keys(from, keys, at);
    const int64_t element = size_of(a_.k.dtype), bytes = size_ * element;
    for (const Tensor* t : {&a_.k, &a_.v})
      for (int64_t i = 0; i < keys; ++i)
        for (int64_t b = 0; b < bytes; b += 64) __builtin_prefetch(t->u8() + at[i] * element + b, 0, 2);
  }

  void load_keys(int64_t from, int64_t keys) {
    int64_t at[kBlockMax];
    find_keys(from, keys, at);
    float* const values = LANE == Lane::kPair ? s_.rows : s_.values;
    for (int64_t t = 0; t < keys; ++t) load_lanes<LANE>(a_.v, at[t], size_, values + t * lanes_);
    if constexpr (LANE == Lane::kPair) pair_rows(values, lanes_, keys, padded_, s_.values);
    for (int64_t t = 0; t < keys; ++t) load_lanes<LANE>(a_.k, at[t], size_, s_.rows + t * lanes_);
    const int64_t whole = vectors_of(keys) * kWidth;
    clear_rows(s_.rows + keys * lanes_, (whole - keys) * lanes_);
    transpose(s_.rows, whole, lanes_, s_.keys, block_);
  }

  // The block's part of the rows r ... r + kTileRows.
  void add_block(int64_t r, int64_t from, int64_t keys) {
    const int64_t rows = rows_ - r < kTileRows ? rows_ - r : kTileRows;
    const int64_t ahead = position_of(r + rows - 1) + 1 - from, window = a_.shape.window;
    const int64_t seen = ahead < keys ? ahead : keys;
    if (seen <= 0 || (window > 0 && from + keys - 1 <= position_of(r) - window)) return;
    // [1] scores of the rows seen
    const int64_t vectors = vectors_of(seen);
    multiply<LANE>(rows, vectors, {s_.q + r * lanes_, lanes_, 1}, {s_.keys, block_},
                   {s_.weights, kBlockMax, lanes_of(LANE, size_), false});
    // [2] softmax
    for (int64_t i = 0; i < rows; ++i) weigh(r + i, s_.weights + i * kBlockMax, vectors, from);
    // [3] mean of the values
    multiply<LANE>(rows, padded_ / kWidth, {s_.weights, kBlockMax, 1}, {s_.values, padded_},
                   {s_.o + r * padded_, padded_, lanes_of(LANE, seen), true});
  }

  // Scores to weights relative to the running maximum; what was summed before shrinks where it rises. Pairs of weights
  // take the first half of their row.
  void weigh(int64_t r, float* score, int64_t vectors, int64_t from) {
    const Sight sight{from, position_of(r), a_.shape.window};
    const bool all = sight.all(vectors * kWidth);
    Vec highest = splat(kNothing);
    for (int64_t v = 0; v < vectors; ++v) {
      Vec x = load(score + v * kWidth) * a_.shape.scale;
      if (!all) x = sight.mask(x, v, -INFINITY);
      store(score + v * kWidth, x);
      highest = x > highest ? x : highest;
    }
    const float top = max(highest);
    Vec sum = load(s_.sum + r * kWidth);
    if (top > s_.top[r]) {
      const Vec shrink = exp(splat(s_.top[r] - top));
      sum *= shrink;
      float* o = s_.o + r * padded_;
      for (int64_t c = 0; c < padded_; c += kWidth) store(o + c, load(o + c) * shrink);
      s_.top[r] = top;
    }
    for (int64_t v = 0; v < vectors; ++v) {
      const Vec weight = exp(load(score + v * kWidth) - s_.top[r]);
      store_weight(score, v, weight);
      sum += weight;
    }
    store(s_.sum + r * kWidth, sum);
  }

  static void store_weight(float* row, int64_t v, Vec weight) {
#if defined(__AVX512BF16__)
    if constexpr (LANE == Lane::kPair) return store_rounded(reinterpret_cast<uint16_t*>(row) + v * kWidth, weight);
#endif
    store(row + v * kWidth, weight);
  }

  void store_outputs() {
    for (int64_t r = 0; r < rows_; ++r) {
      const float total = sum(load(s_.sum + r * kWidth));
      float* o = s_.o + r * padded_;
      for (int64_t c = 0; c < padded_; c += kWidth) store(o + c, load(o + c) / total);
      store_row(o, size_, a_.o, query_at(r));
      if (a_.lse != nullptr) a_.lse[query_at(r) / size_] = s_.top[r] + logf(total);
    }
  }

  const Attend& a_;
  const QueryRun& run_;
  Scratch& s_;
  int64_t head_, heads_, size_, padded_, lanes_, block_, rows_;
};

}  // namespace

int64_t run_rows(const AttentionShape& shape, int64_t head_size) {
  return tile_rows(vectors_of(head_size) * kWidth) / heads_of_tile(shape);
}

void attend(const Attend& a, const QueryRun* runs, int64_t count) {
  const int64_t group = a.shape.heads / a.shape.kv_heads, heads = heads_of_tile(a.shape);
  const int64_t parts = (group + heads - 1) / heads, tiles = a.shape.kv_heads * parts;
  parallel_for(count * tiles, [&](int64_t task) {
    // Backwards: late queries see most, and a long task started last would be waited for.
    const QueryRun& run = runs[count - 1 - task / tiles];
    const int64_t tile = task % tiles, first = tile % parts * heads;
    const int64_t left = group - first < heads ? group - first : heads;
    Scratch scratch;
    const int64_t head = tile / parts * group + first;
    if constexpr (kMultipliesPairs) {
      if (a.q.dtype == DType::kBF16) return Tile<Lane::kPair>(a, run, head, left, scratch).run();
    }
    Tile<Lane::kFloat>(a, run, head, left, scratch).run();
  });
}

}  // namespace nibble::cpu::NIBBLE_ISA
