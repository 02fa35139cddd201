// Keys of one name are one caller: files, jobs and the limit of requests are theirs together, and nobody else's.
import assert from "node:assert/strict";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { longModel } from "../../../test/support/models.ts";
import { until } from "../../../test/support/services.ts";
import { startAll, startGateway, startInference, startRegistry } from "./support.ts";

const quickstart = fileURLToPath(new URL("../../../models/quickstart", import.meta.url));
const keys = { NIBBLE_GATEWAY_KEYS: "alice=a1,alice=a2,bob=b" };

interface Reply {
  id?: string;
  status?: string;
  data?: { id: string }[];
  error?: { param: string | null; code: string | null };
}

function callerOf(url: string) {
  return async (key: string, path: string, init: RequestInit = {}) => {
    const answer = await fetch(url + path, { ...init, headers: { Authorization: `Bearer ${key}` } });
    return { status: answer.status, body: (await answer.json()) as Reply };
  };
}

test("files and jobs are seen by the keys of who made them", async (t) => {
  const { url } = await startAll(t, quickstart, keys);
  const call = callerOf(url);
  const form = new FormData();
  form.append("purpose", "fine-tune");
  form.append("file", new Blob(['{"prompt": "one", "completion": "two"}\n']), "rows.jsonl");
  const { body: file } = await call("a1", "/v1/files", { method: "POST", body: form });
  const path = `/v1/files/${file.id}`;
  const ids = async (key: string, of: string) => (await call(key, of)).body.data?.map(({ id }) => id);
  assert.deepEqual([await ids("a2", "/v1/files"), await ids("b", "/v1/files")], [[file.id], []]);
  assert.deepEqual([(await call("a2", path)).status, (await call("b", path)).status], [200, 404]);
  assert.equal((await call("b", `${path}/content`)).status, 404);
  assert.equal((await call("b", path, { method: "DELETE" })).status, 404);

  const jobs = "/v1/fine_tuning/jobs";
  const body = JSON.stringify({ model: "base", training_file: file.id, hyperparameters: { n_epochs: 1000 } });
  const refused = await call("b", jobs, { method: "POST", body });
  assert.deepEqual([refused.status, refused.body.error?.param], [400, "training_file"]);
  const { body: job } = await call("a1", jobs, { method: "POST", body });
  assert.deepEqual([await ids("a2", jobs), await ids("b", jobs)], [[job.id], []]);
  for (const what of ["", "/events", "/checkpoints"])
    assert.equal((await call("b", `${jobs}/${job.id}${what}`)).status, 404, what);
  assert.equal((await call("b", `${jobs}/${job.id}/cancel`, { method: "POST" })).status, 404);
  const connect = "/nibble.trainer.v1.TrainerService/ListTrainingJobs";
  assert.equal((await call("b", connect, { method: "POST", body: "{}" })).status, 404);
  assert.equal((await call("a2", `${jobs}/${job.id}/cancel`, { method: "POST" })).status, 200);
  await until(async () => (await call("a1", `${jobs}/${job.id}`)).body.status === "cancelled");
});

test("one caller's requests beyond its limit are 429, another's are not", async (t) => {
  const registry = await startRegistry(t);
  const inference = await startInference(t, registry.address, longModel(t, 1 << 14), {
    NIBBLE_INFERENCE_CACHE_TOKENS_MAX: String(1 << 15),
  });
  const limits = { NIBBLE_GATEWAY_KEY_REQUESTS_MAX: "1", NIBBLE_INFERENCE_ENDPOINT: inference.address };
  const { url } = await startGateway(t, { ...keys, ...limits });
  const call = callerOf(url);
  const ask = (key: string, more: object = {}) => {
    const body = JSON.stringify({ model: "base", prompt: "one", max_tokens: 2, ...more });
    return call(key, "/v1/completions", { method: "POST", body });
  };
  const leave = new AbortController();
  const long = await fetch(`${url}/v1/completions`, {
    method: "POST",
    headers: { Authorization: "Bearer a1" },
    body: JSON.stringify({ model: "base", prompt: "one", max_tokens: 16_000, ignore_eos: true, stream: true }),
    signal: leave.signal,
  });
  const refused = await ask("a2");
  assert.deepEqual([refused.status, refused.body.error?.code], [429, "rate_limit_exceeded"]);
  assert.equal((await ask("a2", { stream: true })).status, 429);
  assert.equal((await ask("b")).status, 200);
  assert.equal((await ask("b")).status, 200);
  // Who leaves makes room.
  leave.abort();
  await long.text().catch(() => {});
  await until(async () => (await ask("a2")).status === 200);
});
