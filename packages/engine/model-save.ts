// A dense model in memory as a checkpoint folder that transformers loads.

import { readFileSync } from "node:fs";
import { join } from "node:path";
import { convert, Tensor } from "#native";
import { type FloatDType, ModelWriter, type TensorToWrite } from "#packages/hub";
import type { LinearLayer } from "./layers.ts";
import { metricsFiles } from "./metrics-file.ts";
import { type LlamaModel, linearsOf } from "./models/llama.ts";

export interface SaveModelOptions {
  /** Where config and tokenizer come from. */
  sourceDir: string;
  dtype: FloatDType;
  figures: readonly (readonly [string, string | number])[];
}

export interface NamedTensor {
  name: string;
  tensor: Tensor;
  /** Whose weight it is, of a block's linear layers. */
  layer?: LinearLayer;
}

/** Every tensor of a checkpoint of the model, in its order. */
export function* namedTensors(model: LlamaModel): Generator<NamedTensor> {
  yield { name: "model.embed_tokens.weight", tensor: model.embed };
  for (const [i, block] of model.blocks.entries()) {
    yield { name: `model.layers.${i}.input_layernorm.weight`, tensor: block.inputNorm.weight };
    yield { name: `model.layers.${i}.post_attention_layernorm.weight`, tensor: block.postNorm.weight };
    for (const layer of linearsOf(block)) {
      yield { name: `${layer.name}.weight`, tensor: layer.weight.data, layer };
      if (layer.bias) yield { name: `${layer.name}.bias`, tensor: layer.bias };
    }
  }
  yield { name: "model.norm.weight", tensor: model.finalNorm.weight };
  if (model.head.weight.data !== model.embed) yield { name: "lm_head.weight", tensor: model.head.weight.data };
}

/** Tensors for the writer, one after the other, in one buffer: it writes each before it takes the next. */
export class TensorReader {
  private readonly dtype: FloatDType;
  private buffer = new Uint8Array();

  constructor(dtype: FloatDType) {
    this.dtype = dtype;
  }

  toWrite(name: string, t: Tensor): TensorToWrite {
    const { dtype } = this;
    if (t.dtype === dtype) return { name, dtype, shape: t.shape, bytes: this.read(t) };
    const rounded = Tensor.empty(dtype, t.shape, { device: t.device, kind: "workspace" });
    convert(t, rounded);
    const bytes = this.read(rounded);
    rounded.free();
    return { name, dtype, shape: t.shape, bytes };
  }

  private read(t: Tensor): Uint8Array {
    if (this.buffer.length < t.byteLength) this.buffer = new Uint8Array(t.byteLength);
    const bytes = this.buffer.subarray(0, t.byteLength);
    t.readInto(bytes);
    return bytes;
  }
}

/** A new folder, or a new version of one: an error leaves the old one. */
export function saveModel(out: string, model: LlamaModel, { sourceDir, dtype, figures }: SaveModelOptions): void {
  const writer = new ModelWriter(out, {
    keep: metricsFiles,
    configText: readFileSync(join(sourceDir, "config.json"), "utf8"),
    configChanges: { dtype, torch_dtype: undefined },
    sourceFolder: sourceDir,
    card: { title: "Trained model", summary: "All parameters trained with Nibble.", figures, baseModel: "", tags: [] },
  });
  try {
    const reader = new TensorReader(dtype);
    for (const { name, tensor } of namedTensors(model)) writer.add([reader.toWrite(name, tensor)]);
    writer.finish();
  } finally {
    writer.abort();
  }
}
