// Tensors in native memory: creation, bytes in and out, release. Values and shapes are checked in C++ too.
import { addon } from "./addon.ts";
import type { MappedFile } from "./mapped-file.ts";

export const dtypes = ["float64", "float32", "bfloat16", "float16", "uint8", "int32"] as const;
/** A tensor on "meta" has a shape and is counted, but has no memory; its ops compute nothing and its values read as zero. */
export const devices = ["cpu", "reference", "cuda", "meta"] as const;
export const kinds = ["weights", "adapter", "gradients", "optimizer", "activations", "workspace"] as const;

export type DType = (typeof dtypes)[number];
export type Device = (typeof devices)[number];
export type MemoryKind = (typeof kinds)[number];

export const elementBytes: Record<DType, number> = {
  float64: 8,
  float32: 4,
  bfloat16: 2,
  float16: 2,
  uint8: 1,
  int32: 4,
};

/** Where a new tensor lives and what its bytes are counted as. */
export interface Placement {
  device: Device;
  kind: MemoryKind;
  /** Folder, on a disk, of a spill file: the tensor is zeros there, of kind optimizer, and counted as paged. */
  pagingDir?: string | undefined;
}

/** Tensors made by the innermost freeOnThrow under way. */
let scope: Tensor[] | undefined;

/**
 * Runs `work`, which is synchronous, and gives its result. If it throws, the tensors that it made and did
 * not free are freed: a load that fails half-way leaves nothing behind.
 */
export function freeOnThrow<T>(work: () => T): T {
  const outer = scope;
  const made: Tensor[] = [];
  scope = made;
  try {
    const result = work();
    outer?.push(...made);
    return result;
  } catch (thrown) {
    Tensor.freeAll(made.filter((t) => !t.isFree));
    throw thrown;
  } finally {
    scope = outer;
  }
}

/** Four numbers, as the addon takes a shape; -1 ends it. */
function dimensions(shape: readonly number[]): [number, number, number, number] {
  if (shape.length > 4 || shape.some((n) => !Number.isSafeInteger(n) || n < 0)) {
    throw new RangeError(`[tensor] shape: expected at most 4 whole numbers >= 0, got [${shape.join(",")}]`);
  }
  const [d0 = -1, d1 = -1, d2 = -1, d3 = -1] = shape;
  return [d0, d1, d2, d3];
}

/** The same memory as bytes. */
export function float32Bytes(values: Float32Array): Uint8Array {
  return new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
}

/** A contiguous, row-major tensor in native memory. Its owner frees it; no finalizer does. */
export class Tensor {
  readonly handle: number;
  readonly dtype: DType;
  readonly shape: readonly number[];
  readonly device: Device;
  #isFree = false;

  private constructor(handle: number, dtype: DType, shape: readonly number[], device: Device) {
    this.handle = handle;
    this.dtype = dtype;
    this.shape = shape;
    this.device = device;
  }

  /**
   * Memory is not cleared, but for that of paged tensors.
   * @throws RESOURCE_EXHAUSTED when the system, the limit or the disk refuses; FAILED_PRECONDITION for a folder
   * that cannot hold a spill file.
   */
  static empty(dtype: DType, shape: readonly number[], at: Placement): Tensor {
    const [d0, d1, d2, d3] = dimensions(shape);
    const [type, device, kind] = [dtypes.indexOf(dtype), devices.indexOf(at.device), kinds.indexOf(at.kind)];
    const handle: number = addon.tensorCreate(type, device, kind, d0, d1, d2, d3, at.pagingDir ?? null);
    return Tensor.adopt(handle, dtype, shape, at.device);
  }

  /**
   * Weights that are a file's own bytes from `byteOffset` on, which must be a multiple of an element's: read-only,
   * without a copy. The file may be closed; it stays mapped until its last tensor is freed.
   */
  static mapped(file: MappedFile, byteOffset: number, dtype: DType, shape: readonly number[], device: Device): Tensor {
    const [d0, d1, d2, d3] = dimensions(shape);
    const at = [file.handle, byteOffset, dtypes.indexOf(dtype), devices.indexOf(device)];
    return Tensor.adopt(addon.tensorMapped(...at, d0, d1, d2, d3), dtype, shape, device);
  }

  /** On the meta device: counted as mapped() counts a tensor of this shape. */
  static mappedShape(dtype: DType, shape: readonly number[]): Tensor {
    const [d0, d1, d2, d3] = dimensions(shape);
    const at = [0, 0, dtypes.indexOf(dtype), devices.indexOf("meta")];
    return Tensor.adopt(addon.tensorMapped(...at, d0, d1, d2, d3), dtype, shape, "meta");
  }

  private static adopt(handle: number, dtype: DType, shape: readonly number[], device: Device): Tensor {
    const t = new Tensor(handle, dtype, [...shape], device);
    scope?.push(t);
    return t;
  }

  /** Copies `bytes`, which must fill the tensor exactly. */
  static fromBytes(bytes: Uint8Array, dtype: DType, shape: readonly number[], at: Placement): Tensor {
    const t = Tensor.empty(dtype, shape, at);
    if (t.byteLength !== bytes.byteLength) {
      t.free();
      throw new RangeError(
        `[tensor] bytes: expected ${t.byteLength} for ${dtype} [${shape.join(",")}], got ${bytes.byteLength}`,
      );
    }
    t.write(bytes);
    return t;
  }

  static fromFloat32(values: Float32Array, shape: readonly number[], at: Placement): Tensor {
    return Tensor.fromBytes(float32Bytes(values), "float32", shape, at);
  }

  get count(): number {
    return this.shape.reduce((a, b) => a * b, 1);
  }

  get byteLength(): number {
    return this.count * elementBytes[this.dtype];
  }

  write(bytes: Uint8Array, byteOffset = 0): void {
    addon.tensorWrite(this.handle, bytes, byteOffset);
  }

  read(byteOffset = 0, byteLength = this.byteLength - byteOffset): Uint8Array {
    const bytes = new Uint8Array(byteLength);
    addon.tensorRead(this.handle, bytes, byteOffset);
    return bytes;
  }

  /** Copies bytes from `byteOffset` on until `target` is full. */
  readInto(target: Uint8Array, byteOffset = 0): void {
    addon.tensorRead(this.handle, target, byteOffset);
  }

  /** All bytes in pieces that share `buffer`: each is gone when the next one comes. */
  *pieces(buffer: Uint8Array): Generator<Uint8Array> {
    for (let at = 0; at < this.byteLength; at += buffer.length) {
      const piece = buffer.subarray(0, Math.min(buffer.length, this.byteLength - at));
      this.readInto(piece, at);
      yield piece;
    }
  }

  /** Copy of the values of a float32 tensor. */
  toFloat32(): Float32Array {
    if (this.dtype !== "float32") throw new TypeError(`[tensor] toFloat32: expected float32, got ${this.dtype}`);
    return new Float32Array(this.read().buffer);
  }

  /** Of a paged tensor: whether it is used next (it is read in) or not for long (it is the first to be written out). */
  advise(use: "soon" | "later"): void {
    addon.tensorAdvise(this.handle, use === "soon" ? 0 : 1);
  }

  zero(): this {
    addon.tensorZero(this.handle);
    return this;
  }

  get isFree(): boolean {
    return this.#isFree;
  }

  free(): void {
    addon.tensorFree(this.handle);
    this.#isFree = true;
  }

  /** Frees all of them in one call. When one is free already, none is freed. */
  static freeAll(all: readonly Tensor[]): void {
    addon.tensorFree(...all.map((t) => t.handle));
    for (const t of all) t.#isFree = true;
  }
}

/** Clears all of them. */
export function zeroAll(all: readonly Tensor[]): void {
  addon.tensorZero(...all.map((t) => t.handle));
}
