// What a request may ask of its answers. One service answers all of them.
import assert from "node:assert/strict";
import { writeFileSync } from "node:fs";
import { after, before, describe, type TestContext, test } from "node:test";
import type { MessageInitShape } from "@bufbuild/protobuf";
import {
  type ChatResponse,
  type ConstraintSchema,
  FinishReason,
  type GenerateRequestSchema,
  type GenerateResponse,
  type ResumeAnswerResponse,
  Role,
} from "#gen/nibble/inference/v1/generation_pb.ts";
import { connect, steadyAnswer } from "#packages/client";
import { loadTokenizer } from "#packages/data";
import { copyOfGolden } from "../../test/support/folders.ts";
import { startRoughProxy } from "../../test/support/rough-proxy.ts";
import { type Started, silent, startService, until } from "../../test/support/services.ts";
import { readConfig } from "./config.ts";
import { openInference } from "./setup.ts";

const template =
  "{% for m in messages %}<s>{{ m['role'] }}: {{ m['content'] }}{% if m['tool_calls'] %}{% for c in m['tool_calls'] %}{{ c['function'] | tojson }}{% endfor %}{% endif %}</s>\n{% endfor %}" +
  "{% if tools %}<s>tools: {{ tools | tojson }}</s>\n{% endif %}{% if add_generation_prompt %}<s>assistant: {% endif %}";

type Message = GenerateResponse | ChatResponse | ResumeAnswerResponse;

describe("a request's options", () => {
  const atEnd: (() => void)[] = [];
  let started: Started;
  let base: string;
  before(async () => {
    const t = { after: (work: () => void) => atEnd.push(work) } as unknown as TestContext;
    base = copyOfGolden(t, "llama_untied_nf4_dq");
    writeFileSync(`${base}/chat_template.jinja`, template);
    const config = { ...readConfig({}), dir: `${base}/cache`, threads: 1, modelDir: base, registry: "127.0.0.1:1" };
    started = await startService(t, await openInference(config, { now: Date.now, logger: silent }));
  });
  after(async () => {
    for (const work of atEnd.reverse()) await work();
  });

  const all = async (stream: AsyncIterable<Message>) => {
    const messages: Message[] = [];
    for await (const message of stream) messages.push(message);
    return messages;
  };
  const generate = (request: MessageInitShape<typeof GenerateRequestSchema>) =>
    all(started.clients.inference.generate({ input: { case: "prompt", value: "Hello" }, ...request }));
  const idsOf = (messages: readonly Message[], index = 0) =>
    messages.flatMap(({ event, index: i }) => (event.case === "token" && i === index ? [event.value.id] : []));
  const ends = (messages: readonly Message[]) =>
    messages.flatMap(({ event, index }) => (event.case === "completion" ? [{ index, ...event.value }] : []));
  const sampling = { maxNewTokens: 12, ignoreEos: true };

  test("messages are numbered, and n answers are those of n seeds", async () => {
    const drawn = { ...sampling, temperature: 1, seed: 5 };
    const three = await generate({ sampling: { ...drawn, n: 3 } });
    assert.deepEqual(
      three.map(({ sequence }) => Number(sequence)),
      three.map((_, i) => i + 1),
    );
    assert.deepEqual(
      ends(three)
        .map(({ index }) => index)
        .sort(),
      [0, 1, 2],
    );
    for (const i of [0, 1, 2]) {
      assert.deepEqual(idsOf(three, i), idsOf(await generate({ sampling: { ...drawn, seed: 5 + i } })));
    }
    assert.notDeepEqual(idsOf(three, 0), idsOf(three, 1));
  });

  test("the likeliest tokens come with their text, and greedy takes the first of them", async () => {
    const messages = await generate({ sampling: { ...sampling, topLogprobs: 4 }, returnLogprobs: true });
    const tokenizer = loadTokenizer(base);
    for (const { event } of messages) {
      if (event.case !== "token") continue;
      const { id, logprob, top } = event.value;
      assert.equal(top.length, 4);
      assert.deepEqual([top[0]?.id, top[0]?.logprob], [id, logprob]);
      assert.equal(top[1]?.text, tokenizer.decode([top[1]!.id], { skipSpecial: false }));
    }
  });

  test("a frequency penalty keeps an answer from repeating itself", async () => {
    const plain = idsOf(await generate({ sampling: { ...sampling, maxNewTokens: 40 } }));
    const penalized = idsOf(await generate({ sampling: { ...sampling, maxNewTokens: 40, frequencyPenalty: 100 } }));
    assert.ok(new Set(plain).size < 40);
    assert.equal(new Set(penalized).size, 40);
  });

  test("an answer with a name goes on without its client and is taken up again", async () => {
    const whole = await generate({ sampling });
    const seen: Message[] = [];
    const request = { input: { case: "prompt", value: "Hello" } as const, sampling, requestId: "r1" };
    for await (const message of started.clients.inference.generate(request)) {
      seen.push(message);
      if (seen.length === 3) break;
    }
    const rest = await all(started.clients.inference.resumeAnswer({ requestId: "r1", afterSequence: 3n }));
    assert.deepEqual(idsOf([...seen, ...rest]), idsOf(whole));
    assert.deepEqual(
      [...seen, ...rest].map(({ sequence }) => Number(sequence)),
      whole.map((_, i) => i + 1),
    );
    await assert.rejects(generate({ sampling, requestId: "r1" }), { code: "ALREADY_EXISTS" });
    await assert.rejects(all(started.clients.inference.resumeAnswer({ requestId: "r2" })), { code: "NOT_FOUND" });
  });

  test("a connection that breaks again and again costs no message", async (t) => {
    const value = "Hello";
    const asked = { maxNewTokens: 60, ignoreEos: true };
    const whole = await generate({ sampling: asked });
    const proxy = await startRoughProxy(t, `http://${started.server.address}`, { after: 300, what: "cut", times: 3 });
    const clients = connect({ endpoint: new URL(proxy.url).host });
    t.after(() => clients.close());
    const request = { input: { case: "prompt", value } as const, sampling: asked };
    const steady = await all(steadyAnswer(clients.inference, { generate: request }));
    assert.ok(proxy.count >= 2, `${proxy.count} cuts`);
    assert.deepEqual(idsOf(steady), idsOf(whole));
    assert.deepEqual(
      steady.map(({ sequence }) => Number(sequence)),
      whole.map((_, i) => i + 1),
    );
    // Whoever leaves has no use for the rest.
    for await (const _ of steadyAnswer(clients.inference, { generate: { ...request, requestId: "left" } })) break;
    const isKept = async () => {
      const resumed = all(started.clients.inference.resumeAnswer({ requestId: "left", afterSequence: 1n }));
      return resumed.then(() => true).catch(() => false);
    };
    await until(async () => !(await isKept()));
    // A refusal is no broken connection.
    const refused = all(steadyAnswer(clients.inference, { chat: { messages: [] } }));
    await assert.rejects(refused, { code: "INVALID_ARGUMENT" });
  });

  test("tools and calls are written with the chat template, and tokens are counted as they would be computed", async () => {
    const { inference } = started.clients;
    const messages = [
      { role: Role.USER, content: "2+2?" },
      { role: Role.ASSISTANT, content: "", toolCalls: [{ id: "c", name: "add", arguments: '{"a":2}' }] },
      { role: Role.TOOL, content: "4", toolCallId: "c", name: "add" },
    ];
    const tools = [{ name: "add", description: "adds", parameters: '{"type":"object"}' }];
    const text =
      '<s>user: 2+2?</s>\n<s>assistant: {"name": "add", "arguments": {"a": 2}}</s>\n<s>tool: 4</s>\n' +
      '<s>tools: [{"type": "function", "function": {"name": "add", "description": "adds", "parameters": {"type": "object"}}}]</s>\n<s>assistant: ';
    const ids = loadTokenizer(base).encode(text, { addSpecialTokens: false });
    const input = { case: "conversation", value: { messages, tools } } as const;
    const { ids: tokenized, tokens } = await inference.tokenize({ input });
    assert.deepEqual(tokenized, ids);
    assert.equal(tokens.length, ids.length);
    assert.deepEqual((await inference.countTokens({ input })).tokens, ids.length);
    const chat = await all(inference.chat({ messages, tools, sampling }));
    assert.equal(ends(chat)[0]?.usage?.promptTokens, ids.length);
    assert.equal(ends(chat)[0]?.finishReason, FinishReason.LENGTH);
    const broken = inference.chat({ messages, tools: [{ name: "f", parameters: "[1]" }] });
    await assert.rejects(all(broken), { code: "INVALID_ARGUMENT", message: /tools\[0\]\.parameters/ });
  });

  test("given texts score as they would be drawn, whichever adapter or cache", async () => {
    const { inference } = started.clients;
    const drawn = await generate({ sampling, returnLogprobs: true });
    const logprobs = drawn.flatMap(({ event }) => (event.case === "token" ? [event.value.logprob!] : []));
    const context = { input: { case: "text", value: "Hello" } } as const;
    const ids = (list: number[]) => ({ input: { case: "inputIds", value: { ids: list } } }) as const;
    const given = idsOf(drawn);
    const continuations = [ids(given), ids(given.toReversed()), { input: { case: "text", value: " world" } } as const];
    const { scores } = await inference.score({ context, continuations, topLogprobs: 1 });
    assert.equal(scores.length, 3);
    const sum = logprobs.reduce((all, one) => all + one, 0);
    assert.ok(Math.abs(scores[0]!.logprob - sum) < 1e-3);
    assert.deepEqual([scores[0]?.isGreedy, scores[1]?.isGreedy], [true, false]);
    const tokenizer = loadTokenizer(base);
    const whole = tokenizer.encode("Hello world");
    assert.deepEqual(
      scores[2]?.tokens.map(({ id }) => id),
      whole.slice(tokenizer.encode("Hello").length),
    );
    const many = await inference.score({ context, continuations: given.flatMap((id) => Array(20).fill(ids([id]))) });
    assert.deepEqual(
      many.scores.map(({ tokens }) => tokens[0]?.id),
      given.flatMap((id) => Array(20).fill(id)),
    );
    const nothing = inference.score({ context: ids([1, 2]), continuations: [{}] });
    await assert.rejects(nothing, { code: "INVALID_ARGUMENT" });
    const outside = inference.score({ context: ids([1]), continuations: [ids([512])] });
    await assert.rejects(outside, { code: "INVALID_ARGUMENT", message: /0\.\.511/ });
  });

  test("a beginning that is there is told in the usage, and guesses change no token", async () => {
    const request = { input: { case: "prompt", value: "Hello hello hello hello, how are you today, you?" } as const };
    const repeating = { ...sampling, maxNewTokens: 30, repetitionPenalty: 0.1 };
    const first = await generate({ ...request, sampling: repeating });
    const again = await generate({ ...request, sampling: { ...repeating, promptLookupTokens: 8 } });
    assert.deepEqual(idsOf(again), idsOf(first));
    assert.ok(ends(again)[0]!.usage!.cachedPromptTokens > 0);
    const stats = await started.clients.inference.getServingStats({});
    assert.ok(stats.lookupTokensAcceptedTotal > 0n && stats.promptTokensCachedTotal > 0n && stats.kvPagesCached > 0n);
  });

  test("a constraint shapes the text, in a batch with free answers; a forced call is read as one", async () => {
    const { inference } = started.clients;
    const shaped = (form: NonNullable<MessageInitShape<typeof ConstraintSchema>["form"]>, more = {}) => ({
      ...{ maxNewTokens: 120, constraint: { form }, ...more },
    });
    const jsonSchema =
      '{"type":"object","properties":{"ok":{"type":"boolean"},"n":{"enum":[1,2]}},"required":["ok","n"]}';
    const [free, json, again] = await Promise.all([
      generate({ sampling }),
      generate({ sampling: shaped({ case: "jsonSchema", value: jsonSchema }) }),
      generate({ sampling: shaped({ case: "jsonSchema", value: jsonSchema }, { temperature: 2, n: 2 }) }),
    ]);
    const textOf = (messages: Message[], index = 0) =>
      messages.map(({ event, index: i }) => (event.case && i === index ? event.value.text : "")).join("");
    for (const text of [textOf(json), textOf(again, 0), textOf(again, 1)]) {
      assert.deepEqual(Object.keys(JSON.parse(text)), ["ok", "n"]);
    }
    assert.equal(ends(json)[0]?.finishReason, FinishReason.EOS);
    assert.deepEqual(idsOf(free), idsOf(await generate({ sampling })));
    const regex = '<tool_call>\\{"name": "add", "arguments": \\{"a": [12]\\}\\}</tool_call>';
    const messages = [{ role: Role.USER, content: "2+2?" }];
    const request = { messages, tools: [{ name: "add" }], sampling: shaped({ case: "regex", value: regex }) };
    const chat = await all(inference.chat(request));
    const [end] = ends(chat);
    assert.deepEqual([textOf(chat), end?.finishReason], ["", FinishReason.TOOL_CALLS]);
    assert.deepEqual([end?.toolCalls[0]?.name, end?.toolCalls.length], ["add", 1]);
    assert.match(end!.toolCalls[0]!.arguments, /^\{"a":[12]\}$/);
    const broken = generate({ sampling: shaped({ case: "regex", value: "(" }) });
    await assert.rejects(broken, { code: "INVALID_ARGUMENT", message: /regex/ });
  });

  test("the figures count what was done", async () => {
    const before = await started.clients.inference.getServingStats({});
    await generate({ sampling });
    const stats = await started.clients.inference.getServingStats({});
    assert.equal(stats.generationTokensTotal - before.generationTokensTotal, 12n);
    assert.deepEqual([stats.requestsRunning, stats.requestsWaiting, stats.kvPagesUsed], [0, 0, 0n]);
    const [base] = stats.adapters;
    assert.equal(base?.requestsTotal, (before.adapters[0]?.requestsTotal ?? 0n) + 1n);
  });
});
