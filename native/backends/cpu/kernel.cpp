#include "backends/cpu/kernel.h"

#include "backends/cpu/elements.h"
#include "ops/gemm_plan.h"

namespace nibble::cpu::NIBBLE_ISA {

namespace {

template <int ROWS, int VECS>
using Sums = Vec[ROWS][VECS];

// Memory that is asked for beside products, `step` bytes on for each lane of depth.
struct Asked {
  const char* at;
  int64_t step;
  NIBBLE_INLINE void next() {
    __builtin_prefetch(at, 0, 2);
    at += step;
  }
};

// Where B comes from: packed strips, or rows of its storage.
template <int VECS>
struct Strip {
  const float* b;
  Asked asked;
  NIBBLE_INLINE void next(Vec* column) {
    asked.next();
#pragma GCC unroll 2
    for (int v = 0; v < VECS; ++v) column[v] = load(b + v * kWidth);
    b += kTileColumns;
  }
};

constexpr int64_t kAheadRows = 64;  // short pieces far apart are no stream that the processor sees by itself

template <typename T>
struct Rows {
  const T* at;
  int64_t step;
  NIBBLE_INLINE void next(Vec* column) {
    ask_for(at + kAheadRows * step);
    column[0] = load(at);
    column[1] = load(at + kWidth);
    at += step;
  }
};

struct RowsOfPairs {
  const uint16_t* at;
  int64_t step;
  NIBBLE_INLINE void next(Vec* column) {
    ask_for(at + kAheadRows * step);
    ask_for(at + (kAheadRows + 1) * step);
    interleave(at, at + step, column[0], column[1]);
    at += 2 * step;
  }
};

// Rows of A, a lane of each at a time. Every third row has a pointer of its own, and the next two lie one and two steps
// behind it, which an address of x86-64 holds: so all of them stay in registers.
template <int ROWS>
class RowsOfA {
 public:
  NIBBLE_INLINE RowsOfA(const float* a, int64_t row_step) : row_step_(row_step) {
#pragma GCC unroll 8
    for (int i = 0; i < kPointers; ++i) at_[i] = a + 3 * i * row_step;
  }
  NIBBLE_INLINE const float* operator[](int r) const { return at_[r / 3] + r % 3 * row_step_; }
  NIBBLE_INLINE void next() {
#pragma GCC unroll 8
    for (int i = 0; i < kPointers; ++i) {
      ++at_[i];
      asm("" : "+r"(at_[i]));  // GCC would keep every row's distance from the first instead, some of them in memory
    }
  }

 private:
  static constexpr int kPointers = (ROWS + 2) / 3;
  const float* at_[kPointers];
  const int64_t row_step_;
};

template <Lane LANE, int ROWS, int VECS, typename Source>
NIBBLE_INLINE inline void add_products(Sums<ROWS, VECS>& sum, const float* a, int64_t a_pitch, Source b, int64_t depth) {
  RowsOfA<ROWS> rows(a, a_pitch);
  for (int64_t k = 0; k < depth; ++k, rows.next()) {
    Vec column[VECS];
    b.next(column);
#pragma GCC unroll 16
    for (int r = 0; r < ROWS; ++r) {
      if constexpr (VECS == 1) {
        sum[r][0] = multiply_add<LANE>(rows[r], column[0], sum[r][0]);
      } else {
        const Vec factor = splat(*rows[r]);
#pragma GCC unroll 2
        for (int v = 0; v < VECS; ++v) sum[r][v] = multiply_add<LANE>(factor, column[v], sum[r][v]);
      }
    }
  }
}

// A tile of a block, and how many lie side by side.
struct Place {
  int64_t row, column, across;
};

// The part of the rows of A that the tiles below read: all tiles side by side ask for all of it. Without this, the first of them
// wait for rows that come from the third level or from memory. Rows that are near are asked for where they are read.
template <int ROWS>
NIBBLE_INLINE inline Asked rows_below(const Piece& p, const float* a, const Place& tile) {
  if (!p.is_far) return {reinterpret_cast<const char*>(a), 0};
  const int64_t bytes = ROWS * p.a_pitch * int64_t(sizeof(float)), part = bytes / tile.across;
  return {reinterpret_cast<const char*>(a) + bytes + tile.column / kTileColumns * part, blocks_of(part, p.depth)};
}

template <int ROWS, int VECS>
NIBBLE_INLINE inline void add_piece(Sums<ROWS, VECS>& sum, const Piece& p, const Place& tile) {
  const float* const a = p.a + tile.row * p.a_pitch;
  if constexpr (VECS == 2) {
    const auto* const bf16 = static_cast<const Bf16*>(p.rows) + tile.column;
    if (p.b == nullptr && kMultipliesPairs && p.lane == Lane::kPair)
      return add_products<Lane::kPair, ROWS, VECS>(sum, a, p.a_pitch, RowsOfPairs{&bf16->bits, p.row_step}, p.depth);
    if (p.b == nullptr && p.is_bf16)
      return add_products<Lane::kFloat, ROWS, VECS>(sum, a, p.a_pitch, Rows<Bf16>{bf16, p.row_step}, p.depth);
    const auto* const floats = static_cast<const float*>(p.rows) + tile.column;
    if (p.b == nullptr)
      return add_products<Lane::kFloat, ROWS, VECS>(sum, a, p.a_pitch, Rows<float>{floats, p.row_step}, p.depth);
  }
  const Strip<VECS> b{p.b + tile.column * p.depth, rows_below<ROWS>(p, a, tile)};
  if (kMultipliesPairs && p.lane == Lane::kPair) add_products<Lane::kPair, ROWS, VECS>(sum, a, p.a_pitch, b, p.depth);
  else add_products<Lane::kFloat, ROWS, VECS>(sum, a, p.a_pitch, b, p.depth);
}

template <typename T, int ROWS, int VECS>
NIBBLE_INLINE inline void put_tile(Sums<ROWS, VECS>& sum, T* c, int64_t pitch, bool add) {
  if (add) {
#pragma GCC unroll 16
    for (int r = 0; r < ROWS; ++r) {
#pragma GCC unroll 2
      for (int v = 0; v < VECS; ++v) sum[r][v] += load(c + r * pitch + v * kWidth);
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < ROWS; ++r) {
#pragma GCC unroll 2
    for (int v = 0; v < VECS; ++v) store(c + r * pitch + v * kWidth, sum[r][v]);
  }
}

// A tile of the block, to c[at].
template <int ROWS, int VECS>
void tile_product(const Piece* pieces, int count, const Place& tile, const Out& out, int64_t at) {
  Sums<ROWS, VECS> sum = {};
  if (out.from != nullptr) {
#pragma GCC unroll 16
    for (int r = 0; r < ROWS; ++r) {
#pragma GCC unroll 2
      for (int v = 0; v < VECS; ++v) sum[r][v] = load(out.from + (tile.row + r) * out.from_pitch + tile.column + v * kWidth);
    }
  }
  const int64_t bytes = out.rounds ? 2 : 4;
#pragma GCC unroll 16
  for (int r = 0; r < ROWS; ++r) {
    char* const row = static_cast<char*>(out.c) + (at + r * out.pitch) * bytes;
    __builtin_prefetch(row, 1);
    if (!out.rounds && VECS == 2) __builtin_prefetch(row + kWidth * 4, 1);
  }
  for (const Piece* p = pieces; p < pieces + count; ++p) add_piece<ROWS, VECS>(sum, *p, tile);
  if (out.bias != nullptr) {
#pragma GCC unroll 16
    for (int r = 0; r < ROWS; ++r) {
#pragma GCC unroll 2
      for (int v = 0; v < VECS; ++v) sum[r][v] += load(out.bias + tile.column + v * kWidth);
    }
  }
  if (out.rounds) put_tile<Bf16, ROWS, VECS>(sum, static_cast<Bf16*>(out.c) + at, out.pitch, out.add);
  else put_tile<float, ROWS, VECS>(sum, static_cast<float*>(out.c) + at, out.pitch, out.add);
}

template <int VECS, int ROWS = kTileRows>
inline void tile_product_of(int64_t rows, const Piece* pieces, int count, const Place& tile, const Out& out, int64_t at) {
  if constexpr (ROWS > 0) {
    if (rows == ROWS) return tile_product<ROWS, VECS>(pieces, count, tile, out, at);
    tile_product_of<VECS, ROWS - 1>(rows, pieces, count, tile, out, at);
  }
}

template <typename T>
void put_part(const float* tile, int64_t rows, int64_t columns, T* c, const Out& out, const float* bias) {
  for (int64_t r = 0; r < rows; ++r, tile += kTileColumns, c += out.pitch)
    each_vector(0, columns, [&](int64_t j, int n) NIBBLE_INLINE {
      Vec v = load(tile + j, n);
      if (bias != nullptr) v += load(bias + j, n);
      store(c + j, out.add ? v + load(c + j, n) : v, n);
    });
}

// A tile that C does not wholly hold is summed beside it.
void edge_product(const Piece* pieces, int count, const Place& tile, int64_t rows, int64_t columns, const Out& out) {
  alignas(64) float sums[kTileRows * kTileColumns];
  const Out beside{.c = sums, .pitch = kTileColumns, .from = out.from, .from_pitch = out.from_pitch};
  const auto product = columns <= kWidth ? tile_product_of<1> : tile_product_of<2>;
  product(rows, pieces, count, tile, beside, 0);
  const float* const bias = out.bias != nullptr ? out.bias + tile.column : nullptr;
  const int64_t at = tile.row * out.pitch + tile.column;
  if (out.rounds) put_part(sums, rows, columns, static_cast<Bf16*>(out.c) + at, out, bias);
  else put_part(sums, rows, columns, static_cast<float*>(out.c) + at, out, bias);
}

}  // namespace

void multiply_pieces(const Piece* pieces, int count, int64_t rows, int64_t columns, const Out& out) {
  int64_t tiles = blocks_of(rows, kTileRows);  // of even height
  const int64_t across = blocks_of(columns, kTileColumns);
  for (int64_t r = 0, height; r < rows; r += height, --tiles) {
    height = blocks_of(rows - r, tiles);
    for (int64_t j = 0; j < columns; j += kTileColumns) {
      const int64_t left = columns - j, at = r * out.pitch + j;
      const bool is_whole = out.padded || left >= kTileColumns || left == kWidth;
      const auto product = left <= kWidth ? tile_product_of<1> : tile_product_of<2>;
      const Place tile{r, j, across};
      if (is_whole) product(height, pieces, count, tile, out, at);
      else edge_product(pieces, count, tile, height, left, out);
    }
  }
}

}  // namespace nibble::cpu::NIBBLE_ISA
