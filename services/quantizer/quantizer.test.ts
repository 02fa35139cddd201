import assert from "node:assert/strict";
import { cpSync, existsSync, readdirSync } from "node:fs";
import { dirname, join } from "node:path";
import { type TestContext, test } from "node:test";
import { create } from "@bufbuild/protobuf";
import { anyUnpack } from "@bufbuild/protobuf/wkt";
import type { Operation } from "#gen/google/longrunning/operations_pb.ts";
import { QuantType } from "#gen/nibble/common/v1/common_pb.ts";
import { QuantizeModelMetadataSchema, QuantizeModelResponseSchema } from "#gen/nibble/quantizer/v1/quantizer_pb.ts";
import { waitForOperation } from "#packages/client";
import { digestOfModel, openModelFolder } from "#packages/hub";
import { fromStatus } from "#packages/rpc";
import { goldenPath, temporaryFolder } from "../../test/support/folders.ts";
import { deepModel } from "../../test/support/models.ts";
import { silent, startService, until } from "../../test/support/services.ts";
import { readConfig } from "./config.ts";
import { engineQuantizer, type Quantize } from "./quantization.ts";
import { openQuantizer } from "./setup.ts";

async function start(t: TestContext, options: { dir?: string; waitingMax?: number; quantize?: Quantize } = {}) {
  const { dir = temporaryFolder(t), waitingMax = 4, quantize } = options;
  const config = { ...readConfig({}), dir, waitingMax, threads: 1 };
  const surroundings = { now: Date.now, logger: silent, ...(quantize ? { quantize } : {}) };
  return startService(t, await openQuantizer(config, surroundings));
}

/** Work that lasts until it is told to stop or let go. */
function lasting() {
  const { promise, resolve } = Promise.withResolvers<void>();
  const quantize: Quantize = async ({ outDir }, { quantized }, signal) => {
    const figures = { tensorsDone: 1, tensorsTotal: 7, bytesRead: 10, bytesTotal: 70, bytesWritten: 5 };
    quantized({ tensor: "a.weight", ...figures });
    signal.addEventListener("abort", () => resolve(), { once: true });
    await promise;
    signal.throwIfAborted();
    return create(QuantizeModelResponseSchema, { outDir });
  };
  return { quantize, letGo: resolve };
}

const errorOf = (operation: Operation) => {
  assert.equal(operation.result.case, "error");
  return fromStatus(operation.result.value as never);
};
const metadataOf = ({ metadata }: Operation) => {
  assert.ok(metadata);
  const unpacked = anyUnpack(metadata, QuantizeModelMetadataSchema);
  assert.ok(unpacked);
  return unpacked;
};

test("a model is quantized into a folder with the digest that the operation reports", async (t) => {
  const { clients } = await start(t);
  const outDir = join(temporaryFolder(t), "out");
  const modelDir = goldenPath("llama_untied");
  const operation = await clients.quantizer.quantizeModel({
    modelDir,
    outDir,
    quantType: QuantType.FP4,
    blockSize: 128,
  });
  const response = await waitForOperation(clients.operations, operation, QuantizeModelResponseSchema);
  using folder = openModelFolder(outDir);
  assert.equal(response.digest, digestOfModel(folder));
  assert.equal(response.outDir, outDir);
  assert.deepEqual(
    { ...response.quantization, $typeName: 0 },
    { $typeName: 0, type: QuantType.FP4, blockSize: 128, doubleQuant: true },
  );
  assert.equal(response.tensorsQuantized, BigInt(folder.quantStates.size));
  assert.ok(response.bitsPerParameter > 4 && response.bitsPerParameter < 4.5);
  const done = await clients.operations.getOperation({ name: operation.name });
  const metadata = metadataOf(done);
  assert.equal(metadata.tensorsDone, response.tensorsTotal);
  assert.equal(metadata.tensorsTotal, response.tensorsTotal);
  assert.equal(metadata.bytesRead, metadata.bytesTotal);
  assert.ok(metadata.startTime && metadata.endTime && metadata.createTime);
});

test("linear layers can be left out by name, and unknown names are refused", async (t) => {
  const { clients } = await start(t);
  const outDir = join(temporaryFolder(t), "out");
  const request = { modelDir: goldenPath("llama_untied"), outDir };
  const bad = await clients.quantizer.quantizeModel({ ...request, skipModules: ["lm_head", "query"] });
  const unknown = await clients.operations.waitOperation({ name: bad.name });
  assert.equal(errorOf(unknown).code, "INVALID_ARGUMENT");
  assert.match(errorOf(unknown).message, /skip_modules.*query/);
  const good = await clients.quantizer.quantizeModel({ ...request, skipModules: ["down_proj"] });
  await waitForOperation(clients.operations, good, QuantizeModelResponseSchema);
  using folder = openModelFolder(outDir);
  assert.equal(folder.quantState("model.layers.0.mlp.down_proj"), undefined);
  assert.ok(folder.quantState("model.layers.0.mlp.up_proj"));
});

test("bad requests and missing folders are told apart", async (t) => {
  const { clients } = await start(t);
  const base = { modelDir: "/nowhere", outDir: join(temporaryFolder(t), "out") };
  await assert.rejects(clients.quantizer.quantizeModel({ ...base, blockSize: 60 }), {
    code: "INVALID_ARGUMENT",
    message: /block_size/,
  });
  const operation = await clients.quantizer.quantizeModel(base);
  const ended = await clients.operations.waitOperation({ name: operation.name });
  assert.equal(errorOf(ended).code, "NOT_FOUND");
  await assert.rejects(clients.operations.getOperation({ name: "operations/none" }), { code: "NOT_FOUND" });
  await assert.rejects(clients.operations.getOperation({ name: "jobs/none" }), { code: "INVALID_ARGUMENT" });
  await assert.rejects(clients.operations.listOperations({ filter: "done" }), { code: "INVALID_ARGUMENT" });
});

test("cancelling real work stops it and leaves nothing behind", async (t) => {
  const modelDir = await deepModel(t, 100);
  const real = engineQuantizer(1);
  const begun = Promise.withResolvers<void>();
  const quantize: Quantize = (request, progress, signal) => {
    const quantized: typeof progress.quantized = (figures) => {
      progress.quantized(figures);
      begun.resolve();
    };
    return real(request, { ...progress, quantized }, signal);
  };
  const { clients } = await start(t, { quantize });
  const outDir = join(temporaryFolder(t), "out");
  const { name } = await clients.quantizer.quantizeModel({ modelDir, outDir });
  await begun.promise;
  await clients.operations.cancelOperation({ name });
  const ended = await clients.operations.waitOperation({ name });
  assert.equal(errorOf(ended).code, "CANCELLED");
  assert.ok(metadataOf(ended).tensorsDone < metadataOf(ended).tensorsTotal);
  assert.equal(existsSync(outDir), false);
  assert.deepEqual(readdirSync(dirname(outDir)), []);
});

test("one runs, others wait, and a full queue refuses", async (t) => {
  const work = lasting();
  const { clients } = await start(t, { waitingMax: 1, quantize: work.quantize });
  const request = { modelDir: "m", outDir: "o" };
  const first = await clients.quantizer.quantizeModel(request);
  await until(async () => metadataOf(await clients.operations.getOperation({ name: first.name })).tensorsDone === 1n);
  const second = await clients.quantizer.quantizeModel(request);
  assert.equal(metadataOf(second).startTime, undefined);
  await assert.rejects(clients.quantizer.quantizeModel(request), { code: "RESOURCE_EXHAUSTED" });
  await assert.rejects(clients.operations.deleteOperation({ name: first.name }), { code: "FAILED_PRECONDITION" });
  await clients.operations.cancelOperation({ name: second.name });
  const dropped = await clients.operations.getOperation({ name: second.name });
  assert.equal(errorOf(dropped).code, "CANCELLED");
  const still = await clients.operations.waitOperation({ name: first.name, timeout: { seconds: 0n, nanos: 1 } });
  assert.equal(still.done, false);
  work.letGo();
  assert.equal((await clients.operations.waitOperation({ name: first.name })).result.case, "response");
  await clients.operations.deleteOperation({ name: first.name });
  await assert.rejects(clients.operations.getOperation({ name: first.name }), { code: "NOT_FOUND" });
});

test("a request id names one operation, at the same time as well as later", async (t) => {
  const work = lasting();
  const { clients } = await start(t, { quantize: work.quantize });
  const request = { requestId: "r-1", modelDir: "m", outDir: "o" };
  const both = await Promise.all([clients.quantizer.quantizeModel(request), clients.quantizer.quantizeModel(request)]);
  assert.equal(both[0].name, both[1].name);
  assert.equal((await clients.quantizer.quantizeModel(request)).name, both[0].name);
  await assert.rejects(clients.quantizer.quantizeModel({ ...request, outDir: "p" }), { code: "ALREADY_EXISTS" });
  work.letGo();
});

test("pages list all operations once, newest first", async (t) => {
  const { clients } = await start(t, { quantize: async () => create(QuantizeModelResponseSchema) });
  const made: string[] = [];
  for (let i = 0; i < 5; i++)
    made.unshift((await clients.quantizer.quantizeModel({ modelDir: "m", outDir: "o" })).name);
  const seen: string[] = [];
  let pageToken = "";
  do {
    const page = await clients.operations.listOperations({ pageSize: 2, pageToken });
    assert.ok(page.operations.length <= 2);
    seen.push(...page.operations.map(({ name }) => name));
    pageToken = page.nextPageToken;
  } while (pageToken !== "");
  assert.deepEqual(seen, made);
});

test("a stop ends what runs as ABORTED, keeps what waits, and a restart goes on with it", async (t) => {
  const dir = temporaryFolder(t);
  const before = await start(t, { dir, quantize: lasting().quantize });
  const request = { modelDir: "m", outDir: "o" };
  const running = await before.clients.quantizer.quantizeModel(request);
  const waiting = await before.clients.quantizer.quantizeModel(request);
  await before.stop();
  const after = await start(t, { dir, quantize: async () => create(QuantizeModelResponseSchema, { digest: "d" }) });
  const interrupted = await after.clients.operations.getOperation({ name: running.name });
  assert.equal(errorOf(interrupted).code, "ABORTED");
  const later = await after.clients.operations.waitOperation({ name: waiting.name });
  assert.equal(later.result.case, "response");
});

test("what a killed server had begun is found again as ABORTED", async (t) => {
  const dir = temporaryFolder(t);
  const before = await start(t, { dir, quantize: lasting().quantize });
  const { name } = await before.clients.quantizer.quantizeModel({ modelDir: "m", outDir: "o" });
  await until(async () => metadataOf(await before.clients.operations.getOperation({ name })).tensorsDone === 1n);
  // The files as they are at this moment are what a killed process leaves.
  const left = join(temporaryFolder(t), "left");
  cpSync(dir, left, { recursive: true });
  const after = await start(t, { dir: left });
  const error = errorOf(await after.clients.operations.getOperation({ name }));
  assert.equal(error.code, "ABORTED");
  assert.match(error.message, /interrupted/);
});
