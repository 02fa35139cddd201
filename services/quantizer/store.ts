// Records of operations, so that a restart forgets none. Messages are kept in protobuf's own encoding.
import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import type { Dialect, Kysely } from "kysely";
import { type Status, StatusSchema } from "#gen/google/rpc/status_pb.ts";
import {
  type QuantizeModelMetadata,
  QuantizeModelMetadataSchema,
  type QuantizeModelRequest,
  QuantizeModelRequestSchema,
  type QuantizeModelResponse,
  QuantizeModelResponseSchema,
} from "#gen/nibble/quantizer/v1/quantizer_pb.ts";
import { type Migrations, openDatabase } from "#packages/sql";

export type OperationState = "queued" | "running" | "done";

export interface OperationRecord {
  id: string;
  state: OperationState;
  request: QuantizeModelRequest;
  metadata: QuantizeModelMetadata;
  /** At most one of the two is set, once the state is done. */
  error: Status | null;
  response: QuantizeModelResponse | null;
}

export interface OperationStore {
  insert(record: OperationRecord): Promise<void>;
  /** Writes what may change: state, metadata and outcome. */
  update(record: OperationRecord): Promise<void>;
  find(id: string): Promise<OperationRecord | undefined>;
  findByRequestId(requestId: string): Promise<OperationRecord | undefined>;
  /** Newest first, from before a position; with the positions. */
  list(before: number | undefined, limit: number): Promise<{ position: number; record: OperationRecord }[]>;
  /** Those that are not done, oldest first. */
  unfinished(): Promise<OperationRecord[]>;
  remove(id: string): Promise<void>;
  close(): Promise<void>;
}

interface Row {
  number: number;
  id: string;
  request_id: string | null;
  state: string;
  request: Uint8Array;
  metadata: Uint8Array;
  error: Uint8Array | null;
  response: Uint8Array | null;
}

interface Tables {
  operations: Omit<Row, "number"> & { number: number | undefined };
}

const migrations: Migrations = {
  "0001-operations": {
    up: async (db) => {
      await db.schema
        .createTable("operations")
        .addColumn("number", "integer", (column) => column.primaryKey().autoIncrement())
        .addColumn("id", "text", (column) => column.notNull().unique())
        .addColumn("request_id", "text", (column) => column.unique())
        .addColumn("state", "text", (column) => column.notNull())
        .addColumn("request", "blob", (column) => column.notNull())
        .addColumn("metadata", "blob", (column) => column.notNull())
        .addColumn("error", "blob")
        .addColumn("response", "blob")
        .execute();
    },
  },
};

function recordOf(row: Row): OperationRecord {
  return {
    id: row.id,
    state: row.state as OperationState,
    request: fromBinary(QuantizeModelRequestSchema, row.request),
    metadata: fromBinary(QuantizeModelMetadataSchema, row.metadata),
    error: row.error && fromBinary(StatusSchema, row.error),
    response: row.response && fromBinary(QuantizeModelResponseSchema, row.response),
  };
}

function changing({ state, metadata, error, response }: OperationRecord) {
  return {
    state,
    metadata: toBinary(QuantizeModelMetadataSchema, metadata),
    error: error && toBinary(StatusSchema, error),
    response: response && toBinary(QuantizeModelResponseSchema, response),
  };
}

export async function openOperationStore(dialect: Dialect): Promise<OperationStore> {
  return sqlStore(await openDatabase<Tables>(dialect, migrations));
}

function sqlStore(db: Kysely<Tables>): OperationStore {
  const all = () => db.selectFrom("operations").selectAll().$castTo<Row>();
  const one = async (column: "id" | "request_id", value: string) => {
    const row = await all().where(column, "=", value).executeTakeFirst();
    return row && recordOf(row);
  };
  return {
    insert: async (record) => {
      const request = toBinary(QuantizeModelRequestSchema, record.request);
      const fixed = { number: undefined, id: record.id, request_id: record.request.requestId || null, request };
      await db
        .insertInto("operations")
        .values({ ...fixed, ...changing(record) })
        .execute();
    },
    update: async (record) => {
      await db.updateTable("operations").set(changing(record)).where("id", "=", record.id).execute();
    },
    find: (id) => one("id", id),
    findByRequestId: (requestId) => one("request_id", requestId),
    list: async (before, limit) => {
      const rows = all().orderBy("number", "desc").limit(limit);
      const page = await (before === undefined ? rows : rows.where("number", "<", before)).execute();
      return page.map((row) => ({ position: row.number, record: recordOf(row) }));
    },
    unfinished: async () => (await all().where("state", "!=", "done").orderBy("number").execute()).map(recordOf),
    remove: async (id) => {
      await db.deleteFrom("operations").where("id", "=", id).execute();
    },
    close: () => db.destroy(),
  };
}

/** A fresh record of a request. */
export function newRecord(id: string, request: QuantizeModelRequest, metadata: QuantizeModelMetadata): OperationRecord {
  return {
    id,
    state: "queued",
    request: create(QuantizeModelRequestSchema, request),
    metadata,
    error: null,
    response: null,
  };
}
