#include "backends/cpu/kernel.h"

#include "backends/cpu/tile_sums.h"

namespace nibble::cpu::NIBBLE_ISA {

namespace {

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

// A tile of the block, to c[at].
template <int ROWS, int VECS>
void tile_product(const Piece* pieces, int count, const Place& tile, const Out& out, int64_t at) {
  Sums<ROWS, VECS> sum = {};
  if (out.from != nullptr)
    take_tile<ROWS, VECS>(sum, out.from + tile.row * out.from_pitch + tile.column, out.from_pitch, false);
  ask_for_tile<ROWS, VECS>(out, at);
  for (const Piece* p = pieces; p < pieces + count; ++p) add_piece<ROWS, VECS>(sum, *p, tile);
  finish_tile<ROWS, VECS>(sum, tile.column, out, at);
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
