// Adapters that are trained in bfloat16, as QLoRA's own runs keep them: half the bytes of the matrices and of their
// gradients. The kernels take float32, so a block's are widened while it runs: with full checkpointing there is one block's
// at a time. What the optimizer adds up stays float32 (optimizer.ts).
import { convert, Tensor } from "#native";
import type { LoraLayer } from "./layers.ts";
import { type LlamaBlock, linearsOf } from "./models/llama.ts";

function wideOf(narrow: Tensor): Tensor {
  const wide = Tensor.empty("float32", narrow.shape, { device: narrow.device, kind: "workspace" });
  convert(narrow, wide);
  return wide;
}

function free(lora: LoraLayer): void {
  for (const t of Object.values(lora.wide ?? {})) if (t && !t.isFree) t.free();
  lora.wide = null;
}

function narrow(lora: LoraLayer): void {
  const { wide, trained } = lora;
  if (trained && wide?.dA && wide.dB) {
    convert(wide.dA, trained.a.grad);
    convert(wide.dB, trained.b.grad);
  }
  free(lora);
}

/**
 * float32 copies of the block's adapters, until the function that it gives is called, which puts the gradients back where
 * `learns`. Nothing for adapters in float32.
 */
export function widenAdapters(block: LlamaBlock, learns: boolean): () => void {
  const layers = linearsOf(block).flatMap(({ lora }) => (lora && lora.a.dtype !== "float32" ? [lora] : []));
  for (const lora of layers) {
    free(lora); // of a pass that failed
    const { a, b, trained } = lora;
    const gradients = learns && trained ? { dA: wideOf(trained.a.grad), dB: wideOf(trained.b.grad) } : {};
    lora.wide = { a: wideOf(a), b: wideOf(b), ...{ dA: null, dB: null }, ...gradients };
  }
  return () => {
    for (const lora of layers) narrow(lora);
  };
}
