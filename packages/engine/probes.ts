// Train/serve parity: what a trained adapter says to a few prompts is written into its folder, and asked again where it is
// served (packages/hub/adapter-probes.ts). The prompts are made of ids that no data set has to do with.
import type { Device, DType } from "#native";
import type { AdapterProbe } from "#packages/hub";
import { freeBatch, packExamples, uploadBatch } from "./batch.ts";
import { allLogits } from "./forward.ts";
import { likeliest, logSumExp } from "./generation/pick.ts";
import type { LlamaModel } from "./models/llama.ts";

const probeCount = 4;
/** Of a prompt; a model that is asked must have room for them, however short its rows were. */
export const probeTokens = 8;
const probeTop = 8;

/**
 * Differences of log-probabilities that another order of sums, or activations of 8 bits of mantissa, may make. Measured on two
 * models: below 0.0001 and 0.05; without the adapter they are 0.5 to 1.9.
 */
export const driftMax: Readonly<Record<Extract<DType, "float32" | "bfloat16">, number>> = {
  float32: 0.05,
  bfloat16: 0.2,
};

function promptOf(probe: number, vocabSize: number): number[] {
  return Array.from({ length: probeTokens }, (_, i) => ((probe + 1) * 7919 + i * 104_729) % vocabSize);
}

/** Of the model with what is attached to it, in float32. */
export function recordProbes(model: LlamaModel, device: Device): AdapterProbe[] {
  return Array.from({ length: probeCount }, (_, probe) => {
    const ids = promptOf(probe, model.config.vocabSize);
    const batch = uploadBatch(packExamples([{ inputIds: Int32Array.from(ids), labels: null }]), device);
    const logits = allLogits(model, batch, {
      device,
      dtype: "float32",
      gradientCheckpointing: "none",
      dropoutSeed: null,
    });
    const vocab = logits.shape[1] ?? 0;
    const last = new Float32Array(logits.read((ids.length - 1) * vocab * 4, vocab * 4).buffer);
    logits.free();
    freeBatch(batch);
    const top = likeliest(last, probeTop, logSumExp(last));
    return { ids, top: top.map(({ id, logprob }) => [id, Number(logprob.toFixed(4))] as const) };
  });
}

/** The largest difference of a recorded log-probability from that of the logits. */
export function driftOf({ top }: AdapterProbe, logits: Float32Array): number {
  const total = logSumExp(logits);
  const far = top.map(([id, logprob]) => Math.abs((logits[id] ?? Number.NEGATIVE_INFINITY) - total - logprob));
  return Math.max(...far.map((value) => (Number.isNaN(value) ? Number.POSITIVE_INFINITY : value)));
}
