// How the CPU backend cuts up the output layer and its loss, and the workspace that takes: a function of shapes alone,
// so that results do not depend on the number of threads. backends/meta counts the workspace with it.
#pragma once

#include "ops/gemm_plan.h"

namespace nibble::cpu::NIBBLE_ISA {

constexpr int64_t kLossDepth = 256;           // lanes of a block of the vocabulary
constexpr int64_t kLossRows = 128;            // of a task
constexpr int64_t kLossShards = 4;            // of the vocabulary, summed apart: tasks enough for some threads
constexpr int64_t kLossColumns = 128;         // of W packed together: a task, and a product in quarters
constexpr int64_t kLossSumsMax = 8 << 20;     // floats; more rows go in slabs

struct LossPlan {
  int64_t block, shards, shard_blocks;  // words of a block, shards, most blocks of a shard
  int64_t slab_rows, task_rows;
  int64_t pitch;        // of a row's sums
  int64_t score_pitch;  // of a row's logits: no power of two, or rows would share the sets of a cache
  int64_t turned, straight;  // floats of a packed block as operand of the first and the second product
  bool mixes;                // both are in quarters, for whole blocks
  int64_t mixed_pitch;       // of a logits' row's sums then

  // `rows` with a label, of `width` elements, `each` of them a lane; `may_mix`: d_x is wanted, in bfloat16.
  LossPlan(const Machine& machine, int64_t each, int64_t rows, int64_t vocabulary, int64_t width, bool may_mix) {
    block = kLossDepth * each;
    const int64_t blocks = blocks_of(vocabulary, block);
    shards = least(kLossShards, blocks);
    shard_blocks = blocks_of(blocks, shards);
    shards = blocks_of(blocks, shard_blocks);
    pitch = multiple(width, machine.tile_columns);
    const int64_t fit = kLossSumsMax / (shards * pitch), most = fit < kLossRows ? kLossRows : fit;
    slab_rows = blocks_of(rows, blocks_of(rows, most));
    mixes = may_mix && each == 1 && rows_have_quarters(machine, slab_rows, width) && columns_have_quarters(machine, width);
    task_rows = mixes ? least(slab_rows, 2 * kQuarterRows) : blocks_of(slab_rows, blocks_of(slab_rows, kLossRows));
    score_pitch = block + 16;
    mixed_pitch = block / 2 + 16;
    turned = mixes ? seven_floats(width, block) : block * Blocks(machine.width, each, width).lanes;
    straight = mixes ? seven_floats(block, width) : kLossDepth * pitch;
  }
  int64_t sums_floats() const { return shards * slab_rows * pitch; }
  int64_t panel_floats(bool gradient) const { return shards * (turned + (gradient ? straight : 0)); }
  int64_t state_floats() const { return (2 * shards + 2) * slab_rows; }
  int64_t score_floats() const { return task_rows * score_pitch + (mixes ? 4 * (task_rows / 2) * mixed_pitch : 0); }
};

// Columns of W whose gradient is made at once.
static inline int64_t gradient_columns(int64_t rows, int64_t vocabulary) {
  const int64_t fit = kLossSumsMax / rows, most = fit < 64 ? 64 : fit;
  return blocks_of(vocabulary, blocks_of(vocabulary, most));
}

}  // namespace nibble::cpu::NIBBLE_ISA
