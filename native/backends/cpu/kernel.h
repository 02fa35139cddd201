// The micro-kernel of the matrix product: a tile of C kept in registers (Goto and van de Geijn,
// "Anatomy of high-performance matrix multiplication", 2008) from its first product to its rounding. Knows packed
// operands only.
#pragma once

#include "backends/cpu/lane.h"

namespace nibble::cpu::NIBBLE_ISA {

// A tile is kTileRows x kTileColumns: as many accumulators as the registers hold, with room for two
// vectors of B and one element of A.
constexpr int kTileColumns = 2 * kWidth;
#if defined(__AVX512F__)
constexpr int kTileRows = 14;
#else
constexpr int kTileRows = 6;
#endif

// A block of depth of a product. Rows of A: a[r * a_pitch + k]; strips of kTileColumns of B:
// b[j * depth + k * kTileColumns] and on, for columns j, j + 1 ... of C. k and depth count lanes.
struct Piece {
  const float* a;
  int64_t a_pitch;
  const float* b;  // null: B is read where it lies
  int64_t depth;
  Lane lane = Lane::kFloat;
  // Storage rows of B that follow each other along the depth, whole tiles wide.
  const void* rows = nullptr;
  int64_t row_step = 0;  // elements
  bool is_bf16 = false;  // else float32
  bool is_far = false;   // A's rows are not in the second-level cache: those of the tiles below are asked for beside the products
};

// Where a block of C goes, and what is added to its sums.
struct Out {
  void* c;         // float32, or bfloat16 if `rounds`
  int64_t pitch;   // elements from one row to the next
  bool rounds = false;
  bool padded = false;             // c holds whole tiles
  bool add = false;                // to what c holds
  const float* bias = nullptr;     // of the block's columns
  const float* from = nullptr;     // sums to start from, in whole tiles
  int64_t from_pitch = 0;
};

// c (+)= from + the pieces' products + bias, for a block of C. Every element is summed in the order of the pieces
// and of their depth, whatever the block's shape.
void multiply_pieces(const Piece* pieces, int count, int64_t rows, int64_t columns, const Out& out);

}  // namespace nibble::cpu::NIBBLE_ISA
