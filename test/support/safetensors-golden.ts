// Reads a golden safetensors file whole; tests only.
import { readFileSync } from "node:fs";

export interface GoldenTensor {
  dtype: string;
  shape: number[];
  bytes: Uint8Array;
}

export function readGolden(path: string | URL): Map<string, GoldenTensor> {
  const file = readFileSync(path);
  const headerSize = Number(file.readBigUInt64LE(0));
  const header = JSON.parse(file.toString("utf8", 8, 8 + headerSize));
  const tensors = new Map<string, GoldenTensor>();
  for (const [name, t] of Object.entries<{ dtype: string; shape: number[]; data_offsets: [number, number] }>(header)) {
    if (name === "__metadata__") continue;
    const start = 8 + headerSize;
    const bytes = file.subarray(start + t.data_offsets[0], start + t.data_offsets[1]);
    tensors.set(name, { dtype: t.dtype, shape: t.shape, bytes: new Uint8Array(bytes) });
  }
  return tensors;
}
