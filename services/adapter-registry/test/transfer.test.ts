// The client's uploads and downloads against a real registry, over connections that break.
import assert from "node:assert/strict";
import { copyFileSync, cpSync, existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { connect as dial, createServer as listen, type Socket } from "node:net";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { downloadAdapter, resolveVersion, uploadAdapter } from "#packages/client";
import { openAdapterFolder, readModelConfig, writeAdapterFolder } from "#packages/hub";
import { goldenPath, temporaryFolder } from "../../../test/support/folders.ts";
import { adapterWithTokens } from "../../../test/support/models.ts";
import {
  baseDigest,
  clientOf,
  failure,
  filesOf,
  otherAdapter,
  put,
  sha256,
  smallAdapter,
  startRegistry,
  wideAdapter,
} from "./support.ts";

const weights = "adapter_model.safetensors";
const weightsOf = (dir: string) => sha256(readFileSync(join(dir, weights)));

interface Cut {
  direction: "up" | "down";
  /** Cut after so many bytes… */
  bytes?: number;
  /** …or instead of passing on this text. */
  text?: string;
}

/** Passes connections on to the registry, and cuts each of the first ones where it is told. */
async function cuttingProxy(t: TestContext, port: number, cuts: Cut[]) {
  const sockets = new Set<Socket>();
  const passed = { up: 0, down: 0 };
  let connections = 0;
  const proxy = listen((client) => {
    const cut = cuts[connections++];
    const server = dial(port, "127.0.0.1");
    for (const socket of [client, server]) {
      sockets.add(socket);
      socket.on("error", () => {});
    }
    const pass = (from: Socket, to: Socket, direction: "up" | "down") => {
      let bytes = 0;
      from.on("data", (data) => {
        bytes += data.length;
        passed[direction] += data.length;
        const isOver = bytes > (cut?.bytes ?? Number.POSITIVE_INFINITY) || (cut?.text && data.includes(cut.text));
        if (cut?.direction === direction && isOver) {
          client.destroy();
          server.destroy();
        } else to.write(data);
      });
      from.on("close", () => to.destroy());
    };
    pass(client, server, "up");
    pass(server, client, "down");
  });
  await new Promise<void>((resolve) => proxy.listen(0, "127.0.0.1", resolve));
  t.after(() => {
    proxy.close();
    for (const socket of sockets) socket.destroy();
  });
  const address = proxy.address();
  if (address === null || typeof address === "string") throw new Error("expected a port");
  return { address: `127.0.0.1:${address.port}`, passed, connections: () => connections };
}

test("a folder goes up with what it says about itself, and comes down the same", async (t) => {
  const { client } = await startRegistry(t);
  const dir = join(temporaryFolder(t), "trained");
  using source = openAdapterFolder(smallAdapter);
  writeAdapterFolder(dir, {
    config: source.config,
    base: readModelConfig(goldenPath("llama_untied_nf4_dq")).config,
    baseDigest,
    dtype: "float32",
    bytesOf: (module, matrix) => source.read(module, matrix),
    card: { title: "An adapter", summary: "Says things.", figures: [] },
  });
  writeFileSync(join(dir, "metrics.jsonl"), "{}\n");
  const seen: number[] = [];
  const version = await uploadAdapter(client, dir, {
    adapterId: "a",
    aliases: ["live", "best"],
    metadata: { loss: "1" },
    onProgress: ({ bytesDone, bytesTotal }) => seen.push(bytesDone / bytesTotal),
  });
  assert.equal(seen.at(-1), 1);
  assert.deepEqual(
    [version.baseDigest, version.baseModel, version.aliases],
    [baseDigest, "llama_untied_nf4_dq", ["best", "live"]],
  );
  assert.deepEqual(version.files.map(({ path }) => path).sort(), ["README.md", "adapter_config.json", weights]);
  const extra = await uploadAdapter(client, dir, { adapterId: "a", extraFiles: ["metrics.jsonl"] });
  assert.equal(extra.files.length, 4);

  const target = join(temporaryFolder(t), "fetched");
  const fetched = await downloadAdapter(client, "adapters/a/aliases/live", target);
  assert.equal(fetched.name, version.name);
  assert.equal((await resolveVersion(client, `adapters/a/versions/${version.digest}`)).name, version.name);
  const unknown = resolveVersion(client, `adapters/a/versions/sha256:${"0".repeat(64)}`);
  await assert.rejects(unknown, { code: "NOT_FOUND" });
  assert.deepEqual(
    filesOf(target),
    filesOf(dir).filter(({ path }) => path !== "metrics.jsonl"),
  );
  openAdapterFolder(target).close();
});

test("an adapter that does not name its base needs to be told", async (t) => {
  const { client } = await startRegistry(t);
  const error = await failure(uploadAdapter(client, smallAdapter, { adapterId: "a" }));
  assert.deepEqual([error.code, /expected baseDigest/.test(error.message)], ["INVALID_ARGUMENT", true]);
  await uploadAdapter(client, smallAdapter, { adapterId: "a", baseDigest });
});

test("an adapter that added tokens travels with its tokenizer; another one's stays", async (t) => {
  const { client } = await startRegistry(t);
  const paths = async (dir: string) => {
    const { files } = await uploadAdapter(client, dir, { adapterId: "a", baseDigest });
    return files.map(({ path }) => path).sort();
  };
  const usual = ["adapter_config.json", weights];
  assert.deepEqual(await paths(adapterWithTokens(t)), [...usual, "tokenizer.json", "tokenizer_config.json"]);
  const plain = temporaryFolder(t);
  for (const path of usual) copyFileSync(join(smallAdapter, path), join(plain, path));
  writeFileSync(join(plain, "tokenizer.json"), "{}");
  assert.deepEqual(await paths(plain), usual);
});

test("an upload whose connection breaks is made again and gives one version", async (t) => {
  const { client, server } = await startRegistry(t);
  const dir = wideAdapter(t, 20_000);
  // The second cut hits the answer: the version is there, and only its request id tells the client so.
  const proxy = await cuttingProxy(t, server.port, [
    { direction: "up", bytes: 700_000 },
    { direction: "down", text: "adapters/a/versions/1" },
  ]);
  const version = await uploadAdapter(clientOf(t, proxy.address), dir, { adapterId: "a", baseDigest });
  assert.equal(proxy.connections(), 3);
  const { versions } = await client.listVersions({ parent: "adapters/a" });
  assert.deepEqual(
    versions.map(({ name }) => name),
    [version.name],
  );
});

test("a download whose connection breaks goes on where it was", async (t) => {
  const { client, server } = await startRegistry(t);
  const dir = wideAdapter(t, 200_000);
  const version = await put(client, filesOf(dir));
  const cuts = [5, 3].map((mib) => ({ direction: "down" as const, bytes: mib << 20 }));
  const proxy = await cuttingProxy(t, server.port, cuts);
  const target = join(temporaryFolder(t), "fetched");
  await downloadAdapter(clientOf(t, proxy.address), version.name, target);
  assert.deepEqual(filesOf(target), filesOf(dir));
  assert.equal(proxy.connections(), 3);
  // What was under way when a connection broke comes twice, the rest once.
  const size = Number(version.bytesTotal);
  assert.ok(proxy.passed.down < size + (6 << 20), `${proxy.passed.down} bytes for ${size}`);
});

test("a download that was given up is resumed by the next one, which trusts nothing that is damaged", async (t) => {
  const { client, server } = await startRegistry(t);
  const dir = wideAdapter(t, 200_000);
  const version = await put(client, filesOf(dir));
  const folder = temporaryFolder(t);
  const target = join(folder, "fetched");
  const cut = [{ direction: "down" as const, bytes: 8 << 20 }];
  const proxy = await cuttingProxy(t, server.port, cut);
  const error = await failure(downloadAdapter(clientOf(t, proxy.address), version.name, target, { retriesMax: 0 }));
  assert.equal(error.code, "UNAVAILABLE");
  assert.ok(!existsSync(target));
  const [partial = ""] = readdirSync(folder);
  assert.match(partial, /^\.fetched\.download-[0-9a-f]{16}$/);

  const offsets: number[] = [];
  await downloadAdapter(client, version.name, target, { onProgress: ({ bytesDone }) => offsets.push(bytesDone) });
  assert.ok(
    offsets.some((bytes, i) => i > 0 && bytes > 4 << 20 && (offsets[i - 1] ?? 0) < 1 << 20),
    "it began anew",
  );
  assert.deepEqual(filesOf(target), filesOf(dir));
  assert.deepEqual(readdirSync(folder), ["fetched"]);

  // The same with a partial file whose bytes are not the registry's.
  const other = join(folder, "other");
  const staging = join(folder, partial.replace("fetched", "other"));
  mkdirSync(staging);
  writeFileSync(join(staging, weights), new Uint8Array(1 << 20));
  writeFileSync(join(staging, "adapter_config.json"), new Uint8Array(1 << 20));
  await downloadAdapter(client, version.name, other);
  assert.deepEqual(filesOf(other), filesOf(dir));
});

test("a target that has the version stays, an older one is replaced, and other people's files are safe", async (t) => {
  const { client } = await startRegistry(t);
  await put(client, filesOf(smallAdapter));
  await put(client, filesOf(otherAdapter));
  const target = join(temporaryFolder(t), "fetched");
  await downloadAdapter(client, "adapters/a/versions/1", target);
  const seen: number[] = [];
  await downloadAdapter(client, "adapters/a/versions/1", target, {
    onProgress: ({ bytesDone }) => seen.push(bytesDone),
  });
  assert.deepEqual(seen, []);
  await downloadAdapter(client, "adapters/a/versions/2", target);
  assert.equal(weightsOf(target), weightsOf(otherAdapter));
  writeFileSync(join(target, "thesis.txt"), "years of work");
  assert.equal((await failure(downloadAdapter(client, "adapters/a/versions/1", target))).code, "FAILED_PRECONDITION");
  assert.equal(readFileSync(join(target, "thesis.txt"), "utf8"), "years of work");
  assert.equal((await failure(downloadAdapter(client, "adapters/a/versions/9", target))).code, "NOT_FOUND");
});

test("many downloads of one version into one place all succeed", async (t) => {
  const { client } = await startRegistry(t);
  const dir = wideAdapter(t, 5_000);
  for (let i = 0; i < 5; i++) writeFileSync(join(dir, `note-${i}`), `note ${i}`);
  const { name } = await put(client, filesOf(dir));
  const folder = temporaryFolder(t);
  const target = join(folder, "fetched");
  await Promise.all(Array.from({ length: 6 }, () => downloadAdapter(client, name, target)));
  assert.deepEqual(filesOf(target), filesOf(dir));
  assert.deepEqual(readdirSync(folder), ["fetched"]);
});

test("bytes that the registry has damaged never become an adapter", async (t) => {
  const { client, dir } = await startRegistry(t);
  const version = await put(client, filesOf(smallAdapter));
  const hash = weightsOf(smallAdapter);
  const blob = join(dir, "blobs", hash.slice(0, 2), hash);
  const rotten = readFileSync(blob);
  rotten[500]! ^= 1;
  writeFileSync(blob, rotten);
  const target = join(temporaryFolder(t), "fetched");
  const error = await failure(downloadAdapter(client, version.name, target));
  assert.equal(error.code, "DATA_LOSS");
  assert.ok(!existsSync(target));
  cpSync(join(smallAdapter, weights), blob);
  await downloadAdapter(client, version.name, target);
  assert.equal(weightsOf(target), hash);
});
