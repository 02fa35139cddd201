// The duration of every call is recorded on both sides, by method and code.
import assert from "node:assert/strict";
import { test } from "node:test";
import type { Attributes, MeterProvider } from "@opentelemetry/api";
import { createNoopMeter, metrics } from "@opentelemetry/api";
import { startRegistry } from "./support.ts";

test("calls are counted by side, method and code", async (t) => {
  const records: { name: string; seconds: number; attributes: Attributes }[] = [];
  const meter = createNoopMeter();
  const createHistogram = (name: string) => ({
    record: (seconds: number, attributes: Attributes = {}) => void records.push({ name, seconds, attributes }),
  });
  const provider = { getMeter: () => Object.assign(meter, { createHistogram }) } as unknown as MeterProvider;
  assert.ok(metrics.setGlobalMeterProvider(provider));
  t.after(() => metrics.disable());
  const { client } = await startRegistry(t, { getAdapter: () => ({}) });
  await client.getAdapter({ name: "adapters/a" });
  while (records.length < 2) await new Promise(setImmediate);
  assert.deepEqual(records.map(({ name }) => name).sort(), ["rpc.client.call.duration", "rpc.server.call.duration"]);
  for (const { seconds, attributes } of records) {
    assert.ok(seconds > 0 && seconds < 60);
    assert.deepEqual(attributes, {
      "rpc.system.name": "grpc",
      "rpc.method": "nibble.registry.v1.RegistryService/GetAdapter",
      "rpc.response.status_code": "OK",
    });
  }
});
