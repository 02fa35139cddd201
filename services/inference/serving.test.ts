// What health says, and what a broken engine does to it.
import assert from "node:assert/strict";
import { test } from "node:test";
import { Health, HealthCheckResponse_ServingStatus as Status } from "#gen/grpc/health/v1/health_pb.ts";
import { defaultQuant } from "#packages/engine";
import { createClient } from "#packages/rpc";
import { goldenPath, temporaryFolder } from "../../test/support/folders.ts";
import { silent, startService, until } from "../../test/support/services.ts";
import { readConfig } from "./config.ts";
import { kserveService } from "./kserve.ts";
import { Serving } from "./serving.ts";
import { openInference } from "./setup.ts";

const modelDir = goldenPath("llama_untied_nf4_dq");
const kserve = "inference.GRPCInferenceService";

test("health tells a server without a model from one with it", async (t) => {
  const config = { ...readConfig({}), dir: temporaryFolder(t), threads: 1, modelDir: "", registry: "127.0.0.1:1" };
  const { server, clients } = await startService(t, await openInference(config, { now: Date.now, logger: silent }));
  const health = createClient(Health, server.address);
  t.after(() => health.close());
  const status = async (service: string) => (await health.check({ service })).status;
  assert.deepEqual([await status(""), await status(kserve)], [Status.SERVING, Status.NOT_SERVING]);
  await clients.inference.loadModel({ modelDir });
  assert.equal(await status(kserve), Status.SERVING);
  await clients.inference.unloadModel({ name: "models/base" });
  assert.deepEqual([await status(""), await status(kserve)], [Status.SERVING, Status.NOT_SERVING]);
});

test("an engine that ends by itself turns readiness off, and a new load turns it on", async (t) => {
  const limits = {
    sequencesMax: 2,
    stepTokensMax: 64,
    cacheTokensMax: 256,
    waitingMax: 4,
    unreadMax: 8,
    prefixCache: true,
  };
  const fetcher = { fetch: () => Promise.reject(new Error()), again: () => Promise.reject(new Error()) };
  const serving = new Serving({ now: Date.now, logger: silent, fetcher, limits, adapterBytesMax: 0 });
  t.after(() => serving.close());
  const place = { dtype: "float32", threads: 1, device: "cpu" } as const;
  const settings = { id: "base", modelDir, bits: undefined, quant: defaultQuant, ...place };
  let told = 0;
  serving.watch(() => told++);
  const kserve = kserveService(serving).handlers as Record<string, (request: { name: string }) => { ready: boolean }>;
  const ready = () => ["serverReady", "modelReady"].map((method) => kserve[method]?.({ name: "base" }).ready);
  const loading = serving.load(settings, "");
  assert.deepEqual([serving.isReady, ready()], [false, [false, false]]);
  const { model } = await loading;
  assert.deepEqual(ready(), [true, true]);
  assert.deepEqual([serving.isReady, serving.isBroken, told], [true, false, 1]);
  await model.engineModel["engine"]["worker"].terminate();
  await until(() => serving.isBroken);
  assert.deepEqual([serving.isReady, told, ready()], [false, 2, [false, false]]);
  await assert.rejects(model.engineModel.stats(), { code: "UNAVAILABLE" });
  await serving.unload("base").catch(() => {});
  await serving.load(settings, "");
  assert.deepEqual([serving.isReady, serving.isBroken], [true, false]);
});
