// A request for fine-tuning as a training spec. The trainer, the files and the base's folder are on one machine.
import { randomUUID } from "node:crypto";
import { join, relative } from "node:path";
import type { MessageInitShape } from "@bufbuild/protobuf";
import { QuantType } from "#gen/nibble/common/v1/common_pb.ts";
import type { Model } from "#gen/nibble/inference/v1/inference_pb.ts";
import type { TrainingSpecSchema } from "#gen/nibble/trainer/v1/spec_pb.ts";
import { refusal } from "../errors.ts";
import { Fields } from "../fields.ts";
import { checkpointsId, idOf } from "../models.ts";

export type Spec = MessageInitShape<typeof TrainingSpecSchema>;

/** Read and checked; its files have not been looked for. */
export interface FineTuning {
  model: string;
  trainingFile: string;
  validationFile: string | undefined;
  /** Id of the adapter in the registry; undefined: after the job. */
  adapterId: string | undefined;
  epochs: number | undefined;
  batchSize: number | undefined;
  learningRateMultiplier: number | undefined;
  seed: number | undefined;
}

/** OpenAI's "auto" for small sets. The trainer's own default is one pass. */
export const epochsDefault = 3;
/** The trainer's default, which a multiplier multiplies. */
export const learningRateBase = 2e-4;
/** Rows of a step: the trainer's default micro-batches and their number. */
export const microBatchDefault = 4;
export const gradAccumDefault = 4;
const idCharsMax = 63;

/** Beside the result: each costs an adapter's bytes. */
const checkpointsMax = 10;

/** Where a caller's jobs write: those of one with a key in a folder of their own. */
export const dirOf = (dir: string, caller: string): string => (caller === "" ? dir : join(dir, `@${caller}`));

/** Whose job writes there; "" where it is nobody's in particular. */
export function ownerOf(dir: string, outputDir: string): string {
  const [, owner = ""] = /^@([^/]+)\/[^/]+$/.exec(relative(dir, outputDir)) ?? [];
  return owner;
}

export const newJobId = (): string => `ftjob-${randomUUID().replaceAll("-", "").slice(0, 24)}`;

/** A number or "auto". */
function tuned(fields: Fields | undefined, name: string, limits: { min: number; max: number }, isWhole: boolean) {
  if (!fields || fields.raw(name) === "auto") return undefined;
  return isWhole ? fields.whole(name, limits) : fields.number(name, limits);
}

/** From `method.supervised.hyperparameters`, or the older `hyperparameters`. */
function hyperparametersOf(fields: Fields): Fields | undefined {
  const older = fields.object("hyperparameters");
  const method = fields.object("method");
  if (!method) return older;
  method.choice("type", ["supervised"]) ?? method.missing("type");
  const supervised = method.object("supervised");
  const newer = supervised?.object("hyperparameters");
  supervised?.end();
  method.end();
  return newer ?? older;
}

function adapterIdOf(fields: Fields): string | undefined {
  const suffix = fields.text("suffix");
  if (suffix === undefined) return undefined;
  const id = suffix
    .toLowerCase()
    .replaceAll(/[^a-z0-9]+/g, "-")
    .replaceAll(/^-+|-+$/g, "")
    .slice(0, idCharsMax);
  return id === "" ? fields.refuse("suffix", "letters or digits") : id;
}

export function readFineTuning(body: Record<string, unknown>): FineTuning {
  const fields = new Fields(body);
  const hyperparameters = hyperparametersOf(fields);
  const read: FineTuning = {
    model: fields.needText("model"),
    trainingFile: fields.needText("training_file"),
    validationFile: fields.text("validation_file"),
    adapterId: adapterIdOf(fields),
    epochs: tuned(hyperparameters, "n_epochs", { min: 1, max: 1000 }, true),
    batchSize: tuned(hyperparameters, "batch_size", { min: 1, max: 65_536 }, true),
    learningRateMultiplier: tuned(hyperparameters, "learning_rate_multiplier", { min: 1e-6, max: 1e6 }, false),
    seed: fields.whole("seed", { min: 0, max: 2 ** 32 - 1 }),
  };
  hyperparameters?.end();
  fields.unsupported("integrations", (value) => Array.isArray(value) && value.length === 0);
  fields.unsupported("metadata", (value) => typeof value === "object" && Object.keys(value ?? {}).length === 0);
  fields.end();
  return read;
}

/** Rows of a step in micro-batches of a few: memory is that of one of them. */
function batchOf(rows: number | undefined) {
  if (rows === undefined) return {};
  const batchSize = [4, 3, 2].find((size) => rows % size === 0) ?? 1;
  return { batchSize, gradAccum: rows / batchSize };
}

const quantTypeOf = (base: Model) => base.quantization?.type ?? QuantType.UNSPECIFIED;

/** Trains over what is served: the same folder, in the same bits, pinned by its digest. */
export function specOf(
  asked: FineTuning,
  { base, id, dir, pathOf }: { base: Model; id: string; dir: string; pathOf: (file: string) => string },
): Spec {
  if (asked.model !== idOf(base.name)) {
    throw refusal(`model: expected ${idOf(base.name)}, the base that is served, got ${asked.model.slice(0, 200)}`, {
      param: "model",
      openaiCode: "model_not_available",
    });
  }
  const quantType = quantTypeOf(base);
  const { blockSize = 0, doubleQuant = true } = base.quantization ?? {};
  const quant = quantType === QuantType.UNSPECIFIED ? { bits: 16 } : { bits: 4, quantType, blockSize, doubleQuant };
  const { validationFile, epochs = epochsDefault, batchSize, learningRateMultiplier, seed, adapterId = id } = asked;
  return {
    modelDir: base.modelDir,
    baseDigest: base.digest,
    dataFile: pathOf(asked.trainingFile),
    outputDir: join(dir, id),
    epochs,
    ...quant,
    ...(validationFile === undefined ? {} : { evalDataFile: pathOf(validationFile) }),
    ...batchOf(batchSize),
    ...(learningRateMultiplier === undefined ? {} : { learningRate: learningRateBase * learningRateMultiplier }),
    ...(seed === undefined ? {} : { seed }),
    saveEpochs: Math.ceil(epochs / checkpointsMax),
    registryTarget: { endpoint: "", adapterId, aliases: [], checkpointsAdapterId: checkpointsId(id) },
  };
}
