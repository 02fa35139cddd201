// What an adapter may bring beside LoRA, put into a model that it has for itself: DoRA's magnitudes (arXiv:2402.09353,
// eq. 5), an embedding and a head of its own, rows of the embedding.
import { convert, Tensor } from "#native";
import type { AdapterFolder, FloatDType } from "#packages/hub";
import { addAdapter, denseValues } from "./dense.ts";
import type { LinearLayer } from "./layers.ts";
import { denseWeight } from "./model-load.ts";
import { type LlamaModel, linearsOf } from "./models/llama.ts";
import { freeWeight } from "./quantize-tensor.ts";

function read({ file }: AdapterFolder, key: string, model: LlamaModel): Tensor {
  const { dtype, shape } = file.info(key);
  return Tensor.fromBytes(file.read(key), dtype as FloatDType, shape, { device: model.embed.device, kind: "weights" });
}

function floats(t: Tensor): Float32Array {
  if (t.dtype === "float32") return t.toFloat32();
  const wide = Tensor.empty("float32", t.shape, { device: t.device, kind: "workspace" });
  convert(t, wide);
  const values = wide.toFloat32();
  wide.free();
  return values;
}

const bytesOf = (values: Float32Array) => new Uint8Array(values.buffer, values.byteOffset, values.byteLength);

/** Rows of `values` to the lengths of `magnitudes`. */
function rescaleRows(values: Float32Array, magnitudes: Float32Array): void {
  const width = values.length / magnitudes.length;
  for (const [row, magnitude] of magnitudes.entries()) {
    const of = values.subarray(row * width, (row + 1) * width);
    const factor = magnitude / Math.sqrt(of.reduce((sum, x) => sum + x * x, 0));
    for (let i = 0; i < width; i++) of[i] = of[i]! * factor;
  }
}

/** W' = m (W + s B A) / ||W + s B A||, rows on their own: the layer becomes a dense float32 one without an adapter. */
function applyMagnitudes(layer: LinearLayer, magnitudes: Float32Array): void {
  const dense = denseValues(layer.weight);
  if (layer.lora) addAdapter(dense, layer.lora);
  const values = dense.toFloat32();
  rescaleRows(values, magnitudes);
  dense.free();
  const { out, in: inFeatures } = layer.weight;
  const at = { device: layer.weight.data.device, kind: "weights" } as const;
  freeWeight(layer.weight);
  layer.weight = denseWeight(Tensor.fromBytes(bytesOf(values), "float32", [out, inFeatures], at));
  layer.lora = null;
}

/** Rows of a table replaced, in a copy. */
function withRows(table: Tensor, indices: readonly number[], rows: Float32Array): Tensor {
  const values = floats(table);
  const width = table.shape[1] ?? 0;
  for (const [i, index] of indices.entries()) values.set(rows.subarray(i * width, (i + 1) * width), index * width);
  return Tensor.fromBytes(bytesOf(values), "float32", table.shape, { device: table.device, kind: "weights" });
}

/** An embedding and a head in place of the base's, which are freed. */
function replaceTables(model: LlamaModel, embed: Tensor, head: Tensor): LlamaModel {
  const old = new Set([model.embed, model.head.weight.data]);
  for (const t of old) if (t !== embed && t !== head) t.free();
  const config = { ...model.config, vocabSize: embed.shape[0] ?? 0, tieWordEmbeddings: head === embed };
  return { ...model, config, embed, head: { ...model.head, weight: denseWeight(head) } };
}

/**
 * The model with all that the adapter brings; its LoRA layers are attached already. The model given is used up.
 * A tied head stays the base's when only the embedding was saved, and follows rows that were trained, as in PEFT.
 */
export function applyExtras(model: LlamaModel, folder: AdapterFolder): LlamaModel {
  const { magnitudes, saved, tokens } = folder.extras;
  for (const layer of model.blocks.flatMap(linearsOf)) {
    const key = magnitudes.get(layer.name);
    if (key === undefined) continue;
    const stored = read(folder, key, model);
    applyMagnitudes(layer, floats(stored));
    stored.free();
  }
  const table = (module: "embed_tokens" | "lm_head", base: Tensor) => {
    const key = saved.get(module);
    return key === undefined ? base : read(folder, key, model);
  };
  const tied = model.head.weight.data === model.embed;
  let embed = table("embed_tokens", model.embed);
  let head = table("lm_head", model.head.weight.data);
  if (tokens) {
    const rows = read(folder, tokens.key, model);
    embed = withRows(embed, tokens.indices, floats(rows));
    rows.free();
    if (tied) head = embed;
  }
  return embed === model.embed && head === model.head.weight.data ? model : replaceTables(model, embed, head);
}
