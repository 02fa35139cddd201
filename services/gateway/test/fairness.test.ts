// Callers are told apart by their keys, and served alike: one who sends much holds up one who sends little by no more than
// its share.
import assert from "node:assert/strict";
import { test } from "node:test";
import { connect } from "#packages/client";
import { longModel } from "../../../test/support/models.ts";
import { until } from "../../../test/support/services.ts";
import { startGateway, startInference, startRegistry } from "./support.ts";

test("the few requests of one key do not wait for all that came before from another", async (t) => {
  const registry = await startRegistry(t);
  const inference = await startInference(t, registry.address, longModel(t, 1 << 14), {
    NIBBLE_INFERENCE_SEQUENCES_MAX: "1",
    NIBBLE_INFERENCE_CACHE_TOKENS_MAX: String(1 << 15),
  });
  const { url } = await startGateway(t, {
    NIBBLE_INFERENCE_ENDPOINT: inference.address,
    NIBBLE_GATEWAY_KEYS: "alice=key-alice,bob=key-bob,carol=key-carol",
  });
  using grpc = connect({ endpoints: { inference: inference.address } });
  const load = async () => {
    const { requestsRunning, requestsWaiting } = await grpc.inference.getServingStats({});
    return [requestsRunning, requestsWaiting].join();
  };
  const ask = async (who: "alice" | "bob" | "carol", max_tokens: number, signal: AbortSignal | null = null) => {
    const answer = await fetch(`${url}/v1/completions`, {
      method: "POST",
      headers: { Authorization: `Bearer key-${who}` },
      body: JSON.stringify({ model: "base", prompt: "one", max_tokens, ignore_eos: true, temperature: 0 }),
      signal,
    });
    assert.equal(answer.status, 200, await answer.text());
  };
  const [first, flood] = [new AbortController(), new AbortController()];
  // Carol's answer runs until all others have come.
  const left = [ask("carol", 16_000, first.signal)];
  await until(async () => (await load()) === "1,0");
  for (let i = 0; i < 12; i++) left.push(ask("alice", 4000, flood.signal));
  const settled = Promise.allSettled(left);
  await until(async () => (await load()) === "1,12");
  const few = Array.from({ length: 3 }, () => ask("bob", 20));
  await until(async () => (await load()) === "1,15");
  first.abort();
  await Promise.all(few);
  // In the order of arrival, bob's would have been the last. The engine is asked: answers may arrive in another order.
  assert.match(await load(), /^1,[1-9]/);
  flood.abort();
  await settled;
});
