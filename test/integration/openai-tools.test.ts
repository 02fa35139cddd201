// Tools through the gateway with the official openai package: an adapter that learned to call one, calls that the caller
// insists on, and what else a request may ask of an answer's form.
import assert from "node:assert/strict";
import { describe, type TestContext, test } from "node:test";
import OpenAI from "openai";
import { startAll } from "../../services/gateway/test/support.ts";
import { modelWithTools } from "../support/models.ts";
import { until } from "../support/services.ts";

const add = {
  type: "function" as const,
  function: {
    name: "add",
    description: "Adds two numbers.",
    parameters: {
      type: "object",
      properties: { a: { $ref: "#/$defs/small" }, b: { $ref: "#/$defs/small" } },
      required: ["a", "b"],
      $defs: { small: { type: "integer", minimum: 0, maximum: 9 } },
    },
  },
};
const pet = { type: "function" as const, function: { name: "pet", parameters: { type: "object", properties: {} } } };
const question = { role: "user" as const, content: "What is 2 and 2?" };
const call = { id: "call_1", type: "function" as const, function: { name: "add", arguments: '{"a": 2, "b": 2}' } };
const called = { role: "assistant" as const, content: null, tool_calls: [call] };
const result = { role: "tool" as const, tool_call_id: "call_1", content: "4" };

async function started(t: TestContext): Promise<OpenAI> {
  const { url } = await startAll(t, modelWithTools(t));
  return new OpenAI({ baseURL: `${url}/v1`, apiKey: "none", maxRetries: 0 });
}

describe("tools", () => {
  test("an adapter trained on calls makes them, whole and streamed, and answers with what the tool said", async (t) => {
    const client = await started(t);
    const said = { role: "assistant" as const, content: "It is 4." };
    const rows = [
      { tools: [add], messages: [question, called] },
      { tools: [add], messages: [question, called, result, said] },
    ];
    const text = rows.map((row) => `${JSON.stringify(row)}\n`).join("");
    const file = await client.files.create({ file: new File([text], "calls.jsonl"), purpose: "fine-tune" });
    const job = await client.fineTuning.jobs.create({
      model: "base",
      training_file: file.id,
      suffix: "caller",
      seed: 1,
      hyperparameters: { n_epochs: 60, batch_size: 2, learning_rate_multiplier: 10 },
    });
    await until(async () => (await client.fineTuning.jobs.retrieve(job.id)).finished_at !== null);
    const ask = { model: "caller", tools: [add], temperature: 0, max_tokens: 60 };

    const first = await client.chat.completions.create({ ...ask, messages: [question] });
    const [choice] = first.choices;
    const [made] = choice?.message.tool_calls ?? [];
    assert.ok(made?.type === "function", JSON.stringify(first));
    assert.deepEqual(
      [choice?.finish_reason, choice?.message.content?.trim(), made.function.name],
      ["tool_calls", "", "add"],
    );
    assert.deepEqual(JSON.parse(made.function.arguments), { a: 2, b: 2 });

    // What the package itself puts together of the stream's deltas.
    const stream = client.chat.completions.stream({ ...ask, messages: [question] });
    const streamed = (await stream.finalChatCompletion()).choices[0];
    const [again] = streamed?.message.tool_calls ?? [];
    assert.ok(again?.type === "function");
    assert.equal(streamed?.finish_reason, "tool_calls");
    assert.deepEqual([again.function.name, again.function.arguments], ["add", made.function.arguments]);

    const back = { role: "tool" as const, tool_call_id: made.id, content: "4" };
    const messages = [question, { role: "assistant" as const, content: null, tool_calls: [made] }, back];
    const second = await client.chat.completions.create({ ...ask, messages });
    assert.deepEqual([second.choices[0]?.message.content, second.choices[0]?.finish_reason], [" It is 4.", "stop"]);
  });

  test("a call can be insisted on, of any tool or a certain one; what cannot be is refused by name", async (t) => {
    const client = await started(t);
    const ask = { model: "base", messages: [question], tools: [add, pet], seed: 1 };
    for (let seed = 0; seed < 3; seed++) {
      const required = await client.chat.completions.create({ ...ask, seed, tool_choice: "required" });
      const [made] = required.choices[0]?.message.tool_calls ?? [];
      assert.ok(made?.type === "function" && ["add", "pet"].includes(made.function.name), JSON.stringify(required));
    }
    const named = { type: "function" as const, function: { name: "add" } };
    const { choices } = await client.chat.completions.create({ ...ask, tool_choice: named });
    const [made] = choices[0]?.message.tool_calls ?? [];
    assert.ok(made?.type === "function" && made.function.name === "add");
    const { a, b } = JSON.parse(made.function.arguments) as { a: number; b: number };
    for (const number of [a, b]) assert.ok(Number.isInteger(number) && number >= 0 && number <= 9);
    const none = await client.chat.completions.create({ ...ask, tool_choice: "none", max_tokens: 4 });
    assert.equal(none.choices[0]?.message.tool_calls, undefined);

    const refused = async (more: object, param: string) =>
      assert.rejects(client.chat.completions.create({ ...ask, ...more }), { status: 400, param });
    await refused({ tool_choice: { type: "function", function: { name: "sub" } } }, "tool_choice");
    await refused({ tool_choice: "required", tools: [] }, "tool_choice");
    await refused({ tool_choice: "required", response_format: { type: "json_object" } }, "tool_choice");
    await refused({ tool_choice: { type: "custom" } }, "tool_choice");
    await refused({ tools: [{ type: "function", function: {} }] }, "tools[0].function.name");
  });
});

test("requests at a time, each of another form, get what each gets alone", async (t) => {
  const client = await started(t);
  const schema = {
    type: "object",
    properties: { n: { enum: ["one", "two"] }, ok: { type: "boolean" } },
    required: ["n"],
  };
  const shaped = { type: "json_schema" as const, json_schema: { name: "n", strict: true, schema } };
  const base = { model: "base", messages: [question], max_tokens: 24, temperature: 1 };
  const forms = [
    { ...base, seed: 1 },
    { ...base, seed: 2, n: 3, logprobs: true, top_logprobs: 2 },
    { ...base, seed: 3, response_format: shaped },
    { ...base, seed: 4, stop: [" a", "."] },
    { ...base, seed: 5, tools: [add], tool_choice: "required" as const, max_tokens: 60 },
    { ...base, seed: 6, frequency_penalty: 1, presence_penalty: 0.5 },
  ];
  const ask = async (form: (typeof forms)[number]) => {
    const { choices, usage } = await client.chat.completions.create(form);
    const answers = choices.map(({ message, logprobs, finish_reason }) => ({
      content: message.content,
      calls: message.tool_calls?.map((one) => one.type === "function" && one.function),
      logprobs: logprobs?.content?.map(({ token, top_logprobs }) => [token, top_logprobs.length]),
      finish_reason,
    }));
    return { answers, tokens: usage?.completion_tokens };
  };
  const together = await Promise.all(forms.map(ask));
  const alone: unknown[] = [];
  for (const form of forms) alone.push(await ask(form));
  assert.deepEqual(together, alone);
  assert.match((JSON.parse(together[2]?.answers[0]?.content ?? "") as { n: string }).n, /^(one|two)$/);
  assert.deepEqual(together[1]?.answers.length, 3);
  // Streamed, n answers come in pieces of each; the last chunk counts all of them.
  const stream = await client.chat.completions.create({
    ...forms[1]!,
    stream: true,
    stream_options: { include_usage: true },
  });
  const texts = ["", "", ""];
  let tokens: number | undefined;
  for await (const { choices, usage } of stream) {
    for (const { index, delta } of choices) texts[index] += delta.content ?? "";
    tokens = usage?.completion_tokens;
  }
  assert.deepEqual([texts, tokens], [together[1]?.answers.map(({ content }) => content), together[1]?.tokens]);
});
