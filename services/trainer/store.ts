// Jobs and their events, so that a restart forgets none. Events are only ever appended. Messages are kept in protobuf's
// own encoding.
import { fromBinary, toBinary } from "@bufbuild/protobuf";
import type { Dialect, Kysely } from "kysely";
import { type Event, EventSchema, State } from "#gen/nibble/trainer/v1/events_pb.ts";
import {
  type CreateTrainingJobRequest,
  CreateTrainingJobRequestSchema,
  type TrainingJob,
  TrainingJobSchema,
} from "#gen/nibble/trainer/v1/trainer_pb.ts";
import { type Migrations, openDatabase } from "#packages/sql";

export interface JobRecord {
  id: string;
  request: CreateTrainingJobRequest;
  job: TrainingJob;
}

export interface JobStore {
  insert(record: JobRecord, events: readonly Event[]): Promise<void>;
  /** The job as it is now and the events that made it so, together. */
  append(record: JobRecord, events: readonly Event[]): Promise<void>;
  find(id: string): Promise<JobRecord | undefined>;
  findByRequestId(requestId: string): Promise<JobRecord | undefined>;
  /** Newest first, from before a position, in one of the states (none: all); with the positions. */
  list(page: JobPage): Promise<{ position: number; record: JobRecord }[]>;
  /** Queued and running jobs, oldest first. */
  unfinished(): Promise<JobRecord[]>;
  /** In order, those with a higher sequence. */
  events(id: string, afterSequence: bigint, limit: number): Promise<Event[]>;
  remove(id: string): Promise<void>;
  close(): Promise<void>;
}

export interface JobPage {
  before: number | undefined;
  states: readonly State[];
  limit: number;
}

interface Row {
  number: number;
  id: string;
  request_id: string | null;
  state: number;
  request: Uint8Array;
  job: Uint8Array;
}

interface Tables {
  jobs: Omit<Row, "number"> & { number: number | undefined };
  events: { job_id: string; sequence: number; event: Uint8Array };
}

const migrations: Migrations = {
  "0001-jobs": {
    up: async (db) => {
      await db.schema
        .createTable("jobs")
        .addColumn("number", "integer", (column) => column.primaryKey().autoIncrement())
        .addColumn("id", "text", (column) => column.notNull().unique())
        .addColumn("request_id", "text", (column) => column.unique())
        .addColumn("state", "integer", (column) => column.notNull())
        .addColumn("request", "blob", (column) => column.notNull())
        .addColumn("job", "blob", (column) => column.notNull())
        .execute();
      await db.schema
        .createTable("events")
        .addColumn("job_id", "text", (column) => column.notNull().references("jobs.id").onDelete("cascade"))
        .addColumn("sequence", "bigint", (column) => column.notNull())
        .addColumn("event", "blob", (column) => column.notNull())
        .addPrimaryKeyConstraint("events_key", ["job_id", "sequence"])
        .execute();
    },
  },
};

function recordOf({ id, request, job }: Row): JobRecord {
  return {
    id,
    request: fromBinary(CreateTrainingJobRequestSchema, request),
    job: fromBinary(TrainingJobSchema, job),
  };
}

const changing = ({ job }: JobRecord) => ({ state: job.state, job: toBinary(TrainingJobSchema, job) });

async function insertEvents(db: Kysely<Tables>, id: string, events: readonly Event[]): Promise<void> {
  for (const event of events) {
    const row = { job_id: id, sequence: Number(event.sequence), event: toBinary(EventSchema, event) };
    await db.insertInto("events").values(row).execute();
  }
}

export async function openJobStore(dialect: Dialect): Promise<JobStore> {
  return sqlStore(await openDatabase<Tables>(dialect, migrations));
}

function sqlStore(db: Kysely<Tables>): JobStore {
  const all = () => db.selectFrom("jobs").selectAll().$castTo<Row>();
  const one = async (column: "id" | "request_id", value: string) => {
    const row = await all().where(column, "=", value).executeTakeFirst();
    return row && recordOf(row);
  };
  return {
    insert: (record, events) => {
      const request = toBinary(CreateTrainingJobRequestSchema, record.request);
      const fixed = { number: undefined, id: record.id, request_id: record.request.requestId || null, request };
      return db.transaction().execute(async (transaction) => {
        await transaction
          .insertInto("jobs")
          .values({ ...fixed, ...changing(record) })
          .execute();
        await insertEvents(transaction, record.id, events);
      });
    },
    append: (record, events) =>
      db.transaction().execute(async (transaction) => {
        await transaction.updateTable("jobs").set(changing(record)).where("id", "=", record.id).execute();
        await insertEvents(transaction, record.id, events);
      }),
    find: (id) => one("id", id),
    findByRequestId: (requestId) => one("request_id", requestId),
    list: async ({ before, states, limit }) => {
      let rows = all().orderBy("number", "desc").limit(limit);
      if (before !== undefined) rows = rows.where("number", "<", before);
      if (states.length > 0) rows = rows.where("state", "in", [...states]);
      return (await rows.execute()).map((row) => ({ position: row.number, record: recordOf(row) }));
    },
    unfinished: async () => {
      const open = all().where("state", "in", [State.QUEUED, State.RUNNING]).orderBy("number");
      return (await open.execute()).map(recordOf);
    },
    events: async (id, afterSequence, limit) => {
      const rows = db.selectFrom("events").select("event").where("job_id", "=", id);
      const page = rows.where("sequence", ">", Number(afterSequence)).orderBy("sequence").limit(limit);
      return (await page.execute()).map(({ event }) => fromBinary(EventSchema, event));
    },
    remove: async (id) => {
      await db.deleteFrom("jobs").where("id", "=", id).execute();
    },
    close: () => db.destroy(),
  };
}
