// What goes wrong around the registry: killed processes, clients that leave, full and rotten disks.
import assert from "node:assert/strict";
import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { type TestContext, test } from "node:test";
import { fileURLToPath } from "node:url";
import { temporaryFolder } from "../../../test/support/folders.ts";
import type { Write } from "../blobs.ts";
import {
  chunkPart,
  chunksOf,
  clientOf,
  download,
  failure,
  filesOf,
  headerOf,
  headerPart,
  put,
  type RegistryClient,
  sha256,
  sizesUnder,
  smallAdapter,
  startRegistry,
  until,
  wideAdapter,
} from "./support.ts";

const main = fileURLToPath(new URL("../main.ts", import.meta.url));
const files = filesOf(smallAdapter);
const weights = "adapter_model.safetensors";

/** The service in a process of its own, and a client of it once it listens. */
async function spawnRegistry(t: TestContext, dir: string) {
  const env = {
    ...process.env,
    NIBBLE_REGISTRY_DIR: dir,
    NIBBLE_REGISTRY_PORT: "0",
    NIBBLE_REGISTRY_FREE_BYTES_MIN: "0",
  };
  const child = spawn(process.execPath, ["--disable-warning=ExperimentalWarning", main], {
    env,
    stdio: ["ignore", "pipe", "inherit"],
  });
  t.after(() => child.kill("SIGKILL"));
  const exit = once(child, "exit").then(([code]) => code as number | null);
  const lines: Record<string, unknown>[] = [];
  const address = Promise.withResolvers<string>();
  createInterface({ input: child.stdout }).on("line", (text) => {
    const line = JSON.parse(text);
    lines.push(line);
    if (line.msg === "listening") address.resolve(line.address);
  });
  const client = clientOf(t, await Promise.race([address.promise, exit.then((code) => `exited with ${code}`)]));
  return { child, client, exit, lines };
}

async function versionNames(client: RegistryClient): Promise<string[]> {
  return (await client.listVersions({ parent: "adapters/a" })).versions.map(({ name }) => name);
}

async function assertIntact(client: RegistryClient, name: string): Promise<void> {
  for (const { path, bytes } of files) assert.ok((await download(client, name, path)).equals(bytes), `${name} ${path}`);
}

/** Sends the header and half of the files' bytes, then waits for `release`. */
async function* halfOf(all: ReturnType<typeof filesOf>, changes: Record<string, unknown>, release: Promise<void>) {
  yield headerPart(headerOf(all, changes));
  const chunks = all.flatMap((file) => chunksOf(file));
  yield* chunks.slice(0, chunks.length / 2);
  await release;
  yield* chunks.slice(chunks.length / 2);
}

const never = new Promise<void>(() => {});
const bytesIn = (folder: string) => Object.values(sizesUnder(folder)).reduce((sum, size) => sum + size, 0);

test("killed in the middle of an upload: the next start has what was whole and nothing else", async (t) => {
  const dir = join(temporaryFolder(t), "registry");
  const first = await spawnRegistry(t, dir);
  await put(first.client, files);
  const big = filesOf(wideAdapter(t, 100_000));
  const upload = failure(first.client.createVersion(halfOf(big, { requestId: "r" }, never)));
  await until(() => bytesIn(join(dir, "uploads")) > 2 << 20);
  first.child.kill("SIGKILL");
  assert.equal((await upload).code, "UNAVAILABLE");
  await first.exit;
  assert.ok(bytesIn(join(dir, "uploads")) > 2 << 20, "the kill left the upload");

  const second = await spawnRegistry(t, dir);
  assert.deepEqual(sizesUnder(join(dir, "uploads")), {});
  assert.ok(second.lines.some(({ msg, uploads }) => msg === "cleared what unfinished uploads left" && uploads === 1));
  assert.deepEqual(await versionNames(second.client), ["adapters/a/versions/1"]);
  await assertIntact(second.client, "adapters/a/versions/1");
  // The same request is free to be made again.
  const version = await put(second.client, big, { requestId: "r" });
  assert.equal(version.name, "adapters/a/versions/2");
  const source = big.find(({ path }) => path === weights)!;
  assert.equal(sha256(await download(second.client, version.name, weights)), sha256(source.bytes));
});

test("one folder has one registry: a second process exits 78 and touches nothing", async (t) => {
  const dir = join(temporaryFolder(t), "registry");
  const { client } = await startRegistry(t, { dir });
  const release = Promise.withResolvers<void>();
  const upload = client.createVersion(halfOf(files, {}, release.promise));
  await until(() => bytesIn(join(dir, "uploads")) > 0);
  const second = await spawnRegistry(t, dir);
  assert.equal(await second.exit, 78);
  assert.match(String(second.lines.at(-1)?.["msg"]), /registry\.db: expected to be the only process that uses it/);
  release.resolve();
  assert.equal((await upload).version?.name, "adapters/a/versions/1");
  await assertIntact(client, "adapters/a/versions/1");
});

test("a client that goes away, by cancelling or by dying, leaves nothing", async (t) => {
  const { client, dir, server } = await startRegistry(t);
  const abort = new AbortController();
  const cancelled = failure(client.createVersion(halfOf(files, {}, never), { signal: abort.signal }));
  await until(() => bytesIn(join(dir, "uploads")) > 0);
  abort.abort();
  assert.equal((await cancelled).code, "CANCELLED");
  const other = clientOf(t, server.address);
  const dropped = failure(other.createVersion(halfOf(files, {}, never)));
  await until(() => bytesIn(join(dir, "uploads")) > 0);
  other.close();
  await dropped;
  await until(() => readdirSync(join(dir, "uploads")).length === 0);
  assert.deepEqual(sizesUnder(join(dir, "blobs")), {});
  assert.equal((await failure(client.getAdapter({ name: "adapters/a" }))).code, "NOT_FOUND");
  assert.equal((await put(client, files)).name, "adapters/a/versions/1");
});

test("a stop in the middle of an upload waits for it to be cleared", async (t) => {
  const { client, dir, stop } = await startRegistry(t);
  const upload = failure(client.createVersion(halfOf(files, {}, never)));
  await until(() => bytesIn(join(dir, "uploads")) > 0);
  await stop();
  await upload;
  assert.deepEqual(readdirSync(join(dir, "uploads")), []);
});

test("a download outlives the version it reads", async (t) => {
  const { client } = await startRegistry(t);
  const big = filesOf(wideAdapter(t, 100_000));
  const { name } = await put(client, big);
  const source = big.find(({ path }) => path === weights)!;
  const pieces: Uint8Array[] = [];
  for await (const { data } of client.downloadFile({ name, path: weights })) {
    if (pieces.length === 0) await client.deleteVersion({ name });
    pieces.push(data);
  }
  assert.equal(sha256(Buffer.concat(pieces)), sha256(source.bytes));
  assert.equal((await failure(download(client, name, weights))).code, "NOT_FOUND");
});

const pause = () => new Promise((resolve) => setTimeout(resolve, 300));

test("a slow reader holds a download back: bytes are read when they are wanted", async (t) => {
  const { client, dir } = await startRegistry(t);
  const big = filesOf(wideAdapter(t, 300_000));
  const { name } = await put(client, big);
  const hash = sha256(big.find(({ path }) => path === weights)!.bytes);
  const rest = client.downloadFile({ name, path: weights })[Symbol.asyncIterator]();
  assert.equal((await rest.next()).done, false);
  await pause();
  // Whoever had read ahead would not notice that the file ends here now.
  truncateSync(join(dir, "blobs", hash.slice(0, 2), hash), 12 << 20);
  const drain = async () => {
    while (!(await rest.next()).done);
  };
  assert.equal((await failure(drain())).code, "DATA_LOSS");
});

test("a slow disk holds an upload back", async (t) => {
  const release = Promise.withResolvers<void>();
  const { client } = await startRegistry(t, {
    write: async (handle, bytes, position) => {
      await release.promise;
      return (await handle.write(bytes, 0, bytes.length, position)).bytesWritten;
    },
  });
  const big = filesOf(wideAdapter(t, 300_000));
  let bytesTaken = 0;
  const parts = async function* () {
    yield headerPart(headerOf(big));
    for (const chunk of big.flatMap((file) => chunksOf(file))) {
      bytesTaken += chunk.part.value.data.length;
      yield chunk;
    }
  };
  const upload = client.createVersion(parts());
  await until(() => bytesTaken > 1 << 20);
  await pause();
  assert.ok(bytesTaken < 8 << 20, `${bytesTaken} bytes of 19 MB wait in memory`);
  release.resolve();
  assert.equal((await upload).version?.name, "adapters/a/versions/1");
});

test("too many uploads at a time are refused, and there is room again when one ends", async (t) => {
  const { client, dir } = await startRegistry(t, { config: { uploadsMax: 1 } });
  const abort = new AbortController();
  const first = failure(client.createVersion(halfOf(files, {}, never), { signal: abort.signal }));
  await until(() => bytesIn(join(dir, "uploads")) > 0);
  const error = await failure(put(client, files));
  assert.equal(error.code, "RESOURCE_EXHAUSTED");
  abort.abort();
  await first;
  await until(() => readdirSync(join(dir, "uploads")).length === 0);
  await put(client, files);
});

test("a write that fails with a full disk leaves the old versions, and room is used once it is there", async (t) => {
  let room = Number.POSITIVE_INFINITY;
  const write: Write = async (handle, bytes, position) => {
    if (room <= 0) throw Object.assign(new Error("ENOSPC: no space left on device, write"), { code: "ENOSPC" });
    // A disk that fills up writes a part first.
    const { bytesWritten } = await handle.write(bytes, 0, Math.min(bytes.length, room), position);
    room -= bytesWritten;
    return bytesWritten;
  };
  const { client, dir } = await startRegistry(t, { write });
  await put(client, files);
  const blobs = sizesUnder(join(dir, "blobs"));
  const big = filesOf(wideAdapter(t, 4_000));
  room = 100_000;
  const error = await failure(put(client, big));
  assert.equal(error.code, "RESOURCE_EXHAUSTED");
  assert.match(error.message, /adapters\/a: the registry's disk is full; nothing was stored/);
  assert.deepEqual([sizesUnder(join(dir, "blobs")), sizesUnder(join(dir, "uploads"))], [blobs, {}]);
  await assertIntact(client, "adapters/a/versions/1");
  room = Number.POSITIVE_INFINITY;
  assert.equal((await put(client, big)).name, "adapters/a/versions/2");
});

/** A small file system of its own, or undefined where mounting is not allowed. */
function smallDisk(t: TestContext, bytes: number): string | undefined {
  const folder = mkdtempSync(join(tmpdir(), "nibble-disk-"));
  const mounted = spawnSync("mount", ["-t", "tmpfs", "-o", `size=${bytes}`, "tmpfs", folder]).status === 0;
  t.after(() => {
    if (mounted) spawnSync("umount", ["-l", folder]);
    rmSync(folder, { recursive: true, force: true });
  });
  return mounted ? folder : undefined;
}

test("a disk that is really full", async (t) => {
  const disk = smallDisk(t, 4 << 20);
  if (!disk) return t.skip("mounting a small file system is not allowed here; the test above plays one");
  const { client, dir } = await startRegistry(t, { dir: join(disk, "registry") });
  await put(client, files);
  const tooBig = filesOf(wideAdapter(t, 80_000));
  const early = await failure(client.createVersion(halfOf(tooBig, {}, never)));
  assert.equal(early.code, "RESOURCE_EXHAUSTED");
  assert.match(early.message, /disk is too full: expected 51\d+ free bytes, got \d+/);

  // It fits when it begins, and somebody else fills the disk meanwhile.
  const big = filesOf(wideAdapter(t, 30_000));
  const release = Promise.withResolvers<void>();
  const upload = failure(client.createVersion(halfOf(big, {}, release.promise)));
  await until(() => bytesIn(join(dir, "uploads")) > 500_000);
  fill(join(disk, "filler"));
  release.resolve();
  const late = await upload;
  assert.equal(late.code, "RESOURCE_EXHAUSTED");
  assert.match(late.message, /disk is full; nothing was stored/);
  assert.deepEqual(sizesUnder(join(dir, "uploads")), {});
  assert.deepEqual(await versionNames(client), ["adapters/a/versions/1"]);
  await assertIntact(client, "adapters/a/versions/1");

  // With not a byte left even the database cannot grow: changes fail as what they are, and reading goes on.
  fill(join(disk, "filler2"));
  let refused = 0;
  for (let i = 0; i < 2_000 && refused === 0; i++) {
    const outcome = await client.setAlias({ name: `adapters/a/aliases/x${i}`, version: "adapters/a/versions/1" }).then(
      () => undefined,
      (error) => error,
    );
    if (!outcome) continue;
    assert.equal(outcome.code, "RESOURCE_EXHAUSTED", outcome.message);
    refused++;
  }
  assert.equal(refused, 1, "the database found room for everything");
  await assertIntact(client, "adapters/a/versions/1");
  for (const name of ["filler", "filler2"]) rmSync(join(disk, name));
  assert.equal((await put(client, big)).name, "adapters/a/versions/2");
});

/** Writes until the disk has no room for another byte. */
function fill(path: string): void {
  writeFileSync(path, "");
  for (let size = 1 << 20; size >= 1; ) {
    try {
      writeFileSync(path, new Uint8Array(size), { flag: "a" });
    } catch (thrown) {
      if ((thrown as NodeJS.ErrnoException).code !== "ENOSPC") throw thrown;
      size >>= 1;
    }
  }
}

test("a blob that rots is DATA_LOSS at the end of a download, and the same bytes heal it", async (t) => {
  const { client, dir } = await startRegistry(t);
  const { name } = await put(client, files);
  const source = files.find(({ path }) => path === weights)!;
  const hash = sha256(source.bytes);
  const blob = join(dir, "blobs", hash.slice(0, 2), hash);
  const rotten = readFileSync(blob);
  rotten[7]! ^= 4;
  writeFileSync(blob, rotten);
  const error = await failure(download(client, name, weights));
  assert.deepEqual([error.code, error.details["sha256"]], ["DATA_LOSS", hash]);
  writeFileSync(blob, rotten.subarray(0, 100));
  assert.equal((await failure(download(client, name, weights))).code, "DATA_LOSS");
  rmSync(blob);
  assert.equal((await failure(download(client, name, weights))).code, "DATA_LOSS");
  await put(client, files);
  await assertIntact(client, name);
});

test("a start clears blobs of versions that never came to be, and reports blobs that are gone", async (t) => {
  const dir = join(temporaryFolder(t), "registry");
  const first = await spawnRegistry(t, dir);
  await put(first.client, files);
  first.child.kill("SIGTERM");
  assert.equal(await first.exit, 0);
  const orphan = join(dir, "blobs", "ab", "ab".repeat(32));
  mkdirSync(join(dir, "blobs", "ab"), { recursive: true });
  writeFileSync(orphan, "x");
  const hash = sha256(files.find(({ path }) => path === weights)!.bytes);
  rmSync(join(dir, "blobs", hash.slice(0, 2), hash));
  const second = await spawnRegistry(t, dir);
  assert.ok(!Object.keys(sizesUnder(dir)).some((path) => path.includes("abab")));
  assert.ok(second.lines.some(({ msg, bytes }) => msg === "cleared what unfinished uploads left" && bytes === 1));
  assert.ok(second.lines.some((line) => line["sha256"] === hash && line["level"] === 50));
});

test("settings that make no sense stop the start", async (t) => {
  const child = spawnSync(process.execPath, [main], {
    env: { ...process.env, NIBBLE_REGISTRY_PORT: "many", NIBBLE_REGISTRY_DIR: temporaryFolder(t) },
    encoding: "utf8",
  });
  assert.equal(child.status, 78);
  assert.match(child.stdout, /NIBBLE_REGISTRY_PORT: expected a whole number from 0 to 65535, got \\"many\\"/);
});

test("chunks beyond the contract's size are refused", async (t) => {
  const { client } = await startRegistry(t);
  const parts = async function* () {
    yield headerPart(headerOf(files));
    yield chunkPart("adapter_config.json", new Uint8Array((1 << 20) + 1));
  };
  assert.equal((await failure(client.createVersion(parts()))).code, "INVALID_ARGUMENT");
});
