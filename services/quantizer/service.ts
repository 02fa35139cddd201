// The quantizer's handlers: decode, call the domain, encode. No decisions here.
import type { MessageInitShape } from "@bufbuild/protobuf";
import { anyPack, durationMs } from "@bufbuild/protobuf/wkt";
import { type OperationSchema, Operations as OperationsApi } from "#gen/google/longrunning/operations_pb.ts";
import {
  QuantizeModelMetadataSchema,
  QuantizeModelResponseSchema,
  QuantizerService,
} from "#gen/nibble/quantizer/v1/quantizer_pb.ts";
import { NibbleError } from "#packages/errors";
import {
  decodePageToken,
  encodePageToken,
  formatName,
  type Implementation,
  implement,
  pageSizeOf,
  parseName,
} from "#packages/rpc";
import type { Operations } from "./operations.ts";
import type { OperationRecord } from "./store.ts";

const pattern = "operations/{operation}";
const idOf = (name: string) => parseName(pattern, name, "operations").operation;

function encode(record: OperationRecord): MessageInitShape<typeof OperationSchema> {
  const { id, state, metadata, error, response } = record;
  const whole = {
    name: formatName(pattern, { operation: id }),
    metadata: anyPack(QuantizeModelMetadataSchema, metadata),
    done: state === "done",
  };
  if (error) return { ...whole, result: { case: "error", value: error } };
  if (!response) return whole;
  return { ...whole, result: { case: "response", value: anyPack(QuantizeModelResponseSchema, response) } };
}

export function quantizerService(operations: Operations): Implementation {
  return implement(QuantizerService, {
    quantizeModel: async (request) => encode(await operations.create(request)),
  });
}

export function operationsService(operations: Operations): Implementation {
  return implement(OperationsApi, {
    getOperation: async ({ name }) => encode(await operations.get(idOf(name))),
    listOperations: async ({ name, filter, pageSize, pageToken }) => {
      refuseUnless(name === "" || name === "operations", "name", "operations or nothing", name);
      refuseUnless(filter === "", "filter", "none", filter);
      refuseUnless(pageSize >= 0, "page_size", "0 or more", String(pageSize));
      const size = pageSizeOf(pageSize);
      const position = decodePageToken("operations", pageToken, "list_operations");
      const rows = await operations.list(position === undefined ? undefined : Number(position), size + 1);
      const page = rows.slice(0, size);
      const isMore = rows.length > size;
      return {
        operations: page.map(({ record }) => encode(record)),
        nextPageToken: isMore ? encodePageToken("operations", String(page.at(-1)?.position)) : "",
      };
    },
    cancelOperation: async ({ name }) => {
      await operations.cancel(idOf(name));
      return {};
    },
    deleteOperation: async ({ name }) => {
      await operations.remove(idOf(name));
      return {};
    },
    waitOperation: async ({ name, timeout }, { signal, drainSignal }) => {
      const timeoutMs = timeout === undefined ? undefined : Math.max(0, durationMs(timeout));
      return encode(await operations.wait(idOf(name), timeoutMs, { signal, drainSignal }));
    },
  });
}

function refuseUnless(ok: boolean, field: string, expected: string, got: string): void {
  if (ok) return;
  const message = `${field}: expected ${expected}, got ${JSON.stringify(got.slice(0, 80))}`;
  throw new NibbleError(message, { code: "INVALID_ARGUMENT", op: "list_operations", details: { field } });
}
