// The registry's handlers: decode, call the domain, encode. No decisions here.
import { RegistryService } from "#gen/nibble/registry/v1/registry_pb.ts";
import { NibbleError } from "#packages/errors";
import type { Implementation } from "#packages/rpc";
import { implement } from "#packages/rpc";
import type { Aliases } from "./aliases.ts";
import type { Downloads } from "./downloads.ts";
import { decodeParts, encodeAdapter, encodeAlias, encodeFile, encodeVersion } from "./encode.ts";
import { parseAdapterName, parseAliasName, parseVersionName } from "./names.ts";
import type { Versions } from "./versions.ts";

export interface RegistryDomain {
  versions: Versions;
  aliases: Aliases;
  downloads: Downloads;
}

export function registryService({ versions, aliases, downloads }: RegistryDomain): Implementation {
  return implement(RegistryService, {
    createVersion: async (requests, { signal }) => ({
      version: encodeVersion(await versions.create(decodeParts(requests), signal)),
    }),
    getVersion: async ({ name }) => {
      const { adapterId, number } = parseVersionName(name, "get_version");
      return { version: encodeVersion(await versions.get(adapterId, number)) };
    },
    listVersions: async ({ parent, pageSize, pageToken }) => {
      const adapterId = parseAdapterName(parent, "list_versions");
      const { items, nextPageToken } = await versions.list(adapterId, { pageSize, pageToken });
      return { versions: items.map(encodeVersion), nextPageToken };
    },
    deleteVersion: async ({ name, etag }) => {
      const { adapterId, number } = parseVersionName(name, "delete_version");
      return { bytesFreed: BigInt(await versions.delete(adapterId, number, etag)) };
    },
    getAdapter: async ({ name }) => ({
      adapter: encodeAdapter(await versions.adapter(parseAdapterName(name, "get_adapter"))),
    }),
    listAdapters: async ({ pageSize, pageToken }) => {
      const { items, nextPageToken } = await versions.listAdapters({ pageSize, pageToken });
      return { adapters: items.map(encodeAdapter), nextPageToken };
    },
    setAlias: async ({ name, version, etag }) => {
      const alias = parseAliasName(name, "set_alias");
      const target = parseVersionName(version, "set_alias");
      checkSameAdapter(alias.adapterId, target.adapterId);
      return { alias: encodeAlias(await aliases.set({ ...alias, version: target.number }, etag)) };
    },
    deleteAlias: async ({ name, etag }) => {
      await aliases.delete(parseAliasName(name, "delete_alias"), etag);
      return {};
    },
    resolveAlias: async ({ name }) => {
      const { alias, version } = await aliases.resolve(parseAliasName(name, "resolve_alias"));
      return { alias: encodeAlias(alias), version: encodeVersion(version) };
    },
    downloadFile: async function* ({ name, path, offset }) {
      const version = parseVersionName(name, "download_file");
      for await (const { file, ...piece } of downloads.read({ ...version, path, offset: Number(offset) })) {
        yield { offset: BigInt(piece.offset), data: piece.data, ...(file ? { file: encodeFile(file) } : {}) };
      }
    },
  });
}

function checkSameAdapter(expected: string, got: string): void {
  if (expected === got) return;
  const message = `version: expected a version of adapters/${expected}, got one of adapters/${got}`;
  throw new NibbleError(message, { code: "INVALID_ARGUMENT", op: "set_alias" });
}
