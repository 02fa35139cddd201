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

export const ignoredLabel = -100;

/** Host side of a packed batch. */
export interface PackedBatch {
  ids: Int32Array;
  labels: Int32Array;
  positions: Int32Array;
  starts: Int32Array;
  /** Of each row in the loss; null: 1 for all. */
  weights: Float32Array | null;
  /** Rows with a label. */
  trainedTokens: number;
  /** Of the rows with a label. */
  weightSum: number;
}

export function packExamples(examples: readonly Example[]): PackedBatch {
  const total = examples.reduce((sum, e) => sum + e.inputIds.length, 0);
  const batch: PackedBatch = {
    ids: new Int32Array(total),
    labels: new Int32Array(total).fill(ignoredLabel),
    positions: new Int32Array(total),
    starts: new Int32Array(examples.length + 1),
    weights: examples.some(({ weight = 1 }) => weight !== 1) ? new Float32Array(total) : null,
    trainedTokens: 0,
    weightSum: 0,
  };
  let row = 0;
  examples.forEach(({ inputIds, labels, weight = 1 }, d) => {
    const got = labels?.length ?? inputIds.length;
    expect(got === inputIds.length, "pack", `labels: expected ${inputIds.length} as there are tokens, got ${got}`);
    batch.ids.set(inputIds, row);
    if (labels) batch.labels.set(labels.subarray(1), row);
    batch.weights?.fill(weight, row, row + inputIds.length);
    const trained = labels?.subarray(1).reduce((n, label) => n + (label >= 0 ? 1 : 0), 0) ?? 0;
    batch.trainedTokens += trained;
    batch.weightSum += weight * trained;
    for (let i = 0; i < inputIds.length; i++) batch.positions[row + i] = i;
    row += inputIds.length;
    batch.starts[d + 1] = row;
  });
  return batch;
}

/** A packed batch in the memory of a device. */
export interface DeviceBatch {
  rows: number;
  ids: Tensor;
  labels: Tensor;
  positions: Tensor;
  starts: Tensor;
  weights: Tensor | null;
}

export function int32Tensor(values: Int32Array, device: Device): Tensor {
  const bytes = new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
  return Tensor.fromBytes(bytes, "int32", [values.length], { device, kind: "activations" });
}

export function uploadBatch(batch: PackedBatch, device: Device): DeviceBatch {
  const { ids, labels, positions, starts, weights } = batch;
  return {
    rows: ids.length,
    ids: int32Tensor(ids, device),
    labels: int32Tensor(labels, device),
    positions: int32Tensor(positions, device),
    starts: int32Tensor(starts, device),
    weights: weights && Tensor.fromFloat32(weights, [weights.length], { device, kind: "activations" }),
  };
}

export function freeBatch(batch: DeviceBatch): void {
  for (const t of [batch.ids, batch.labels, batch.positions, batch.starts, batch.weights]) t?.free();
}
