// The GGUF container, version 3 (ggml, docs/gguf.md): key-value metadata, a list of tensors, their data. It knows no
// model. Tensors are written in the order of their list, one at a time.
import { closeSync, fsyncSync, mkdirSync, openSync, renameSync, rmSync } from "node:fs";
import { dirname } from "node:path";
import { NibbleError } from "#packages/errors";
import { partialName, syncFolder, writeError, writeFully } from "../files.ts";

const op = "gguf_write";
const version = 3;
const alignment = 32;

type Scalar =
  | { type: "uint32" | "int32" | "float32"; value: number }
  | { type: "bool"; value: boolean }
  | { type: "string"; value: string };
type List = { type: "list"; of: "string"; value: readonly string[] } | NumberList;
type NumberList = { type: "list"; of: "int32" | "float32"; value: readonly number[] };
export type GgufValue = Scalar | List;

/** Of ggml's tensor types, those that are written here: number, elements of a block, bytes of a block. */
export const ggmlTypes = {
  f32: { id: 0, elements: 1, bytes: 4 },
  f16: { id: 1, elements: 1, bytes: 2 },
  q4_0: { id: 2, elements: 32, bytes: 18 },
  q8_0: { id: 8, elements: 32, bytes: 34 },
  bf16: { id: 30, elements: 1, bytes: 2 },
} as const;
export type GgmlType = keyof typeof ggmlTypes;

export interface GgufTensor {
  name: string;
  type: GgmlType;
  /** Row-major, as in safetensors: [out, in]. */
  shape: readonly number[];
}

const typeIds = { uint32: 4, int32: 5, float32: 6, bool: 7, string: 8, list: 9 } as const;

class Bytes {
  private readonly parts: Uint8Array[] = [];
  length = 0;

  private push(part: Uint8Array): void {
    this.parts.push(part);
    this.length += part.length;
  }
  private number(bytes: number, put: (view: DataView) => void): void {
    const view = new DataView(new ArrayBuffer(bytes));
    put(view);
    this.push(new Uint8Array(view.buffer));
  }
  u8(value: number): void {
    this.push(Uint8Array.of(value));
  }
  u32(value: number): void {
    this.number(4, (view) => view.setUint32(0, value, true));
  }
  i32(value: number): void {
    this.number(4, (view) => view.setInt32(0, value, true));
  }
  f32(value: number): void {
    this.number(4, (view) => view.setFloat32(0, value, true));
  }
  u64(value: number): void {
    this.number(8, (view) => view.setBigUint64(0, BigInt(value), true));
  }
  text(value: string): void {
    const bytes = new TextEncoder().encode(value);
    this.u64(bytes.length);
    this.push(bytes);
  }
  whole(): Uint8Array {
    return Buffer.concat(this.parts);
  }
}

function putScalar(to: Bytes, { type, value }: Scalar): void {
  if (type === "string") to.text(value);
  else if (type === "bool") to.u8(Number(value));
  else if (type === "uint32") to.u32(value);
  else if (type === "int32") to.i32(value);
  else to.f32(value);
}

function putList(to: Bytes, { of, value }: List): void {
  to.u32(typeIds.list);
  to.u32(typeIds[of]);
  to.u64(value.length);
  for (const item of value) putScalar(to, { type: of, value: item } as Scalar);
}

function putValue(to: Bytes, entry: GgufValue): void {
  if (entry.type === "list") {
    putList(to, entry);
  } else {
    to.u32(typeIds[entry.type]);
    putScalar(to, entry);
  }
}

const padded = (bytes: number) => Math.ceil(bytes / alignment) * alignment;

function ggmlBytes({ type, shape }: Pick<GgufTensor, "type" | "shape">): number {
  const { elements, bytes } = ggmlTypes[type];
  return (shape.reduce((product, n) => product * n, 1) / elements) * bytes;
}

function header(metadata: ReadonlyMap<string, GgufValue>, tensors: readonly GgufTensor[]): Uint8Array {
  const to = new Bytes();
  for (const letter of "GGUF") to.u8(letter.charCodeAt(0));
  to.u32(version);
  to.u64(tensors.length);
  to.u64(metadata.size);
  for (const [key, value] of metadata) {
    to.text(key);
    putValue(to, value);
  }
  let offset = 0;
  for (const tensor of tensors) {
    to.text(tensor.name);
    to.u32(tensor.shape.length);
    for (const n of [...tensor.shape].reverse()) to.u64(n);
    to.u32(ggmlTypes[tensor.type].id);
    to.u64(offset);
    offset += padded(ggmlBytes(tensor));
  }
  while (to.length % alignment !== 0) to.u8(0);
  return to.whole();
}

/** The file appears whole or not at all. */
export class GgufWriter {
  private readonly path: string;
  private readonly temporary: string;
  private readonly left: GgufTensor[];
  private fd: number;
  private end: number;

  constructor(path: string, metadata: ReadonlyMap<string, GgufValue>, tensors: readonly GgufTensor[]) {
    this.path = path;
    this.temporary = partialName(path);
    this.left = [...tensors];
    try {
      mkdirSync(dirname(path), { recursive: true });
      this.fd = openSync(this.temporary, "wx");
    } catch (thrown) {
      throw NibbleError.from(thrown, op);
    }
    const head = header(metadata, tensors);
    this.guard(() => writeFully(this.fd, head, 0));
    this.end = head.length;
  }

  /** The next tensor of the list. */
  write(name: string, bytes: Uint8Array): void {
    this.guard(() => {
      const next = this.left.shift();
      const expected = next ? ggmlBytes(next) : 0;
      if (next?.name !== name || bytes.length !== expected) {
        const want = next ? `${next.name} of ${expected} bytes` : "nothing more";
        throw new NibbleError(`expected ${want}, got ${name} of ${bytes.length}`, { code: "INTERNAL", op });
      }
      writeFully(this.fd, bytes, this.end);
      this.end += bytes.length;
      const zeros = new Uint8Array(padded(expected) - expected);
      writeFully(this.fd, zeros, this.end);
      this.end += zeros.length;
    });
  }

  /** Bytes of the file. */
  finish(): number {
    return this.guard(() => {
      const [missing] = this.left;
      if (missing) throw new NibbleError(`${missing.name} was not written`, { code: "INTERNAL", op });
      fsyncSync(this.fd);
      closeSync(this.fd);
      this.fd = -1;
      renameSync(this.temporary, this.path);
      syncFolder(dirname(this.path));
      return this.end;
    });
  }

  /** Drops what was written. Harmless after finish(). */
  abort(): void {
    if (this.fd >= 0) closeSync(this.fd);
    this.fd = -1;
    rmSync(this.temporary, { force: true });
  }

  private guard<T>(work: () => T): T {
    try {
      return work();
    } catch (thrown) {
      this.abort();
      throw writeError(thrown, op, this.path);
    }
  }
}
