// Traces and metrics over real sockets, with an exporter in memory; and the request log.
import assert from "node:assert/strict";
import { test } from "node:test";
import { trace } from "@opentelemetry/api";
import { pino } from "pino";
import { NibbleError } from "#packages/errors";
import { startTelemetry } from "#packages/rpc";
import { recordSpans } from "../../../test/support/spans.ts";
import { collect, failure, startRegistry } from "./support.ts";

const method = "nibble.registry.v1.RegistryService/GetAdapter";

test("a call's spans share a trace, streams leave short spans, and none are open at the end", async (t) => {
  const spans = await recordSpans(t);
  let inside: string | undefined;
  const { client, server } = await startRegistry(t, {
    getAdapter: async ({ name }) => {
      inside = trace.getActiveSpan()?.spanContext().traceId;
      if (name === "adapters/none") throw new NibbleError("a: none", { code: "NOT_FOUND", op: "get" });
      return {};
    },
    downloadFile: async function* () {
      yield {};
    },
  });
  await client.getAdapter({ name: "adapters/a" });
  await failure(client.getAdapter({ name: "adapters/none" }));
  await collect(client.downloadFile({ name: "adapters/a/versions/1", path: "x" }));
  while (server.callsInFlight > 0) await new Promise(setImmediate);

  const unary = spans.filter(({ name }) => name === method);
  assert.equal(unary.length, 4);
  const [first] = unary;
  const pair = unary.filter((span) => span.spanContext().traceId === first?.spanContext().traceId);
  // SpanKind: 1 is SERVER, 2 is CLIENT. The server's span is the child of the client's.
  const [served, called] = [pair.find(({ kind }) => kind === 1), pair.find(({ kind }) => kind === 2)];
  assert.ok(served && called);
  assert.equal(served.parentSpanContext?.spanId, called.spanContext().spanId);
  assert.equal(served.attributes["rpc.system.name"], "grpc");
  assert.equal(served.attributes["rpc.response.status_code"], "OK");
  const failed = unary.filter((span) => span.attributes["error.type"] === "NOT_FOUND");
  assert.equal(failed.length, 2);
  assert.equal(inside, failed[0]?.spanContext().traceId);
  const streams = spans.filter(({ name }) => name.includes("DownloadFile"));
  assert.equal(streams.filter(({ name }) => name.endsWith(" close")).length, 2);
  assert.equal(streams.filter(({ events }) => events[0]?.name === "stream.open").length, 2);
  assert.equal(new Set(streams.map((span) => span.spanContext().traceId)).size, 1);
});

test("without an endpoint nothing starts", async () => {
  const telemetry = await startTelemetry({ serviceName: "test", enabled: false });
  await telemetry.shutdown();
});

test("each call leaves a log line with method, code and time", async (t) => {
  const lines: Record<string, unknown>[] = [];
  const logger = pino({}, { write: (line: string) => void lines.push(JSON.parse(line)) });
  const { client, server } = await startRegistry(
    t,
    {
      getAdapter: ({ name }) => {
        if (name === "adapters/a") return {};
        throw new NibbleError("a: broken", { code: "INTERNAL", op: "get" });
      },
    },
    { server: { logger } },
  );
  await client.getAdapter({ name: "adapters/a" });
  await failure(client.getAdapter({ name: "adapters/b" }));
  while (server.callsInFlight > 0 || lines.length < 2) await new Promise(setImmediate);
  assert.deepEqual(
    lines.map(({ level, method: name, code }) => [level, name, code]),
    [
      [30, method, "OK"],
      [50, method, "INTERNAL"],
    ],
  );
  assert.ok(typeof lines[0]?.["ms"] === "number" && typeof lines[0]["requestId"] === "string");
});
