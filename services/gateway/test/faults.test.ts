// What goes wrong around a gateway: services that die, callers that leave, stall or send anything at all.
import assert from "node:assert/strict";
import { once } from "node:events";
import { readdirSync } from "node:fs";
import { connect as dial, type Socket } from "node:net";
import { join } from "node:path";
import { describe, type TestContext, test } from "node:test";
import { fileURLToPath } from "node:url";
import fc from "fast-check";
import { connect, uploadAdapter } from "#packages/client";
import { temporaryFolder } from "../../../test/support/folders.ts";
import { adapterOfBase, longModel } from "../../../test/support/models.ts";
import { until } from "../../../test/support/services.ts";
import { type All, startAll, startGateway } from "./support.ts";

const quickstart = fileURLToPath(new URL("../../../models/quickstart", import.meta.url));

interface Reply {
  status: number;
  body: { model?: string; error?: { message: string; type: string; param: string | null; code: string | null } };
}

async function post(url: string, path: string, body: unknown): Promise<Reply> {
  const answer = await fetch(url + path, {
    method: "POST",
    body: typeof body === "string" ? body : JSON.stringify(body),
  });
  return { status: answer.status, body: (await answer.json()) as Reply["body"] };
}

const short = { prompt: "one", max_tokens: 2, temperature: 0 };

/** A gateway whose registry has two versions of an adapter for the base that is served. */
async function withAdapters(t: TestContext, env: Record<string, string> = {}): Promise<All> {
  const all = await startAll(t, longModel(t, 4096), { NIBBLE_GATEWAY_ALIAS_MS: "0", ...env });
  using clients = connect({ endpoints: { inference: all.inference.address, registry: all.registry.address } });
  const { model } = await clients.inference.getModel({ name: "" });
  const dir = adapterOfBase(t, model?.digest ?? "");
  for (let i = 0; i < 2; i++) await uploadAdapter(clients.registry, dir, { adapterId: "bot" });
  return all;
}

test("figures are by the name that callers know, and by no more names than are allowed", async (t) => {
  const { url } = await withAdapters(t, { NIBBLE_GATEWAY_METRICS_MODELS_MAX: "2" });
  for (const model of ["base", "bot@1", "bot", "bot@2", "bot@3", "nobody"]) {
    await post(url, "/v1/completions", { ...short, model });
  }
  const text = await (await fetch(`${url}/metrics`)).text();
  const figuresOf = (name: string, label: string) =>
    [...text.matchAll(new RegExp(`^${name}{(.*)} (\\d+)$`, "gm"))]
      .map(([, labels = "", value]) => [new RegExp(`${label}="([^"]*)"`).exec(labels)?.[1], Number(value)])
      .toSorted();
  assert.deepEqual(figuresOf("nibble_adapter_requests_total", "adapter"), [
    ["", 1],
    ["bot@1", 1],
    ["bot@2", 2],
  ]);
  // The base has its name here too.
  assert.deepEqual(figuresOf("nibble_request_success_total", "gen_ai_request_model"), [
    ["base", 1],
    ["bot@1", 1],
    ["other", 2],
  ]);
  assert.doesNotMatch(text, /bot@3|nobody/);
});

describe("services that die", () => {
  test("without the registry what is loaded is served, by every name it was asked for; the rest is 503", async (t) => {
    const { url, registry } = await withAdapters(t);
    const ask = (model: string) => post(url, "/v1/completions", { ...short, model });
    assert.deepEqual((await ask("bot")).body.model, "bot@2");
    await registry.stop();
    assert.deepEqual((await ask("bot")).body.model, "bot@2");
    assert.deepEqual((await ask("bot@2")).body.model, "bot@2");
    assert.equal((await ask("base")).status, 200);
    const refused = await ask("bot@1");
    assert.deepEqual([refused.status, refused.body.error?.type], [503, "server_error"]);
  });

  test("an alias that moves is followed; an adapter of another base fails alone", async (t) => {
    const { url, registry } = await withAdapters(t);
    using clients = connect({ endpoints: { registry: registry.address } });
    const point = (version: number) =>
      clients.registry.setAlias({ name: "adapters/bot/aliases/live", version: `adapters/bot/versions/${version}` });
    const ask = (model: string) => post(url, "/v1/completions", { ...short, model });
    await point(1);
    assert.equal((await ask("bot:live")).body.model, "bot@1");
    await point(2);
    assert.equal((await ask("bot:live")).body.model, "bot@2");
    const other = adapterOfBase(t, `sha256:${"1".repeat(64)}`);
    await uploadAdapter(clients.registry, other, { adapterId: "other" });
    const refused = await ask("other");
    assert.equal(refused.status, 400);
    assert.match(refused.body.error?.message ?? "", /made for another base/);
    // Nor is it among the models; an alias is, of which only the newest version is for another base.
    await uploadAdapter(clients.registry, other, { adapterId: "bot" });
    const list = (await (await fetch(`${url}/v1/models`)).json()) as { data: { id: string }[] };
    assert.deepEqual(
      list.data.map(({ id }) => id),
      ["base", "bot:live"],
    );
    assert.equal((await ask("nobody:live")).body.error?.code, "model_not_found");
    assert.equal((await ask("bot@7")).body.error?.code, "model_not_found");
  });

  test("an inference service that is gone is 503 and not ready, and the gateway goes on", async (t) => {
    const { url, inference } = await startAll(t, quickstart);
    assert.equal((await post(url, "/v1/completions", { ...short, model: "base" })).status, 200);
    using grpc = connect({ endpoints: { inference: inference.address } });
    await grpc.inference.unloadModel({ name: "models/base" });
    await until(async () => (await post(url, "/v1/completions", { ...short, model: "base" })).status === 503);
    assert.equal((await fetch(`${url}/v1/models`)).status, 503);
    await inference.stop();
    assert.equal((await fetch(`${url}/readyz`)).status, 503);
    assert.equal((await post(url, "/v1/completions", { ...short, model: "base" })).status, 503);
    assert.match(await (await fetch(`${url}/metrics`)).text(), /^nibble_inference_up 0$/m);
  });
});

describe("callers", () => {
  test("of a thousand connections that are dropped nothing is left, and the next request is answered", async (t) => {
    const { url, inference } = await startAll(t, longModel(t, 4096));
    const port = Number(new URL(url).port);
    const body = JSON.stringify({ model: "base", prompt: "one", max_tokens: 12_000, ignore_eos: true, stream: true });
    const head = `POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: ${body.length}\r\n\r\n`;
    // Some say nothing, some stop in the head or the body, some have asked in earnest.
    const beginnings = ["", "GET /v1/mod", head + body.slice(0, 9), head + body];
    const handles = () => process.getActiveResourcesInfo().filter((name) => name === "TCPSocketWrap").length;
    const before = handles();
    for (let round = 0; round < 20; round++) {
      const sockets = await Promise.all(
        Array.from({ length: 50 }, async (_, i): Promise<Socket> => {
          const socket = dial({ host: "127.0.0.1", port });
          socket.on("error", () => {});
          await once(socket, "connect");
          socket.write(beginnings[i % beginnings.length] ?? "");
          return socket;
        }),
      );
      for (const socket of sockets) socket.destroy();
    }
    using grpc = connect({ endpoints: { inference: inference.address } });
    await until(async () => {
      const { requestsRunning, requestsWaiting } = await grpc.inference.getServingStats({});
      return requestsRunning + requestsWaiting === 0;
    });
    assert.equal((await post(url, "/v1/completions", { ...short, model: "base" })).status, 200);
    // Clients' own connections to the services may be kept.
    await until(() => handles() < before + 20);
  });

  test("any JSON is a clear refusal or an answer, never an error of ours", async (t) => {
    const { url } = await startGateway(t);
    const names = ["model", "messages", "prompt", "max_tokens", "temperature", "stop", "n", "stream", "tools", "seed"];
    const value = fc.oneof(fc.jsonValue({ maxDepth: 3 }), fc.constantFrom("base", [{ role: "user", content: "x" }], 1));
    const body = fc.dictionary(fc.oneof(fc.constantFrom(...names), fc.string()), value, { maxKeys: 6 });
    const path = fc.constantFrom("/v1/chat/completions", "/v1/completions", "/v1/fine_tuning/jobs");
    await fc.assert(
      fc.asyncProperty(path, body, async (where, what) => {
        const { status, body: answer } = await post(url, where, what);
        // 503: a request in order, and no service behind this gateway.
        assert.ok(status === 400 || status === 503, `${status} ${JSON.stringify(what)}`);
        assert.deepEqual(Object.keys(answer.error ?? {}), ["message", "type", "param", "code"]);
      }),
      { numRuns: 150 },
    );
    for (const text of ["", "{", "[]", "null", '{"a":', "\u0000", "[".repeat(100_000)]) {
      assert.equal((await post(url, "/v1/chat/completions", text)).status, 400, text.slice(0, 9));
    }
    // As curl -d sends it.
    const headers = { "Content-Type": "application/x-www-form-urlencoded" };
    const asForm = await fetch(`${url}/v1/completions`, {
      method: "POST",
      body: JSON.stringify({ ...short, model: "m" }),
      headers,
    });
    assert.equal(asForm.status, 503);
    const large = await post(url, "/v1/chat/completions", " ".repeat(17 << 20));
    assert.deepEqual([large.status, large.body.error?.type], [413, "invalid_request_error"]);
  });

  test("uploads that are too large, broken off or no multipart bodies are refused and leave nothing", async (t) => {
    const dir = temporaryFolder(t);
    const { url } = await startGateway(t, { NIBBLE_GATEWAY_DIR: dir, NIBBLE_GATEWAY_FILE_BYTES_MAX: "1000" });
    const send = async (body: NonNullable<RequestInit["body"]>, type?: string) => {
      const headers = type === undefined ? {} : { "Content-Type": type };
      return (await fetch(`${url}/v1/files`, { method: "POST", body, headers })).status;
    };
    const form = (parts: Record<string, string | Blob>) => {
      const made = new FormData();
      for (const [name, part] of Object.entries(parts)) made.append(name, part);
      return made;
    };
    const rows = (count: number) => new File(['{"text":"a"}\n'.repeat(count)], "a.jsonl");
    const purpose = "fine-tune";
    assert.equal(await send(form({ file: rows(1000), purpose })), 413);
    assert.equal(await send(form({ file: rows(1), again: rows(1), purpose })), 400);
    assert.equal(await send(form({ purpose })), 400);
    assert.equal(await send(form({ file: rows(1) })), 400);
    assert.equal(await send(form({ file: rows(1), purpose, expires: "1" })), 400);
    assert.equal(await send("{}", "application/json"), 400);
    assert.equal(await send("{}", "multipart/form-data"), 400);
    assert.equal(
      await send('--b\r\nContent-Disposition: form-data; name="file"', "multipart/form-data; boundary=b"),
      400,
    );
    await fc.assert(
      fc.asyncProperty(fc.uint8Array({ maxLength: 300 }), async (bytes) => {
        assert.equal(
          await send(Buffer.concat([Buffer.from("--b\r\n"), bytes]), "multipart/form-data; boundary=b"),
          400,
        );
      }),
      { numRuns: 50 },
    );
    const port = Number(new URL(url).port);
    const socket = dial({ host: "127.0.0.1", port });
    const part = '--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n{"text"';
    socket.write(
      `POST /v1/files HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: multipart/form-data; boundary=b\r\nContent-Length: 900\r\n\r\n${part}`,
    );
    const files = join(dir, "files");
    await until(() => readdirSync(files).length > 0);
    socket.destroy();
    await until(() => readdirSync(files).length === 0);
    assert.equal(await send(form({ file: rows(2), purpose })), 200);
    assert.equal(readdirSync(files).length, 2);
  });

  test("a reader who stalls holds up nobody; at a stop its answer is cut, others' end", async (t) => {
    const gateway = await startAll(t, longModel(t, 1 << 14));
    const stalled = dial({ host: "127.0.0.1", port: Number(new URL(gateway.url).port) });
    stalled.on("error", () => {});
    stalled.pause();
    const body = JSON.stringify({ model: "base", prompt: "one", max_tokens: 12_000, ignore_eos: true, stream: true });
    stalled.write(`POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: ${body.length}\r\n\r\n${body}`);
    const ask = (more: object) => post(gateway.url, "/v1/completions", { ...short, model: "base", ...more });
    assert.equal((await ask({})).status, 200);
    const last = ask({ max_tokens: 1500, ignore_eos: true });
    using grpc = connect({ endpoints: { inference: gateway.inference.address } });
    await until(async () => (await grpc.inference.getServingStats({})).requestsRunning > 1);
    const stopped = gateway.stop(60_000);
    assert.equal((await last).status, 200);
    stalled.destroy();
    await stopped;
  });
});
