// The server's life: health, reflection, drain, ports.
import assert from "node:assert/strict";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { fromBinary } from "@bufbuild/protobuf";
import type { FileDescriptorProto } from "@bufbuild/protobuf/wkt";
import { FileDescriptorProtoSchema } from "@bufbuild/protobuf/wkt";
import { Health, HealthCheckResponse_ServingStatus as Serving } from "#gen/grpc/health/v1/health_pb.ts";
import * as v1 from "#gen/grpc/reflection/v1/reflection_pb.ts";
import * as v1alpha from "#gen/grpc/reflection/v1alpha/reflection_pb.ts";
import { createClient, createServer } from "#packages/rpc";
import { collect, failure, registryWith, startRegistry } from "./support.ts";

const registryName = "nibble.registry.v1.RegistryService";

test("health answers for the server and each service, and Watch follows", async (t) => {
  const { server } = await startRegistry(t, {});
  const client = createClient(Health, server.address);
  t.after(() => client.close());
  assert.equal((await client.check({})).status, Serving.SERVING);
  assert.equal((await client.check({ service: registryName })).status, Serving.SERVING);
  assert.equal((await failure(client.check({ service: "nobody" }))).code, "NOT_FOUND");
  const seen: number[] = [];
  for await (const { status } of client.watch({ service: registryName })) {
    seen.push(status);
    if (seen.length === 1) server.health.set(registryName, false);
    if (seen.length === 2) server.health.set(registryName, true);
    if (seen.length === 3) break;
  }
  assert.deepEqual(seen, [Serving.SERVING, Serving.NOT_SERVING, Serving.SERVING]);
  assert.deepEqual(Object.keys((await client.list({})).statuses).sort(), ["", registryName]);
});

for (const [version, service] of [
  ["v1", v1.ServerReflection],
  ["v1alpha", v1alpha.ServerReflection as unknown as typeof v1.ServerReflection],
] as const) {
  test(`reflection ${version} lists services and hands out their files`, async (t) => {
    const { server } = await startRegistry(t, {});
    const client = createClient(service, server.address);
    t.after(() => client.close());
    const ask = async (messageRequest: v1.ServerReflectionRequest["messageRequest"]) => {
      const requests = async function* () {
        yield { messageRequest };
      };
      const [answer] = await collect(client.serverReflectionInfo(requests()));
      return answer?.messageResponse;
    };
    const services = await ask({ case: "listServices", value: "" });
    assert.ok(services?.case === "listServicesResponse");
    assert.ok(services.value.service.some(({ name }) => name === registryName));
    const files = await ask({ case: "fileContainingSymbol", value: `${registryName}.GetAdapter` });
    assert.ok(files?.case === "fileDescriptorResponse");
    const parsed: FileDescriptorProto[] = files.value.fileDescriptorProto.map((bytes) =>
      fromBinary(FileDescriptorProtoSchema, bytes),
    );
    const names = parsed.map(({ name }) => name);
    assert.equal(names[0], "nibble/registry/v1/registry.proto");
    // A client can build the file: everything it imports is there.
    for (const { dependency } of parsed) for (const name of dependency) assert.ok(names.includes(name), name);
    const byName = await ask({ case: "fileByFilename", value: "buf/validate/validate.proto" });
    assert.equal(byName?.case, "fileDescriptorResponse");
    const options = "google.protobuf.FieldOptions";
    const numbers = await ask({ case: "allExtensionNumbersOfType", value: options });
    assert.ok(numbers?.case === "allExtensionNumbersResponse");
    assert.deepEqual(numbers.value.extensionNumber, [1159, 1160]);
    const value = { containingType: options, extensionNumber: 1159 } as v1.ExtensionRequest;
    assert.equal((await ask({ case: "fileContainingExtension", value }))?.case, "fileDescriptorResponse");
    // Of the details of errors.
    const detail = await ask({ case: "fileContainingSymbol", value: "google.rpc.ErrorInfo" });
    assert.equal(detail?.case, "fileDescriptorResponse");
    const missing = await ask({ case: "fileContainingSymbol", value: "no.such.Thing" });
    assert.ok(missing?.case === "errorResponse");
    assert.equal(missing.value.errorCode, 5);
  });
}

test("a drain lets calls in flight finish and refuses new ones", async (t) => {
  const entered = Promise.withResolvers<void>();
  const gate = Promise.withResolvers<void>();
  const { server, client } = await startRegistry(t, {
    getAdapter: async () => {
      entered.resolve();
      await gate.promise;
      return { adapter: { name: "adapters/late" } };
    },
  });
  const call = client.getAdapter({ name: "adapters/a" });
  await entered.promise;
  const drained = server.drain(20_000);
  assert.equal((await failure(client.getAdapter({ name: "adapters/b" }))).code, "UNAVAILABLE");
  gate.resolve();
  assert.equal((await call).adapter?.name, "adapters/late");
  assert.equal(await drained, true);
  assert.equal(await server.drain(), true);
});

test("a drain that runs out of time cancels what is left with UNAVAILABLE", async (t) => {
  const entered = Promise.withResolvers<void>();
  const heard = Promise.withResolvers<string>();
  const { server, client } = await startRegistry(t, {
    getAdapter: async (_, { signal }) => {
      entered.resolve();
      await new Promise<void>((resolve) => signal.addEventListener("abort", () => resolve()));
      heard.resolve(signal.reason.code);
      return {};
    },
  });
  const call = failure(client.getAdapter({ name: "adapters/a" }));
  await entered.promise;
  assert.equal(await server.drain(30), false);
  assert.equal((await call).code, "UNAVAILABLE");
  assert.equal(await heard.promise, "UNAVAILABLE");
});

test("watchers end when a drain begins", async (t) => {
  const { server, client } = await startRegistry(t, {
    downloadFile: async function* (_, { drainSignal }) {
      yield {};
      await new Promise<void>((resolve) => drainSignal.addEventListener("abort", () => resolve()));
    },
  });
  const health = createClient(Health, server.address);
  t.after(() => health.close());
  const statuses: number[] = [];
  const watching = (async () => {
    for await (const { status } of health.watch({})) statuses.push(status);
  })();
  let drained: Promise<boolean> | undefined;
  for await (const _ of client.downloadFile({ name: "adapters/a/versions/1", path: "x" })) {
    while (statuses.length === 0) await sleep(5);
    drained = server.drain(20_000);
  }
  await watching;
  assert.equal(await drained, true);
  assert.deepEqual(statuses, [Serving.SERVING, Serving.NOT_SERVING]);
});

test("a port in use is a clear error", async (t) => {
  const { server } = await startRegistry(t, {});
  const error = await failure(createServer({ services: [registryWith({})], port: server.port }));
  assert.equal(error.code, "FAILED_PRECONDITION");
  assert.equal(
    error.message,
    `[listen] 127.0.0.1:${server.port}: expected a free port, got one that another process listens on`,
  );
});
