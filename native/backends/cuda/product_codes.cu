// Products with a 4-bit weight, y = x W^T (W by rows) and dX = dY W (by columns): tiles of codes travel to shared memory
// and are decoded there, so W costs 0.52 bytes a weight for each kM rows of x. See product_tile.h.
#include "backends/cuda/product_tile.h"

namespace nibble::cuda {

namespace {

template <class S, bool kBColumns>
struct CodeTiles {
  using Product = TileProduct<S, false, kBColumns>;
  using B = typename Product::B;
  // A run is 32 codes that lie one after the other: of a row of W, 16 bytes, one constant.
  static constexpr int kRuns = S::kN * S::kDepth / kRunCodes, kWords = 4 * kRuns;
  static constexpr int kSlices = S::kDepth / kRunCodes;  // runs of a row
  static constexpr int kConstants = (kRuns + S::kThreads - 1) / S::kThreads;  // of a thread
  static constexpr int kStage = Product::A::kBytes + 16 * kRuns;
  static constexpr int kDecoded = S::kStages * kStage, kOfConstants = kDecoded + 2 * B::kBytes;
  static constexpr int kOfTables = kOfConstants + 2 * 4 * kRuns;
  static constexpr int kBytes = kOfTables + int(sizeof(CodeTables));
  static_assert(kWords % (S::kThreads * Product::kSteps) == 0);

  Product& block;
  const WeightView& w;
  uint8_t* const shared;
  const CodeTables& tables;
  RawConstant raw[kConstants];

  __device__ explicit CodeTiles(Product& product)
      : block(product), w(product.p.w), shared(product.shared),
        tables(*reinterpret_cast<const CodeTables*>(product.shared + kOfTables)) {}

  __device__ uint8_t* stage(int64_t tile) const { return shared + tile % S::kStages * kStage; }
  __device__ uint8_t* decoded(int64_t tile) const { return shared + kDecoded + tile % 2 * B::kBytes; }
  __device__ float* constants(int64_t tile) const {
    return reinterpret_cast<float*>(shared + kOfConstants) + tile % 2 * kRuns;
  }

  // Where a run lies in the tile: its row of the layout and its first chunk there. By rows, runs of a second slice of the depth
  // have their rows permuted, so that both runs of a row lie in banks of their own.
  __device__ static int outer_of(int run) {
    return kBColumns ? run / (S::kN / kRunCodes) : (run % S::kN) ^ (run / S::kN * 4);
  }
  __device__ static int inner_of(int run) {
    return (kBColumns ? run % (S::kN / kRunCodes) : run / S::kN) * (kRunCodes / kChunk);
  }
  // The run that a thread copies: neighbours take those of a row, which share 32 bytes of memory.
  __device__ static int run_of(int at) {
    if constexpr (kBColumns || kSlices == 1) {
      return at;
    } else {
      return at % kSlices * S::kN + (at / kSlices ^ (at % kSlices * 4));
    }
  }
  // Its first code in W, flat; -1 past the ends. Tiles are counted from the first of this block.
  __device__ int64_t flat(int64_t tile, int run) const {
    const int64_t k = (block.first + tile) * S::kDepth;
    const int64_t o = (kBColumns ? k : block.column0) + outer_of(run);
    const int64_t i = (kBColumns ? block.column0 : k) + kChunk * inner_of(run);
    return o < w.out && i < w.in ? o * w.in + i : -1;
  }

  __device__ void begin(int64_t tile) {
    if (tile < block.tiles) {
      const int64_t k = (block.first + tile) * S::kDepth;
      Product::A::template copy<S::kThreads>(stage(tile), block.p.a[0], block.row0, block.p.p.m, k, block.p.p.term[0].depth);
      NIBBLE_UNROLL
      for (int at = int(threadIdx.x); at < kRuns; at += S::kThreads) {
        const int run = run_of(at);
        const int64_t e = flat(tile, run);
        copy_async(stage(tile) + Product::A::kBytes + 16 * run, static_cast<const uint8_t*>(w.data) + most(e, 0) / 2,
                   e < 0 ? 0 : 16);
      }
    }
    commit_copies();
  }

  __device__ void fetch_constants(int64_t tile) {
    NIBBLE_UNROLL
    for (int j = 0; j < kConstants; ++j) {
      const int run = int(threadIdx.x) + j * S::kThreads;
      const int64_t e = run < kRuns && tile < block.tiles ? flat(tile, run) : -1;
      if (e >= 0) raw[j] = fetch_constant(w, e >> w.block_shift);
      raw[j].is_given = e >= 0;
    }
  }

  __device__ void put_constants(int64_t tile) {
    NIBBLE_UNROLL
    for (int j = 0; j < kConstants; ++j) {
      const int run = int(threadIdx.x) + j * S::kThreads;
      if (run < kRuns) constants(tile)[run] = raw[j].is_given ? constant_of(w, tables, raw[j]) : 0.0f;
    }
  }

  // [2], the part of one step.
  __device__ void decode(int64_t tile, int step) {
    const auto* const words = reinterpret_cast<const uint32_t*>(stage(tile) + Product::A::kBytes);
    constexpr int kTurns = kWords / S::kThreads / Product::kSteps;
    NIBBLE_UNROLL
    for (int j = 0; j < kTurns; ++j) {
      const int at = int(threadIdx.x) + (step * kTurns + j) * S::kThreads, run = at / 4;
      const uint4 values = decode_pairs(read_at(&words[at]), read_at(&constants(tile)[run]), tables.value);
      write_at(reinterpret_cast<uint4*>(decoded(tile) + B::offset(outer_of(run), inner_of(run) + at % 4)), values);
    }
  }

  __device__ void run() {
    __syncthreads();  // of a term before, all is read
    share_tables(w, reinterpret_cast<CodeTables*>(shared + kOfTables));
    for (int i = 0; i < S::kStages - 1; ++i) begin(i);
    __syncthreads();  // constants are decoded by the tables
    for (int tile = 0; tile < 2; ++tile) {
      fetch_constants(tile);
      put_constants(tile);
    }
    wait_copies<S::kStages - 2>();
    __syncthreads();
    for (int step = 0; step < Product::kSteps; ++step) decode(0, step);
    for (int64_t tile = 0; tile < block.tiles; ++tile) {
      wait_copies<S::kStages - 3>();
      __syncthreads();
      begin(tile + S::kStages - 1);
      fetch_constants(tile + 2);
      block.multiply_tile(stage(tile), decoded(tile), [&](int step) {
        if (tile + 1 < block.tiles) decode(tile + 1, step);
      });
      put_constants(tile + 2);
    }
  }
};

template <class S, bool kBColumns>
constexpr int shared_bytes() {
  constexpr int kCodes = CodeTiles<S, kBColumns>::kBytes, kDense = TileProduct<S, false, kBColumns>::kDenseBytes;
  return kCodes > kDense ? kCodes : kDense;
}

template <class S, bool kBColumns>
__global__ void __launch_bounds__(S::kThreads) codes_kernel(const __grid_constant__ PairProduct p) {
  const TilePlace place = tile_place<S>(p.p);
  if (place.row * S::kM >= rows_to_make(p.p)) return;
  TileProduct<S, false, kBColumns> block(p, dynamic_shared<uint8_t>(), place);
  block.run([](auto& b) { CodeTiles<S, kBColumns>(b).run(); });
}

template <class S, bool kBColumns>
void run(const PairProduct& p) {
  launch(codes_kernel<S, kBColumns>, tile_grid<S>(p.p), S::kThreads, shared_bytes<S, kBColumns>(), p);
}

}  // namespace

void multiply_codes(const PairProduct& p) {
  with_tile(p.p.tile, [&](auto shape) {
    using S = decltype(shape);
    p.p.term[0].b.columns ? run<S, true>(p) : run<S, false>(p);
  });
}

}  // namespace nibble::cuda
