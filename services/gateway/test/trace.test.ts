// One request is one trace: from the caller's traceparent through the gateway's span to the inference service's.
import assert from "node:assert/strict";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { recordSpans } from "../../../test/support/spans.ts";
import { startAll } from "./support.ts";

const model = fileURLToPath(new URL("../../../models/quickstart", import.meta.url));
const traceId = "0af7651916cd43dd8448eb211c80319c";

test("a caller's trace goes on through the gateway to the inference service, streamed or not", async (t) => {
  const spans = await recordSpans(t);
  const { url } = await startAll(t, model);
  const messages = [{ role: "user", content: "x" }];
  for (const stream of [false, true]) {
    spans.length = 0;
    const answer = await fetch(`${url}/v1/chat/completions`, {
      method: "POST",
      headers: { traceparent: `00-${traceId}-b7ad6b7169203331-01` },
      body: JSON.stringify({ model: "base", messages, max_tokens: 3, stream }),
    });
    await answer.text();
    while (!spans.some(({ name }) => name.startsWith("POST "))) await new Promise(setImmediate);
    const mine = spans.filter((span) => span.spanContext().traceId === traceId);
    const http = mine.find(({ name }) => name === "POST /v1/chat/completions");
    assert.equal(http?.attributes["http.response.status_code"], 200);
    const chat = mine.filter(({ name }) => name === "nibble.inference.v1.InferenceService/Chat");
    // SpanKind: 1 is SERVER, 2 is CLIENT.
    const [served, called] = [chat.find(({ kind }) => kind === 1), chat.find(({ kind }) => kind === 2)];
    assert.equal(called?.parentSpanContext?.spanId, http?.spanContext().spanId, `stream ${stream}`);
    assert.equal(served?.parentSpanContext?.spanId, called?.spanContext().spanId);
  }
});
