// Browsers' side: Connect, plain fetch, gRPC-web frames, and which pages may call.
import assert from "node:assert/strict";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { startAll } from "./support.ts";

const model = fileURLToPath(new URL("../../../models/quickstart", import.meta.url));
const page = "https://page.example";

test("the services' contracts are there for Connect and gRPC-web; what names paths is not", async (t) => {
  const { url } = await startAll(t, model, { NIBBLE_GATEWAY_KEYS: "k", NIBBLE_GATEWAY_ORIGINS: page });
  const call = (path: string, body: unknown, headers: Record<string, string> = {}) =>
    fetch(url + path, {
      method: "POST",
      headers: { "Content-Type": "application/json", Authorization: "Bearer k", ...headers },
      body: typeof body === "object" && !Buffer.isBuffer(body) ? JSON.stringify(body) : (body as Buffer<ArrayBuffer>),
    });
  const inference = "/nibble.inference.v1.InferenceService";
  const counted = await call(`${inference}/CountTokens`, { prompt: "one two" }, { Origin: page });
  const { tokens } = (await counted.json()) as { tokens: number };
  assert.ok(tokens > 0);
  assert.equal(counted.headers.get("access-control-allow-origin"), page);

  const wrong = await call("/nibble.trainer.v1.TrainerService/GetTrainingJob", { name: "trainingJobs/none" });
  const error = (await wrong.json()) as { code: string; details: { type: string }[] };
  assert.deepEqual([wrong.status, error.code, error.details[0]?.type], [404, "not_found", "google.rpc.ErrorInfo"]);
  const nobody = await call(`${inference}/CountTokens`, { prompt: "x" }, { Authorization: "Bearer other" });
  assert.equal(nobody.status, 401);

  // GenerateRequest { prompt: "Kurt", sampling { max_new_tokens: 3 } }, in a gRPC-web frame.
  const message = Buffer.from([0x12, 4, ...Buffer.from("Kurt"), 0x22, 2, 0x08, 3]);
  const frame = Buffer.concat([Buffer.from([0, 0, 0, 0, message.length]), message]);
  const streamed = await call(`${inference}/Generate`, frame, { "Content-Type": "application/grpc-web+proto" });
  const bytes = Buffer.from(await streamed.arrayBuffer());
  const frames: { flag: number; size: number }[] = [];
  for (let at = 0; at < bytes.length; ) {
    const size = bytes.readUInt32BE(at + 1);
    frames.push({ flag: bytes[at] ?? 0, size });
    at += 5 + size;
  }
  // Three tokens, the completion, the trailer.
  assert.deepEqual(
    frames.map(({ flag }) => flag),
    [0, 0, 0, 0, 128],
  );
  assert.match(bytes.toString("latin1"), /grpc-status: 0/i);
  for (const path of [`${inference}/LoadModel`, "/nibble.trainer.v1.TrainerService/CreateTrainingJob"]) {
    assert.equal((await call(path, {})).status, 501, path);
  }
});

test("pages of origins that are named may call, others may not", async (t) => {
  const { url } = await startAll(t, model, { NIBBLE_GATEWAY_ORIGINS: page });
  const ask = (origin: string, method: string) =>
    fetch(`${url}/v1/models`, {
      method,
      headers: {
        Origin: origin,
        "Access-Control-Request-Method": "GET",
        "Access-Control-Request-Headers": "authorization",
      },
    });
  const asked = await ask(page, "OPTIONS");
  assert.deepEqual(
    [
      asked.status,
      ...["origin", "methods", "headers"].map((name) => asked.headers.get(`access-control-allow-${name}`)),
    ],
    [204, page, "GET", "authorization"],
  );
  assert.equal((await ask(page, "GET")).status, 200);
  for (const method of ["GET", "OPTIONS"]) {
    const other = await ask("https://other.example", method);
    assert.deepEqual([other.status, other.headers.get("access-control-allow-origin")], [403, null]);
  }
});
