// The golden models in the engine, for tests: loading, packing rows of golden files, comparing floats.
import assert from "node:assert/strict";
import { fileURLToPath } from "node:url";
import type { Device } from "#native";
import { openModelFolder } from "#packages/hub";
import type { Example } from "../../packages/engine/batch.ts";
import { loadModel } from "../../packages/engine/model-load.ts";
import type { LlamaModel } from "../../packages/engine/models/llama.ts";
import { type GoldenTensor, readGolden } from "./safetensors-golden.ts";

export const goldenPath = (name: string): string => fileURLToPath(new URL(`../golden/${name}`, import.meta.url));

export function goldenTensors(name: string): (key: string) => GoldenTensor {
  const tensors = readGolden(goldenPath(name));
  return (key) => tensors.get(key) ?? assert.fail(`${name} has no ${key}`);
}

export function floatsOf({ bytes, dtype }: GoldenTensor): Float32Array {
  assert.equal(dtype, "F32");
  return new Float32Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 4);
}

/** An int64 tensor [rows, length] as rows of numbers. */
export function rowsOf({ bytes, dtype, shape }: GoldenTensor): Int32Array[] {
  assert.equal(dtype, "I64");
  const length = shape.at(-1) ?? 0;
  const all = Int32Array.from(new BigInt64Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 8), Number);
  return Array.from({ length: all.length / length }, (_, i) => all.subarray(i * length, (i + 1) * length));
}

export function examplesOf(ids: readonly Int32Array[], labels: readonly Int32Array[] | null): Example[] {
  return ids.map((inputIds, i) => ({ inputIds, labels: labels?.[i] ?? null }));
}

export function loadGoldenModel(name: string, device: Device): LlamaModel {
  using folder = openModelFolder(goldenPath(name));
  return loadModel(folder, { device, quant: null });
}

export function maxDifference(actual: Float32Array, expected: Float32Array): number {
  assert.equal(actual.length, expected.length);
  return actual.reduce((worst, x, i) => Math.max(worst, Math.abs(x - (expected[i] ?? Number.NaN))), 0);
}

/** |a - b| / |b|, L2. */
export function relativeDifference(actual: Float32Array, expected: Float32Array): number {
  assert.equal(actual.length, expected.length);
  let difference = 0;
  let size = 0;
  expected.forEach((x, i) => {
    difference += ((actual[i] ?? Number.NaN) - x) ** 2;
    size += x ** 2;
  });
  return Math.sqrt(difference / size);
}
