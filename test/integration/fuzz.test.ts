// Bytes that are no message, or a message cut or bent, to every method of the services: each call ends with a clear
// refusal, and the service goes on.
import assert from "node:assert/strict";
import { type TestContext, test } from "node:test";
import type { DescService } from "@bufbuild/protobuf";
import { Client, credentials, type ServiceError, status } from "@grpc/grpc-js";
import fc from "fast-check";
import { InferenceService } from "#gen/nibble/inference/v1/inference_pb.ts";
import { RegistryService } from "#gen/nibble/registry/v1/registry_pb.ts";
import { TrainerService } from "#gen/nibble/trainer/v1/trainer_pb.ts";
import { connect } from "#packages/client";
import { startInference, startRegistry, startTrainer } from "../../services/gateway/test/support.ts";
import { goldenPath } from "../support/folders.ts";

const same = (bytes: Buffer): Buffer => bytes;

/** The status of a call whose request is these bytes, or two halves of them where it streams. */
function send(client: Client, path: string, bytes: Buffer): Promise<number> {
  return new Promise((resolve) => {
    // A stream to the server with one response takes a message after the other, and answers as a unary call does.
    const options = { deadline: Date.now() + 30_000 };
    const done = (error: ServiceError | null): void => resolve(error?.code ?? status.OK);
    const call = client.makeClientStreamRequest(path, same, same, options, done);
    call.on("error", () => {});
    call.write(bytes);
    call.end();
  });
}

async function fuzz(t: TestContext, service: DescService, address: string): Promise<void> {
  const client = new Client(address, credentials.createInsecure());
  t.after(() => client.close());
  const methods = service.methods.filter(({ methodKind }) => methodKind !== "server_streaming");
  // A tag, a length and text: what looks like a message more often than noise does.
  const field = fc
    .tuple(fc.integer({ min: 0, max: 255 }), fc.integer({ min: 0, max: 300 }), fc.uint8Array({ maxLength: 40 }))
    .map(([tag, length, value]) => Buffer.from([tag, length & 127, ...value]));
  const bytes = fc.oneof(
    fc.uint8Array({ maxLength: 200 }).map((noise) => Buffer.from(noise)),
    fc.array(field, { maxLength: 6 }).map((fields) => Buffer.concat(fields)),
  );
  await fc.assert(
    fc.asyncProperty(fc.constantFrom(...methods), bytes, async ({ name }, request) => {
      const code = await send(client, `/${service.typeName}/${name}`, request);
      assert.ok(![status.UNKNOWN, status.INTERNAL, status.UNAVAILABLE].includes(code), `${name}: ${status[code]}`);
    }),
    { numRuns: 200 },
  );
}

test("of any bytes none end a service, nor are they an error of its own", async (t) => {
  const registry = await startRegistry(t);
  const inference = await startInference(t, registry.address, goldenPath("llama_untied_nf4_dq"));
  const trainer = await startTrainer(t, registry.address);
  await fuzz(t, RegistryService, registry.address);
  await fuzz(t, TrainerService, trainer.address);
  await fuzz(t, InferenceService, inference.address);
  using clients = connect({
    endpoints: { registry: registry.address, inference: inference.address, trainer: trainer.address },
  });
  assert.deepEqual((await clients.registry.listAdapters({})).adapters, []);
  assert.deepEqual((await clients.trainer.listTrainingJobs({})).trainingJobs, []);
  assert.equal((await clients.inference.countTokens({ input: { case: "prompt", value: "x" } })).tokens > 0, true);
});
