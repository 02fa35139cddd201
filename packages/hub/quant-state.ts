// How a 4-bit weight is stored (bitsandbytes' Linear4bit): the packed codes and, beside them, tensors
// whose names hang on the weight's, one of them a JSON text. This file reads and checks those, and makes
// them. It knows the layout, not the codes.
import { NibbleError } from "#packages/errors";
import { elementsOf, type StoredDType } from "./dtypes.ts";
import { Fields, parseObject, pythonFloat } from "./json.ts";
import type { TensorInfo, TensorSpec } from "./safetensors-header.ts";

export const quantTypes = ["nf4", "fp4", "int4"] as const;
export type StoredQuantType = (typeof quantTypes)[number];

export const quantBlockSizes = [32, 64, 128, 256, 512, 1024, 2048, 4096] as const;

const floatTypes = ["float32", "bfloat16", "float16"] as const;
export type FloatDType = (typeof floatTypes)[number];

/** What the JSON says. */
export interface QuantState {
  quantType: StoredQuantType;
  blockSize: number;
  /** Of the weight before quantization; dequantizing gives it back. */
  dtype: FloatDType;
  /** Of the weight before quantization: [out, in]. */
  shape: readonly [number, number];
  /** Double quantization: the absmax are 8-bit codes themselves. */
  nested: { blockSize: number; offset: number } | null;
}

/** The tensors of one quantized weight, by their names in the folder. */
export interface QuantStateTensors {
  weight: string;
  absmax: string;
  quantMap: string;
  nestedAbsmax: string | null;
  nestedQuantMap: string | null;
  state: string;
}

export interface StoredQuantState extends QuantState {
  tensors: QuantStateTensors;
}

const op = "quant_state";

/** bitsandbytes knows no int4, so its key would make transformers fail obscurely; ours makes it fail plainly. */
function stateSuffix(type: StoredQuantType): string {
  return `quant_state.${type === "int4" ? "nibble" : "bitsandbytes"}__${type}`;
}

export const quantStateSuffixes: readonly string[] = quantTypes.map(stateSuffix);

export function quantStateNames(prefix: string, state: Pick<QuantState, "quantType" | "nested">): QuantStateTensors {
  const weight = `${prefix}.weight`;
  return {
    weight,
    absmax: `${weight}.absmax`,
    quantMap: `${weight}.quant_map`,
    nestedAbsmax: state.nested ? `${weight}.nested_absmax` : null,
    nestedQuantMap: state.nested ? `${weight}.nested_quant_map` : null,
    state: `${weight}.${stateSuffix(state.quantType)}`,
  };
}

export function parseQuantState(json: Uint8Array, name: string): QuantState {
  const f = new Fields(parseObject(Buffer.from(json).toString("utf8"), op, name), op, name);
  const quantType = oneOf(f, "quant_type", quantTypes);
  if (!name.endsWith(stateSuffix(quantType))) f.fail("quant_type", `the one in the tensor's name (${name})`);
  const blockSize = oneOf(f, "blocksize", quantBlockSizes);
  const dtype = oneOf(f, "dtype", floatTypes);
  const shape = f.object["shape"];
  const ok = Array.isArray(shape) && shape.length === 2 && shape.every((n) => Number.isSafeInteger(n) && n > 0);
  if (!ok) return f.fail("shape", "[out, in]");
  return { quantType, blockSize, dtype, shape: [shape[0], shape[1]], nested: parseNested(f) };
}

function parseNested(f: Fields): QuantState["nested"] {
  if (!("nested_blocksize" in f.object)) return null;
  if (f.string("nested_dtype") !== "float32") f.fail("nested_dtype", "float32");
  return { blockSize: f.integer("nested_blocksize"), offset: f.number("nested_offset") };
}

function oneOf<T>(f: Fields, key: string, allowed: readonly T[]): T {
  const found = allowed.find((value) => value === f.object[key]);
  return found ?? f.fail(key, `one of ${allowed.join(", ")}`);
}

/** dtype and shape of each tensor but the JSON, whose length depends on its digits. */
export function quantStateSpecs(prefix: string, state: QuantState): TensorSpec[] {
  const names = quantStateNames(prefix, state);
  const elements = elementsOf(state.shape);
  const blocks = Math.ceil(elements / state.blockSize);
  const spec = (name: string, dtype: StoredDType, shape: number[]): TensorSpec => ({ name, dtype, shape });
  const specs = [
    spec(names.weight, "uint8", [Math.ceil(elements / 2), 1]),
    spec(names.absmax, state.nested ? "uint8" : "float32", [blocks]),
    spec(names.quantMap, "float32", [16]),
  ];
  if (state.nested && names.nestedAbsmax && names.nestedQuantMap) {
    specs.push(spec(names.nestedAbsmax, "float32", [Math.ceil(blocks / state.nested.blockSize)]));
    specs.push(spec(names.nestedQuantMap, "float32", [256]));
  }
  return specs;
}

/** The tensor that holds the JSON, byte for byte as Python's json.dumps writes it. */
export function quantStateJson(prefix: string, state: QuantState): TensorSpec & { bytes: Uint8Array } {
  const nested = state.nested && {
    nested_blocksize: state.nested.blockSize,
    nested_dtype: "float32",
    nested_offset: pythonFloat(state.nested.offset),
  };
  const object = {
    quant_type: state.quantType,
    blocksize: state.blockSize,
    dtype: state.dtype,
    shape: state.shape,
    ...nested,
  };
  const fields = Object.entries(object).map(([key, value]) => {
    const text = Array.isArray(value) ? `[${value.join(", ")}]` : JSON.stringify(value);
    return `"${key}": ${text}`;
  });
  const bytes = new Uint8Array(Buffer.from(`{${fields.join(", ")}}`));
  return { name: quantStateNames(prefix, state).state, dtype: "uint8", shape: [bytes.length], bytes };
}

/** Every tensor of `state` is there with the dtype and shape that the JSON implies. */
export function checkQuantState(
  prefix: string,
  state: QuantState,
  infoOf: (name: string) => TensorInfo | undefined,
  folder: string,
): void {
  for (const { name, dtype, shape } of quantStateSpecs(prefix, state)) {
    const info = infoOf(name);
    const got = info ? `${info.dtype} [${info.shape.join(",")}]` : "nothing";
    const expected = `${dtype} [${shape.join(",")}]`;
    if (got === expected) continue;
    throw new NibbleError(`${folder}: tensor ${name}: expected ${expected}, got ${got}`, {
      code: info ? "INVALID_ARGUMENT" : "NOT_FOUND",
      op,
      details: { folder, tensor: name },
    });
  }
}
