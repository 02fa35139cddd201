// What a soak does to a stack, each piece a round of one kind of work. It knows no memory and no clock.
import { createHash } from "node:crypto";
import { once } from "node:events";
import { connect as dial, type Socket } from "node:net";
import { setTimeout as delay } from "node:timers/promises";
import type { Connection } from "#packages/client";
import { uploadAdapter } from "#packages/client";

export interface Target {
  /** "http://host:port" of the gateway. */
  url: string;
  connection: Connection;
  /** Folder of an adapter for the base that is served. */
  adapterDir: string;
  /** Rows to train on. */
  rows: Blob;
}

/** One round; `round` counts from 0. Throws for an answer that it did not expect. */
export type Work = (target: Target, round: number) => Promise<void>;

const connectionsAtATime = 100;
/** Versions of the adapter that is replaced again and again. */
const versionsKept = 4;

async function expectStatus(answer: Response, ...statuses: number[]): Promise<Response> {
  if (statuses.includes(answer.status)) return answer;
  throw new Error(
    `[soak] ${answer.url}: expected ${statuses.join(" or ")}, got ${answer.status} ${await answer.text()}`,
  );
}

const post = (url: string, body: unknown, signal?: AbortSignal) =>
  fetch(url, { method: "POST", body: JSON.stringify(body), ...(signal ? { signal } : {}) });

const models = ["base", "soak", "soak@1", "churn:live"];

/** An answer to its end: streamed or whole, of the base or an adapter, in one form or another. */
const answers: Work = async ({ url }, round) => {
  const messages = [{ role: "user", content: `Who is ranger number ${round % 50}?` }];
  const forms = [
    {},
    { n: 3, temperature: 1 },
    { response_format: { type: "json_object" } },
    { logprobs: true, stop: ["."] },
  ];
  const asked = { model: models[round % models.length], messages, max_tokens: 24, stream: round % 2 === 0 };
  const answer = await expectStatus(
    await post(`${url}/v1/chat/completions`, { ...asked, ...forms[round % forms.length] }),
    200,
  );
  const text = await answer.text();
  if (text.includes('"error"')) throw new Error(`[soak] an answer: expected none of errors, got ${text.slice(-300)}`);
};

/** Callers who leave in the middle of an answer. */
const leavers: Work = async ({ url }, round) => {
  const abort = new AbortController();
  const asked = {
    model: models[round % models.length],
    prompt: "Kurt Vale is",
    max_tokens: 200,
    ignore_eos: true,
    stream: true,
  };
  const answer = await expectStatus(await post(`${url}/v1/completions`, asked, abort.signal), 200);
  const reader = answer.body?.getReader();
  for (let i = 0; i < 1 + (round % 5); i++) await reader?.read();
  abort.abort();
};

/** Connections that are opened, used a little, and dropped; some of them ask in earnest and never read. */
const connections: Work = async ({ url }) => {
  const body = JSON.stringify({ model: "base", prompt: "one", max_tokens: 100, ignore_eos: true, stream: true });
  const head = `POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: ${body.length}\r\n\r\n`;
  const beginnings = ["", "GET /v1/mod", "\u0000\u0001\u0002\r\n\r\n", head, head + body.slice(0, 9), head + body];
  const sockets = await Promise.all(
    Array.from({ length: connectionsAtATime }, async (_, i): Promise<Socket> => {
      const socket = dial({ host: "127.0.0.1", port: Number(new URL(url).port) });
      socket.on("error", () => {});
      await once(socket, "connect");
      socket.write(beginnings[i % beginnings.length] ?? "");
      return socket;
    }),
  );
  for (const socket of sockets) socket.destroy();
};

/** A new version, the alias moved to it, an answer by it; the oldest goes, from memory and from the registry. */
export const adapters: Work = async ({ url, connection, adapterDir }, round) => {
  const { registry, inference } = connection;
  const { name } = await uploadAdapter(registry, adapterDir, {
    adapterId: "churn",
    metadata: { round: String(round) },
  });
  await registry.setAlias({ name: "adapters/churn/aliases/live", version: name });
  const number = Number(name.split("/").at(-1));
  await expectStatus(
    await post(`${url}/v1/completions`, { model: `churn@${number}`, prompt: "one", max_tokens: 4 }),
    200,
  );
  if (number <= versionsKept) return;
  const old = number - versionsKept;
  await inference.unloadAdapter({ name: `loadedAdapters/churn-v${old}` }).catch(() => {});
  await registry.deleteVersion({ name: `adapters/churn/versions/${old}` });
};

/** The rows as a file of the gateway; its id. */
export async function uploadRows(url: string, rows: Blob): Promise<string> {
  const form = new FormData();
  form.append("purpose", "fine-tune");
  form.append("file", rows, "rows.jsonl");
  const sent = await expectStatus(await fetch(`${url}/v1/files`, { method: "POST", body: form }), 200);
  return ((await sent.json()) as { id: string }).id;
}

/** A file uploaded, a job with checkpoints, a job that is cancelled, the file deleted. */
const jobs: Work = async ({ url, rows }, round) => {
  const file = await uploadRows(url, rows);
  const isCancelled = round % 3 === 2;
  const hyperparameters = { n_epochs: isCancelled ? 1000 : 2, batch_size: 8 };
  const asked = { model: "base", training_file: file, suffix: "job", seed: 1, hyperparameters };
  const job = (await (await expectStatus(await post(`${url}/v1/fine_tuning/jobs`, asked), 200)).json()) as {
    id: string;
  };
  const path = `${url}/v1/fine_tuning/jobs/${job.id}`;
  if (isCancelled) {
    await delay(500);
    await expectStatus(await post(`${path}/cancel`, {}), 200);
  }
  for (;;) {
    const { status } = (await (await fetch(path)).json()) as { status: string };
    if (status === (isCancelled ? "cancelled" : "succeeded")) break;
    if (["succeeded", "failed", "cancelled"].includes(status)) throw new Error(`[soak] ${job.id}: got ${status}`);
    await delay(100);
  }
  for (const what of ["events?limit=100", "checkpoints"])
    await (await expectStatus(await fetch(`${path}/${what}`), 200)).text();
  await expectStatus(await fetch(`${url}/v1/files/${file}`, { method: "DELETE" }), 200);
};

/** What is no request, and what is asked for by other programs now and then. */
const oddities: Work = async ({ url }, round) => {
  const noise = createHash("sha512").update(String(round)).digest().toString("latin1");
  const bodies = [
    noise,
    "[".repeat(10_000),
    '{"model": "base", "prompt": 1}',
    `{"model": ${JSON.stringify(noise)}, "prompt": "x"}`,
  ];
  const body = bodies[round % bodies.length] ?? "";
  await (await expectStatus(await fetch(`${url}/v1/completions`, { method: "POST", body }), 400, 404)).text();
  for (const path of ["/metrics", "/healthz", "/v1/models"])
    await (await expectStatus(await fetch(url + path), 200)).text();
};

/** Each with the pause between two rounds, in milliseconds. */
export const works: readonly { name: string; work: Work; pauseMs: number }[] = [
  { name: "answers", work: answers, pauseMs: 50 },
  { name: "callers who leave", work: leavers, pauseMs: 100 },
  { name: `${connectionsAtATime} connections`, work: connections, pauseMs: 2000 },
  { name: "versions of an adapter", work: adapters, pauseMs: 500 },
  { name: "fine-tuning jobs", work: jobs, pauseMs: 5000 },
  { name: "bad requests", work: oddities, pauseMs: 200 },
];
