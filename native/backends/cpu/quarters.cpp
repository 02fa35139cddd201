#include "backends/cpu/quarters.h"

#include "backends/cpu/tile_sums.h"

namespace nibble::cpu::NIBBLE_ISA {

namespace {

enum { P1, P2, P3, P4, P5, P6, P7 };

// Sums that several quarters of C share, put aside.
template <int ROWS>
class Aside {
 public:
  NIBBLE_INLINE void put(Sums<ROWS, 2>& sum) { put_tile<float, ROWS, 2>(sum, at_, kTileColumns, false); }
  NIBBLE_INLINE void take(Sums<ROWS, 2>& sum) const { take_tile<ROWS, 2>(sum, at_, kTileColumns, false); }
  NIBBLE_INLINE void add_to(Sums<ROWS, 2>& sum) const { take_tile<ROWS, 2>(sum, at_, kTileColumns, true); }

 private:
  alignas(64) float at_[ROWS * kTileColumns];
};

// A tile of each quarter of C.
struct Tiles {
  float *c11, *c12, *c21, *c22;
  int64_t pitch;
  bool add;
};

template <int ROWS>
NIBBLE_INLINE inline void add_product(Sums<ROWS, 2>& sum, const Quarters& q, int p, const Place& place) {
  const Piece piece{.a = q.a[p].at, .a_pitch = q.a[p].step, .depth = q.depth, .is_far = true};
  const float* const a = piece.a + place.row * piece.a_pitch;
  const Strip<2> b{q.b[p].at + place.column / kTileColumns * q.b[p].step, rows_below<ROWS>(piece, a, place)};
  add_products<Lane::kFloat, ROWS, 2>(sum, a, piece.a_pitch, b, q.depth);
}

template <int ROWS>
void multiply_tiles(const Quarters& q, const Place& place, const Tiles& to) {
  const auto add = [&](int p, Sums<ROWS, 2>& sum) NIBBLE_INLINE { add_product<ROWS>(sum, q, p, place); };
  const auto put = [&](Sums<ROWS, 2>& sum, float* c) NIBBLE_INLINE { put_tile<float, ROWS, 2>(sum, c, to.pitch, to.add); };
  for (const float* c : {to.c11, to.c21}) {  // the other quarters' tiles are beside them
#pragma GCC unroll 16
    for (int r = 0; r < ROWS; ++r) {
      __builtin_prefetch(c + r * to.pitch, 1);
      __builtin_prefetch(c + r * to.pitch + kTileColumns, 1);
    }
  }
  Aside<ROWS> first, shared, upper, seventh;
  Sums<ROWS, 2> sum = {};
  add(P1, sum);
  first.put(sum);
  add(P2, sum);
  put(sum, to.c11);
  first.take(sum);
  add(P6, sum);
  shared.put(sum);  // P1 + P6
  add(P5, sum);
  upper.put(sum);  // P1 + P6 + P5
  add(P3, sum);
  put(sum, to.c12);
  for (auto& row : sum) row[0] = row[1] = Vec{};
  add(P7, sum);
  seventh.put(sum);
  upper.add_to(sum);
  put(sum, to.c22);
  seventh.take(sum);
  shared.add_to(sum);
  add(P4, sum);
  put(sum, to.c21);
}

template <int ROWS = kTileRows>
void multiply_tiles_of(int64_t rows, const Quarters& q, const Place& place, const Tiles& to) {
  if constexpr (ROWS > 0) {
    if (rows == ROWS) return multiply_tiles<ROWS>(q, place, to);
    multiply_tiles_of<ROWS - 1>(rows, q, place, to);
  }
}

// A11 B11 + A12 B21, and A11 (B11 + T1) + A12 B22, where A11 and A12 have all rows.
void multiply_apart(const Quarters& q, int64_t rows, int64_t pairs, float* c, int64_t pitch, bool add) {
  for (int64_t pair = 0; pair < pairs; ++pair, c += 2 * kTileColumns) {
    const auto piece = [&](int a, int b) {
      return Piece{.a = q.a[a].at, .a_pitch = q.a[a].step, .b = q.b[b].at + pair * q.b[b].step, .depth = q.depth};
    };
    const Piece left[] = {piece(P1, P1), piece(P2, P2)}, right[] = {piece(P1, P1), piece(P1, P5), piece(P2, P3)};
    multiply_pieces(left, 2, rows, kTileColumns, {.c = c, .pitch = pitch, .add = add});
    multiply_pieces(right, 3, rows, kTileColumns, {.c = c + kTileColumns, .pitch = pitch, .add = add});
  }
}

}  // namespace

void mix_rows(const float* upper, const float* lower, int64_t depth, float* s, int64_t s_step) {
  for (int64_t k = 0; k < depth; k += kWidth) {
    const Vec a11 = load(upper + k), a12 = load(upper + depth + k), a21 = load(lower + k), a22 = load(lower + depth + k);
    const Vec s1 = a21 + a22, s2 = s1 - a11;
    store(s + k, s1);
    store(s + s_step + k, s2);
    store(s + 2 * s_step + k, a11 - a21);
    store(s + 3 * s_step + k, a12 - s2);
  }
}

void place_rows(Quarters& q, const Quarters::Run& rows, int64_t half, int64_t depth, const Quarters::Run& s, int64_t s_step) {
  const auto quarter = [&](int64_t row, int64_t k) { return Quarters::Run{rows.at + row * rows.step + k, rows.step}; };
  const auto sum = [&](int64_t i) { return Quarters::Run{s.at + (i - 1) * s_step, s.step}; };
  const Quarters::Run operands[] = {quarter(0, 0), quarter(0, depth), sum(4), quarter(half, depth), sum(1), sum(2), sum(3)};
  memcpy(q.a, operands, sizeof operands);
  q.depth = depth;
}

void mix_columns(float* b, int64_t floats, int64_t pairs) {
  float* behind = b + 4 * pairs * floats;
  for (int64_t pair = 0; pair < pairs; ++pair, behind += 3 * floats) {
    const float* const b11 = b + 2 * pair * floats;
    float* const b12 = b + (2 * pair + 1) * floats;
    const float *const b21 = b11 + 2 * pairs * floats, *const b22 = b12 + 2 * pairs * floats;
    for (int64_t i = 0; i < floats; i += kWidth) {
      const Vec right = load(b12 + i), t1 = right - load(b11 + i), low = load(b22 + i), t2 = low - t1;
      store(b12 + i, t1);
      store(behind + i, t2);
      store(behind + floats + i, low - right);
      store(behind + 2 * floats + i, load(b21 + i) - t2);
    }
  }
}

void place_columns(Quarters& q, const float* b, int64_t floats, int64_t pairs) {
  const auto quarter = [&](int64_t strip) { return Quarters::Run{b + strip * floats, 2 * floats}; };
  const auto sum = [&](int64_t i) { return Quarters::Run{b + (4 * pairs + i - 2) * floats, 3 * floats}; };
  const Quarters::Run b11 = quarter(0), t1 = quarter(1), b21 = quarter(2 * pairs), b22 = quarter(2 * pairs + 1);
  const Quarters::Run operands[] = {b11, b21, b22, sum(4), t1, sum(2), sum(3)};
  memcpy(q.b, operands, sizeof operands);
}

void multiply_quarters(const Quarters& q, int64_t rows, int64_t pairs, float* c, int64_t pitch, bool add) {
  if (rows == 1 || q.apart) return multiply_apart(q, rows, pairs, c, pitch, add);
  const int64_t half = rows / 2;
  int64_t tiles = blocks_of(half, kTileRows);  // of even height
  for (int64_t r = 0, height; r < half; r += height, --tiles) {
    height = blocks_of(half - r, tiles);
    for (int64_t pair = 0; pair < pairs; ++pair) {
      float *const upper = c + r * pitch + 2 * pair * kTileColumns, *const lower = upper + half * pitch;
      const Tiles tiles_of_pair{upper, upper + kTileColumns, lower, lower + kTileColumns, pitch, add};
      multiply_tiles_of(height, q, {r, pair * kTileColumns, pairs}, tiles_of_pair);
    }
  }
}

}  // namespace nibble::cpu::NIBBLE_ISA
