// Attention over packed documents. The backward pass meets spans of queries with spans of keys along the
// diagonals of their square: squares of one diagonal share no span, so they run side by side and add
// into d_q, d_k and d_v in an order that no number of threads changes. The first diagonal has every row in it: it writes.
#include "ops/attention.h"

#include "backends/cpu/attention_tile.h"
#include "backends/cpu/math.h"
#include "backends/cpu/ops.h"
#include "backends/cpu/workspace.h"
#include "core/thread_pool.h"

namespace nibble::cpu::NIBBLE_ISA {

namespace {

// Cuts the documents into runs of at most `rows` queries; their number. runs may be null.
int64_t cut_documents(const Tensor& starts, int64_t rows, QueryRun* runs) {
  int64_t count = 0;
  for (int64_t d = 0; d + 1 < starts.dim(0); ++d) {
    const int32_t begin = starts.i32()[d], end = starts.i32()[d + 1];
    for (int64_t at = begin; at < end; at += rows, ++count) {
      const int64_t left = end - at < rows ? end - at : rows;
      if (runs != nullptr) runs[count] = {int32_t(at), int32_t(left), int32_t(at - begin), begin};
    }
  }
  return count;
}

constexpr int64_t kSpanMax = 4;  // blocks of a square at most, each way

// A block of keys, and its values, as second operands.
struct KeyBlock {
  alignas(64) float keys_turned[kTileFloats], values_turned[kTileFloats];  // [lanes, keys]
  alignas(64) float keys[kTileFloats];  // [keys, padded], or pairs of rows
};

struct Scratch {
  KeyBlock blocks[kSpanMax];
  alignas(64) float rows[kTileFloats];                                     // [keys, lanes]
  alignas(64) float q[kTileFloats], d_o[kTileFloats];                      // [queries, lanes], where they do not lie so
  alignas(64) float q_deep[kTileFloats], d_o_deep[kTileFloats];            // [queries, padded], or pairs of rows
  alignas(64) float sums[kTileFloats];                                     // where rows are no whole vectors
  alignas(64) float p[kBlockMax * kBlockMax], d_s[kBlockMax * kBlockMax];  // [queries, keys], or pairs of queries
  alignas(64) float scores[kTileRows * kBlockMax], d_s_rows[kTileRows * kBlockMax];  // d_s as pairs of keys
};

struct Gradients {
  float *d_q, *d_k, *d_v;  // float32, in the layout of the tensors
  const float* delta;      // [N, H]
};

// to = from, or `add`: to += from.
void put_rows(const float* from, int64_t from_step, int64_t rows, int64_t size, bool add, float* to, int64_t to_step) {
  for (int64_t r = 0; r < rows; ++r, from += from_step, to += to_step) {
    each_vector(0, size, [&](int64_t c, int n) NIBBLE_INLINE {
      store(to + c, add ? load(to + c, n) + load(from + c, n) : load(from + c, n), n);
    });
  }
}

// Takes the products of queries and keys, as scores to base 2.
struct Scores : FromZero {
  float* to;  // [rows, kBlockMax]
  Vec scale;

  template <int R, int V>
  NIBBLE_INLINE void end(const Vec (&sum)[R][V], int64_t at) {
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) store(to + r * kBlockMax + (at + v) * kWidth, sum[r][v] * scale);
  }
};

// Takes the products of d_o and values, which are the gradients of the weights: makes the weights and the gradients of the
// scores of them, as the next products read them.
template <Lane LANE>
struct Weights : FromZero {
  static constexpr bool kPairs = LANE == Lane::kPair;
  const float* scores;  // [rows, kBlockMax], to base 2
  float *p, *d_s;       // [rows, kBlockMax], or pairs of rows
  float* d_s_rows;      // d_s, or its rows as pairs of keys
  Vec scale;
  float lse[kTileRows], delta[kTileRows];  // lse to base 2

  template <int R, int V>
  NIBBLE_INLINE void end(const Vec (&sum)[R][V], int64_t at) {
#pragma GCC unroll 8
    for (int r = 0; r < R; r += int(elements_of(LANE)))
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) {
        const int64_t column = (at + v) * kWidth;
        const Vec weight = weight_of(r, column), gradient = gradient_of(r, weight, sum[r][v]);
        if constexpr (kPairs) {
          Vec odd{}, odd_gradient{};
          if (r + 1 < R) {
            odd = weight_of(r + 1, column);
            odd_gradient = gradient_of(r + 1, odd, sum[r + 1 < R ? r + 1 : r][v]);
          }
          store_pairs(r, column, weight, odd, gradient, odd_gradient);
        } else {
          store(p + r * kBlockMax + column, weight);
          store(d_s + r * kBlockMax + column, gradient);
        }
      }
  }

  // Keys that none of the rows sees.
  void clear(int64_t rows, int64_t vectors, int64_t all) {
    for (int64_t i = 0; i < lanes_of(LANE, rows); ++i) {
      clear_rows(p + i * kBlockMax + vectors * kWidth, (all - vectors) * kWidth);
      clear_rows(d_s + i * kBlockMax + vectors * kWidth, (all - vectors) * kWidth);
    }
  }

 private:
  NIBBLE_INLINE Vec weight_of(int r, int64_t column) const { return exp2(load(scores + r * kBlockMax + column) - splat(lse[r])); }
  NIBBLE_INLINE Vec gradient_of(int r, Vec weight, Vec d_p) const { return scale * weight * (d_p - splat(delta[r])); }

  NIBBLE_INLINE void store_pairs([[maybe_unused]] int r, [[maybe_unused]] int64_t column, [[maybe_unused]] Vec even,
                                 [[maybe_unused]] Vec odd, [[maybe_unused]] Vec d_even, [[maybe_unused]] Vec d_odd) {
#if defined(__AVX512BF16__)
    const int64_t at = r / 2 * kBlockMax + column;
    store(p + at, interleaved(round_two(even, odd)));
    const Vec rounded = round_two(d_even, d_odd);
    store(d_s + at, interleaved(rounded));
    auto* const rows = reinterpret_cast<uint16_t*>(d_s_rows + r * kBlockMax) + column;
    memcpy(rows, &rounded, sizeof(Vec) / 2);
    memcpy(rows + 2 * kBlockMax, reinterpret_cast<const uint8_t*>(&rounded) + sizeof(Vec) / 2, sizeof(Vec) / 2);
#endif
  }
};

// A square: queries against keys of one document, some blocks each, for all heads of a group. Queries are taken in order, for
// each the keys from the last one back, so that gradients are summed in the same order however large squares are.
template <Lane LANE>
class Square {
 public:
  Square(const AttentionBackwardArgs& a, const Gradients& out, const QueryRun& queries, const QueryRun& keys, int64_t kv,
         Scratch& s)
      : a_(a), out_(out), all_queries_(queries), all_keys_(keys), s_(s), kv_(kv), heads_(a.shape.heads),
        kv_heads_(a.shape.kv_heads), first_head_(kv * (heads_ / kv_heads_)), size_(a.q.dim(1) / heads_),
        padded_(vectors_of(size_) * kWidth), lanes_(vectors_of(lanes_of(LANE, size_)) * kWidth), block_(block_keys(size_)) {}

  void run() {
    ask(a_.v, key_at(all_keys_.row), kv_heads_, all_keys_.count);
    ask(a_.k, key_at(all_keys_.row), kv_heads_, all_keys_.count);
    ask_queries(part_of(all_queries_, 0), first_head_);
    for (int64_t b = 0; b * block_ < all_keys_.count; ++b) load_keys(part_of(all_keys_, b), s_.blocks[b]);
    const int64_t group = heads_ / kv_heads_, blocks = (all_queries_.count + block_ - 1) / block_;
    for (int64_t i = 0; i < blocks * group; ++i) {
      const int64_t head = first_head_ + i % group, next = i + 1;
      queries_ = part_of(all_queries_, i / group);
      load_queries(head);
      if (next < blocks * group) ask_queries(part_of(all_queries_, next / group), first_head_ + next % group);
      meet_keys(head);
    }
  }

 private:
  static constexpr bool kPairs = LANE == Lane::kPair;
  int64_t key_at(int64_t row) const { return (row * kv_heads_ + kv_) * size_; }
  int64_t query_at(int64_t h, int64_t r) const { return ((queries_.row + r) * heads_ + h) * size_; }
  int64_t position_of(int64_t r) const { return queries_.position + r; }

  QueryRun part_of(const QueryRun& run, int64_t i) const {
    const int64_t at = i * block_, left = run.count - at;
    return {int32_t(run.row + at), int32_t(left < block_ ? left : block_), int32_t(run.position + at), run.source};
  }

  // Asks memory for `rows` rows of a head: short pieces far apart are no stream that the processor sees by itself.
  void ask(const Tensor& t, int64_t at, int64_t heads, int64_t rows) const {
    const int64_t element = size_of(t.dtype), step = heads * size_ * element;
    const uint8_t* from = t.u8() + at * element;
    for (int64_t r = 0; r < rows; ++r, from += step)
      for (int64_t b = 0; b < size_ * element; b += 64) ask_for(from + b);
  }
  void ask_queries(const QueryRun& queries, int64_t h) const {
    const int64_t at = (queries.row * heads_ + h) * size_;
    ask(a_.q, at, heads_, queries.count);
    ask(a_.d_o, at, heads_, queries.count);
    ask({.data = out_.d_q}, at, heads_, queries.count);
  }

  // Rows as lanes, then zeros up to a whole vector of rows.
  void load_rows(const Tensor& t, const QueryRun& keys, float* to) const {
    const int64_t count = keys.count, whole = vectors_of(count) * kWidth;
    for (int64_t r = 0; r < count; ++r) load_lanes<LANE>(t, key_at(keys.row + r), size_, to + r * lanes_);
    clear_rows(to + count * lanes_, (whole - count) * lanes_);
  }

  void load_keys(const QueryRun& keys, KeyBlock& to) const {
    const int64_t whole = vectors_of(keys.count) * kWidth;
    load_rows(a_.v, keys, s_.rows);
    transpose(s_.rows, whole, lanes_, to.values_turned, block_);
    float* const rows = kPairs ? s_.rows : to.keys;
    load_rows(a_.k, keys, rows);
    transpose(rows, whole, lanes_, to.keys_turned, block_);
    if constexpr (kPairs) pair_rows(rows, lanes_, keys.count, padded_, to.keys);
  }

  // Rows of one head as the first operand.
  Strided rows_of(const Tensor& t, int64_t h, float* space) const {
    const bool is_aligned = reinterpret_cast<uintptr_t>(t.data) % sizeof(float) == 0;  // a slice of bfloat16 may not be
    const bool lie = kPairs && is_aligned && size_ % (2 * kWidth) == 0;
    if (lie) return {reinterpret_cast<const float*>(t.u16() + query_at(h, 0)), heads_ * size_ / 2, 1};
    for (int64_t r = 0; r < queries_.count; ++r) load_lanes<LANE>(t, query_at(h, r), size_, space + r * lanes_);
    return {space, lanes_, 1};
  }

  // The same rows as the second operand of products over queries.
  const float* deep(const Strided& rows, float* space) const {
    if constexpr (!kPairs) return rows.data;
    pair_rows(rows.data, rows.row_step, queries_.count, padded_, space);
    return space;
  }

  void load_queries(int64_t h) {
    q_ = rows_of(a_.q, h, s_.q);
    d_o_ = rows_of(a_.d_o, h, s_.d_o);
    q_deep_ = deep(q_, s_.q_deep);
    d_o_deep_ = deep(d_o_, s_.d_o_deep);
  }

  // A block of queries of one head against the blocks of keys that it sees.
  void meet_keys(int64_t h) {
    int64_t b = (all_keys_.count - 1) / block_;
    while (all_keys_.position + b * block_ > queries_.position) --b;
    for (; b >= 0; --b) {
      keys_ = part_of(all_keys_, b);
      packed_ = s_.blocks + b;
      is_first_ = keys_.position == queries_.position;
      if (a_.shape.window > 0 && keys_.position + keys_.count <= queries_.position - a_.shape.window + 1) break;
      for (int64_t r = 0; r < queries_.count; r += kTileRows) weigh_rows(h, r);
      add_to_keys(h > first_head_ || !is_first_);
    }
  }

  // p, d_s and d_q of the rows r ... r + kTileRows.
  void weigh_rows(int64_t h, int64_t r) {
    const int64_t rows = queries_.count - r < kTileRows ? queries_.count - r : kTileRows;
    const int64_t ahead = position_of(r + rows - 1) + 1 - keys_.position;
    const int64_t seen = ahead < keys_.count ? ahead : keys_.count, vectors = vectors_of(seen), depth = lanes_of(LANE, size_);
    // [2] the weights again, and their gradients
    Scores scores{{}, s_.scores, splat(a_.shape.scale * kLog2E)};
    multiply<LANE>(rows, vectors, {q_.data + r * q_.row_step, q_.row_step, 1}, {packed_->keys_turned, block_}, depth,
                      scores);
    if (!all_seen(keys_.position, vectors * kWidth, position_of(r), position_of(r + rows - 1), a_.shape.window))
      for (int64_t i = 0; i < rows; ++i)
        hide({keys_.position, position_of(r + i), a_.shape.window}, vectors, s_.scores + i * kBlockMax);
    Weights<LANE> weights = weights_of(h, r, rows);
    multiply<LANE>(rows, vectors, {d_o_.data + r * d_o_.row_step, d_o_.row_step, 1}, {packed_->values_turned, block_},
                      depth, weights);
    weights.clear(rows, vectors, vectors_of(keys_.count));
    // [3] gradients of the rows
    add_product(rows, {weights.d_s_rows, kBlockMax, 1}, packed_->keys, lanes_of(LANE, seen), out_.d_q + query_at(h, r), heads_,
                !is_first_);
  }

  Weights<LANE> weights_of(int64_t h, int64_t r, int64_t rows) {
    const int64_t at = r / elements_of(LANE) * kBlockMax;
    float* const d_s = s_.d_s + at;
    Weights<LANE> weights{{}, s_.scores, s_.p + at, d_s, kPairs ? s_.d_s_rows : d_s, splat(a_.shape.scale), {}, {}};
    for (int64_t i = 0; i < rows; ++i) {
      const int64_t row = (queries_.row + r + i) * heads_ + h;
      weights.lse[i] = a_.lse.f32()[row] * kLog2E;
      weights.delta[i] = out_.delta[row];
    }
    return weights;
  }

  // d_k and d_v of the block of keys. `add`: to what other heads of the group and other queries gave.
  void add_to_keys(bool add) {
    const int64_t all = lanes_of(LANE, queries_.count);
    for (int64_t t = 0; t < keys_.count; t += kTileRows) {
      const int64_t rows = keys_.count - t < kTileRows ? keys_.count - t : kTileRows;
      // On the diagonal, the queries before key t do not see it.
      const int64_t first = is_first_ ? t / elements_of(LANE) : 0, at = first * kBlockMax + t, to = key_at(keys_.row + t);
      add_product(rows, {s_.p + at, 1, kBlockMax}, d_o_deep_ + first * padded_, all - first, out_.d_v + to, kv_heads_, add);
      add_product(rows, {s_.d_s + at, 1, kBlockMax}, q_deep_ + first * padded_, all - first, out_.d_k + to, kv_heads_, add);
    }
  }

  // Rows of a head at `to` = or, `add`, += a b.
  void add_product(int64_t rows, const Strided& a, const float* b, int64_t depth, float* to, int64_t heads, bool add) const {
    const bool in_place = padded_ == size_;
    const Product sums = in_place ? Product{to, heads * size_, add} : Product{s_.sums, padded_, false};
    multiply<LANE>(rows, padded_ / kWidth, a, {b, padded_}, depth, sums);
    if (!in_place) put_rows(s_.sums, padded_, rows, size_, add, to, heads * size_);
  }

  const AttentionBackwardArgs& a_;
  const Gradients& out_;
  const QueryRun &all_queries_, &all_keys_;
  Scratch& s_;
  int64_t kv_, heads_, kv_heads_, first_head_, size_, padded_, lanes_, block_;
  QueryRun queries_{}, keys_{};  // a block of each
  bool is_first_ = false;        // nobody has put anything in the gradients of these queries
  Strided q_{}, d_o_{};
  const KeyBlock* packed_ = nullptr;
  const float *q_deep_ = nullptr, *d_o_deep_ = nullptr;
};

// delta[i, h] = d_o_i . o_i
void compute_delta(const AttentionBackwardArgs& a, float* delta) {
  const int64_t heads = a.shape.heads, size = a.q.dim(1) / heads;
  parallel_for(a.q.dim(0), [&](int64_t i) {
    alignas(64) float d_o[kHeadSizeMax], o[kHeadSizeMax];
    for (int64_t at = i * heads; at < (i + 1) * heads; ++at) {
      load_row(a.d_o, at * size, size, d_o);
      load_row(a.o, at * size, size, o);
      Vec total{};
      for (int64_t c = 0; c < size; c += kWidth) total = fma(load(d_o + c), load(o + c), total);
      delta[at] = sum(total);
    }
  });
}

// Squares of query span s and key span s - distance of one document.
void run_diagonal(const AttentionBackwardArgs& a, const Gradients& out, const QueryRun* spans, int64_t count,
                  int64_t distance) {
  const int64_t kv_heads = a.shape.kv_heads;
  parallel_for((count - distance) * kv_heads, [&](int64_t task) {
    const QueryRun& queries = spans[distance + task / kv_heads];
    const QueryRun& keys = spans[task / kv_heads];
    if (queries.source != keys.source) return;
    Scratch scratch;
    if constexpr (kMultipliesPairs) {
      if (a.q.dtype == DType::kBF16) return Square<Lane::kPair>(a, out, queries, keys, task % kv_heads, scratch).run();
    }
    Square<Lane::kFloat>(a, out, queries, keys, task % kv_heads, scratch).run();
  });
}

// Rows of a span: large ones load less; there must be some for each thread.
int64_t span_rows(const AttentionBackwardArgs& a) {
  const int64_t block = block_keys(a.q.dim(1) / a.shape.heads);
  int64_t blocks = kSpanMax;
  while (blocks > 1 && a.q.dim(0) * a.shape.kv_heads < 4 * thread_count() * blocks * block) blocks /= 2;
  return blocks * block;
}

void run_diagonals(const AttentionBackwardArgs& a, const Gradients& out) {
  const int64_t rows = span_rows(a), count = cut_documents(a.starts, rows, nullptr);
  Workspace runs(count * 4);
  auto* spans = reinterpret_cast<QueryRun*>(runs.data());
  cut_documents(a.starts, rows, spans);
  int64_t farthest = 0;  // span of a document
  for (int64_t s = 0; s < count; ++s) farthest = spans[s].position / rows > farthest ? spans[s].position / rows : farthest;
  for (int64_t distance = 0; distance <= farthest; ++distance) {
    if (a.shape.window > 0 && (distance - 1) * rows + 1 >= a.shape.window) break;
    run_diagonal(a, out, spans, count, distance);
  }
}

void narrow_row(const float* from, const Tensor& to, int64_t row) {
  const int64_t columns = to.dim(1);
  store_row(from + row * columns, columns, to, row * columns);
}

}  // namespace

void attention_forward(const AttentionForwardArgs& a) {
  const int64_t rows = run_rows(a.shape, a.q.dim(1) / a.shape.heads), count = cut_documents(a.starts, rows, nullptr);
  Workspace memory(count * 4);
  auto* runs = reinterpret_cast<QueryRun*>(memory.data());
  cut_documents(a.starts, rows, runs);
  attend({.shape = a.shape, .q = a.q, .k = a.k, .v = a.v, .o = a.o, .lse = a.lse.f32()}, runs, count);
}

void attention_backward(const AttentionBackwardArgs& a) {
  const bool in_place = a.q.dtype == DType::kF32;
  const int64_t queries = a.q.count(), keys = a.k.count(), deltas = a.q.dim(0) * a.shape.heads;
  Workspace memory(deltas + (in_place ? 0 : queries + 2 * keys));
  float* wide = memory.data() + deltas;
  const Gradients out = {.d_q = in_place ? a.d_q.f32() : wide,
                         .d_k = in_place ? a.d_k.f32() : wide + queries,
                         .d_v = in_place ? a.d_v.f32() : wide + queries + keys,
                         .delta = memory.data()};
  // [1] delta
  compute_delta(a, memory.data());
  run_diagonals(a, out);
  if (in_place) return;
  parallel_for(a.q.dim(0), [&](int64_t row) {
    narrow_row(out.d_q, a.d_q, row);
    narrow_row(out.d_k, a.d_k, row);
    narrow_row(out.d_v, a.d_v, row);
  });
}

}  // namespace nibble::cpu::NIBBLE_ISA
