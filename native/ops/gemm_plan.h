// How the CPU backend cuts up a matrix product, and the workspace that takes: a function of shapes, kernel sizes and
// the number of threads. backends/meta counts the workspace with it, without computing. The sums of a product
// depend on Blocks and on runs of rows alone, never on the number of threads.
#pragma once

#include <cstdint>

#include "core/dtype.h"

namespace nibble::cpu::NIBBLE_ISA {

constexpr int64_t kDepth = 1024;             // most depth of a block, in lanes
// Depth that is summed while a tile of C stays in registers: blocks of several terms, in lanes.
constexpr int64_t kPassDepth = kDepth + 128;
constexpr int64_t kPanelColumns = 256;       // of B packed together, at most
constexpr int64_t kPanelFloats = 160 << 10;  // the same: they stay in the second-level cache
constexpr int64_t kPackedFloatsMax = 8 << 20;  // of A at once; more rows go in slabs
constexpr int64_t kSlabRowsMin = 256;
constexpr int64_t kBlockRowsMin = 128;
constexpr int64_t kPackRowsWorth = 32;  // packing a column of B costs as much as this many rows of C
constexpr double kTaskCost = 2e4;       // starting a task, in products of a vector

constexpr int64_t kQuarterRows = 48;    // of half a run of rows that are mixed; the last run may be shorter

static inline int64_t blocks_of(int64_t count, int64_t size) { return (count + size - 1) / size; }
static inline int64_t multiple(int64_t count, int64_t of) { return blocks_of(count, of) * of; }
static inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

// What a plan depends on beside shapes.
struct Machine {
  int64_t width, tile_columns, threads;
};

// How a depth is cut: into as few blocks as kDepth allows, of even size.
struct Blocks {
  int64_t lanes;         // of the whole depth
  int64_t count, depth;  // of a block, in elements
  int64_t pitch;         // of its packed rows, in lanes: no power of two, or rows would share the sets of a cache

  // `each`: elements of a lane.
  Blocks(int64_t width, int64_t each, int64_t depth_of_all) {
    lanes = blocks_of(depth_of_all, each);
    const int64_t wanted = blocks_of(lanes, kDepth);
    const int64_t even = wanted == 0 ? width : multiple(blocks_of(lanes, wanted), width);
    depth = least(even, kDepth) * each;
    count = blocks_of(depth_of_all, depth);
    pitch = depth / each + 16;
  }
  int64_t packed_floats(int64_t rows) const { return count * rows * pitch; }
  // For products in quarters: beside the rows, four sums of each pair of them, of half the depth, and a mark of each run.
  int64_t mixed_pitch() const { return depth / 2 + 16; }
  int64_t mixed_floats(int64_t rows) const {
    return packed_floats(rows) + count * (4 * (rows / 2) * mixed_pitch() + blocks_of(rows, 2 * kQuarterRows));
  }
};

// Whether rows of `columns` elements, plain storage of which `depth` are multiplied, lie in the kernel's order already.
// Rows a multiple of 4 KiB apart would share the sets of the first-level cache: those are packed all the same.
static inline bool rows_lie_packed(DType stored, int64_t columns, int64_t depth, bool pairs) {
  if (columns * size_of(stored) % 4096 == 0) return false;
  return pairs ? stored == DType::kBF16 && columns % 2 == 0 && depth % 2 == 0 : stored == DType::kF32;
}

static inline bool is_one_pass(int64_t lanes) { return lanes <= kPassDepth; }

// Products in quarters (backends/cpu/quarters.h) mix row r of a run of rows with row r + half of the run, and the halves of each
// block of depth.
constexpr int64_t kQuarterDepthMin = 64;      // less is not worth its sums
constexpr int64_t kSevenFloats = 128 << 10;   // of B's seven panels: they stay in the second-level cache

// Of the seven panels that such a product reads B from.
static inline int64_t seven_floats(int64_t depth, int64_t columns) { return 7 * (depth / 2) * (columns / 2); }

// The rows of the next run: an odd one is the last, alone.
static inline int64_t run_of(int64_t rows) {
  return rows <= 1 ? rows : least(rows / 2, kQuarterRows) * 2;
}

// Whether rows of this depth, in float32, may be laid out for products in quarters.
static inline bool rows_have_quarters(const Machine& machine, int64_t rows, int64_t depth) {
  const Blocks blocks(machine.width, 1, depth);
  return rows >= 2 * kQuarterRows && depth >= 2 * kQuarterDepthMin * blocks.count && depth % (2 * machine.width) == 0 &&
         blocks.depth % (2 * machine.width) == 0;
}
static inline bool columns_have_quarters(const Machine& machine, int64_t columns) {
  return columns > 0 && columns % (2 * machine.tile_columns) == 0;
}

// The depths of a product's terms, in lanes.
struct Depths {
  int64_t lanes = 0;    // of all of them together
  int64_t whole = 0;    // of those not multiplied in quarters
  int64_t mixed = 0;    // of the longest block of the others; 0: there are none

  void add(const Blocks& blocks, bool in_quarters) {
    lanes += blocks.lanes;
    if (!in_quarters) whole += blocks.lanes;
    else if (blocks.depth > mixed) mixed = blocks.depth;
  }
};

struct Plan {
  int64_t slab_rows, block_rows, block_columns;
  Depths depths;

  // Of B, for what is multiplied whole; panels of quarters follow it.
  int64_t whole_floats() const { return block_columns * least(depths.whole, kPassDepth); }
  int64_t panel_floats() const { return whole_floats() + seven_floats(depths.mixed, block_columns); }
  // Of one task; `beside`: C is not summed in place.
  int64_t scratch_floats(bool beside) const {
    return panel_floats() + (beside ? block_rows * block_columns : 0);
  }
};

// Work of the thread that has most of it, in products of a vector.
static inline double cost_of(const Plan& plan, const Machine& machine, int64_t n) {
  const int64_t tasks = blocks_of(plan.slab_rows, plan.block_rows) * blocks_of(n, plan.block_columns);
  const int64_t task = (plan.block_rows + kPackRowsWorth) * plan.block_columns;
  const double products = double(task) * double(plan.depths.lanes) / double(machine.width);
  return double(blocks_of(tasks, machine.threads)) * (products + kTaskCost);
}

// `whole`: some A is packed already, so there is one slab.
static inline Plan plan_of(const Machine& machine, int64_t m, int64_t n, const Depths& depths, bool whole) {
  int64_t slab = kPackedFloatsMax / (depths.lanes > 0 ? depths.lanes : 1);
  slab = whole ? m : least(m, slab < kSlabRowsMin ? kSlabRowsMin : slab);
  const bool in_quarters = depths.mixed > 0;
  const int64_t tile = in_quarters ? 2 * machine.tile_columns : machine.tile_columns, run = in_quarters ? 2 * kQuarterRows : 1;
  const int64_t pass = least(depths.lanes, kPassDepth);
  const int64_t of_two = seven_floats(depths.mixed, 2);  // columns
  const int64_t fit = (in_quarters ? 2 * kSevenFloats / of_two : kPanelFloats / (pass > 0 ? pass : 1)) / tile * tile;
  const int64_t most = least(kPanelColumns, fit < tile ? tile : fit);
  Plan best{slab, slab, least(most, multiple(n, tile)), depths};
  for (int64_t down = 1; down == 1 || blocks_of(slab, down) >= kBlockRowsMin; down *= 2) {
    for (int64_t columns = most; columns >= tile; columns -= tile) {
      const Plan plan{slab, least(slab, multiple(blocks_of(slab, down), run)), columns, depths};
      if (cost_of(plan, machine, n) < cost_of(best, machine, n)) best = plan;
    }
  }
  return best;
}

}  // namespace nibble::cpu::NIBBLE_ISA
