// The digest of a model: one sha256 over what it computes with, whatever the number of shards and the
// order of tensors. Adapters are pinned to it, so a base with one other byte is refused.
// Format 1: sha256 of "nibble-model-1\n", one line of JSON with the settings that change the result, and
// one line a tensor, sorted by name: name, dtype, shape, sha256 of its bytes.
import { createHash, type Hash } from "node:crypto";
import { NibbleError } from "#packages/errors";
import { byteLengthOf } from "./dtypes.ts";
import type { LlamaConfig } from "./llama-config.ts";
import { isIgnorable } from "./llama-weights.ts";
import type { ModelFolder } from "./model-folder.ts";
import type { TensorSpec } from "./safetensors-header.ts";

const op = "model_digest";
const chunkBytes = 4 << 20;

/** Takes tensors in any order, whole or in pieces that follow one another. */
export class ModelHasher {
  private readonly lines = new Map<string, string>();
  private open: { spec: TensorSpec; hash: Hash; left: number } | undefined;

  /** A whole tensor. */
  add(spec: TensorSpec, bytes: Uint8Array): void {
    this.begin(spec);
    this.update(bytes);
  }

  begin(spec: TensorSpec): void {
    this.end();
    if (this.lines.has(spec.name)) fail(`tensor ${spec.name} came twice`);
    this.open = { spec, hash: createHash("sha256"), left: byteLengthOf(spec.dtype, spec.shape) };
  }

  update(bytes: Uint8Array): void {
    if (!this.open) throw new RangeError("[model_digest] expected begin() before update()");
    this.open.hash.update(bytes);
    this.open.left -= bytes.length;
  }

  /** "sha256:" and 64 hex digits. */
  digest(config: LlamaConfig): string {
    this.end();
    const hash = createHash("sha256")
      .update("nibble-model-1\n")
      .update(`${JSON.stringify(settingsOf(config))}\n`);
    for (const name of [...this.lines.keys()].sort()) {
      if (!isIgnorable(config, name)) hash.update(`${this.lines.get(name)}\n`);
    }
    return `sha256:${hash.digest("hex")}`;
  }

  private end(): void {
    if (!this.open) return;
    const { spec, hash, left } = this.open;
    const expected = byteLengthOf(spec.dtype, spec.shape);
    if (left !== 0) fail(`tensor ${spec.name}: expected ${expected} bytes, got ${expected - left}`);
    const line = [spec.name, spec.dtype, [...spec.shape], hash.digest("hex")];
    this.lines.set(spec.name, JSON.stringify(line));
    this.open = undefined;
  }
}

function fail(message: string): never {
  throw new NibbleError(message, { code: "INVALID_ARGUMENT", op });
}

/** Both spellings of a config parse to the same object, so they have the same digest. The keys' order is part of format 1. */
function settingsOf(c: LlamaConfig): unknown {
  return {
    architecture: c.architecture,
    heads: [c.headCount, c.kvHeadCount, c.headDim],
    rmsNormEps: c.rmsNormEps,
    rope: [c.rope.theta, Object.entries(c.rope.scaling).sort(([a], [b]) => (a < b ? -1 : 1))],
    tied: c.tieWordEmbeddings,
    act: c.hiddenAct,
  };
}

/** Reads the whole model once, in small pieces. */
export function digestOfModel(folder: ModelFolder): string {
  const hasher = new ModelHasher();
  const chunk = new Uint8Array(chunkBytes);
  for (const [name, { info }] of folder.tensors) {
    hasher.begin({ name, dtype: info.dtype, shape: info.shape });
    for (let at = 0; at < info.byteLength; at += chunkBytes) {
      const piece = chunk.subarray(0, Math.min(chunkBytes, info.byteLength - at));
      folder.readInto(name, piece, at);
      hasher.update(piece);
    }
  }
  return hasher.digest(folder.config);
}
