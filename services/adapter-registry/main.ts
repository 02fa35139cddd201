// Runs the adapter registry until it is told to stop.
import { runService } from "#packages/rpc";
import { readConfig } from "./config.ts";
import { openRegistry } from "./setup.ts";

await runService("adapter-registry", (logger) => openRegistry(readConfig(), { now: Date.now, logger }));
