// A model, with an adapter in it if there is one, as a GGUF file that llama.cpp runs. 4-bit weights are decoded first:
// NF4's values are none of ggml's types, so q4_0 rounds them once more and f16 hardly at all.
import { basename, resolve } from "node:path";
import { convert, countNonfinite, float32Bytes, Tensor } from "#native";
import { NibbleError } from "#packages/errors";
import {
  checkFileTarget,
  encodeQ40,
  encodeQ80,
  type GgmlType,
  type GgufFileType,
  type GgufTensor,
  GgufWriter,
  ggmlTypes,
  ggufName,
  interleaveHeads,
  type LlamaConfig,
  llamaMetadata,
  openModelFolder,
  rotatedHeads,
  tokenizerMetadata,
} from "#packages/hub";
import { type BaseOptions, loadBaseAndAdapter } from "./base-and-adapter.ts";
import { addAdapter, denseValues, floatsOf } from "./dense.ts";
import type { TensorProgress } from "./merge.ts";
import { type NamedTensor, namedTensors } from "./model-save.ts";
import { ropeFrequencies } from "./rope.ts";

const op = "gguf_export";

export interface ExportGgufOptions extends BaseOptions {
  modelDir: string;
  outFile: string;
  type: GgufFileType;
  onProgress?: (progress: TensorProgress) => void;
}

export interface ExportGgufReport {
  outFile: string;
  type: GgufFileType;
  tensors: number;
  bytesWritten: number;
  seconds: number;
}

/** Norms and biases stay float32; with q4_0 embedding and head get 8 bits; rows that are no whole blocks, a half. */
function typeOf(shape: readonly number[], isLinear: boolean, type: GgufFileType): GgmlType {
  if (shape.length < 2) return "f32";
  const wanted: GgmlType = type === "q4_0" && !isLinear ? "q8_0" : type;
  return (shape.at(-1) ?? 0) % ggmlTypes[wanted].elements === 0 ? wanted : "f16";
}

function specOf({ name, tensor, layer }: NamedTensor, type: GgufFileType): GgufTensor {
  const shape = layer ? [layer.weight.out, layer.weight.in] : tensor.shape;
  return { name: ggufName(name), type: typeOf(shape, layer !== undefined, type), shape };
}

/** As the rows lie in the file; float32 values on the way. */
function encoded(values: Float32Array, type: GgmlType, name: string): Uint8Array {
  if (type === "f32") return float32Bytes(values);
  if (type === "q8_0") return encodeQ80(values);
  if (type === "q4_0") return encodeQ40(values);
  const at = { device: "cpu", kind: "workspace" } as const;
  const wide = Tensor.fromFloat32(values, [values.length], at);
  const narrow = Tensor.empty(type === "f16" ? "float16" : "bfloat16", [values.length], at);
  try {
    convert(wide, narrow);
    if (countNonfinite(narrow) > 0) {
      const message = `${name}: expected values up to 65504 for ${type}, got larger ones; export as bf16 or f32`;
      throw new NibbleError(message, { code: "FAILED_PRECONDITION", op });
    }
    return narrow.read();
  } finally {
    wide.free();
    narrow.free();
  }
}

function valuesOf({ tensor, layer }: NamedTensor): Float32Array {
  if (!layer) return floatsOf(tensor);
  const values = denseValues(layer.weight);
  if (layer.lora) addAdapter(values, layer.lora);
  try {
    return values.toFloat32();
  } finally {
    values.free();
  }
}

function fileBytes(named: NamedTensor, config: LlamaConfig, { type, name, shape }: GgufTensor): Uint8Array {
  const values = valuesOf(named);
  const heads = rotatedHeads(named.name, config);
  return encoded(heads === null ? values : interleaveHeads(values, heads, shape[0] ?? 1), type, name);
}

/** What llama3's scaling divides each frequency by; null for other types. */
function ropeFactors(config: LlamaConfig): Float32Array | null {
  const { rope, headDim } = config;
  if (rope.scaling.type !== "llama3") return null;
  const scaled = ropeFrequencies(rope, headDim, 1).inverse;
  const plain = ropeFrequencies({ theta: rope.theta, scaling: { type: "default" } }, headDim, 1).inverse;
  return Float32Array.from(scaled, (f, i) => (plain[i] ?? f) / f);
}

/** @throws FAILED_PRECONDITION for a tokenizer or a rope type that llama.cpp has no name for; nothing is written then. */
export async function exportGguf(options: ExportGgufOptions): Promise<ExportGgufReport> {
  const started = performance.now();
  const { modelDir, outFile, type, signal, onProgress } = options;
  checkFileTarget(resolve(outFile));
  using folder = openModelFolder(modelDir);
  const tokenizer = tokenizerMetadata(modelDir, folder.config); // refused before anything is loaded
  const { model, free } = loadBaseAndAdapter(folder, options);
  let writer: GgufWriter | null = null;
  try {
    const { config } = model;
    const hasGrown = config.vocabSize !== folder.config.vocabSize;
    const tokens = hasGrown ? tokenizerMetadata(modelDir, config) : tokenizer;
    const keys = new Map([...llamaMetadata(config, type, basename(modelDir)), ...tokens]);
    const named = [...namedTensors(model)];
    const specs = named.map((one) => specOf(one, type));
    const factors = ropeFactors(config);
    const extra: GgufTensor[] = factors ? [{ name: "rope_freqs.weight", type: "f32", shape: [factors.length] }] : [];
    writer = new GgufWriter(outFile, keys, [...specs, ...extra]);
    for (const [i, spec] of specs.entries()) {
      signal?.throwIfAborted();
      writer.write(spec.name, fileBytes(named[i]!, config, spec));
      onProgress?.({ tensorsDone: i + 1, tensorsTotal: specs.length });
      await new Promise(setImmediate); // a cancellation gets its turn
    }
    if (factors) writer.write("rope_freqs.weight", float32Bytes(factors));
    const bytesWritten = writer.finish();
    const seconds = (performance.now() - started) / 1000;
    return { outFile, type, tensors: specs.length + extra.length, bytesWritten, seconds };
  } catch (thrown) {
    throw NibbleError.from(thrown, op);
  } finally {
    writer?.abort();
    free();
  }
}
