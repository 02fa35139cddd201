// Softmax in one pass over blocks of keys (Dao et al., arXiv:2205.14135, algorithm 1): the rows of a
// tile are the queries of a run times the heads that share a key/value head, so that each block of
// keys is loaded once for all of them.
#include "backends/cpu/attention_tile.h"

#include <math.h>

#include "backends/cpu/ahead.h"
#include "backends/cpu/attention_pages.h"
#include "backends/cpu/elements.h"
#include "backends/cpu/math.h"
#include "backends/cpu/ops.h"
#include "core/thread_pool.h"

namespace nibble::cpu::NIBBLE_ISA {

namespace {

constexpr int64_t kRowsMax = 192;                 // of a tile of queries
constexpr int64_t kQueryFloats = kRowsMax * 64;   // of one
constexpr int64_t kAskedMax = 512;                // keys that are asked for: a part of the second level
constexpr float kRiseMax = 8;                     // scores are to base 2: no weight is above 256
constexpr int64_t kHeadsMax = 16;  // that share a tile; 16 * kHeadSizeMax = kTileFloats

int64_t tile_rows(int64_t padded) { return kQueryFloats / padded < kRowsMax ? kQueryFloats / padded : kRowsMax; }

int64_t heads_of_tile(const AttentionShape& s) {
  const int64_t group = s.heads / s.kv_heads;
  return group < kHeadsMax ? group : kHeadsMax;
}

struct Scratch {
  alignas(64) float q[kQueryFloats], o[kQueryFloats];          // [rows, lanes]; [rows, padded]
  alignas(64) float rows[kTileFloats], keys[kTileFloats];      // [keys, lanes]; [lanes, keys]
  alignas(64) float nothing[kHeadSizeMax];                     // a row
  alignas(64) float values[kTileFloats];                       // [keys, padded], or pairs of keys
  alignas(64) float weights[kTileRows * kBlockMax];
  alignas(64) float sum[kRowsMax * kWidth];                    // of the weights, lane by lane
  float top[kRowsMax];                                         // what the weights are relative to
  Ahead ahead;
};

// The heads [head, head + heads) of one key/value head, for the queries of a run.
struct Task {
  const QueryRun* run;
  int64_t head, heads;
  bool is_new;  // the first of its document's: nothing has read these keys
};

// Where the keys of a block begin in the tensors.
struct Block {
  int64_t from, count;
  int64_t at[kBlockMax];
};

int64_t least_of(int64_t a, int64_t b) { return a < b ? a : b; }

int64_t last_seen(const QueryRun& run) { return run.position + run.count - 1; }

// Of the positions from `from` to the end of their block, those that the run has.
Block block_at(const Attend& a, const Task& task, int64_t from) {
  const int64_t kv_heads = a.shape.kv_heads, kv = task.head / (a.shape.heads / kv_heads), size = a.q.dim(1) / a.shape.heads;
  const int64_t most = block_keys(size), past = from & (most - 1);  // a power of two
  Block block{.from = from, .count = least_of(last_seen(*task.run) + 1 - from, most - past), .at = {}};
  if (a.pages == nullptr) {
    for (int64_t t = 0; t < block.count; ++t) block.at[t] = ((task.run->source + from + t) * kv_heads + kv) * size;
    return block;
  }
  const int32_t* page = a.pages + task.run->source * a.pages_max + from / a.cache.page;
  for (int64_t t = 0, row = from % a.cache.page; t < block.count; ++t, ++row) {
    if (row == a.cache.page) {
      row = 0;
      ++page;
    }
    block.at[t] = a.cache.row(*page, kv, row);
  }
  return block;
}

// Begins where the window of the first row does, rounded down to whole vectors, whatever their width, and groups of pages:
// the lanes and pairs of keys are then those of the whole block.
Block first_block(const Attend& a, const Task& task) {
  const int64_t first = first_seen(a.shape.window, 0, task.run->position), from = first / kGroupRows * kGroupRows;
  Block block = block_at(a, task, from);
  if (a.pages == nullptr) return block;
  // Pages before the window may be gone: their keys have no weight, and the first one that is seen is read for them.
  const int64_t there = first / a.cache.page * a.cache.page;
  for (int64_t t = 0; from + t < there; ++t) block.at[t] = block.at[first - from];
  return block;
}

Vec higher(Vec x, Vec highest) { return x > highest ? x : highest; }

// Takes the products of queries and keys: as scores to base 2, and the largest of each lane.
struct Scores : FromZero {
  float* to;  // [rows, kBlockMax]
  Vec scale;
  Vec highest[kTileRows];

  Scores(float* scores, float factor) : to(scores), scale(splat(factor)) {
    for (Vec& row : highest) row = splat(kNothing);
  }

  template <int R, int V>
  NIBBLE_INLINE void end(const Vec (&sum)[R][V], int64_t at) {
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) {
        const Vec x = sum[r][v] * scale;
        store(to + r * kBlockMax + (at + v) * kWidth, x);
        highest[r] = higher(x, highest[r]);
      }
    }
  }
};

template <Lane LANE>
class Tile {
 public:
  Tile(const Attend& a, const Task& task, Scratch& s)
      : a_(a), task_(task), run_(*task.run), s_(s), head_(task.head), heads_(task.heads), size_(a.q.dim(1) / a.shape.heads),
        padded_(vectors_of(size_) * kWidth), lanes_(vectors_of(lanes_of(LANE, size_)) * kWidth), block_(block_keys(size_)),
        rows_(run_.count * heads_), scale_(a.shape.scale * kLog2E),
        lie_as_lanes_((LANE == Lane::kPair) == (a.k.dtype == DType::kBF16) && size_ == lanes_ * elements_of(LANE)),
        in_pairs_(LANE == Lane::kPair && a.pages != nullptr && is_in_pairs(a.k)) {}

  // `next`: what the thread is likely to do then.
  void run(const Task& next) {
    load_queries();
    if (a_.pages == nullptr) plan_asking(next);
    const int64_t last = last_seen(run_);
    for (Block now = first_block(a_, task_);; now = ahead_) {
      const int64_t end = now.from + now.count;
      const bool more = end <= last;
      ahead_ = more ? block_at(a_, task_, end) : first_block(a_, next);
      asked_ = 0;
      if (in_pairs_) find_groups(now);
      else load_keys(now);
      for (int64_t r = 0; r < rows_; r += kTileRows) add_block(r, now.from, now.count);
      if (!more) break;
    }
    s_.ahead.finish();
    store_outputs();
  }

 private:
  int64_t position_of(int64_t r) const { return run_.position + r / heads_; }

  int64_t query_at(int64_t r) const { return ((run_.row + r / heads_) * a_.shape.heads + head_ + r % heads_) * size_; }

  void load_queries() {
    for (int64_t r = 0; r < rows_; ++r) {
      load_lanes<LANE>(a_.q, query_at(r), size_, s_.q + r * lanes_);
      s_.top[r] = kNothing;
    }
  }

  // Of documents, asks for the outputs of this task, and what the next one reads first: pieces of a few lines are no stream
  // that the processor would see.
  void plan_asking(const Task& next) {
    const int64_t kv_heads = a_.shape.kv_heads, kv = next.head / (a_.shape.heads / kv_heads);
    add_rows(a_.o, run_.row, run_.count, a_.shape.heads, head_, heads_);
    add_rows(a_.q, next.run->row, next.run->count, a_.shape.heads, next.head, next.heads);
    if (next.is_new) {
      const int64_t first = first_seen(a_.shape.window, 0, next.run->position);
      const int64_t keys = least_of(last_seen(*next.run) + 1 - first, kAskedMax);
      add_rows(a_.k, next.run->source + first, keys, kv_heads, kv, 1);
      add_rows(a_.v, next.run->source + first, keys, kv_heads, kv, 1);
    }
    const int64_t blocks = last_seen(run_) / block_ - first_seen(a_.shape.window, 0, run_.position) / block_ + 1;
    s_.ahead.spread(blocks * ((rows_ + kTileRows - 1) / kTileRows));
  }

  // Some of the `all` heads of consecutive rows.
  void add_rows(const Tensor& t, int64_t row, int64_t rows, int64_t all, int64_t head, int64_t heads) {
    const int64_t bytes = size_ * size_of(t.dtype), step = all * bytes;
    const uint8_t* const from = t.u8() + row * step + head * bytes;
    for (int64_t b = 0; b < heads * bytes; b += Ahead::kLine) s_.ahead.add(from + b, step, rows);
  }

  // Of pages, asks memory for the next `rows` rows of the block that is to come, values first: a few at a time between other
  // work, as memory has only so many lines on their way.
  void ask(int64_t rows) {
    if (a_.pages == nullptr || in_pairs_) return;
    const int64_t element = size_of(a_.k.dtype), bytes = size_ * element;
    const int64_t end = least_of(asked_ + rows, 2 * ahead_.count);
    for (; asked_ < end; ++asked_) {
      const bool values = asked_ < ahead_.count;
      const uint8_t* const from = (values ? a_.v : a_.k).u8() + ahead_.at[values ? asked_ : asked_ - ahead_.count] * element;
      for (int64_t b = 0; b < bytes; b += 64) ask_for(from + b);
    }
  }

  // Where row t of a block lies as lanes: in the tensor, or copied to `space`.
  NIBBLE_INLINE const float* lanes_at(const Tensor& tensor, const Block& block, int64_t t, float* space) const {
    if (lie_as_lanes_)
      return reinterpret_cast<const float*>(tensor.u8() + block.at[t] * (LANE == Lane::kPair ? 2 : 4));
    load_lanes<LANE>(tensor, block.at[t], size_, space + t * lanes_);
    return space + t * lanes_;
  }

  void load_keys(const Block& now) {
    for (int64_t t = 0; t < now.count; t += elements_of(LANE)) {
      ask(elements_of(LANE));
      if constexpr (LANE == Lane::kPair) {
        const float* const even = lanes_at(a_.v, now, t, s_.rows);
        pair_two(even, t + 1 < now.count ? lanes_at(a_.v, now, t + 1, s_.rows) : nullptr, padded_, s_.values + t / 2 * padded_);
      } else {
        load_lanes<LANE>(a_.v, now.at[t], size_, s_.values + t * lanes_);
      }
    }
    clear_rows(s_.nothing, lanes_);
    for (int64_t t = 0; t < now.count; t += kWidth) {
      const float* row[kWidth];
      for (int64_t i = 0; i < kWidth; ++i) row[i] = t + i < now.count ? lanes_at(a_.k, now, t + i, s_.rows) : s_.nothing;
      ask(kWidth / 2);
      transpose(row, kWidth, lanes_, s_.keys + t, block_);
    }
  }

  // Where the block's groups lie, and those of the next one.
  void find_groups(const Block& now) {
    for (int64_t g = 0; g < vectors_of(now.count); ++g) {
      const int64_t next = least_of(g * kGroupRows, (vectors_of(ahead_.count) - 1) * kGroupRows);
      const auto at = [](const Tensor& t, int64_t element) { return reinterpret_cast<const float*>(t.u16() + element); };
      keys_.at[g] = at(a_.k, now.at[g * kGroupRows]);
      values_.at[g] = at(a_.v, now.at[g * kGroupRows]);
      keys_.next[g] = at(a_.k, ahead_.at[next]);
      values_.next[g] = at(a_.v, ahead_.at[next]);
    }
  }

  // The block's part of the rows r ... r + kTileRows.
  void add_block(int64_t r, int64_t from, int64_t keys) {
    s_.ahead.step();
    const int64_t rows = rows_ - r < kTileRows ? rows_ - r : kTileRows;
    const int64_t ahead = position_of(r + rows - 1) + 1 - from, window = a_.shape.window;
    const int64_t seen = ahead < keys ? ahead : keys;
    if (seen <= 0 || (window > 0 && from + keys - 1 <= position_of(r) - window)) return;
    ask(kBlockMax / 4);
    // [1] scores of the rows seen
    const int64_t vectors = vectors_of(seen);
    Scores scores(s_.weights, scale_);
    score(rows, vectors, {s_.q + r * lanes_, lanes_, 1}, scores);
    if (!all_seen(from, vectors * kWidth, position_of(r), position_of(r + rows - 1), window))
      hide_rows(r, rows, from, vectors, scores);
    ask(kBlockMax / 4);
    // [2] softmax
    bool is_first = true;
    for (int64_t i = r; i < r + rows; ++i) is_first = is_first && s_.top[i] == kNothing;
    raise_tops(r, rows, scores.highest, is_first);
    weigh(r, rows, vectors, is_first);
    // [3] mean of the values
    add_mean(rows, seen, {s_.o + r * padded_, padded_, !is_first});
  }

  void score(int64_t rows, int64_t vectors, const Strided& q, Scores& scores) {
    if (in_pairs_) return score_in_pairs(rows, vectors, q, scores);
    multiply<LANE>(rows, vectors, q, {s_.keys, block_}, lanes_of(LANE, size_), scores);
  }

  void add_mean(int64_t rows, int64_t seen, const Product& o) {
    if (in_pairs_) return add_mean_in_pairs(rows, seen, o);
    multiply<LANE>(rows, padded_ / kWidth, {s_.weights, kBlockMax, 1}, {s_.values, padded_}, lanes_of(LANE, seen), o);
  }

  // Apart, as products of documents are.
  __attribute__((noinline)) void score_in_pairs([[maybe_unused]] int64_t rows, [[maybe_unused]] int64_t vectors,
                                                [[maybe_unused]] const Strided& q, [[maybe_unused]] Scores& scores) {
#if defined(__AVX512BF16__)
    if constexpr (LANE == Lane::kPair) score_groups(rows, vectors, q, keys_, lanes_of(LANE, size_), scores);
#endif
    keys_.next[0] = nullptr;
  }

  __attribute__((noinline)) void add_mean_in_pairs(int64_t rows, int64_t seen, const Product& o) {
    const int64_t pairs = seen / 2;
#if defined(__AVX512BF16__)
    const Strided weights{s_.weights, kBlockMax, 1};
    if constexpr (LANE == Lane::kPair) {
      if (pairs > 0) mean_groups(rows, weights, values_, padded_, pairs, o);
    }
#endif
    values_.next[0] = nullptr;
    if (seen % 2 == 0) return;
    // The partner of an odd row may be anything.
    const Product rest{o.c, o.c_step, o.add || pairs > 0};
    multiply<LANE>(rows, padded_ / kWidth, {s_.weights + pairs, kBlockMax, 1}, {even_rows(pairs), padded_}, 1, rest);
  }

  // A row of pairs of values with zeros for the second of each.
  const float* even_rows(int64_t pair) {
    constexpr int64_t kPairs = kGroupRows / 2;
    const float* const from = values_.at[pair / kPairs] + pair % kPairs * padded_;
    for (int64_t c = 0; c < padded_; c += kWidth) store(s_.values + c, (Vec)((UVec)load(from + c) & 0xffffu));
    return s_.values;
  }

  // Apart: few tiles need it.
  __attribute__((noinline)) void hide_rows(int64_t r, int64_t rows, int64_t from, int64_t vectors, Scores& scores) const {
    for (int64_t i = 0; i < rows; ++i)
      scores.highest[i] = hide({from, position_of(r + i), a_.shape.window}, vectors, s_.weights + i * kBlockMax);
  }

  // What weights are relative to is the largest score of the first block, and later the largest again only where one is far
  // above it: what was summed before shrinks then.
  void raise_tops(int64_t r, int64_t rows, const Vec* highest, bool is_first) {
    for (int64_t i = 0; i < rows; ++i) {
      float& top = s_.top[r + i];
      if (!any_above(highest[i], splat(top + kRiseMax))) continue;
      const float old = top;
      top = max(highest[i]);
      if (!is_first) shrink_row(r + i, old - top);
    }
  }

  // `fall`: what weights are relative to was, less what it is.
  __attribute__((noinline)) void shrink_row(int64_t r, float fall) {
    const Vec factor = exp2(splat(fall));
    float *const o = s_.o + r * padded_, *const sum = s_.sum + r * kWidth;
    store(sum, load(sum) * factor);
    for (int64_t c = 0; c < padded_; c += kWidth) store(o + c, load(o + c) * factor);
  }

  // Scores to weights. Pairs of weights take the first half of their row.
  void weigh(int64_t r, int64_t rows, int64_t vectors, bool is_first) {
    for (int64_t i = 0; i < rows; ++i) {
      float* const score = s_.weights + i * kBlockMax;
      const Vec top = splat(s_.top[r + i]);
      Vec sum = is_first ? Vec{} : load(s_.sum + (r + i) * kWidth);
      for (int64_t v = 0; v < vectors; ++v) {
        const Vec weight = exp2(load(score + v * kWidth) - top);
        store_weight(score, v, weight);
        sum += weight;
      }
      store(s_.sum + (r + i) * kWidth, sum);
    }
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
      const Vec share = splat(1 / total);
      for (int64_t c = 0; c < padded_; c += kWidth) store(o + c, load(o + c) * share);
      store_row(o, size_, a_.o, query_at(r));
      if (a_.lse != nullptr) a_.lse[query_at(r) / size_] = s_.top[r] / kLog2E + logf(total);
    }
  }

  const Attend& a_;
  const Task& task_;
  const QueryRun& run_;
  Scratch& s_;
  int64_t head_, heads_, size_, padded_, lanes_, block_, rows_;
  float scale_;
  bool lie_as_lanes_;  // rows of the tensors, as whole vectors
  bool in_pairs_;      // pages, in the order of attention_pages.h
  Groups keys_{}, values_{};
  Block ahead_{};
  int64_t asked_ = 0;  // rows of ahead_, values before keys
};

}  // namespace

int64_t run_rows(const AttentionShape& shape, int64_t head_size) {
  return tile_rows(vectors_of(head_size) * kWidth) / heads_of_tile(shape);
}

void attend(const Attend& a, const QueryRun* runs, int64_t count) {
  const int64_t group = a.shape.heads / a.shape.kv_heads, heads = heads_of_tile(a.shape);
  const int64_t parts = (group + heads - 1) / heads, tiles = a.shape.kv_heads * parts;
  const auto task_of = [&](int64_t i) {
    const int64_t tile = i % tiles, first = tile % parts * heads, left = group - first;
    // Backwards: late queries see most, and a long task started last would be waited for.
    const QueryRun* const run = runs + count - 1 - i / tiles;
    const bool is_new = run + 1 == runs + count || run[1].source != run->source;
    return Task{run, tile / parts * group + first, left < heads ? left : heads, is_new};
  };
  const Share share = a.pages == nullptr ? Share::kDealt : Share::kRun;
  const int64_t step = share == Share::kDealt ? thread_count() : 1;  // to the task that the thread is likely to do next
  parallel_for(count * tiles, [&](int64_t i) {
    const Task task = task_of(i), next = task_of(i + step < count * tiles ? i + step : i);
    Scratch scratch;
    if constexpr (kMultipliesPairs) {
      if (a.q.dtype == DType::kBF16) return Tile<Lane::kPair>(a, task, scratch).run(next);
    }
    Tile<Lane::kFloat>(a, task, scratch).run(next);
  }, share);
}

}  // namespace nibble::cpu::NIBBLE_ISA
