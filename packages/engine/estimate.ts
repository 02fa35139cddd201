// The memory of a training run before it runs, from shapes alone: the engine's own loading, forward and backward
// passes and optimizer run on the meta device, which counts what they take and computes nothing. No copy of the
// engine's arithmetic can go stale.
import { countedAs, type MemoryKind, memory, Tensor } from "#native";
import type { TrainRecipe } from "#packages/data";
import type { LlamaConfig, LoraConfig } from "#packages/hub";
import { type TableShape, type tableShapes, withTables } from "./adapter-extras.ts";
import { type Example, freeBatch, packExamples, uploadBatch } from "./batch.ts";
import { lossAndGradients } from "./forward.ts";
import { trainAllParameters } from "./full-parameters.ts";
import { type AdapterDType, adapterParameters, attachAdapter, createAdapter, freeAdapter } from "./lora.ts";
import { freeModel } from "./model-load.ts";
import type { LlamaModel } from "./models/llama.ts";
import { Adamw } from "./optimizer.ts";
import type { Parameter } from "./parameters.ts";
import type { QuantOptions } from "./quantize-tensor.ts";
import { type StoredWeights, shapeModel } from "./shape-model.ts";

type Batch = readonly Example[];

export interface RunShape {
  /** Whose kernels' workspace is counted. Default: the CPU's. */
  device?: "cpu" | "cuda";
  config: LlamaConfig;
  stored: StoredWeights;
  /** Quantizes a 16-bit folder on load; null keeps it. */
  quant: QuantOptions | null;
  /** Null: all parameters are trained. */
  lora: LoraConfig | null;
  /** Of the adapter that is trained. Default: float32. */
  adapterDtype?: AdapterDType;
  /** Of an adapter to start from that has an embedding or a head of its own. Default: none. */
  tables?: ReturnType<typeof tableShapes>;
  recipe: Pick<TrainRecipe, "optimizer" | "dtype" | "gradientCheckpointing">;
  /** Micro-batches, of which one is the largest. */
  trained: readonly Batch[];
  /** Batches of the evaluation, of which one is the largest. */
  evaluated: readonly Batch[];
}

export interface MemoryEstimate {
  /** Bytes of each kind when all together are most. */
  atPeak: Record<MemoryKind, number>;
  /** Their sum: the most that is in use at one time. */
  peakTotal: number;
  /** Bytes in spill files, not part of the sum. */
  paged: number;
  trainedParameters: number;
}

const device = "meta";

/** Pure: the same shapes give the same bytes, and nothing is left of the tensors that were counted. */
export function estimateMemory(run: RunShape): MemoryEstimate {
  return countedAs(run.device ?? "cpu", () => counted(run));
}

function counted(run: RunShape): MemoryEstimate {
  const lengths = [...run.trained, ...run.evaluated].flat().map((e) => e.inputIds.length);
  const positions = lengths.reduce((longest, n) => Math.max(longest, n), 1);
  memory.trim(device);
  memory.resetPeak(device);
  const { config, stored, quant, lora } = run;
  const model = shapeModel(config, { stored, quant, float32: lora === null, positions });
  const { learner, parameters, free } = lora === null ? allParameters(model) : adapted(model, lora, run);
  const hyper = { beta1: 0, beta2: 0, eps: 0, weightDecay: 0, maxGradNorm: 0 };
  const optimizer = new Adamw(parameters, { ...hyper, optimizer: run.recipe.optimizer, pagingDir: device });
  for (const batch of run.evaluated) pass(learner, batch, run, false);
  for (const batch of run.trained) pass(learner, batch, run, true);
  optimizer.update(0);
  const { atPeak, peakTotal, pagedPeak: paged } = memory.report(device);
  optimizer.free();
  free();
  freeModel(model);
  const trainedParameters = parameters.reduce((sum, p) => sum + p.value.count, 0);
  return { atPeak, peakTotal, paged, trainedParameters };
}

interface Trained {
  /** The model with what is the adapter's own. */
  learner: LlamaModel;
  parameters: Parameter[];
  free: () => void;
}

function allParameters(model: LlamaModel): Trained {
  const parameters = trainAllParameters(model);
  return {
    learner: model,
    parameters,
    free: () => {
      for (const p of parameters) p.grad.free();
    },
  };
}

function adapted(model: LlamaModel, lora: LoraConfig, { adapterDtype, tables }: RunShape): Trained {
  const adapter = createAdapter(lora, model.config, device, 0, adapterDtype);
  const { embed = null, head = null } = tables ?? {};
  const table = (t: TableShape | null) => t && Tensor.empty(t.dtype, t.shape, { device, kind: "adapter" });
  adapter.embed = table(embed);
  adapter.head = head === embed ? adapter.embed : table(head);
  const parameters = adapterParameters(adapter);
  attachAdapter(model, adapter);
  return { learner: withTables(model, adapter), parameters, free: () => void freeAdapter(adapter) };
}

function pass(model: LlamaModel, examples: Batch, { recipe, lora }: RunShape, trains: boolean): void {
  const { dtype, gradientCheckpointing } = recipe;
  const batch = uploadBatch(packExamples(examples), device);
  const dropoutSeed = trains && (lora?.dropout ?? 0) > 0 ? 0 : null;
  lossAndGradients(model, batch, { device, dtype, gradientCheckpointing, dropoutSeed }, trains ? 1 : null);
  freeBatch(batch);
}
