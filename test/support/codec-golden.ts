// Every vector that bitsandbytes made: codes, constants and dequantized values, bit for bit, on a device.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import {
  type Device,
  type DType,
  dequantize4,
  dequantizeAbsmax,
  type Placement,
  type QuantType,
  quantize4,
  quantizeAbsmax,
  Tensor,
} from "#native";
import { type GoldenTensor, readGolden } from "./safetensors-golden.ts";

export interface CodecCase {
  key: string;
  input: string;
  shape: number[];
  quant_type: QuantType;
  blocksize: number;
}

export const codecCases: CodecCase[] = JSON.parse(
  readFileSync(new URL("../golden/codec.json", import.meta.url), "utf8"),
).cases;
const golden = readGolden(new URL("../golden/codec.safetensors", import.meta.url));
const dtypeOf: Record<string, DType> = { F32: "float32", BF16: "bfloat16", F16: "float16", U8: "uint8" };

function get(name: string): GoldenTensor {
  const t = golden.get(name);
  assert.ok(t, `golden file has no ${name}`);
  return t;
}

function same(actual: Tensor, name: string): void {
  const want = golden.get(name);
  if (want) assert.deepEqual(Buffer.from(actual.read()), Buffer.from(want.bytes), name);
}

export function checkCodec(c: CodecCase, device: Device): void {
  const at: Placement = { device, kind: "workspace" };
  const source = get(c.input);
  const n = c.shape.reduce((a, b) => a * b, 1);
  const blocks = Math.ceil(n / c.blocksize);
  const make = (dtype: DType, shape: number[]) => Tensor.empty(dtype, shape, at);
  const input = Tensor.fromBytes(source.bytes, dtypeOf[source.dtype]!, c.shape, at);
  const codes = make("uint8", [Math.floor((n + 1) / 2)]);
  const absmax = make("float32", [blocks]);
  const output = make(input.dtype, c.shape);
  const absmax8 = make("uint8", [blocks]);
  const nested = make("float32", [Math.ceil(blocks / 256)]);
  const offset = make("float32", [1]);
  const map = Tensor.fromBytes(get("dynamic_map_signed").bytes, "float32", [256], at);

  quantize4(input, codes, absmax, c.quant_type, c.blocksize);
  same(codes, `q.${c.key}`);
  same(absmax, `absmax.${c.key}`);
  dequantize4(codes, absmax, output, c.quant_type, c.blocksize);
  same(output, `dq.${c.key}`);
  if (golden.has(`dd_absmax8.${c.key}`)) {
    quantizeAbsmax(absmax, absmax8, nested, offset);
    same(offset, `dd_offset.${c.key}`);
    same(absmax8, `dd_absmax8.${c.key}`);
    same(nested, `dd_nested_absmax.${c.key}`);
    dequantizeAbsmax(absmax8, nested, map, offset, absmax);
    dequantize4(codes, absmax, output, c.quant_type, c.blocksize);
    same(output, `dd_dq.${c.key}`);
  }
  for (const t of [input, codes, absmax, output, absmax8, nested, offset, map]) t.free();
}
