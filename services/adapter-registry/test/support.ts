// A registry on a real socket with a real database and folder, adapters to put into it, and uploads part by part.
import { createHash } from "node:crypto";
import { readdirSync, readFileSync, statSync } from "node:fs";
import { join } from "node:path";
import type { TestContext } from "node:test";
import { type Logger, pino } from "pino";
import { RegistryService } from "#gen/nibble/registry/v1/registry_pb.ts";
import { NibbleError } from "#packages/errors";
import { adapterKey, replaceFile, SafetensorsWriter } from "#packages/hub";
import type { Client, ClientOptions, RunningServer } from "#packages/rpc";
import { createClient, createServer } from "#packages/rpc";
import { goldenPath, temporaryFolder } from "../../../test/support/folders.ts";
import type { Write } from "../blobs.ts";
import { type Config, readConfig } from "../config.ts";
import { openRegistry } from "../setup.ts";

export type RegistryClient = Client<typeof RegistryService>;

export interface TestRegistry {
  dir: string;
  server: RunningServer;
  client: RegistryClient;
  hubUrl: string;
  stop(): Promise<void>;
}

export interface TestOptions {
  dir?: string;
  config?: Partial<Config>;
  write?: Write;
  logger?: Logger;
  /** When its clock begins. Default: 2026. */
  now?: number;
}

/** A running registry; it ends with the test unless it was stopped before. Its clock ticks once a look. */
export async function startRegistry(t: TestContext, options: TestOptions = {}): Promise<TestRegistry> {
  const dir = options.dir ?? join(temporaryFolder(t), "registry");
  let now = options.now ?? Date.UTC(2026, 0, 1);
  const config = { ...readConfig({ NIBBLE_REGISTRY_PORT: "0" }), dir, freeBytesMin: 0, ...options.config };
  const logger = options.logger ?? pino({ enabled: false });
  const setup = await openRegistry(config, {
    now: () => now++,
    logger,
    ...(options.write && { write: options.write }),
  });
  const server = await createServer(setup).catch(async (error) => {
    await setup.close?.();
    throw error;
  });
  const client = clientOf(t, server.address);
  let stopped: Promise<void> | undefined;
  const stop = async () => {
    client.close();
    await server.drain(0);
    await setup.close?.();
  };
  const stopOnce = () => (stopped ??= stop());
  t.after(stopOnce);
  return { dir, server, client, hubUrl: setup.hubUrl, stop: stopOnce };
}

export function clientOf(t: TestContext, address: string, options: ClientOptions = {}): RegistryClient {
  const client = createClient(RegistryService, address, options);
  t.after(() => client.close());
  return client;
}

export const baseDigest = `sha256:${"b".repeat(64)}`;
export const smallAdapter = goldenPath("train", "qlora_adapter");
export const otherAdapter = goldenPath("train", "init_adapter");

/** An adapter folder of about `features` * 64 bytes, with numbers that differ for another seed. */
export function wideAdapter(t: TestContext, features: number, seed = 1): string {
  const dir = temporaryFolder(t);
  const module = "model.layers.0.self_attn.q_proj";
  const specs = [
    { name: adapterKey(module, "lora_A"), dtype: "float32" as const, shape: [8, features] },
    { name: adapterKey(module, "lora_B"), dtype: "float32" as const, shape: [features, 8] },
  ];
  const writer = new SafetensorsWriter(join(dir, "adapter_model.safetensors"), specs, { metadata: {} });
  const values = Float32Array.from({ length: 8 * features }, (_, i) => Math.fround(Math.sin(i * seed)));
  for (const { name } of specs) writer.write(name, new Uint8Array(values.buffer));
  writer.finish();
  replaceFile(join(dir, "adapter_config.json"), readFileSync(join(smallAdapter, "adapter_config.json")));
  return dir;
}

export interface SourceFile {
  path: string;
  bytes: Uint8Array;
}

export function filesOf(dir: string): SourceFile[] {
  return readdirSync(dir)
    .sort()
    .map((path) => ({ path, bytes: readFileSync(join(dir, path)) }));
}

export function sha256(bytes: Uint8Array): string {
  return createHash("sha256").update(bytes).digest("hex");
}

export function headerOf(files: SourceFile[], changes: Record<string, unknown> = {}) {
  const listed = files.map(({ path, bytes }) => ({ path, sizeBytes: BigInt(bytes.length), sha256: sha256(bytes) }));
  return { adapterId: "a", baseDigest, files: listed, ...changes };
}

export const headerPart = (value: ReturnType<typeof headerOf>) => ({ part: { case: "header" as const, value } });
export const chunkPart = (path: string, data: Uint8Array) => ({
  part: { case: "chunk" as const, value: { path, data } },
});

export function chunksOf({ path, bytes }: SourceFile, size = 1 << 16) {
  const count = Math.ceil(bytes.length / size);
  return Array.from({ length: count }, (_, i) => chunkPart(path, bytes.subarray(i * size, (i + 1) * size)));
}

type Part = ReturnType<typeof headerPart> | ReturnType<typeof chunkPart>;

/** Sends exactly these parts. */
export async function send(client: RegistryClient, parts: Iterable<Part> | AsyncIterable<Part>) {
  const all = async function* () {
    yield* parts;
  };
  const { version } = await client.createVersion(all());
  if (!version) throw new Error("expected a version");
  return version;
}

/** Uploads files under a header that fits them, with changes. */
export function put(client: RegistryClient, files: SourceFile[], changes: Record<string, unknown> = {}) {
  return send(client, [headerPart(headerOf(files, changes)), ...files.flatMap((file) => chunksOf(file))]);
}

/** The bytes of a file from an offset, checked to come in order. */
export async function download(client: RegistryClient, name: string, path: string, from = 0): Promise<Buffer> {
  const pieces: Uint8Array[] = [];
  let offset = from;
  for await (const piece of client.downloadFile({ name, path, offset: BigInt(from) })) {
    if (Number(piece.offset) !== offset) throw new Error(`expected ${offset}, got ${piece.offset}`);
    if ((pieces.length === 0) !== (piece.file !== undefined)) throw new Error("expected the file in the first piece");
    pieces.push(piece.data);
    offset += piece.data.length;
  }
  return Buffer.concat(pieces);
}

export async function failure(promise: Promise<unknown>): Promise<NibbleError> {
  try {
    await promise;
  } catch (thrown) {
    if (thrown instanceof NibbleError) return thrown;
    throw thrown;
  }
  throw new Error("expected the call to fail");
}

/** Every file below a folder, with its size. */
export function sizesUnder(folder: string): Record<string, number> {
  const names = readdirSync(folder, { recursive: true, encoding: "utf8" });
  const files = names.map((name) => [name, statSync(join(folder, name))] as const).filter(([, stat]) => stat.isFile());
  return Object.fromEntries(files.map(([name, stat]) => [name, stat.size]));
}

/** Looks again every few milliseconds until it holds; the test's own time limit is the limit. */
export async function until(holds: () => boolean): Promise<void> {
  while (!holds()) await new Promise((resolve) => setTimeout(resolve, 5));
}
