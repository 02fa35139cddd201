// Versions over real sockets: what goes in comes out, and what is wrong is refused by name and leaves nothing.
import assert from "node:assert/strict";
import { join } from "node:path";
import { test } from "node:test";
import { fromBinary, toBinary } from "@bufbuild/protobuf";
import { QuantType } from "#gen/nibble/common/v1/common_pb.ts";
import { VersionSchema } from "#gen/nibble/registry/v1/registry_pb.ts";
import { temporaryFolder } from "../../../test/support/folders.ts";
import {
  baseDigest,
  chunkPart,
  chunksOf,
  download,
  failure,
  filesOf,
  headerOf,
  headerPart,
  otherAdapter,
  put,
  send,
  sha256,
  sizesUnder,
  smallAdapter,
  startRegistry,
} from "./support.ts";

const files = filesOf(smallAdapter);
const config = files.find(({ path }) => path === "adapter_config.json")!;
const weights = files.find(({ path }) => path === "adapter_model.safetensors")!;

test("a version comes back as it was sent, and after a restart", async (t) => {
  const dir = join(temporaryFolder(t), "registry");
  const first = await startRegistry(t, { dir });
  const empty = { path: "notes/empty.txt", bytes: new Uint8Array() };
  const all = [config, empty, weights];
  const baseQuantization = { type: QuantType.NF4, blockSize: 64, doubleQuant: true };
  const about = { baseModel: "tiny", baseQuantization, metadata: { loss: "1.25", ünïcode: "✓" } };
  const version = await put(first.client, all, about);
  assert.equal(version.name, "adapters/a/versions/1");
  assert.deepEqual([version.baseDigest, version.baseModel, version.metadata], [baseDigest, "tiny", about.metadata]);
  assert.deepEqual({ ...version.baseQuantization, $typeName: 0 }, { ...baseQuantization, $typeName: 0 });
  assert.equal(version.bytesTotal, BigInt(config.bytes.length + weights.bytes.length));
  const { version: read } = await first.client.getVersion({ name: version.name });
  assert.deepEqual(read, version);
  await first.stop();

  const { client } = await startRegistry(t, { dir });
  assert.deepEqual((await client.getVersion({ name: version.name })).version, version);
  for (const { path, bytes } of all) assert.ok((await download(client, version.name, path)).equals(bytes), path);
  const { adapter } = await client.getAdapter({ name: "adapters/a" });
  assert.deepEqual([adapter?.latestVersion, adapter?.aliases], [1n, []]);
  assert.deepEqual(adapter?.createTime, version.createTime);
  // Messages survive their encoding, so nothing in them is out of range.
  assert.deepEqual(fromBinary(VersionSchema, toBinary(VersionSchema, version)), version);
});

test("equal content has one digest and one copy; other content another", async (t) => {
  const { client, dir } = await startRegistry(t);
  const one = await put(client, files);
  const two = await put(client, [...files].reverse(), { adapterId: "b" });
  const other = await put(client, filesOf(otherAdapter), { adapterId: "b" });
  assert.equal(one.digest, two.digest);
  assert.notEqual(one.digest, other.digest);
  assert.match(one.digest, /^sha256:[0-9a-f]{64}$/);
  const contents = new Set([...files, ...filesOf(otherAdapter)].map(({ bytes }) => sha256(bytes)));
  const blobs = Object.keys(sizesUnder(join(dir, "blobs"))).map((path) => path.split("/")[1]);
  assert.deepEqual(new Set(blobs), contents);
  assert.equal(blobs.length, contents.size);
  assert.deepEqual(sizesUnder(join(dir, "uploads")), {});
});

test("uploads that differ from their header are refused by name and leave nothing", async (t) => {
  const { client, dir } = await startRegistry(t);
  const flipped = Uint8Array.from(weights.bytes);
  flipped[1000]! ^= 1;
  const header = headerPart(headerOf([config, weights]));
  const some = chunksOf(weights);
  const size = weights.bytes.length;
  type Parts = Parameters<typeof send>[1];
  const cases: [string, string, RegExp, Parts][] = [
    ["nothing", "INVALID_ARGUMENT", /expected a header, got nothing/, []],
    ["no header", "INVALID_ARGUMENT", /expected the header first, got a chunk/, some],
    ["two headers", "INVALID_ARGUMENT", /expected one header, got a second one/, [header, header]],
    ["no path", "INVALID_ARGUMENT", /first chunk: expected a path/, [header, chunkPart("", config.bytes)]],
    [
      "unlisted",
      "INVALID_ARGUMENT",
      /x\.txt: expected a file that the header lists/,
      [header, chunkPart("x.txt", config.bytes)],
    ],
    [
      "order",
      "INVALID_ARGUMENT",
      /adapter_config\.json: expected files in the header's order, got its bytes after adapter_model/,
      [header, ...chunksOf(config), ...some, ...chunksOf(config)],
    ],
    ["skipped", "DATA_LOSS", /adapter_config\.json: expected 1592 bytes, got 0/, [header, ...some]],
    ["only a header", "DATA_LOSS", /adapter_config\.json: expected 1592 bytes, got 0/, [header]],
    [
      "truncated",
      "DATA_LOSS",
      new RegExp(`adapter_model\\.safetensors: expected ${size} bytes, got ${1 << 16}`),
      [header, ...chunksOf(config), ...some.slice(0, -1)],
    ],
    [
      "too long",
      "DATA_LOSS",
      new RegExp(`adapter_model\\.safetensors: expected ${size} bytes, got at least ${size + 1}`),
      [header, ...chunksOf(config), ...some, chunkPart("", new Uint8Array(1))],
    ],
    [
      "flipped",
      "DATA_LOSS",
      new RegExp(`adapter_model\\.safetensors: sha256: expected ${sha256(weights.bytes)}, got ${sha256(flipped)}`),
      [header, ...chunksOf(config), ...chunksOf({ path: weights.path, bytes: flipped })],
    ],
  ];
  for (const [name, code, message, parts] of cases) {
    const error = await failure(send(client, parts));
    assert.equal(error.code, code, `${name}: ${error.message}`);
    assert.match(error.message, message, name);
  }
  const wrong = await failure(send(client, cases.at(-1)![3]));
  assert.deepEqual(wrong.details, { path: weights.path, expected: sha256(weights.bytes), got: sha256(flipped) });
  assert.equal((await failure(client.getAdapter({ name: "adapters/a" }))).code, "NOT_FOUND");
  assert.deepEqual([sizesUnder(join(dir, "blobs")), sizesUnder(join(dir, "uploads"))], [{}, {}]);
});

test("headers that cannot become a version are refused before their bytes", async (t) => {
  const { client } = await startRegistry(t, { config: { versionBytesMax: 100_000 } });
  const listed = headerOf(files).files;
  const cases: [Record<string, unknown>, RegExp][] = [
    [{ adapterId: "Ä" }, /adapter_id: expected 1 to 63 lower-case letters/],
    [{ adapterId: "-a" }, /adapter_id/],
    [{ baseDigest: "sha256:00" }, /base_digest: expected "sha256:" and 64/],
    [{ baseDigest: `sha512:${"b".repeat(64)}` }, /base_digest/],
    [
      { files: listed.slice(0, 1) },
      /expected a PEFT adapter with adapter_model\.safetensors, got adapter_config\.json/,
    ],
    [{ files: [...listed, { ...listed[0], path: "../up" }] }, /files\[2\]\.path|"\.\.\/up"/],
    [{ files: [...listed, { ...listed[0], path: "/abs" }] }, /"\/abs": expected a relative path/],
    [{ files: [...listed, { ...listed[0], path: "a\\b" }] }, /expected a relative path/],
    [{ files: [...listed, listed[0]] }, /"adapter_config\.json": expected to be listed once/],
    [{ files: [...listed, { ...listed[0], path: "adapter_config.json/x" }] }, /not to lie in adapter_config\.json/],
    [{ files: [{ ...listed[0], sha256: "A".repeat(64) }, listed[1]] }, /sha256: expected 64 lower-case hex digits/],
    [{ files: [{ ...listed[0], sizeBytes: 100_001n }, listed[1]] }, /expected at most 100000 bytes a version/],
  ];
  for (const [change, message] of cases) {
    // The stream stays open: the answer must not wait for its end.
    const parts = async function* () {
      yield headerPart(headerOf(files, change));
      await new Promise(() => {});
    };
    const error = await failure(client.createVersion(parts()));
    assert.equal(error.code, "INVALID_ARGUMENT", error.message);
    assert.match(error.message, message);
  }
});

test("files that are no adapter, or one of another base, are refused", async (t) => {
  const { client, dir } = await startRegistry(t);
  const cut = { path: weights.path, bytes: weights.bytes.subarray(0, 5000) };
  const noJson = { path: config.path, bytes: Buffer.from("{") };
  for (const [sent, message] of [
    [[config, cut], /adapter_model\.safetensors/],
    [[noJson, weights], /adapter_config\.json/],
  ] as const) {
    const error = await failure(put(client, [...sent]));
    assert.equal(error.code, "INVALID_ARGUMENT", error.message);
    assert.match(error.message, message);
    assert.ok(!error.message.includes(dir), error.message);
  }
  assert.deepEqual(sizesUnder(dir)["registry.db"] !== undefined, true);
  assert.deepEqual([sizesUnder(join(dir, "blobs")), sizesUnder(join(dir, "uploads"))], [{}, {}]);
});

test("a request id makes one version, whoever asks and however often", async (t) => {
  const { client } = await startRegistry(t);
  const requestId = "r-1";
  const [one, two] = await Promise.all([put(client, files, { requestId }), put(client, files, { requestId })]);
  assert.deepEqual(one, two);
  // The answer comes without the bytes.
  const again = await send(client, [headerPart(headerOf(files, { requestId }))]);
  assert.deepEqual(again, one);
  // Nor does it wait for a client that goes on sending.
  const endless = async function* () {
    yield headerPart(headerOf(files, { requestId }));
    for (;;) yield chunkPart("adapter_config.json", new Uint8Array(1 << 16));
  };
  assert.deepEqual((await client.createVersion(endless())).version, one);
  for (const change of [{ metadata: { a: "b" } }, { adapterId: "b" }, { baseModel: "other" }]) {
    const error = await failure(put(client, files, { requestId, ...change }));
    assert.equal(error.code, "ALREADY_EXISTS", error.message);
  }
  assert.equal((await client.listVersions({ parent: "adapters/a" })).versions.length, 1);
  assert.equal((await put(client, files)).name, "adapters/a/versions/2");
});

test("two writers: with an etag one wins, without they get numbers of their own", async (t) => {
  const { client } = await startRegistry(t);
  await put(client, files);
  const { etag = "" } = (await client.getAdapter({ name: "adapters/a" })).adapter ?? {};
  const race = await Promise.allSettled([put(client, files, { etag }), put(client, filesOf(otherAdapter), { etag })]);
  const lost = race.filter((one) => one.status === "rejected");
  assert.equal(lost.length, 1);
  assert.equal(lost[0]?.reason.code, "ABORTED");
  assert.equal((await client.listVersions({ parent: "adapters/a" })).versions.length, 2);
  // A stale etag is refused before the bytes.
  assert.equal((await failure(send(client, [headerPart(headerOf(files, { etag }))]))).code, "ABORTED");
  const both = await Promise.all([put(client, files), put(client, files), put(client, files)]);
  assert.deepEqual(
    both.map(({ name }) => name).sort(),
    [3, 4, 5].map((n) => `adapters/a/versions/${n}`),
  );
  assert.equal((await failure(put(client, files, { adapterId: "new", etag: "1" }))).code, "ABORTED");
});

test("names of another form and versions that are not there", async (t) => {
  const { client } = await startRegistry(t);
  await put(client, files);
  for (const name of [
    "adapters/a",
    "adapters/a/versions/01",
    "adapters/a/versions/1e0",
    "adapters/a/versions/0",
    "adapters//versions/1",
  ]) {
    assert.equal((await failure(client.getVersion({ name }))).code, "INVALID_ARGUMENT", name);
  }
  for (const name of ["adapters/a/versions/2", "adapters/b/versions/1"]) {
    assert.equal((await failure(client.getVersion({ name }))).code, "NOT_FOUND", name);
    assert.equal((await failure(client.deleteVersion({ name }))).code, "NOT_FOUND", name);
    assert.equal((await failure(download(client, name, weights.path))).code, "NOT_FOUND", name);
  }
  assert.equal((await failure(client.listVersions({ parent: "adapters/b" }))).code, "NOT_FOUND");
});

test("downloads begin anywhere, and not beyond the end", async (t) => {
  const { client } = await startRegistry(t);
  const { name } = await put(client, files);
  const size = weights.bytes.length;
  for (const from of [0, 1, size - 1, size]) {
    const bytes = await download(client, name, weights.path, from);
    assert.ok(bytes.equals(Buffer.from(weights.bytes).subarray(from)), String(from));
  }
  assert.equal((await failure(download(client, name, weights.path, size + 1))).code, "OUT_OF_RANGE");
  assert.equal((await failure(download(client, name, "README.md"))).code, "NOT_FOUND");
});
