// Tensors of a model folder into native memory, in pieces: beside the tensor itself only one piece exists.

import { type Device, type DType, freeOnThrow, type MemoryKind, Tensor } from "#native";
import { expect } from "#packages/errors";
import type { ModelFolder } from "#packages/hub";

const pieceBytes = 4 << 20;
const uploadable: readonly string[] = ["float32", "bfloat16", "float16", "uint8"];

export function uploadTensor(folder: ModelFolder, name: string, device: Device, kind: MemoryKind = "weights"): Tensor {
  const { dtype, shape, byteLength } = folder.info(name);
  expect(uploadable.includes(dtype), "load_model", `${name}: expected ${uploadable.join(", ")}, got ${dtype}`);
  return freeOnThrow(() => {
    const t = Tensor.empty(dtype as DType, shape, { device, kind });
    const piece = new Uint8Array(Math.min(pieceBytes, byteLength));
    for (let at = 0; at < byteLength; at += piece.length) {
      const part = piece.subarray(0, Math.min(piece.length, byteLength - at));
      folder.readInto(name, part, at);
      t.write(part, at);
    }
    return t;
  });
}
