// Records to messages of the contract and back.
import type { MessageInitShape } from "@bufbuild/protobuf";
import { timestampFromMs } from "@bufbuild/protobuf/wkt";
import type { QuantType } from "#gen/nibble/common/v1/common_pb.ts";
import type {
  AdapterSchema,
  AliasSchema,
  CreateVersionRequest,
  FileSchema,
  VersionHeader,
  VersionSchema,
} from "#gen/nibble/registry/v1/registry_pb.ts";
import { NibbleError } from "#packages/errors";
import { checkId } from "#packages/rpc";
import { adapterName, aliasName, versionName } from "./names.ts";
import type { AdapterRecord, AliasRecord, FileRecord, VersionRecord } from "./store.ts";
import { etagOf } from "./store.ts";
import type { UploadHeader, UploadPart } from "./upload.ts";

export function encodeFile(file: FileRecord): MessageInitShape<typeof FileSchema> {
  return { path: file.path, sizeBytes: BigInt(file.sizeBytes), sha256: file.sha256 };
}

export function encodeVersion(version: VersionRecord): MessageInitShape<typeof VersionSchema> {
  const quantization = version.baseQuantization;
  return {
    name: versionName(version),
    createTime: timestampFromMs(version.createMs),
    baseDigest: version.baseDigest,
    baseModel: version.baseModel,
    metadata: version.metadata,
    files: version.files.map(encodeFile),
    digest: version.digest,
    bytesTotal: BigInt(version.files.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0)),
    aliases: version.aliases,
    etag: etagOf(version),
    ...(quantization ? { baseQuantization: { ...quantization, type: quantization.type as QuantType } } : {}),
  };
}

export function encodeAlias(alias: AliasRecord): MessageInitShape<typeof AliasSchema> {
  return {
    name: aliasName(alias),
    version: versionName({ adapterId: alias.adapterId, number: alias.version }),
    updateTime: timestampFromMs(alias.updateMs),
    etag: etagOf(alias),
    baseDigest: alias.baseDigest,
  };
}

export function encodeAdapter(adapter: AdapterRecord): MessageInitShape<typeof AdapterSchema> {
  return {
    name: adapterName(adapter.id),
    createTime: timestampFromMs(adapter.createMs),
    updateTime: timestampFromMs(adapter.updateMs),
    latestVersion: BigInt(adapter.latestVersion),
    aliases: adapter.aliases.map(encodeAlias),
    etag: etagOf(adapter),
    newestBaseDigest: adapter.newestBaseDigest,
  };
}

function decodeHeader(header: VersionHeader): UploadHeader {
  const quantization = header.baseQuantization;
  return {
    requestId: header.requestId,
    adapterId: checkId(header.adapterId, "adapter_id", "create_version"),
    baseDigest: header.baseDigest,
    baseModel: header.baseModel,
    baseQuantization: quantization
      ? { type: quantization.type, blockSize: quantization.blockSize, doubleQuant: quantization.doubleQuant }
      : null,
    metadata: { ...header.metadata },
    files: header.files.map(({ path, sizeBytes, sha256 }) => ({ path, sizeBytes: Number(sizeBytes), sha256 })),
    etag: header.etag,
  };
}

export async function* decodeParts(requests: AsyncIterable<CreateVersionRequest>): AsyncGenerator<UploadPart> {
  for await (const { part } of requests) {
    if (part.case === "header") yield { case: "header", value: decodeHeader(part.value) };
    else if (part.case === "chunk") yield { case: "chunk", value: part.value };
    else throw new NibbleError("part: expected one", { code: "INVALID_ARGUMENT", op: "create_version" });
  }
}
