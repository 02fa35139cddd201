// Registers what a job has trained. The adapter stays in its folder whatever happens here.
import type { MessageInitShape } from "@bufbuild/protobuf";
import { type QuantizationSchema, QuantType } from "#gen/nibble/common/v1/common_pb.ts";
import { Severity } from "#gen/nibble/trainer/v1/events_pb.ts";
import type { TrainingSpec } from "#gen/nibble/trainer/v1/spec_pb.ts";
import { connect, type UploadOptions, uploadAdapter } from "#packages/client";
import { printRecipe, type TrainRecipe } from "#packages/data";
import type { TrainReport } from "#packages/engine";
import { NibbleError } from "#packages/errors";
import { openModelFolder } from "#packages/hub";
import { logLine, type Payload } from "./payloads.ts";

/** Uploads a folder to the registry at an address; the version's name. */
export type Register = (endpoint: string, dir: string, options: UploadOptions) => Promise<string>;

export interface Trained {
  id: string;
  spec: TrainingSpec;
  recipe: TrainRecipe;
  report: TrainReport;
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

function metadataOf({ id, recipe, report }: Trained): Record<string, string> {
  return {
    training_job: `trainingJobs/${id}`,
    recipe: printRecipe(recipe),
    steps: String(report.steps),
    first_loss: String(report.firstLoss),
    last_loss: String(report.lastLoss),
    ...(report.evalLoss === null ? {} : { eval_loss: String(report.evalLoss) }),
  };
}

/** The version's name; "" for a job without a registry target. */
export async function registered(
  trained: Trained,
  { register, emit, signal }: { register: Register; emit: (payload: Payload) => void; signal: AbortSignal },
): Promise<string> {
  const { spec, report, id } = trained;
  const target = spec.registryTarget;
  if (!target) return "";
  try {
    const version = await register(target.endpoint, report.outDir, {
      adapterId: target.adapterId,
      aliases: target.aliases,
      baseDigest: report.baseDigest,
      baseQuantization: quantizationOf(trained.recipe),
      metadata: metadataOf(trained),
      requestId: id,
      signal,
    });
    emit(logLine(Severity.INFO, `registered as ${version}`));
    return version;
  } catch (thrown) {
    emit(logLine(Severity.ERROR, `the adapter is in ${report.outDir}, but it could not be registered`));
    throw NibbleError.from(thrown, "register_adapter");
  }
}
