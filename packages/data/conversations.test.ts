import assert from "node:assert/strict";
import { test } from "node:test";
import { readMessages, readShareGpt } from "./conversations.ts";

const place = { file: "rows.jsonl", line: 7 };
const read = (messages: unknown, tools?: unknown) => readMessages({ messages, tools }, place);
const user = { role: "user", content: "Is it warm?" };
const call = { id: "c1", type: "function", function: { name: "weather", arguments: '{"city": "Rome"}' } };
const calling = { role: "assistant", content: null, tool_calls: [call] };

test("content is a text or parts of text, one after the other", () => {
  const parts = [
    { type: "text", text: "Is it " },
    { type: "text", text: "warm?" },
  ];
  assert.deepEqual(read([{ role: "user", content: parts }]).messages, [user]);
  assert.deepEqual(read([{ role: "user", content: [] }]).messages, [{ role: "user", content: "" }]);
  const turns = [{ from: "human", value: parts }];
  assert.deepEqual(readShareGpt({ conversations: turns, system: "S" }, place).messages, [
    { role: "system", content: "S" },
    user,
  ]);
});

test("calls of tools become what templates know: arguments as an object, null and missing keys the same", () => {
  const parsed = { id: "c1", type: "function", function: { name: "weather", arguments: { city: "Rome" } } };
  const asked = { role: "assistant", content: "", tool_calls: [parsed] };
  const bare = { function: { name: "now", arguments: "" } };
  const now = { type: "function", function: { name: "now", arguments: {} } };
  assert.deepEqual(read([user, calling]).messages, [user, asked]);
  assert.deepEqual(read([{ role: "assistant", content: "So", tool_calls: [parsed, bare], name: null }]).messages, [
    { role: "assistant", content: "So", tool_calls: [parsed, now] },
  ]);
  assert.deepEqual(read([{ ...user, tool_calls: null, tool_call_id: null, weight: null }]).messages, [user]);
  assert.deepEqual(read([{ ...user, tool_calls: [] }]).messages, [user]);
  const answer = { role: "tool", content: "21", tool_call_id: "c1", name: "weather" };
  assert.deepEqual(read([answer]).messages, [answer]);
  assert.deepEqual(read([{ ...calling, weight: 0 }]).messages, [{ ...asked, untrained: true }]);
});

test("tools are a list or its JSON text, in the form that serving gives them", () => {
  const parameters = { type: "object", properties: { city: { type: "string" } } };
  const weather = { type: "function", function: { name: "weather", description: "How warm it is", parameters } };
  const served = {
    type: "function",
    function: { name: "now", description: "", parameters: { type: "object", properties: {} } },
  };
  const tools = [
    { type: "function", function: { ...weather.function, strict: true } },
    { type: "function", function: { name: "now", description: null } },
  ];
  assert.deepEqual(read([user], tools).tools, [weather, served]);
  assert.deepEqual(read([user], JSON.stringify(tools)).tools, [weather, served]);
  for (const none of [undefined, null, "", []]) assert.deepEqual(read([user], none).tools, []);
});

test("what no template would see is refused by its path", () => {
  const refused = (messages: unknown, expected: RegExp, tools?: unknown) =>
    assert.throws(
      () => read(messages, tools),
      (error: Error) => {
        assert.match(error.message, /^\[dataset\] rows\.jsonl:7: /);
        assert.match(error.message, expected);
        return true;
      },
    );
  const image = { type: "image_url", image_url: { url: "data:," } };
  refused(
    [{ role: "user", content: [{ type: "text", text: "a" }, image] }],
    /messages\[0\]\.content\[1\]: expected a part .*got one of type "image_url"/,
  );
  refused([{ role: "user", content: [{ type: "text", text: 3 }] }], /content\[0\]: .*got \{"type":"text","text":3\}/);
  refused([{ role: "user", content: 3 }], /content: expected a string or a list of parts, got 3/);
  refused([user, { role: "assistant", content: null }], /messages\[1\]: expected \{role, content\}/);
  refused([{ ...user, tool_calls: [call] }], /messages\[0\]\.tool_calls: expected them of an assistant, got "user"/);
  refused([{ ...user, name: "Ann" }], /messages\[0\]\.name: expected a string, of a tool's message, got "Ann"/);
  refused([{ ...user, thinking: "hm" }], /messages\[0\]: unknown key "thinking"/);
  const withCall = (changed: object) => [{ ...calling, tool_calls: [{ ...call, ...changed }] }];
  refused(withCall({ type: "custom" }), /tool_calls\[0\]: expected \{"type": "function"/);
  refused(
    withCall({ function: { name: "f", arguments: "{" } }),
    /tool_calls\[0\]\.function\.arguments: expected JSON, got "\{"/,
  );
  refused(withCall({ function: { name: "f", arguments: "[1]" } }), /arguments: expected an object, got "\[1\]"/);
  refused(withCall({ result: 3 }), /tool_calls\[0\]: unknown key "result"/);
  refused([user], /tools: expected a list, got "\{\}"/, "{}");
  refused([user], /tools\[0\]: expected \{"type": "function"/, [{ name: "weather" }]);
});
