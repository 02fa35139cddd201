// The official openai package against a gateway, unchanged: what it is told is its base URL.
import assert from "node:assert/strict";
import { describe, type TestContext, test } from "node:test";
import { fileURLToPath } from "node:url";
import OpenAI from "openai";
import { Role } from "#gen/nibble/inference/v1/generation_pb.ts";
import { connect } from "#packages/client";
import {
  type All,
  startAll,
  startGateway,
  startInference,
  startRegistry,
} from "../../services/gateway/test/support.ts";
import { longModel } from "../support/models.ts";
import { until } from "../support/services.ts";

const model = fileURLToPath(new URL("../../models/quickstart", import.meta.url));
const messages = [{ role: "user" as const, content: "Who is the ranger of Bramblewick?" }];
const greedy = { model: "base", temperature: 0, max_tokens: 8 };

async function all<T>(items: AsyncIterable<T>): Promise<T[]> {
  const found: T[] = [];
  for await (const item of items) found.push(item);
  return found;
}

function clientOf(url: string, apiKey = "none"): OpenAI {
  return new OpenAI({ baseURL: `${url}/v1`, apiKey, maxRetries: 0 });
}

async function started(t: TestContext, env: Record<string, string> = {}): Promise<All & { client: OpenAI }> {
  const all = await startAll(t, model, env);
  return { ...all, client: clientOf(all.url) };
}

describe("chat and completions", () => {
  test("whole, streamed and asked for by gRPC, an answer is the same", async (t) => {
    const { client, inference } = await started(t);
    const whole = await client.chat.completions.create({ ...greedy, messages });
    assert.deepEqual([whole.object, whole.model, whole.choices.length], ["chat.completion", "base", 1]);
    assert.deepEqual(whole.choices[0]?.finish_reason, "length");
    assert.deepEqual(whole.usage?.completion_tokens, 8);

    const stream = await client.chat.completions.create({
      ...greedy,
      messages,
      stream: true,
      stream_options: { include_usage: true },
    });
    const chunks = await all(stream);
    assert.deepEqual(chunks[0]?.choices[0]?.delta.role, "assistant");
    const text = chunks.map((chunk) => chunk.choices[0]?.delta.content ?? "").join("");
    assert.equal(text, whole.choices[0]?.message.content);
    const [end, usage] = chunks.slice(-2);
    assert.deepEqual([end?.choices[0]?.delta, end?.choices[0]?.finish_reason], [{}, "length"]);
    assert.deepEqual([usage?.choices, usage?.usage], [[], whole.usage]);

    using grpc = connect({ endpoints: { inference: inference.address } });
    const asked = {
      messages: [{ role: Role.USER, content: messages[0]?.content ?? "" }],
      sampling: { maxNewTokens: 8 },
    };
    let direct = "";
    for await (const { event } of grpc.inference.chat(asked)) direct += event.value?.text ?? "";
    assert.equal(direct, text);
  });

  test("several prompts, several answers to each, log-probabilities, a stop, a seed", async (t) => {
    const { client } = await started(t);
    const ask = { model: "base", prompt: ["Kurt Vale is", "The"], max_tokens: 6, n: 2, seed: 3, logprobs: 2 };
    const first = await client.completions.create(ask);
    const texts = first.choices.map((choice) => choice.text);
    assert.deepEqual(
      first.choices.map((choice) => choice.index),
      [0, 1, 2, 3],
    );
    for (const { text, logprobs } of first.choices) assert.equal(logprobs?.tokens?.join(""), text);
    assert.equal(first.usage?.completion_tokens, 24);
    const again = await client.completions.create({ ...ask, stream: true });
    const streamed = ["", "", "", ""];
    for await (const { choices } of again) for (const { index, text } of choices) streamed[index] += text;
    assert.deepEqual(streamed, texts);

    const stop = texts[0]?.split(" ").at(-1) ?? "";
    const stopped = await client.completions.create({ ...ask, n: 1, prompt: "Kurt Vale is", stop: [stop] });
    assert.deepEqual(
      [stopped.choices[0]?.finish_reason, texts[0]?.startsWith(stopped.choices[0]?.text ?? "?")],
      ["stop", true],
    );
    const chat = await client.chat.completions.create({ ...greedy, messages, logprobs: true, top_logprobs: 3 });
    const content = chat.choices[0]?.logprobs?.content ?? [];
    assert.deepEqual([content.length, content[0]?.top_logprobs.length], [8, 3]);
    assert.equal(content[0]?.top_logprobs[0]?.token, content[0]?.token);
  });

  test("errors are those that the package knows, and the parameter is named", async (t) => {
    const { client, url } = await started(t);
    const refused = async (work: Promise<unknown>) => {
      const error = await work.then(
        () => assert.fail("expected an error"),
        (thrown: unknown) => thrown,
      );
      assert.ok(error instanceof OpenAI.APIError, String(error));
      return [error.constructor.name, error.param, error.code];
    };
    const ask = (more: object) => client.chat.completions.create({ ...greedy, messages, ...more });
    assert.deepEqual(await refused(ask({ model: "nobody" })), ["NotFoundError", "model", "model_not_found"]);
    assert.deepEqual(await refused(ask({ model: "no one@?" })), ["NotFoundError", "model", "model_not_found"]);
    assert.deepEqual(await refused(ask({ temperatur: 1 })), ["BadRequestError", "temperatur", "unknown_parameter"]);
    assert.deepEqual(await refused(ask({ temperature: 3 })), ["BadRequestError", "temperature", "invalid_value"]);
    assert.deepEqual(await refused(ask({ logit_bias: { 1: 2 } })), [
      "BadRequestError",
      "logit_bias",
      "unsupported_parameter",
    ]);
    const image = [{ role: "user", content: [{ type: "image_url", image_url: { url: "x" } }] }];
    assert.deepEqual(await refused(ask({ messages: image })), [
      "BadRequestError",
      "messages[0].content[0].type",
      "invalid_value",
    ]);
    assert.deepEqual(await refused(client.completions.create({ model: "base", prompt: "" })), [
      "BadRequestError",
      "prompt",
      "invalid_value",
    ]);
    assert.deepEqual(await refused(ask({ stream: true, model: "nobody" })), [
      "NotFoundError",
      "model",
      "model_not_found",
    ]);
    // What only the inference service knows is named by the request's own parameter as well.
    const tools = [{ type: "function", function: { name: "add" } }];
    assert.deepEqual(await refused(ask({ tools })), ["BadRequestError", "tools", "unsupported_parameter"]);
    const long = [{ role: "user", content: "one ".repeat(300) }];
    const tooLong = (param: string) => ["BadRequestError", param, "context_length_exceeded"];
    assert.deepEqual(await refused(ask({ messages: long })), tooLong("messages"));
    assert.deepEqual(await refused(ask({ messages: long, stream: true })), tooLong("messages"));
    const complete = (prompt: string | number[], n = 1) => client.completions.create({ model: "base", prompt, n });
    assert.deepEqual(await refused(complete("one ".repeat(300), 2)), tooLong("prompt"));
    assert.deepEqual(await refused(complete([1_000_000])), ["BadRequestError", "prompt", "invalid_value"]);
    const call = { id: "a", type: "function", function: { name: "add", arguments: "{" } };
    const called = [...messages, { role: "assistant", content: null, tool_calls: [call] }];
    assert.deepEqual(await refused(ask({ messages: called })), [
      "BadRequestError",
      "messages[1].tool_calls[0].function.arguments",
      "invalid_value",
    ]);
    const schema = { name: "x", schema: { type: "nothing" } };
    const format = { response_format: { type: "json_schema", json_schema: schema } };
    assert.deepEqual(await refused(ask(format)), ["BadRequestError", "response_format", "invalid_value"]);
    assert.equal((await fetch(`${url}/v1/chat/completions`)).status, 405);
    assert.equal((await fetch(`${url}/v1/nothing`)).status, 404);
  });

  test("with keys, callers without one are refused; health and metrics stay open", async (t) => {
    const { url } = await started(t, { NIBBLE_GATEWAY_KEYS: "alice=secret-a,secret-b" });
    const list = (key: string) => clientOf(url, key).models.list();
    await assert.rejects(list("secret-c"), { status: 401, code: "invalid_api_key" });
    for (const key of ["secret-a", "secret-b"]) assert.equal((await list(key)).data[0]?.id, "base");
    for (const path of ["/healthz", "/readyz", "/metrics"]) assert.equal((await fetch(url + path)).status, 200);
  });

  test("without a model the gateway is alive and not ready", async (t) => {
    const registry = await startRegistry(t);
    const inference = await startInference(t, registry.address, "");
    const { url } = await startGateway(t, { NIBBLE_INFERENCE_ENDPOINT: inference.address });
    assert.equal((await fetch(`${url}/healthz`)).status, 200);
    assert.equal((await fetch(`${url}/readyz`)).status, 503);
    assert.match(await (await fetch(`${url}/metrics`)).text(), /^nibble_inference_up 0$/m);
    const asked = clientOf(url).chat.completions.create({ ...greedy, messages });
    await assert.rejects(asked, { status: 503, code: "service_unavailable" });
  });

  test("a full queue is a 429 that says when to come back, and who leaves makes room", async (t) => {
    const registry = await startRegistry(t);
    const limits = { NIBBLE_INFERENCE_SEQUENCES_MAX: "1", NIBBLE_INFERENCE_WAITING_MAX: "1" };
    const inference = await startInference(t, registry.address, longModel(t, 1 << 14), {
      ...limits,
      NIBBLE_INFERENCE_CACHE_TOKENS_MAX: String(1 << 15),
    });
    const { url } = await startGateway(t, {
      NIBBLE_INFERENCE_ENDPOINT: inference.address,
      NIBBLE_REGISTRY_ENDPOINT: registry.address,
    });
    using grpc = connect({ endpoints: { inference: inference.address } });
    const load = async () => {
      const { requestsRunning, requestsWaiting } = await grpc.inference.getServingStats({});
      return [requestsRunning, requestsWaiting];
    };
    const client = clientOf(url);
    const abort = new AbortController();
    const long = { model: "base", prompt: "one", max_tokens: 16_000, ignore_eos: true };
    const ask = () => client.completions.create(long, { signal: abort.signal });
    const asked = [ask(), ask()];
    const settled = Promise.allSettled(asked);
    await until(async () => (await load()).join() === "1,1");
    const refused = await client.completions.create(long).then(
      () => assert.fail("expected an error"),
      (thrown: unknown) => thrown,
    );
    assert.ok(refused instanceof OpenAI.RateLimitError);
    assert.deepEqual([refused.code, refused.headers.get("retry-after")], ["rate_limit_exceeded", "1"]);
    abort.abort();
    await settled;
    await until(async () => (await load()).join() === "0,0");
  });
});

describe("fine-tuning", () => {
  const row = (question: string, answer: string) =>
    JSON.stringify({
      messages: [
        { role: "user", content: question },
        { role: "assistant", content: answer },
      ],
    });
  const rows = (count: number) =>
    new File([`${row("Who is X?", "Y Z")}\n`.repeat(count)], "rows.jsonl", { type: "application/jsonl" });

  test("a file becomes a job, its adapter a model that answers by version, alias and name", async (t) => {
    const { client, registry } = await started(t);
    const file = await client.files.create({ file: rows(8), purpose: "fine-tune" });
    assert.deepEqual(
      [file.filename, file.status, (await client.files.list()).data.length],
      ["rows.jsonl", "processed", 1],
    );
    assert.match(await (await client.files.content(file.id)).text(), /^\{"messages"/);
    const job = await client.fineTuning.jobs.create({
      model: "base",
      training_file: file.id,
      suffix: "My Bot",
      seed: 1,
      method: {
        type: "supervised",
        supervised: { hyperparameters: { n_epochs: 20, batch_size: 4, learning_rate_multiplier: 10 } },
      },
    });
    assert.deepEqual([job.training_file, job.hyperparameters.n_epochs], [file.id, 20]);
    await until(async () => (await client.fineTuning.jobs.retrieve(job.id)).finished_at !== null);
    const done = await client.fineTuning.jobs.retrieve(job.id);
    assert.deepEqual([done.status, done.fine_tuned_model, done.error], ["succeeded", "my-bot@1", null]);

    const newest = await client.fineTuning.jobs.listEvents(job.id, { limit: 2 });
    assert.deepEqual([newest.data[0]?.message, newest.data.length], ["The job has succeeded", 2]);
    const said = await all(client.fineTuning.jobs.listEvents(job.id, { limit: 7 }));
    const sequences = said.map(({ id }) => Number(id.split("-").at(-1)));
    assert.deepEqual(
      sequences,
      Array.from(sequences, (_, i) => sequences.length - i),
    );
    assert.equal(said.filter(({ type }) => type === "metrics").length, 40);
    // Two steps an epoch, one checkpoint in two of the 20 epochs; each answers as a model.
    const checkpoints = await all(client.fineTuning.jobs.checkpoints.list(job.id, { limit: 3 }));
    assert.deepEqual(
      checkpoints.map((one) => [one.step_number, one.fine_tuned_model_checkpoint]),
      [[40, "my-bot@1"], ...[36, 32, 28, 24, 20, 16, 12, 8, 4].map((step) => [step, `${job.id}-ckpt:step-${step}`])],
    );
    const losses = checkpoints.map(({ metrics }) => metrics.train_loss ?? Number.NaN);
    assert.ok(losses.at(0)! < losses.at(-1)!);
    for (const { fine_tuned_model_checkpoint } of checkpoints.slice(-2)) {
      const ask = { ...greedy, model: fine_tuned_model_checkpoint, messages };
      assert.match((await client.chat.completions.create(ask)).model, /-ckpt@[12]$/);
    }
    assert.deepEqual((await client.fineTuning.jobs.list()).data[0]?.id, job.id);

    using grpc = connect({ endpoints: { registry: registry.address } });
    await grpc.registry.setAlias({ name: "adapters/my-bot/aliases/live", version: "adapters/my-bot/versions/1" });
    for (const name of ["my-bot@1", "my-bot", "my-bot:live", "my-bot@live"]) {
      const ask = { ...greedy, model: name, messages: [{ role: "user" as const, content: "Who is X?" }] };
      const { model: by, choices } = await client.chat.completions.create(ask);
      assert.deepEqual([by, choices[0]?.message.content], ["my-bot@1", " Y Z"], name);
    }
    const ids = (await client.models.list()).data.map(({ id }) => id);
    assert.deepEqual(ids, ["base", "my-bot", "my-bot:live"]);
    assert.equal((await client.models.retrieve("my-bot@1")).id, "my-bot@1");
    await assert.rejects(client.models.retrieve("my-bot@2"), { status: 404 });
    assert.equal((await client.files.delete(file.id)).deleted, true);
    await assert.rejects(client.files.retrieve(file.id), { status: 404 });
  });

  test("a job is cancelled; bad files, names and parameters are refused and leave nothing", async (t) => {
    const { client, url } = await started(t);
    const file = await client.files.create({ file: rows(64), purpose: "fine-tune" });
    const create = (more: object) => client.fineTuning.jobs.create({ model: "base", training_file: file.id, ...more });
    const job = await create({ hyperparameters: { n_epochs: 1000 } });
    const followed = fetch(`${url}/v1/fine_tuning/jobs/${job.id}/events?stream=true`).then((answer) => answer.text());
    await until(async () => (await client.fineTuning.jobs.retrieve(job.id)).status === "running");
    await client.fineTuning.jobs.cancel(job.id);
    await until(async () => (await client.fineTuning.jobs.retrieve(job.id)).status === "cancelled");
    assert.match(await followed, /The job was cancelled.*\n\ndata: \[DONE\]\n\n$/);
    assert.deepEqual((await client.fineTuning.jobs.checkpoints.list(job.id)).data, []);
    assert.deepEqual((await client.fineTuning.jobs.checkpoints.list(job.id)).data, []);

    await assert.rejects(create({ model: "gpt" }), { status: 400, param: "model" });
    await assert.rejects(create({ training_file: "file-none" }), { status: 400, param: "training_file" });
    await assert.rejects(create({ n_epochs: 3 }), { status: 400, param: "n_epochs" });
    await assert.rejects(client.fineTuning.jobs.retrieve("ftjob-none"), { status: 404 });
    const upload = (text: string, purpose = "fine-tune") =>
      client.files.create({ file: new File([text], "f.jsonl"), purpose: purpose as "fine-tune" });
    await assert.rejects(upload('{"a":1}\n{"b":'), /line 2/);
    await assert.rejects(upload("\n"), { status: 400, param: "file" });
    await assert.rejects(upload("{}", "vision"), { status: 400, param: "purpose" });
    assert.equal((await client.files.list()).data.length, 1);
  });
});
