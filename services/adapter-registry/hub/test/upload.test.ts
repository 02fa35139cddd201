// Large files on their way in: through git-lfs' batch API whole and in parts, and through Xet's xorbs and shards.
import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { commit, createRepo, downloadFile } from "@huggingface/hub";
import { openDatabase, sqliteDialect } from "#packages/sql";
import { temporaryFolder } from "../../../../test/support/folders.ts";
import { migrations, type Tables } from "../../schema.ts";
import { sha256, sizesUnder } from "../../test/support.ts";
import { SqlHubStore } from "../sql-store.ts";
import { binary, blobOf, pathsOf, push, startHub, type TestHub, token } from "./support.ts";

interface Actions {
  upload: { href: string; header?: Record<string, string> };
}

async function batch(hub: TestHub, content: Uint8Array, size = content.length): Promise<Actions | undefined> {
  const body = { operation: "upload", transfers: ["basic", "multipart"], objects: [{ oid: sha256(content), size }] };
  const answer = await fetch(`${hub.hubUrl}/org/model.git/info/lfs/objects/batch`, {
    method: "POST",
    headers: { authorization: `Bearer ${token}` },
    body: JSON.stringify(body),
  });
  assert.equal(answer.status, 200, await answer.clone().text());
  return ((await answer.json()) as { objects: { actions?: Actions }[] }).objects[0]?.actions;
}

const putTo = (href: string, content: Uint8Array) => fetch(href, { method: "PUT", body: blobOf(content) });

test("a large file is taken once: whoever sends it again, and after a restart, is told that it is there", async (t) => {
  const dir = join(temporaryFolder(t), "registry");
  const hub = await startHub(t, { dir });
  await createRepo({ ...hub.as, repo: "org/model" });
  const content = binary(100_000);
  const actions = await batch(hub, content);
  assert.equal((await putTo(actions?.upload.href ?? "", content)).status, 200);
  assert.equal(await batch(hub, content), undefined);
  await hub.stop();
  // No commit names it yet.
  const again = await startHub(t, { dir });
  assert.equal(await batch(again, content), undefined);
  await push(again, "org/model", [{ path: "m.safetensors", content }]);
  const got = await downloadFile({ ...again.as, repo: "org/model", path: "m.safetensors" });
  assert.ok(got && Buffer.from(await got.arrayBuffer()).equals(content));
});

test("other bytes, too few and too many are refused and leave nothing", async (t) => {
  const hub = await startHub(t);
  await createRepo({ ...hub.as, repo: "org/model" });
  const content = binary(50_000);
  const { href } = (await batch(hub, content))?.upload ?? { href: "" };
  const other = Buffer.from(content).fill(7, 9, 10);
  for (const bytes of [other, content.subarray(1), Buffer.concat([content, content])]) {
    const answer = await putTo(href, bytes);
    assert.equal(answer.status, 422);
  }
  assert.deepEqual(sizesUnder(join(hub.dir, "blobs")), {});
  assert.deepEqual(sizesUnder(join(hub.dir, "uploads")), {});
  assert.equal((await putTo(href, content)).status, 200);
});

test("an address that was changed, or that another registry gave, is worth nothing", async (t) => {
  const hub = await startHub(t);
  await createRepo({ ...hub.as, repo: "org/model" });
  const content = binary(1000);
  const { href } = (await batch(hub, content))?.upload ?? { href: "" };
  const changed = new URL(href);
  changed.searchParams.set("size", "5");
  assert.equal((await putTo(changed.href, content)).status, 403);
  const other = await startHub(t);
  assert.equal((await putTo(href.replace(hub.hubUrl, other.hubUrl), content)).status, 403);
});

test("a disk that is full, or too full, fails the upload with 507 and keeps what was there", async (t) => {
  let room = 400_000;
  const hub = await startHub(t, {
    write: async (handle, bytes, position) => {
      room -= bytes.length;
      if (room < 0) throw Object.assign(new Error("ENOSPC: no space left on device"), { code: "ENOSPC" });
      return (await handle.write(bytes, 0, bytes.length, position)).bytesWritten;
    },
  });
  const kept = binary(100_000);
  await push(hub, "org/model", [{ path: "kept.safetensors", content: kept }]);
  const content = binary(500_000);
  const { href } = (await batch(hub, content))?.upload ?? { href: "" };
  assert.equal((await putTo(href, content)).status, 507);
  assert.deepEqual(Object.values(sizesUnder(join(hub.dir, "blobs"))), [100_000]);
  assert.deepEqual(sizesUnder(join(hub.dir, "uploads")), {});
  const small = await startHub(t, { config: { freeBytesMin: Number.MAX_SAFE_INTEGER } });
  await createRepo({ ...small.as, repo: "org/model" });
  const { href: refused } = (await batch(small, content))?.upload ?? { href: "" };
  assert.equal((await putTo(refused, content)).status, 507);
});

test("a file of many parts: each may be sent again, and @huggingface/hub sends them by itself", async (t) => {
  const hub = await startHub(t, { config: { partBytes: 100_000 } });
  await createRepo({ ...hub.as, repo: "org/model" });
  const content = binary(1_234_567);
  const { href, header = {} } = (await batch(hub, content))?.upload ?? { href: "" };
  const size = Number(header["chunk_size"]);
  const numbers = Object.keys(header).filter((key) => /^\d+$/.test(key));
  assert.equal(numbers.length, Math.ceil(content.length / size));
  assert.equal((await fetch(href, { method: "POST", body: "{}" })).status, 422);
  const part = (index: number) => content.subarray(index * size, (index + 1) * size);
  const sent = await putTo(header[numbers[0] ?? ""] ?? "", part(1).subarray(0, 10));
  assert.equal(sent.status, 422);
  const made = await commit({
    ...hub.as,
    repo: "org/model",
    title: "parts",
    useXet: false,
    operations: [{ operation: "addOrUpdate", path: "big.safetensors", content: blobOf(content) }],
  });
  assert.ok(made);
  const got = await fetch(`${hub.hubUrl}/org/model/resolve/main/big.safetensors`);
  assert.equal(sha256(Buffer.from(await got.arrayBuffer())), sha256(content));
});

/** What @huggingface/hub would do were xet on: the registry's LFS answer keeps it on LFS; its xet half is called here. */
async function xetCalls(hub: TestHub) {
  const answer = await fetch(`${hub.hubUrl}/api/models/org/model/xet-write-token/main`);
  const { casUrl, accessToken } = (await answer.json()) as { casUrl: string; accessToken: string };
  const call = (path: string, body: Uint8Array, bearer = accessToken) =>
    fetch(`${casUrl}/v1/${path}`, {
      method: "POST",
      body: blobOf(body),
      headers: { authorization: `Bearer ${bearer}` },
    });
  return { call, casUrl };
}

/** Hex of an address as bytes of a shard: each 8 bytes turned around. */
function hashBytes(hex: string): Buffer {
  const bytes = Buffer.from(hex, "hex");
  for (let at = 0; at < 32; at += 8) bytes.subarray(at, at + 8).reverse();
  return bytes;
}

function numbers(...values: number[]): Buffer {
  const bytes = Buffer.alloc(4 * values.length);
  values.forEach((value, index) => void bytes.writeUInt32LE(value, 4 * index));
  return bytes;
}

function chunk(data: Uint8Array, { scheme = 0, length = data.length } = {}): Buffer {
  const header = Buffer.alloc(8);
  header.writeUIntLE(data.length, 1, 3);
  header.writeUInt8(scheme, 4);
  header.writeUIntLE(length, 5, 3);
  return Buffer.concat([header, data]);
}

const xorbHash = "12".repeat(32);

function shard(sha: string, terms: [start: number, end: number, bytes: number][], flags = 0x40000000): Buffer {
  const magic = Buffer.from([
    ...Buffer.from("HFRepoMetaData"),
    0,
    85,
    105,
    103,
    69,
    106,
    123,
    129,
    87,
    131,
    165,
    189,
    217,
    92,
    205,
    209,
    74,
    169,
  ]);
  const header = Buffer.concat([magic, numbers(2, 0, 0, 0)]);
  const file = Buffer.concat([hashBytes("34".repeat(32)), numbers(flags, terms.length, 0, 0)]);
  const entries = terms.map(([start, end, bytes]) =>
    Buffer.concat([hashBytes(xorbHash), numbers(0, bytes, start, end)]),
  );
  const metadata = Buffer.concat([hashBytes(sha), Buffer.alloc(16)]);
  const end = Buffer.concat([Buffer.alloc(32, 255), Buffer.alloc(16)]);
  return Buffer.concat([header, file, ...entries, metadata, end, end]);
}

test("xorbs and a shard become a large file; what does not fit together is refused", async (t) => {
  const hub = await startHub(t);
  await createRepo({ ...hub.as, repo: "org/model" });
  const { call } = await xetCalls(hub);
  const [one, two] = [binary(1000), binary(500)];
  const whole = Buffer.concat([two, one]);
  const good = shard(sha256(whole), [
    [1, 2, 500],
    [0, 1, 1000],
  ]);
  assert.equal((await call("shards", good)).status, 400, "its xorb is not there");
  assert.equal((await call(`xorbs/default/${xorbHash}`, Buffer.from("no xorb"))).status, 400);
  assert.equal((await call(`xorbs/default/${xorbHash}`, chunk(one).subarray(0, 100))).status, 400);
  assert.equal((await call("xorbs/default/..%2Fx", chunk(one))).status, 400);
  assert.equal((await call(`xorbs/default/${xorbHash}`, Buffer.concat([chunk(one), chunk(two)]))).status, 200);
  assert.equal((await call("shards", shard("ab".repeat(32), [[0, 1, 1000]]))).status, 422, "another sha256");
  assert.equal((await call("shards", shard(sha256(one), [[0, 3, 1000]]))).status, 400, "chunks that are not there");
  assert.equal((await call("shards", shard(sha256(one), [[0, 1, 1000]], 0))).status, 400, "without a sha256");
  assert.equal((await call("shards", good.subarray(0, 150))).status, 400, "a cut shard");
  assert.equal((await call("shards", Buffer.alloc(100))).status, 400, "no shard");
  assert.equal((await call("shards", good, "1.nonsense")).status, 401);
  assert.deepEqual(sizesUnder(join(hub.dir, "blobs")), {});
  assert.deepEqual(await (await call("shards", good)).json(), { result: 1 });
  assert.deepEqual(await (await call("shards", good)).json(), { result: 0 });
  assert.equal(await batch(hub, whole), undefined, "it is there now");
});

test("compressed chunks: LZ4 frames, alone and over grouped bytes", async (t) => {
  const hub = await startHub(t);
  await createRepo({ ...hub.as, repo: "org/model" });
  const { call } = await xetCalls(hub);
  // One block: a literal "abcd", a match of 12 at distance 4 that repeats it, then 5 literals.
  const block = Buffer.concat([
    Buffer.from([0x48]),
    Buffer.from("abcd"),
    Buffer.from([4, 0, 0x50]),
    Buffer.from("efghi"),
  ]);
  const frame = Buffer.concat([
    Buffer.from([4, 0x22, 0x4d, 0x18, 0x60, 0x40, 0x82]),
    numbers(block.length),
    block,
    numbers(0),
  ]);
  const text = "abcdabcdabcdabcdefghi";
  const grouped = Buffer.from([0, 1, 2, 3].flatMap((place) => [...text].filter((_, i) => i % 4 === place)).join(""));
  const stored = Buffer.concat([
    Buffer.from([4, 0x22, 0x4d, 0x18, 0x60, 0x40, 0x82]),
    numbers(grouped.length + 0x80000000),
    grouped,
    numbers(0),
  ]);
  const xorb = Buffer.concat([
    chunk(frame, { scheme: 1, length: text.length }),
    chunk(stored, { scheme: 2, length: text.length }),
    chunk(frame, { scheme: 1, length: text.length + 1 }),
    chunk(frame.subarray(0, 20), { scheme: 1, length: text.length }),
  ]);
  assert.equal((await call(`xorbs/default/${xorbHash}`, xorb)).status, 200);
  const both = Buffer.from(text + text);
  assert.equal((await call("shards", shard(sha256(both), [[0, 2, both.length]]))).status, 200);
  assert.equal((await call("shards", shard("cd".repeat(32), [[2, 3, 22]]))).status, 400);
  assert.equal((await call("shards", shard("cd".repeat(32), [[3, 4, 21]]))).status, 400);
});

test("the day's xorbs outlive a restart, older ones go with their address", async (t) => {
  const dir = join(temporaryFolder(t), "registry");
  const hub = await startHub(t, { dir });
  await createRepo({ ...hub.as, repo: "org/model" });
  const first = await xetCalls(hub);
  await first.call(`xorbs/default/${xorbHash}`, chunk(binary(100)));
  await hub.stop();
  const again = await startHub(t, { dir });
  const { casUrl } = await xetCalls(again);
  assert.equal(new URL(casUrl).pathname, new URL(first.casUrl).pathname);
  const session = casUrl.split("/").at(-1) ?? "";
  assert.equal(readFileSync(join(dir, "xet", session, xorbHash)).length, 108);
  await again.stop();
  const later = await startHub(t, { dir, now: Date.UTC(2026, 0, 5) });
  await xetCalls(later);
  assert.deepEqual(
    readdirSync(join(dir, "xet")).map((name) => name.slice(0, 10)),
    ["2026-01-05"],
  );
});

test("a commit of many files is written side by side; one that is wrong leaves nothing of them", async (t) => {
  const hub = await startHub(t);
  await createRepo({ repo: "org/many", ...hub.as });
  const file = (path: string, content: unknown) => JSON.stringify({ key: "file", value: { path, content } });
  const commit = (lines: string[]) =>
    fetch(`${hub.hubUrl}/api/models/org/many/commit/main`, {
      method: "POST",
      headers: { "content-type": "application/x-ndjson" },
      body: [JSON.stringify({ key: "header", value: { summary: "many" } }), ...lines].join("\n"),
    });
  // Two have the same bytes: one blob.
  const lines = Array.from({ length: 100 }, (_, i) => file(`d${i % 7}/f${i}`, `content ${i % 99}`));
  assert.equal((await commit([...lines, file("wrong", 1)])).status, 400);
  assert.deepEqual(readdirSync(join(hub.dir, "blobs")), []);
  assert.deepEqual(readdirSync(join(hub.dir, "uploads")), []);
  assert.equal((await commit(lines)).status, 200);
  assert.equal((await pathsOf(hub, "org/many")).length, 107);
  const text = await (await fetch(`${hub.hubUrl}/org/many/resolve/main/d1/f99`)).text();
  assert.equal(text, "content 0");
});

test("more large files than a query may name are looked for", async (t) => {
  const db = await openDatabase<Tables>(sqliteDialect({ path: join(temporaryFolder(t), "hub.db") }), migrations);
  t.after(() => db.destroy());
  const store = new SqlHubStore(db);
  await store.addObject({ sha256: "f".repeat(64), sizeBytes: 7 }, 0);
  const names = Array.from({ length: 12_000 }, (_, i) => i.toString(16).padStart(64, "0"));
  assert.deepEqual([...(await store.objects([...names, "f".repeat(64)]))], [["f".repeat(64), 7]]);
});
