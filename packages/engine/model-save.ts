// A dense model in memory as a checkpoint folder that transformers loads.

import { readFileSync } from "node:fs";
import { join } from "node:path";
import { convert, Tensor } from "#native";
import { type FloatDType, ModelWriter, type TensorToWrite } from "#packages/hub";
import { metricsFiles } from "./metrics-file.ts";
import { type LlamaModel, linearsOf } from "./models/llama.ts";

export interface SaveModelOptions {
  /** Where config and tokenizer come from. */
  sourceDir: string;
  dtype: FloatDType;
  figures: readonly (readonly [string, string | number])[];
}

function* namedTensors(model: LlamaModel): Generator<[string, Tensor]> {
  yield ["model.embed_tokens.weight", model.embed];
  for (const [i, layer] of model.blocks.entries()) {
    yield [`model.layers.${i}.input_layernorm.weight`, layer.inputNorm.weight];
    yield [`model.layers.${i}.post_attention_layernorm.weight`, layer.postNorm.weight];
    for (const { name, weight, bias } of linearsOf(layer)) {
      yield [`${name}.weight`, weight.data];
      if (bias) yield [`${name}.bias`, bias];
    }
  }
  yield ["model.norm.weight", model.finalNorm.weight];
  if (model.head.weight.data !== model.embed) yield ["lm_head.weight", model.head.weight.data];
}

/** Tensors for the writer, one after the other, in one buffer: it writes each before it takes the next. */
class Reader {
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
    const reader = new Reader(dtype);
    for (const [name, t] of namedTensors(model)) writer.add([reader.toWrite(name, t)]);
    writer.finish();
  } finally {
    writer.abort();
  }
}
