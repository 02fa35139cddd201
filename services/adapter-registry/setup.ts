// Puts the registry together from its settings: lock, database, blobs, what a killed process left, handlers.
import { mkdirSync, rmSync } from "node:fs";
import { join, resolve } from "node:path";
import type { Logger } from "pino";
import { hubUrlFileName, replaceFile } from "#packages/hub";
import { Turns } from "#packages/jobs";
import type { ServiceSetup } from "#packages/rpc";
import { openDatabase, sqliteDialect } from "#packages/sql";
import { Aliases } from "./aliases.ts";
import { BlobFolder, type Write } from "./blobs.ts";
import type { Config } from "./config.ts";
import { Downloads } from "./downloads.ts";
import { openHub } from "./hub/setup.ts";
import { SqlHubStore } from "./hub/sql-store.ts";
import { migrations, type Tables } from "./schema.ts";
import { registryService } from "./service.ts";
import { SqlStore } from "./sql-store.ts";
import { Versions } from "./versions.ts";

export interface Surroundings {
  /** Milliseconds since 1970. */
  now: () => number;
  logger: Logger;
  /** For tests that play a full disk. */
  write?: Write;
}

/** A large file that no commit names is kept this long, so that a push that broke off goes on where it was. */
const objectMsMax = 24 * 3600_000;

export interface RegistrySetup extends ServiceSetup {
  /** "http://host:port" of the Hub's API; it listens already. */
  hubUrl: string;
}

export async function openRegistry(config: Config, { now, logger, write }: Surroundings): Promise<RegistrySetup> {
  const dir = resolve(config.dir);
  mkdirSync(dir, { recursive: true });
  // The database's lock stands for the whole folder: what follows may take uploads that it finds for abandoned.
  const dialect = sqliteDialect({ path: join(dir, "registry.db"), exclusive: true });
  const db = await openDatabase<Tables>(dialect, migrations);
  try {
    const store = new SqlStore(db);
    const hubStore = new SqlHubStore(db);
    await hubStore.dropObjects(now() - objectMsMax);
    const blobs = new BlobFolder(dir, write);
    const { damaged, ...collected } = await blobs.collect(await store.blobsInUse());
    if (collected.uploads + collected.bytes > 0) logger.info(collected, "cleared what unfinished uploads left");
    for (const sha256 of damaged) logger.error({ sha256 }, "a blob is missing or has the wrong size");
    const turns = new Turns();
    const versions = new Versions(now, blobs, store, turns, config);
    const domain = { versions, aliases: new Aliases(now, store), downloads: new Downloads(blobs, versions) };
    const hub = await openHub(config, { now, logger, blobs, store: hubStore, turns, versions });
    const note = join(dir, hubUrlFileName);
    replaceFile(note, hub.url);
    logger.info({ hub: hub.url }, "the Hub's API listens");
    return {
      host: config.host,
      port: config.port,
      drainMs: config.drainMs,
      services: [registryService(domain)],
      hubUrl: hub.url,
      onDrain: async () => void (await hub.close(config.drainMs)),
      close: async () => {
        rmSync(note, { force: true });
        await hub.close(0);
        await versions.settle();
        await db.destroy();
      },
    };
  } catch (thrown) {
    await db.destroy();
    throw thrown;
  }
}
