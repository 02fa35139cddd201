// Attention over packed documents. The backward pass meets query blocks with key blocks along the
// diagonals of their square: pairs of one diagonal share no block, so they run side by side and add
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

struct Scratch {
  alignas(64) float rows[kTileFloats];                                     // [keys, lanes]
  alignas(64) float keys_turned[kTileFloats], values_turned[kTileFloats];  // [lanes, keys]
  alignas(64) float q[kTileFloats], d_o[kTileFloats];                      // [queries, lanes], where they do not lie so
  // As the second operand of products over keys and over queries: [keys, padded], [queries, padded], or pairs of rows.
  alignas(64) float keys[kTileFloats], q_deep[kTileFloats], d_o_deep[kTileFloats];
  alignas(64) float d_q[kTileFloats], d_k[kTileFloats], d_v[kTileFloats];
  alignas(64) float p[kBlockMax * kBlockMax], d_s[kBlockMax * kBlockMax];  // [queries, keys], or pairs of queries
  alignas(64) float p_rows[kTileRows * kBlockMax], d_s_rows[kTileRows * kBlockMax];
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

// One block of queries against one block of keys, for all heads of a group.
template <Lane LANE>
class Pair {
 public:
  Pair(const AttentionBackwardArgs& a, const Gradients& out, const QueryRun& queries, const QueryRun& keys, int64_t kv,
       Scratch& s)
      : a_(a), out_(out), queries_(queries), keys_(keys), s_(s), kv_(kv), heads_(a.shape.heads),
        size_(a.q.dim(1) / heads_), padded_(vectors_of(size_) * kWidth), lanes_(vectors_of(lanes_of(LANE, size_)) * kWidth),
        block_(block_keys(size_)), is_first_(queries.row == keys.row) {}

  void run() {
    const int64_t group = heads_ / a_.shape.kv_heads;
    ask(a_.v, key_at(0), a_.shape.kv_heads, keys_.count);
    ask(a_.k, key_at(0), a_.shape.kv_heads, keys_.count);
    ask_queries(kv_ * group);
    load_keys();
    for (int64_t h = kv_ * group; h < (kv_ + 1) * group; ++h) {
      load_queries(h);
      if (h + 1 < (kv_ + 1) * group) ask_queries(h + 1);
      for (int64_t r = 0; r < queries_.count; r += kTileRows) weigh_rows(h, r);
      add_to_keys(h > kv_ * group);
      if (padded_ != size_) put(s_.d_q, queries_.count, out_.d_q + query_at(h, 0), heads_);
    }
    put(s_.d_k, keys_.count, out_.d_k + key_at(0), a_.shape.kv_heads);
    put(s_.d_v, keys_.count, out_.d_v + key_at(0), a_.shape.kv_heads);
  }

 private:
  static constexpr bool kPairs = LANE == Lane::kPair;
  int64_t key_at(int64_t t) const { return ((keys_.row + t) * a_.shape.kv_heads + kv_) * size_; }
  int64_t query_at(int64_t h, int64_t r) const { return ((queries_.row + r) * heads_ + h) * size_; }
  int64_t position_of(int64_t r) const { return queries_.position + r; }

  void put(const float* from, int64_t rows, float* to, int64_t heads) const {
    put_rows(from, padded_, rows, size_, !is_first_, to, heads * size_);
  }

  // Asks memory for `rows` rows of a head: short pieces far apart are no stream that the processor sees by itself.
  void ask(const Tensor& t, int64_t at, int64_t heads, int64_t rows) const {
    const int64_t element = size_of(t.dtype), step = heads * size_ * element;
    const uint8_t* from = t.u8() + at * element;
    for (int64_t r = 0; r < rows; ++r, from += step)
      for (int64_t b = 0; b < size_ * element; b += 64) ask_for(from + b);
  }
  void ask_queries(int64_t h) const {
    ask(a_.q, query_at(h, 0), heads_, queries_.count);
    ask(a_.d_o, query_at(h, 0), heads_, queries_.count);
    ask({.data = out_.d_q}, query_at(h, 0), heads_, queries_.count);
  }

  // The block again as the operand whose rows are the depth of a product.
  const float* deep(const float* block, int64_t step, int64_t count, float* space) const {
    if constexpr (!kPairs) return block;
    pair_rows(block, step, count, padded_, space);
    return space;
  }

  void load_keys() {
    const int64_t count = keys_.count, whole = vectors_of(count) * kWidth;
    for (int64_t t = 0; t < count; ++t) load_lanes<LANE>(a_.v, key_at(t), size_, s_.rows + t * lanes_);
    clear_rows(s_.rows + count * lanes_, (whole - count) * lanes_);
    transpose(s_.rows, whole, lanes_, s_.values_turned, block_);
    for (int64_t t = 0; t < count; ++t) load_lanes<LANE>(a_.k, key_at(t), size_, s_.rows + t * lanes_);
    clear_rows(s_.rows + count * lanes_, (whole - count) * lanes_);
    transpose(s_.rows, whole, lanes_, s_.keys_turned, block_);
    keys_deep_ = deep(s_.rows, lanes_, count, s_.keys);
  }

  // Rows of one head as the first operand, and as the second of products over queries.
  Strided rows_of(const Tensor& t, int64_t h, float* space) const {
    const bool is_aligned = reinterpret_cast<uintptr_t>(t.data) % sizeof(float) == 0;  // a slice of bfloat16 may not be
    const bool lie = kPairs && is_aligned && size_ % (2 * kWidth) == 0;
    if (lie) return {reinterpret_cast<const float*>(t.u16() + query_at(h, 0)), heads_ * size_ / 2, 1};
    for (int64_t r = 0; r < queries_.count; ++r) load_lanes<LANE>(t, query_at(h, r), size_, space + r * lanes_);
    return {space, lanes_, 1};
  }

  void load_queries(int64_t h) {
    q_ = rows_of(a_.q, h, s_.q);
    d_o_ = rows_of(a_.d_o, h, s_.d_o);
    q_deep_ = deep(q_.data, q_.row_step, queries_.count, s_.q_deep);
    d_o_deep_ = deep(d_o_.data, d_o_.row_step, queries_.count, s_.d_o_deep);
  }

  // p, d_s and d_q of the rows r ... r + kTileRows.
  void weigh_rows(int64_t h, int64_t r) {
    const int64_t rows = queries_.count - r < kTileRows ? queries_.count - r : kTileRows;
    const int64_t ahead = position_of(r + rows - 1) + 1 - keys_.position;
    const int64_t seen = ahead < keys_.count ? ahead : keys_.count, vectors = vectors_of(seen), depth = lanes_of(LANE, size_);
    float* const p = kPairs ? s_.p_rows : s_.p + r * kBlockMax;
    float* const d_s = kPairs ? s_.d_s_rows : s_.d_s + r * kBlockMax;
    // [2] the weights again, and their gradients
    multiply<LANE>(rows, vectors, {q_.data + r * q_.row_step, q_.row_step, 1}, {s_.keys_turned, block_},
                   {p, kBlockMax, depth, false});
    multiply<LANE>(rows, vectors, {d_o_.data + r * d_o_.row_step, d_o_.row_step, 1}, {s_.values_turned, block_},
                   {d_s, kBlockMax, depth, false});
    for (int64_t i = 0; i < rows; ++i) weigh(h, r + i, p + i * kBlockMax, d_s + i * kBlockMax, vectors);
    if constexpr (kPairs) pair_weights(r, rows);
    // [3] gradients of the rows
    const bool in_place = padded_ == size_;
    float* const d_q = in_place ? out_.d_q + query_at(h, r) : s_.d_q + r * padded_;
    multiply<LANE>(rows, padded_ / kWidth, {d_s, kBlockMax, 1}, {keys_deep_, padded_},
                   {d_q, in_place ? heads_ * size_ : padded_, lanes_of(LANE, seen), in_place && !is_first_});
  }

  void weigh(int64_t h, int64_t r, float* p, float* d_s, int64_t vectors) {
    const int64_t at = (queries_.row + r) * heads_ + h;
    const Vec lse = splat(a_.lse.f32()[at]), delta = splat(out_.delta[at]), scale = splat(a_.shape.scale);
    const Sight sight{keys_.position, position_of(r), a_.shape.window};
    const bool all = sight.all(vectors * kWidth);
    for (int64_t v = 0; v < vectors; ++v) {
      Vec weight = exp(load(p + v * kWidth) * scale - lse);
      if (!all) weight = sight.mask(weight, v, 0);
      store(p + v * kWidth, weight);
      store(d_s + v * kWidth, scale * weight * (load(d_s + v * kWidth) - delta));
    }
    const int64_t rest = (vectors_of(keys_.count) - vectors) * kWidth;
    clear_rows(p + vectors * kWidth, rest);
    clear_rows(d_s + vectors * kWidth, rest);
  }

#if defined(__AVX512BF16__)
  // Rows of float32 to pairs of queries, and rows of d_s to pairs of keys in their own first half.
  void pair_weights(int64_t r, int64_t rows) {
    static_assert(kTileRows % 2 == 0, "no pair of queries may lie in two tiles");
    const int64_t vectors = vectors_of(keys_.count);
    for (int64_t i = 0; i < rows; i += 2) {
      float* const p = s_.p + (r + i) / 2 * kBlockMax;
      float* const d_s = s_.d_s + (r + i) / 2 * kBlockMax;
      for (int64_t at = 0; at < vectors * kWidth; at += kWidth) {
        const float* const below = s_.p_rows + i * kBlockMax + at;
        const float* const d_below = s_.d_s_rows + i * kBlockMax + at;
        const bool last = i + 1 == rows;
        store(p + at, interleave_rounded(load(below), last ? Vec{} : load(below + kBlockMax)));
        store(d_s + at, interleave_rounded(load(d_below), last ? Vec{} : load(d_below + kBlockMax)));
      }
    }
    for (int64_t i = 0; i < rows; ++i) {
      float* const row = s_.d_s_rows + i * kBlockMax;
      for (int64_t at = 0; at < vectors * kWidth; at += kWidth)
        store_rounded(reinterpret_cast<uint16_t*>(row) + at, load(row + at));
    }
  }
#else
  void pair_weights(int64_t, int64_t) {}
#endif

  // `add`: to what other heads of the group gave.
  void add_to_keys(bool add) {
    const int64_t vectors = padded_ / kWidth, all = lanes_of(LANE, queries_.count);
    for (int64_t t = 0; t < keys_.count; t += kTileRows) {
      const int64_t rows = keys_.count - t < kTileRows ? keys_.count - t : kTileRows;
      // On the diagonal, the queries before key t do not see it.
      const int64_t first = is_first_ ? t / elements_of(LANE) : 0, at = first * kBlockMax + t;
      multiply<LANE>(rows, vectors, {s_.p + at, 1, kBlockMax}, {d_o_deep_ + first * padded_, padded_},
                     {s_.d_v + t * padded_, padded_, all - first, add});
      multiply<LANE>(rows, vectors, {s_.d_s + at, 1, kBlockMax}, {q_deep_ + first * padded_, padded_},
                     {s_.d_k + t * padded_, padded_, all - first, add});
    }
  }

  const AttentionBackwardArgs& a_;
  const Gradients& out_;
  const QueryRun &queries_, &keys_;
  Scratch& s_;
  int64_t kv_, heads_, size_, padded_, lanes_, block_;
  const bool is_first_;  // nobody has put anything in these rows of the gradients
  Strided q_{}, d_o_{};
  const float *keys_deep_ = nullptr, *q_deep_ = nullptr, *d_o_deep_ = nullptr;
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

// Pairs of query block b and key block b - distance of one document.
void run_diagonal(const AttentionBackwardArgs& a, const Gradients& out, const QueryRun* blocks, int64_t count,
                  int64_t distance) {
  const int64_t kv_heads = a.shape.kv_heads;
  parallel_for((count - distance) * kv_heads, [&](int64_t task) {
    const QueryRun& queries = blocks[distance + task / kv_heads];
    const QueryRun& keys = blocks[task / kv_heads];
    if (queries.source != keys.source) return;
    Scratch scratch;
    if constexpr (kMultipliesPairs) {
      if (a.q.dtype == DType::kBF16) return Pair<Lane::kPair>(a, out, queries, keys, task % kv_heads, scratch).run();
    }
    Pair<Lane::kFloat>(a, out, queries, keys, task % kv_heads, scratch).run();
  });
}

void run_diagonals(const AttentionBackwardArgs& a, const Gradients& out) {
  const int64_t block = block_keys(a.q.dim(1) / a.shape.heads), count = cut_documents(a.starts, block, nullptr);
  Workspace runs(count * 4);
  auto* blocks = reinterpret_cast<QueryRun*>(runs.data());
  cut_documents(a.starts, block, blocks);
  int64_t farthest = 0;  // block of a document
  for (int64_t b = 0; b < count; ++b) farthest = blocks[b].position / block > farthest ? blocks[b].position / block : farthest;
  for (int64_t distance = 0; distance <= farthest; ++distance) {
    if (a.shape.window > 0 && (distance - 1) * block + 1 >= a.shape.window) break;
    run_diagonal(a, out, blocks, count, distance);
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
