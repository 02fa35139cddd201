// Puts the registry together from its settings: lock, database, blobs, what a killed process left, handlers.
import { mkdirSync } from "node:fs";
import { join, resolve } from "node:path";
import type { Logger } from "pino";
import type { ServiceSetup } from "#packages/rpc";
import { sqliteDialect } from "#packages/sql";
import { Aliases } from "./aliases.ts";
import { BlobFolder, type Write } from "./blobs.ts";
import type { Config } from "./config.ts";
import { Downloads } from "./downloads.ts";
import { registryService } from "./service.ts";
import { openSqlStore } from "./sql-store.ts";
import { Versions } from "./versions.ts";

export interface Surroundings {
  /** Milliseconds since 1970. */
  now: () => number;
  logger: Logger;
  /** For tests that play a full disk. */
  write?: Write;
}

export async function openRegistry(config: Config, { now, logger, write }: Surroundings): Promise<ServiceSetup> {
  const dir = resolve(config.dir);
  mkdirSync(dir, { recursive: true });
  // The database's lock stands for the whole folder: what follows may take uploads that it finds for abandoned.
  const store = await openSqlStore(sqliteDialect({ path: join(dir, "registry.db"), exclusive: true }));
  try {
    const blobs = new BlobFolder(dir, write);
    const { damaged, ...collected } = await blobs.collect(await store.blobsInUse());
    if (collected.uploads + collected.bytes > 0) logger.info(collected, "cleared what unfinished uploads left");
    for (const sha256 of damaged) logger.error({ sha256 }, "a blob is missing or has the wrong size");
    const versions = new Versions(now, blobs, store, config);
    const domain = { versions, aliases: new Aliases(now, store), downloads: new Downloads(blobs, versions) };
    return {
      host: config.host,
      port: config.port,
      drainMs: config.drainMs,
      services: [registryService(domain)],
      close: async () => {
        await versions.settle();
        await store.close();
      },
    };
  } catch (thrown) {
    await store.close();
    throw thrown;
  }
}
