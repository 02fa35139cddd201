// Between the command line's words and the messages of the services.
import { resolve } from "node:path";
import type { MessageInitShape } from "@bufbuild/protobuf";
import { ComputeDtype, QuantType } from "#gen/nibble/common/v1/common_pb.ts";
import type { ConstraintSchema, SamplingParamsSchema } from "#gen/nibble/inference/v1/generation_pb.ts";
import type { Event, StepProgress } from "#gen/nibble/trainer/v1/events_pb.ts";
import { Severity } from "#gen/nibble/trainer/v1/events_pb.ts";
import { DataProblem, type PreviewDataResponse } from "#gen/nibble/trainer/v1/preview_pb.ts";
import {
  GradientCheckpointing,
  Optimizer,
  type RegistryTargetSchema,
  Schedule,
  type TrainingSpecSchema,
  TrainTurns,
} from "#gen/nibble/trainer/v1/spec_pb.ts";
import { namesSet, problems, type TrainRecipe } from "#packages/data";
import type { QuantOptions } from "#packages/engine";
import { repoInPlaceOf } from "#packages/hub";
import type { AnswerRequest, PreviewSummary, TrainingJob, TrainProgress } from "../backend.ts";

const quantTypes = { nf4: QuantType.NF4, fp4: QuantType.FP4, int4: QuantType.INT4 } as const;
const dtypes = { float32: ComputeDtype.FLOAT32, bfloat16: ComputeDtype.BFLOAT16 } as const;
const checkpointings = {
  none: GradientCheckpointing.NONE,
  selective: GradientCheckpointing.SELECTIVE,
  full: GradientCheckpointing.FULL,
  offload: GradientCheckpointing.OFFLOAD,
} as const;
const optimizers = {
  adamw_32bit: Optimizer.ADAMW_32BIT,
  adamw_8bit: Optimizer.ADAMW_8BIT,
  paged_adamw_32bit: Optimizer.PAGED_ADAMW_32BIT,
  paged_adamw_8bit: Optimizer.PAGED_ADAMW_8BIT,
} as const;
const turns = { all: TrainTurns.ALL, last: TrainTurns.LAST } as const;
const schedules = { constant: Schedule.CONSTANT, linear: Schedule.LINEAR, cosine: Schedule.COSINE } as const;

/** "SUCCEEDED" for State.SUCCEEDED: generated enums have no way back from a number. */
export function enumName(values: Readonly<Record<string, number>>, value: number): string {
  return Object.keys(values).find((name) => values[name] === value) ?? String(value);
}

export const quantTypeOf = (type: QuantOptions["type"]): QuantType => quantTypes[type];
export const computeDtypeOf = (dtype: TrainRecipe["dtype"]): ComputeDtype => dtypes[dtype];

/** A path is the server's; names of sets stay names. */
const dataOf = (data: string): string => (namesSet(data) ? data : resolve(data));

/** The same of folders: names of repositories stay names, for the server to pull. */
export const folderOf = (text: string): string => (repoInPlaceOf(text) ? text : resolve(text));

/** Every field is sent: what the recipe says is what is done, whatever the server's defaults are. */
export function trainingSpec(
  { recipe, evalFile, evalSteps }: Omit<TrainingJob, "device">,
  registryTarget?: MessageInitShape<typeof RegistryTargetSchema>,
): MessageInitShape<typeof TrainingSpecSchema> {
  const { steps, threads, pagingDir, memoryLimit } = recipe;
  return {
    modelDir: folderOf(recipe.model),
    dataFile: dataOf(recipe.data),
    datasetFormat: recipe.datasetFormat,
    outputDir: resolve(recipe.out),
    evalDataFile: evalFile === null ? "" : dataOf(evalFile),
    initAdapterDir: recipe.initAdapter === null ? "" : folderOf(recipe.initAdapter),
    fullParameter: recipe.full,
    rank: recipe.rank,
    alpha: recipe.alpha,
    dropout: recipe.dropout,
    useRslora: recipe.rslora,
    targetModules: recipe.targets === "all-linear" ? [] : [...recipe.targets],
    optimizer: optimizers[recipe.optimizer],
    pagingDir: pagingDir === null ? "" : resolve(pagingDir),
    learningRate: recipe.lr,
    weightDecay: recipe.weightDecay,
    adamBeta1: recipe.beta1,
    adamBeta2: recipe.beta2,
    adamEpsilon: recipe.eps,
    maxGradNorm: recipe.maxGradNorm,
    ...(steps === null ? { epochs: recipe.epochs } : { steps: BigInt(steps) }),
    saveEpochs: recipe.saveEpochs,
    batchSize: recipe.batchSize,
    gradAccum: recipe.gradAccum,
    schedule: schedules[recipe.schedule],
    warmup: recipe.warmup,
    seed: recipe.seed,
    shuffle: recipe.shuffle,
    trainOnSource: recipe.trainOnSource,
    trainTurns: turns[recipe.trainTurns],
    packing: recipe.packing,
    evalFraction: recipe.evalFraction,
    maxLength: recipe.maxLength,
    evalSteps: BigInt(evalSteps),
    checkpointing: checkpointings[recipe.gradientCheckpointing],
    computeDtype: computeDtypeOf(recipe.dtype),
    adapterDtype: computeDtypeOf(recipe.adapterDtype),
    ...(threads === null ? {} : { threads }),
    ...(memoryLimit === null ? {} : { memoryLimitBytes: BigInt(memoryLimit) }),
    bits: recipe.bits,
    quantType: quantTypeOf(recipe.quantType),
    blockSize: recipe.blockSize,
    doubleQuant: recipe.doubleQuant,
    ...(registryTarget ? { registryTarget } : {}),
  };
}

function constraintOf(constraint: NonNullable<AnswerRequest["constraint"]>): MessageInitShape<typeof ConstraintSchema> {
  if ("jsonSchema" in constraint) return { form: { case: "jsonSchema", value: constraint.jsonSchema } };
  if ("regex" in constraint) return { form: { case: "regex", value: constraint.regex } };
  return { form: { case: "json", value: true } };
}

export function samplingParams(request: AnswerRequest): MessageInitShape<typeof SamplingParamsSchema> {
  const { maxNewTokens, sampling, stops, constraint, topLogprobs, lookupTokens, n, ignoreEos } = request;
  const { frequencyPenalty, presencePenalty } = request;
  return {
    ...sampling,
    frequencyPenalty,
    presencePenalty,
    stop: [...stops],
    promptLookupTokens: lookupTokens,
    n,
    ignoreEos,
    topLogprobs: topLogprobs ?? 0,
    ...(constraint === null ? {} : { constraint: constraintOf(constraint) }),
    ...(maxNewTokens === null ? {} : { maxNewTokens }),
  };
}

function stepOf(p: StepProgress): TrainProgress {
  return {
    kind: "step",
    step: Number(p.step),
    steps: Number(p.stepsTotal),
    loss: p.loss,
    gradNorm: p.gradNorm,
    lr: p.learningRate,
    tokensPerSecond: p.tokensPerSecond,
    seconds: p.seconds,
    memoryBytes: Number(p.memory?.bytesPeak ?? 0),
  };
}

/** Null for what the progress of a run does not show. */
export function progressOf({ event }: Event): TrainProgress | null {
  if (event.case === "step") return stepOf(event.value);
  if (event.case === "log") {
    const severity = event.value.severity === Severity.INFO ? "info" : "warning";
    return { kind: "log", text: event.value.text, severity };
  }
  if (event.case === "checkpoint") {
    return { kind: "checkpoint", step: Number(event.value.step), dir: event.value.artifactDir };
  }
  if (event.case !== "eval") return null;
  const { step, loss, tokens, seconds } = event.value;
  return { kind: "eval", step: Number(step), loss, tokens: Number(tokens), seconds };
}

export function previewSummary(response: PreviewDataResponse): PreviewSummary {
  const { files, format, unusedColumns, rows, tokens, tokensTrained, tokensLongest, findings, preview } = response;
  return {
    files,
    format,
    unusedColumns,
    rows: Number(rows),
    tokens: Number(tokens),
    trainedTokens: Number(tokensTrained),
    longest: Number(tokensLongest),
    findings: findings.map(({ problem, count, places }) => ({
      problem: problems.find((name) => name.toUpperCase() === enumName(DataProblem, problem)) ?? "bad",
      count: Number(count),
      first: places.map(({ file, line, text }) => ({ file, line: Number(line), text })),
    })),
    preview: preview.map(({ file, line, weight, tokens: list }) => ({
      file,
      line: Number(line),
      weight,
      tokens: list.map(({ id, text, trained }) => ({ id, text, trained })),
    })),
  };
}
