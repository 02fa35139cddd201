import assert from "node:assert/strict";
import { rmSync } from "node:fs";
import { type TestContext, test } from "node:test";
import type { MessageInitShape } from "@bufbuild/protobuf";
import { ComputeDtype, QuantType } from "#gen/nibble/common/v1/common_pb.ts";
import {
  type ChatResponse,
  type Completion,
  FinishReason,
  type GenerateRequestSchema,
  type GenerateResponse,
  Role,
  type Token,
} from "#gen/nibble/inference/v1/generation_pb.ts";
import type { Connection } from "#packages/client";
import { loadTokenizer } from "#packages/data";
import { NibbleError } from "#packages/errors";
import { digestOfModel, openModelFolder } from "#packages/hub";
import { copyOfGolden, goldenPath, temporaryFolder } from "../../test/support/folders.ts";
import { adapterOfBase, adapterWithTokens, longModel } from "../../test/support/models.ts";
import { silent, startService, until } from "../../test/support/services.ts";
import { type Config, readConfig } from "./config.ts";
import { openInference } from "./setup.ts";

const base = goldenPath("llama_untied_nf4_dq");
const trained = goldenPath("train", "qlora_adapter");
const initial = goldenPath("train", "init_adapter");

async function start(t: TestContext, options: Partial<Config> = {}) {
  const config = {
    ...readConfig({}),
    dir: temporaryFolder(t),
    threads: 1,
    modelDir: base,
    registry: "127.0.0.1:1",
    ...options,
  };
  return startService(t, await openInference(config, { now: Date.now, logger: silent }));
}

interface Answer {
  ids: number[];
  text: string;
  tokens: Token[];
  completion: Completion;
}

async function collect(stream: AsyncIterable<GenerateResponse | ChatResponse>): Promise<Answer> {
  const tokens: Token[] = [];
  for await (const { event } of stream) {
    if (event.case === "token") tokens.push(event.value);
    if (event.case !== "completion") continue;
    const text = tokens.map((token) => token.text).join("") + event.value.text;
    return { ids: tokens.map(({ id }) => id), text, tokens, completion: event.value };
  }
  throw new Error("expected a completion, got none");
}

type Request = MessageInitShape<typeof GenerateRequestSchema>;
const ask = ({ inference }: Connection, request: Request) => collect(inference.generate(request));
const prompt = (value: string) => ({ input: { case: "prompt", value } as const });
const whole = { maxNewTokens: 24, ignoreEos: true };

async function loadAdapter({ inference }: Connection, adapterId: string, dir: string) {
  const { adapter } = await inference.loadAdapter({ adapterId, source: { case: "adapterDir", value: dir } });
  assert.ok(adapter);
  return adapter;
}

/** A stream that has begun and will not end by itself. */
async function begin(clients: Connection, adapter = "") {
  const stop = new AbortController();
  const sampling = { maxNewTokens: 1_000_000, ignoreEos: true };
  const stream = clients.inference.generate({ ...prompt("Hello"), sampling, adapter }, { signal: stop.signal });
  const iterator = stream[Symbol.asyncIterator]();
  await iterator.next();
  const rest = (async () => {
    while (!(await iterator.next()).done);
  })();
  rest.catch(() => {});
  return { stop: () => stop.abort(), rest };
}
const endless = (t: TestContext): Partial<Config> => ({ modelDir: longModel(t, 50_000), cacheTokensMax: 100_000 });

test("a loaded model says what it is", async (t) => {
  const { clients } = await start(t);
  const { model } = await clients.inference.getModel({});
  assert.ok(model);
  using folder = openModelFolder(base);
  assert.equal(model.digest, digestOfModel(folder));
  assert.equal(model.architecture, "LlamaForCausalLM");
  assert.equal(model.quantization?.type, QuantType.NF4);
  assert.equal(model.quantization?.doubleQuant, true);
  assert.deepEqual([model.contextLength, model.vocabSize, model.hasChatTemplate], [256, 512, true]);
  assert.ok(model.memory!.bytesByKind["weights"]! > 0n);
  await assert.rejects(clients.inference.getModel({ name: "models/other" }), { code: "NOT_FOUND" });
});

test("text comes with the tokens and adds up to what the tokens mean", async (t) => {
  const { clients } = await start(t);
  const answer = await ask(clients, { ...prompt("What is two and two?"), sampling: whole, returnLogprobs: true });
  assert.equal(answer.ids.length, 24);
  assert.equal(answer.text, loadTokenizer(base).decode(answer.ids));
  assert.equal(answer.completion.finishReason, FinishReason.LENGTH);
  const usage = answer.completion.usage!;
  const promptIds = loadTokenizer(base).encode("What is two and two?");
  assert.deepEqual([usage.promptTokens, usage.completionTokens], [promptIds.length, 24]);
  assert.ok(usage.prefillTokensPerSecond > 0 && usage.decodeTokensPerSecond > 0 && usage.queueSeconds >= 0);
  assert.ok(answer.tokens.every(({ logprob }) => logprob !== undefined && logprob <= 0));
  const byIds = await ask(clients, { input: { case: "inputIds", value: { ids: promptIds } }, sampling: whole });
  assert.deepEqual(byIds.ids, answer.ids);
  assert.ok(byIds.tokens.every(({ logprob }) => logprob === undefined));
});

test("logits are those of the last position, and greedy takes the largest", async (t) => {
  const { clients } = await start(t);
  const request = { ...prompt("Hello"), returnLogits: true };
  const { completion, ids } = await ask(clients, { ...request, sampling: { maxNewTokens: 3, ignoreEos: true } });
  assert.equal(completion.logits.length, 512);
  assert.equal(completion.logits.indexOf(Math.max(...completion.logits)), ids[2]);
});

test("the same seed gives the same tokens, another seed others", async (t) => {
  const { clients } = await start(t);
  const sampled = (seed: number) => ask(clients, { ...prompt("Hello"), sampling: { ...whole, temperature: 1, seed } });
  const [a, b, c] = await Promise.all([sampled(7), sampled(7), sampled(8)]);
  assert.deepEqual(a.ids, b.ids);
  assert.notDeepEqual(a.ids, c.ids);
});

test("a stop text ends the answer wherever the tokens split it", async (t) => {
  const { clients } = await start(t);
  const free = await ask(clients, { ...prompt("Hello"), sampling: whole });
  const text = free.text;
  assert.ok(text.length > 8);
  for (const [from, length] of [
    [2, 1],
    [3, 3],
    [4, 4],
  ] as const) {
    const stop = text.slice(from, from + length);
    const stopped = await ask(clients, { ...prompt("Hello"), sampling: { ...whole, stop: ["never there", stop] } });
    assert.equal(stopped.text, text.slice(0, text.indexOf(stop)));
    assert.equal(stopped.completion.finishReason, FinishReason.STOP);
    assert.ok(stopped.ids.length < free.ids.length);
    assert.equal(stopped.completion.usage?.completionTokens, stopped.ids.length);
  }
});

test("a conversation is written with the chat template", async (t) => {
  const { clients } = await start(t);
  const messages = [
    { role: Role.USER, content: "Who are you?" },
    { role: Role.ASSISTANT, content: "I." },
    { role: Role.USER, content: "Hm" },
  ];
  const chat = await collect(clients.inference.chat({ messages, sampling: whole }));
  const text = "<s>user: Who are you?</s>\n<s>assistant: I.</s>\n<s>user: Hm</s>\n<s>assistant: ";
  const ids = loadTokenizer(base).encode(text, { addSpecialTokens: false });
  const plain = await ask(clients, { input: { case: "inputIds", value: { ids } }, sampling: whole });
  assert.deepEqual(chat.ids, plain.ids);
});

test("answers over several adapters, computed together, are those of each alone", async (t) => {
  const { clients } = await start(t, { sequencesMax: 8 });
  const loaded = await loadAdapter(clients, "trained", trained);
  assert.deepEqual([loaded.rank, loaded.scaling, loaded.adapterDir], [8, 2, trained]);
  assert.ok(loaded.bytes > 0n && loaded.targetModules.includes("q_proj"));
  await loadAdapter(clients, "initial", initial);
  const names = ["", "loadedAdapters/trained", "loadedAdapters/initial"];
  const requests = ["Hello", "What is two and two?"].flatMap((text) =>
    names.map((adapter) => ({ ...prompt(text), adapter, sampling: whole })),
  );
  const alone: Answer[] = [];
  for (const request of requests) alone.push(await ask(clients, request));
  const together = await Promise.all(requests.map((request) => ask(clients, request)));
  assert.deepEqual(
    together.map(({ ids }) => ids),
    alone.map(({ ids }) => ids),
  );
  assert.notDeepEqual(alone[0]!.ids, alone[1]!.ids);
  const { adapters } = await clients.inference.listAdapters({ pageSize: 1 });
  assert.deepEqual(
    adapters.map(({ name }) => name),
    ["loadedAdapters/initial"],
  );
});

test("an adapter of another base is refused with both digests", async (t) => {
  const { clients } = await start(t);
  const digest = (await clients.inference.getModel({})).model!.digest;
  const other = `sha256:${"0".repeat(64)}`;
  const refused = { code: "FAILED_PRECONDITION", message: new RegExp(`${other}.*${digest}`) };
  await assert.rejects(loadAdapter(clients, "a", adapterOfBase(t, other)), refused);
  const expecting = (dir: string, expectedBaseDigest: string) =>
    clients.inference.loadAdapter({ adapterId: "a", source: { case: "adapterDir", value: dir }, expectedBaseDigest });
  await assert.rejects(expecting(adapterOfBase(t, digest), other), { code: "FAILED_PRECONDITION" });
  await assert.rejects(expecting(trained, digest), { code: "FAILED_PRECONDITION", message: /names no base/ });
  const { adapter } = await expecting(adapterOfBase(t, digest), digest);
  assert.equal(adapter?.baseDigest, digest);
});

test("an adapter's id stands for one content", async (t) => {
  const { clients } = await start(t);
  const first = await loadAdapter(clients, "a", trained);
  const both = await Promise.all([loadAdapter(clients, "a", trained), loadAdapter(clients, "b", trained)]);
  assert.deepEqual(both[0].loadTime, first.loadTime);
  await assert.rejects(loadAdapter(clients, "a", initial), { code: "ALREADY_EXISTS" });
  await assert.rejects(loadAdapter(clients, "A b", initial), { code: "INVALID_ARGUMENT" });
  await assert.rejects(loadAdapter(clients, "c", "/nowhere"), { code: "NOT_FOUND" });
  const gone = { adapterId: "d", source: { case: "registryName", value: "adapters/a/versions/1" } } as const;
  await assert.rejects(clients.inference.loadAdapter(gone), { code: "UNAVAILABLE" });
});

test("bad requests are refused before any work", async (t) => {
  const { clients } = await start(t);
  const unknown = ask(clients, { ...prompt("Hello"), adapter: "loadedAdapters/none" });
  await assert.rejects(unknown, { code: "NOT_FOUND", message: /loaded: none/ });
  await assert.rejects(ask(clients, { ...prompt("Hello"), adapter: "none" }), { code: "INVALID_ARGUMENT" });
  const outside = ask(clients, { input: { case: "inputIds", value: { ids: [1, 512] } } });
  await assert.rejects(outside, { code: "INVALID_ARGUMENT", message: /0\.\.511, got 512/ });
  const long = ask(clients, { input: { case: "inputIds", value: { ids: Array(256).fill(1) } } });
  await assert.rejects(long, { code: "INVALID_ARGUMENT", message: /fewer than 256 tokens, got 256/ });
  await assert.rejects(ask(clients, {}), { code: "INVALID_ARGUMENT" });
  const edge = await ask(clients, { input: { case: "inputIds", value: { ids: Array(255).fill(1) } }, sampling: whole });
  assert.deepEqual([edge.ids.length, edge.completion.finishReason], [1, FinishReason.LENGTH]);
});

test("work stops when the client goes away", async (t) => {
  const { clients } = await start(t, { ...endless(t), sequencesMax: 1, waitingMax: 4 });
  const first = await begin(clients);
  const next = ask(clients, { ...prompt("Hello"), sampling: { maxNewTokens: 2, ignoreEos: true } });
  first.stop();
  await assert.rejects(first.rest, { code: "CANCELLED" });
  // The only place is free again: the first answer would have taken minutes.
  assert.equal((await next).ids.length, 2);
});

test("a full queue refuses", async (t) => {
  const { clients } = await start(t, { ...endless(t), sequencesMax: 1, waitingMax: 1 });
  const running = await begin(clients);
  const more = [1, 2].map(() => ask(clients, { ...prompt("Hello"), sampling: { maxNewTokens: 1 } }));
  const refusal = Promise.any(
    more.map((answer) =>
      answer.then(
        () => Promise.reject(new Error()),
        (e) => e,
      ),
    ),
  );
  const error = await refusal;
  assert.ok(error instanceof NibbleError && error.code === "RESOURCE_EXHAUSTED", String(error));
  running.stop();
  const settled = await Promise.allSettled(more);
  assert.deepEqual(settled.map(({ status }) => status).sort(), ["fulfilled", "rejected"]);
});

test("a caller with one request does not wait for all of another's", async (t) => {
  const { clients } = await start(t, { ...endless(t), sequencesMax: 1 });
  const running = await begin(clients);
  /** Seconds until it was its turn. */
  const askAs = async (caller: string): Promise<number> => {
    const request = { ...prompt("Hello"), sampling: { maxNewTokens: 20, ignoreEos: true } };
    const metadata = { "x-nibble-caller": caller };
    return (await collect(clients.inference.generate(request, { metadata }))).completion.usage!.queueSeconds;
  };
  const many = Array.from({ length: 8 }, () => askAs("many"));
  await until(async () => (await clients.inference.getServingStats({})).requestsWaiting === 8);
  const one = askAs("one");
  await until(async () => (await clients.inference.getServingStats({})).requestsWaiting === 9);
  running.stop();
  const [waited, ...others] = await Promise.all([one, ...many]);
  // They came before, and all but one had their turn after it.
  assert.ok(others.filter((seconds) => seconds > waited).length >= 7, `${waited} ${others}`);
});

test("unloading an adapter waits for its requests, refuses new ones and frees its bytes", async (t) => {
  const { clients } = await start(t, endless(t));
  const { bytes, name } = await loadAdapter(clients, "a", trained);
  const running = await begin(clients, name);
  let isUnloaded = false;
  const unloading = clients.inference.unloadAdapter({ name }).then((response) => {
    isUnloaded = true;
    return response;
  });
  const refused = async () => {
    const answer = ask(clients, { ...prompt("Hello"), adapter: name, sampling: { maxNewTokens: 1 } });
    return answer.then(
      () => false,
      (error: NibbleError) => error.code === "NOT_FOUND",
    );
  };
  while (!(await refused()));
  assert.equal(isUnloaded, false);
  assert.equal((await ask(clients, { ...prompt("Hello"), sampling: { maxNewTokens: 1 } })).ids.length, 1);
  running.stop();
  assert.equal((await unloading).bytesFreed, bytes);
  await assert.rejects(clients.inference.unloadAdapter({ name }), { code: "NOT_FOUND" });
  await loadAdapter(clients, "a", initial);
});

test("a model is loaded, kept, and unloaded on request", async (t) => {
  const { clients } = await start(t, { modelDir: "" });
  const { inference } = clients;
  await assert.rejects(ask(clients, prompt("Hello")), { code: "FAILED_PRECONDITION" });
  await assert.rejects(loadAdapter(clients, "a", trained), { code: "FAILED_PRECONDITION" });
  await assert.rejects(inference.loadModel({ modelDir: "/nowhere" }), { code: "NOT_FOUND" });
  await assert.rejects(inference.loadModel({ modelDir: base, bits: 16 }), { code: "INVALID_ARGUMENT" });
  const wrong = { modelDir: base, expectedDigest: `sha256:${"0".repeat(64)}` };
  await assert.rejects(inference.loadModel(wrong), { code: "FAILED_PRECONDITION", message: /expected_digest/ });
  await assert.rejects(inference.getModel({}), { code: "NOT_FOUND" });
  const sixteen = { modelDir: goldenPath("llama_untied"), modelId: "m", bits: 4, computeDtype: ComputeDtype.BFLOAT16 };
  const [one, two] = await Promise.all([inference.loadModel(sixteen), inference.loadModel(sixteen)]);
  assert.deepEqual(one.model?.loadTime, two.model?.loadTime);
  assert.equal(one.model?.name, "models/m");
  assert.equal(one.model?.quantization?.type, QuantType.NF4);
  assert.equal(one.model?.computeDtype, ComputeDtype.BFLOAT16);
  await assert.rejects(inference.loadModel({ modelDir: base }), { code: "FAILED_PRECONDITION", message: /unload it/ });
  assert.equal((await ask(clients, { ...prompt("Hello"), sampling: whole })).ids.length, 24);
  const { bytesFreed } = await inference.unloadModel({ name: "models/m" });
  assert.equal(bytesFreed, one.model!.memory!.bytesTotal);
  await assert.rejects(inference.unloadModel({ name: "models/m" }), { code: "NOT_FOUND" });
  await inference.loadModel({ modelDir: base });
});

test("a model without a chat template answers prompts and refuses conversations", async (t) => {
  const folder = copyOfGolden(t, "llama_untied_nf4_dq");
  rmSync(`${folder}/chat_template.jinja`);
  const { clients } = await start(t, { modelDir: folder });
  const chat = collect(clients.inference.chat({ messages: [{ role: Role.USER, content: "Hi" }] }));
  await assert.rejects(chat, { code: "FAILED_PRECONDITION", message: /no chat template/ });
  assert.equal((await ask(clients, { ...prompt("Hi"), sampling: { maxNewTokens: 1 } })).ids.length, 1);
});

test("a stop lets short answers end and cancels long ones", async (t) => {
  const { clients, stop } = await start(t, endless(t));
  const running = await begin(clients);
  await Promise.all([stop(), assert.rejects(running.rest, { code: "UNAVAILABLE" })]);
});

test("the text of a token that an adapter added is read by the adapter's own tokenizer", async (t) => {
  const { clients } = await start(t, { modelDir: goldenPath("llama_untied") });
  const source = { case: "adapterDir" as const, value: adapterWithTokens(t) };
  await clients.inference.loadAdapter({ adapterId: "grown", source });
  const asked = async (adapter: string) => {
    const input = { case: "prompt" as const, value: "<three>" };
    const { completion } = await ask(clients, { input, adapter, sampling: { maxNewTokens: 1 } });
    return completion.usage?.promptTokens ?? 0;
  };
  assert.deepEqual([await asked("loadedAdapters/grown"), (await asked("")) > 4], [2, true]);
  const { inference } = clients;
  const input = { case: "prompt" as const, value: "<three>" };
  const counted = async (adapter: string) => (await inference.countTokens({ input, adapter })).tokens;
  assert.deepEqual([await counted("loadedAdapters/grown"), (await counted("")) > 4], [2, true]);
  const { ids, tokens } = await inference.tokenize({ input, adapter: "loadedAdapters/grown" });
  assert.deepEqual([ids.length, tokens.at(-1)], [2, "<three>"]);
  await assert.rejects(inference.tokenize({ input, adapter: "loadedAdapters/none" }), { code: "NOT_FOUND" });
  const text = { input: { case: "text" as const, value: "<three>" } };
  const scored = async (adapter: string) =>
    (await inference.score({ adapter, continuations: [text] })).scores[0]!.tokens;
  assert.deepEqual(
    [(await scored("loadedAdapters/grown")).map(({ id }) => id), (await scored("")).length > 3],
    [ids.slice(1), true],
  );
});
