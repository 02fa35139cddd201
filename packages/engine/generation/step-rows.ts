// What a step computes, as arrays on the host: a row a token, sequences one after the other, rows of one adapter side by side.
import { freeOnThrow, Tensor } from "#native";
import type { LlamaModel } from "../models/llama.ts";
import type { TapeOptions } from "../tape.ts";
import { pageTokens } from "./kv-cache.ts";
import type { Sequence } from "./sequence.ts";
import type { ServedAdapter } from "./served-adapter.ts";
import { type TableRun, tableRuns } from "./step-logits.ts";

/** Tokens [cached, cached + count) of a sequence and of the guesses that follow it. */
export interface Share {
  sequence: Sequence;
  count: number;
  /** Of so many of its last tokens, logits are wanted. */
  outputs: number;
  guesses: readonly number[];
}

export interface AdapterRows {
  adapter: ServedAdapter;
  begin: number;
  end: number;
}

export interface StepRows {
  ids: Int32Array;
  positions: Int32Array;
  sequence: Int32Array;
  slot: Int32Array;
  /** [shares, width] */
  table: Int32Array;
  width: number;
  /** Rows of which logits are wanted. */
  outputs: Int32Array;
  runs: TableRun[];
  segments: AdapterRows[];
}

/** What the ops of a step read. */
export interface StepTensors {
  ids: Tensor;
  positions: Tensor;
  sequence: Tensor;
  slot: Tensor;
  blockTable: Tensor;
}

/**
 * Pages of the widest sequence, up to a power of two: a table's width changes seldom while sequences grow, and with it a
 * recorded step (step-graphs.ts).
 */
const widthFor = (pages: number): number => 2 ** Math.ceil(Math.log2(Math.max(1, pages)));

export function layOut(model: LlamaModel, shares: readonly Share[]): StepRows {
  const total = shares.reduce((sum, s) => sum + s.count, 0);
  const width = widthFor(Math.max(...shares.map((s) => s.sequence.pages.length)));
  const [ids, positions] = [new Int32Array(total), new Int32Array(total)];
  const [sequence, slot] = [new Int32Array(total), new Int32Array(total)];
  const table = new Int32Array(shares.length * width);
  const outputs: number[] = [];
  const segments: AdapterRows[] = [];
  let row = 0;
  shares.forEach(({ sequence: s, count, outputs: wanted, guesses }, i) => {
    table.set(s.pages, i * width);
    const adapter = s.request.adapter;
    const open = segments.at(-1);
    if (adapter && open?.adapter === adapter && open.end === row) open.end = row + count;
    else if (adapter) segments.push({ adapter, begin: row, end: row + count });
    for (let k = 0; k < count; k++, row++) {
      const position = s.cached + k;
      ids[row] = s.ids[position] ?? guesses[position - s.ids.length] ?? 0;
      positions[row] = position;
      sequence[row] = i;
      slot[row] = (s.pages[Math.floor(position / pageTokens)] ?? 0) * pageTokens + (position % pageTokens);
    }
    for (let k = row - wanted; k < row; k++) outputs.push(k);
  });
  const runs = tableRuns(
    model,
    shares.map(({ sequence: s, count, outputs: wanted }) => ({ adapter: s.request.adapter, count, outputs: wanted })),
  );
  return { ids, positions, sequence, slot, table, width, outputs: Int32Array.from(outputs), runs, segments };
}

/**
 * A step of a token a sequence with rows up to a power of two, so that few numbers of rows are met: the last row again and
 * again, which writes what that one writes to where it writes it.
 */
export function padded(rows: StepRows): StepRows {
  const count = rows.ids.length;
  const size = 2 ** Math.ceil(Math.log2(count));
  const grow = (values: Int32Array) => {
    const grown = new Int32Array(size).fill(values[count - 1] ?? 0);
    grown.set(values);
    return grown;
  };
  const table = new Int32Array(size * rows.width);
  table.set(rows.table);
  const { ids, positions, sequence, slot } = rows;
  const arrays = { ids: grow(ids), positions: grow(positions), sequence: grow(sequence), slot: grow(slot), table };
  const segments = rows.segments.map((s) => (s.end === count ? { ...s, end: size } : s));
  return { ...rows, ...arrays, segments };
}

const bytesOf = (values: Int32Array) => new Uint8Array(values.buffer, values.byteOffset, values.byteLength);

export function writeRows(to: StepTensors, { ids, positions, sequence, slot, table }: StepRows): void {
  const pairs: [Tensor, Int32Array][] = [
    [to.ids, ids],
    [to.positions, positions],
    [to.sequence, sequence],
    [to.slot, slot],
    [to.blockTable, table],
  ];
  for (const [tensor, values] of pairs) tensor.write(bytesOf(values));
}

/** Tensors for rows of this form, not written. The caller frees them: freeRows. */
export function emptyRows({ ids, table, width }: StepRows, device: TapeOptions["device"]): StepTensors {
  const empty = (...shape: number[]) => Tensor.empty("int32", shape, { device, kind: "activations" });
  const [rows, sequences] = [ids.length, table.length / width];
  return freeOnThrow(() => {
    const tensors = { ids: empty(rows), positions: empty(rows), sequence: empty(rows), slot: empty(rows) };
    return { ...tensors, blockTable: empty(sequences, width) };
  });
}

export function freeRows({ ids, positions, sequence, slot, blockTable }: StepTensors): void {
  for (const t of [ids, positions, sequence, slot, blockTable]) t.free();
}
