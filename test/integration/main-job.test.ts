// The main job over sockets: quantize, train, register, serve; each service as it runs alone, all in this process.
import assert from "node:assert/strict";
import { existsSync, readdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import type { MessageInitShape } from "@bufbuild/protobuf";
import { QuantType } from "#gen/nibble/common/v1/common_pb.ts";
import { QuantizeModelResponseSchema } from "#gen/nibble/quantizer/v1/quantizer_pb.ts";
import { State } from "#gen/nibble/trainer/v1/events_pb.ts";
import type { TrainingSpecSchema } from "#gen/nibble/trainer/v1/spec_pb.ts";
import type { TrainingJob } from "#gen/nibble/trainer/v1/trainer_pb.ts";
import { type Connection, connect, uploadAdapter, waitForOperation, watchJob } from "#packages/client";
import { fromStatus } from "#packages/rpc";
import { readConfig as readRegistryConfig } from "../../services/adapter-registry/config.ts";
import { openRegistry } from "../../services/adapter-registry/setup.ts";
import { readConfig as readInferenceConfig } from "../../services/inference/config.ts";
import { openInference } from "../../services/inference/setup.ts";
import { readConfig as readQuantizerConfig } from "../../services/quantizer/config.ts";
import { openQuantizer } from "../../services/quantizer/setup.ts";
import { readConfig as readTrainerConfig } from "../../services/trainer/config.ts";
import { openTrainer } from "../../services/trainer/setup.ts";
import { goldenPath, temporaryFolder } from "../support/folders.ts";
import { adapterOfBase } from "../support/models.ts";
import { silent, startService } from "../support/services.ts";

interface Stack {
  clients: Connection;
  home: string;
  stopRegistry(): Promise<void>;
}

async function startStack(t: TestContext): Promise<Stack> {
  const home = temporaryFolder(t);
  const surroundings = { now: Date.now, logger: silent };
  const common = { threads: 1 };
  const at = (name: string) => ({ dir: join(home, name) });
  const registry = await startService(
    t,
    await openRegistry({ ...readRegistryConfig({}), ...at("registry") }, surroundings),
  );
  const address = { registry: registry.server.address };
  const quantizer = await startService(
    t,
    await openQuantizer({ ...readQuantizerConfig({}), ...common, ...at("quantizer") }, surroundings),
  );
  const trainer = await startService(
    t,
    await openTrainer({ ...readTrainerConfig({}), ...common, ...address, ...at("trainer") }, surroundings),
  );
  const inference = await startService(
    t,
    await openInference({ ...readInferenceConfig({}), ...common, ...address, ...at("inference") }, surroundings),
  );
  const endpoints = {
    registry: registry.server.address,
    quantizer: quantizer.server.address,
    trainer: trainer.server.address,
    inference: inference.server.address,
  };
  const clients = connect({ endpoints });
  t.after(() => clients.close());
  return { clients, home, stopRegistry: registry.stop };
}

/** Rows that a tiny model can learn by heart. */
function rowsFile(folder: string): string {
  const file = join(folder, "rows.jsonl");
  writeFileSync(file, '{"prompt": "Name a colour: ", "completion": "blue"}\n'.repeat(4));
  return file;
}

async function train(clients: Connection, spec: MessageInitShape<typeof TrainingSpecSchema>): Promise<TrainingJob> {
  const { trainingJob } = await clients.trainer.createTrainingJob({ trainingJob: { spec } });
  assert.ok(trainingJob);
  for await (const _ of watchJob(clients.trainer, trainingJob.name));
  const { trainingJob: ended } = await clients.trainer.getTrainingJob({ name: trainingJob.name });
  assert.ok(ended);
  return ended;
}

async function answer({ inference }: Connection, adapter: string, prompt: string): Promise<string> {
  let text = "";
  const request = { adapter, input: { case: "prompt", value: prompt }, sampling: { maxNewTokens: 16 } } as const;
  for await (const { event } of inference.generate(request))
    text += event.value && "text" in event.value ? event.value.text : "";
  return text;
}

test("a model is quantized, fine-tuned, registered and served, and has learned", async (t) => {
  const { clients, home } = await startStack(t);
  const modelDir = join(home, "model-4bit");
  const operation = await clients.quantizer.quantizeModel({ modelDir: goldenPath("llama_untied"), outDir: modelDir });
  const quantized = await waitForOperation(clients.operations, operation, QuantizeModelResponseSchema);
  const job = await train(clients, {
    modelDir,
    dataFile: rowsFile(home),
    outputDir: join(home, "adapter"),
    baseDigest: quantized.digest,
    learningRate: 0.02,
    steps: 40n,
    batchSize: 4,
    gradAccum: 1,
    registryTarget: { adapterId: "colours", aliases: ["stable"] },
  });
  assert.equal(job.error && fromStatus(job.error).message, undefined);
  assert.equal(job.state, State.SUCCEEDED);
  assert.equal(job.result?.adapterVersion, "adapters/colours/versions/1");
  const { version } = await clients.registry.getVersion({ name: "adapters/colours/versions/1" });
  assert.equal(version?.baseDigest, quantized.digest);
  assert.equal(version?.baseQuantization?.type, QuantType.NF4);
  assert.equal(version?.metadata["training_job"], job.name);
  assert.deepEqual(version?.aliases, ["stable"]);

  const { model } = await clients.inference.loadModel({ modelDir, expectedDigest: quantized.digest });
  assert.equal(model?.digest, quantized.digest);
  const source = { case: "registryName", value: "adapters/colours/aliases/stable" } as const;
  const { adapter } = await clients.inference.loadAdapter({ adapterId: "colours", source });
  assert.equal(adapter?.adapterVersion, "adapters/colours/versions/1");
  assert.equal(adapter?.baseDigest, quantized.digest);
  assert.equal(await answer(clients, "loadedAdapters/colours", "Name a colour: "), "blue");
  assert.notEqual(await answer(clients, "", "Name a colour: "), "blue");
});

test("a registered adapter of another base is refused before it is downloaded", async (t) => {
  const { clients, home } = await startStack(t);
  const digest = `sha256:${"0".repeat(64)}`;
  await uploadAdapter(clients.registry, adapterOfBase(t, digest), { adapterId: "other" });
  const { model } = await clients.inference.loadModel({ modelDir: goldenPath("llama_untied_nf4_dq") });
  const load = (value: string) =>
    clients.inference.loadAdapter({ adapterId: "a", source: { case: "registryName", value } });
  await assert.rejects(load("adapters/other/versions/1"), {
    code: "FAILED_PRECONDITION",
    message: new RegExp(`expected ${digest}, got ${model?.digest}`),
  });
  assert.deepEqual(readdirSync(join(home, "inference", "adapters")), []);
  await assert.rejects(load("adapters/other/versions/2"), { code: "NOT_FOUND" });
  await assert.rejects(load("adapters/none/aliases/stable"), { code: "NOT_FOUND" });
});

test("a registry that is gone fails the job and costs no adapter", async (t) => {
  const { clients, home, stopRegistry } = await startStack(t);
  await stopRegistry();
  const outputDir = join(home, "adapter");
  const job = await train(clients, {
    modelDir: goldenPath("llama_untied_nf4_dq"),
    dataFile: rowsFile(home),
    outputDir,
    steps: 1n,
    registryTarget: { adapterId: "a" },
  });
  assert.equal(job.state, State.FAILED);
  assert.equal(job.error && fromStatus(job.error).code, "UNAVAILABLE");
  assert.ok(existsSync(join(outputDir, "adapter_model.safetensors")));
});
