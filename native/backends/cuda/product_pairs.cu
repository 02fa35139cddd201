// What goes before the product on tensor cores: operands that are not bfloat16 matrices with rows at multiples of 16 bytes
// are written as such to workspace, rounded, scaled and dropped on the way; those of an adapter are small. Then the tile.
#include <optional>

#include "backends/cuda/product_tile.h"

namespace nibble::cuda {

namespace {

using Space = std::optional<Workspace<uint16_t>>;

// A thread 16 bytes. `outer`, `inner`: how many rows are written and how long they are.
__global__ void prepare_kernel(const __grid_constant__ Operand o, const __grid_constant__ WeightView w, int64_t outer,
                               int64_t inner, int64_t pitch, uint4* to) {
  const int64_t chunks = pitch / kChunk;
  for (int64_t at = first_index(); at < outer * chunks; at += index_stride()) {
    const int64_t row = at / chunks, first = at % chunks * kChunk;
    float v[kChunk];
    for (int k = 0; k < kChunk; ++k) {
      const int64_t i = first + k;
      v[k] = i >= inner ? 0.0f : o.columns ? element(o, w, i, row) : element(o, w, row, i);
    }
    to[at] = make_uint4(pack_bf16(v[0], v[1]), pack_bf16(v[2], v[3]), pack_bf16(v[4], v[5]), pack_bf16(v[6], v[7]));
  }
}

bool is_aligned(const void* data) { return reinterpret_cast<uintptr_t>(data) % 16 == 0; }

// A dense weight as any matrix.
Operand resolved(const Operand& o, const WeightView& w) {
  if (!o.is_weight || w.quantized) return o;
  return {.data = w.data, .dtype = w.dtype, .pitch = w.in, .columns = o.columns};
}

bool is_pairs(const Operand& o, const WeightView& w) {
  if (o.is_weight) return w.dtype == DType::kBF16;
  return o.rounding == DType::kBF16 || (o.dtype == DType::kBF16 && o.factor == 1 && o.dropout.p == 0);
}

// The operand's rows [0, rows) and depth as a panel, in `space` where it is none yet.
Panel panel_of(const Operand& given, const WeightView& w, int64_t rows, int64_t depth, Space& space) {
  const Operand o = resolved(given, w);
  const bool plain = !o.is_weight && o.dtype == DType::kBF16 && o.factor == 1 && o.dropout.p == 0;
  if (plain && o.pitch % kChunk == 0 && is_aligned(o.data)) return {static_cast<const uint16_t*>(o.data), o.pitch};
  const int64_t outer = o.columns ? depth : rows, inner = o.columns ? rows : depth;
  const int64_t pitch = blocks_of(inner, kChunk) * kChunk;
  space.emplace(outer * pitch);
  launch(prepare_kernel, grid_for(outer * pitch / kChunk), kThreads, 0, o, w, outer, inner, pitch,
         reinterpret_cast<uint4*>(space->data()));
  return {space->data(), pitch};
}

// Rows of codes that begin at multiples of 16 bytes.
bool takes_codes(const Operand& b, const WeightView& w) {
  return b.is_weight && w.quantized && w.in % kRunCodes == 0 && is_aligned(w.data);
}

// A thread an element of C, from the sums of the depth's parts.
template <typename T>
__global__ void sum_kernel(const __grid_constant__ Product p, const float* partial) {
  const int64_t count = rows_to_make(p) * p.n;
  for (int64_t i = first_index(); i < count; i += index_stride()) {
    float sum = 0;
    for (int split = 0; split < p.splits; ++split) sum += partial[split * p.m * p.n + i];
    put_result<T>(p, i / p.n, i % p.n, sum);
  }
}

// Large tiles read and decode least, but a card wants a block for each of its some hundred processors: then small tiles,
// and the depth in parts. The numbers are guesses until they are measured.
void choose_tile(Product& p) {
  constexpr int64_t kBlocksWanted = 100, kSplitsMax = 16, kSplitDepth = 256;
  if (p.tile == Tile::kChosen) {
    const int64_t large = blocks_of(p.m, LargeTile::kM) * blocks_of(p.n, LargeTile::kN);
    const int64_t medium = blocks_of(p.m, MediumTile::kM) * blocks_of(p.n, MediumTile::kN);
    const bool narrow = p.m <= SmallTile::kM || p.n <= SmallTile::kN;
    p.tile = narrow || medium < kBlocksWanted ? Tile::kSmall : large < 2 * kBlocksWanted ? Tile::kMedium : Tile::kLarge;
  }
  if (p.splits > 0) return;
  const int64_t blocks = blocks_of(p.m, SmallTile::kM) * blocks_of(p.n, SmallTile::kN);
  const int64_t wanted = p.tile == Tile::kSmall ? 2 * kBlocksWanted / blocks : 1;
  p.splits = int(most(1, least(least(kSplitsMax, wanted), p.term[0].depth / kSplitDepth)));
}

}  // namespace

bool takes_pairs(const Product& p, const WeightView& w) {
  for (int t = 0; t < p.terms; ++t) {
    if (!is_pairs(p.term[t].a, w) || !is_pairs(p.term[t].b, w)) return false;
  }
  return true;
}

void multiply_pairs(const Product& product, const WeightView& w) {
  PairProduct p{.p = product, .w = w};
  if (p.p.m == 0 || p.p.n == 0) return;
  choose_tile(p.p);
  Space space[4];
  const bool codes = takes_codes(product.term[0].b, w);
  for (int t = 0; t < product.terms; ++t) {
    const Term& term = product.term[t];
    p.a[t] = panel_of(term.a, w, product.m, term.depth, space[2 * t]);
    if (t == 0 && codes) continue;
    p.b[t] = panel_of(term.b, w, product.n, term.depth, space[2 * t + 1]);
  }
  std::optional<Workspace<float>> partial;
  if (p.p.splits > 1) p.partial = partial.emplace(p.p.splits * product.m * product.n).data();
  codes ? multiply_codes(p) : multiply_dense(p);
  if (!partial) return;
  with_activation(product.c_dtype, [&](auto t) {
    launch(sum_kernel<decltype(t)>, grid_for(product.m * product.n), kThreads, 0, p.p, p.partial);
  });
}

}  // namespace nibble::cuda
