// The product on tensor cores: kernels of product_dense.cu and product_codes.cu. Versions: docs/cuda.md, "Products".
//
// A block makes kM x kN of C. Its warps go along the depth together, kDepth at a time:
// [1] copies of later tiles of A and of B (bfloat16, or 4-bit codes) to shared memory are under way, kStages - 1 of them
// [2] codes of the next tile are decoded to bfloat16 in shared memory, once for all kM rows, between the multiplications
// [3] a warp loads fragments of this tile and multiplies kMi x kNi of them into sums that stay in registers
// One barrier for each tile of the depth. 16-byte chunks of a tile are permuted so that neither copies nor fragments nor
// decoded rows meet in a bank.
#pragma once

#include "backends/cuda/product.h"
#include "fragments.h"
#include "unroll.h"

namespace nibble::cuda {

constexpr int kChunk = 8;       // elements of 16 bytes
constexpr int kRunCodes = 32;   // codes of 16 bytes, which never are of two blocks of W

// bfloat16 elements as they lie: rows of `pitch` elements that begin at multiples of 16 bytes.
struct Panel {
  const uint16_t* data;
  int64_t pitch;
};

struct PairProduct {
  Product p;
  WeightView w;
  Panel a[2], b[2];  // of the terms; b[0] is nothing where W is decoded from codes
  // Where few blocks would be busy, parts of the depth have blocks of their own (blockIdx.y), whose sums go here
  // [splits, m, n] and are added up by another kernel, always in the same order.
  float* partial;
};

template <int kWarpsM_, int kWarpsN_, int kMi_, int kNi_, int kDepth_>
struct TileShape {
  static constexpr int kMi = kMi_, kNi = kNi_, kDepth = kDepth_, kStages = 4;
  static constexpr int kWarpM = 16 * kMi, kWarpN = 8 * kNi, kWarpsN = kWarpsN_;
  static constexpr int kM = kWarpsM_ * kWarpM, kN = kWarpsN_ * kWarpN, kThreads = kWarpsM_ * kWarpsN_ * kWarpThreads;
};
using SmallTile = TileShape<2, 2, 2, 4, 64>;   //  64 x  64, 128 threads
using MediumTile = TileShape<2, 2, 4, 8, 32>;  // 128 x 128, 128 threads
using LargeTile = TileShape<4, 2, 4, 8, 32>;   // 256 x 128, 256 threads

// Where chunks of an operand's tile lie, by rows: (row, depth / 8), slices of 32 of the depth one after the other; by
// columns: (depth, row / 8).
template <int kRows, int kDepth, bool kColumns>
struct TileLayout {
  static constexpr int kBytes = kRows * kDepth * 2;
  static constexpr int kInner = (kColumns ? kRows : kDepth) / kChunk;  // chunks of a row, or of a column's row
  __device__ static int offset(int outer, int inner) {
    if constexpr (kColumns) {
      return 16 * (outer * kInner + (inner ^ (outer & 7)));
    } else {
      return 16 * ((inner / 4 * kRows + outer) * 4 + ((inner & 3) ^ ((outer >> 1) & 3)));
    }
  }
  // Begins to copy the tile at (row0, k0) of `panel`; zeros past the ends.
  template <int kThreads>
  __device__ static void copy(uint8_t* to, const Panel& panel, int64_t row0, int64_t rows, int64_t k0, int64_t depth) {
    constexpr int kChunks = kBytes / 16;
    static_assert(kChunks % kThreads == 0 && (!kColumns || kInner >= 8));
    const int64_t outer0 = kColumns ? k0 : row0, outer_end = kColumns ? depth : rows;
    const int64_t inner0 = kColumns ? row0 : k0, inner_end = kColumns ? rows : depth;
    NIBBLE_UNROLL
    for (int j = 0; j < kChunks / kThreads; ++j) {
      const int q = int(threadIdx.x) + j * kThreads;
      // Of a slice eight lanes fill two rows, which is all banks; of two slices they would meet in half of them.
      const int outer = kColumns ? q / kInner : q / 4 % kRows, inner = kColumns ? q % kInner : q / (4 * kRows) * 4 + q % 4;
      const int64_t first = inner0 + kChunk * inner, left = outer0 + outer < outer_end ? inner_end - first : 0;
      const int bytes = int(2 * most(0, least(left, kChunk)));
      const uint16_t* const from = bytes == 0 ? panel.data : panel.data + (outer0 + outer) * panel.pitch + first;
      copy_async(to + offset(outer, inner), from, bytes);
    }
  }
};

// 16 x 16 of A at (m, k) of its tile.
template <class L, bool kColumns>
__device__ inline void load_a(uint32_t (&to)[4], const uint8_t* tile, int m, int k) {
  const int lane = int(threadIdx.x) % kWarpThreads, i = lane / 8, r = lane % 8;
  if constexpr (kColumns) {
    load_matrices_transposed(to, tile + L::offset(k + 8 * (i / 2) + r, m / 8 + i % 2));
  } else {
    load_matrices(to, tile + L::offset(m + 8 * (i % 2) + r, k / 8 + i / 2));
  }
}

// 16 x 8 of B at (k, n), and at (k, n + 8).
template <class L, bool kColumns>
__device__ inline void load_b(uint32_t (&left)[2], uint32_t (&right)[2], const uint8_t* tile, int n, int k) {
  const int lane = int(threadIdx.x) % kWarpThreads, i = lane / 8, r = lane % 8;
  uint32_t both[4];
  if constexpr (kColumns) {
    load_matrices_transposed(both, tile + L::offset(k + 8 * (i % 2) + r, n / 8 + i / 2));
  } else {
    load_matrices(both, tile + L::offset(n + 8 * (i / 2) + r, k / 8 + i % 2));
  }
  left[0] = both[0], left[1] = both[1], right[0] = both[2], right[1] = both[3];
}

// What a block does, for operands read by rows or by columns.
template <class S, bool kAColumns, bool kBColumns>
struct TileProduct {
  using A = TileLayout<S::kM, S::kDepth, kAColumns>;
  using B = TileLayout<S::kN, S::kDepth, kBColumns>;
  static constexpr int kSteps = S::kDepth / 16;
  static constexpr int kDenseStage = A::kBytes + B::kBytes;
  static constexpr int kDenseBytes = S::kStages * kDenseStage;

  const PairProduct& p;
  uint8_t* const shared;
  const int64_t row0, column0;  // of the block
  const int warp_m, warp_n;     // of the warp in it
  const bool active;            // whether the warp has any element of C
  int64_t first, tiles;         // of the depth of the first term, in tiles
  float sum[S::kMi][S::kNi][4];

  __device__ TileProduct(const PairProduct& product, uint8_t* shared_memory, const TilePlace& place)
      : p(product), shared(shared_memory), row0(place.row * S::kM), column0(place.column * S::kN),
        warp_m(int(threadIdx.x) / kWarpThreads / S::kWarpsN * S::kWarpM),
        warp_n(int(threadIdx.x) / kWarpThreads % S::kWarpsN * S::kWarpN),
        active(row0 + warp_m < rows_to_make(product.p) && column0 + warp_n < product.p.n), sum{} {
    const int64_t all = blocks_of(p.p.term[0].depth, S::kDepth), split = blockIdx.y;
    first = all * split / p.p.splits;
    tiles = all * (split + 1) / p.p.splits - first;
  }

  // [3]; beside(step) is done between a step's loads and its multiplications.
  template <typename Beside>
  __device__ void multiply_tile(const uint8_t* a, const uint8_t* b, Beside&& beside) {
    NIBBLE_UNROLL
    for (int step = 0; step < kSteps; ++step) {
      uint32_t of_a[S::kMi][4], of_b[S::kNi][2];
      if (active) {
        NIBBLE_UNROLL
        for (int j = 0; j < S::kNi; j += 2) load_b<B, kBColumns>(of_b[j], of_b[j + 1], b, warp_n + 8 * j, 16 * step);
        NIBBLE_UNROLL
        for (int i = 0; i < S::kMi; ++i) load_a<A, kAColumns>(of_a[i], a, warp_m + 16 * i, 16 * step);
      }
      beside(step);
      if (!active) continue;
      NIBBLE_UNROLL
      for (int i = 0; i < S::kMi; ++i)
        NIBBLE_UNROLL
        for (int j = 0; j < S::kNi; ++j) multiply_add(sum[i][j], of_a[i], of_b[j]);
    }
  }

  // Tiles [from, from + count) of a term of two panels.
  __device__ void add_dense(int term, int64_t from, int64_t count) {
    const int64_t depth = p.p.term[term].depth;
    const auto begin = [&](int64_t tile) {
      uint8_t* const stage = shared + tile % S::kStages * kDenseStage;
      const int64_t k = (from + tile) * S::kDepth;
      if (tile < count) {
        A::template copy<S::kThreads>(stage, p.a[term], row0, p.p.m, k, depth);
        B::template copy<S::kThreads>(stage + A::kBytes, p.b[term], column0, p.p.n, k, depth);
      }
      commit_copies();
    };
    __syncthreads();  // of a term before, all is read
    for (int i = 0; i < S::kStages - 1; ++i) begin(i);
    for (int64_t tile = 0; tile < count; ++tile) {
      wait_copies<S::kStages - 2>();
      __syncthreads();
      begin(tile + S::kStages - 1);
      const uint8_t* const stage = shared + tile % S::kStages * kDenseStage;
      multiply_tile(stage, stage + A::kBytes, [](int) {});
    }
  }

  // body(row, column, its sum and the next one's)
  template <typename Body>
  __device__ void for_each_pair(Body&& body) {
    const int lane = int(threadIdx.x) % kWarpThreads;
    const int64_t row = row0 + warp_m + lane / 4, column = column0 + warp_n + lane % 4 * 2;
    NIBBLE_UNROLL
    for (int i = 0; i < S::kMi; ++i)
      NIBBLE_UNROLL
      for (int j = 0; j < S::kNi; ++j)
        NIBBLE_UNROLL
        for (int r = 0; r < 4; r += 2) body(row + 16 * i + 4 * r, column + 8 * j, sum[i][j][r], sum[i][j][r + 1]);
  }

  __device__ void mask_sums() {
    for_each_pair([&](int64_t row, int64_t column, float& left, float& right) {
      left *= dropout_factor(p.p.mask, row * p.p.n + column);
      right *= dropout_factor(p.p.mask, row * p.p.n + column + 1);
    });
  }

  template <typename T>
  __device__ void put_all(const Product& to) {
    const int64_t rows = rows_to_make(to);
    for_each_pair([&](int64_t row, int64_t column, float left, float right) {
      if (row < rows && column < to.n) put_results<T>(to, row, column, left, right);
    });
  }

  // [4] the adapter's term first, as its sums alone are masked; `rest` adds the other, then C is stored.
  template <typename Rest>
  __device__ void run(Rest&& rest) {
    if (p.p.terms == 2 && blockIdx.y == 0) {
      add_dense(1, 0, blocks_of(p.p.term[1].depth, S::kDepth));
      if (p.p.mask.p > 0) mask_sums();
    }
    rest(*this);
    if (!active) return;
    if (p.partial != nullptr) {
      put_all<float>({.m = p.p.m, .n = p.p.n, .c = p.partial + blockIdx.y * p.p.m * p.p.n, .rows_used = p.p.rows_used,
                      .rows_before = p.p.rows_before});
    } else if (p.p.c_dtype == DType::kBF16) {
      put_all<BF16>(p.p);
    } else {
      put_all<float>(p.p);
    }
  }
};

template <class S>
__device__ inline TilePlace tile_place(const Product& p) {
  return tile_place(blocks_of(p.m, S::kM), blocks_of(p.n, S::kN));
}

template <class S>
Grid tile_grid(const Product& p) {
  return grid_of(blocks_of(p.m, S::kM) * blocks_of(p.n, S::kN), p.splits);
}

// Calls body with a value of the tile's shape, whose type is what counts.
template <typename Body>
void with_tile(Tile tile, Body&& body) {
  if (tile == Tile::kSmall) return body(SmallTile{});
  if (tile == Tile::kMedium) return body(MediumTile{});
  body(LargeTile{});
}

// product_dense.cu and product_codes.cu. Tile and splits are chosen.
void multiply_dense(const PairProduct& p);
void multiply_codes(const PairProduct& p);

}  // namespace nibble::cuda
