// Services that are given org/name[@revision] where they take a folder: they pull it through the shared cache, say how far
// they are, and answer with the Hub's errors.
import assert from "node:assert/strict";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { anyUnpack } from "@bufbuild/protobuf/wkt";
import type { Operation } from "#gen/google/longrunning/operations_pb.ts";
import { QuantizeModelMetadataSchema } from "#gen/nibble/quantizer/v1/quantizer_pb.ts";
import { State } from "#gen/nibble/trainer/v1/events_pb.ts";
import { watchJob } from "#packages/client";
import { hubSettings, pushFolder } from "#packages/hub";
import { fromStatus } from "#packages/rpc";
import { startHub, token } from "../../services/adapter-registry/hub/test/support.ts";
import { readConfig as readInference } from "../../services/inference/config.ts";
import { openInference } from "../../services/inference/setup.ts";
import { readConfig as readQuantizer } from "../../services/quantizer/config.ts";
import { openQuantizer } from "../../services/quantizer/setup.ts";
import { readConfig as readTrainer } from "../../services/trainer/config.ts";
import { openTrainer } from "../../services/trainer/setup.ts";
import { setEnvironment } from "../support/environment.ts";
import { goldenPath, temporaryFolder } from "../support/folders.ts";
import { silent, startService } from "../support/services.ts";

const surroundings = { now: Date.now, logger: silent };
const quick = { waitMsFirst: 1, attemptsMax: 2 };

/** A Hub with a 16-bit base, a 4-bit one and an adapter of it. */
async function startWorld(t: TestContext) {
  const hub = await startHub(t, { config: { hubToken: token } });
  const env = { HF_HOME: temporaryFolder(t), HF_ENDPOINT: hub.hubUrl, HF_HUB_OFFLINE: undefined, HF_TOKEN: token };
  const settings = hubSettings({ ...env });
  const push = (folder: string, id: string) =>
    pushFolder(folder, id, { settings, card: { baseModel: "org/base4" }, ...quick });
  await push(goldenPath("llama_untied"), "org/base");
  const { sha } = await push(goldenPath("llama_untied_nf4_dq"), "org/base4");
  await push(goldenPath("train", "qlora_adapter"), "org/adapter");
  setEnvironment(t, env);
  return { hub, sha };
}

function metadataOf({ metadata }: Operation) {
  const found = metadata && anyUnpack(metadata, QuantizeModelMetadataSchema);
  assert.ok(found);
  return found;
}

test("the quantizer pulls, and its operation says how much; what the Hub refuses ends it", async (t) => {
  const { hub } = await startWorld(t);
  const config = { ...readQuantizer({}), dir: temporaryFolder(t), threads: 1 };
  const { clients } = await startService(t, await openQuantizer(config, surroundings));
  const quantize = async (modelDir: string) => {
    const outDir = join(temporaryFolder(t), "out");
    const { name } = await clients.quantizer.quantizeModel({ modelDir, outDir });
    return clients.operations.waitOperation({ name });
  };
  const done = await quantize("org/base@main");
  assert.equal(done.result.case, "response");
  const { bytesPulled, bytesToPull, tensorsDone } = metadataOf(done);
  assert.ok(bytesToPull > 0n && bytesPulled === bytesToPull && tensorsDone > 0n);
  const errorOf = async (modelDir: string) => {
    const { result } = await quantize(modelDir);
    assert.ok(result.case === "error");
    return fromStatus(result.value, "quantize_model");
  };
  const missing = await errorOf("org/none");
  assert.deepEqual([missing.code, missing.message.includes("found none")], ["NOT_FOUND", true]);
  assert.equal((await errorOf("org/base@v9")).code, "NOT_FOUND");
  const headers = { authorization: `Bearer ${token}`, "content-type": "application/json" };
  await fetch(`${hub.hubUrl}/api/models/org/base4/settings`, { method: "PUT", headers, body: '{"gated":"manual"}' });
  setEnvironment(t, { HF_TOKEN: undefined, HF_TOKEN_PATH: "/none" });
  const gated = await errorOf("org/base4");
  assert.deepEqual([gated.code, gated.message.includes("the repository is gated")], ["PERMISSION_DENIED", true]);
  setEnvironment(t, { HF_HUB_OFFLINE: "1", HF_HOME: temporaryFolder(t) });
  const offline = await errorOf("org/base");
  assert.deepEqual([offline.code, offline.message.includes("HF_HUB_OFFLINE forbids")], ["NOT_FOUND", true]);
});

test("the trainer quotes and previews without weights, then pulls base and adapter for the job", async (t) => {
  await startWorld(t);
  const config = { ...readTrainer({}), dir: temporaryFolder(t), threads: 1 };
  const { clients } = await startService(t, await openTrainer(config, surroundings));
  const folder = temporaryFolder(t);
  const dataFile = join(folder, "rows.jsonl");
  writeFileSync(dataFile, '{"prompt": "a", "completion": "b"}\n');
  const spec = { modelDir: "org/base4", dataFile, outputDir: join(folder, "out"), steps: 1n };
  assert.equal((await clients.trainer.previewData({ spec })).rows, 1n);
  const { quote } = await clients.trainer.quoteTrainingJob({ spec });
  assert.ok(quote?.memory && quote.memory.bytesPeak > 0n);
  const job = { ...spec, initAdapterDir: "org/adapter" };
  const { trainingJob } = await clients.trainer.createTrainingJob({ trainingJob: { spec: job } });
  const name = trainingJob?.name ?? "";
  const texts: string[] = [];
  for await (const { event } of watchJob(clients.trainer, name)) if (event.case === "log") texts.push(event.value.text);
  const ended = await clients.trainer.getTrainingJob({ name });
  assert.equal(ended.trainingJob?.error?.message, undefined);
  assert.equal(ended.trainingJob?.state, State.SUCCEEDED);
  for (const id of ["org/base4", "org/adapter"]) {
    assert.ok(
      texts.some((text) => new RegExp(`^${id}: (\\d+) of \\1 bytes are here$`).test(text)),
      texts.join("\n"),
    );
  }
});

test("inference loads a base and an adapter by name; the same commit is the same model", async (t) => {
  const { sha } = await startWorld(t);
  const config = { ...readInference({}), dir: temporaryFolder(t), threads: 1, registry: "127.0.0.1:1" };
  const { clients } = await startService(t, await openInference(config, surroundings));
  const { model } = await clients.inference.loadModel({ modelDir: "org/base4" });
  const again = await clients.inference.loadModel({ modelDir: `org/base4@${sha}` });
  assert.ok(model && again.model?.digest === model.digest);
  const { adapter } = await clients.inference.loadAdapter({
    adapterId: "a",
    source: { case: "adapterDir", value: "org/adapter" },
  });
  assert.equal(adapter?.name, "loadedAdapters/a");
  const none = { adapterId: "b", source: { case: "adapterDir", value: "org/none" } } as const;
  await assert.rejects(clients.inference.loadAdapter(none), { code: "NOT_FOUND", message: /found none/ });
});
