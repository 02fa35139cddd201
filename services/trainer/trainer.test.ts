import assert from "node:assert/strict";
import { cpSync, existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { create, type MessageInitShape } from "@bufbuild/protobuf";
import { type Event, FinishedSchema, Severity, State } from "#gen/nibble/trainer/v1/events_pb.ts";
import { DataProblem } from "#gen/nibble/trainer/v1/preview_pb.ts";
import { Optimizer, type TrainingSpecSchema } from "#gen/nibble/trainer/v1/spec_pb.ts";
import { watchJob } from "#packages/client";
import { NibbleError } from "#packages/errors";
import { openAdapterFolder } from "#packages/hub";
import { BadRequestError, fromStatus } from "#packages/rpc";
import { goldenPath, temporaryFolder } from "../../test/support/folders.ts";
import { silent, startService, until } from "../../test/support/services.ts";
import { startRegistry } from "../adapter-registry/test/support.ts";
import { readConfig } from "./config.ts";
import { logLine } from "./payloads.ts";
import { openTrainer } from "./setup.ts";
import type { Train } from "./training.ts";

type Spec = MessageInitShape<typeof TrainingSpecSchema>;

async function start(
  t: TestContext,
  options: { dir?: string; waitingMax?: number; train?: Train; registry?: string } = {},
) {
  const { dir = temporaryFolder(t), train, ...rest } = options;
  const config = { ...readConfig({}), dir, threads: 1, ...rest };
  return startService(t, await openTrainer(config, { now: Date.now, logger: silent, ...(train ? { train } : {}) }));
}

const rows = [
  { prompt: "What is two and two?", completion: "four" },
  { prompt: "What is the sky?", completion: "blue" },
  { prompt: "Who are you?", completion: "a small model" },
];

function specOf(t: TestContext, changes: Spec = {}): Spec & { outputDir: string } {
  const folder = temporaryFolder(t);
  const dataFile = join(folder, "rows.jsonl");
  writeFileSync(dataFile, rows.map((row) => `${JSON.stringify(row)}\n`).join(""));
  const outputDir = join(folder, "out");
  const small = { rank: 4, batchSize: 1, gradAccum: 2, learningRate: 0.01 };
  return { modelDir: goldenPath("llama_untied_nf4_dq"), dataFile, outputDir, ...small, ...changes };
}

/** A job for trainers that do not look at it. */
const anySpec: Spec = { modelDir: "m", dataFile: "d", outputDir: "o" };

/** Work that emits a line, then lasts until it is told to stop or let go. */
function lasting() {
  const { promise, resolve } = Promise.withResolvers<void>();
  const train: Train = async (_job, emit, signal) => {
    emit(logLine(Severity.INFO, "begun"));
    signal.addEventListener("abort", () => resolve(), { once: true });
    await promise;
    signal.throwIfAborted();
    emit({ case: "finished", value: create(FinishedSchema, { steps: 1n }) });
  };
  return { train, letGo: resolve };
}

async function collect(events: AsyncIterable<Event>): Promise<Event[]> {
  const all: Event[] = [];
  for await (const event of events) all.push(event);
  return all;
}

const sequences = (events: readonly Event[]) => events.map(({ sequence }) => Number(sequence));
const states = (events: readonly Event[]) =>
  events.flatMap(({ event }) => (event.case === "stateChange" ? [event.value.state] : []));

test("a job trains an adapter and tells every step of it", async (t) => {
  const { clients } = await start(t);
  const spec = specOf(t, { steps: 6n, evalSteps: 3n, threads: 1 });
  const request = { trainingJobId: "first", trainingJob: { spec: { ...spec, evalDataFile: spec.dataFile ?? "" } } };
  const { trainingJob } = await clients.trainer.createTrainingJob(request);
  assert.equal(trainingJob?.name, "trainingJobs/first");
  const events = await collect(watchJob(clients.trainer, "trainingJobs/first"));
  assert.deepEqual(
    sequences(events),
    events.map((_, i) => i + 1),
  );
  assert.deepEqual(states(events), [State.QUEUED, State.RUNNING, State.SUCCEEDED]);
  const steps = events.flatMap(({ event }) => (event.case === "step" ? [event.value] : []));
  assert.deepEqual(
    steps.map(({ step }) => step),
    [1n, 2n, 3n, 4n, 5n, 6n],
  );
  assert.ok(steps[5]!.loss < steps[0]!.loss);
  assert.ok(steps.every((s) => s.gradNorm > 0 && s.tokens > 0n && s.tokens < s.tokensProcessed && s.stepsTotal === 6n));
  assert.deepEqual([steps[1]!.epoch, steps[5]!.epoch], [1, 3]);
  assert.equal(steps[5]!.eta?.seconds, 0n);
  const memory = steps[5]!.memory!;
  assert.ok(memory.bytesByKind["adapter"]! > 0n && memory.bytesPeak >= memory.bytesTotal);
  const evaluations = events.flatMap(({ event }) => (event.case === "eval" ? [event.value] : []));
  // Before the first step, every third, and at the end.
  assert.deepEqual(
    evaluations.map(({ step }) => step),
    [0n, 3n, 6n],
  );
  const { trainingJob: job } = await clients.trainer.getTrainingJob({ name: "trainingJobs/first" });
  assert.equal(job?.state, State.SUCCEEDED);
  assert.equal(job?.lastSequence, BigInt(events.length));
  assert.equal(job?.progress?.step, 6n);
  assert.equal(job?.result?.lastLoss, steps[5]!.loss);
  assert.equal(
    job?.result?.tokens,
    steps.reduce((sum, s) => sum + s.tokens, 0n),
  );
  using adapter = openAdapterFolder(spec.outputDir);
  assert.equal(adapter.baseDigest, job?.result?.baseDigest);
  assert.equal(adapter.config.rank, 4);
  assert.equal(readFileSync(join(spec.outputDir, "metrics.jsonl"), "utf8").trim().split("\n").length, 6);
});

test("checkpoints are registered while the training goes on; where that fails they stay in their folders", async (t) => {
  const registry = await startRegistry(t);
  const { clients } = await start(t, { registry: registry.server.address });
  const target = (adapterId: string, checkpointsAdapterId: string) => ({
    adapterId,
    aliases: [],
    checkpointsAdapterId,
  });
  const run = async (spec: Spec) => {
    const { trainingJob } = await clients.trainer.createTrainingJob({ trainingJob: { spec } });
    const name = trainingJob?.name ?? "";
    const events = await collect(watchJob(clients.trainer, name));
    const { trainingJob: job } = await clients.trainer.getTrainingJob({ name });
    const checkpoints = events.flatMap(({ event }) => (event.case === "checkpoint" ? [event.value] : []));
    assert.deepEqual(job?.checkpoints, checkpoints);
    return { events, job, checkpoints };
  };
  const saving = { epochs: 3, saveEpochs: 1, threads: 1 };
  const spec = specOf(t, { ...saving, registryTarget: target("poet", "poet-ckpt") });
  const { job, checkpoints } = await run(spec);
  assert.equal(job?.result?.adapterVersion, "adapters/poet/versions/1");
  // Two steps an epoch.
  assert.deepEqual(
    checkpoints.map(({ step, adapterVersion, artifactDir }) => [step, adapterVersion, artifactDir]),
    [2, 4].map((step, i) => [
      BigInt(step),
      `adapters/poet-ckpt/versions/${i + 1}`,
      join(spec.outputDir, `checkpoint-${step}`),
    ]),
  );
  const { version } = await registry.client.resolveAlias({ name: "adapters/poet-ckpt/aliases/step-4" });
  assert.deepEqual([version?.baseDigest, version?.metadata["steps"]], [job?.result?.baseDigest, "4"]);

  await registry.stop();
  const alone = await run(specOf(t, { ...saving, registryTarget: target("poet", "poet-ckpt") }));
  assert.equal(alone.job?.state, State.FAILED);
  assert.deepEqual(
    alone.checkpoints.map(({ adapterVersion }) => adapterVersion),
    ["", ""],
  );
  for (const { artifactDir } of alone.checkpoints) openAdapterFolder(artifactDir).close();
  const warned = alone.events.filter(({ event }) => event.case === "log" && event.value.severity === Severity.WARNING);
  assert.equal(warned.length, 2);
});

test("what a job can only find out when it runs ends it as FAILED", async (t) => {
  const { clients } = await start(t);
  const run = async (spec: Spec) => {
    const { trainingJob } = await clients.trainer.createTrainingJob({ trainingJob: { spec } });
    const name = trainingJob?.name ?? "";
    const events = await collect(watchJob(clients.trainer, name));
    assert.deepEqual(states(events), [State.QUEUED, State.RUNNING, State.FAILED]);
    const { trainingJob: job } = await clients.trainer.getTrainingJob({ name });
    assert.ok(job?.error);
    return fromStatus(job.error);
  };
  const other = await run(specOf(t, { baseDigest: `sha256:${"0".repeat(64)}` }));
  assert.equal(other.code, "FAILED_PRECONDITION");
  assert.match(other.message, /base_digest: expected sha256:000/);
  assert.equal((await run(specOf(t, { modelDir: "/nowhere" }))).code, "NOT_FOUND");
  const bad = specOf(t);
  writeFileSync(bad.dataFile ?? "", '{"prompt": "a", "completion": "b"}\n{"question": "c"}\n');
  const row = await run(bad);
  assert.equal(row.code, "INVALID_ARGUMENT");
  assert.match(row.message, /rows\.jsonl:2/);
  assert.equal((await run(specOf(t, { bits: 16 }))).code, "INVALID_ARGUMENT");
  assert.equal(existsSync(join(bad.outputDir, "adapter_model.safetensors")), false);
});

test("bad requests are refused with the field", async (t) => {
  const { clients } = await start(t, { train: lasting().train });
  const refused = async (spec: Spec | undefined, field: string) => {
    const trainingJob = spec ? { spec } : {};
    await assert.rejects(clients.trainer.createTrainingJob({ trainingJob }), (error) => {
      assert.ok(error instanceof BadRequestError, String(error));
      assert.deepEqual(
        error.violations.map((v) => v.field),
        [field],
      );
      return true;
    });
  };
  await refused(undefined, "training_job.spec");
  await refused({ ...anySpec, modelDir: "" }, "training_job.spec.model_dir");
  await refused({ ...anySpec, rank: 0 }, "training_job.spec.rank");
  await refused({ ...anySpec, fullParameter: true }, "training_job.spec.full_parameter");
  await refused({ ...anySpec, steps: 2n, epochs: 1 }, "training_job.spec.steps");
  await refused({ ...anySpec, steps: 2n, warmup: 3 }, "training_job.spec.warmup");
  const target = { adapterId: "a" };
  await refused(
    { ...anySpec, fullParameter: true, bits: 16, registryTarget: target },
    "training_job.spec.registry_target",
  );
  await refused(
    { ...anySpec, registryTarget: { adapterId: "a", checkpointsAdapterId: "a" } },
    "training_job.spec.registry_target.checkpoints_adapter_id",
  );
  await refused({ ...anySpec, fullParameter: true, bits: 16, saveEpochs: 1 }, "training_job.spec.save_epochs");
  const badId = { ...anySpec, registryTarget: { adapterId: "A b" } };
  await assert.rejects(clients.trainer.createTrainingJob({ trainingJob: { spec: badId } }), {
    code: "INVALID_ARGUMENT",
  });
  const dry = { trainingJob: { spec: { ...anySpec, fullParameter: true } }, validateOnly: true };
  await assert.rejects(clients.trainer.createTrainingJob(dry), { code: "INVALID_ARGUMENT" });
  await assert.rejects(clients.trainer.getTrainingJob({ name: "trainingJobs/none" }), { code: "NOT_FOUND" });
  assert.equal((await clients.trainer.listTrainingJobs({})).trainingJobs.length, 0);
});

test("a preview shows what is trained, and lists what is wrong", async (t) => {
  const { clients } = await start(t);
  const spec = specOf(t);
  const fine = await clients.trainer.previewData({ spec, rows: 1 });
  assert.deepEqual(
    [fine.format, fine.rows, fine.findings.length, fine.preview.length],
    ["prompt-completion", 3n, 0, 1],
  );
  const [row] = fine.preview;
  assert.ok(row && row.line === 1n && row.weight === 1);
  const texts = (trained: boolean) => row.tokens.filter((token) => token.trained === trained).map(({ text }) => text);
  assert.equal(texts(true).join(""), "four</s>");
  assert.equal(texts(false).join(""), "<s>What is two and two?");
  writeFileSync(spec.dataFile ?? "", '{"text": "a"}\n{"text": 3}\n{"text": "a"}');
  const odd = await clients.trainer.previewData({ spec, rows: 0 });
  assert.deepEqual(
    odd.findings.map(({ problem, count, places }) => [problem, count, places[0]?.line]),
    [
      [DataProblem.BAD, 1n, 2n],
      [DataProblem.DUPLICATE, 1n, 3n],
    ],
  );
  assert.match(odd.findings[0]?.text ?? "", /^1 row cannot be read, the first at .*rows\.jsonl:2/);
  const wrong = clients.trainer.previewData({ spec: { ...spec, datasetFormat: "alpacca" } });
  await assert.rejects(wrong, { code: "INVALID_ARGUMENT", message: /spec\.dataset_format: .*expected one of auto, / });
  await assert.rejects(clients.trainer.previewData({ spec: { ...spec, dataFile: "/no/such" } }), { code: "NOT_FOUND" });
});

test("a quote says what the job then takes, and a dry run creates nothing", async (t) => {
  const { clients } = await start(t);
  const spec = specOf(t, { steps: 4n, threads: 1, optimizer: Optimizer.ADAMW_8BIT });
  const { quote } = await clients.trainer.quoteTrainingJob({ spec });
  assert.ok(quote?.memory && quote.fits && quote.bytesProcess > 0n && quote.bytesAvailable > 0n);
  assert.deepEqual([quote.rows, quote.steps], [3n, 4n]);
  assert.ok(quote.flops > 0 && quote.time !== undefined);
  const dry = await clients.trainer.createTrainingJob({ trainingJob: { spec }, validateOnly: true });
  assert.deepEqual([dry.trainingJob?.name, dry.quote?.memory?.bytesPeak], ["", quote.memory.bytesPeak]);
  const tooLarge = { trainingJob: { spec: { ...spec, memoryLimitBytes: 1_000_000n } }, validateOnly: true };
  await assert.rejects(clients.trainer.createTrainingJob(tooLarge), {
    code: "RESOURCE_EXHAUSTED",
    message: /the run needs .* memory_limit leaves .*what would help/,
  });
  assert.equal((await clients.trainer.listTrainingJobs({})).trainingJobs.length, 0);

  const { trainingJob } = await clients.trainer.createTrainingJob({ trainingJob: { spec } });
  const events = await collect(watchJob(clients.trainer, trainingJob?.name ?? ""));
  const done = await clients.trainer.getTrainingJob({ name: trainingJob?.name ?? "" });
  const result = done.trainingJob?.result;
  const taken = Number(result?.memory?.bytesPeak);
  assert.ok(Math.abs(taken / Number(quote.memory.bytesPeak) - 1) < 0.05, `${taken} of ${quote.memory.bytesPeak}`);
  assert.equal(result?.parametersTrained, quote.parametersTrained);
  const steps = events.flatMap(({ event }) => (event.case === "step" ? [event.value] : []));
  const sum = (of: (step: (typeof steps)[number]) => bigint) => steps.reduce((n, step) => n + of(step), 0n);
  assert.equal(
    sum((s) => s.tokensProcessed),
    quote.tokensProcessed,
  );
  assert.equal(
    sum((s) => s.tokens),
    quote.tokensTrained,
  );
});

test("a job that cannot fit fails before its first step, with the numbers", async (t) => {
  const { clients } = await start(t);
  const { trainingJob } = await clients.trainer.createTrainingJob({
    trainingJob: { spec: specOf(t, { memoryLimitBytes: 1_000_000n }) },
  });
  const events = await collect(watchJob(clients.trainer, trainingJob?.name ?? ""));
  assert.ok(events.every(({ event }) => event.case !== "step"));
  const { trainingJob: ended } = await clients.trainer.getTrainingJob({ name: trainingJob?.name ?? "" });
  assert.equal(ended?.state, State.FAILED);
  const error = ended?.error && fromStatus(ended.error, "train");
  assert.equal(error?.code, "RESOURCE_EXHAUSTED");
  assert.match(error?.message ?? "", /needs .* memory_limit leaves/);
});

test("cancelling stops real training within a step and leaves no adapter", async (t) => {
  const { clients } = await start(t);
  const spec = specOf(t, { steps: 1_000_000n });
  const { trainingJob } = await clients.trainer.createTrainingJob({ trainingJob: { spec } });
  const name = trainingJob?.name ?? "";
  const events: Event[] = [];
  for await (const event of watchJob(clients.trainer, name)) {
    events.push(event);
    if (event.event.case === "step" && event.event.value.step === 2n) await clients.trainer.cancelTrainingJob({ name });
  }
  assert.equal(states(events).at(-1), State.CANCELLED);
  assert.equal(existsSync(join(spec.outputDir, "adapter_model.safetensors")), false);
  const { trainingJob: again } = await clients.trainer.cancelTrainingJob({ name });
  assert.equal(again?.state, State.CANCELLED);
  assert.equal(again?.error && fromStatus(again.error).code, "CANCELLED");
});

test("one runs, others wait, a full queue refuses, and only what is over can be deleted", async (t) => {
  const work = lasting();
  const { clients } = await start(t, { train: work.train, waitingMax: 1 });
  const created = async () =>
    (await clients.trainer.createTrainingJob({ trainingJob: { spec: anySpec } })).trainingJob?.name ?? "";
  const [first, second] = [await created(), await created()];
  await assert.rejects(created(), { code: "RESOURCE_EXHAUSTED" });
  const waiting = await clients.trainer.listTrainingJobs({ states: [State.QUEUED] });
  assert.deepEqual(
    waiting.trainingJobs.map(({ name }) => name),
    [second],
  );
  await assert.rejects(clients.trainer.deleteTrainingJob({ name: second }), { code: "FAILED_PRECONDITION" });
  assert.equal((await clients.trainer.cancelTrainingJob({ name: second })).trainingJob?.state, State.CANCELLED);
  assert.deepEqual(states(await collect(watchJob(clients.trainer, second))), [State.QUEUED, State.CANCELLED]);
  await clients.trainer.deleteTrainingJob({ name: second });
  await assert.rejects(clients.trainer.getTrainingJob({ name: second }), { code: "NOT_FOUND" });
  work.letGo();
  await collect(watchJob(clients.trainer, first));
  await assert.rejects(clients.trainer.cancelTrainingJob({ name: first }), { code: "FAILED_PRECONDITION" });
});

test("a watcher may begin anywhere, and one that begins beyond the end is refused", async (t) => {
  const work = lasting();
  const { clients } = await start(t, { train: work.train });
  await clients.trainer.createTrainingJob({ trainingJobId: "w", trainingJob: { spec: anySpec } });
  const name = "trainingJobs/w";
  const live = collect(watchJob(clients.trainer, name, { afterSequence: 2n }));
  await until(async () => (await clients.trainer.getTrainingJob({ name })).trainingJob?.lastSequence === 3n);
  await assert.rejects(collect(watchJob(clients.trainer, name, { afterSequence: 4n })), { code: "OUT_OF_RANGE" });
  work.letGo();
  assert.deepEqual(sequences(await live), [3, 4, 5]);
  assert.deepEqual(sequences(await collect(watchJob(clients.trainer, name))), [1, 2, 3, 4, 5]);
  assert.deepEqual(sequences(await collect(watchJob(clients.trainer, name, { afterSequence: 5n }))), []);
});

test("a watcher that is slow loses nothing of a long log", async (t) => {
  const text = "x".repeat(4096);
  const count = 3000;
  const train: Train = async (_job, emit) => {
    for (let i = 0; i < count; i++) emit(logLine(Severity.INFO, text));
  };
  const { clients } = await start(t, { train });
  await clients.trainer.createTrainingJob({ trainingJobId: "long", trainingJob: { spec: anySpec } });
  let expected = 1n;
  for await (const event of watchJob(clients.trainer, "trainingJobs/long")) {
    assert.equal(event.sequence, expected++);
    if (expected % 500n === 0n) await new Promise((resolve) => setTimeout(resolve, 5));
  }
  assert.equal(expected, BigInt(count) + 4n);
});

test("request ids and job ids name one job", async (t) => {
  const { clients } = await start(t, { train: lasting().train });
  const request = { requestId: "r", trainingJobId: "a", trainingJob: { spec: anySpec } };
  const answers = await Promise.all([1, 2, 3].map(() => clients.trainer.createTrainingJob(request)));
  assert.deepEqual(new Set(answers.map(({ trainingJob }) => trainingJob?.name)), new Set(["trainingJobs/a"]));
  const other = { ...request, trainingJob: { spec: { ...anySpec, rank: 2 } } };
  await assert.rejects(clients.trainer.createTrainingJob(other), { code: "ALREADY_EXISTS", message: /request_id/ });
  const taken = { ...request, requestId: "" };
  await assert.rejects(clients.trainer.createTrainingJob(taken), {
    code: "ALREADY_EXISTS",
    message: /training_job_id/,
  });
  await assert.rejects(clients.trainer.createTrainingJob({ ...taken, trainingJobId: "A" }), {
    code: "INVALID_ARGUMENT",
  });
});

test("pages list all jobs once, and a token belongs to its listing", async (t) => {
  const { clients } = await start(t, { train: async () => {} });
  for (const id of ["a", "b", "c"])
    await clients.trainer.createTrainingJob({ trainingJobId: id, trainingJob: { spec: anySpec } });
  const first = await clients.trainer.listTrainingJobs({ pageSize: 2 });
  const second = await clients.trainer.listTrainingJobs({ pageSize: 2, pageToken: first.nextPageToken });
  const names = [...first.trainingJobs, ...second.trainingJobs].map(({ name }) => name);
  assert.deepEqual(names, ["trainingJobs/c", "trainingJobs/b", "trainingJobs/a"]);
  assert.equal(second.nextPageToken, "");
  const foreign = { pageToken: first.nextPageToken, states: [State.FAILED] };
  await assert.rejects(clients.trainer.listTrainingJobs(foreign), { code: "INVALID_ARGUMENT" });
});

test("a stop fails what runs, keeps what waits, and a restart goes on with it", async (t) => {
  const dir = temporaryFolder(t);
  const before = await start(t, { dir, train: lasting().train });
  for (const id of ["a", "b"])
    await before.clients.trainer.createTrainingJob({ trainingJobId: id, trainingJob: { spec: anySpec } });
  const watching = assert.rejects(collect(watchJob(before.clients.trainer, "trainingJobs/b", { retriesMax: 0 })), {
    code: "UNAVAILABLE",
  });
  await until(
    async () =>
      (await before.clients.trainer.getTrainingJob({ name: "trainingJobs/a" })).trainingJob?.lastSequence === 3n,
  );
  await before.stop();
  await watching;
  const after = await start(t, { dir, train: async () => {} });
  const interrupted = await collect(watchJob(after.clients.trainer, "trainingJobs/a"));
  assert.deepEqual(states(interrupted), [State.QUEUED, State.RUNNING, State.FAILED]);
  const { trainingJob } = await after.clients.trainer.getTrainingJob({ name: "trainingJobs/a" });
  assert.equal(trainingJob?.error && fromStatus(trainingJob.error).code, "ABORTED");
  assert.equal(states(await collect(watchJob(after.clients.trainer, "trainingJobs/b"))).at(-1), State.SUCCEEDED);
});

test("what a killed trainer was running is found again as FAILED", async (t) => {
  const dir = temporaryFolder(t);
  const before = await start(t, { dir, train: lasting().train });
  await before.clients.trainer.createTrainingJob({ trainingJobId: "a", trainingJob: { spec: anySpec } });
  const name = "trainingJobs/a";
  for await (const { event } of watchJob(before.clients.trainer, name)) if (event.case === "log") break;
  // The files as they are at this moment are what a killed process leaves.
  const left = join(temporaryFolder(t), "left");
  cpSync(dir, left, { recursive: true });
  const after = await start(t, { dir: left });
  const events = await collect(watchJob(after.clients.trainer, name));
  assert.deepEqual(sequences(events), [1, 2, 3, 4]);
  assert.equal(states(events).at(-1), State.FAILED);
});

test("an error of the work itself fails the job and not the trainer", async (t) => {
  let runs = 0;
  const train: Train = async () => {
    if (runs++ === 0) throw new NibbleError("loss: expected a finite number", { code: "INTERNAL", op: "train" });
  };
  const { clients } = await start(t, { train });
  for (const id of ["a", "b"])
    await clients.trainer.createTrainingJob({ trainingJobId: id, trainingJob: { spec: anySpec } });
  assert.equal(states(await collect(watchJob(clients.trainer, "trainingJobs/a"))).at(-1), State.FAILED);
  assert.equal(states(await collect(watchJob(clients.trainer, "trainingJobs/b"))).at(-1), State.SUCCEEDED);
});
