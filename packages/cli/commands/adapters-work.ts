// What nibble adapters does once its options are read; it is loaded then, and gRPC with it.
import type { Adapter, Version } from "#gen/nibble/registry/v1/registry_pb.ts";
import { downloadAdapter, pagesOf, type RegistryClient, uploadAdapter } from "#packages/client";
import { usageError } from "../errors.ts";
import { bytes, table } from "../format.ts";
import { type Io, line, printJson } from "../io.ts";
import { StatusLine } from "../progress.ts";
import { withRegistry } from "../stack/registry.ts";
import type { AdapterOptions, AliasChange, PushOptions } from "./adapters.ts";

interface Call {
  io: Io;
  registry: RegistryClient;
  options: AdapterOptions;
}

function within(io: Io, options: AdapterOptions, work: (call: Call) => Promise<void>): Promise<void> {
  return withRegistry(io, options.endpoint, (registry) => work({ io, registry, options }));
}

export const runList = (io: Io, options: AdapterOptions, id?: string) => within(io, options, (call) => list(call, id));
export const runPush = (io: Io, options: PushOptions, dir: string) =>
  within(io, options, (call) => push(call, dir, options));
export const runPull = (io: Io, options: AdapterOptions, adapter: string, out: string) =>
  within(io, options, (call) => pull(call, adapter, out));

export function runAlias(io: Io, options: AdapterOptions, change: AliasChange): Promise<void> {
  if (change.isDelete === (change.version !== undefined)) throw usageError("expected a version or --delete");
  return within(io, options, (call) => setAlias(call, change));
}

const lastOf = (name: string) => name.split("/").at(-1) ?? "";

function adapterView({ name, latestVersion, aliases }: Adapter) {
  return {
    id: lastOf(name),
    latest_version: Number(latestVersion),
    aliases: Object.fromEntries(aliases.map((alias) => [lastOf(alias.name), Number(lastOf(alias.version))])),
  };
}

function versionView(version: Version) {
  const { name, createTime, baseDigest, baseModel, bytesTotal, digest, aliases, metadata } = version;
  return {
    name,
    created: createTime ? new Date(Number(createTime.seconds) * 1000).toISOString() : null,
    base_model: baseModel,
    base_digest: baseDigest,
    bytes: Number(bytesTotal),
    digest,
    aliases,
    metadata,
  };
}

async function list({ io, registry, options }: Call, id: string | undefined): Promise<void> {
  const call = { signal: io.signal };
  if (id !== undefined) {
    const parent = `adapters/${id}`;
    const pages = pagesOf((pageToken) => registry.listVersions({ parent, pageToken, pageSize: 1000 }, call));
    const versions: ReturnType<typeof versionView>[] = [];
    for await (const page of pages) versions.push(...page.versions.map(versionView));
    if (options.json) return printJson(io, { versions });
    const rows = versions.map((v) => [lastOf(v.name), v.created ?? "", bytes(v.bytes), v.aliases.join(", ")]);
    return line(io.stdout, table([["version", "created", "size", "aliases"], ...rows], "left"));
  }
  const pages = pagesOf((pageToken) => registry.listAdapters({ pageToken, pageSize: 1000 }, call));
  const adapters: ReturnType<typeof adapterView>[] = [];
  for await (const page of pages) adapters.push(...page.adapters.map(adapterView));
  if (options.json) return printJson(io, { adapters });
  const rows = adapters.map((a) => [
    a.id,
    String(a.latest_version),
    Object.entries(a.aliases)
      .map(([alias, version]) => `${alias}=${version}`)
      .join(", "),
  ]);
  line(io.stdout, table([["adapter", "latest", "aliases"], ...rows], "left"));
}

async function push({ io, registry, options }: Call, dir: string, flags: PushOptions): Promise<void> {
  const status = new StatusLine(io);
  const { name: adapterId, alias: aliases, baseDigest } = flags;
  const version = await uploadAdapter(registry, dir, {
    adapterId,
    aliases,
    ...(baseDigest === undefined ? {} : { baseDigest }),
    signal: io.signal,
    onProgress: ({ bytesDone, bytesTotal }) => status.show(`${bytes(bytesDone)} of ${bytes(bytesTotal)}`),
  }).finally(() => status.clear());
  if (options.json) return printJson(io, versionView(version));
  line(io.stdout, `${version.name}  ${bytes(Number(version.bytesTotal))}  ${version.digest}`);
}

/** id is the latest version, id@3 a version, id@prod an alias; full names are taken as they are. */
async function nameOf({ registry, io }: Call, adapter: string): Promise<string> {
  if (adapter.startsWith("adapters/")) return adapter;
  const [id = "", which] = adapter.split("@");
  if (which !== undefined) return `adapters/${id}/${/^[0-9]+$/.test(which) ? "versions" : "aliases"}/${which}`;
  const found = await registry.getAdapter({ name: `adapters/${id}` }, { signal: io.signal });
  return `adapters/${id}/versions/${found.adapter?.latestVersion ?? 0n}`;
}

async function pull(call: Call, adapter: string, out: string): Promise<void> {
  const { io, registry, options } = call;
  const status = new StatusLine(io);
  const version = await downloadAdapter(registry, await nameOf(call, adapter), out, {
    signal: io.signal,
    onProgress: ({ bytesDone, bytesTotal }) => status.show(`${bytes(bytesDone)} of ${bytes(bytesTotal)}`),
  }).finally(() => status.clear());
  if (options.json) return printJson(io, { ...versionView(version), out });
  line(io.stdout, `wrote ${out}: ${version.name}`);
}

async function setAlias({ io, registry, options }: Call, change: AliasChange): Promise<void> {
  const { id, alias, version, isDelete } = change;
  const name = `adapters/${id}/aliases/${alias}`;
  if (isDelete) await registry.deleteAlias({ name }, { signal: io.signal });
  else await registry.setAlias({ name, version: `adapters/${id}/versions/${version}` }, { signal: io.signal });
  if (options.json) return printJson(io, { name, version: isDelete ? null : Number(version) });
  line(io.stdout, isDelete ? `${name} removed` : `${name} → version ${version}`);
}
