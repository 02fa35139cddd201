// What nibble jobs does once its options are read; it is loaded then, and gRPC with it.
import { State } from "#gen/nibble/trainer/v1/events_pb.ts";
import type { TrainingJob } from "#gen/nibble/trainer/v1/trainer_pb.ts";
import { type Connection, connect, pagesOf, watchJob } from "#packages/client";
import { fromStatus } from "#packages/rpc";
import { table } from "../format.ts";
import { type Io, line, printJson } from "../io.ts";
import { TrainReporter } from "../progress.ts";
import { enumName, progressOf } from "../remote/wire.ts";
import { endpointDefault } from "../stack/config.ts";
import type { JobsOptions } from "./jobs.ts";

interface Call {
  io: Io;
  connection: Connection;
  options: JobsOptions;
  name: string;
}

type Work = (call: Call) => Promise<void>;

const works = { list, get, cancel, watch } satisfies Record<string, Work>;
export type JobsCommand = keyof typeof works;

export async function runJobs(io: Io, options: JobsOptions, command: JobsCommand, id: string): Promise<void> {
  using connection = connect({ endpoint: options.endpoint ?? io.env["NIBBLE_ENDPOINT"] ?? endpointDefault });
  await works[command]({ io, connection, options, name: jobName(id) });
}

const prefix = "trainingJobs/";
const jobName = (id: string) => (id.startsWith(prefix) ? id : `${prefix}${id}`);

async function allJobs({ connection, io }: Call): Promise<TrainingJob[]> {
  const read = (pageToken: string) =>
    connection.trainer.listTrainingJobs({ pageToken, pageSize: 1000 }, { signal: io.signal });
  const jobs: TrainingJob[] = [];
  for await (const { trainingJobs } of pagesOf(read)) jobs.push(...trainingJobs);
  return jobs;
}

/** What people and programs see of a job. */
function viewOf(job: TrainingJob) {
  const { name, spec, progress, result, error, createTime } = job;
  return {
    name,
    state: enumName(State, job.state),
    created: createTime ? new Date(Number(createTime.seconds) * 1000).toISOString() : null,
    model: spec?.modelDir ?? "",
    data: spec?.dataFile ?? "",
    out: spec?.outputDir ?? "",
    step: Number(progress?.step ?? 0),
    steps: Number(progress?.stepsTotal ?? 0),
    loss: progress?.loss ?? null,
    eval_loss: result?.evalLoss ?? null,
    adapter_version: result?.adapterVersion || null,
    error: error ? fromStatus(error, "train").message : null,
  };
}

async function list(call: Call): Promise<void> {
  const jobs = (await allJobs(call)).map(viewOf);
  if (call.options.json) return printJson(call.io, { jobs });
  const rows = jobs.map((job) => [
    job.name,
    job.state,
    `${job.step}/${job.steps}`,
    job.loss?.toFixed(4) ?? "-",
    job.out,
  ]);
  line(call.io.stdout, table([["job", "state", "step", "loss", "out"], ...rows], "left"));
}

function show({ io, options }: Call, job: TrainingJob | undefined): void {
  if (!job) return;
  const view = viewOf(job);
  if (options.json) {
    printJson(io, view);
    return;
  }
  const rows = Object.entries(view).flatMap(([key, value]) =>
    value === null || value === "" ? [] : [[key, String(value)]],
  );
  line(io.stdout, table(rows, "left"));
}

async function get(call: Call): Promise<void> {
  const { name, connection, io } = call;
  show(call, (await connection.trainer.getTrainingJob({ name }, { signal: io.signal })).trainingJob);
}

async function cancel(call: Call): Promise<void> {
  const { name, connection, io } = call;
  show(call, (await connection.trainer.cancelTrainingJob({ name }, { signal: io.signal })).trainingJob);
}

async function watch(call: Call): Promise<void> {
  const { name, connection, io } = call;
  const reporter = new TrainReporter(io);
  try {
    for await (const event of watchJob(connection.trainer, name, { signal: io.signal })) {
      const progress = progressOf(event);
      if (progress) reporter.event(progress);
    }
  } finally {
    reporter.end();
  }
  await get(call);
}
