// One forward pass for many sequences at once: prompts in pieces, running sequences a token each, rows
// of one adapter side by side so that the base is read once for all of them (S-LoRA, arXiv:2311.03285).
import { convert, embeddingForward, kvWrite, linearForward, loraAdd, pagedAttention, Tensor } from "#native";
import { int32Tensor } from "../batch.ts";
import type { Adapter } from "../lora.ts";
import {
  type Attend,
  attentionShape,
  block,
  embed,
  finalNorm,
  type LlamaModel,
  type RunLinear,
} from "../models/llama.ts";
import { linear } from "../ops.ts";
import { Tape, type TapeOptions } from "../tape.ts";
import { type KvCache, pageTokens } from "./kv-cache.ts";
import type { Sequence } from "./sequence.ts";

/** Tokens [cached, cached + count) of a sequence. */
export interface Share {
  sequence: Sequence;
  count: number;
}

interface Rows {
  ids: Tensor;
  positions: Tensor;
  sequence: Tensor;
  slot: Tensor;
  blockTable: Tensor;
  /** Row of the last token of each share. */
  last: Tensor;
  segments: { adapter: Adapter; begin: number; end: number }[];
}

function layOut(shares: readonly Share[], device: TapeOptions["device"]): Rows {
  const total = shares.reduce((sum, s) => sum + s.count, 0);
  const width = Math.max(...shares.map((s) => s.sequence.pages.length));
  const [ids, positions, sequence, slot] = [0, 1, 2, 3].map(() => new Int32Array(total)) as [
    Int32Array,
    Int32Array,
    Int32Array,
    Int32Array,
  ];
  const table = new Int32Array(shares.length * width);
  const last = new Int32Array(shares.length);
  const segments: Rows["segments"] = [];
  let row = 0;
  shares.forEach(({ sequence: s, count }, i) => {
    table.set(s.pages, i * width);
    const adapter = s.request.adapter;
    const open = segments.at(-1);
    if (adapter && open?.adapter === adapter && open.end === row) open.end = row + count;
    else if (adapter) segments.push({ adapter, begin: row, end: row + count });
    for (let k = 0; k < count; k++, row++) {
      const position = s.cached + k;
      ids[row] = s.ids[position] ?? 0;
      positions[row] = position;
      sequence[row] = i;
      slot[row] = (s.pages[Math.floor(position / pageTokens)] ?? 0) * pageTokens + (position % pageTokens);
    }
    last[i] = row - 1;
  });
  const bytes = new Uint8Array(table.buffer);
  const blockTable = Tensor.fromBytes(bytes, "int32", [shares.length, width], { device, kind: "activations" });
  const upload = (values: Int32Array) => int32Tensor(values, device);
  const tensors = { ids: upload(ids), positions: upload(positions), sequence: upload(sequence), slot: upload(slot) };
  return { ...tensors, last: upload(last), blockTable, segments };
}

function freeRows({ ids, positions, sequence, slot, blockTable, last }: Rows): void {
  for (const t of [ids, positions, sequence, slot, blockTable, last]) t.free();
}

/** The base for all rows, then each adapter on its own. */
function segmentedLinear(segments: Rows["segments"]): RunLinear {
  return (tape, x, layer) => {
    const y = linear(tape, x, { ...layer, lora: null }, null);
    for (const { adapter, begin, end } of segments) {
      const lora = adapter.layers.get(layer.name);
      if (lora) loraAdd({ x: x.value, a: lora.a, b: lora.b, scaling: lora.scaling, begin, end, y: y.value });
    }
    return y;
  };
}

function attendCache(model: LlamaModel, cache: KvCache, layer: number, rows: Rows): Attend {
  const shape = attentionShape(model.config);
  return (tape, q, k, v) => {
    const [kCache, vCache] = [cache.keys[layer], cache.values[layer]];
    if (!kCache || !vCache) throw new RangeError(`[generate] layer ${layer} has no cache`);
    kvWrite(k.value, v.value, rows.slot, kCache, vCache);
    const o = tape.variable(tape.empty(q.value.shape), false);
    const { blockTable, sequence, positions } = rows;
    pagedAttention(shape, { q: q.value, kCache, vCache, blockTable, sequence, position: positions, o: o.value });
    return o;
  };
}

/** Logits float32 [shares, V] after the last token of each share. The caller frees them. */
export function forwardShares(
  model: LlamaModel,
  cache: KvCache,
  shares: readonly Share[],
  { device, dtype }: Pick<TapeOptions, "device" | "dtype">,
): Tensor {
  const rows = layOut(shares, device);
  const run = segmentedLinear(rows.segments);
  const rotate = { positions: rows.positions, tables: model.tables };
  const tapeOptions = { device, dtype, recording: false };
  try {
    let tape = new Tape(tapeOptions);
    let x = embed(tape, model, rows.ids);
    model.blocks.forEach((layer, i) => {
      const next = new Tape(tapeOptions);
      const y = block(next, layer, next.variable(x.value, false), run, rotate, attendCache(model, cache, i, rows));
      tape.dispose();
      [tape, x] = [next, y];
    });
    using owner = tape;
    return headLogits(owner, model, x.value, rows.last);
  } finally {
    freeRows(rows);
  }
}

function headLogits(tape: Tape, model: LlamaModel, hidden: Tensor, last: Tensor): Tensor {
  const gathered = tape.empty([last.count, hidden.shape[1] ?? 0]);
  embeddingForward(hidden, last, gathered);
  const y = finalNorm(tape, model, tape.variable(gathered, false)).value;
  const { device } = tape.options;
  // The head computes in float32 whatever the activations are: sampling compares close logits.
  const wide = tape.empty(y.shape, "float32");
  convert(y, wide);
  const logits = Tensor.empty("float32", [last.count, model.head.weight.out], { device, kind: "activations" });
  linearForward({ x: wide, w: model.head.weight, bias: null, lora: null, h: null, y: logits });
  return logits;
}
