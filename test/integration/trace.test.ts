// A request is followed from the gateway through gRPC into the engine's steps: processes of their own, traces sent to a
// collector over OTLP.
import assert from "node:assert/strict";
import { test } from "node:test";
import { connect } from "#packages/client";
import { goldenPath, temporaryFolder } from "../support/folders.ts";
import { longModel } from "../support/models.ts";
import { type CollectedSpan, startCollector, treeOf } from "../support/otlp.ts";
import { launch } from "../support/processes.ts";
import { until } from "../support/services.ts";

const newTokens = 300;

test("a request's trace tells its wait, the parts of its prompt and each step of its answer", async (t) => {
  const { env, spans } = await startCollector(t);
  const started = await launch(
    t,
    "inference",
    { DIR: temporaryFolder(t), MODEL: longModel(t, 4096), THREADS: "1", STEP_TOKENS_MAX: "24" },
    env,
  );
  const endpoints = { NIBBLE_INFERENCE_ENDPOINT: started.address };
  const gateway = await launch(t, "gateway", { DIR: temporaryFolder(t) }, { ...env, ...endpoints });

  const idOf = (n: number) => `0af7651916cd43dd8448eb211c80319${n}`;
  const ask = async (n: number, isSampled: boolean) => {
    const response = await fetch(`http://${gateway.address}/v1/completions`, {
      method: "POST",
      headers: { traceparent: `00-${idOf(n)}-b7ad6b7169203331-0${isSampled ? 1 : 0}` },
      // 40 tokens of prompt, of each its own: two steps of 24 at least.
      body: JSON.stringify({ model: "base", prompt: Array(40).fill(n), max_tokens: newTokens, ignore_eos: true }),
    });
    assert.equal(response.status, 200, await response.text());
  };
  await Promise.all([ask(1, true), ask(2, true), ask(3, false)]);
  const of = (n: number) => spans.filter(({ traceId }) => traceId === idOf(n));
  const named = (n: number, name: string) => of(n).filter((span) => span.name === name);
  await until(() => [1, 2].every((n) => named(n, "POST /v1/completions").length === 1));
  await until(() => [1, 2].every((n) => named(n, "engine.generate").length === 1));

  for (const n of [1, 2]) {
    // From the engine's span up to the gateway's.
    const byId = new Map(of(n).map((span) => [span.spanId, span]));
    const way: string[] = [];
    const [generate] = named(n, "engine.generate");
    for (let at: CollectedSpan | undefined = generate; at; at = byId.get(at.parentSpanId ?? "")) {
      way.push(`${at.name} ${at.service} ${at.kind}`);
    }
    // Kinds, by OTLP: 1 is internal, 2 a server's, 3 a client's.
    const call = "nibble.inference.v1.InferenceService/Generate";
    assert.deepEqual(way, [
      "engine.generate nibble-inference 1",
      `${call} nibble-inference 2`,
      `${call} nibble-gateway 3`,
      "POST /v1/completions nibble-gateway 2",
    ]);
    assert.deepEqual(
      ["gen_ai.usage.input_tokens", "gen_ai.usage.output_tokens"].map((key) => generate!.attributes[key]),
      [40, newTokens],
    );

    const inside = of(n).filter(({ parentSpanId }) => parentSpanId === generate!.spanId);
    const [queue, ...work] = inside.toSorted((a, b) => a.beginMs - b.beginMs);
    assert.equal(queue?.name, "engine.queue");
    const prefill = work.filter(({ name }) => name === "engine.prefill");
    const prompt = prefill.map(({ attributes }) => Number(attributes["nibble.step.tokens"]));
    assert.deepEqual([prompt.reduce((sum, tokens) => sum + tokens, 0), prefill.length >= 2], [40, true]);
    assert.ok(prefill.every(({ attributes }) => Number(attributes["nibble.batch.tokens"]) <= 24));

    // The last part of the prompt gives the first token; each step after it one more, all of them told.
    const steps = work.filter(({ name }) => name === "engine.decode").flatMap(({ events }) => events);
    assert.equal(steps.length, newTokens - 1);
    const numbers = steps.map(({ attributes }) => Number(attributes["nibble.step"]));
    assert.ok(numbers.every((number, i) => i === 0 || number > numbers[i - 1]!));
    const sizes = steps.map(({ attributes }) => Number(attributes["nibble.batch.sequences"]));
    assert.ok(sizes.every((size) => size >= 1 && size <= 3) && sizes.some((size) => size >= 2), `${sizes}`);
    const used = Number(steps.at(-1)!.attributes["nibble.kv.pages_used"]);
    assert.ok(used * 16 >= 40 + newTokens - 1, `${used} pages`);

    // Where it met the other one in a step, it points at that one's span; the third one is not sampled.
    const links = work.flatMap((span) => span.links.map(({ traceId, spanId }) => `${traceId} ${spanId}`));
    assert.deepEqual(links, [`${idOf(3 - n)} ${named(3 - n, "engine.generate")[0]!.spanId}`]);
  }
  assert.deepEqual(of(3), []);

  // Over an adapter, waiting for it is told as well.
  using direct = connect({ endpoint: started.address });
  const source = { case: "adapterDir", value: goldenPath("train", "qlora_adapter") } as const;
  await direct.inference.loadAdapter({ adapterId: "bot", source });
  const request = { adapter: "loadedAdapters/bot", input: { case: "prompt", value: "Hello" } as const };
  const metadata = { traceparent: `00-${idOf(4)}-b7ad6b7169203331-01` };
  for await (const _ of direct.inference.generate({ ...request, sampling: { maxNewTokens: 2 } }, { metadata }));
  await until(() => named(4, "engine.generate").length === 1);
  assert.deepEqual(
    named(4, "adapter.hold").map(({ attributes }) => attributes["nibble.adapter"]),
    ["bot"],
  );

  // A score is all prompt, and its last token is not computed: nothing comes after it.
  const [context, continuation] = [Array(30).fill(1), Array(10).fill(2)].map((ids: number[]) => ({
    input: { case: "inputIds", value: { ids } } as const,
  }));
  const asked = { adapter: "loadedAdapters/bot", context: context!, continuations: [continuation!] };
  await direct.inference.score(asked, { metadata: { traceparent: `00-${idOf(5)}-b7ad6b7169203331-01` } });
  await until(() => named(5, "engine.score").length === 1);
  assert.equal(named(5, "adapter.hold").length, 1);
  const [score] = named(5, "engine.score");
  const scoring = of(5).filter(({ name, parentSpanId }) => name === "engine.prefill" && parentSpanId === score!.spanId);
  const scored = scoring.map(({ attributes }) => Number(attributes["nibble.step.tokens"]));
  assert.equal(
    scored.reduce((sum, tokens) => sum + tokens, 0),
    39,
  );
  t.diagnostic(treeOf(of(1)).join("\n"));
});
