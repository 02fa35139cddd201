// Services as processes of their own: they say where they listen, stop when they are told to, refuse a port in use, and
// find their jobs again after a kill.
import assert from "node:assert/strict";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { State } from "#gen/nibble/trainer/v1/events_pb.ts";
import { connect, uploadAdapter, watchJob } from "#packages/client";
import { fromStatus } from "#packages/rpc";
import { goldenPath, temporaryFolder } from "../support/folders.ts";
import { adapterOfBase } from "../support/models.ts";
import { launch } from "../support/processes.ts";
import { until } from "../support/services.ts";

const alone = ["quantizer", "trainer", "adapter-registry", "inference"] as const;

for (const name of alone) {
  test(`${name} runs alone, refuses a port in use and a bad setting, and stops when it is told to`, async (t) => {
    const model = name === "inference" ? { MODEL: goldenPath("llama_untied_nf4_dq") } : {};
    const { child, address, exitCode } = await launch(t, name, { DIR: temporaryFolder(t), ...model });
    assert.match(address, /^127\.0\.0\.1:\d+$/);
    const port = address.split(":")[1] ?? "";
    const second = await launch(t, name, { DIR: temporaryFolder(t), PORT: port });
    assert.deepEqual([second.address, await second.exitCode], ["", 78]);
    const bad = await launch(t, name, { DIR: temporaryFolder(t), PORT: "http" });
    assert.equal(await bad.exitCode, 78);
    child.kill("SIGTERM");
    assert.equal(await exitCode, 0);
  });
}

test("a trainer that is killed finds its jobs again", async (t) => {
  const DIR = temporaryFolder(t);
  const before = await launch(t, "trainer", { DIR, THREADS: "1" });
  const dataFile = join(temporaryFolder(t), "rows.jsonl");
  writeFileSync(dataFile, '{"prompt": "Name a colour: ", "completion": "blue"}\n');
  const spec = {
    modelDir: goldenPath("llama_untied_nf4_dq"),
    dataFile,
    outputDir: join(temporaryFolder(t), "out"),
    batchSize: 1,
    gradAccum: 1,
  };
  using first = connect({ endpoint: before.address });
  const create = (trainingJobId: string, steps: bigint) =>
    first.trainer.createTrainingJob({ trainingJobId, trainingJob: { spec: { ...spec, steps } } });
  await create("long", 1_000_000n);
  await create("short", 2n);
  for await (const { event } of watchJob(first.trainer, "trainingJobs/long")) {
    if (event.case === "step" && event.value.step === 3n) break;
  }
  before.child.kill("SIGKILL");
  await before.exitCode;
  const after = await launch(t, "trainer", { DIR, THREADS: "1" });
  using second = connect({ endpoint: after.address });
  const { trainingJob: long } = await second.trainer.getTrainingJob({ name: "trainingJobs/long" });
  assert.equal(long?.state, State.FAILED);
  assert.equal(long?.error && fromStatus(long.error).code, "ABORTED");
  let sequence = 0n;
  for await (const event of watchJob(second.trainer, "trainingJobs/long")) assert.equal(event.sequence, ++sequence);
  for await (const _ of watchJob(second.trainer, "trainingJobs/short"));
  const { trainingJob: short } = await second.trainer.getTrainingJob({ name: "trainingJobs/short" });
  assert.equal(short?.state, State.SUCCEEDED);
});

test("a registry that is killed takes nothing down: what is loaded is served, the rest when it is there again", async (t) => {
  const [DIR, model] = [temporaryFolder(t), goldenPath("llama_untied_nf4_dq")];
  const registry = await launch(t, "adapter-registry", { DIR });
  const endpoint = { NIBBLE_REGISTRY_ENDPOINT: registry.address };
  const inference = await launch(t, "inference", { DIR: temporaryFolder(t), MODEL: model }, endpoint);
  const services = { ...endpoint, NIBBLE_INFERENCE_ENDPOINT: inference.address };
  const gateway = await launch(t, "gateway", { DIR: temporaryFolder(t) }, services);
  using clients = connect({ endpoints: { registry: registry.address, inference: inference.address } });
  const { model: base } = await clients.inference.getModel({});
  const adapter = adapterOfBase(t, base?.digest ?? "");
  for (const adapterId of ["one", "two"]) await uploadAdapter(clients.registry, adapter, { adapterId });
  const ask = async (name: string, max_tokens = 4) => {
    const body = JSON.stringify({ model: name, prompt: "x", max_tokens, ignore_eos: true, temperature: 0 });
    const answer = await fetch(`http://${gateway.address}/v1/completions`, { method: "POST", body });
    await answer.text();
    return answer.status;
  };
  assert.equal(await ask("one"), 200);
  // In the middle of answers.
  const running = [ask("one", 200), ask("base", 200)];
  registry.child.kill("SIGKILL");
  await registry.exitCode;
  assert.deepEqual(await Promise.all(running), [200, 200]);
  assert.deepEqual([await ask("one"), await ask("one@1"), await ask("base"), await ask("two")], [200, 200, 200, 503]);
  const PORT = registry.address.split(":")[1] ?? "";
  const again = await launch(t, "adapter-registry", { DIR, PORT, HUB_PORT: "0" });
  assert.equal(again.address, registry.address);
  await until(async () => (await ask("two")) === 200);
});
