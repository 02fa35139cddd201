import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { ToolCallReader } from "./tool-calls.ts";

function read(pieces: readonly string[]) {
  const reader = new ToolCallReader();
  const shown = pieces.map((piece) => reader.push(piece));
  const text = shown.join("") + reader.finish();
  return { shown, text, calls: reader.calls.map((call) => [call.name, JSON.parse(call.arguments)]) };
}

const call = '<tool_call>\n{"name": "add", "arguments": {"a": 1, "b": "<x>"}}\n</tool_call>';

test("a call is taken out of the text, and text before it comes at once", () => {
  const { shown, text, calls } = read(["Let me ", "see. <tool", call.slice(5), " Done"]);
  assert.deepEqual(shown.slice(0, 2), ["Let me ", "see. "]);
  assert.equal(text, "Let me see.  Done");
  assert.deepEqual(calls, [["add", { a: 1, b: "<x>" }]]);
});

test("several calls, and an answer that is one JSON object", () => {
  assert.deepEqual(read([call + call]).calls.length, 2);
  assert.deepEqual(read([' {"name":"f",', '"parameters":{}}']), {
    shown: ["", ""],
    text: "",
    calls: [["f", {}]],
  });
});

test("what is no call is text, to the letter", () => {
  const texts = [
    "<tool_call>not json</tool_call> x",
    '{"a": 1}',
    "{ open",
    "a <tool_call",
    "<tool_call>{",
    "",
    "  ",
    "a{}",
  ];
  for (const text of texts) assert.deepEqual([read([text]).text, read([text]).calls], [text, []]);
});

test("it does not matter how the text is split", () => {
  const part = fc.constantFrom(call, "<tool_call>", "</tool_call>", "{", "}", " a", "<");
  fc.assert(
    fc.property(fc.array(part, { maxLength: 6 }), fc.nat(), (parts, seed) => {
      const whole = parts.join("");
      const pieces: string[] = [];
      for (let at = 0, step = seed; at < whole.length; step = (step * 31 + 7) % 1009) {
        const next = at + 1 + (step % 9);
        pieces.push(whole.slice(at, next));
        at = next;
      }
      const { text, calls } = read(pieces);
      assert.deepEqual({ text, calls }, { text: read([whole]).text, calls: read([whole]).calls });
    }),
  );
});
