// Products with few rows, as in decoding: the weights' way from memory is all that counts.
#include "backends/cpu/few_rows_chunks.h"
#include "backends/cpu/lora.h"
#include "backends/cpu/workspace.h"
#include "core/thread_pool.h"

namespace nibble::cpu::NIBBLE_ISA {

namespace {

constexpr int64_t kTaskElements = 1 << 15;  // weights read by one task for few rows
constexpr int64_t kTaskProducts = 1 << 18;  // of weights and rows, made by one task for many
// Of a task beside which adapters are read: a row of B has a line of the cache for it.
constexpr int64_t kRiddenColumns = 2 * kWidth;
constexpr int64_t kRiddenTasksMin = 4;
constexpr int64_t kAheadBytes = 2048;       // of weights asked for before their turn
constexpr int kPair = 2 * kWidth;

int64_t pitch_of(int64_t depth) { return (depth + 15) / 16 * 16; }

// Running dot products of ROWS rows of x with one row of weights; even and odd vectors apart, so that adds overlap.
template <int ROWS>
struct Dots {
  Vec even[ROWS] = {}, odd[ROWS] = {};
  float rest[ROWS] = {};

  void add_even(Vec w, const float* x, int64_t pitch) {
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; ++r) even[r] = fma(w, load(x + r * pitch), even[r]);
  }
  void add_odd(Vec w, const float* x, int64_t pitch) {
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; ++r) odd[r] = fma(w, load(x + r * pitch), odd[r]);
  }
  void add_one(float w, const float* x, int64_t pitch) {
    for (int r = 0; r < ROWS; ++r) rest[r] += w * x[r * pitch];
  }
  void add_to(float* out) const {
    for (int r = 0; r < ROWS; ++r) out[r * kGroup] += sum(even[r] + odd[r]) + rest[r];
  }
};

// COUNT rows of weights at once, out[r * kGroup + c]: several streams from memory are faster than one.
template <int ROWS, int COUNT, typename T>
void dot_dense(const T* w, int64_t w_pitch, int64_t depth, const float* x, int64_t pitch, float* out) {
  Vec total[COUNT][ROWS] = {};
  float rest[COUNT][ROWS] = {};
  int64_t k = 0;
  for (; k + kWidth <= depth; k += kWidth) {
#pragma GCC unroll 4
    for (int c = 0; c < COUNT; ++c) {
      const Vec row = load_wide(w + c * w_pitch + k);
#pragma GCC unroll 8
      for (int r = 0; r < ROWS; ++r) total[c][r] = fma(row, load(x + r * pitch + k), total[c][r]);
    }
  }
  for (; k < depth; ++k) {
    for (int c = 0; c < COUNT; ++c)
      for (int r = 0; r < ROWS; ++r) rest[c][r] += widen_one(w[c * w_pitch + k]) * x[r * pitch + k];
  }
  for (int c = 0; c < COUNT; ++c)
    for (int r = 0; r < ROWS; ++r) out[r * kGroup + c] += sum(total[c][r]) + rest[c][r];
}

template <int ROWS>
void dot_codes(const Codes& codes, int64_t first, int64_t depth, const float* x, int64_t pitch, float* out) {
  Dots<ROWS> dots;
  for (int64_t e = first; e < first + depth;) {
    const int64_t block = codes.block_of(e), end = least(codes.block_end(block), first + depth);
    const Table table = codes.table(block);
    if (e % 2 == 1) {
      dots.add_one(codes.at(e, table), x + (e - first), pitch);
      ++e;
    }
    for (; e + kPair <= end; e += kPair) {
      const float* at = x + (e - first);
      dots.add_even(look_up(codes.bytes + e / 2, table), at, pitch);
      dots.add_odd(look_up(codes.bytes + e / 2 + kWidth / 2, table), at + kWidth, pitch);
    }
    for (; e < end; ++e) dots.add_one(codes.at(e, table), x + (e - first), pitch);
  }
  dots.add_to(out);
}

// The same where x was taken apart.
template <int ROWS>
void dot_codes_apart(const Codes& codes, int64_t first, int64_t depth, const float* x, int64_t pitch, float* out) {
  Dots<ROWS> dots;
  for (int64_t e = first; e < first + depth;) {
    const int64_t block = codes.block_of(e), end = least(codes.block_end(block), first + depth);
    const Table table = codes.table(block);
    __builtin_prefetch(codes.bytes + e / 2 + kAheadBytes);
    for (; e < end; e += kPair, x += kPair) {
      Vec high, low;
      look_up_apart(codes.bytes + e / 2, table, high, low);
      dots.add_even(high, x, pitch);
      dots.add_odd(low, x + kWidth, pitch);
    }
  }
  dots.add_to(out);
}

// Whether each pair of vectors of a row lies in whole bytes of one block: x is then kept with the even
// elements of each pair before the odd ones.
bool is_apart(const Matrix& b, int64_t depth) {
  return b.codes != nullptr && b.columns % kPair == 0 && depth % kPair == 0;
}

void take_apart(float* x, int64_t depth) {
  float pair[kPair];
  for (int64_t k = 0; k < depth; k += kPair) {
    memcpy(pair, x + k, sizeof pair);
    for (int i = 0; i < kPair; ++i) x[k + i % 2 * kWidth + i / 2] = pair[i];
  }
}

constexpr int kDenseAtOnce = 4;

// out[r * kGroup + c] += x[r] . row `n + c` of b, for c < count <= kGroup
template <int ROWS, typename T>
void dot_rows_dense(const Matrix& b, int64_t n, int64_t count, int64_t depth, const float* x, float* out) {
  const T* w = static_cast<const T*>(b.data) + n * b.columns;
  const int64_t pitch = pitch_of(depth);
  for (; count >= kDenseAtOnce; count -= kDenseAtOnce, w += kDenseAtOnce * b.columns, out += kDenseAtOnce)
    dot_dense<ROWS, kDenseAtOnce>(w, b.columns, depth, x, pitch, out);
  for (; count > 0; --count, w += b.columns, ++out) dot_dense<ROWS, 1>(w, b.columns, depth, x, pitch, out);
}

template <int ROWS>
void dot_rows(const Matrix& b, int64_t n, int64_t count, int64_t depth, const float* x, float* out) {
  if (b.codes != nullptr) {
    const auto dot = is_apart(b, depth) ? dot_codes_apart<ROWS> : dot_codes<ROWS>;
    for (int64_t c = 0; c < count; ++c) dot(*b.codes, (n + c) * b.columns, depth, x, pitch_of(depth), out + c);
  } else if (b.dtype == DType::kF32) {
    dot_rows_dense<ROWS, float>(b, n, count, depth, x, out);
  } else if (b.dtype == DType::kBF16) {
    dot_rows_dense<ROWS, BFloat16>(b, n, count, depth, x, out);
  } else {
    dot_rows_dense<ROWS, Float16>(b, n, count, depth, x, out);
  }
}

template <int ROWS = int(kFewRows)>
void dot_rows_of(int64_t rows, const Matrix& b, int64_t n, int64_t count, int64_t depth, const float* x, float* out) {
  if constexpr (ROWS > 0) {
    if (rows == ROWS) return dot_rows<ROWS>(b, n, count, depth, x, out);
    dot_rows_of<ROWS - 1>(rows, b, n, count, depth, x, out);
  }
}

// How x lies for the products with a matrix: plain rows [m, pitch], rows taken apart, chunks, or runs of pairs.
enum class Layout { kRows, kApart, kChunks, kPairs, kPairsApart };

Layout layout_for(const Matrix& b, int64_t depth) {
  if (takes_pairs(b, depth)) return b.codes != nullptr ? Layout::kPairsApart : Layout::kPairs;
  if (takes_chunks(b, depth)) return Layout::kChunks;
  return is_apart(b, depth) ? Layout::kApart : Layout::kRows;
}

// A term whose rows of x were laid out in the order in which the dot products read them.
struct LaidTerm {
  const Matrix* b;
  int64_t depth;
  int parts;       // of pairs; else 0
  const float* x;
};

LaidTerm lay_out(const Term& term, int64_t m, float* space) {
  const Matrix& b = term.b.matrix;
  if (takes_pairs(b, term.depth))
    return {&b, term.depth, lay_out_pairs(term.a.matrix, m, term.depth, b.codes != nullptr, space), space};
#if defined(__AVX2__) && !defined(__AVX512BF16__)
  if (takes_chunks(b, term.depth)) {
    lay_out_chunks(term.a.matrix, m, term.depth, space);
    return {&b, term.depth, 0, space};
  }
#endif
  for (int64_t r = 0; r < m; ++r) {
    float* row = space + r * pitch_of(term.depth);
    fetch(term.a.matrix, r, 0, term.depth, row);
    if (is_apart(b, term.depth)) take_apart(row, term.depth);
  }
  return {&b, term.depth, 0, space};
}

int64_t space_of(const Term& t, int64_t m) {
  const Matrix& b = t.b.matrix;
  const int64_t pairs = pairs_space(m, t.depth, b.codes != nullptr);
  const int64_t floats = takes_pairs(b, t.depth) ? pairs : m * pitch_of(t.depth);
  return (floats + 15) / 16 * 16;
}

// out[r * kGroup + c] += x[r] . row n + c of b, for all m rows of x and c < count.
void dot_term(const LaidTerm& t, int64_t m, int64_t n, int64_t count, float* out, [[maybe_unused]] Ahead& ahead) {
#if defined(__AVX512BF16__)
  if (t.parts > 0) {
    auto* x = reinterpret_cast<const uint16_t*>(t.x);
    for (int64_t r = 0; r < m;) {
      const int rows = run_rows_of(m - r, t.depth, t.b->codes != nullptr);
      dot_rows(*t.b, n, count, t.depth, {x, rows, t.parts}, out + r * kGroup, ahead);
      x += rows * chunks_of(t.depth) * t.parts * kChunk;
      r += rows;
    }
    return;
  }
#elif defined(__AVX2__)
  if (takes_chunks(*t.b, t.depth)) return dot_chunks(*t.b, n, count, t.depth, t.x, m, out);
#endif
  for (int64_t r = 0; r < m; r += kFewRows) {
    dot_rows_of(least(kFewRows, m - r), *t.b, n, count, t.depth, t.x + r * pitch_of(t.depth), out + r * kGroup);
  }
}

}  // namespace

bool is_for_few_rows(const Term* terms, int count, const Result& result) {
  const int64_t m = result.c.dim(0);
  if (m > kFewRowsMax || result.turned) return false;
  bool many = false;
  for (int t = 0; t < count; ++t) {
    const Term& term = terms[t];
    if (!term.a.along_k || !term.b.along_k || term.mask != nullptr || term.b.matrix.rounded) return false;
    many = many || takes_pairs(term.b.matrix, term.depth) || takes_chunks(term.b.matrix, term.depth);
  }
  return many || m <= kFewRows;
}

namespace {

// A product with its x laid out, cut into tasks of `columns` columns of c.
struct Prepared {
  const Result* result;
  LaidTerm laid[kTermsMax];
  int terms;
  int64_t columns, tasks;
};

// Layers of one x read the same rows in the same order.
bool are_laid_alike(const Term& s, const Term& t) {
  const Matrix &x = s.a.matrix, &y = t.a.matrix;
  return s.depth == t.depth && layout_for(s.b.matrix, s.depth) == layout_for(t.b.matrix, t.depth) && x.data == y.data && x.dtype == y.dtype && x.columns == y.columns &&
         x.codes == nullptr && y.codes == nullptr && x.factor == y.factor && x.dropout == y.dropout &&
         x.rounded == y.rounded;
}

Prepared prepare(const Product& product, int64_t m, const Term& first, const LaidTerm* first_laid, float* space,
                 bool rides) {
  Prepared p{&product.result, {}, product.count, 0, 0};
  int64_t depth = 0;
  for (int t = 0; t < product.count; ++t) {
    const Term& term = product.terms[t];
    if (first_laid != nullptr && are_laid_alike(first, term)) {
      p.laid[t] = *first_laid;
      p.laid[t].b = &term.b.matrix;
    } else {
      p.laid[t] = lay_out(term, m, space);
      space += space_of(term, m);
    }
    depth += term.depth;
  }
  const int64_t weights = least(kTaskElements, kTaskProducts / m);
  const int64_t fit = weights / (depth > 0 ? depth : 1) / kGroup * kGroup;
  p.columns = rides ? kRiddenColumns : fit < kGroup ? kGroup : fit;
  p.tasks = (product.result.c.dim(1) + p.columns - 1) / p.columns;
  return p;
}

// Columns [begin, end) of one of the products.
struct Columns {
  const Prepared* of;
  int64_t begin, end;
};

Columns columns_of(const Prepared* p, int64_t task) {
  for (; task >= p->tasks; ++p) task -= p->tasks;
  return {p, task * p->columns, least((task + 1) * p->columns, p->result->c.dim(1))};
}

void run_columns(const Columns& columns, int64_t m, Ahead& ahead) {
  const Prepared& p = *columns.of;
  const Result& result = *p.result;
  const int64_t n = result.c.dim(1), end = columns.end;
  for (int64_t j = columns.begin; j < end; j += kGroup) {
    const int64_t group = least(kGroup, end - j);
    alignas(64) float sums[kFewRowsMax * kGroup];
    for (int64_t i = 0; i < m * kGroup; i += kWidth) store(sums + i, Vec{});
    for (int t = 0; t < p.terms; ++t) dot_term(p.laid[t], m, j, group, sums, ahead);
    for (int64_t r = 0; r < m; ++r) {
      float* row = sums + r * kGroup;
      for (int64_t c = 0; c < group && result.bias != nullptr; ++c) row[c] += result.bias[j + c];
      put_row(result.c, r * n + j, group, row, result.add);
    }
  }
  ahead.finish();
}

// How often dot_term steps ahead for `columns` of one term.
int64_t steps_of(const Columns& columns, int64_t m) {
  int64_t tiles = 0;
  const LaidTerm& t = columns.of->laid[0];
  for (int64_t r = 0, rows; r < m; r += rows) {
    rows = run_rows_of(m - r, t.depth, true);
    tiles += rows >= 8 ? rows / 4 : 1;
  }
  return tiles * (columns.end - columns.begin) / 4;
}

// The columns' products, and beside them all that is to be asked for.
void run_beside(const Columns& columns, int64_t m, Ahead& ahead) {
  ahead.spread(steps_of(columns, m));
  run_columns(columns, m, ahead);
}

// A task's share of what is read soon, in order: who does the first tasks here is likely to do the first ones there.
void add_share(const Beside& beside, int64_t task, int64_t tasks, Ahead& ahead) {
  for (int64_t i = beside.soon_count * task / tasks; i < beside.soon_count * (task + 1) / tasks; ++i)
    ahead.add(beside.soon[i].at, beside.soon[i].bytes);
}

// The pieces of adapters on products that run as `tasks` tasks. What they read comes from memory beside the products' sums:
// the first tasks take turns with [1] of all pieces; the others with [2] for their own columns, and for those of the first ones.
class Riders {
 public:
  Riders(const Prepared* products, int count, int64_t tasks, int64_t m, const LoraPieces& pieces)
      : products_(products), pieces_(pieces), m_(m), tasks_(tasks) {
    int64_t a = 0, b = 0;
    for (int64_t i = 0; i < pieces.count(); ++i) a += pieces[i].a_bytes(), b += pieces[i].b_bytes();
    // Even numbers leave no thread of two without work.
    const int64_t share = tasks * a / (a + b) / 2 * 2;
    early_ = share < 2 ? 2 : least(share, tasks - 2);
    for (int p = 0; p < count; ++p) {
      const Tensor& y = products[p].result->c;
      int64_t i = 0;
      while (i < pieces.count() && !pieces[i].is_of(y)) ++i;
      first_[p] = i;
      while (i < pieces.count() && pieces[i].is_of(y)) ++i;
      last_[p] = i;
    }
  }

  void run() const {
    parallel_for(early_, [&](int64_t task) { run_early(task); });
    parallel_for(tasks_ - early_, [&](int64_t task) { run_late(task); });
  }

 private:
  void run_early(int64_t task) const {
    const int64_t begin = task * pieces_.count() / early_, end = (task + 1) * pieces_.count() / early_;
    Ahead ahead;
    for (int64_t i = begin; i < end; ++i) pieces_[i].ask_a(ahead);
    run_beside(columns_of(products_, task), m_, ahead);
    for (int64_t i = begin; i < end; ++i) pieces_[i].shrink();
  }

  void run_late(int64_t task) const {
    const int64_t late = tasks_ - early_;
    const Columns own = columns_of(products_, early_ + task);
    Ahead ahead;
    const auto each = [&](auto body) {
      for (int64_t t = task * early_ / late; t < (task + 1) * early_ / late; ++t) each_piece(columns_of(products_, t), body);
      each_piece(own, body);
    };
    each([&](const LoraPiece& piece, const Columns& of) { piece.ask_b(of.begin, of.end, ahead); });
    run_beside(own, m_, ahead);
    each([&](const LoraPiece& piece, const Columns& of) { piece.expand(of.begin, of.end); });
  }

  template <typename Body>
  void each_piece(const Columns& columns, Body body) const {
    const int64_t p = columns.of - products_;
    for (int64_t i = first_[p]; i < last_[p]; ++i) body(pieces_[i], columns);
  }

  const Prepared* products_;
  const LoraPieces& pieces_;
  const int64_t m_, tasks_;
  int64_t early_;
  int64_t first_[kProductsMax], last_[kProductsMax];
};

}  // namespace

void gemm_few_rows(const Product* products, int count, const Beside& beside) {
  const int64_t m = products[0].result.c.dim(0);
  const LoraPieces* const pieces = beside.pieces;
  const bool rides = pieces != nullptr;
  int64_t floats = 0, tasks = 0;
  for (int i = 0; i < count; ++i)
    for (int t = 0; t < products[i].count; ++t) floats += space_of(products[i].terms[t], m);
  Workspace space(floats);
  Prepared prepared[kProductsMax];
  float* at = space.data();
  for (int i = 0; i < count; ++i) {
    prepared[i] = prepare(products[i], m, products[0].terms[0], i > 0 ? prepared[0].laid : nullptr, at, rides);
    for (int t = 0; t < products[i].count; ++t) at += space_of(products[i].terms[t], m);
    tasks += prepared[i].tasks;
  }
  if (rides && tasks >= kRiddenTasksMin) return Riders(prepared, count, tasks, m, *pieces).run();
  parallel_for(tasks, [&](int64_t task) {
    Ahead ahead;
    add_share(beside, task, tasks, ahead);
    run_beside(columns_of(prepared, task), m, ahead);
  });
  if (rides) pieces->run();
}

}  // namespace nibble::cpu::NIBBLE_ISA
