// Aliases, etags, removal and pages.
import assert from "node:assert/strict";
import { join } from "node:path";
import { test } from "node:test";
import {
  download,
  failure,
  filesOf,
  otherAdapter,
  put,
  type RegistryClient,
  sha256,
  sizesUnder,
  smallAdapter,
  startRegistry,
  wideAdapter,
} from "./support.ts";

const files = filesOf(smallAdapter);
const others = filesOf(otherAdapter);
const version = (number: number) => `adapters/a/versions/${number}`;
const live = "adapters/a/aliases/live";

async function etags(client: RegistryClient) {
  const { adapter } = await client.getAdapter({ name: "adapters/a" });
  const { versions } = await client.listVersions({ parent: "adapters/a" });
  return [adapter?.etag, ...versions.map(({ etag }) => etag)];
}

test("an alias is made, moved, resolved and removed; etags follow", async (t) => {
  const { client } = await startRegistry(t);
  await put(client, files);
  await put(client, others);
  const before = await etags(client);
  const made = (await client.setAlias({ name: live, version: version(1) })).alias;
  assert.deepEqual([made?.name, made?.version], [live, version(1)]);
  const after = await etags(client);
  assert.notEqual(after[0], before[0]);
  assert.deepEqual([after[1] === before[1], after[2] === before[2]], [true, false]);
  // Pointing it where it points changes nothing.
  assert.deepEqual((await client.setAlias({ name: live, version: version(1) })).alias, made);
  assert.deepEqual(await etags(client), after);

  const moved = (await client.setAlias({ name: live, version: version(2), etag: made?.etag ?? "" })).alias;
  assert.notEqual(moved?.etag, made?.etag);
  const resolved = await client.resolveAlias({ name: live });
  assert.deepEqual([resolved.alias, resolved.version?.name, resolved.version?.aliases], [moved, version(2), ["live"]]);
  assert.deepEqual((await client.getVersion({ name: version(1) })).version?.aliases, []);
  assert.deepEqual((await client.getAdapter({ name: "adapters/a" })).adapter?.aliases, [moved]);

  assert.equal((await failure(client.deleteAlias({ name: live, etag: made?.etag ?? "" }))).code, "ABORTED");
  await client.deleteAlias({ name: live, etag: moved?.etag ?? "" });
  assert.equal((await failure(client.deleteAlias({ name: live }))).code, "NOT_FOUND");
  assert.equal((await failure(client.resolveAlias({ name: live }))).code, "NOT_FOUND");
  // An alias that is made again does not take up the etags of its predecessor.
  const again = (await client.setAlias({ name: live, version: version(1) })).alias;
  assert.ok(![made?.etag, moved?.etag].includes(again?.etag));
});

test("of two that move an alias from the same etag one is ABORTED", async (t) => {
  const { client } = await startRegistry(t);
  for (let i = 0; i < 3; i++) await put(client, files);
  const { etag = "" } = (await client.setAlias({ name: live, version: version(1) })).alias ?? {};
  const race = await Promise.allSettled([2, 3].map((n) => client.setAlias({ name: live, version: version(n), etag })));
  assert.deepEqual(race.map(({ status }) => status).sort(), ["fulfilled", "rejected"]);
  assert.equal(race.find((one) => one.status === "rejected")?.reason.code, "ABORTED");
  assert.equal(
    (await failure(client.setAlias({ name: "adapters/a/aliases/x", version: version(1), etag }))).code,
    "ABORTED",
  );
});

test("aliases point only at versions of their adapter that are there", async (t) => {
  const { client } = await startRegistry(t);
  await put(client, files);
  await put(client, files, { adapterId: "b" });
  assert.equal((await failure(client.setAlias({ name: live, version: version(2) }))).code, "NOT_FOUND");
  assert.equal(
    (await failure(client.setAlias({ name: live, version: "adapters/b/versions/1" }))).code,
    "INVALID_ARGUMENT",
  );
  assert.equal(
    (await failure(client.setAlias({ name: "adapters/a/aliases/A", version: version(1) }))).code,
    "INVALID_ARGUMENT",
  );
  assert.deepEqual((await client.getAdapter({ name: "adapters/a" })).adapter?.aliases, []);
});

test("a version with an alias stays; one without goes with the blobs that only it used", async (t) => {
  const { client, dir } = await startRegistry(t);
  await put(client, files);
  await put(client, others);
  await put(client, files);
  await client.setAlias({ name: live, version: version(2) });
  const error = await failure(client.deleteVersion({ name: version(2) }));
  assert.equal(error.code, "FAILED_PRECONDITION");
  assert.match(error.message, /expected no alias to point at it, got live/);
  assert.equal((await failure(client.deleteVersion({ name: version(1), etag: "99" }))).code, "ABORTED");

  const { etag = "" } = (await client.getVersion({ name: version(1) })).version ?? {};
  assert.equal((await client.deleteVersion({ name: version(1), etag })).bytesFreed, 0n);
  await download(client, version(3), "adapter_model.safetensors");
  const kept = new Set(others.map(({ bytes }) => sha256(bytes)));
  const freed = files.filter(({ bytes }) => !kept.has(sha256(bytes))).reduce((sum, { bytes }) => sum + bytes.length, 0);
  assert.equal((await client.deleteVersion({ name: version(3) })).bytesFreed, BigInt(freed));
  assert.deepEqual(new Set(Object.keys(sizesUnder(join(dir, "blobs"))).map((path) => path.slice(3))), kept);
  // Numbers are not used twice.
  assert.equal((await put(client, files)).name, version(4));
  assert.equal((await client.getAdapter({ name: "adapters/a" })).adapter?.latestVersion, 4n);
});

test("pages of versions, newest first, cover everything once, and stay right while versions come and go", async (t) => {
  const { client } = await startRegistry(t);
  for (let i = 0; i < 5; i++) await put(client, files);
  const parent = "adapters/a";
  const first = await client.listVersions({ parent, pageSize: 2 });
  await put(client, files);
  await client.deleteVersion({ name: version(3) });
  const rest = await client.listVersions({ parent, pageSize: 2, pageToken: first.nextPageToken });
  const names = [...first.versions, ...rest.versions].map(({ name }) => name);
  assert.deepEqual(names, [5, 4, 2, 1].map(version));
  assert.equal(rest.nextPageToken, "");
  assert.equal((await client.listVersions({ parent, pageSize: 5_000 })).versions.length, 5);
  const exact = await client.listVersions({ parent, pageSize: 5 });
  assert.deepEqual([exact.versions.length, exact.nextPageToken], [5, ""]);
  // Each version in a page carries its own files.
  for (const one of exact.versions) assert.equal(one.files.length, files.length);
});

test("an adapter says for which base its newest version is, an alias for which its own", async (t) => {
  const { client } = await startRegistry(t);
  const wide = filesOf(wideAdapter(t, 8)); // names no base itself
  const bases = ["1", "2"].map((digit) => `sha256:${digit.repeat(64)}`);
  for (const baseDigest of bases) await put(client, wide, { baseDigest });
  const { alias } = await client.setAlias({ name: live, version: version(1) });
  assert.equal(alias?.baseDigest, bases[0]);
  const read = async () => {
    const { adapters } = await client.listAdapters({});
    return adapters.map((one) => [one.newestBaseDigest, ...one.aliases.map(({ baseDigest }) => baseDigest)]);
  };
  assert.deepEqual(await read(), [[bases[1], bases[0]]]);
  await client.deleteVersion({ name: version(2) });
  assert.deepEqual(await read(), [[bases[0], bases[0]]]);
});

test("pages of adapters by name; tokens of other listings are refused", async (t) => {
  const { client } = await startRegistry(t);
  for (const adapterId of ["b", "a", "c"]) await put(client, files, { adapterId });
  await client.setAlias({ name: "adapters/c/aliases/x", version: "adapters/c/versions/1" });
  const first = await client.listAdapters({ pageSize: 2 });
  assert.deepEqual(
    first.adapters.map(({ name }) => name),
    ["adapters/a", "adapters/b"],
  );
  const second = await client.listAdapters({ pageSize: 2, pageToken: first.nextPageToken });
  assert.deepEqual(
    second.adapters.map(({ name, aliases }) => [name, aliases.length]),
    [["adapters/c", 1]],
  );
  for (const pageToken of [first.nextPageToken, "garbage", "%%%"]) {
    const error = await failure(client.listVersions({ parent: "adapters/a", pageToken }));
    assert.equal(error.code, "INVALID_ARGUMENT", pageToken);
  }
  await put(client, files);
  const { nextPageToken } = await client.listVersions({ parent: "adapters/a", pageSize: 1 });
  assert.equal(
    (await failure(client.listVersions({ parent: "adapters/b", pageToken: nextPageToken }))).code,
    "INVALID_ARGUMENT",
  );
});
