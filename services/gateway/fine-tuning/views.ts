// Training jobs, their events and results as OpenAI's objects.
import { timestampMs } from "@bufbuild/protobuf/wkt";
import { type Checkpoint, type Event, Severity, State } from "#gen/nibble/trainer/v1/events_pb.ts";
import type { TrainingJob } from "#gen/nibble/trainer/v1/trainer_pb.ts";
import { fromStatus, parseName } from "#packages/rpc";
import { idOf, versionName } from "../models.ts";
import { gradAccumDefault, learningRateBase, microBatchDefault } from "./spec.ts";

const statuses: Record<State, string> = {
  [State.UNSPECIFIED]: "queued",
  [State.QUEUED]: "queued",
  [State.RUNNING]: "running",
  [State.PAUSED]: "paused",
  [State.SUCCEEDED]: "succeeded",
  [State.FAILED]: "failed",
  [State.CANCELLED]: "cancelled",
};

const changes: Record<State, string> = {
  [State.UNSPECIFIED]: "The job was created",
  [State.QUEUED]: "The job waits for its turn",
  [State.RUNNING]: "The job has begun",
  [State.PAUSED]: "The job is paused",
  [State.SUCCEEDED]: "The job has succeeded",
  [State.FAILED]: "The job has failed",
  [State.CANCELLED]: "The job was cancelled",
};

const secondsOf = (time: Parameters<typeof timestampMs>[0] | undefined): number | null =>
  time ? Math.floor(timestampMs(time) / 1000) : null;

/** The id of a file's path; the path itself where it was not uploaded here. */
export type FileName = (path: string) => string;

function errorOf({ state, error }: TrainingJob) {
  if (!error || state !== State.FAILED) return null;
  const { message, code, details } = fromStatus(error);
  return { message, code: code.toLowerCase(), param: details["field"] ?? null };
}

function fineTunedModel({ result }: TrainingJob): string | null {
  return result?.adapterVersion ? versionName(result.adapterVersion) : null;
}

function etaOf({ state, progress }: TrainingJob, nowMs: number): number | null {
  if (state !== State.RUNNING || !progress?.eta) return null;
  return Math.floor(nowMs / 1000) + Number(progress.eta.seconds);
}

export function jobView(
  job: TrainingJob,
  { model, fileName, nowMs }: { model: string; fileName: FileName; nowMs: number },
) {
  const { name, spec, state, createTime, endTime, result, progress } = job;
  const hyperparameters = {
    n_epochs: spec?.epochs ?? 1,
    batch_size: (spec?.batchSize ?? microBatchDefault) * (spec?.gradAccum ?? gradAccumDefault),
    learning_rate_multiplier: (spec?.learningRate ?? learningRateBase) / learningRateBase,
  };
  const tokens = result?.tokens ?? progress?.tokensProcessed;
  return {
    id: idOf(name),
    object: "fine_tuning.job",
    created_at: secondsOf(createTime) ?? 0,
    finished_at: secondsOf(endTime),
    estimated_finish: etaOf(job, nowMs),
    model,
    fine_tuned_model: fineTunedModel(job),
    organization_id: "nibble",
    status: statuses[state],
    training_file: fileName(spec?.dataFile ?? ""),
    validation_file: spec?.evalDataFile ? fileName(spec.evalDataFile) : null,
    result_files: [],
    trained_tokens: tokens === undefined ? null : Number(tokens),
    error: errorOf(job),
    hyperparameters,
    method: { type: "supervised", supervised: { hyperparameters } },
    seed: spec?.seed ?? 0,
    integrations: [],
    user_provided_suffix: spec?.registryTarget?.adapterId ?? null,
    metadata: null,
  };
}

const levels: Record<Severity, string> = {
  [Severity.UNSPECIFIED]: "info",
  [Severity.INFO]: "info",
  [Severity.WARNING]: "warn",
  [Severity.ERROR]: "error",
};

interface Said {
  level: string;
  message: string;
  type: "message" | "metrics";
  data: Record<string, unknown> | null;
}

const message = (text: string, level = "info"): Said => ({ level, message: text, type: "message", data: null });
const metrics = (text: string, data: Record<string, unknown>): Said => ({
  level: "info",
  message: text,
  type: "metrics",
  data,
});

function said({ event }: Event): Said {
  switch (event.case) {
    case "stateChange": {
      const { state, error } = event.value;
      const text = `${changes[state]}${error?.message ? `: ${error.message}` : ""}`;
      return message(text, state === State.FAILED ? "error" : "info");
    }
    case "step": {
      const { step, stepsTotal, loss, gradNorm, learningRate } = event.value;
      const [at, total] = [Number(step), Number(stepsTotal)];
      const text = `Step ${at}/${total}: training loss=${loss.toFixed(4)}`;
      const data = { step: at, total_steps: total, train_loss: loss, grad_norm: gradNorm, learning_rate: learningRate };
      return metrics(text, data);
    }
    case "eval": {
      const { step, loss } = event.value;
      return metrics(`Step ${step}: validation loss=${loss.toFixed(4)}`, { step: Number(step), valid_loss: loss });
    }
    case "finished": {
      const { adapterVersion, lastLoss } = event.value;
      const made = adapterVersion ? `, new fine-tuned model: ${versionName(adapterVersion)}` : "";
      return message(`Training is done, last loss=${lastLoss.toFixed(4)}${made}`);
    }
    case "checkpoint": {
      const { step, adapterVersion } = event.value;
      const made = adapterVersion ? `: ${checkpointModel(event.value)}` : "";
      return message(`Checkpoint created at step ${step}${made}`);
    }
    case "log":
      return message(event.value.text, levels[event.value.severity]);
    default:
      return message("");
  }
}

export const eventId = (jobId: string, sequence: bigint): string =>
  `ftevent-${jobId.replace("ftjob-", "")}-${sequence}`;

export function sequenceOf(id: string): bigint | undefined {
  const digits = /^ftevent-.*-(\d{1,15})$/.exec(id)?.[1];
  return digits === undefined ? undefined : BigInt(digits);
}

export function eventView(jobId: string, event: Event) {
  return {
    object: "fine_tuning.job.event",
    id: eventId(jobId, event.sequence),
    created_at: secondsOf(event.time) ?? 0,
    ...said(event),
  };
}

/** `adapter:step-N`, by which it is asked for as a model. */
function checkpointModel({ adapterVersion, step }: Checkpoint): string {
  const { adapter } = parseName("adapters/{adapter}/versions/{version}", adapterVersion, "checkpoint");
  return `${adapter}:step-${step}`;
}

/** Newest first: the result of a job that succeeded, and what was registered on the way. */
export function checkpointViews({ name, result, endTime, checkpoints }: TrainingJob) {
  const jobId = idOf(name);
  const view = (model: string, { step, loss, evalLoss, createTime }: Partial<Checkpoint>) => ({
    id: `ftckpt-${jobId.replace("ftjob-", "")}-${step}`,
    object: "fine_tuning.job.checkpoint",
    created_at: secondsOf(createTime) ?? 0,
    fine_tuned_model_checkpoint: model,
    fine_tuning_job_id: jobId,
    step_number: Number(step),
    metrics: {
      step: Number(step),
      train_loss: loss,
      ...(evalLoss === undefined ? {} : { valid_loss: evalLoss }),
    },
  });
  const onTheWay = checkpoints.filter(({ adapterVersion }) => adapterVersion !== "");
  const views = onTheWay.map((checkpoint) => view(checkpointModel(checkpoint), checkpoint)).reverse();
  if (!result?.adapterVersion) return views;
  const { steps: step, lastLoss: loss, evalLoss } = result;
  const end = {
    step,
    loss,
    ...(evalLoss === undefined ? {} : { evalLoss }),
    ...(endTime ? { createTime: endTime } : {}),
  };
  return [view(versionName(result.adapterVersion), end), ...views];
}
