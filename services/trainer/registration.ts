// Registers what a job has trained, and what it was on the way. The adapters stay in their folders whatever happens here.
import type { MessageInitShape } from "@bufbuild/protobuf";
import { type QuantizationSchema, QuantType } from "#gen/nibble/common/v1/common_pb.ts";
import { Severity } from "#gen/nibble/trainer/v1/events_pb.ts";
import type { TrainingSpec } from "#gen/nibble/trainer/v1/spec_pb.ts";
import { connect, type UploadOptions, uploadAdapter } from "#packages/client";
import { printRecipe, type TrainRecipe } from "#packages/data";
import type { TrainReport } from "#packages/engine";
import { NibbleError } from "#packages/errors";
import { openModelFolder } from "#packages/hub";
import { type CheckpointEvent, logLine, type Payload } from "./payloads.ts";

/** Uploads a folder to the registry at an address; the version's name. */
export type Register = (endpoint: string, dir: string, options: UploadOptions) => Promise<string>;

export interface Training {
  id: string;
  spec: TrainingSpec;
  recipe: TrainRecipe;
}

export interface Registering {
  register: Register;
  emit: (payload: Payload) => void;
  signal: AbortSignal;
}

const types = { nf4: QuantType.NF4, fp4: QuantType.FP4, int4: QuantType.INT4 } as const;

/** `endpointDefault` is for jobs that name no registry. */
export function clientRegister(endpointDefault: string): Register {
  return async (endpoint, dir, options) => {
    using connection = connect({ endpoint: endpoint || endpointDefault });
    return (await uploadAdapter(connection.registry, dir, options)).name;
  };
}

/** How the base's linear layers were stored while the adapter was trained. */
function quantizationOf({ model, bits, quantType, blockSize, doubleQuant }: TrainRecipe) {
  using folder = openModelFolder(model);
  const [stored] = folder.quantStates.values();
  const none: MessageInitShape<typeof QuantizationSchema> = { type: QuantType.UNSPECIFIED };
  if (!stored) return bits === 4 ? { type: types[quantType], blockSize, doubleQuant } : none;
  return { type: types[stored.quantType], blockSize: stored.blockSize, doubleQuant: stored.nested !== null };
}

function metadataOf(
  { id, recipe }: Training,
  { steps, lastLoss, evalLoss }: { steps: number; lastLoss: number; evalLoss: number | null },
): Record<string, string> {
  return {
    training_job: `trainingJobs/${id}`,
    recipe: printRecipe(recipe),
    steps: String(steps),
    last_loss: String(lastLoss),
    ...(evalLoss === null ? {} : { eval_loss: String(evalLoss) }),
  };
}

/** The version's name; "" for a job without a registry target. */
export async function registered(
  training: Training,
  report: TrainReport,
  { register, emit, signal }: Registering,
): Promise<string> {
  const target = training.spec.registryTarget;
  if (!target) return "";
  try {
    const version = await register(target.endpoint, report.outDir, {
      adapterId: target.adapterId,
      aliases: target.aliases,
      baseDigest: report.baseDigest,
      baseQuantization: quantizationOf(training.recipe),
      metadata: { ...metadataOf(training, report), first_loss: String(report.firstLoss) },
      requestId: training.id,
      signal,
    });
    emit(logLine(Severity.INFO, `registered as ${version}`));
    return version;
  } catch (thrown) {
    emit(logLine(Severity.ERROR, `the adapter is in ${report.outDir}, but it could not be registered`));
    throw NibbleError.from(thrown, "register_adapter");
  }
}

/** The version's name; "" where the job has no target for checkpoints, or it failed: the job goes on without it. */
export async function registeredCheckpoint(
  training: Training,
  { step, dir, loss, evalLoss }: CheckpointEvent,
  { register, emit, signal }: Registering,
): Promise<string> {
  const { endpoint = "", checkpointsAdapterId: adapterId = "" } = training.spec.registryTarget ?? {};
  if (adapterId === "") return "";
  try {
    return await register(endpoint, dir, {
      adapterId,
      aliases: [`step-${step}`],
      baseQuantization: quantizationOf(training.recipe),
      metadata: metadataOf(training, { steps: step, lastLoss: loss, evalLoss }),
      signal,
    });
  } catch (thrown) {
    const { message } = NibbleError.from(thrown, "register_adapter");
    emit(logLine(Severity.WARNING, `the checkpoint is in ${dir}, but it could not be registered: ${message}`));
    return "";
  }
}
