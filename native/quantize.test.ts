// 4-bit codes and constants on every instruction set and number of threads, bit for bit those of the reference: random
// sizes and blocks, values on the borders between codes, NaN, Inf, denormals and zeros among them.
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { after, test } from "node:test";
import {
  chooseIsa,
  codeValues,
  countNonfinite,
  type Device,
  isa,
  type QuantType,
  quantize4,
  quantizeAbsmax,
  quantTypes,
  setThreadCount,
  supportedIsas,
  Tensor,
  threadCount,
} from "#native";
import { seeded } from "../test/support/tensors.ts";

const before = { isa: isa(), threads: threadCount() };
after(() => {
  chooseIsa(before.isa);
  setThreadCount(before.threads);
});

const dtypes = ["float32", "bfloat16", "float16"] as const;
const blockSizes = [32, 64, 128, 256, 512, 1024, 2048, 4096] as const;

interface Case {
  type: QuantType;
  blockSize: number;
  dtype: (typeof dtypes)[number];
  count: number;
  /** One value in a hundred, or three in ten where they are small. */
  odd: "none" | "nan" | "inf" | "denormal" | "zeros";
}

function valuesOf({ type, count, odd }: Case, rng: () => number): Float32Array {
  const codes = codeValues(type);
  const border = () => {
    const i = Math.floor(rng() * 15);
    return ((codes[i] ?? 0) + (codes[i + 1] ?? 0)) / 2;
  };
  return Float32Array.from({ length: count }, () => {
    const draw = rng();
    if (odd === "zeros") return 0;
    if (odd === "nan" && draw < 0.01) return Number.NaN;
    if (odd === "inf" && draw < 0.01) return draw < 0.005 ? Number.POSITIVE_INFINITY : Number.NEGATIVE_INFINITY;
    if (odd === "denormal" && draw < 0.3) return (rng() - 0.5) * 1e-42;
    return draw < 0.2 ? border() : (rng() * 2 - 1) * (draw < 0.3 ? 1 : 0.3);
  });
}

function bytesOf(values: Float32Array, dtype: Case["dtype"]): Uint8Array {
  if (dtype === "float32") return new Uint8Array(values.buffer);
  if (dtype === "float16") return new Uint8Array(new Float16Array(values).buffer);
  return new Uint8Array(Uint16Array.from(new Uint32Array(values.buffer), (bits) => bits >>> 16).buffer);
}

/** A digest of codes, constants, and their own codes, constants and offset. */
function quantized({ type, blockSize, dtype, count }: Case, bytes: Uint8Array, device: Device): string[] {
  const at = { device, kind: "workspace" } as const;
  const blocks = Math.ceil(count / blockSize);
  const empty = (type: "uint8" | "float32", n: number) => Tensor.empty(type, [n], at);
  const x = Tensor.fromBytes(bytes, dtype, [count], at);
  const [codes, absmax] = [empty("uint8", Math.ceil(count / 2)), empty("float32", blocks)];
  const [absmax8, nested, offset] = [
    empty("uint8", blocks),
    empty("float32", Math.ceil(blocks / 256)),
    empty("float32", 1),
  ];
  quantize4(x, codes, absmax, type, blockSize);
  quantizeAbsmax(absmax, absmax8, nested, offset);
  // A constant tells whether its block has a NaN or an Inf: what quantizes a model relies on it.
  assert.equal(countNonfinite(absmax) > 0, countNonfinite(x) > 0);
  const results = [codes, absmax, absmax8, nested, offset].map((t) =>
    createHash("sha1").update(t.read()).digest("hex"),
  );
  for (const t of [x, codes, absmax, absmax8, nested, offset]) t.free();
  return results;
}

const odds = ["none", "nan", "inf", "denormal", "zeros"] as const;

for (const odd of odds) {
  test(`quantization, odd values: ${odd}`, () => {
    const rng = seeded(1 + odds.indexOf(odd));
    const pick = <T>(list: readonly T[]): T => list[Math.floor(rng() * list.length)]!;
    for (let i = 0; i < 60; i++) {
      const count = 1 + Math.floor(rng() * (i % 6 === 0 ? 200_000 : 3000));
      const c: Case = { type: pick(quantTypes), blockSize: pick(blockSizes), dtype: pick(dtypes), count, odd };
      const bytes = bytesOf(valuesOf(c, rng), c.dtype);
      setThreadCount(1);
      const want = quantized(c, bytes, "reference");
      for (const set of supportedIsas()) {
        for (const threads of [1, 2, 4]) {
          chooseIsa(set);
          setThreadCount(threads);
          assert.deepEqual(quantized(c, bytes, "cpu"), want, `${set}, ${threads} threads, ${JSON.stringify(c)}`);
        }
      }
    }
  });
}
