// Watching over real sockets, with a trainer that breaks off.
import assert from "node:assert/strict";
import { type TestContext, test } from "node:test";
import { create } from "@bufbuild/protobuf";
import { anyPack } from "@bufbuild/protobuf/wkt";
import { OperationSchema, Operations } from "#gen/google/longrunning/operations_pb.ts";
import { QuantizeModelMetadataSchema, QuantizeModelResponseSchema } from "#gen/nibble/quantizer/v1/quantizer_pb.ts";
import { TrainerService } from "#gen/nibble/trainer/v1/trainer_pb.ts";
import { NibbleError } from "#packages/errors";
import type { Handlers, Implementation, RunningServer } from "#packages/rpc";
import { createServer, implement, toStatus } from "#packages/rpc";
import { connect, waitForOperation, watchJob } from "./index.ts";

type TrainerHandlers = Handlers<typeof TrainerService>;

/** A trainer that only knows WatchEvents. */
function trainerWith(watchEvents: TrainerHandlers["watchEvents"]): Implementation {
  const missing = () => {
    throw new NibbleError("the handler: not part of this test", { code: "UNIMPLEMENTED", op: "test" });
  };
  const all = Object.fromEntries(TrainerService.methods.map((method) => [method.localName, missing]));
  return implement(TrainerService, { ...all, watchEvents } as unknown as TrainerHandlers);
}

async function start(t: TestContext, service: Implementation, port = 0): Promise<RunningServer> {
  const server = await createServer({ services: [service], port });
  t.after(() => server.drain(0));
  return server;
}

function connectTo(t: TestContext, endpoint: string) {
  const connection = connect({ endpoint });
  t.after(() => connection.close());
  return connection;
}

const eventsMax = 9n;

async function sequences(events: AsyncIterable<{ sequence: bigint }>): Promise<number[]> {
  const all: number[] = [];
  for await (const { sequence } of events) all.push(Number(sequence));
  return all;
}

test("a watch that breaks off goes on after the last event, without gaps and without repeats", async (t) => {
  const asked: bigint[] = [];
  const service = trainerWith(async function* ({ afterSequence }) {
    asked.push(afterSequence);
    for (let i = afterSequence + 1n; i <= eventsMax; i++) {
      if (i % 4n === 0n && asked.length < 4) throw new NibbleError("draining", { code: "UNAVAILABLE", op: "test" });
      // An event that was seen already, as after a reconnect to a trainer that sends too much.
      if (i > 1n) yield { event: { sequence: i - 1n } };
      yield { event: { sequence: i } };
    }
  });
  const { trainer } = connectTo(t, (await start(t, service)).address);
  assert.deepEqual(
    await sequences(watchJob(trainer, "trainingJobs/a", { afterSequence: 1n })),
    [2, 3, 4, 5, 6, 7, 8, 9],
  );
  assert.deepEqual(asked, [1n, 3n, 3n, 3n]);
});

test("a server that goes away and comes back on its port is found again", async (t) => {
  const service = trainerWith(async function* ({ afterSequence }, { signal }) {
    if (afterSequence >= 2n) {
      yield { event: { sequence: afterSequence + 1n } };
      return;
    }
    yield { event: { sequence: afterSequence + 1n } };
    yield { event: { sequence: afterSequence + 2n } };
    await new Promise((_, reject) => signal.addEventListener("abort", () => reject(signal.reason)));
  });
  const first = await start(t, service);
  const { trainer } = connectTo(t, first.address);
  const seen: number[] = [];
  for await (const { sequence } of watchJob(trainer, "trainingJobs/a")) {
    seen.push(Number(sequence));
    if (sequence !== 2n) continue;
    await first.drain(0);
    await start(t, service, first.port);
  }
  assert.deepEqual(seen, [1, 2, 3]);
});

test("errors that are answers are not retried, and losses only so often", async (t) => {
  let calls = 0;
  let code: "NOT_FOUND" | "UNAVAILABLE" = "NOT_FOUND";
  // biome-ignore lint/correctness/useYield: it fails before it has something to send.
  const service = trainerWith(async function* () {
    calls++;
    throw new NibbleError("gone", { code, op: "test" });
  });
  const { trainer } = connectTo(t, (await start(t, service)).address);
  await assert.rejects(sequences(watchJob(trainer, "trainingJobs/a")), { code: "NOT_FOUND" });
  assert.equal(calls, 1);
  code = "UNAVAILABLE";
  await assert.rejects(sequences(watchJob(trainer, "trainingJobs/a", { retriesMax: 2 })), { code: "UNAVAILABLE" });
  assert.equal(calls, 4);
});

test("a signal ends a watch that waits", async (t) => {
  const abort = new AbortController();
  const service = trainerWith(async function* (_, { signal }) {
    yield { event: { sequence: 1n } };
    await new Promise((_, reject) => signal.addEventListener("abort", () => reject(signal.reason)));
  });
  const { trainer } = connectTo(t, (await start(t, service)).address);
  const seen: number[] = [];
  const watching = (async () => {
    for await (const { sequence } of watchJob(trainer, "trainingJobs/a", { signal: abort.signal })) {
      seen.push(Number(sequence));
      abort.abort();
    }
  })();
  await assert.rejects(watching, { code: "CANCELLED" });
  assert.deepEqual(seen, [1]);
});

test("an operation is waited for: metadata on the way, then its response or its error", async (t) => {
  let looks = 0;
  const pack = (bytesRead: bigint) =>
    anyPack(QuantizeModelMetadataSchema, create(QuantizeModelMetadataSchema, { bytesRead }));
  const service = implement(Operations, {
    getOperation: ({ name }) => {
      const metadata = pack(BigInt(++looks));
      if (looks < 3) return { name, metadata };
      if (name === "operations/bad") {
        const error = toStatus(new NibbleError("shard: gone", { code: "DATA_LOSS", op: "quantize" }));
        return { name, metadata, done: true, result: { case: "error", value: error } };
      }
      const response = anyPack(QuantizeModelResponseSchema, create(QuantizeModelResponseSchema, { digest: "d" }));
      return { name, metadata, done: true, result: { case: "response", value: response } };
    },
    listOperations: () => ({}),
    deleteOperation: () => ({}),
    cancelOperation: () => ({}),
    waitOperation: () => ({}),
  });
  const { operations } = connectTo(t, (await start(t, service)).address);
  const wait = (name: string, seen: number[] = []) =>
    waitForOperation(operations, create(OperationSchema, { name, metadata: pack(0n) }), QuantizeModelResponseSchema, {
      metadata: QuantizeModelMetadataSchema,
      onMetadata: ({ bytesRead }) => seen.push(Number(bytesRead)),
      intervalMs: 1,
    });
  const seen: number[] = [];
  assert.equal((await wait("operations/good", seen)).digest, "d");
  assert.deepEqual(seen, [0, 1, 2, 3]);
  looks = 0;
  await assert.rejects(wait("operations/bad"), { code: "DATA_LOSS", op: "quantize" });
});
