// The typed door to the native addon: tensors and ops. Order and names of arguments are those of
// native/ops/*.h. Checks here are about types and ranges; shapes and devices are checked in C++.

import { createRequire } from "node:module";
import { fileURLToPath } from "node:url";

const addon = createRequire(import.meta.url)(
  fileURLToPath(new URL("../build/native/Release/nibble.node", import.meta.url)),
);

const dtypes = ["float64", "float32", "bfloat16", "float16", "uint8", "int32"] as const;
const devices = ["cpu", "reference", "cuda"] as const;
const kinds = ["weights", "adapter", "gradients", "optimizer", "activations", "workspace"] as const;
const code4Types = ["nf4", "fp4", "int4"] as const;
const isas = ["portable", "avx2", "avx512"] as const;

export type DType = (typeof dtypes)[number];
export type Device = (typeof devices)[number];
export type MemoryKind = (typeof kinds)[number];
export type QuantType = (typeof code4Types)[number];
export type Isa = (typeof isas)[number];

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
}

/** A contiguous, row-major tensor in native memory. Its owner frees it; no finalizer does. */
export class Tensor {
  readonly handle: number;
  readonly dtype: DType;
  readonly shape: readonly number[];
  readonly device: Device;

  private constructor(handle: number, dtype: DType, shape: readonly number[], device: Device) {
    this.handle = handle;
    this.dtype = dtype;
    this.shape = shape;
    this.device = device;
  }

  /** Memory is not cleared. */
  static empty(dtype: DType, shape: readonly number[], at: Placement): Tensor {
    if (shape.length > 4 || shape.some((n) => !Number.isSafeInteger(n) || n < 0)) {
      throw new RangeError(`[tensor] shape: expected at most 4 whole numbers >= 0, got [${shape.join(",")}]`);
    }
    const d = (i: number) => shape[i] ?? -1;
    const handle: number = addon.tensorCreate(
      dtypes.indexOf(dtype),
      devices.indexOf(at.device),
      kinds.indexOf(at.kind),
      d(0),
      d(1),
      d(2),
      d(3),
    );
    return new Tensor(handle, dtype, [...shape], at.device);
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

  /** Copy of the values of a float32 tensor. */
  toFloat32(): Float32Array {
    if (this.dtype !== "float32") throw new TypeError(`[tensor] toFloat32: expected float32, got ${this.dtype}`);
    return new Float32Array(this.read().buffer);
  }

  zero(): this {
    addon.tensorZero(this.handle);
    return this;
  }

  free(): void {
    addon.tensorFree(this.handle);
  }
}

export interface MemoryReport {
  /** Bytes in use, by kind. */
  current: Record<MemoryKind, number>;
  /** Most bytes of each kind since the last resetPeak. */
  peak: Record<MemoryKind, number>;
  /** Most bytes of all kinds together since the last resetPeak. */
  peakTotal: number;
  /** Bytes freed by their owner and kept for the next allocation. */
  cached: number;
}

export const memory = {
  report: (): MemoryReport => addon.memoryReport(),
  resetPeak: (): void => addon.memoryResetPeak(),
  /** Bytes; 0 = no limit. Allocations beyond it fail with RESOURCE_EXHAUSTED. */
  setLimit: (bytes: number): void => addon.memorySetLimit(bytes),
  /** Gives cached blocks back to the system; bytes given back. */
  trim: (): number => addon.memoryTrim(),
};

/** Threads that ops use, the calling one included. */
export function threadCount(): number {
  return addon.threads(0);
}

export function setThreadCount(threads: number): void {
  addon.threads(threads);
}

/** The CPU backend's instruction set. */
export function isa(): Isa {
  return addon.isa(-1);
}

export function chooseIsa(name: Isa): void {
  addon.isa(isas.indexOf(name));
}

export function supportedIsas(): Isa[] {
  return isas.filter((_, i) => addon.isaSupported(i));
}

/** See native/ops/quantize4.h. codes uint8 [(n+1)/2], absmax float32 [ceil(n/blockSize)]. */
export function quantize4(input: Tensor, codes: Tensor, absmax: Tensor, type: QuantType, blockSize: number): void {
  addon.quantize4(input.handle, codes.handle, absmax.handle, code4Types.indexOf(type), blockSize);
}

export function dequantize4(codes: Tensor, absmax: Tensor, output: Tensor, type: QuantType, blockSize: number): void {
  addon.dequantize4(codes.handle, absmax.handle, output.handle, code4Types.indexOf(type), blockSize);
}

/** Double quantization of block constants: codes uint8 [m], nestedAbsmax float32 [ceil(m/256)], offset float32 [1]. */
export function quantizeAbsmax(absmax: Tensor, codes: Tensor, nestedAbsmax: Tensor, offset: Tensor): void {
  addon.quantizeAbsmax(absmax.handle, codes.handle, nestedAbsmax.handle, offset.handle);
}

/** map float32 [256]: the checkpoint's nested_quant_map. */
export function dequantizeAbsmax(
  codes: Tensor,
  nestedAbsmax: Tensor,
  map: Tensor,
  offset: Tensor,
  absmax: Tensor,
): void {
  addon.dequantizeAbsmax(codes.handle, nestedAbsmax.handle, map.handle, offset.handle, absmax.handle);
}

/** NaN and Inf in a float tensor. */
export function countNonfinite(input: Tensor): number {
  return addon.countNonfinite(input.handle);
}
