// One forward pass for many sequences at once: prompts in pieces, running sequences a token each, rows
// of one adapter side by side so that the base is read once for all of them (S-LoRA, arXiv:2311.03285).
import {
  elementBytes,
  llamaBlock,
  llamaLinears,
  packLlamaBlock,
  packLlamaLora,
  packLlamaSegments,
  type Tensor,
} from "#native";
import { int32Tensor } from "../batch.ts";
import { getOrMake } from "../get-or-make.ts";
import { attentionShape, type LlamaBlock, type LlamaModel } from "../models/llama.ts";
import { embedding } from "../ops.ts";
import { Tape, type TapeOptions } from "../tape.ts";
import type { KvCache } from "./kv-cache.ts";
import type { ServedAdapter } from "./served-adapter.ts";
import { type HeadUse, lastLogits, type StepLogits, type TableRun } from "./step-logits.ts";
import { type AdapterRows, emptyRows, freeRows, layOut, type Share, type StepTensors, writeRows } from "./step-rows.ts";

/** Hidden states [N, C] that the blocks begin with, each run's from its own table. */
function embedded(tape: Tape, model: LlamaModel, ids: Tensor, runs: readonly TableRun[]): Tensor {
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

/** What the native block reads of each layer: tensors live as long as their model or adapter does. */
const packedBlocks = new WeakMap<LlamaBlock, Float64Array>();
const packedAdapters = new WeakMap<ServedAdapter, WeakMap<LlamaBlock, Float64Array>>();

function packedLora(adapter: ServedAdapter, layer: LlamaBlock): Float64Array {
  const blocks = getOrMake(packedAdapters, adapter, () => new WeakMap());
  const matrices = () => llamaLinears.map((linear) => adapter.layers.get(layer[linear].name) ?? null);
  return getOrMake(blocks, layer, () => packLlamaLora(adapter.matrices, matrices()));
}

/** The adapters' matrices of one layer. */
function packedSegments(layer: LlamaBlock, segments: readonly AdapterRows[]): Float64Array {
  return packLlamaSegments(segments.map(({ adapter, ...rows }) => ({ ...rows, lora: packedLora(adapter, layer) })));
}

/** Hidden states [N, C] after the last block; the tape's. */
export function hiddenStates(
  tape: Tape,
  { model, cache }: { model: LlamaModel; cache: KvCache },
  tensors: StepTensors,
  { runs, segments }: { runs: readonly TableRun[]; segments: readonly AdapterRows[] },
): Tensor {
  const { ids, positions: position, slot, sequence, blockTable } = tensors;
  const shape = attentionShape(model.config);
  const x = embedded(tape, model, ids, runs);
  model.blocks.forEach((layer, i) => {
    const [kCache, vCache] = [cache.keys[i], cache.values[i]];
    if (!kCache || !vCache) throw new RangeError(`[generate] layer ${i} has no cache`);
    const [nextKCache, nextVCache] = [cache.keys[i + 1], cache.values[i + 1]];
    const next = nextKCache && nextVCache ? { kCache: nextKCache, vCache: nextVCache } : null;
    const call = { x, ...model.tables, position, slot, sequence, blockTable, kCache, vCache, next };
    const block = getOrMake(packedBlocks, layer, () => packLlamaBlock(layer));
    llamaBlock(block, packedSegments(layer, segments), shape, call);
  });
  return x;
}

/** Logits of the last `outputs` tokens of each share, in order. The caller frees them. */
export function forwardShares(
  model: LlamaModel,
  cache: KvCache,
  shares: readonly Share[],
  { device, dtype }: Pick<TapeOptions, "device" | "dtype">,
  head: HeadUse = { screen: null, keep: 0 },
): StepLogits {
  const rows = layOut(model, shares);
  const tensors = emptyRows(rows, device);
  writeRows(tensors, rows);
  using tape = new Tape({ device, dtype, recording: false });
  try {
    const x = hiddenStates(tape, { model, cache }, tensors, rows);
    return lastLogits(tape, model, x, rows.outputs, rows.runs, head);
  } finally {
    freeRows(tensors);
  }
}
