// Examples one after the other, without padding: documents that do not see each other. Labels are
// shifted here, once: row n predicts token n + 1 of its own document.

import { type Device, Tensor } from "#native";
import { expect } from "#packages/errors";

export interface Example {
  inputIds: Int32Array;
  /** Same length, not shifted; -100 = not trained. Null: nothing is trained (inference). */
  labels: Int32Array | null;
  /** Of its trained tokens in the loss; a row of weight 2 counts as if it were there twice. Default: 1. */
  weight?: number;
}

/** A micro-batch as batches of one weight each: mostly one. */
export function byWeight(examples: readonly Example[]): { weight: number; batch: PackedBatch }[] {
  const groups = Map.groupBy(examples, ({ weight = 1 }) => weight);
  return Array.from(groups, ([weight, group]) => ({ weight, batch: packExamples(group) }));
}

export const ignoredLabel = -100;

/** Host side of a packed batch. */
export interface PackedBatch {
  ids: Int32Array;
  labels: Int32Array;
  positions: Int32Array;
  starts: Int32Array;
  /** Rows with a label. */
  trainedTokens: number;
}

export function packExamples(examples: readonly Example[]): PackedBatch {
  const total = examples.reduce((sum, e) => sum + e.inputIds.length, 0);
  const batch: PackedBatch = {
    ids: new Int32Array(total),
    labels: new Int32Array(total).fill(ignoredLabel),
    positions: new Int32Array(total),
    starts: new Int32Array(examples.length + 1),
    trainedTokens: 0,
  };
  let row = 0;
  examples.forEach(({ inputIds, labels }, d) => {
    const got = labels?.length ?? inputIds.length;
    expect(got === inputIds.length, "pack", `labels: expected ${inputIds.length} as there are tokens, got ${got}`);
    batch.ids.set(inputIds, row);
    if (labels) batch.labels.set(labels.subarray(1), row);
    for (let i = 0; i < inputIds.length; i++) batch.positions[row + i] = i;
    row += inputIds.length;
    batch.starts[d + 1] = row;
  });
  batch.trainedTokens = batch.labels.reduce((n, label) => n + (label >= 0 ? 1 : 0), 0);
  return batch;
}

/** A packed batch in the memory of a device. */
export interface DeviceBatch {
  rows: number;
  ids: Tensor;
  labels: Tensor;
  positions: Tensor;
  starts: Tensor;
}

export function int32Tensor(values: Int32Array, device: Device): Tensor {
  const bytes = new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
  return Tensor.fromBytes(bytes, "int32", [values.length], { device, kind: "activations" });
}

export function uploadBatch(batch: PackedBatch, device: Device): DeviceBatch {
  const { ids, labels, positions, starts } = batch;
  return {
    rows: ids.length,
    ids: int32Tensor(ids, device),
    labels: int32Tensor(labels, device),
    positions: int32Tensor(positions, device),
    starts: int32Tensor(starts, device),
  };
}

export function freeBatch(batch: DeviceBatch): void {
  for (const t of [batch.ids, batch.labels, batch.positions, batch.starts]) t.free();
}
