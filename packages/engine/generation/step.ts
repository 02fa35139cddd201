// One forward pass for many sequences at once: prompts in pieces, running sequences a token each, rows
// of one adapter side by side so that the base is read once for all of them (S-LoRA, arXiv:2311.03285).
import { elementBytes, llamaBlock, llamaLinears, packLlamaBlock, packLlamaSegments, Tensor } from "#native";
import { int32Tensor } from "../batch.ts";
import type { Adapter } from "../lora.ts";
import { attentionShape, type LlamaBlock, type LlamaModel } from "../models/llama.ts";
import { embedding } from "../ops.ts";
import { Tape, type TapeOptions } from "../tape.ts";
import { type KvCache, pageTokens } from "./kv-cache.ts";
import type { Sequence } from "./sequence.ts";
import { type HeadUse, lastLogits, type StepLogits, type TableRun, tableRuns } from "./step-logits.ts";

/** Tokens [cached, cached + count) of a sequence and of the guesses that follow it. */
export interface Share {
  sequence: Sequence;
  count: number;
  /** Of so many of its last tokens, logits are wanted. */
  outputs: number;
  guesses: readonly number[];
}

interface Rows {
  ids: Tensor;
  positions: Tensor;
  sequence: Tensor;
  slot: Tensor;
  blockTable: Tensor;
  /** Rows of which logits are wanted. */
  outputs: Int32Array;
  runs: TableRun[];
  segments: { adapter: Adapter; begin: number; end: number }[];
}

function layOut(model: LlamaModel, shares: readonly Share[], device: TapeOptions["device"]): Rows {
  const total = shares.reduce((sum, s) => sum + s.count, 0);
  const width = Math.max(...shares.map((s) => s.sequence.pages.length));
  const [ids, positions, sequence, slot] = [0, 1, 2, 3].map(() => new Int32Array(total)) as [
    Int32Array,
    Int32Array,
    Int32Array,
    Int32Array,
  ];
  const table = new Int32Array(shares.length * width);
  const outputs: number[] = [];
  const segments: Rows["segments"] = [];
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
  const bytes = new Uint8Array(table.buffer);
  const blockTable = Tensor.fromBytes(bytes, "int32", [shares.length, width], { device, kind: "activations" });
  const upload = (values: Int32Array) => int32Tensor(values, device);
  const tensors = { ids: upload(ids), positions: upload(positions), sequence: upload(sequence), slot: upload(slot) };
  const runs = tableRuns(
    model,
    shares.map(({ sequence: s, count, outputs: wanted }) => ({ adapter: s.request.adapter, count, outputs: wanted })),
  );
  return { ...tensors, outputs: Int32Array.from(outputs), runs, blockTable, segments };
}

function freeRows({ ids, positions, sequence, slot, blockTable }: Rows): void {
  for (const t of [ids, positions, sequence, slot, blockTable]) t.free();
}

/** Hidden states [N, C] that the blocks begin with, each run's from its own table. */
function embedded(tape: Tape, model: LlamaModel, { ids, runs }: Rows): Tensor {
  if (runs.length === 1) return embedding(tape, runs[0]?.embed ?? model.embed, ids, null).value;
  const width = model.config.hiddenSize;
  const all = tape.empty([ids.count, width]);
  const rowBytes = width * elementBytes[all.dtype];
  for (const { embed, firstRow, endRow } of runs) {
    const bytes = ids.read(firstRow * 4, (endRow - firstRow) * 4);
    const own = int32Tensor(new Int32Array(bytes.buffer), ids.device);
    all.write(embedding(tape, embed, own, null).value.read(), firstRow * rowBytes);
    own.free();
  }
  return all;
}

/** What the native block reads of each layer; a model's tensors live as long as it does. */
const packedBlocks = new WeakMap<LlamaBlock, Float64Array>();

function packed(layer: LlamaBlock): Float64Array {
  const known = packedBlocks.get(layer);
  if (known) return known;
  const made = packLlamaBlock(layer);
  packedBlocks.set(layer, made);
  return made;
}

const noSegments = new Float64Array(0);

/** The adapters' matrices of one layer. */
function packedSegments(layer: LlamaBlock, segments: Rows["segments"]): Float64Array {
  if (segments.length === 0) return noSegments;
  const names = llamaLinears.map((linear) => layer[linear].name);
  return packLlamaSegments(
    segments.map(({ adapter, begin, end }) => ({
      begin,
      end,
      lora: names.map((name) => adapter.layers.get(name) ?? null),
    })),
  );
}

/** Logits of the last `outputs` tokens of each share, in order. The caller frees them. */
export function forwardShares(
  model: LlamaModel,
  cache: KvCache,
  shares: readonly Share[],
  { device, dtype }: Pick<TapeOptions, "device" | "dtype">,
  head: HeadUse = { screen: null, keep: 0 },
): StepLogits {
  const rows = layOut(model, shares, device);
  const { positions: position, slot, sequence, blockTable } = rows;
  const shape = attentionShape(model.config);
  using tape = new Tape({ device, dtype, recording: false });
  try {
    const x = embedded(tape, model, rows);
    model.blocks.forEach((layer, i) => {
      const [kCache, vCache] = [cache.keys[i], cache.values[i]];
      if (!kCache || !vCache) throw new RangeError(`[generate] layer ${i} has no cache`);
      const call = { x, ...model.tables, position, slot, sequence, blockTable, kCache, vCache };
      llamaBlock(packed(layer), packedSegments(layer, rows.segments), shape, call);
    });
    return lastLogits(tape, model, x, rows.outputs, rows.runs, head);
  } finally {
    freeRows(rows);
  }
}
