// Tensors for tests of native ops: seeded numbers in any dtype on any device, and their values back.
import {
  type Device,
  type DType,
  type QuantType,
  quantize4,
  quantizeAbsmax,
  Tensor,
  type Weight,
  type WeightQuant,
} from "#native";

/** Uniform in [0, 1) (mulberry32): the same numbers for the same seed on every machine. */
export function seeded(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

/** `count` numbers in [-1, 1). */
export function numbers(rng: () => number, count: number): Float32Array {
  return Float32Array.from({ length: count }, () => rng() * 2 - 1);
}

function bytesOf(values: Float32Array, dtype: DType): Uint8Array {
  if (dtype === "float32") return new Uint8Array(values.slice().buffer);
  if (dtype === "float16") return new Uint8Array(new Float16Array(values).buffer);
  if (dtype === "int32") return new Uint8Array(new Int32Array(values).buffer);
  if (dtype !== "bfloat16") throw new TypeError(`no test tensors of ${dtype}`);
  const bits = new Uint32Array(values.slice().buffer);
  return new Uint8Array(Uint16Array.from(bits, (b) => (b + 0x7fff + ((b >>> 16) & 1)) >>> 16).buffer);
}

export function valuesOf(t: Tensor): Float32Array {
  const bytes = t.read();
  if (t.dtype === "float32") return new Float32Array(bytes.buffer);
  if (t.dtype !== "bfloat16") throw new TypeError(`no values of ${t.dtype}`);
  return new Float32Array(Uint32Array.from(new Uint16Array(bytes.buffer), (b) => b << 16).buffer);
}

/** Makes tensors on one device and frees them all together. */
export class Bench {
  readonly device: Device;
  readonly #live: Tensor[] = [];

  constructor(device: Device) {
    this.device = device;
  }

  of(values: Float32Array, shape: readonly number[], dtype: DType = "float32"): Tensor {
    return this.#keep(
      Tensor.fromBytes(bytesOf(values, dtype), dtype, shape, { device: this.device, kind: "activations" }),
    );
  }

  /** Filled with `value`, which an op that writes everything leaves nowhere. */
  filled(value: number, shape: readonly number[], dtype: DType = "float32"): Tensor {
    const count = shape.reduce((a, b) => a * b, 1);
    return this.of(new Float32Array(count).fill(value), shape, dtype);
  }

  uint8(count: number): Tensor {
    return this.#keep(Tensor.empty("uint8", [count], { device: this.device, kind: "weights" }));
  }

  weight(values: Float32Array, out: number, inFeatures: number, form: WeightForm): Weight {
    const data = this.of(values, [out, inFeatures], form.dtype);
    if (form.quant === null) return { out, in: inFeatures, data, quant: null };
    const { type, blockSize } = form.quant;
    const count = out * inFeatures;
    const codes = this.uint8(Math.ceil(count / 2));
    const absmax = this.filled(0, [Math.ceil(count / blockSize)]);
    quantize4(data, codes, absmax, type, blockSize);
    const plain: WeightQuant = { dtype: form.dtype, type, blockSize, absmax, nested: null };
    return { out, in: inFeatures, data: codes, quant: form.quant.nested ? this.#nest(plain) : plain };
  }

  free(): void {
    for (const t of this.#live.splice(0)) t.free();
  }

  #nest(quant: WeightQuant): WeightQuant {
    const blocks = quant.absmax.count;
    const codes = this.uint8(blocks);
    const absmax = this.filled(0, [Math.ceil(blocks / 256)]);
    const offset = this.filled(0, [1]);
    quantizeAbsmax(quant.absmax, codes, absmax, offset);
    // Any map will do for the arithmetic: a checkpoint brings its own.
    const map = this.of(
      Float32Array.from({ length: 256 }, (_, i) => (i - 127.5) / 127.5),
      [256],
    );
    return { ...quant, absmax: codes, nested: { absmax, map, offset: valuesOf(offset)[0]! } };
  }

  #keep(t: Tensor): Tensor {
    this.#live.push(t);
    return t;
  }
}

export interface WeightForm {
  dtype: DType;
  quant: { type: QuantType; blockSize: number; nested: boolean } | null;
}
