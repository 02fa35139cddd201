// A conversation that is trained and one that is served are the same to the chat template, tools and their calls included.
import assert from "node:assert/strict";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { create } from "@bufbuild/protobuf";
import { ChatRequestSchema, Role } from "#gen/nibble/inference/v1/generation_pb.ts";
import { readDataset } from "#packages/data";
import { temporaryFolder } from "../../test/support/folders.ts";
import { decodeMessages, decodeTools } from "./encode.ts";

const parameters = { type: "object", properties: { city: { type: "string" } } };
const row = {
  messages: [
    { role: "system", content: "Be brief." },
    { role: "user", content: [{ type: "text", text: "Warm?" }] },
    {
      role: "assistant",
      content: null,
      tool_calls: [
        { id: "c1", type: "function", function: { name: "weather", arguments: '{"city": "Rome", "days": 2}' } },
        { id: "c2", type: "function", function: { name: "now", arguments: "" } },
      ],
    },
    { role: "tool", content: "21", tool_call_id: "c1", name: "weather" },
    { role: "assistant", content: "Yes." },
  ],
  tools: [
    { type: "function", function: { name: "weather", description: "Degrees", parameters } },
    { type: "function", function: { name: "now" } },
  ],
};
const served = create(ChatRequestSchema, {
  messages: [
    { role: Role.SYSTEM, content: "Be brief." },
    { role: Role.USER, content: "Warm?" },
    {
      role: Role.ASSISTANT,
      toolCalls: [
        { id: "c1", name: "weather", arguments: '{"city": "Rome", "days": 2}' },
        { id: "c2", name: "now" },
      ],
    },
    { role: Role.TOOL, content: "21", toolCallId: "c1", name: "weather" },
    { role: Role.ASSISTANT, content: "Yes." },
  ],
  tools: [{ name: "weather", description: "Degrees", parameters: JSON.stringify(parameters) }, { name: "now" }],
});

test("a row's messages and tools are those of a request, key for key", async (t) => {
  const file = join(temporaryFolder(t), "rows.jsonl");
  writeFileSync(file, JSON.stringify(row));
  const trained = (await readDataset(file))[0]?.row;
  assert.ok(trained?.kind === "messages");
  // As text: templates print tools as JSON, so the order of keys counts.
  assert.equal(JSON.stringify(trained.tools), JSON.stringify(decodeTools(served.tools)));
  assert.equal(JSON.stringify(trained.messages), JSON.stringify(decodeMessages(served.messages)));
});
