// Products of bfloat16 matrices; see product_tile.h.
#include "backends/cuda/product_tile.h"

namespace nibble::cuda {

namespace {

template <class S, bool kAColumns, bool kBColumns>
__global__ void __launch_bounds__(S::kThreads) dense_kernel(const __grid_constant__ PairProduct p) {
  const TilePlace place = tile_place<S>(p.p);
  if (place.row * S::kM >= rows_to_make(p.p)) return;
  TileProduct<S, kAColumns, kBColumns> block(p, dynamic_shared<uint8_t>(), place);
  block.run([](auto& b) { b.add_dense(0, b.first, b.tiles); });
}

template <class S, bool kAColumns, bool kBColumns>
void run(const PairProduct& p) {
  constexpr int kBytes = TileProduct<S, kAColumns, kBColumns>::kDenseBytes;
  launch(dense_kernel<S, kAColumns, kBColumns>, tile_grid<S>(p.p), S::kThreads, kBytes, p);
}

}  // namespace

void multiply_dense(const PairProduct& p) {
  with_tile(p.p.tile, [&](auto shape) {
    using S = decltype(shape);
    const bool a_columns = p.p.term[0].a.columns, b_columns = p.p.term[0].b.columns;
    if (a_columns) return run<S, true, true>(p);
    b_columns ? run<S, false, true>(p) : run<S, false, false>(p);
  });
}

}  // namespace nibble::cuda
