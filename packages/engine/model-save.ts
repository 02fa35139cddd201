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

function toWrite(name: string, t: Tensor, dtype: FloatDType): TensorToWrite {
  if (t.dtype === dtype) return { name, dtype, shape: t.shape, bytes: t.read() };
  const rounded = Tensor.empty(dtype, t.shape, { device: t.device, kind: "workspace" });
  convert(t, rounded);
  const bytes = rounded.read();
  rounded.free();
  return { name, dtype, shape: t.shape, bytes };
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
    for (const [name, t] of namedTensors(model)) writer.add([toWrite(name, t, dtype)]);
    writer.finish();
  } finally {
    writer.abort();
  }
}
