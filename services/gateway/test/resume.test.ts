// A connection between the gateway and the inference service that breaks in the middle of answers, and callers that leave.
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import OpenAI from "openai";
import { connect } from "#packages/client";
import { longModel } from "../../../test/support/models.ts";
import { startRoughProxy } from "../../../test/support/rough-proxy.ts";
import { until } from "../../../test/support/services.ts";
import { startGateway, startInference, startRegistry } from "./support.ts";

const ask = { model: "base", prompt: ["one", "two three"], n: 2, max_tokens: 60, temperature: 1, seed: 5 };

/** Longer than any test: what the service ends sooner, it was told to end. */
const forever = { NIBBLE_INFERENCE_RESUME_MS: "3600000" };

interface Streamed {
  texts: string[];
  ends: number;
}

/** The texts of all answers, and how many of them ended. */
async function streamed(client: OpenAI): Promise<Streamed> {
  const texts = ["", "", "", ""];
  let ends = 0;
  const stream = await client.completions.create({ ...ask, stream: true, ...{ ignore_eos: true } });
  for await (const { choices } of stream) {
    for (const { index, text, finish_reason } of choices) {
      texts[index] += text;
      if (finish_reason) ends++;
    }
  }
  return { texts, ends };
}

describe("between the gateway and the inference service", () => {
  test("a connection that is cut again and again costs no token and repeats none", async (t) => {
    const registry = await startRegistry(t);
    const inference = await startInference(t, registry.address, longModel(t, 256), forever);
    const proxy = await startRoughProxy(t, `http://${inference.address}`);
    const gateway = await startGateway(t, { NIBBLE_INFERENCE_ENDPOINT: new URL(proxy.url).host });
    const client = new OpenAI({ baseURL: `${gateway.url}/v1`, apiKey: "none", maxRetries: 0 });
    const expected = await streamed(client);
    assert.equal(expected.ends, 4);
    // As often as the gateway bears before an answer's first message, which is where all of the cuts may come.
    proxy.set({ after: 2000, what: "cut", times: 2 });
    assert.deepEqual(await streamed(client), expected);
    assert.equal(proxy.count, 2);
    // An answer that was not streamed, too.
    proxy.set({ after: 2000, what: "cut" });
    const { choices } = await client.completions.create({ ...ask, ...{ ignore_eos: true } });
    assert.deepEqual(
      choices.map(({ text }) => text),
      expected.texts,
    );
    assert.equal(proxy.count, 3);
  });

  test("an answer that the service lost is an error of the stream, not an end", async (t) => {
    const registry = await startRegistry(t);
    const inference = await startInference(t, registry.address, longModel(t, 1 << 14), forever);
    const proxy = await startRoughProxy(t, `http://${inference.address}`);
    const gateway = await startGateway(t, { NIBBLE_INFERENCE_ENDPOINT: new URL(proxy.url).host });
    const client = new OpenAI({ baseURL: `${gateway.url}/v1`, apiKey: "none", maxRetries: 0 });
    const long = { model: "base", prompt: "one", max_tokens: 12_000, ignore_eos: true, stream: true } as const;
    const stream = await client.completions.create(long);
    proxy.set({ after: 4000, what: "cut" });
    let isStopped = false;
    const read = async () => {
      for await (const _ of stream) {
        if (proxy.count > 0 && !isStopped) {
          isStopped = true;
          await inference.stop();
        }
      }
    };
    await assert.rejects(
      read(),
      (error: unknown) => error instanceof OpenAI.APIError && error.code === "service_unavailable",
    );
  });
});

test("a caller who leaves ends the work within a step, though the service keeps answers for long", async (t) => {
  const registry = await startRegistry(t);
  const inference = await startInference(t, registry.address, longModel(t, 1 << 14), forever);
  const gateway = await startGateway(t, { NIBBLE_INFERENCE_ENDPOINT: inference.address });
  const client = new OpenAI({ baseURL: `${gateway.url}/v1`, apiKey: "none", maxRetries: 0 });
  using grpc = connect({ endpoints: { inference: inference.address } });
  const load = async () => {
    const { requestsRunning, requestsWaiting } = await grpc.inference.getServingStats({});
    return requestsRunning + requestsWaiting;
  };
  const long = { model: "base", prompt: ["one", "two"], max_tokens: 12_000, ignore_eos: true };
  for (const stream of [true, false]) {
    const abort = new AbortController();
    const asked = client.completions.create({ ...long, stream }, { signal: abort.signal });
    const settled = Promise.allSettled([asked]);
    await until(async () => (await load()) === 2);
    abort.abort();
    await settled;
    await until(async () => (await load()) === 0);
  }
});
